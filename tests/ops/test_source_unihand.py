"""UniHand_Preview: columns found by name, the unified vector's slots, and a clear refusal of what is not understood."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ops.geometry.camera import PinholeCamera
from ops.rejects import Reason
from ops.sources import unihand
from ops.sources.base import HandTrack
from ops.sources.example import make_truth
from tests.ops.toy_hands import write_toy_models

FOCAL = 736.6339 / 6
CAMERA = PinholeCamera(FOCAL, FOCAL, 160, 90, 320, 180)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def truth(models):
    made = make_truth(models, CAMERA, num_frames=6, seed=8, name="EgoDex")
    left = made.hands["left"]
    gap = HandTrack(left.theta, left.r, left.tau, left.beta, np.array([True, True, False, True, True, True]))
    return replace(made, hands=made.hands | {"left": gap})


@pytest.fixture
def folder(tmp_path, truth):
    unihand.write_example(tmp_path, truth)
    return tmp_path / "EgoDex_lerobot_v3"


def read(root, models):
    return list(unihand.read_clips(root, hand_model=models))


def info_of(folder, change):
    path = folder / "meta/info.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_round_trip(tmp_path, folder, truth, models):
    (clip,) = read(tmp_path, models)
    assert clip.clip_id == "unihand/EgoDex_lerobot_v3/videos/ego-view/chunk-000/file-000"
    assert (clip.num_frames, clip.intrinsics, clip.hand_model, clip.view) == (6, "assumed", models, "ego-view")
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-9)
    for side, track in truth.hands.items():
        mine = clip.hands[side]
        np.testing.assert_array_equal(mine.valid, track.valid)
        for key in ("theta", "r", "tau"):
            np.testing.assert_allclose(getattr(mine, key)[mine.valid], getattr(track, key)[mine.valid], atol=1e-6)
        np.testing.assert_allclose(mine.beta, track.beta, atol=1e-6)  # float32 on disk
        joints = truth.models[side].joints(mine.theta, mine.r, mine.tau, mine.beta)[mine.valid]
        np.testing.assert_allclose(joints, truth.joints_cam[side][mine.valid], atol=2e-6)
    (said,) = clip.instructions
    assert (said.text, said.start_s, said.end_s) == ("pick up the box", 0.0, pytest.approx(0.2))
    assert len(unihand.side_files(clip.video)) == 4


def test_the_published_slots(folder, truth):
    """Being-H's 200 numbers: right eef 0:6, left eef 9:15, betas 90:100 and 100:110, thetas 110:155 and 155:200."""
    rows = np.array(pq.read_table(folder / "data/chunk-000/file-000.parquet")["observation.state"].to_pylist())
    right, left = truth.hands["right"], truth.hands["left"]
    np.testing.assert_allclose(rows[:, 0:6], np.concatenate([right.tau, right.r], axis=1), atol=1e-6)
    np.testing.assert_allclose(rows[0, 9:15], [*left.tau[0], *left.r[0]], atol=1e-6)
    np.testing.assert_allclose(rows[0, 90:110], [*right.beta, *left.beta], atol=1e-6)
    np.testing.assert_allclose(rows[0, 110:200], [*right.theta[0], *left.theta[0]], atol=1e-6)
    assert not rows[2, 9:15].any()
    assert not rows[:, 15:90].any()


def test_rows_of_the_whole_set_as_spans(tmp_path, folder, truth, models):
    unihand.write_example(tmp_path, truth)
    (folder / "meta/episodes/instruction/chunk-000/file-001.parquet").unlink()
    table = {"chunk_index": [0, 0, 0], "file_index": [0, 0, 1], "dataset_from_index": [100, 103, 106], "dataset_to_index": [103, 106, 112], "tasks": [["first"], ["second"], ["third with the left hand"]]}  # fmt: skip
    pq.write_table(pa.table(table), folder / "meta/episodes/instruction/chunk-000/file-000.parquet")
    one, two = read(tmp_path, models)
    found = [(said.text, round(said.start_s * 30), round(said.end_s * 30)) for said in one.instructions]
    assert found == [("first", 0, 3), ("second", 3, 6)]
    assert [(said.text, said.side) for said in two.instructions] == [("third with the left hand", "left")]


@pytest.mark.parametrize(
    ("damage", "reason", "says"),
    [
        (lambda f: info_of(f, lambda c: c["features"].pop("observation.state")), Reason.BAD_LABEL, "meta/info.json lists ego-view"),
        (lambda f: info_of(f, lambda c: c["features"]["observation.state"].__setitem__("shape", [48])), Reason.BAD_LABEL, r"observation.state [48]"),
        (lambda f: info_of(f, lambda c: c.pop("features")), Reason.BAD_LABEL, "no features"),
        (lambda f: (f / "data/chunk-000/file-000.parquet").unlink(), Reason.MISSING_LABELS, "file-000.parquet"),
        (lambda f: pq.write_table(pa.table({"x": [1]}), f / "data/chunk-000/file-000.parquet"), Reason.BAD_LABEL, "observation.state"),
        (lambda f: pq.write_table(pa.table({"observation.state": [[0.0] * 200] * 5}), f / "data/chunk-000/file-000.parquet"), Reason.FRAME_COUNT_MISMATCH, "5 rows for 6 frames"),
        (lambda f: pq.write_table(pa.table({"observation.state": [[float("nan")] * 200] * 6}), f / "data/chunk-000/file-000.parquet"), Reason.NAN_LABEL, "observation.state"),
        (lambda f: pq.write_table(pa.table({"who": [1]}), f / "meta/episodes/instruction/chunk-000/file-000.parquet"), Reason.BAD_LABEL, "it has who"),
        (lambda f: (f / "meta/tasks_instruction.jsonl").write_text("[]"), Reason.BAD_LABEL, "task_index"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_a_list(tmp_path, folder, models, damage, reason, says):
    damage(folder)
    (reject,) = read(tmp_path, models)
    assert reject.reason == reason
    assert says in reject.detail


def test_mano_files_are_needed(tmp_path, folder):
    (reject,) = read(tmp_path, None)
    assert reject.reason == Reason.MISSING_HAND_MODEL


def test_no_text_is_no_instruction(tmp_path, folder, models):
    import shutil

    shutil.rmtree(folder / "meta/episodes")
    (clip,) = read(tmp_path, models)
    assert clip.instructions == ()
