"""Depth of one camera as another camera sees it: every depth pixel is a small square that is projected and drawn.

OpenCV camera axes, metres, continuous pixels. What lies in front hides what lies behind (z-buffer).
"""

import numpy as np
from jaxtyping import Float, Float32, Float64
from numba import njit

from ops.geometry.camera import PinholeCamera


def register_depth(
    depth_m: Float[np.ndarray, "h w"],
    depth_camera: PinholeCamera,
    camera: PinholeCamera,
    T_camera_depth: Float[np.ndarray, "4 4"],
) -> Float32[np.ndarray, "H W"]:
    """z in `camera`'s frame at each of its pixels, metres; NaN where no depth pixel falls.

    depth_m: z in depth_camera's frame, NaN = none. T_camera_depth: depth-camera coordinates -> camera coordinates.
    A square is drawn parallel to the depth image: on a slanted surface z is that of its middle.
    Raises ValueError if depth_m has not depth_camera's size.
    """
    if depth_m.shape != (depth_camera.height, depth_camera.width):
        raise ValueError(f"depth is {depth_m.shape}, its camera {depth_camera.height} x {depth_camera.width}")
    out = np.full((camera.height, camera.width), np.inf, np.float32)
    _draw(depth_m.astype(np.float64), _numbers(depth_camera), _numbers(camera), np.asarray(T_camera_depth, float), out)
    return np.where(np.isfinite(out), out, np.float32(np.nan))


def _numbers(camera: PinholeCamera) -> Float64[np.ndarray, " 4"]:
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy])


@njit(cache=True)
def _draw(depth_m: np.ndarray, inner: np.ndarray, outer: np.ndarray, T: np.ndarray, out: np.ndarray) -> None:
    height, width = out.shape
    for row in range(depth_m.shape[0]):
        for column in range(depth_m.shape[1]):
            z = depth_m[row, column]
            if not z > 0:  # NaN as well
                continue
            u0, v0, u1, v1, middle_z, ahead = _square(row, column, z, inner, outer, T)
            if not ahead or u1 < 0 or v1 < 0 or u0 > width or v0 > height:
                continue
            # pixels whose centre lies inside
            for v in range(max(int(np.ceil(v0 - 0.5)), 0), min(int(np.ceil(v1 - 0.5)), height)):
                for u in range(max(int(np.ceil(u0 - 0.5)), 0), min(int(np.ceil(u1 - 0.5)), width)):
                    out[v, u] = min(out[v, u], middle_z)


@njit(cache=True)
def _square(
    row: int, column: int, z: float, inner: np.ndarray, outer: np.ndarray, T: np.ndarray
) -> tuple[float, float, float, float, float, bool]:
    """Box around the projected corners of a depth pixel, z of its middle, and whether all lies before the camera."""
    u0, v0, u1, v1, ahead = np.inf, np.inf, -np.inf, -np.inf, True
    for corner in range(4):
        x = (column + corner % 2 - inner[2]) / inner[0] * z
        y = (row + corner // 2 - inner[3]) / inner[1] * z
        w = T[2, 0] * x + T[2, 1] * y + T[2, 2] * z + T[2, 3]
        if w <= 1e-6:
            ahead = False
            continue
        u = (T[0, 0] * x + T[0, 1] * y + T[0, 2] * z + T[0, 3]) / w * outer[0] + outer[2]
        v = (T[1, 0] * x + T[1, 1] * y + T[1, 2] * z + T[1, 3]) / w * outer[1] + outer[3]
        u0, v0, u1, v1 = min(u0, u), min(v0, v), max(u1, u), max(v1, v)
    x = (column + 0.5 - inner[2]) / inner[0] * z
    y = (row + 0.5 - inner[3]) / inner[1] * z
    return u0, v0, u1, v1, T[2, 0] * x + T[2, 1] * y + T[2, 2] * z + T[2, 3], ahead
