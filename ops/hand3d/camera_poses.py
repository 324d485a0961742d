"""Where the camera is in every frame, for rows about movement: the source's poses, or a camera proved to stand still.

World-to-camera transforms T_cam_world, metres. Where the source gives no poses, the video itself can still show that
the camera does not move: then the camera's own frame serves as the world. Anything else stays unknown.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ops.sources.base import Clip

PosesOf = Callable[[Clip], np.ndarray | None]  # tests give their own: a made clip has no video

# ASSUMED, all five: a camera stands still if, in each of NUM_CHECKED frames spread over the clip, enough of the first
# frame's corners are found where they were, all over the image, so that no large object or caption passes for the scene.
# (Tripod clips measured 0.34 to 0.95, a hand-held one 0.02; hands and moved objects take their corners with them.)
NUM_CHECKED = 8
STILL_SHARE_OF_WIDTH = 1.0 / 640  # one pixel at 640: tracking noise and compression stay below
MIN_STILL_SHARE = 0.3
MIN_CELLS = 6  # of a 4 x 4 grid, that hold still corners
WIDTH = 640


def camera_poses(clip: Clip) -> Float[np.ndarray, "T 4 4"] | None:
    """T_cam_world a frame; identities for a camera that stands still; None where the camera may have moved.

    Raises ClipError if the video cannot be read.
    """
    if clip.T_cam_world is not None:
        return clip.T_cam_world
    return np.tile(np.eye(4), (clip.num_frames, 1, 1)) if stands_still(clip) else None


def stands_still(clip: Clip) -> bool:
    """Whether the video shows a camera that does not move, turn or zoom."""
    if clip.num_frames < 2:
        return True
    height = round(WIDTH * clip.camera.height / clip.camera.width)
    checked = sorted({int(i) for i in np.linspace(0, clip.num_frames - 1, NUM_CHECKED + 1)})
    first, *others = (frame.rgb for frame in clip.frames(checked, (WIDTH, height)))
    return all(_same_place(first, other) for other in others)


def _same_place(first: np.ndarray, other: np.ndarray) -> bool:
    import cv2

    before, after = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, other))
    corners = cv2.goodFeaturesToTrack(before, maxCorners=400, qualityLevel=0.01, minDistance=8)
    if corners is None:
        return False
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, winSize=(15, 15), maxLevel=3)
    shift = np.linalg.norm((moved - corners).reshape(-1, 2), axis=1)
    still = (found.reshape(-1) == 1) & (shift < STILL_SHARE_OF_WIDTH * WIDTH)
    place = corners.reshape(-1, 2)[still] * 4 // np.array([before.shape[1], before.shape[0]])
    return still.mean() >= MIN_STILL_SHARE and len(np.unique(place, axis=0)) >= MIN_CELLS
