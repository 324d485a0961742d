"""hand3d_action against a made world: waypoints from the world's truth, windows, gaps, filters, tokens, prompts."""

import dataclasses
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from ops import pipeline, tables
from ops.config import Hand3DActionConfig
from ops.geometry import transforms
from ops.hand3d import action, action_rows, motion_tokens, recordings, trajectories, verify
from ops.rejects import ClipError, Reason
from ops.sources.base import Instruction
from tests.ops import hand3d_world as made
from tests.ops.test_hand3d_visual import made_config

CONFIG = Hand3DActionConfig(waypoint_hz=5.0)


@pytest.fixture(scope="module")
def worlds():
    return [made.make_world("a", 1, seconds=23.0), made.make_world("b", 2, moving=False, split="test")]


def build(worlds, settings=CONFIG, gone=frozenset()):
    return parts_of([world.clip for world in worlds], made.fits(worlds, gone), settings)


def parts_of(clips, fits, settings=CONFIG):
    found = action.build(clips, fits, settings, made.poses_of)
    return found.rows, found.rejected


def planned_of(clip, settings=CONFIG):
    """Windows and what was left out, a named row each."""
    planned, left_out = action.plan(recordings.gather([clip]), settings)
    return [SimpleNamespace(**row) for row in planned.to_dicts()], left_out


@pytest.fixture(scope="module")
def built(worlds):
    return build(worlds)


def reasons(rejected):
    return Counter(rejected["reason"])


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
        seen_s = times_s[num_context - 1] if row["task"] == action_rows.PREDICTION else start_s
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
            action_rows.GENERATION: (0, len(points)),
            action_rows.PREDICTION: (len(points) // 2, len(points) - len(points) // 2),
            action_rows.TRANSLATION: (len(points), 0),
        }
        assert (len(row["context_tokens"]) // 3, len(row["target_tokens"]) // 3) == lengths[row["task"]]
        steps = len(points) if row["task"] == action_rows.TRANSLATION else lengths[row["task"]][1]
        assert f" {steps} steps" in row["prompt"] or f"{steps}-step " in row["prompt"]
        assert "<" not in row["prompt"]


def test_the_plain_twin_agrees_and_sees_one_wrong_number(built):
    rows, _ = built
    assert verify.motion_disagreements(rows) == []
    row = rows.filter(task=action_rows.PREDICTION).row(0, named=True)
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
    planned, rejected = planned_of(worlds[1].clip, dataclasses.replace(CONFIG, window_s=1.8))
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
    assert rejected.select("reason", "side").rows() == [(Reason.NO_INSTRUCTION, "left")] * 2


def test_windows_of_training_clips_may_overlap_held_out_ones_never(worlds):
    """Texts 0 to 7 s and 7 to 10.9 s; windows of 3 s every 1.5 s: 0, 1.5, 3; then 7; not 8.5, which ends past 10 s."""
    settings = dataclasses.replace(CONFIG, window_s=3.0, window_stride_s=1.5)
    held_out = worlds[1].clip
    train = dataclasses.replace(held_out, split="train")
    found = {
        clip.split: [w.start_s for w in planned_of(clip, settings)[0] if w.level == "second"]
        for clip in (train, held_out)
    }
    assert found == {"train": [0.0, 1.5, 3.0, 7.0], "test": [0.0, 3.0, 7.0]}
    planned, _ = planned_of(train, settings)
    assert {w.num for w in planned if w.level == "second"} == {15}
    assert len({(w.level, w.index, w.chunk) for w in planned}) == len(planned)


def test_a_stride_of_nothing_is_refused(worlds):
    with pytest.raises(ValueError, match="give more than 0, or null"):
        planned_of(worlds[0].clip, dataclasses.replace(CONFIG, window_stride_s=0.0))


def test_long_windows_are_sampled_more_coarsely(worlds):
    planned, _ = planned_of(worlds[1].clip, dataclasses.replace(CONFIG, max_waypoints=16))
    assert planned[0].num == 16
    assert planned[0].hz == pytest.approx(1.6)
    assert planned[1].num == 10
    assert max(w.num for w in planned) <= 16


@pytest.mark.parametrize("change", [{"waypoint_hz": 4.0, "window_s": 1.8}, {"window_s": 2.0}])
def test_windows_too_short_are_counted(worlds, change):
    """0.9 s are three waypoints at 4 Hz, and less than half of a 2 s window."""
    planned, rejected = planned_of(worlds[1].clip, dataclasses.replace(CONFIG, **change))
    assert not [w for w in planned if w.chunk == 1]
    assert reasons(rejected)[Reason.CHUNK_TOO_SHORT] == 1


def test_text_for_no_hand_in_particular_is_for_each(worlds):
    clip = dataclasses.replace(worlds[1].clip, instructions=(Instruction(0.0, 11.0, "Clap."),))
    planned, rejected = planned_of(clip)
    assert Counter(w.side for w in planned)["left"] == Counter(w.side for w in planned)["right"] > 0
    assert reasons(rejected) == {Reason.CHUNK_TOO_SHORT: 2}  # the last 0.9 s


def test_short_gaps_are_bridged_and_long_ones_rejected(worlds):
    short = frozenset({("made/b", 24, "right")})
    rows, rejected = build([worlds[1]], gone=short)
    assert Reason.HAND_GAP not in reasons(rejected)
    window = rows.filter(pl.col("row_id") == f"made/b:{action_rows.GENERATION}:0:second:1:right").row(0, named=True)
    wrist = worlds[1].wrist_world["right"]
    bridged = np.array(window["waypoints"]).reshape(-1, 3)[2]  # 2.4 s: half-way between frames 23 and 25
    np.testing.assert_allclose(bridged, worlds[1].in_camera(20, (wrist[23] + wrist[25]) / 2), atol=1e-6)
    assert np.linalg.norm(bridged - worlds[1].in_camera(20, wrist[24])) > 1e-5
    long = frozenset(("made/b", frame, "right") for frame in (24, 25, 26))
    rows, rejected = build([worlds[1]], gone=long)
    assert reasons(rejected)[Reason.HAND_GAP] == 2  # the chunk and its second window
    assert not rows.filter(pl.col("row_id").str.contains("0:second:1|0:chunk")).height


def seen_at(*tracks):
    """Sightings of several wrists, each (times, points)."""
    track = np.repeat(np.arange(len(tracks)), [len(times) for times, _ in tracks])
    times_s = np.concatenate([times for times, _ in tracks]).astype(float)
    points = np.concatenate([np.reshape(points, (-1, 3)) for _, points in tracks]).astype(float)
    return recordings.Sightings(recordings.keys(track, times_s), track, times_s, points)


def test_resample_by_hand():
    """Neighbouring tracks see their hands just before and after: nothing of theirs may be used."""
    mine = [0.0, 0.1, 0.2, 0.6], [[0, 0, 0], [1, 0, 0], [1, 2, 0], [5, 2, 0]]
    other = [0.0, 0.15, 0.65], [[9, 9, 9]] * 3
    seen = seen_at(other, mine, other)
    at_s = np.array([-0.1, 0.0, 0.05, 0.1, 0.175, 0.2, 0.4, 0.6, 0.7])
    points, supported = trajectories.resample(seen, np.ones(9, int), at_s, 0.25)
    assert supported.tolist() == [False, True, True, True, True, True, False, True, False]
    np.testing.assert_allclose(
        points[supported], [[0, 0, 0], [0.5, 0, 0], [1, 0, 0], [1, 1.5, 0], [1, 2, 0], [5, 2, 0]], atol=1e-9
    )
    assert np.isnan(points[~supported]).all()
    wide, supported = trajectories.resample(seen, np.ones(1, int), np.array([0.4]), 0.5)
    np.testing.assert_allclose(wide, [[3, 2, 0]])
    nothing, supported = trajectories.resample(seen_at(([], [])), np.zeros(1, int), np.array([0.0]), 1.0)
    assert not supported.any()
    assert nothing.shape == (1, 3)
    _, unknown = trajectories.resample(seen, np.array([7]), np.array([0.1]), 1.0)
    assert not unknown.any()


def test_path_length_agrees_with_plain_sum():
    points = np.random.default_rng(0).normal(size=(40, 9, 3))
    expected = [sum(np.linalg.norm(b - a) for a, b in pairwise(path)) for path in points]
    flat, one = points.reshape(-1, 3), np.ones(40, int)
    np.testing.assert_allclose(trajectories.path_length_m(flat, np.arange(41) * 9, one), expected, atol=1e-12)
    assert trajectories.path_length_m(points[:, 0], np.arange(41), one).tolist() == [0.0] * 40
    turns = np.stack([points[:20], points[20:]], axis=2).reshape(-1, 3)  # two hands in turns: the longer path counts
    longer = np.maximum(expected[:20], expected[20:])
    np.testing.assert_allclose(trajectories.path_length_m(turns, np.arange(21) * 18, 2 * one[:20]), longer, atol=1e-12)


def test_frame_on_screen_agrees_with_a_plain_search(worlds):
    known = recordings.gather([world.clip for world in worlds])
    rng = np.random.default_rng(1)
    clip = rng.integers(0, 2, 300)
    times_s = rng.uniform(0, 1.05 * known.duration_s[clip])
    times_s[:100] = known.times_s[known.first[clip[:100]] + rng.integers(0, 110, 100)]  # exactly at a frame
    expected = [
        sum(bool(t <= time + 1e-6) for t in worlds[c].clip.times_s) - 1 for c, time in zip(clip, times_s, strict=True)
    ]
    assert trajectories.frames_at(known, clip, times_s).tolist() == expected


def test_world_and_camera_are_each_others_inverse():
    rng = np.random.default_rng(2)
    T = transforms.make(transforms.rotvec_to_rotmat(rng.normal(size=(50, 3))), rng.normal(size=(50, 3)))
    place, points = rng.integers(0, 50, 300), rng.normal(size=(300, 3))
    seen = recordings.to_camera(T, place, points)
    np.testing.assert_allclose(seen, transforms.apply(T[place], points), atol=1e-12)
    np.testing.assert_allclose(recordings.to_world(T, place, seen), points, atol=1e-12)


def test_insignificant_motion_is_filtered_by_its_path(worlds):
    rows, rejected = build(worlds, dataclasses.replace(CONFIG, min_displacement_m=0.25))
    everything, _ = build(worlds, dataclasses.replace(CONFIG, min_displacement_m=0.0))
    kept = everything.filter(pl.col("displacement_m") >= 0.25)
    assert rows["row_id"].to_list() == kept["row_id"].to_list()
    dropped = reasons(rejected)[Reason.INSIGNIFICANT_MOTION]
    assert dropped == (len(everything) - len(rows)) // 3 > 0
    settings = dataclasses.replace(CONFIG, min_displacement_m=0.25)
    lengths_m = action.build([w.clip for w in worlds], made.fits(worlds), settings, made.poses_of).lengths_m
    found = action.metrics(rows, lengths_m, settings)
    assert found["windows_dropped_as_insignificant"] == dropped
    assert found["share_dropped_as_insignificant"] == pytest.approx(dropped / len(lengths_m))
    effect = {line["threshold_m"]: line for line in action.filter_effect(lengths_m, settings)}
    assert effect[0.25]["in_force"]
    assert effect[0.25]["kept"] == rows.filter(task=action_rows.GENERATION).height
    assert effect[0.0]["kept"] == everything.filter(task=action_rows.GENERATION).height
    kept = [effect[t]["kept"] for t in sorted(effect)]
    assert kept == sorted(kept, reverse=True)


def test_motion_outside_the_token_range_is_rejected(worlds):
    world = worlds[1]
    fits = made.fits([world])
    far = fits.with_columns(tau=pl.Series(fits["tau"].to_numpy() + np.float32([0, 0, 0.9]), dtype=fits["tau"].dtype))
    usual = len(build([world])[0])
    rows, rejected = parts_of([world.clip], far)
    assert rows.is_empty()
    assert reasons(rejected)[Reason.OUTSIDE_TOKEN_RANGE] == usual
    kept, _ = parts_of([world.clip], far, dataclasses.replace(CONFIG, max_clipped_share=1.0))
    assert len(kept) == usual
    assert (kept["num_clipped"] * 3 == kept["waypoints"].list.len()).all()


def test_what_is_missing_has_its_reason(worlds):
    clip = worlds[1].clip
    fits = made.fits([worlds[1]])
    silent = dataclasses.replace(clip, instructions=())
    assert set(reasons(parts_of([silent], fits)[1])) == {Reason.NO_INSTRUCTION}
    rows, rejected = parts_of([dataclasses.replace(clip, T_cam_world=None)], fits)
    assert rows.is_empty()
    assert reasons(rejected)[Reason.NO_CAMERA_POSE] == 1
    assert reasons(parts_of([clip], fits.clear())[1]) == {Reason.NO_HAND_DETECTED: 1}
    one_handed = fits.filter(side="left")
    found = reasons(parts_of([clip], one_handed)[1])
    assert found == {Reason.HAND_GAP: 5, Reason.NO_INSTRUCTION: 2, Reason.CHUNK_TOO_SHORT: 1}


def test_a_clip_that_cannot_be_read_stops_no_other(worlds):
    def poses_of(clip):
        if clip.clip_id == "made/b":
            raise ClipError(Reason.CORRUPT_VIDEO, "ends early")
        return made.poses_of(clip)

    found = action.build([w.clip for w in worlds], made.fits(worlds), CONFIG, poses_of)
    assert found.rows.equals(build(worlds[:1])[0])
    broken = found.rejected.filter(item="made/b", reason=Reason.CORRUPT_VIDEO)
    assert broken["detail"].to_list() == ["ends early"]


def test_translation_says_the_instruction(built):
    rows, _ = built
    translation = rows.filter(task=action_rows.TRANSLATION)
    assert (translation["target_text"] == translation["instruction"]).all()
    assert not any(row["instruction"] in row["prompt"] for row in translation.iter_rows(named=True))
    assert rows.filter(pl.col("task") != action_rows.TRANSLATION)["target_text"].null_count() == len(rows) - len(
        translation
    )


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


def test_both_hands_take_turns(worlds):
    """A text for no hand in particular, with both_hands: rows of each hand, and rows of both, left first."""
    world = worlds[0]
    clip = dataclasses.replace(world.clip, instructions=(Instruction(0.0, 22.0, "Clap."),))
    each, _ = parts_of([clip], made.fits([world]))
    rows, rejected = parts_of([clip], made.fits([world]), dataclasses.replace(CONFIG, both_hands=True))
    assert rows.filter(pl.col("side") != "both").equals(each)
    both = rows.filter(side="both")
    assert set(both["task"]) == set(tables.ACTION_TASKS)
    for row in both.iter_rows(named=True):
        points = np.array(row["waypoints"]).reshape(-1, 2, 3)
        times_s = row["start_s"] + np.arange(len(points)) / row["waypoint_hz"]
        for hand, side in enumerate(("left", "right")):
            expected = [expected_waypoint(world, side, t, row["frame"]) for t in times_s]
            np.testing.assert_allclose(points[:, hand], expected, atol=2e-5, err_msg=row["row_id"])
        paths_m = [sum(np.linalg.norm(b - a) for a, b in pairwise(points[:, hand])) for hand in (0, 1)]
        assert row["displacement_m"] == pytest.approx(max(paths_m), abs=1e-4)
        assert len(row["context_tokens"]) % 6 == len(row["target_tokens"]) % 6 == 0
        assert "two hands" in row["prompt"]
        asked = row["context_tokens"] if row["task"] == action_rows.TRANSLATION else row["target_tokens"]
        assert f"{len(asked) // 6}" in row["prompt"]
    assert verify.motion_disagreements(both) == []
    gone = frozenset((clip.clip_id, frame, "left") for frame in range(110))
    rows, rejected = parts_of([clip], made.fits([world], gone), dataclasses.replace(CONFIG, both_hands=True))
    assert rows.filter(pl.col("side") == "both", pl.col("start_s") < 9).is_empty()
    assert rejected.filter(side="both", reason="hand_gap").height > 0


def test_file_of_row_groups_reads_back(worlds, tmp_path):
    rows, _ = build(worlds)
    with tables.writer("action_rows", tmp_path / "parts.parquet") as append:
        for part in rows.iter_slices(20):
            append(part)
        append(rows.clear())
    assert tables.read("action_rows", tmp_path / "parts.parquet").equals(rows)
    with tables.writer("action_rows", tmp_path / "none.parquet"):
        pass
    assert tables.read("action_rows", tmp_path / "none.parquet").is_empty()
