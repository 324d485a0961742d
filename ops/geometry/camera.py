"""Pinhole camera and lens distortion; points in OpenCV camera axes (x right, y down, z forward), metres.

Image coordinates are continuous: the image spans [0, width] x [0, height], the first pixel's centre is (0.5, 0.5), so
that resizing an image is a pure scaling of fx, fy, cx, cy. OpenCV counts pixel centres from 0: `opencv_K` converts.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64


@dataclass(frozen=True)
class PinholeCamera:
    """fx, fy: focal lengths, pixels. cx, cy: principal point, continuous pixels. width, height: pixels."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy, self.width, self.height)
        if not np.isfinite(numbers).all() or min(self.fx, self.fy, self.width, self.height) <= 0:
            raise ValueError(f"camera needs finite intrinsics with fx, fy, width, height > 0, got {self}")

    @classmethod
    def from_fov_x(cls, fov_x_deg: float, width: int, height: int) -> "PinholeCamera":
        """Square pixels, principal point in the middle, horizontal field of view in degrees (0 to 180, open)."""
        if not 0 < fov_x_deg < 180:
            raise ValueError(f"horizontal field of view must lie between 0 and 180 degrees, got {fov_x_deg}")
        focal = width / 2 / np.tan(np.deg2rad(fov_x_deg) / 2)
        return cls(float(focal), float(focal), width / 2, height / 2, width, height)

    @classmethod
    def from_opencv(cls, K: Float[np.ndarray, "3 3"], width: int, height: int) -> "PinholeCamera":
        """From a matrix whose principal point counts pixel centres from 0 (OpenCV, most calibration files)."""
        return cls(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]) + 0.5, float(K[1, 2]) + 0.5, width, height)

    @property
    def K(self) -> Float64[np.ndarray, "3 3"]:  # noqa: N802 - the name of the field
        """Calibration matrix in continuous coordinates."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    def project(self, points_cam: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        """Pixels; NaN for points not in front of the camera (z <= 0). Points outside the image keep their pixels."""
        points_cam = np.asarray(points_cam, dtype=np.float64)
        z = np.where(points_cam[..., 2:] > 0, points_cam[..., 2:], np.nan)
        return points_cam[..., :2] / z * [self.fx, self.fy] + [self.cx, self.cy]

    def unproject(self, px: Float[np.ndarray, "*n 2"], depth: Float[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n 3"]:
        """Points of pixels at a depth along +z (not along the ray), metres."""
        depth = np.asarray(depth, dtype=np.float64)[..., None]
        xy = (np.asarray(px, dtype=np.float64) - [self.cx, self.cy]) / [self.fx, self.fy]
        return np.concatenate([xy * depth, np.broadcast_to(depth, (*xy.shape[:-1], 1))], axis=-1)

    def contains(self, px: Float[np.ndarray, "*n 2"]) -> np.ndarray:
        """Whether pixels lie in the image; NaN does not."""
        px = np.asarray(px, dtype=np.float64)
        return (px >= 0).all(axis=-1) & (px[..., 0] < self.width) & (px[..., 1] < self.height)

    def resized(self, width: int, height: int) -> "PinholeCamera":
        """Camera of the same view as an image of another size."""
        x, y = width / self.width, height / self.height
        return PinholeCamera(self.fx * x, self.fy * y, self.cx * x, self.cy * y, width, height)


def opencv_K(camera: PinholeCamera) -> Float64[np.ndarray, "3 3"]:  # noqa: N802
    """Calibration matrix for OpenCV calls, whose pixel centres are integers."""
    return camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]


def undistort_maps(
    camera: PinholeCamera, dist_coeffs: Float[np.ndarray, " d"], output: PinholeCamera | None = None
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Maps for ``cv2.remap(image, *maps, cv2.INTER_LINEAR)`` from the distorted image to a pinhole one.

    dist_coeffs: OpenCV's radial-tangential order k1 k2 p1 p2 [k3 [k4 k5 k6]]. output: pinhole camera of the result,
    by default `camera` itself (the same focal length, so some border may be cut).
    """
    output = output or camera
    size = (output.width, output.height)
    maps = cv2.initUndistortRectifyMap(
        opencv_K(camera), _coefficients(dist_coeffs), None, opencv_K(output), size, cv2.CV_32FC1
    )
    return maps[0], maps[1]


def distort(
    camera: PinholeCamera, dist_coeffs: Float[np.ndarray, " d"], points_cam: Float[np.ndarray, "*n 3"]
) -> Float64[np.ndarray, "*n 2"]:
    """Pixels in the distorted image; NaN for points not in front of the camera."""
    points_cam = np.asarray(points_cam, dtype=np.float64)
    flat = points_cam.reshape(-1, 1, 3)
    px, _ = cv2.projectPoints(flat, np.zeros(3), np.zeros(3), opencv_K(camera), _coefficients(dist_coeffs))
    px = px.reshape(*points_cam.shape[:-1], 2) + 0.5
    return np.where(points_cam[..., 2:] > 0, px, np.nan)


def undistort_pixels(
    camera: PinholeCamera, dist_coeffs: Float[np.ndarray, " d"], px: Float[np.ndarray, "*n 2"]
) -> Float64[np.ndarray, "*n 2"]:
    """Pixels of the distorted image -> pixels of the pinhole image of `camera`. Inverse of `distort`, iterative."""
    px = np.asarray(px, dtype=np.float64)
    K = opencv_K(camera)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    flat = px.reshape(-1, 1, 2) - 0.5
    straight = cv2.undistortPointsIter(flat, K, _coefficients(dist_coeffs), None, K, criteria)
    return straight.reshape(px.shape) + 0.5


def _coefficients(dist_coeffs: Float[np.ndarray, " d"]) -> Float64[np.ndarray, " d"]:
    values = np.asarray(dist_coeffs, dtype=np.float64).ravel()
    if values.size not in (4, 5, 8) or not np.isfinite(values).all():
        raise ValueError(
            f"distortion takes 4, 5 or 8 finite coefficients (k1 k2 p1 p2 [k3 [k4 k5 k6]]), got {values.tolist()}"
        )
    return values
