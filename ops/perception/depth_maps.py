"""Depth images to point maps: sizes, back-projection, shrinking."""

import numpy as np
from jaxtyping import Float

from ops.geometry.camera import PinholeCamera


def map_size(camera: PinholeCamera, long_edge: int) -> tuple[int, int]:
    """(width, height) of the stored map, never larger than the frame."""
    shrink = min(1.0, long_edge / max(camera.width, camera.height))
    return round(camera.width * shrink), round(camera.height * shrink)


def points_of_depth(depth: Float[np.ndarray, "h w"], camera: PinholeCamera) -> Float[np.ndarray, "h w 3"]:
    """Back-project depth (z) seen by a camera of the same size."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    return camera.unproject(np.stack([u, v], axis=-1), depth).astype(np.float32)


def shrink_depth(depth: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "h2 w2"]:
    """Nearest sample: a mean over an edge would be a depth at which nothing lies."""
    width, height = size
    v = ((np.arange(height) + 0.5) * depth.shape[0] / height).astype(int)
    u = ((np.arange(width) + 0.5) * depth.shape[1] / width).astype(int)
    return depth[v[:, None], u[None, :]]
