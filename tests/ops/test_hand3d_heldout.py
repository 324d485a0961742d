"""hand3d_test: proportional sampling, and no video on both sides by name or by bytes."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from ops import pipeline, tables
from ops.hand3d import facts, heldout, sampling, visual
from tests.ops import hand3d_world as made
from tests.ops.test_hand3d_visual import made_config


@pytest.fixture(scope="module")
def rows():
    worlds = [made.make_world("a", 1), made.make_world("b", 2, split="test"), made.make_world("c", 3, split="test")]
    known = facts.gather(
        [w.clip for w in worlds],
        made.fits(worlds),
        made.calibrations(worlds),
        made.positions(worlds),
        1.0,
        made.poses_of,
    )
    return visual.label(visual.propose(known, 42)[0], 0.3, 42)


def clips_table(sha_of):
    common = {
        "source": "made", "kind": "folder", "video": "x.mp4", "side_sha256": None, "num_bytes": 1, "fps": 10.0, "num_frames": 110,
        "width": 4, "height": 4, "fx": 1.0, "fy": 1.0, "cx": 2.0, "cy": 2.0, "intrinsics": "given", "has_labels": True,
        "has_depth": False, "licence": "CC0", "root": ".", "view": None, "hand_model": None, "video_width": 4,
        "video_height": 4, "subject": "", "noncommercial": False, "redistributable": True,
    }  # fmt: skip
    return tables.frame(
        "clips",
        [
            common | {"clip_id": c, "sha256": s * 64, "split": "train" if c == "made/a" else "test"}
            for c, s in sha_of.items()
        ],
    )


def test_shared_videos_by_name_and_by_bytes():
    train = pl.DataFrame({"clip_id": ["a", "b"], "sha256": ["1", "2"]})
    assert heldout.shared_videos(train, pl.DataFrame({"clip_id": ["c", "d"], "sha256": ["3", "4"]})) == []
    assert heldout.shared_videos(train, pl.DataFrame({"clip_id": ["b", "d"], "sha256": ["3", "4"]})) == ["b"]
    assert heldout.shared_videos(train, pl.DataFrame({"clip_id": ["c", "d"], "sha256": ["3", "1"]})) == ["d"]
    assert heldout.shared_videos(train.clear(), train) == []


def test_unknown_clip_is_refused(rows):
    with pytest.raises(ValueError, match="made/c"):
        heldout.with_bytes(rows, clips_table({"made/a": "1", "made/b": "2"}))


def test_sample_is_proportional_stable_and_whole(rows):
    held_out = rows.filter(split="test")
    for num in (1, 7, 40, len(held_out) - 1):
        chosen = heldout.sample(held_out, num, 42)
        assert len(chosen) == num
        assert chosen["row_id"].is_unique().all()
        for task, available in Counter(held_out["task"]).items():
            share = available * num / len(held_out)
            assert abs(Counter(chosen["task"])[task] - share) < 1
        assert chosen.equals(heldout.sample(held_out.sample(fraction=1, shuffle=True, seed=3), num, 42))
    few = heldout.sample(held_out, 12, 42)
    assert (
        few.group_by("task", "clip_id")
        .len()
        .group_by("task")
        .agg(pl.col("len").max() - pl.col("len").min())["len"]
        .max()
        <= 1
    )
    assert heldout.sample(held_out, 10**6, 42).equals(held_out.sort("row_id"))
    assert not heldout.sample(held_out, 40, 42).equals(heldout.sample(held_out, 40, 43))
    with pytest.raises(ValueError, match="num_rows"):
        heldout.sample(held_out, 0, 42)


def test_shares_by_hand():
    assert sampling.shares(np.array([3, 3, 3]), 4).tolist() == [2, 1, 1]
    assert sampling.shares(np.array([100, 1]), 50).tolist() == [50, 0]
    assert sampling.shares(np.array([2, 5]), 7).tolist() == [2, 5]


def workspace(root, rows, sha_of):
    for shard, clip_ids in {"s": ["made/a", "made/b"], "t": ["made/c"]}.items():
        here = rows.filter(pl.col("clip_id").is_in(clip_ids))
        visual_out, raw_out = (pipeline.output(root, name, shard) for name in ("hand3d_visual", "raw_videos"))
        visual_out.mkdir(parents=True)
        raw_out.mkdir(parents=True)
        tables.write("visual_rows", here.filter(split="train"), visual_out / "visual_rows.parquet")
        tables.write("visual_rows", here.filter(split="test"), visual_out / "held_out_rows.parquet")
        tables.write(
            "clips", clips_table({c: s for c, s in sha_of.items() if c in clip_ids}), raw_out / "clips.parquet"
        )


def test_stage_gathers_all_shards(rows, tmp_path):
    workspace(tmp_path, rows, {"made/a": "1", "made/b": "2", "made/c": "3"})
    report = pipeline.run_stage(tmp_path, made_config(), "hand3d_test")
    out = pipeline.output(tmp_path, "hand3d_test")
    test = tables.read("visual_rows", out / "visual_rows.parquet")
    assert test.equals(rows.filter(split="test").sort("row_id"))
    assert report.rejects == {}
    assert (out / report.pictures["distances and directions"]).stat().st_size > 1000


def test_stage_refuses_a_copied_video(rows, tmp_path):
    workspace(tmp_path, rows, {"made/a": "1", "made/b": "2", "made/c": "1"})
    with pytest.raises(ValueError, match="made/c"):
        pipeline.run_stage(tmp_path, made_config(), "hand3d_test")
    assert not pipeline.output(tmp_path, "hand3d_test").exists()


def test_stage_says_what_to_run_first(tmp_path):
    for name in ("hand3d_visual", "raw_videos"):
        pipeline.output(tmp_path, name, "s").mkdir(parents=True)
    tables.write("clips", clips_table({"made/a": "1"}), pipeline.output(tmp_path, "raw_videos", "s") / "clips.parquet")
    with pytest.raises(FileNotFoundError, match="hand3d_visual"):
        pipeline.run_stage(tmp_path, made_config(), "hand3d_test")
