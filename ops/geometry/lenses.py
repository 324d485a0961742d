"""Lenses of recorded images, and how an image is made a pinhole one.

A lens knows where a point of the camera frame falls in the recorded image; a pinhole image of any camera is then one
`cv2.remap`. Pixels are continuous (first pixel centre 0.5, 0.5), as in ops.geometry.camera.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, Float64

from ops.geometry.camera import PinholeCamera, distort

Maps = tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]


class Lens(Protocol):
    """Projection of the recorded image."""

    def project(self, points_cam: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        """Pixels in the recorded image; NaN where the lens does not see the point."""
        ...


@dataclass(frozen=True)
class RadialTangential:
    """OpenCV's k1 k2 p1 p2 [k3 [k4 k5 k6]] around a pinhole camera (of the recorded image)."""

    camera: PinholeCamera
    coefficients: tuple[float, ...]

    def project(self, points_cam: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        return distort(self.camera, np.array(self.coefficients), points_cam)


def pinhole_maps(lens: Lens, output: PinholeCamera) -> Maps:
    """Maps for ``cv2.remap(recorded, *maps, cv2.INTER_LINEAR)``: the recorded image as `output` would have seen it."""
    u, v = np.meshgrid(np.arange(output.width) + 0.5, np.arange(output.height) + 0.5)
    rays = output.unproject(np.stack([u, v], axis=-1), np.ones(u.shape))
    px = lens.project(rays) - 0.5  # OpenCV counts pixel centres from 0
    px = np.nan_to_num(px, nan=-1e6).astype(np.float32)  # unseen: outside the recorded image, so black
    return np.ascontiguousarray(px[..., 0]), np.ascontiguousarray(px[..., 1])
