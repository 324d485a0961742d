"""What comes from outside is data: no file of a data set, no name and no text of it is run, opened elsewhere or shown as code."""

import ast
import io
import json
import pickle
import re
import tarfile
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from ops import bootstrap, config, report, safe_pickle
from ops.hand3d.paraphrase import OpenAICompatible
from ops.hand3d.release.tars import TarShards
from ops.lerobot.reader import video_file
from ops.rejects import ClipError
from ops.sources.safe_load import load_npy_object, load_pickle, load_yaml
from ops.sources.xlsx import read_sheets
from ops.video import probe, write_video
from tests.assets import fakes
from tests.runners.world import REPOSITORY

SOURCES = [
    path
    for folder in ("ops", "assets", "dagster_project", "infra", "bench")
    for path in (REPOSITORY / folder).rglob("*.py")
]
OWN_WORKERS = ("ops/workers.py", "ops/workers_processes.py")
"""They read what processes that they have started themselves send back, over pipes and in the run's own scratch folder."""
ATTACK = "<script>alert(1)</script>"


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


class Tags(HTMLParser):
    """Names of all tags and attributes of a page, as a browser sees them."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def calls(path):
    """(dotted name, call) of every call in a source file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def given(call, name):
    return next((ast.unparse(word.value) for word in call.keywords if word.arg == name), None)


def test_nothing_in_the_library_runs_what_it_reads():
    """Every loader that can run code is called in its safe form, or not at all."""
    wrong, seen = [], set()
    for path in SOURCES:
        for name, call in calls(path):
            seen.add(name)
            bad = {
                "eval": True,
                "exec": True,
                "os.system": True,
                "os.popen": True,
                "pickle.load": not str(path).endswith(OWN_WORKERS),
                "pickle.loads": not str(path).endswith(OWN_WORKERS),
                "torch.load": given(call, "weights_only") != "True",
                "np.load": given(call, "allow_pickle") not in (None, "False"),
                "yaml.load": not re.search(r"LOADER|PARSER|_loader\(\)|parser\(\)|SafeLoader", ast.unparse(call)),
                "yaml.unsafe_load": True,
                "yaml.full_load": True,
                "joblib.load": True,
            }.get(name, False)
            extracts = name.endswith((".extractall", ".extract")) and "list" not in name and ".str." not in name
            extracts = extracts and not re.search(r"str|regex|pattern|pl\.col", ast.unparse(call.func))
            if bad or given(call, "shell") == "True" or extracts:
                wrong.append(f"{path.relative_to(REPOSITORY)}:{call.lineno}: {name}")
    assert wrong == []
    assert {"torch.load", "np.load", "yaml.safe_load"} <= seen, "the search finds nothing any more"


@pytest.mark.parametrize("load", [load_pickle, load_npy_object, lambda path: safe_pickle.load(path)])
def test_pickles_are_not_run(tmp_path, load):
    target, file = tmp_path / "ran", tmp_path / "labels.pkl"
    if load is load_npy_object:
        np.save(tmp_path / "labels.npy", np.array({"a": Bomb(target)}, dtype=object), allow_pickle=True)
        file = tmp_path / "labels.npy"
    else:
        file.write_bytes(pickle.dumps({"hands": [Bomb(target)]}))
    with pytest.raises((ClipError, ValueError), match="refused"):
        load(file)
    assert not target.exists()


def test_yaml_makes_no_objects(tmp_path):
    (tmp_path / "a.yml").write_text(f"!!python/object/apply:pathlib.Path.touch [{tmp_path / 'ran'}]")
    with pytest.raises(ClipError, match="could not determine a constructor"):
        load_yaml(tmp_path / "a.yml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/out.jpg", "a/../../out.jpg"])
def test_no_archive_of_ours_writes_outside(tmp_path, name):
    with TarShards(tmp_path / "part", 10) as tars, pytest.raises(ValueError, match="would lie outside the folder"):
        tars.add({name: b"x"})


def test_only_plain_members_of_a_limited_size_are_read(tmp_path, monkeypatch):
    """Links, folders and bombs in an archive; members are read by name, nothing is unpacked."""
    monkeypatch.setattr(bootstrap, "MAX_MEMBER_BYTES", 1000)
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("folder", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("bomb")
        info.size = 10_000_000
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(10_000_000))
    for archive, member in (
        ("a.tgz", "link"),
        ("a.tgz", "hard"),
        ("a.tgz", "folder"),
        ("a.tgz", "bomb"),
        ("a.whl", "bomb"),
    ):
        with pytest.raises(bootstrap.BootstrapError, match="is no plain file of at most"):
            bootstrap.read_member(tmp_path / archive, member)


def test_a_workbook_declares_no_entities(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as book:
        book.writestr("xl/_rels/workbook.xml.rels", '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>')
    with pytest.raises(ClipError, match="declares entities"):
        read_sheets(tmp_path / "a.xlsx")


def test_a_play_list_is_no_video(tmp_path):
    """FFmpeg knows a play list by its first line, whatever the file's name: this one showed another file's frames."""
    write_video(tmp_path / "other.mp4", (np.zeros((48, 64, 3), np.uint8) for _ in range(3)), 10.0)
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with av.open(str(tmp_path / "clip.mp4")) as opened:
        assert opened.format.name == "concat", "what an unguarded reader does"
    with pytest.raises(ClipError, match=r"clip\.mp4 is not a readable video"):
        probe(tmp_path / "clip.mp4")
    assert probe(tmp_path / "other.mp4").num_frames == 3


def test_every_reader_of_videos_is_guarded():
    reads = [call for path in SOURCES if path.parts[-2] != "bench" for name, call in calls(path) if name == "av.open"]
    reads = [call for call in reads if not (len(call.args) > 1 and ast.unparse(call.args[1]) == "'w'")]
    assert len(reads) >= 3
    assert {given(call, "options") for call in reads} == {"LOCAL_ONLY"}


@pytest.mark.parametrize("template", ["../../{video_key}.mp4", "/etc/passwd", "videos/../../x{chunk_index}"])
def test_a_data_set_names_no_file_outside_it(tmp_path, template):
    with pytest.raises(ValueError, match="names a video outside the data set"):
        video_file(tmp_path / "set", {"video_path": template}, "ego", 0, 0)
    inside = video_file(tmp_path / "set", {"video_path": "videos/{video_key}/{file_index:03d}.mp4"}, "ego", 0, 7)
    assert inside == tmp_path / "set" / "videos" / "ego" / "007.mp4"


@pytest.mark.parametrize(
    "name", ["a; touch ran", "$(touch ran)", "../outside", "/tmp/x", "a/b", ".hidden", "-rf", "a b", ""]
)
def test_a_shard_is_named_like_a_folder(tmp_path, name):
    """Its name goes into paths, and through dvc.yaml into a shell."""
    fakes.workspace(tmp_path)
    text = (tmp_path / "params.yaml").read_text("utf-8").replace("  one:", f"  {json.dumps(name)}:")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is no name of a shard"):
        config.load(tmp_path / "params.yaml")


def test_a_model_is_asked_over_http_only_and_keys_go_encrypted(monkeypatch):
    monkeypatch.setenv("WORDING_KEY", "secret")
    with pytest.raises(ValueError, match="give the http or https address"):
        OpenAICompatible("file:///etc", "m").ask("hi")
    with pytest.raises(ValueError, match="would send the key in WORDING_KEY unencrypted") as refused:
        OpenAICompatible("http://example.org/v1", "m", "WORDING_KEY").ask("hi")
    assert "secret" not in str(refused.value)


def test_texts_of_data_are_no_code_in_the_report(tmp_path, monkeypatch):
    """Names of files, notes, table cells, captions, reasons: whatever a data set can put into a report."""
    fakes.workspace(tmp_path)
    fakes.install(monkeypatch, tmp_path)
    from ops.store import Report

    quoted = ATTACK + "' onerror='alert(1)"
    made = Report(
        rows={quoted: 1},
        metrics={quoted: 1.0},
        rejects={quoted: 1},
        pictures={quoted: "p.png", "gone" + quoted: quoted + ".png"},
        tables={quoted: [{quoted: quoted}] * 12},
        notes=[quoted],
    )
    folder = tmp_path / "data" / "raw_videos" / "one"
    folder.mkdir(parents=True)
    fakes.picture(folder / "p.png")
    made.save(folder)
    page = report.write(tmp_path).read_text(encoding="utf-8")
    assert page.count("alert(1)") > 10
    found = Tags()
    found.feed(page)
    assert {"img", "figure", "td"} <= found.tags
    assert "script" not in found.tags
    assert not [name for name in found.attributes if name.startswith("on")]
