"""Questions and answers worded by a language model (optional; the paper lets Gemini write them).

The numbers never come from the model: it is given each row's facts and gives words back, and a wording counts only if the
answer, read by ops.hand3d.parsing, says the row's own direction, distance, contact and rotation; else the row keeps its
templates' words, and is counted. Rows of one clip share a call. Answers are kept on disk under a hash of model, facts and
instructions, so that nothing is asked twice, and changed templates ask nothing again.
"""

import hashlib
import json
import math
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import polars as pl

from ops.hand3d.directions import phrase
from ops.hand3d.parsing import parse
from ops.store import write_file

ROWS_A_CALL = 40  # ASSUMED: about 2,000 words back, within what models write without losing rows
INSTRUCTIONS = """Each line is a fact about one or more video frames, seen from the camera. Word a natural question and a \
natural answer for every fact. Vary the wording. The answer must say exactly the given direction words, then the given \
distance in metres with two decimals and the unit ("right and down, 0.23 m"); "Touching: yes." or "Touching: no." first \
where contact is given; degrees and turn where rotation is given. A question must not say the answer. Reply with nothing \
but a JSON list with, for every line in order, an object {"question": ..., "answer": ...}."""


class Model(Protocol):
    """A language model. name: goes into every row it worded."""

    name: str

    def ask(self, prompt: str) -> str:
        """Raises OSError where it cannot be reached."""
        ...


@dataclass(frozen=True)
class OpenAICompatible:
    """A server that speaks OpenAI's chat protocol (vLLM, llama.cpp, Gemini's compatible endpoint, ...).

    url: up to and with /v1. key_variable: environment variable with the key, "" for none.
    """

    url: str
    name: str
    key_variable: str = ""
    timeout_s: float = 120.0

    def ask(self, prompt: str) -> str:
        body = {"model": self.name, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "seed": 0}
        headers = {"Content-Type": "application/json"}
        if self.key_variable:
            if self.key_variable not in os.environ:
                raise OSError(f"environment variable {self.key_variable} is not set: it holds the key for {self.url}")
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https"):
            raise ValueError(f"wording_url is {self.url!r}: give the http or https address of a server")
        if self.key_variable and address.scheme == "http" and address.hostname not in ("127.0.0.1", "localhost"):
            raise ValueError(f"wording_url {self.url} would send the key in {self.key_variable} unencrypted: use https")
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout_s) as reply:
            return json.load(reply)["choices"][0]["message"]["content"]


@dataclass(frozen=True)
class Worded:
    """rows: with the accepted wordings. calls: made now. cached: answers found on disk. kept: rows left with templates."""

    rows: pl.DataFrame
    calls: int
    cached: int
    kept: int


def word(rows: pl.DataFrame, model: Model, cache: Path) -> Worded:
    """Reword visual rows. cache: folder for answers, shared by all shards."""
    calls = cached = 0
    found: list[dict[str, str]] = []
    for part in _calls(rows):
        facts = [fact(row) for row in part]
        prompt = INSTRUCTIONS + "\n" + "\n".join(json.dumps(line, ensure_ascii=False) for line in facts)
        key = hashlib.sha256("\0".join([model.name, prompt]).encode()).hexdigest()
        kept = cache / f"{key}.json"
        if kept.is_file():
            reply, cached = json.loads(kept.read_text(encoding="utf-8"))["reply"], cached + 1
        else:
            reply, calls = model.ask(prompt), calls + 1
        pairs = read_reply(reply, len(part))
        if any(pairs):  # a reply that is no answer is asked for again next time
            write_file(kept, json.dumps({"model": model.name, "reply": reply}).encode())
        found += [
            {"row_id": row["row_id"], **pair}
            for row, pair in zip(part, pairs, strict=True)
            if pair and says(row, pair["answer"])
        ]
    said = pl.DataFrame(found, schema={"row_id": pl.String, "question": pl.String, "answer": pl.String})
    joined = rows.join(said, on="row_id", how="left", suffix="_said", maintain_order="left")
    accepted = pl.col("answer_said").is_not_null()
    joined = joined.with_columns(
        question=pl.coalesce("question_said", "question"), answer=pl.coalesce("answer_said", "answer"),
        wording=pl.when(accepted).then(pl.lit(model.name)).otherwise("wording"),
    )  # fmt: skip
    return Worded(joined.select(rows.columns), calls, cached, len(rows) - len(said))


def _calls(rows: pl.DataFrame) -> Iterator[list[dict]]:
    """Rows of one clip, at most ROWS_A_CALL, in order of row id."""
    for clip in rows.sort("row_id").partition_by("clip_id", maintain_order=True):
        for part in clip.iter_slices(ROWS_A_CALL):
            yield part.to_dicts()


def fact(row: dict) -> dict[str, object]:
    """What the model is told: numbers and names, none of the templates' words."""
    told = {
        "about": row["task"].replace("_", " "), "frames": len(row["frames"]), "hand": row["side"] and f"{row['side']} hand",
        "object": row["object"], "task": row["instruction"], "direction": phrase(tuple(row["direction"])),
        "distance": f"{row['distance_m']:.2f} m", "contact": {True: "yes", False: "no", None: None}[row["contact"]],
        "rotation": None if row["rotation"] is None else f"{math.degrees(math.hypot(*row['rotation'])):.0f} degrees",
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}


def read_reply(reply: str, num: int) -> list[dict[str, str] | None]:
    """One pair of words a fact, None where the reply has none. A reply that is no list of that length gives none at all."""
    begin, end = reply.find("["), reply.rfind("]")
    try:
        listed = json.loads(reply[begin : end + 1])
    except json.JSONDecodeError:
        return [None] * num
    if not isinstance(listed, list) or len(listed) != num:
        return [None] * num
    return [_pair(item) for item in listed]


def _pair(item: object) -> dict[str, str] | None:
    if not isinstance(item, dict):
        return None
    pair = {name: item.get(name) for name in ("question", "answer")}
    return pair if all(isinstance(text, str) and text.strip() for text in pair.values()) else None


def says(row: dict, answer: str) -> bool:
    """Whether an answer, read as the scorer reads it, says what the row says."""
    read = parse(answer, (row["object"],) if row["object"] else ())
    right = read.distance_m is not None and abs(read.distance_m - row["distance_m"]) <= 0.005 + 1e-6
    right = right and read.direction == tuple(row["direction"]) and read.contact == row["contact"]
    if row["rotation"] is None:
        return right
    degrees = math.degrees(math.hypot(*row["rotation"]))
    return right and read.rotation_deg is not None and abs(read.rotation_deg - degrees) <= 0.51
