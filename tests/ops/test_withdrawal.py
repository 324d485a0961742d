"""What must go if a participant withdraws: against rows counted by hand, and by removing a video and running again."""

import polars as pl
import pytest

from ops import artefacts, config, data_version, withdrawal
from ops.__main__ import main
from ops.lineage import Link
from ops.stages import STAGES
from tests.assets import fakes


def edges(**made_from):
    """Links reader -> makers, by name; "_at_" for "@"."""
    return [
        Link(reader.replace("_at_", "@"), maker, exact=True) for reader, makers in made_from.items() for maker in makers
    ]


def test_downstream_is_what_was_made_from_it_and_nothing_beside():
    found = edges(
        fits_at_one=["raw_videos@one"], fits_at_two=["raw_videos@two"], policy=["fits@one", "fits@two", "robot"]
    )
    lock = {name: {} for name in ("raw_videos@one", "raw_videos@two", "fits@one", "fits@two", "robot", "policy")}
    assert withdrawal.downstream(lock, ["raw_videos@one"], found) == ["raw_videos@one", "fits@one", "policy"]
    assert withdrawal.downstream(lock, ["robot"], found) == ["robot", "policy"]
    assert withdrawal.downstream(lock, ["never made"], found) == []


def test_rows_are_counted_in_every_table_that_names_clips(tmp_path):
    pl.DataFrame({"clip_id": ["s/a", "s/b", "s/a"]}).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "deeper").mkdir()
    pl.DataFrame({"clip_id": ["s/ab"]}).write_parquet(tmp_path / "deeper" / "more.parquet")
    pl.DataFrame({"other": ["s/a"]}).write_parquet(tmp_path / "trials.parquet")
    assert withdrawal.rows_of(tmp_path, ["s/a"]) == (2, 4, True)
    assert withdrawal.rows_of(tmp_path / "nothing", ["s/a"]) == (0, 0, False)


@pytest.fixture
def root(tmp_path, monkeypatch):
    return fakes.ready(tmp_path, monkeypatch)


def test_a_clip_is_named_by_id_path_content_or_subject(root):
    clips(root, "one", [("one/a", "videos/one/a.mp4", "p1"), ("one/b", "videos/one/b.mp4", "p2")])
    clips(root, "two", [("two/c", "videos/two/c.mp4", "p1"), ("two/d", "videos/two/d.mp4", "")])
    for wanted in ("one/b", "videos/one/b.mp4", fakes.sha("one/b")[:8]):
        assert withdrawal.clips(root, wanted)["clip_id"].to_list() == ["one/b"]
    assert withdrawal.clips(root, "subject:p1")["clip_id"].to_list() == ["one/a", "two/c"]
    for wanted in ("one", fakes.sha("one/b")[:7], "subject:", "subject:p3", ""):
        with pytest.raises(ValueError, match="no clip of raw_videos"):
            withdrawal.clips(root, wanted)


def clips(root, shard, listed):
    folder = root / "data" / "raw_videos" / shard
    folder.mkdir(parents=True)
    names, videos, subjects = zip(*listed, strict=True)
    table = {"clip_id": names, "video": videos, "sha256": [fakes.sha(name) for name in names], "subject": subjects}
    pl.DataFrame(table).write_parquet(folder / "clips.parquet")


def test_console_says_what_is_missing(root, capsys):
    assert main(["uses", "one/train", "--root", str(root)]) == 1
    assert "run `hand3d run raw_videos` first" in capsys.readouterr().err


@pytest.mark.slow
def test_removing_a_video_remakes_exactly_what_was_listed(root):
    """Every artefact of both shards; then the folder of one changes, and what runs again is what `uses` had named."""
    settings = config.load(root / "params.yaml")
    make_stale(root, settings)
    fakes.ran(root)
    listed = withdrawal.uses(root, withdrawal.clips(root, "one/train"))
    shards = {use.artefact for use in listed if "@" in use.artefact}
    assert shards == {f"{stage.name}@one" for stage in STAGES if stage.partitioned}
    fakes.write(root / "videos" / "one" / "a.mp4", "what is left when the participant's part is cut out")
    make_stale(root, settings)
    assert sorted(line.replace(" ", "@") for line in fakes.ran(root)) == sorted(use.artefact for use in listed)


def make_stale(root, settings):
    for stage in STAGES:
        for shard in fakes.SHARDS if stage.partitioned else ("",):
            address = data_version.address(stage.name, shard)
            if address in data_version.stale(root, [address]) or address not in data_version.recorded(root):
                artefacts.make(root, settings, stage.name, shard)
