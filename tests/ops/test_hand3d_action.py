"""hand3d_action against a made world: waypoints from the world's truth, windows, gaps, filters, tokens, prompts."""

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from ops import pipeline, tables
from ops.config import Hand3DActionConfig
from ops.hand3d import action, motion_tokens, trajectories, verify, windows
from ops.rejects import ClipError, Reason
from ops.sources.base import Instruction
from tests.ops import hand3d_world as made
from tests.ops.test_hand3d_visual import made_config

CONFIG = Hand3DActionConfig(waypoint_hz=5.0)


@pytest.fixture(scope="module")
def worlds():
    return [made.make_world("a", 1, seconds=23.0), made.make_world("b", 2, moving=False, split="test")]


def build(worlds, settings=CONFIG, gone=frozenset()):
    clips = [world.clip for world in worlds]
    motions, rejected = action.collect(clips, made.fits(worlds, gone), settings)
    rows, out_of_range = action.to_rows(motions, {clip.clip_id: clip for clip in clips}, settings)
    return rows, rejected + out_of_range


@pytest.fixture(scope="module")
def built(worlds):
    return build(worlds)


def reasons(rejected):
    return Counter(reject.reason for reject in rejected)


def expected_waypoint(world, side, time_s, frame):
    """Straight line between the two frames around a time, in the world, seen from one camera."""
    place = time_s * made.FPS
    low = int(np.floor(place + 1e-6))
    share = max(place - low, 0.0)
    high = min(low + 1, world.clip.num_frames - 1)
    wrist = world.wrist_world[side]
    return world.in_camera(frame, (1 - share) * wrist[low] + share * wrist[high])


def start_of(row, world):
    """The window's start, worked out from the row's id and the world's two instructions (0-7 s, 7 s-end; right)."""
    _, _, chunk, level, index, _ = row["row_id"].split(":")
    if level == "chunk":
        return 10.0 * int(chunk)
    pieces = (
        [(0.0, 7.0), (7.0, 10.0)]
        if chunk == "0"
        else [(10.0 * int(chunk), min(10.0 * int(chunk) + 10, world.clip.times_s[-1]))]
    )
    starts = [start + 2.0 * k for start, end in pieces for k in range(max(1, int((end - start) / 2.0 + 1e-9)))]
    return starts[int(index)]


def test_waypoints_are_the_worlds(worlds, built):
    rows, _ = built
    by_id = {world.clip.clip_id: world for world in worlds}
    assert len(rows) > 50
    for row in rows.iter_rows(named=True):
        world = by_id[row["clip_id"]]
        start_s = start_of(row, world)
        points = np.array(row["waypoints"]).reshape(-1, 3)
        times_s = start_s + np.arange(len(points)) / row["waypoint_hz"]
        expected = [expected_waypoint(world, row["side"], t, row["frame"]) for t in times_s]
        np.testing.assert_allclose(points, expected, atol=2e-5, err_msg=row["row_id"])
        num_context = len(row["context_tokens"]) // 3
        seen_s = times_s[num_context - 1] if row["task"] == action.PREDICTION else start_s
        assert row["frame"] == int(np.floor(seen_s * made.FPS + 1e-4))


def test_tokens_are_the_waypoints(built):
    rows, _ = built
    for row in rows.iter_rows(named=True):
        tokens = np.array(row["context_tokens"] + row["target_tokens"], np.uint16).reshape(-1, 3)
        points = np.array(row["waypoints"]).reshape(-1, 3)
        inside = ~motion_tokens.clipped(points)
        assert np.abs(motion_tokens.decode(tokens) - points)[inside].max(initial=0) <= 0.49e-3
        assert row["num_clipped"] == (~inside).sum()
        lengths = {
            action.GENERATION: (0, len(points)),
            action.PREDICTION: (len(points) // 2, len(points) - len(points) // 2),
            action.TRANSLATION: (len(points), 0),
        }
        assert (len(row["context_tokens"]) // 3, len(row["target_tokens"]) // 3) == lengths[row["task"]]
        steps = len(points) if row["task"] == action.TRANSLATION else lengths[row["task"]][1]
        assert f" {steps} steps" in row["prompt"] or f"{steps}-step " in row["prompt"]
        assert "<" not in row["prompt"]


def test_the_plain_twin_agrees_and_sees_one_wrong_number(built):
    rows, _ = built
    assert verify.motion_disagreements(rows) == []
    row = rows.filter(task=action.PREDICTION).row(0, named=True)
    wrong = {
        "token": {"target_tokens": [row["target_tokens"][0] + 2, *row["target_tokens"][1:]]},
        "tokens for": {"context_tokens": row["context_tokens"][3:]},
        "path is": {"displacement_m": row["displacement_m"] + 0.01},
        "clipped": {"num_clipped": 1},
        "target text": {"target_text": "wave"},
    }
    for word, change in wrong.items():
        found = verify.motion_disagreements(pl.DataFrame([row | change], schema=rows.schema))
        assert len(found) == 1
        assert word in found[0]


def test_displacement_is_the_path_and_does_not_depend_on_the_camera(worlds, built):
    rows, _ = built
    fixed = made.make_world("a", 1, seconds=23.0, moving=False)
    again, _ = build([fixed])
    both = rows.filter(clip_id="made/a").join(again, on="row_id", suffix="_still")
    assert len(both) == len(again) > 30
    np.testing.assert_allclose(both["displacement_m"], both["displacement_m_still"], atol=1e-5)
    for row in again.iter_rows(named=True):
        points = np.array(row["waypoints"]).reshape(-1, 3)
        assert row["displacement_m"] == pytest.approx(sum(np.linalg.norm(b - a) for a, b in pairwise(points)), rel=1e-4)


def test_windows_by_hand(worlds):
    """Clip of 11 s, frames to 10.9 s: chunk 0 holds both texts; the rest of chunk 1 is 0.9 s of the second."""
    planned, rejected = windows.plan(worlds[1].clip, dataclasses.replace(CONFIG, window_s=1.8))
    found = [(w.chunk, w.level, w.index, w.start_s, w.num, w.hz, w.text) for w in planned]
    cube, wave = "put the red cube on the blue plate", "wave"
    assert found == [
        (0, "chunk", 0, 0.0, 50, 5.0, f"{cube}, then {wave}"),
        (0, "second", 0, 0.0, 9, 5.0, cube),
        (0, "second", 1, 1.8, 9, 5.0, cube),
        (0, "second", 2, 3.6, 9, 5.0, cube),
        (0, "second", 3, 7.0, 9, 5.0, wave),
        (1, "chunk", 0, 10.0, 4, 5.0, wave),
    ]
    assert {w.side for w in planned} == {"right"}
    assert [(r.reason, r.side) for r in rejected] == [(Reason.NO_INSTRUCTION, "left")] * 2


def test_windows_of_training_clips_may_overlap_held_out_ones_never(worlds):
    """Texts 0 to 7 s and 7 to 10.9 s; windows of 3 s every 1.5 s: 0, 1.5, 3; then 7; not 8.5, which ends past 10 s."""
    settings = dataclasses.replace(CONFIG, window_s=3.0, window_stride_s=1.5)
    held_out = worlds[1].clip
    train = dataclasses.replace(held_out, split="train")
    found = {
        clip.split: [w.start_s for w in windows.plan(clip, settings)[0] if w.level == "second"]
        for clip in (train, held_out)
    }
    assert found == {"train": [0.0, 1.5, 3.0, 7.0], "test": [0.0, 3.0, 7.0]}
    planned, _ = windows.plan(train, settings)
    assert {w.num for w in planned if w.level == "second"} == {15}
    assert len({(w.level, w.index, w.chunk) for w in planned}) == len(planned)


def test_a_stride_of_nothing_is_refused(worlds):
    with pytest.raises(ValueError, match="give more than 0, or null"):
        windows.plan(worlds[0].clip, dataclasses.replace(CONFIG, window_stride_s=0.0))


def test_long_windows_are_sampled_more_coarsely(worlds):
    planned, _ = windows.plan(worlds[1].clip, dataclasses.replace(CONFIG, max_waypoints=16))
    assert planned[0].num == 16
    assert planned[0].hz == pytest.approx(1.6)
    assert planned[1].num == 10
    assert max(w.num for w in planned) <= 16


@pytest.mark.parametrize("change", [{"waypoint_hz": 4.0, "window_s": 1.8}, {"window_s": 2.0}])
def test_windows_too_short_are_counted(worlds, change):
    """0.9 s are three waypoints at 4 Hz, and less than half of a 2 s window."""
    planned, rejected = windows.plan(worlds[1].clip, dataclasses.replace(CONFIG, **change))
    assert not [w for w in planned if w.chunk == 1]
    assert reasons(rejected)[Reason.CHUNK_TOO_SHORT] == 1


def test_text_for_no_hand_in_particular_is_for_each(worlds):
    clip = dataclasses.replace(worlds[1].clip, instructions=(Instruction(0.0, 11.0, "Clap."),))
    planned, rejected = windows.plan(clip, CONFIG)
    assert Counter(w.side for w in planned)["left"] == Counter(w.side for w in planned)["right"] > 0
    assert reasons(rejected) == {Reason.CHUNK_TOO_SHORT: 2}  # the last 0.9 s


def test_short_gaps_are_bridged_and_long_ones_rejected(worlds):
    short = frozenset({("made/b", 24, "right")})
    rows, rejected = build([worlds[1]], gone=short)
    assert Reason.HAND_GAP not in reasons(rejected)
    window = rows.filter(pl.col("row_id") == f"made/b:{action.GENERATION}:0:second:1:right").row(0, named=True)
    wrist = worlds[1].wrist_world["right"]
    bridged = np.array(window["waypoints"]).reshape(-1, 3)[2]  # 2.4 s: half-way between frames 23 and 25
    np.testing.assert_allclose(bridged, worlds[1].in_camera(20, (wrist[23] + wrist[25]) / 2), atol=1e-6)
    assert np.linalg.norm(bridged - worlds[1].in_camera(20, wrist[24])) > 1e-5
    long = frozenset(("made/b", frame, "right") for frame in (24, 25, 26))
    rows, rejected = build([worlds[1]], gone=long)
    assert reasons(rejected)[Reason.HAND_GAP] == 2  # the chunk and its second window
    assert not rows.filter(pl.col("row_id").str.contains("0:second:1|0:chunk")).height


def test_resample_by_hand():
    seen = trajectories.Track(
        np.array([0.0, 0.1, 0.2, 0.6]), np.array([[0, 0, 0], [1, 0, 0], [1, 2, 0], [5, 2, 0]], float)
    )
    points, supported = trajectories.resample(seen, np.array([-0.1, 0.0, 0.05, 0.1, 0.175, 0.2, 0.4, 0.6, 0.7]), 0.25)
    assert supported.tolist() == [False, True, True, True, True, True, False, True, False]
    np.testing.assert_allclose(
        points[supported], [[0, 0, 0], [0.5, 0, 0], [1, 0, 0], [1, 1.5, 0], [1, 2, 0], [5, 2, 0]], atol=1e-9
    )
    assert np.isnan(points[~supported]).all()
    wide, supported = trajectories.resample(seen, np.array([0.4]), 0.5)
    np.testing.assert_allclose(wide, [[3, 2, 0]])
    nothing, supported = trajectories.resample(trajectories.Track(np.zeros(0), np.zeros((0, 3))), np.array([0.0]), 1.0)
    assert not supported.any()
    assert nothing.shape == (1, 3)


def test_path_length_agrees_with_plain_sum():
    rng = np.random.default_rng(0)
    nums = rng.integers(1, 9, 40)
    points = rng.normal(size=(nums.sum(), 3))
    offsets = np.concatenate([[0], np.cumsum(nums)])
    expected = [sum(np.linalg.norm(points[i + 1] - points[i]) for i in range(a, b - 1)) for a, b in pairwise(offsets)]
    np.testing.assert_allclose(trajectories.path_length_m(points, offsets), expected, atol=1e-9)


def test_insignificant_motion_is_filtered_by_its_path(worlds):
    rows, rejected = build(worlds, dataclasses.replace(CONFIG, min_displacement_m=0.25))
    everything, _ = build(worlds, dataclasses.replace(CONFIG, min_displacement_m=0.0))
    kept = everything.filter(pl.col("displacement_m") >= 0.25)
    assert rows["row_id"].to_list() == kept["row_id"].to_list()
    dropped = reasons(rejected)[Reason.INSIGNIFICANT_MOTION]
    assert dropped == (len(everything) - len(rows)) // 3 > 0
    found = action.metrics(rows, rejected)
    assert found["windows_dropped_as_insignificant"] == dropped
    assert 0 < found["share_dropped_as_insignificant"] < 1


def test_motion_outside_the_token_range_is_rejected(worlds):
    world = worlds[1]
    fits = made.fits([world])
    far = fits.with_columns(tau=pl.Series(fits["tau"].to_numpy() + np.float32([0, 0, 0.9]), dtype=fits["tau"].dtype))
    motions, _ = action.collect([world.clip], far, CONFIG)
    rows, rejected = action.to_rows(motions, {world.clip.clip_id: world.clip}, CONFIG)
    assert rows.is_empty()
    assert reasons(rejected) == {Reason.OUTSIDE_TOKEN_RANGE: len(motions)}
    kept, _ = action.to_rows(
        motions, {world.clip.clip_id: world.clip}, dataclasses.replace(CONFIG, max_clipped_share=1.0)
    )
    assert len(kept) == len(motions)
    assert (kept["num_clipped"] * 3 == kept["waypoints"].list.len()).all()


def test_what_is_missing_has_its_reason(worlds):
    clip = worlds[1].clip
    fits = made.fits([worlds[1]])
    silent = dataclasses.replace(clip, instructions=())
    assert set(reasons(action.clip_motions(silent, fits, CONFIG, made.poses_of)[1])) == {Reason.NO_INSTRUCTION}
    unposed = dataclasses.replace(clip, T_cam_world=None)
    made_motions, rejected = action.clip_motions(unposed, fits, CONFIG, made.poses_of)
    assert not made_motions
    assert reasons(rejected)[Reason.NO_CAMERA_POSE] == 1
    assert reasons(action.clip_motions(clip, None, CONFIG, made.poses_of)[1]) == {Reason.NO_HAND_DETECTED: 1}

    def broken(clip):
        raise ClipError(Reason.CORRUPT_VIDEO, "ends early")

    assert reasons(action.clip_motions(clip, fits, CONFIG, broken)[1])[Reason.CORRUPT_VIDEO] == 1
    one_handed = fits.filter(side="left")
    found = reasons(action.clip_motions(clip, one_handed, CONFIG, made.poses_of)[1])
    assert found == {Reason.HAND_GAP: 5, Reason.NO_INSTRUCTION: 2, Reason.CHUNK_TOO_SHORT: 1}


def test_translation_says_the_instruction(built):
    rows, _ = built
    translation = rows.filter(task=action.TRANSLATION)
    assert (translation["target_text"] == translation["instruction"]).all()
    assert not any(row["instruction"] in row["prompt"] for row in translation.iter_rows(named=True))
    assert rows.filter(pl.col("task") != action.TRANSLATION)["target_text"].null_count() == len(rows) - len(translation)


def test_same_inputs_same_bytes_whatever_the_order(worlds, tmp_path):
    for name, chosen in (("x", worlds), ("y", worlds[::-1])):
        tables.write("action_rows", build(chosen)[0], tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_stage_writes_rows_pictures_and_counts(worlds, tmp_path, monkeypatch):
    monkeypatch.setattr(action, "read_clips", lambda folder, root: iter([world.clip for world in worlds]))
    for stage in ("raw_videos", "mano_fits"):
        pipeline.output(tmp_path, stage, "s").mkdir(parents=True)
    tables.write("mano_fits", made.fits(worlds), pipeline.output(tmp_path, "mano_fits", "s") / "mano_fits.parquet")
    report = pipeline.run_stage(tmp_path, made_config(), "hand3d_action", "s")
    out = pipeline.output(tmp_path, "hand3d_action", "s")
    rows = tables.read("action_rows", out / "action_rows.parquet")
    assert len(rows) == report.rows["action_rows"] > 0
    assert set(rows["split"]) == {"train", "test"}
    assert Counter(rows["task"]).keys() == set(tables.ACTION_TASKS)
    assert sum(report.rejects.values()) == tables.read("rejects", out / "rejects.parquet").height > 0
    assert all(1000 < (out / path).stat().st_size < 300_000 for path in report.pictures.values())


def test_stage_without_any_hand_or_text_writes_empty_tables(worlds, tmp_path, monkeypatch):
    monkeypatch.setattr(
        action, "read_clips", lambda folder, root: iter([dataclasses.replace(worlds[0].clip, instructions=())])
    )
    for stage in ("raw_videos", "mano_fits"):
        pipeline.output(tmp_path, stage, "s").mkdir(parents=True)
    tables.write(
        "mano_fits", tables.frame("mano_fits", []), pipeline.output(tmp_path, "mano_fits", "s") / "mano_fits.parquet"
    )
    report = pipeline.run_stage(tmp_path, made_config(), "hand3d_action", "s")
    assert report.rows == {"action_rows": 0}
    assert report.rejects == {"no_hand_detected": 1}
