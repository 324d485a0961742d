"""The switch to one virtual pinhole: images, boxes and depth follow the intrinsics, everything in metres stays."""

import dataclasses

import cv2
import numpy as np
import pytest

from ops.geometry.camera import PinholeCamera, opencv_K
from ops.hand3d import action
from ops.rejects import ClipError
from ops.sources.base import ObjectTrack
from ops.sources.virtual_camera import VIRTUAL, to_virtual
from ops.video import write_video
from tests.ops import hand3d_world as made

NEW = PinholeCamera(300.0, 310.0, 150.0, 110.0, 320, 240)


@dataclasses.dataclass(frozen=True)
class FlatDepth:
    image: np.ndarray
    frames: tuple[int, ...] = (0,)

    def read(self, frame):
        return self.image if frame in self.frames else None


def textured(height, width):
    image = np.random.default_rng(0).uniform(0, 255, (height // 12, width // 12, 3)).astype(np.float32)
    return np.clip(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


@pytest.fixture
def clip(tmp_path):
    world = made.make_world("a", 1)
    image = textured(336, 448)
    write_video(tmp_path / "v.mp4", [image] * 3, made.FPS)
    boxes = np.tile([100.0, 80.0, 180.0, 160.0], (world.clip.num_frames, 1))
    far = np.tile([0.0, 0.0, 5.0, 5.0], (world.clip.num_frames, 1))
    seen = np.ones(world.clip.num_frames, bool)
    objects = (ObjectTrack("red cube", boxes, seen, None), ObjectTrack("blue plate", far, seen, None))
    depth = FlatDepth(np.linspace(0.3, 0.9, 336 * 448).reshape(336, 448).astype(np.float32))
    return dataclasses.replace(world.clip, video=tmp_path / "v.mp4", objects=objects, depth=depth)


def test_images_are_opencvs_warp(clip):
    """Second route: cv2.warpPerspective with H = K_new K_old^-1, as the authors' earlier code does."""
    recorded = next(iter(clip.frames([0]))).rgb
    H = opencv_K(NEW) @ np.linalg.inv(opencv_K(clip.camera))
    expected = cv2.warpPerspective(recorded, H, (NEW.width, NEW.height), flags=cv2.INTER_LINEAR)
    warped = next(iter(to_virtual(clip, NEW).frames([0]))).rgb
    assert warped.shape == (240, 320, 3)
    inside = cv2.warpPerspective(np.full((336, 448), 255, np.uint8), H, (NEW.width, NEW.height)) == 255
    assert inside.mean() > 0.9
    difference = np.abs(warped.astype(int) - expected)[inside]
    assert difference.max() <= 3  # fixed-point tables of OpenCV
    assert difference.mean() < 0.5


def test_boxes_and_depth_follow_projected_points(clip):
    virtual = to_virtual(clip, NEW)
    corners = clip.camera.unproject(np.array([[100.0, 80.0], [180.0, 160.0]]), np.array([0.7, 0.7]))
    np.testing.assert_allclose(virtual.objects[0].boxes_px[0].reshape(2, 2), NEW.project(corners), atol=1e-9)
    assert not virtual.objects[1].visible.any()  # it lies outside the new image
    assert np.isnan(virtual.objects[1].boxes_px).all()
    before, after = clip.depth_m(0), virtual.depth_m(0)
    rng = np.random.default_rng(1)
    for _ in range(200):
        px = rng.uniform((1, 1), (NEW.width - 1, NEW.height - 1))
        old = clip.camera.project(NEW.unproject(np.floor(px) + 0.5, 0.5))
        expected = before[int(old[1]), int(old[0])] if clip.camera.contains(old) else np.nan
        np.testing.assert_equal(after[int(px[1]), int(px[0])], np.float32(expected))
    assert virtual.depth_m(1) is None


def test_motion_in_metres_does_not_change(clip):
    world = made.make_world("a", 1)
    fits = made.fits([world])
    before = action.build([world.clip], fits, action_config(), made.poses_of)
    after = action.build([to_virtual(world.clip)], fits, action_config(), made.poses_of)
    assert len(before.rows) > 0
    assert before.rows.equals(after.rows)
    wrist = world.clip.hands["left"].tau
    old, new = (camera.project(wrist) for camera in (world.clip.camera, VIRTUAL))
    K = VIRTUAL.K @ np.linalg.inv(world.clip.camera.K)
    np.testing.assert_allclose(new, old @ K[:2, :2].T + K[:2, 2], atol=1e-9)


def action_config():
    from ops.config import Hand3DActionConfig

    return Hand3DActionConfig(waypoint_hz=5.0)


def test_guessed_intrinsics_are_not_warped(clip):
    with pytest.raises(ClipError, match="without intrinsics"):
        to_virtual(dataclasses.replace(clip, intrinsics="assumed"))
