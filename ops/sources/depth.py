"""Depth sensors of sources: one image of z (metres, NaN where none) a frame, in the clip's own camera.

Each source stores depth its own way; whatever reads it has `frames` (which have depth) and `read`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Float64

from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.sources.grey_video import GreyVideo, grey_video


class Depth(Protocol):
    """Depth of a clip."""

    @property
    def frames(self) -> Collection[int]:
        """Frames that have depth, ascending."""
        ...

    def read(self, frame: int) -> Float32[np.ndarray, "H W"] | None:
        """z in metres, NaN where the sensor saw nothing; None if the frame has no depth. Raises ClipError."""
        ...


@dataclass(frozen=True, eq=False)
class NpzDepth:
    """An npz with `depth_frames` (N,) and `depth_tenth_mm` (N, H, W) uint16, 0 = none; unpacked once, when asked."""

    path: Path

    @cached_property
    def _stored(self) -> dict[int, np.ndarray]:
        with np.load(self.path) as stored:
            return dict(zip(stored["depth_frames"].tolist(), stored["depth_tenth_mm"], strict=True))

    @property
    def frames(self) -> Collection[int]:
        return list(self._stored)

    def read(self, frame: int) -> Float32[np.ndarray, "H W"] | None:
        return metres(self._stored[frame], 10_000.0) if frame in self._stored else None


@dataclass(frozen=True, eq=False)
class ImageDepth:
    """One 16-bit image a frame. files: by frame, None where the frame has none. units_per_m: 1000 for millimetres."""

    files: tuple[Path | None, ...]
    units_per_m: float

    @property
    def frames(self) -> Collection[int]:
        return [frame for frame, file in enumerate(self.files) if file is not None]

    def read(self, frame: int) -> Float32[np.ndarray, "H W"] | None:
        import cv2

        file = self.files[frame]
        if file is None:
            return None
        units = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if units is None or units.dtype != np.uint16 or units.ndim != 2:
            found = "no image" if units is None else f"{units.dtype} {units.shape}"
            raise ClipError(Reason.BAD_SIDE_FILE, f"{file.name} should be a 16-bit grey image, is {found}", frame)
        return metres(units, self.units_per_m)


@dataclass(frozen=True, eq=False)
class VideoDepth:
    """A video of 16-bit grey frames (FFV1 in .avi or .mkv), frame n of it is frame n of the clip.

    units_per_m: 1000 for millimetres. num_frames: of the clip, where the video may hold more; None = all it holds.
    """

    path: Path
    units_per_m: float
    num_frames: int | None = None

    @property
    def frames(self) -> Collection[int]:
        held = len(self._reader)
        return range(held if self.num_frames is None else min(held, self.num_frames))

    def read(self, frame: int) -> Float32[np.ndarray, "H W"] | None:
        return metres(self._reader.read(frame), self.units_per_m) if frame in self.frames else None

    @property
    def _reader(self) -> "GreyVideo":
        return grey_video(self.path)


@dataclass(frozen=True, eq=False)
class RegisteredDepth:
    """Depth of another camera, as the clip's own camera sees it (ops.geometry.registration).

    measured: depth by its own camera. T_camera_depth: depth-camera coordinates -> those of `camera`, metres.
    """

    measured: Depth
    depth_camera: PinholeCamera
    camera: PinholeCamera
    T_camera_depth: Float64[np.ndarray, "4 4"]

    @property
    def frames(self) -> Collection[int]:
        return self.measured.frames

    def read(self, frame: int) -> Float32[np.ndarray, "H W"] | None:
        from ops.geometry.registration import register_depth

        depth_m = self.measured.read(frame)
        if depth_m is None:
            return None
        if depth_m.shape != (self.depth_camera.height, self.depth_camera.width):
            size = f"{self.depth_camera.height} x {self.depth_camera.width}"
            raise ClipError(Reason.BAD_SIDE_FILE, f"depth is {depth_m.shape}, its camera's image {size}", frame)
        return register_depth(depth_m, self.depth_camera, self.camera, self.T_camera_depth)


def metres(units: np.ndarray, units_per_m: float) -> Float32[np.ndarray, "H W"]:
    """16-bit sensor units -> metres; 0 (no measurement) -> NaN."""
    return np.where(units > 0, units.astype(np.float32) * np.float32(1 / units_per_m), np.float32(np.nan))
