"""Perception: the metric scale of point maps, object places, two-view depth and the hand tracker.

Peers are the ways an ordinary user writes them: one numpy median a frame; cv2.triangulatePoints for dense flow. Both
sides give the same numbers, which is asserted.
"""

import os
from pathlib import Path

import cv2
import numpy as np

from bench.measure import cpu_s, row
from ops.geometry.camera import PinholeCamera
from ops.perception import calibration, two_view

NUM_FRAMES = 20_000
CAMERA = PinholeCamera(400.0, 400.0, 240.0, 180.0, 480, 360)


def rows() -> list[dict[str, object]]:
    return [_scales(), _triangulation(), *_tracker()]


def _scale_of_frame(joint_z: np.ndarray, map_z: np.ndarray, visible: np.ndarray) -> tuple[float, int, float]:
    omega = visible & (map_z > 0) & (joint_z > 0)
    ratios = joint_z[omega] / map_z[omega]
    s = np.median(ratios)
    return s, len(ratios), np.median(np.abs(ratios - s)) / s


def _scales() -> dict[str, object]:
    rng = np.random.default_rng(0)
    joint_z = rng.uniform(0.3, 0.8, (NUM_FRAMES, 42))
    map_z, visible = joint_z * rng.normal(2.0, 0.1, joint_z.shape), rng.random(joint_z.shape) < 0.8
    map_z[rng.random(map_z.shape) < 0.2] = np.nan

    def per_frame() -> list[tuple[float, int, float]]:
        return [_scale_of_frame(*frame) for frame in zip(joint_z, map_z, visible, strict=True)]

    for ours, peer in zip(calibration.scales(joint_z, map_z, visible), zip(*per_frame(), strict=True), strict=True):
        np.testing.assert_array_equal(ours, np.array(peer))
    ours_s, peer_s = cpu_s(lambda: calibration.scales(joint_z, map_z, visible), 7), cpu_s(per_frame, 3)
    return row(
        "scale calibration", NUM_FRAMES, ours_s, peer_s, "frames/s", "exact; vs numpy medians a frame, 42 joints"
    )


def _triangulation() -> dict[str, object]:
    rng = np.random.default_rng(1)
    u, v = np.meshgrid(np.arange(480.0), np.arange(360.0))
    p, depth, c = np.stack([u, v], -1), rng.uniform(0.4, 2, (360, 480)), np.array([0.1, 0.01, 0.0])
    q = p + (CAMERA.K @ c)[:2] / depth[..., None]
    P = [CAMERA.K @ np.c_[np.eye(3), t] for t in (np.zeros(3), c)]

    def opencv() -> np.ndarray:
        X = cv2.triangulatePoints(*P, p.reshape(-1, 2).T, q.reshape(-1, 2).T)
        return (X[2] / X[3]).reshape(360, 480)

    ours = two_view.triangulate(p, q, CAMERA.K, c)[0]
    np.testing.assert_allclose(ours, depth, rtol=1e-6)
    np.testing.assert_allclose(opencv(), depth, rtol=1e-4)
    ours_s, peer_s = cpu_s(lambda: two_view.triangulate(p, q, CAMERA.K, c), 7), cpu_s(opencv, 3)
    return row("dense triangulation", 360 * 480, ours_s, peer_s, "pixels/s", "480 x 360; vs cv2.triangulatePoints")


def _tracker() -> list[dict[str, object]]:
    """Our tracker (second looks, tracks, settling included) against the bare landmarker on the same frames."""
    weights = Path(os.environ.get("HAND3D_WEIGHTS") or Path(__file__).parents[1] / "data" / "weights")
    video = weights.parent / "raw" / "pianist" / "pianist.avi"
    if not (weights / "hand_landmarker.task").is_file() or not video.is_file():
        return []  # nothing to run it on: `hand3d bootstrap` first
    from ops.hands.mano import load_models
    from ops.perception.settling import settle
    from ops.perception.tracker import Landmarker, _image
    from ops.perception.tracks import track
    from ops.video import read_frames

    frames = list(read_frames(video, range(600, 1200, 6)))
    camera, models = PinholeCamera.from_fov_x(60.0, 640, 480), load_models(weights / "hand_model")

    def ours() -> None:
        with Landmarker(weights / "hand_landmarker.task", 0.3) as landmarker:
            hands, _ = track(frames, camera, landmarker, "pianist")
        for hand in hands:
            settle(models[hand.side], hand, camera)

    def bare() -> None:
        with Landmarker(weights / "hand_landmarker.task", 0.3) as landmarker:
            for frame in frames:
                landmarker._video.detect_for_video(_image(frame.rgb), round(frame.time_s * 1000))

    ours_s, peer_s = cpu_s(ours, 1), cpu_s(bare, 1)
    note = "640 x 480; second looks, tracks and MANO fit included, vs the bare landmarker (pixels only)"
    return [row("hand tracker", len(frames), ours_s, peer_s, "frames/s", note)]
