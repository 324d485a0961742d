"""Whether a video shows a camera that stands still: drawn scenes with known movement."""

import dataclasses

import cv2
import numpy as np
import pytest

from ops.hand3d.camera_poses import camera_poses, stands_still
from ops.video import write_video
from tests.ops import hand3d_world as made

NUM, SIZE = 20, (320, 240)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (60, 80, 3), np.uint8)
    return cv2.resize(coarse, (800, 600), interpolation=cv2.INTER_CUBIC)


def clip_of(tmp_path, frames):
    write_video(tmp_path / "clip.mp4", frames, 10.0)
    clip = made.make_world("a", 1, seconds=2.0, posed=False).clip
    camera = dataclasses.replace(clip.camera, width=SIZE[0], height=SIZE[1])
    return dataclasses.replace(clip, video=tmp_path / "clip.mp4", camera=camera, num_frames=len(frames))


def view(scene, x, y, size=SIZE):
    """The scene through a window whose corner lies at (x, y), fractions of a pixel included."""
    return cv2.getRectSubPix(scene, size, (x + size[0] / 2, y + size[1] / 2))


def with_hand(image, k):
    """A large skin-coloured patch with texture that wanders over a fifth of the image."""
    image = image.copy()
    patch = np.random.default_rng(5).integers(90, 220, (110, 140, 3), np.uint8)
    x, y = 20 + 6 * k, 60 + 2 * k
    image[y : y + 110, x : x + 140] = cv2.GaussianBlur(patch, (0, 0), 2)
    return image


def test_still_camera_with_a_moving_hand(tmp_path, scene):
    clip = clip_of(tmp_path, [with_hand(view(scene, 100, 100), k) for k in range(NUM)])
    assert stands_still(clip)
    np.testing.assert_array_equal(camera_poses(clip), np.tile(np.eye(4), (NUM, 1, 1)))


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("drifts", lambda scene, k: view(scene, 100 + 0.5 * k, 100)),
        ("turns and comes back", lambda scene, k: view(scene, 100 + 20 * np.sin(k / 3), 100)),
        ("zooms", lambda scene, k: cv2.resize(view(scene, 100, 100, (320 - 4 * k, 240 - 3 * k)), SIZE)),
        (
            "carries a caption",
            lambda scene, k: np.vstack([view(scene, 100 + 3 * k, 100, (320, 200)), view(scene, 0, 0, (320, 40))]),
        ),
    ],
)
def test_moving_cameras(tmp_path, scene, name, frame):
    clip = clip_of(tmp_path, [with_hand(frame(scene, k), k) for k in range(NUM)])
    assert not stands_still(clip), name
    assert camera_poses(clip) is None


def test_nothing_to_see_is_unknown(tmp_path):
    assert camera_poses(clip_of(tmp_path, [np.full((240, 320, 3), 90, np.uint8)] * NUM)) is None


def test_given_poses_win(tmp_path, scene):
    clip = made.make_world("a", 1).clip
    assert camera_poses(clip) is clip.T_cam_world
