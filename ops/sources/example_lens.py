"""Example pictures as a lens would have recorded them: the way back of ops.geometry.lenses.pinhole_maps."""

import cv2
import numpy as np
from jaxtyping import UInt8

from ops.geometry.camera import PinholeCamera
from ops.geometry.lenses import Lens

STEP = 4


def record(
    rgb: UInt8[np.ndarray, "T h w 3"], camera: PinholeCamera, lens: Lens, width: int, height: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """Pictures seen by a pinhole camera, as the lens records them; what the pinhole did not see is black.

    The lens is inverted on a grid of every fourth pixel and interpolated in between: 0.02 px for smooth lenses.
    """
    from scipy.interpolate import LinearNDInterpolator

    u, v = np.meshgrid(np.arange(0, camera.width + STEP, STEP), np.arange(0, camera.height + STEP, STEP))
    seen = np.stack([u, v], axis=-1).reshape(-1, 2).astype(float)
    recorded = lens.project(camera.unproject(seen, np.ones(len(seen))))
    good = np.isfinite(recorded).all(axis=1)
    inverse = LinearNDInterpolator(recorded[good], seen[good])
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    maps = np.nan_to_num(inverse(x, y) - 0.5, nan=-1e6).astype(np.float32)
    maps = [np.ascontiguousarray(maps[..., axis]) for axis in (0, 1)]
    return np.stack([cv2.remap(picture, *maps, cv2.INTER_LINEAR) for picture in rgb])
