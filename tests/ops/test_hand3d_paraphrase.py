"""Rows worded by a model: numbers stay, one call a clip, nothing asked twice, wrong wordings refused."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import polars as pl
import pytest

from ops import tables
from ops.hand3d import language, paraphrase
from tests.ops import hand3d_world as made
from tests.ops.test_hand3d_visual import build

NUMBERS = [c for c in tables.SCHEMAS["visual_rows"].columns if c not in ("question", "answer", "wording")]


class Talker:
    """Words every fact as it should be, but for those `spoil` changes."""

    name = "talker-1"

    def __init__(self, spoil=lambda place, answer: answer):
        self.prompts, self.spoil = [], spoil

    def ask(self, prompt):
        self.prompts.append(prompt)
        facts = [json.loads(line) for line in prompt.splitlines() if line.startswith('{"about"')]
        return "Here you are:\n" + json.dumps([self.pair(i, fact) for i, fact in enumerate(facts)])

    def pair(self, place, fact):
        touch = f"Touching: {fact['contact']}. " if "contact" in fact else ""
        turn = f"It rotates by {fact['rotation']}; " if "rotation" in fact else ""
        answer = f"{touch}{turn}I would say {fact['direction']}, {fact['distance']}."
        return {"question": f"So, {fact['about']}: where to?", "answer": self.spoil(place, answer)}


@pytest.fixture(scope="module")
def rows():
    return build([made.make_world("a", 1), made.make_world("b", 2)])[0]


def test_words_change_and_numbers_stay(rows, tmp_path):
    model = Talker()
    found = paraphrase.word(rows, model, tmp_path)
    assert found.rows.select(NUMBERS).equals(rows.select(NUMBERS))
    assert set(found.rows["wording"]) == {"talker-1"}
    assert found.kept == 0
    tables.validate("visual_rows", found.rows)
    a_clip = -(-rows.filter(clip_id="made/a").height // paraphrase.ROWS_A_CALL)
    b_clip = -(-rows.filter(clip_id="made/b").height // paraphrase.ROWS_A_CALL)
    assert found.calls == len(model.prompts) == a_clip + b_clip


def test_nothing_is_asked_twice_not_even_after_a_change_of_templates(rows, tmp_path, monkeypatch):
    first = paraphrase.word(rows, Talker(), tmp_path)
    monkeypatch.setitem(language.QUESTIONS, "hand_movement", ("Quite another question about the {hand}?",))
    other, _ = build([made.make_world("a", 1), made.make_world("b", 2)])
    assert not other["question"].equals(rows["question"])
    again = paraphrase.word(other, Talker(), tmp_path)
    assert (again.calls, again.cached) == (0, first.calls)
    assert again.rows.equals(first.rows)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda place, answer: answer.replace(" m.", "7 m."),
        lambda place, answer: answer.replace("right", "left").replace("up", "down"),
        lambda place, answer: "I cannot tell.",
        lambda place, answer: 5,
    ],
)
def test_wordings_with_other_numbers_are_refused_and_counted(rows, tmp_path, spoil):
    found = paraphrase.word(
        rows, Talker(lambda place, answer: spoil(place, answer) if place % 3 == 0 else answer), tmp_path
    )
    assert found.kept > 0
    templates = found.rows.filter(wording="grammar")
    assert len(templates) == found.kept
    assert templates.equals(rows.join(templates.select("row_id"), on="row_id", how="semi"))
    for row in found.rows.iter_rows(named=True):
        assert paraphrase.says(row, row["answer"])


@pytest.mark.parametrize("reply", ["", "no list", "[]", "[1, 2]", "{", '[{"question": "?"}]'])
def test_unreadable_replies_leave_the_templates(rows, tmp_path, reply):
    class Mute(Talker):
        def ask(self, prompt):
            return reply

    found = paraphrase.word(rows.head(2), Mute(), tmp_path)
    assert found.rows.equals(rows.head(2))
    assert found.kept == 2


def test_a_server_is_asked_as_openais_are(tmp_path):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(
                (
                    self.path,
                    self.headers["Authorization"],
                    json.loads(self.rfile.read(int(self.headers["Content-Length"]))),
                )
            )
            body = json.dumps({"choices": [{"message": {"content": "hello"}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        model = paraphrase.OpenAICompatible(f"http://127.0.0.1:{server.server_port}/v1/", "tiny")
        assert model.ask("hi") == "hello"
    finally:
        server.shutdown()
    path, key, body = asked[0]
    assert (path, key, body["model"], body["messages"][0]["content"]) == ("/v1/chat/completions", None, "tiny", "hi")
    with pytest.raises(OSError, match="NO_SUCH_KEY is not set"):
        paraphrase.OpenAICompatible("http://127.0.0.1:1/v1", "tiny", "NO_SUCH_KEY").ask("hi")


def test_no_rows_ask_nothing(rows, tmp_path):
    assert paraphrase.word(rows.clear(), Talker(), tmp_path).calls == 0
    assert isinstance(rows, pl.DataFrame)
