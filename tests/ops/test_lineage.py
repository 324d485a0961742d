"""Links between artefacts count by content: on locks and a cache written by hand."""

import hashlib
import json
from pathlib import Path

import pytest

from ops import artefacts, config, data_version, dvc_cache, lineage, lineage_record
from ops.__main__ import main
from tests.assets import fakes


@pytest.fixture
def root(tmp_path, monkeypatch):
    return fakes.ready(tmp_path, monkeypatch, ("a", "ab"))


class Cache:
    """As much of DVC's cache as listings need: path -> hash of each folder version, kept as DVC keeps it."""

    def __init__(self, root):
        self.folder = root / ".dvc" / "cache" / "files" / "md5"

    def folder_of(self, **files):
        text = json.dumps([{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())])
        version = hashlib.md5(text.encode()).hexdigest() + ".dir"
        fakes.write(self.folder / version[:2] / version[2:], text)
        return version


def entry(out, md5, **deps):
    read = [{"path": path.replace("__", "/"), "md5": version} for path, version in deps.items()]
    return {"outs": [{"path": out, "md5": md5}], "deps": read}


def lock_of(cache, second="2"):
    """raw_videos of two shards, fits of each, and a policy made from both; `second`: the file of shard ab that is
    recorded now, where the policy read "2"."""
    raw = {"a": cache.folder_of(x="1" * 32), "ab": cache.folder_of(x=second * 32)}
    fits = {"a": cache.folder_of(y="3" * 32), "ab": cache.folder_of(y="4" * 32)}
    both = cache.folder_of(**{"a/x": "1" * 32, "ab/x": "2" * 32})
    return {
        **{f"raw_videos@{key}": entry(f"data/raw_videos/{key}", raw[key], **{f"videos__{key}": "v"}) for key in raw},
        **{
            f"fits@{key}": entry(f"data/fits/{key}", fits[key], **{f"data__raw_videos__{key}": raw[key]})
            for key in fits
        },
        "policy": entry("data/policy", "p.dir", data__raw_videos=both, data__fits="no such listing.dir"),
    }


def test_a_folder_is_the_sum_of_its_shards(root):
    cache = Cache(root)
    found = lineage.links(root, lock_of(cache), ["a", "ab"])
    known = {(link.reader, link.maker): link.exact for link in found}
    assert known == {
        ("fits@a", "raw_videos@a"): True,
        ("fits@ab", "raw_videos@ab"): True,
        ("policy", "raw_videos@a"): True,
        ("policy", "raw_videos@ab"): True,
        ("policy", "fits@a"): False,  # their listing is not what the policy read
        ("policy", "fits@ab"): False,
    }


def test_what_was_made_again_since_is_not_what_it_was_made_from(root):
    lock = lock_of(Cache(root), second="9")
    found = lineage.links(root, lock, ["a", "ab"])
    assert lineage.behind(lock, found, ["policy"]) == ["policy"]
    assert "policy was made from an earlier state of raw_videos@ab" in lineage.broken(found, ["policy"])
    assert lineage.behind(lock, found, ["fits@ab"]) == ["fits@ab", "raw_videos@ab"]


def test_entries_of_a_shard_that_was_taken_out_do_not_count(root):
    lock = lock_of(Cache(root))
    lock["raw_videos@gone"] = entry("data/raw_videos/gone", lock["raw_videos@a"]["outs"][0]["md5"])
    found = lineage.links(root, lock, ["a", "ab"])
    assert not [link for link in found if link.maker == "raw_videos@gone"]
    assert ("policy", "raw_videos@ab", True) in {(link.reader, link.maker, link.exact) for link in found}


def test_joined_listing_is_the_hash_that_dvc_gives_the_whole_folder(root):
    """A second route: DVC's own hash of the folder on disk."""
    from dvc_data.hashfile.build import build

    settings = config.load(root / "params.yaml")
    parts = {shard: artefacts.make(root, settings, "raw_videos", shard).version for shard in settings.shards}
    with data_version._repo(root) as repo:
        folder = str((root / "data" / "raw_videos").resolve())
        _, _, built = build(repo.cache.local, folder, repo.cache.local.fs, "md5", dry_run=True)
        assert dvc_cache.joined(repo.cache.local, parts) == built.hash_info.value
        assert dvc_cache.joined(repo.cache.local, parts | {"x": "0" * 32 + ".dir"}) is None
        kept = dvc_cache.file(repo.cache.local, parts["a"], "clips.parquet")
    assert Path(kept).read_bytes() == (root / "data" / "raw_videos" / "a" / "clips.parquet").read_bytes()


def test_lineage_names_licences_labels_code_and_parameters(root, capsys):
    assert main(["run", "raw_videos", "--shard", "a", "--root", str(root)]) == 0
    assert main(["run", "mano_fits", "--shard", "a", "--root", str(root)]) == 0
    capsys.readouterr()
    assert main(["lineage", "mano_fits", "--shard", "a", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "mano_fits@a" in said
    assert "videos/a " in said, "the folder of videos and labels, with its hash"
    assert '"min_detection_confidence": 0.3' in said
    assert "(1 files)" in said, "code"
    assert fakes.sha("a/train")[:10] in said
    assert "licences" in said


def test_page_tables_are_bounded_and_say_so(root):
    record = lineage_record.collect(root, "champion")
    assert record.lock == {}
    many = {name: ["x"] * 60 for name in lineage_record.COLUMNS} | {"clip_id": [f"a/{i:02}" for i in range(60)]}
    for flag in ("has_labels", "noncommercial", "redistributable"):
        many[flag] = [flag == "noncommercial"] * 60
    clips = type(record.clips)(many, schema=lineage_record.COLUMNS)
    shown = lineage_record.Record({}, [], clips, ["unknown"], {})
    assert len(lineage_record.tables(shown)["behind it: videos and labels"]) == lineage_record.MAX_ROWS
    (terms,) = lineage_record.licences(clips)
    assert (terms["clips"], terms["forbids"]) == (60, "commercial use, passing on")
    assert "50 of 60 videos are listed here." in lineage_record.notes(shown)
    assert "Lineage gap: unknown." in lineage_record.notes(shown)
