"""One clip of human video, whatever source it came from: what readers make and every later stage uses.

Camera frame = OpenCV axes of that very frame (x right, y down, z forward); metres, seconds, pixels (continuous,
first pixel centre at 0.5, 0.5). T = number of frames of the video. Arrays are not to be written to.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.video import Frame, read_frames

SIDES = ("left", "right")


@dataclass(frozen=True, eq=False)
class HandTrack:
    """MANO labels of one hand through a clip, camera frame, flat hand mean (CONVENTIONS.md)."""

    theta: Float[np.ndarray, "T 45"]
    """Finger axis-angle, radians."""
    r: Float[np.ndarray, "T 3"]
    """Wrist axis-angle, camera frame."""
    tau: Float[np.ndarray, "T 3"]
    """WRIST position, camera frame, metres."""
    beta: Float[np.ndarray, " 10"]
    valid: Bool[np.ndarray, " T"]
    """Whether the frame is labelled; elsewhere the numbers mean nothing (but are finite)."""


@dataclass(frozen=True, eq=False)
class ObjectTrack:
    """One named object through a clip."""

    name: str
    boxes_px: Float[np.ndarray, "T 4"]
    """x0, y0, x1, y1 around the visible part, pixels of the undistorted image; NaN where not visible."""
    visible: Bool[np.ndarray, " T"]
    position_cam: Float[np.ndarray, "T 3"] | None
    """Centre of the object, metres, camera frame; None where the source does not give it."""


@dataclass(frozen=True)
class Instruction:
    """What is done between two times of the clip. side: the hand that does it, None if not said."""

    start_s: float
    end_s: float
    text: str
    side: str | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """A readable video with everything its source says about it."""

    clip_id: str
    """ "<source>/<name>", unique over all shards."""
    source: str
    kind: str
    """Reader of ops.sources that made it."""
    video: Path
    fps: float
    """Mean frames a second; the exact time of each frame is times_s."""
    num_frames: int
    times_s: Float[np.ndarray, " T"]
    """Presentation time of each frame, 0 for the first."""
    camera: PinholeCamera
    """Of the undistorted image at the video's own size, as frames() gives it."""
    intrinsics: str
    """ "given" by the source or "assumed" from a field of view."""
    split: str
    """ "train" or "test"."""
    licence: str
    distortion: tuple[float, ...] = ()
    """OpenCV coefficients (k1, k2, p1, p2[, k3[, k4, k5, k6]]) of the recorded image; empty = none."""
    T_cam_world: Float[np.ndarray, "T 4 4"] | None = None
    """World-to-camera a frame; None where unknown."""
    hands: dict[str, HandTrack] = field(default_factory=dict)
    """Labels by side; empty where the source has none."""
    objects: tuple[ObjectTrack, ...] = ()
    instructions: tuple[Instruction, ...] = ()
    contact: dict[str, Int[np.ndarray, " T"]] | None = None
    """By side: index into objects of what the hand touches, -1 for nothing; None where the source does not say."""
    depth_file: Path | None = None
    """npz with `depth_frames` (N,) and `depth_tenth_mm` (N, H, W) uint16, 0 = none; None without a depth sensor."""
    object_names: tuple[str, ...] = ()
    """Names the source says are in the scene, without places."""

    @property
    def has_depth(self) -> bool:
        return self.depth_file is not None

    @property
    def has_labels(self) -> bool:
        return bool(self.hands)

    def frames(self, indices: Iterable[int] | None = None, size: tuple[int, int] | None = None) -> Iterator[Frame]:
        """Undistorted frames in presentation order. indices: ascending; None = all. size: (width, height).

        A resized frame is seen by ``camera.resized(*size)``. Raises ClipError as read_frames does.
        """
        if not self.distortion:
            yield from read_frames(self.video, indices, size)
            return
        import cv2

        from ops.geometry.camera import undistort_maps

        map_x, map_y = undistort_maps(self.camera, self.distortion)
        for frame in read_frames(self.video, indices):
            rgb = cv2.remap(frame.rgb, map_x, map_y, cv2.INTER_LINEAR)
            if size is not None:
                rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            yield Frame(frame.index, frame.time_s, rgb)

    def depth_m(self, frame: int) -> Float[np.ndarray, "H W"] | None:
        """Sensor depth (z, metres, NaN where none) at a frame, or None if the source has none for that frame."""
        if self.depth_file is None:
            return None
        with np.load(self.depth_file) as stored:
            where = np.flatnonzero(stored["depth_frames"] == frame)
            if not len(where):
                return None
            tenth_mm = stored["depth_tenth_mm"][where[0]]
        if tenth_mm.shape != (self.camera.height, self.camera.width):
            raise ClipError(
                Reason.BAD_SIDE_FILE,
                f"depth is {tenth_mm.shape}, the video {self.camera.height} x {self.camera.width}",
                frame,
            )
        return np.where(tenth_mm > 0, tenth_mm.astype(np.float32) * np.float32(1e-4), np.float32(np.nan))


def sampled_frames(times_s: Float[np.ndarray, " T"], fps: float) -> list[int]:
    """Frames of the 1-fps (or other) sampling: the nearest frame to each k / fps, k = 0, 1, ... (paper 3.2.1).

    Every stage that samples uses this one, so that depth, boxes and questions are about the same frames.
    """
    if fps <= 0:
        raise ValueError(f"fps must be > 0, got {fps}")
    wanted = np.arange(0.0, times_s[-1] + 1e-6, 1.0 / fps)
    right = np.clip(np.searchsorted(times_s, wanted), 0, len(times_s) - 1)
    left = np.maximum(right - 1, 0)
    nearer_left = wanted - times_s[left] <= times_s[right] - wanted
    return sorted({int(i) for i in np.where(nearer_left, left, right)})
