"""Depth sensors of sources: one image of z (metres, NaN where none) a frame, in the clip's own camera.

Each source stores depth its own way; whatever reads it has `frames` (which have depth) and `read`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from ops.rejects import ClipError, Reason


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


def metres(units: np.ndarray, units_per_m: float) -> Float32[np.ndarray, "H W"]:
    """16-bit sensor units -> metres; 0 (no measurement) -> NaN."""
    return np.where(units > 0, units.astype(np.float32) * np.float32(1 / units_per_m), np.float32(np.nan))
