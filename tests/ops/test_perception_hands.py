"""Tracks, placing, settling and label rows against made-up hands of known truth. No weights needed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ops.config import ManoFitsConfig
from ops.hands.mano import load_models
from ops.perception import mano_fits, settling, tracker, tracks
from ops.perception.tracker import Detection
from ops.perception.visibility import Visibility
from ops.rejects import Reason
from ops.sources.base import HandTrack
from ops.video import Frame
from tests.ops.perception_world import CAMERA, make_clip, pose
from tests.ops.toy_hands import natural_poses, write_toy_models

HAND_PX = np.c_[np.linspace(0, 30, 21), np.linspace(0, 40, 21)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return load_models(write_toy_models(tmp_path_factory.mktemp("hands")))


def seen(frame: int, x: float, side: str = "right", score: float = 0.9, moved: float = 0.05) -> Detection:
    world = np.random.default_rng(0).normal(0, 0.04, (21, 3))
    return Detection(frame, frame / 10, side, score, HAND_PX + np.array([x, 100]), world, moved)


# -- tracks


def test_crossing_hands_keep_their_identity():
    left, right = np.linspace(20, 260, 13), np.linspace(260, 20, 13)
    detections = [[seen(f, left[f], "left"), seen(f, right[f], "right")][:: (-1) ** f] for f in range(13)]
    found = tracks.link(detections)
    assert len(found) == 2
    assert {tuple(d.side for d in track) for track in found} == {("left",) * 13, ("right",) * 13}


def test_a_flipped_label_does_not_split_a_track():
    detections = [[seen(f, 100 + f, "left" if f in (3, 4) else "right")] for f in range(9)]
    (track,) = tracks.link(detections)
    assert len(track) == 9
    assert tracks.side_of(track) == "right"


def test_a_jump_or_a_long_gap_starts_a_new_track():
    assert len(tracks.link([[seen(0, 20)], [seen(1, 260)]])) == 2
    assert len(tracks.link([[seen(0, 20)], [], [seen(6, 22)]])) == 1
    assert len(tracks.link([[seen(0, 20)], [], [seen(8, 22)]])) == 2


def test_a_second_hand_of_one_side_is_spare():
    detections = [[seen(f, 20, "right", 0.9), seen(f, 200, "right", 0.6)] for f in range(4)]
    kept, spare = tracks.one_per_side(tracks.link(detections))
    assert list(kept) == ["right"]
    assert [d.score for d in spare] == [0.6] * 4


class FakeLandmarker:
    """Gives prepared detections, frame by frame."""

    def __init__(self, detections: list[list[Detection]]) -> None:
        self.detections = detections

    def detect(self, frame: Frame) -> list[Detection]:
        return self.detections[frame.index]


def frames(num: int):
    return (Frame(i, i / 10, np.zeros((8, 8, 3), np.uint8)) for i in range(num))


def test_rejects_of_tracking_say_why():
    detections = [
        [seen(0, 20)],
        [],
        [seen(2, 20), seen(2, 250, "left", moved=np.inf)],
        [seen(3, 20), seen(3, 120, "right", 0.6)],
    ]
    hands, rejects = tracks.track(frames(4), CAMERA, FakeLandmarker(detections), "clip")
    assert [(hand.side, hand.frames.tolist()) for hand in hands] == [("right", [0, 2, 3])]
    assert [(r.reason, r.frame, r.side) for r in rejects] == [
        (Reason.NO_HAND_DETECTED, 1, ""),
        (Reason.HAND_NOT_CONFIRMED, 2, "left"),
        (Reason.HAND_IDENTITY_AMBIGUOUS, 3, "right"),
    ]


# -- placing


def test_pnp_finds_the_pose_that_made_the_pixels():
    rng = np.random.default_rng(1)
    world = rng.normal(0, 0.04, (21, 3))
    T = pose((0.02, 0.05, -0.6), (0.3, -0.8, 0.2))
    joints = world @ T[:3, :3].T + T[:3, 3]
    np.testing.assert_allclose(tracks.pnp(world, CAMERA.project(joints), CAMERA), joints, atol=1e-6)
    assert np.isnan(tracks.pnp(np.outer(np.linspace(0, 1, 21), [1, 2, 3]), HAND_PX, CAMERA)).all()  # a line
    assert np.isnan(tracks.pnp(np.full((21, 3), np.nan), HAND_PX, CAMERA)).all()


def test_the_size_of_a_hand_is_the_median_over_its_track():
    rng = np.random.default_rng(2)
    world = rng.normal(0, 0.04, (21, 3))
    px = CAMERA.project(world + np.array([0, 0, 0.6]))
    sizes = [0.7, 1.0, 1.4, 1.0, 0.9]
    hand = [Detection(f, f / 10, "left", 0.9, px, world * size, 0.0) for f, size in enumerate(sizes)]
    placed = tracks.place("left", hand, CAMERA)
    np.testing.assert_allclose(placed.joints_cam, np.broadcast_to(world + np.array([0, 0, 0.6]), (5, 21, 3)), atol=1e-6)
    assert placed.reprojection_px.max() < 1e-3


@pytest.mark.parametrize("depth", [1.0, 0.6])
def test_settling_agrees_with_the_pixels(models, depth):
    """depth: of the tracker's joints about their centre; 1 = right, 0.6 = too flat, as no hand can be."""
    rng = np.random.default_rng(3)
    theta, r, _, _ = natural_poses(rng, 30)
    truth = models["right"].joints(theta, r, rng.normal(0, 0.03, (30, 3)) + np.array([0, 0, 0.5]), np.zeros(10))
    px, world = CAMERA.project(truth), (truth - truth.mean(axis=1, keepdims=True)) * np.array([1, 1, depth])
    hand = tracks.place("right", [Detection(f, f / 10, "right", 0.9, px[f], world[f], 0.0) for f in range(30)], CAMERA)
    settled = settling.settle(models["right"], hand, CAMERA)
    before, after = (np.linalg.norm(j[:, 0] - truth[:, 0], axis=1) for j in (hand.joints_cam, settled.fitted.joints))
    if depth == 1.0:
        assert np.median(after) < 0.005
        assert np.median(settled.residual_mm) < 1
        assert settled.reprojection_px.max() < 1
    else:
        assert np.median(settled.reprojection_px) < 0.9 * np.median(hand.reprojection_px)
        assert after.mean() < before.mean()


def test_shape_distance_ignores_rigid_motion_but_not_size_or_mirror():
    rng = np.random.default_rng(4)
    a = rng.normal(0, 0.05, (3, 21, 3))
    moved = a @ pose((0, 0, 0), (0.4, 1.0, -0.3))[:3, :3].T + np.array([0.1, 0.2, 0.7])
    np.testing.assert_allclose(settling.shape_distance(a, moved), 0, atol=1e-12)
    assert (settling.shape_distance(a, 1.1 * a) > 1e-3).all()
    assert (settling.shape_distance(a, a * [-1, 1, 1]) > 1e-2).all()
    moved[1, 3] = np.nan
    assert np.isnan(settling.shape_distance(a, moved)).tolist() == [False, True, False]


def test_tiles_cover_the_frame_and_stay_inside():
    for width, height in ((1080, 1920), (1920, 1080), (901, 640)):
        covered = np.zeros((height, width), bool)
        for x, y, w, h in tracker.tiles(width, height):
            assert x >= 0
            assert y >= 0
            assert x + w <= width
            assert y + h <= height
            covered[y : y + h, x : x + w] = True
        assert covered.all()


def test_a_crop_for_a_second_look_is_the_right_part(models):
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:50, 60:70] = 255
    crop = tracker._square(picture, np.array([50.0, 30.0]), 32, mirror=False)
    v, u = np.nonzero(crop[..., 0] > 127)
    scale = tracker.LOOK_PIXELS / 32
    assert (u.min() / scale, (u.max() + 1) / scale) == pytest.approx((10, 20), abs=0.2)
    assert (v.min() / scale, (v.max() + 1) / scale) == pytest.approx((10, 20), abs=0.2)
    np.testing.assert_array_equal(tracker._square(picture, np.array([50.0, 30.0]), 32, mirror=True), crop[:, ::-1])


# -- label rows


@pytest.fixture
def labelled(tmp_path, models):
    """A clip of six frames: frame 1 has a NaN, frame 2 no label, frame 3 lies outside, frame 4 behind the camera."""
    theta, r, _, beta = natural_poses(np.random.default_rng(5), 6)
    tau = np.tile([0.0, 0.0, 0.6], (6, 1))
    tau[3], tau[4] = [5.0, 0.0, 0.6], [0.0, 0.0, -0.6]
    theta[1, 7] = np.nan
    hand = HandTrack(theta, r, tau, beta[0] if beta.ndim == 2 else beta, np.arange(6) != 2)
    return make_clip(tmp_path, [pose((0, 0, 0))] * 6, {"right": hand})


def test_label_rows_and_their_rejects(labelled, models):
    table, rejects = mano_fits.clip_fits(labelled, ManoFitsConfig(), models, Path("none"))
    assert table["frame"].to_list() == [0, 5]
    assert sorted((r.reason, r.frame, r.side) for r in rejects) == [
        (Reason.HAND_OUTSIDE_VIEW, 3, "right"),
        (Reason.HAND_OUTSIDE_VIEW, 4, "right"),
        (Reason.NAN_LABEL, 1, "right"),
        (Reason.NO_HAND_DETECTED, 2, ""),
    ]
    hand = labelled.hands["right"]
    expected = models["right"].joints(hand.theta[5:], hand.r[5:], hand.tau[5:], hand.beta)[0]
    np.testing.assert_allclose(table["joints_cam"].to_numpy()[1].reshape(21, 3), expected, atol=1e-6)
    np.testing.assert_allclose(table["tau"].to_numpy()[1], expected[0], atol=1e-6)  # tau is the wrist
    visible = table["visibility"].to_numpy()[1]
    assert (visible[CAMERA.contains(CAMERA.project(expected))] == Visibility.VISIBLE).all()


def test_only_sampled_frames_are_looked_at(labelled, models):
    table, rejects = mano_fits.clip_fits(labelled, ManoFitsConfig(sample_fps=1.0), models, Path("none"))
    assert table["frame"].to_list() == [0, 5]
    assert rejects == []


def test_a_finished_clip_is_not_done_again_unless_something_changed(labelled, models, tmp_path, monkeypatch):
    config, scratch = ManoFitsConfig(), tmp_path / "scratch"
    scratch.mkdir()
    arguments = (scratch, labelled, "v1", config, models, Path("none"))
    first, rejects = mano_fits._kept_or_new(*arguments)
    monkeypatch.setattr(mano_fits, "clip_fits", lambda *_: pytest.fail("done again"))
    again, rejects_again = mano_fits._kept_or_new(*arguments)
    assert again.equals(first)
    assert rejects_again == rejects
    for changed in (
        (scratch, labelled, "v2", config, models, Path("none")),
        (scratch, labelled, "v1", dataclasses.replace(config, sample_fps=2.0), models, Path("none")),
    ):
        with pytest.raises(pytest.fail.Exception, match="done again"):
            mano_fits._kept_or_new(*changed)


def test_missing_landmarker_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="hand3d bootstrap"):
        tracker.Landmarker(tmp_path / "none.task", 0.3)
