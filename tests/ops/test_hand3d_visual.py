"""hand3d_visual against a made world: every vector from the world's truth, every reason for leaving something out."""

import dataclasses
from collections import Counter

import numpy as np
import polars as pl
import pytest
from scipy.spatial.transform import Rotation

from ops import config, pipeline, tables
from ops.hand3d import facts, relations, verify, visual
from ops.rejects import ClipError, Reason
from ops.sources.base import Instruction
from ops.video import write_video
from tests.ops import hand3d_world as made

GAMMA, SEED = 0.3, 42


@pytest.fixture(scope="module")
def worlds():
    return [
        made.make_world("a", 1),
        made.make_world("b", 2, moving=False, split="test"),
        made.make_world("c", 3, posed=False),
    ]


def build(worlds, positions=None, calibrations=None, gone=frozenset()):
    known = facts.gather(
        [world.clip for world in worlds],
        made.fits(worlds, gone),
        made.calibrations(worlds) if calibrations is None else calibrations,
        made.positions(worlds) if positions is None else positions,
        1.0,
        made.poses_of,
    )
    candidates, rejected = visual.propose(known, SEED)
    return visual.label(candidates, GAMMA, SEED), rejected


@pytest.fixture(scope="module")
def built(worlds):
    return build(worlds)


def truth_of(row, world):
    """The row's vector from the world frame alone."""
    last = row["frames"][-1]
    if row["task"] == "camera_movement":
        moved = world.centre_world[last] - world.centre_world[row["frames"][0]]
        return world.R_world_cam[last].T @ moved
    if row["task"] == "hand_movement":
        moved = world.wrist_world[row["side"]][last] - world.wrist_world[row["side"]][row["frames"][0]]
        return world.R_world_cam[last].T @ moved
    palm = world.palm_cam(last, row["side"])
    if row["object"] in ("left hand", "right hand"):
        return world.palm_cam(last, row["object"].split()[0]) - palm
    return world.in_camera(last, world.object_world[row["object"]]) - palm


def test_vectors_are_the_worlds(worlds, built):
    rows, _ = built
    by_id = {world.clip.clip_id: world for world in worlds}
    assert Counter(rows["task"]).keys() == set(tables.VISUAL_TASKS)
    for row in rows.iter_rows(named=True):
        np.testing.assert_allclose(
            row["vector"], truth_of(row, by_id[row["clip_id"]]), atol=2e-6, err_msg=row["row_id"]
        )


def test_camera_rotation_is_the_worlds(worlds, built):
    rows, _ = built
    turns = rows.filter(task="camera_movement")
    assert len(turns) > 3
    for row in turns.iter_rows(named=True):
        first, last = (Rotation.from_matrix(worlds[0].R_world_cam[f]) for f in row["frames"])
        body = Rotation.from_rotvec(row["rotation"])  # in the first camera's axes
        np.testing.assert_allclose((first * body).as_matrix(), last.as_matrix(), atol=1e-6)


def test_movement_does_not_depend_on_the_cameras(worlds):
    """The same hand seen from a still camera moves as far (not in the same axes)."""
    still = made.make_world("a", 1, moving=False)
    np.testing.assert_allclose(still.wrist_world["left"], worlds[0].wrist_world["left"])
    moving, fixed = (build([w])[0].filter(task="hand_movement").sort("row_id") for w in (worlds[0], still))
    assert len(moving) == len(fixed) > 10
    np.testing.assert_allclose(moving["distance_m"], fixed["distance_m"], atol=1e-6)
    assert np.abs(moving["vector"].to_numpy() - fixed["vector"].to_numpy()).max() > 0.003


def test_the_plain_twin_agrees(worlds, built):
    rows, _ = built
    known = verify.truth([world.clip for world in worlds], made.fits(worlds), made.positions(worlds))
    assert verify.disagreements(rows, known, GAMMA) == []


@pytest.mark.parametrize(
    ("column", "change", "word"),
    [
        ("vector", lambda row: [row["vector"][0] + 0.001, *row["vector"][1:]], "vector"),
        ("distance_m", lambda row: row["distance_m"] + 0.02, "distance"),
        ("direction", lambda row: [-d for d in row["direction"]], "direction"),
        ("answer", lambda row: row["answer"].replace(" m.", "9 cm."), "answer says"),
        ("contact", lambda row: not row["contact"], "contact"),
        ("rotation", lambda row: [0.1, 0.2, 0.3], "rotation"),
        ("start", lambda row: [row["start"][0], row["start"][1] + 0.001, row["start"][2]], "start"),
        ("frames", lambda row: [row["frames"][0], 5], "vector"),
    ],
)
def test_the_plain_twin_sees_one_wrong_number(worlds, built, column, change, word):
    rows, _ = built
    task = {"contact": "spatial_relation", "rotation": "camera_movement", "frames": "hand_movement"}.get(
        column, "task_completion"
    )
    row = rows.filter(pl.col("task") == task, pl.col("distance_m") > 0.03).row(0, named=True)
    bad = pl.DataFrame([row | {column: change(row)}], schema=rows.schema)
    positions = made.positions(worlds)
    known = verify.truth([world.clip for world in worlds], made.fits(worlds), positions)
    assert word in " ".join(verify.disagreements(bad, known, GAMMA))


def test_rows_keep_the_schema_and_say_where_they_come_from(built):
    rows, _ = built
    tables.validate("visual_rows", rows)
    assert rows.filter(pl.col("clip_id") == "made/b")["split"].unique().to_list() == ["test"]
    assert set(rows["licence"]) == {"CC0"}
    depth = rows.filter(pl.col("object").is_in(["red cube", "blue plate"]))
    assert set(depth["scale"]) == {made.SCALE}


def test_frames_are_consecutive_samples_up_to_the_last(built):
    rows, _ = built
    shown = rows.filter(pl.col("task").is_in(["spatial_relation", "task_completion"]))
    lengths = Counter(shown["frames"].list.len())
    assert set(lengths) == {1, 2, 3, 4}
    for row in shown.iter_rows(named=True):
        frames = row["frames"]
        assert frames == list(range(frames[0], frames[-1] + 1, 10))
        assert f":{frames[-1]}:" in row["row_id"]
    pairs = rows.filter(pl.col("task").is_in(["hand_movement", "camera_movement"]))
    assert {last - first for first, last in pairs["frames"]} == {10, 20, 30}


def test_contact_is_the_labels(worlds, built):
    rows, _ = built
    for row in rows.filter(task="spatial_relation").iter_rows(named=True):
        if row["object"] in ("left hand", "right hand"):
            assert row["contact"] is None
        else:
            expected = row["object"] == "red cube" and row["side"] == "right" and 35 <= row["frames"][-1] < 60
            assert row["contact"] == expected
            assert row["answer"].startswith(f"Touching: {'yes' if expected else 'no'}.")


def test_target_is_the_next_object_named(built):
    """ "Put the red cube on the blue plate": the cube until it is touched (35), the plate until it is let go (60)."""
    rows, _ = built
    targets = {(r["frames"][-1], r["object"]) for r in rows.filter(task="task_completion").iter_rows(named=True)}
    assert targets == {(f, "red cube") for f in (0, 10, 20, 30)} | {(f, "blue plate") for f in (40, 50)}
    assert set(rows.filter(task="task_completion")["side"]) == {"right"}


def test_without_contact_labels_nothing_is_said_of_contact(worlds):
    world = worlds[0]
    clip = dataclasses.replace(world.clip, contact=None)
    rows, _ = build([dataclasses.replace(world, clip=clip)])
    assert rows["contact"].null_count() == len(rows)
    assert not rows["answer"].str.contains("Touching").any()
    assert set(rows.filter(task="task_completion")["object"]) == {"red cube"}


def reasons(rejected, clip_id="made/a"):
    return Counter(rejected.filter(item=clip_id)["reason"])


def test_every_reject_has_its_reason(worlds):
    a, _, c = worlds
    _, rejected = build(worlds)
    assert reasons(rejected) == {
        Reason.NO_OBJECT: 4,
        Reason.TARGET_REACHED: 1,
    }  # "Wave." names no object, frames 70 to 100
    still = reasons(rejected, "made/b")
    assert set(still) == {Reason.INSIGNIFICANT_MOTION, Reason.NO_OBJECT, Reason.TARGET_REACHED}
    assert still[Reason.INSIGNIFICANT_MOTION] == 10  # a pair for every sample but the first
    assert reasons(rejected, c.clip.clip_id)[Reason.NO_CAMERA_POSE] == 10 + 2 * 10
    some = made.calibrations(worlds).filter(pl.col("frame") != 20)
    rows, rejected = build([a], made.positions([a]), some.filter(clip_id="made/a"))
    assert reasons(rejected)[Reason.NOT_CALIBRATED] == 1
    with_depth = rows.filter(pl.col("object").is_in(["red cube", "blue plate"]))
    assert 20 not in with_depth["frames"].list.last().to_list()
    no_cube = made.positions([a]).filter(~((pl.col("name") == "red cube") & (pl.col("frame") == 10)))
    assert reasons(build([a], no_cube)[1])[Reason.NO_OBJECT] == 5
    none = made.positions([a]).filter(pl.col("frame") != 10)
    assert reasons(build([a], none)[1])[Reason.NO_OBJECT] == 6  # the frame, and the task in it


def test_two_objects_of_one_name_are_not_asked_about(worlds):
    positions = made.positions([worlds[0]])
    twin = positions.filter(pl.col("name") == "blue plate", pl.col("frame") == 0)
    rows, rejected = build([worlds[0]], pl.concat([positions, twin]))
    asked = rows.filter(pl.col("object") == "blue plate", pl.col("frames").list.last() == 0)
    assert asked.is_empty()
    assert "several objects are called blue plate" in rejected["detail"].to_list()


def test_hand_unseen_in_the_first_frame_is_a_gap(worlds):
    gone = frozenset(("made/a", frame, "left") for frame in range(35, 65))
    rows, rejected = build([worlds[0]], gone=gone)
    left = rows.filter(pl.col("side") == "left")
    assert not left.filter(pl.col("frames").list.last().is_between(35, 64)).height
    assert reasons(rejected)[Reason.HAND_GAP] > 0
    for row in left.filter(task="hand_movement").iter_rows(named=True):
        assert not 35 <= row["frames"][0] < 65


def test_target_already_reached_is_left_out(worlds):
    world = worlds[0]
    touched = {side: at.copy() for side, at in world.clip.contact.items()}
    touched["right"][62:] = 1
    whole = (Instruction(0.0, 11.0, world.clip.instructions[0].text, "right"),)
    longer = dataclasses.replace(world.clip, contact=touched, instructions=whole)
    _, rejected = build([dataclasses.replace(world, clip=longer)])
    assert reasons(rejected)[Reason.TARGET_REACHED] == 5  # let go at 60, the plate touched from 62 on


def test_hands_further_apart_than_arms_reach_are_not_related(worlds):
    """In one frame the left hand is pushed 1.9 m away, as by a wrong depth; nothing else changes."""
    world = worlds[1]
    fits = made.fits([world])
    wrong = pl.Series(((fits["side"] == "left") & (fits["frame"] == 20)).to_numpy())
    pushed = fits["joints_cam"].to_numpy() + np.float32([0, 0, 1.9] * 21)
    moved = fits.with_columns(joints_cam=pl.when(wrong).then(pl.Series(pushed, dtype=fits["joints_cam"].dtype)).otherwise("joints_cam"))  # fmt: skip
    known = [facts.gather([world.clip], f, made.calibrations([world]), made.positions([world]), 1.0, made.poses_of) for f in (fits, moved)]  # fmt: skip
    before, after = (relations.hand_hand(k, SEED) for k in known)
    assert before[1].is_empty()
    assert len(after[0]) == len(before[0]) - 1
    assert not any(frames[-1] == 20 for frames in after[0]["frames"].to_list())
    apart_m = np.linalg.norm(world.palm_cam(20, "right") - world.palm_cam(20, "left") - np.array([0, 0, 1.9]))
    reject = after[1].row(0, named=True)
    assert (reject["item"], reject["reason"], reject["frame"]) == ("made/b", Reason.HANDS_TOO_FAR_APART, 20)
    assert reject["detail"] == f"palms {apart_m:.2f} m apart, at most 1.8 m allowed"


def test_what_lies_behind_the_camera_is_left_out(worlds):
    positions = made.positions([worlds[0]])
    place = positions["position_cam"].to_numpy().copy()
    behind = (positions["name"] == "red cube").to_numpy() & (positions["frame"] == 20).to_numpy()
    place[behind, 2] *= -1
    rows, rejected = build(
        [worlds[0]], positions.with_columns(position_cam=pl.Series(place, dtype=positions["position_cam"].dtype))
    )
    there = rejected.filter(reason=Reason.BEHIND_CAMERA)
    assert there.select("frame", "detail").rows() == [(20, "red cube lies behind the camera")]
    asked = rows.filter(pl.col("object") == "red cube")["frames"].list.last()
    assert 20 not in asked.to_list()
    assert 10 in asked.to_list()


def test_more_completions_of_a_moment_show_other_frames(worlds):
    def completions(per_moment):
        known = facts.gather(
            [worlds[0].clip],
            made.fits(worlds),
            made.calibrations(worlds),
            made.positions(worlds),
            1.0,
            made.poses_of,
            per_moment,
        )
        return visual.propose(known, SEED)[0].filter(task="task_completion")

    one, four = completions(1), completions(4)
    assert four.join(one, on="row_id", how="semi").equals(one)
    moments = four.group_by(pl.col("frames").list.last(), "side").agg(pl.len(), different=pl.col("frames").n_unique())
    assert (moments["len"] == moments["different"]).all()
    assert dict(moments.filter(side="right").select("frames", "len").iter_rows()) == {
        0: 1,
        10: 2,
        20: 3,
        30: 4,
        40: 4,
        50: 4,
    }
    with pytest.raises(ValueError, match="give 1 to 4"):
        completions(5)


def test_every_row_says_how_it_was_calibrated_and_what_is_allowed(built):
    rows, _ = built
    with_depth = rows.filter(pl.col("object").is_in(["red cube", "blue plate"]))
    assert set(with_depth["spread"]) == {np.float32(0.01).item()}
    assert set(with_depth["num_omega"]) == {21}
    assert rows.filter(~pl.col("row_id").is_in(with_depth["row_id"].implode()))["spread"].null_count() == len(
        rows
    ) - len(with_depth)
    assert set(rows["intrinsics"]) == {"given"}
    assert set(rows.select("noncommercial", "redistributable").rows()) == {(True, False)}  # unless a source says more
    asked = rows.filter(task="task_completion")
    assert all(row["instruction"] in row["question"] for row in asked.iter_rows(named=True))


def test_names_in_text():
    names = ["cup", "red cup", "plate"]
    assert facts.mentioned("Put the red cup on the plate, then the cup", names) == ["red cup", "plate", "cup"]
    assert facts.mentioned("Put the RED CUP down", names) == ["red cup"]
    assert facts.mentioned("cupboard", names) == []


def test_same_inputs_same_bytes_whatever_the_order(worlds, tmp_path):
    first, _ = build(worlds)
    second, _ = build(worlds[::-1])
    for name, rows in (("x", first), ("y", second)):
        tables.write("visual_rows", rows, tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert build(worlds[:1])[0]["question"].to_list() == first.filter(clip_id="made/a")["question"].to_list()


def test_unreadable_video_is_a_counted_reject_and_the_rest_goes_on(worlds):
    def poses_of(clip):
        if clip.clip_id == "made/a":
            raise ClipError(Reason.CORRUPT_VIDEO, "ends early", 7)
        return made.poses_of(clip)

    clips = [world.clip for world in worlds]
    known = facts.gather(clips, made.fits(worlds), made.calibrations(worlds), made.positions(worlds), 1.0, poses_of)
    candidates, rejected = visual.propose(known, SEED)
    assert set(candidates["clip_id"]) == {"made/b", "made/c"}
    assert reasons(rejected) == {Reason.CORRUPT_VIDEO: 1}


def test_no_clips_give_empty_tables():
    rows, rejected = build([])
    assert tables.validate("visual_rows", rows).is_empty()
    assert rejected.is_empty()


def test_stage_writes_tables_pictures_and_counts(worlds, tmp_path, monkeypatch):
    video = tmp_path / "raw.mp4"
    write_video(video, [np.full((36, 48, 3), 90, np.uint8)] * worlds[0].clip.num_frames, made.FPS)
    clips = [dataclasses.replace(world.clip, video=video) for world in worlds]
    monkeypatch.setattr(visual, "read_clips", lambda folder, root: iter(clips))
    inputs = {"raw_videos": {}, "mano_fits": {"mano_fits": made.fits(worlds)}, "point_clouds": {}}
    inputs["calibrated_point_clouds"] = {
        "calibrations": made.calibrations(worlds),
        "object_positions": made.positions(worlds),
    }
    for stage, held in inputs.items():
        folder = pipeline.output(tmp_path, stage, "s")
        folder.mkdir(parents=True)
        for name, table in held.items():
            tables.write(name, table, folder / f"{name}.parquet")
    report = pipeline.run_stage(tmp_path, made_config(), "hand3d_visual", "s")
    out = pipeline.output(tmp_path, "hand3d_visual", "s")
    train, test = (tables.read("visual_rows", out / f"{name}.parquet") for name in ("visual_rows", "held_out_rows"))
    assert (len(train), len(test)) == (report.rows["visual_rows"], report.rows["held_out_rows"])
    assert set(train["clip_id"]) == {"made/a", "made/c"}
    assert set(test["clip_id"]) == {"made/b"}
    assert sum(report.rejects.values()) == tables.read("rejects", out / "rejects.parquet").height > 0
    assert all(1000 < (out / path).stat().st_size < 300_000 for path in report.pictures.values())
    assert len(report.pictures) == 2


def made_config():
    steps = {"num_steps": 1, "batch_size": 1, "lr": 1e-3, "weight_decay": 0.0, "warmup_ratio": 0.0}
    shard = {"source": "made", "kind": "folder", "root": "none"}
    return config.build(
        config.Config,
        {"shards": {"s": shard}, **dict.fromkeys(("base_model", "stage1", "stage2", "stage3"), steps)},
        "made",
    )


@pytest.mark.parametrize("way", ["write", "writer"])
def test_file_of_a_shard_is_read_by_pandas_and_arrow_as_well(built, tmp_path, way):
    """Vectors with nulls among them: Arrow refuses such fixed-size lists (apache/arrow#35692)."""
    import pandas
    import pyarrow.parquet as pq

    rows, _ = built
    path = tmp_path / "visual_rows.parquet"
    if way == "write":
        tables.write("visual_rows", rows, path)
    else:
        with tables.writer("visual_rows", path) as append:
            append(rows)
    assert rows["rotation"].null_count() > 0
    assert rows["start"].null_count() > 0
    assert tables.read("visual_rows", path).equals(rows)
    expected = rows["rotation"].to_list()
    assert pq.read_table(path)["rotation"].to_pylist() == expected
    seen = pandas.read_parquet(path)["rotation"]
    assert [None if v is None else v.tolist() for v in seen] == expected
