"""One rule for licences, and that it stops a build: before work starts, and wherever rows of shards meet."""

import json
from dataclasses import replace

import polars as pl
import pytest

from ops import checks, tables
from ops.config import RawVideosConfig, ShardConfig, build
from ops.pipeline import run_stage
from ops.sources import dexycb, licences
from ops.sources.licences import Terms
from ops.stages import BY_NAME
from ops.store import Report
from tests.ops.test_sources import GIVEN, a_video, config, put  # noqa: F401 - fixtures
from tests.ops.toy_hands import write_toy_models

FREE = Terms("TACO", "CC BY 4.0", noncommercial=False, redistributable=True)
NC = Terms("DexYCB", "CC BY-NC 4.0", noncommercial=True, redistributable=True)
OWN = Terms("kitchen", "own recording", noncommercial=False, redistributable=False)
CLOSED = Terms("ARCTIC", "MPI terms", noncommercial=True, redistributable=False)


@pytest.mark.parametrize(
    ("use", "refused"),
    [
        ("research", []),
        ("commercial", [NC, CLOSED]),
        ("redistribution", [OWN, CLOSED]),
        ("commercial redistribution", [NC, OWN, CLOSED]),
    ],
)
def test_the_rule(use, refused):
    text = licences.refusal([FREE, NC, OWN, CLOSED], use)
    assert [terms.forbids(use) for terms in (FREE, NC, OWN, CLOSED)] == [t in refused for t in (FREE, NC, OWN, CLOSED)]
    assert bool(text) == bool(refused)
    assert all((terms.name in text) == (terms in refused) for terms in (FREE, NC, OWN, CLOSED))


def test_an_unknown_use_is_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match=r"raw_videos.use must be one of 'research', .* got 'profit'"):
        RawVideosConfig(use="profit")
    with pytest.raises(ValueError, match="got 'sell'"):
        build(RawVideosConfig, {"use": "sell"}, "params.yaml.raw_videos")


def test_the_build_stops_before_work_starts(tmp_path):
    """The folder holds no data set at all: the licence is asked first."""
    (tmp_path / "dexycb").mkdir()
    shard = ShardConfig("dexycb", "dexycb", "dexycb")
    with pytest.raises(ValueError, match=r"use = 'commercial' is forbidden by DexYCB.*CC BY-NC"):
        run_stage(tmp_path, config(shard, use="commercial"), "raw_videos", "mine")
    with pytest.raises(ValueError, match="no clip in"):
        run_stage(tmp_path, config(shard), "raw_videos", "mine")


def test_mano_files_make_any_source_noncommercial(tmp_path):
    hand_model = write_toy_models(tmp_path / "mano")  # no name in the file: taken for MANO itself
    allowed = replace(dexycb.SOURCE, noncommercial=False)
    shard = ShardConfig("x", "dexycb", str(tmp_path), hand_model=str(hand_model))
    licences.require(shard, allowed, "research")
    licences.require(shard, allowed, "redistribution")
    with pytest.raises(ValueError, match="hand model: MANO"):
        licences.require(shard, allowed, "commercial")
    licences.require(replace(shard, hand_model=None), allowed, "commercial")
    with pytest.raises(FileNotFoundError, match="no hand model"):
        licences.require(replace(shard, hand_model=str(tmp_path / "none")), allowed, "research")


def test_a_videos_own_terms_stop_the_stage_and_travel_into_the_table(tmp_path, put):  # noqa: F811
    put("a.mp4", GIVEN | {"licence": "bought", "noncommercial": True})
    put("b.mp4", GIVEN | {"licence": "mine", "redistributable": True})
    with pytest.raises(ValueError, match="mine: bought"):
        run_stage(tmp_path, config(use="commercial"), "raw_videos", "mine")
    assert not (tmp_path / "data" / "raw_videos" / "mine").exists()
    run_stage(tmp_path, config(), "raw_videos", "mine")
    clips = tables.read("clips", tmp_path / "data/raw_videos/mine/clips.parquet").sort("clip_id")
    found = list(clips.select("licence", "noncommercial", "redistributable").iter_rows())
    assert found == [("bought", True, False), ("mine", False, True)]
    hand_model = write_toy_models(tmp_path / "mano")
    shard = ShardConfig("mine", "folder", "videos", hand_model=str(hand_model))
    run_stage(tmp_path, config(shard), "raw_videos", "mine")
    clips = tables.read("clips", tmp_path / "data/raw_videos/mine/clips.parquet").sort("clip_id")
    assert clips["noncommercial"].all()
    assert clips["licence"].str.contains("MANO").all()


@pytest.mark.parametrize("name", ["raw_videos", "hand3d_test", "base_model", "stage1_checkpoint", "stage2_checkpoint"])
def test_every_place_where_shards_meet_is_checked(tmp_path, put, name):  # noqa: F811
    put("a.mp4", GIVEN | {"licence": "bought", "noncommercial": True})
    run_stage(tmp_path, config(), "raw_videos", "mine")
    shard = "mine" if BY_NAME[name].partitioned else ""
    (check,) = [check for check in checks.checks_of(name) if check.name == "licences_allow_use"]
    assert check.blocking
    for use, passed in (("research", True), ("commercial", False), ("redistribution", False)):
        found = check.function(checks.Made(tmp_path, config(use=use), BY_NAME[name], shard, Report()))
        assert found[0] is passed, found


def test_fits_made_with_mano_are_noncommercial(tmp_path, put):  # noqa: F811
    put("a.mp4", GIVEN | {"licence": "mine", "redistributable": True})
    run_stage(tmp_path, config(), "raw_videos", "mine")
    fits = tmp_path / "data" / "mano_fits" / "mine"
    fits.mkdir(parents=True)
    (check,) = [check for check in checks.checks_of("mano_fits") if check.name == "licences_allow_use"]
    made = checks.Made(tmp_path, config(use="commercial"), BY_NAME["mano_fits"], "mine", Report())
    for model, passed in (("anny-standin", True), ("mano", False)):
        pl.DataFrame({"hand_model": [model]}).write_parquet(fits / "mano_fits.parquet")
        assert check.function(made)[0] is passed
    json.dumps(check.function(made)[1])
