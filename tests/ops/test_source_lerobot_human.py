"""LeRobot v3 as a source of videos: each episode is cut out of the shared mp4 file, with its own frames, times and text."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ops.config import Config, RawVideosConfig, ShardConfig, TrainConfig
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.sources import lerobot_human, manifest
from ops.sources.base import Instruction
from ops.sources.example import make_truth
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera.from_fov_x(60.0, 160, 120)


@pytest.fixture(scope="module")
def truths(tmp_path_factory):
    models = write_toy_models(tmp_path_factory.mktemp("toy"))
    made = [make_truth(models, CAMERA, num_frames=n, seed=n, name="wipe") for n in (5, 7, 4)]
    return [
        replace(t, rgb=t.rgb // 2 + 40 * k, instructions=(Instruction(0, 1, f"do {k}"),)) for k, t in enumerate(made)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory, truths):
    root = tmp_path_factory.mktemp("lerobot")
    lerobot_human.write_example(root, *truths)
    return root


def read(root, view=None, fov=60.0):
    shard = ShardConfig("lr", "lerobot_human", str(root), view=view)
    return [
        lerobot_human.read_clip(video, shard, RawVideosConfig(fov)) for video in lerobot_human.list_videos(root, view)
    ]


def test_round_trip(made, truths):
    clips = read(made)
    assert [clip.clip_id for clip in clips] == [f"lr/wipe/videos/observation.images.ego/chunk-000/file-000.mp4/episode-{n:06d}" for n in range(3)]  # fmt: skip
    for clip, truth, number in zip(clips, truths, range(3), strict=True):
        assert (clip.num_frames, clip.intrinsics, clip.split) == (truth.num_frames, "assumed", "train")
        assert clip.fps == 30
        np.testing.assert_allclose(clip.times_s, np.arange(truth.num_frames) / 30, atol=1e-6)
        (said,) = clip.instructions
        assert (said.text, said.end_s) == (f"do {number}", pytest.approx(truth.num_frames / 30))
        for frame in clip.frames():
            assert np.abs(frame.rgb.astype(int) - truth.rgb[frame.index]).mean() < 8
        assert clip.video.name == "file-000.mp4"


def test_robots_lerobot_agrees(made, truths):
    """The robot side's own reader gives the same pictures row by row."""
    from ops.lerobot.reader import read as read_rows

    info = made / "wipe/meta/info.json"
    content = json.loads(info.read_text())
    other = made.parent / "asrobot"
    if not other.exists():
        import shutil

        shutil.copytree(made / "wipe", other)
        content["features"]["action"] = content["features"]["observation.state"]
        (other / "meta/info.json").write_text(json.dumps(content))
        import pyarrow.parquet as pq

        (path,) = (other / "data").glob("chunk-*/file-*.parquet")
        table = pq.read_table(path)
        pq.write_table(table.append_column("action", table["observation.state"]), path)
    rows = read_rows(other)
    mine = np.concatenate([[frame.rgb for frame in clip.frames()] for clip in read(made)])
    np.testing.assert_array_equal(rows.images["ego"][:], mine)
    assert rows.task == [clip.instructions[0].text for clip in read(made) for _ in range(clip.num_frames)]


def test_through_the_stage(made, tmp_path, truths):
    from ops.pipeline import run_stage

    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    shard = ShardConfig("mine", "lerobot_human", str(made), include=("*episode-00000[12]",))
    config = Config({"mine": shard}, train, train, train, train, raw_videos=RawVideosConfig(60.0))
    report = run_stage(tmp_path, config, "raw_videos", "mine")
    assert report.rows == {"clips": 2, "videos": 2}
    clips = list(manifest.read_clips(tmp_path / "data/raw_videos/mine", tmp_path))
    assert [clip.num_frames for clip in clips] == [7, 4]
    np.testing.assert_array_equal(next(clips[1].frames([0])).rgb, next(read(made)[2].frames([0])).rgb)


def test_views(made):
    assert [clip.view for clip in read(made, "ego")] == ["ego"] * 3
    with pytest.raises(ValueError, match=r"observation.images.ego, not 'wrist'"):
        lerobot_human.list_videos(made, "wrist")


def test_what_cannot_be_read(made, tmp_path):
    import shutil

    shutil.copytree(made / "wipe", tmp_path / "wipe")
    (reject, *_) = lerobot_human.read_clips(tmp_path)
    assert reject.reason == Reason.UNSUPPORTED_CAMERA
    info = tmp_path / "wipe/meta/info.json"
    content = json.loads(info.read_text())
    videos = lerobot_human.list_videos(tmp_path)
    shard = ShardConfig("lr", "lerobot_human", str(tmp_path))
    with pytest.raises(ClipError, match="no episode 9") as error:
        lerobot_human.read_clip(videos[0].with_name("episode-000009"), shard, RawVideosConfig(60.0))
    assert error.value.reason == Reason.MISSING_LABELS
    info.write_text(json.dumps(content | {"fps": 60}))
    with pytest.raises(ClipError) as error:
        lerobot_human.read_clip(videos[2], shard, RawVideosConfig(60.0))
    assert error.value.reason == Reason.FRAME_COUNT_MISMATCH
    info.write_text(json.dumps(content | {"codebase_version": "v2.1"}))
    with pytest.raises(ValueError, match=r"v3.0 is read"):
        lerobot_human.list_videos(tmp_path)
    info.write_text(json.dumps(content | {"splits": {"train": "0:1", "test": "1:3"}}))
    assert [clip.split for clip in read(tmp_path)] == ["train", "test", "test"]
