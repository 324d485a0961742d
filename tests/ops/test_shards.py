"""`hand3d sources shards`: every clip in one shard, none too small, none too many, and as params.yaml takes them."""

import random
from pathlib import Path, PurePath

import pytest
import yaml

from ops import config
from ops.__main__ import main
from ops.config import RawVideosConfig, ShardConfig
from ops.sources import shards
from ops.sources.base import Clip
from ops.sources.manifest import included, list_videos

REPOSITORY = Path(__file__).parents[2]
PERSON = [PurePath(f"s{n:02d}/take{k}/video[{k}].mp4") for n in range(12) for k in range(10)]


def taken(paths, found):
    """How often a shard's patterns pick each clip, as raw_videos does."""
    return {path: sum(included(path, one.include) for one in found) for path in paths}


@pytest.mark.parametrize("seed", range(20))
def test_every_clip_is_in_one_shard(seed):
    rng = random.Random(seed)
    names = ["a", "b*", "c?", "d[1]", "e 2", "f"]
    paths = sorted(
        {
            PurePath(*(rng.choice(names) for _ in range(rng.randint(0, 3))), f"{rng.choice(names)}{n}.mp4")
            for n in range(rng.randint(1, 400))
        }
    )
    clip_s, most = rng.choice([0.1, 3.0, 50.0, 400.0]), rng.choice([1, 5, 99])
    found = shards.packed(paths, clip_s, most)
    assert set(taken(paths, found).values()) == {1}
    assert sum(one.num_clips for one in found) == len(paths)
    assert 1 <= len(found) <= most
    if len(found) > 1:
        assert min(one.work_s for one in found) >= shards.LEAST_S


def test_a_person_is_not_divided_without_need():
    found = shards.packed(PERSON, clip_s=20.0, max_shards=99)
    assert [one.include for one in found] == [(f"s{n:02d}",) for n in range(12)]


def test_small_folders_are_put_together_and_large_ones_cut_up():
    together = shards.packed(PERSON, clip_s=4.5, max_shards=99)
    assert [len(one.include) for one in together] == [4, 4, 4]
    large = [*PERSON, *(PurePath(f"big/take{k:03d}/video.mp4") for k in range(200))]
    found = shards.packed(large, clip_s=15.0, max_shards=99)
    assert max(one.work_s for one in found) <= 15.0 * len(large) / 4


def test_less_than_a_shard_is_one_without_patterns():
    assert shards.packed(PERSON[:3], clip_s=1.0, max_shards=99) == [shards.Planned((), 3, 3.0)]


@pytest.fixture
def copy(tmp_path, weights):
    """A source with given labels, in miniature, under two names."""
    for person in ("one", "two"):
        example = ["sources", "example", "egodex", str(tmp_path / "copy" / person)]
        assert main([*example, "--hand-model", str(weights / "hand_model")]) == 0
    return tmp_path / "copy"


@pytest.mark.weights
def test_what_it_prints_is_for_params_yaml(copy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shards, "LEAST_S", 0.01)
    capsys.readouterr()
    assert main(["sources", "shards", str(copy), "--kind", "egodex", "--name", "mine"]) == 0
    printed = capsys.readouterr().out
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | yaml.safe_load(printed)))
    made = config.load(tmp_path / "params.yaml").shards
    assert len(made) > 1
    listed = [video for shard in made.values() for video in list_videos(shard)]
    assert sorted(listed) == sorted(list_videos(ShardConfig("mine", "egodex", str(copy))))
    assert {shard.source for shard in made.values()} == {"mine"}


@pytest.mark.weights
def test_it_says_when_all_is_too_little(copy, capsys):
    assert main(["sources", "shards", str(copy), "--kind", "egodex"]) == 0
    printed = capsys.readouterr().out
    assert "orchestration may be more than 3 %" in printed
    assert list(yaml.safe_load(printed)["shards"]) == ["egodex"]


@pytest.mark.weights
def test_frames_and_labels_decide(copy):
    found = shards.cut(ShardConfig("mine", "egodex", str(copy)), RawVideosConfig(), None, 50, 99)
    assert found.labelled == 1.0
    (one,) = found.shards
    assert one.work_s == pytest.approx(one.num_clips * found.frames_a_clip * shards.LABELLED_S)


def test_tracked_frames_are_those_that_mano_fits_looks_at(tiny_clips, monkeypatch):
    """Without labels, and with every second frame left out."""
    shard = ShardConfig("x", "synthetic", str(tiny_clips))
    (clip, *_) = [shards._read(video, shard, RawVideosConfig()) for video in list_videos(shard)]
    monkeypatch.setattr(Clip, "has_labels", False)
    found = [shards.cut(shard, RawVideosConfig(), fps, 50, 99).shards[0].work_s for fps in (None, clip.fps / 2, 1e6)]
    assert found[1] == pytest.approx(found[0] / 2)
    assert found[2] == found[0]


def test_a_name_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no name of a shard"):
        shards.cut(ShardConfig("my videos", "folder", str(tmp_path)), RawVideosConfig(), None, 50, 99)


def test_nothing_readable_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="sources check"):
        shards.cut(ShardConfig("x", "folder", str(tmp_path)), RawVideosConfig(), None, 50, 99)
    with pytest.raises(ValueError, match="at least 1"):
        shards.cut(ShardConfig("x", "folder", str(tmp_path)), RawVideosConfig(), None, 0, 99)
