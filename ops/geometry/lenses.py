"""Lenses of recorded images, and how an image is made a pinhole one.

A lens knows where a point of the camera frame falls in the recorded image; a pinhole image of any camera is then one
`cv2.remap`. Pixels are continuous (first pixel centre 0.5, 0.5), as in ops.geometry.camera: principal points of
calibration files, which count pixel centres from 0 (OpenCV, Project Aria, COLMAP's exports of them), get +0.5 when
read. Where a lens formula folds back on itself the lens is blind: such a point has no pixel, so it is NaN.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, Float64

from ops.geometry.camera import PinholeCamera, distort

Maps = tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]
TURNED_CLOCKWISE = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


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
        points_cam = np.asarray(points_cam, dtype=np.float64)
        px = distort(self.camera, np.array(self.coefficients), points_cam)
        k1, k2, _, _, k3, k4, k5, k6 = (*self.coefficients, *[0.0] * (8 - len(self.coefficients)))
        across = np.hypot(points_cam[..., 0], points_cam[..., 1])
        seen = across <= _farthest((k1, k2, k3), (k4, k5, k6)) * points_cam[..., 2]
        return np.where(seen[..., None], px, np.nan)


@dataclass(frozen=True)
class KannalaBrandt:
    """Fisheye whose image radius is an odd polynomial of the angle: r = theta (1 + k1 theta^2 + ... + kn theta^2n).

    Four coefficients are OpenCV's cv2.fisheye, COLMAP's OPENCV_FISHEYE and Project Aria's KannalaBrandtK3 ("KB3");
    none is the equidistant ("spherical") lens. camera: fx, fy, cx, cy and size of the recorded image.
    """

    camera: PinholeCamera
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_finite("Kannala-Brandt", self.coefficients)

    def project(self, points_cam: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        return _to_pixels(self.camera, _kannala_brandt(points_cam, self.coefficients))


@dataclass(frozen=True)
class Fisheye624:
    """Project Aria's FisheyeRadTanThinPrism: Kannala-Brandt, then tangential, then thin-prism distortion.

    radial: k0 to k5 of theta^3 to theta^13. tangential: p0, p1. thin_prism: s0 to s3. All zero but radial = KB.
    Definition: projectaria_tools, "Camera Intrinsic Models" (Fisheye624).
    """

    camera: PinholeCamera
    radial: tuple[float, ...]
    tangential: tuple[float, float]
    thin_prism: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        if (len(self.radial), len(self.tangential), len(self.thin_prism)) != (6, 2, 4):
            raise ValueError(f"Fisheye624 takes 6 radial, 2 tangential and 4 thin-prism coefficients, got {self}")
        _check_finite("Fisheye624", (*self.radial, *self.tangential, *self.thin_prism))

    @classmethod
    def from_aria(cls, params: Float[np.ndarray, " 15"], width: int, height: int) -> "Fisheye624":
        """From the 15 numbers of an Aria calibration file: f, cx, cy (centres from 0), k0-k5, p0, p1, s0-s3."""
        values = [float(value) for value in params]
        if len(values) != 15:
            raise ValueError(f"Aria's FisheyeRadTanThinPrism has 15 parameters (f, cx, cy, 6, 2, 4), got {len(values)}")
        camera = PinholeCamera(values[0], values[0], values[1] + 0.5, values[2] + 0.5, width, height)
        return cls(camera, tuple(values[3:9]), tuple(values[9:11]), tuple(values[11:15]))

    def project(self, points_cam: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        bent = _kannala_brandt(points_cam, self.radial)
        x, y = bent[..., 0], bent[..., 1]
        r2 = x**2 + y**2
        (p0, p1), (s0, s1, s2, s3) = self.tangential, self.thin_prism
        across = 2 * (p0 * x + p1 * y)
        moved_x = x + across * x + p0 * r2 + (s0 + s1 * r2) * r2
        moved_y = y + across * y + p1 * r2 + (s2 + s3 * r2) * r2
        return _to_pixels(self.camera, np.stack([moved_x, moved_y], axis=-1))


@dataclass(frozen=True)
class Omnidirectional:
    """Unified sphere model (Mei): onto the unit sphere, seen from xi behind its centre, then radial-tangential.

    OpenCV's cv2.omnidir (K with skew, xi, D = k1 k2 p1 p2); xi = 0 is a pinhole with that distortion.
    """

    camera: PinholeCamera
    xi: float
    coefficients: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    skew: float = 0.0

    def __post_init__(self) -> None:
        if len(self.coefficients) != 4 or self.xi < 0:
            raise ValueError(f"the omnidirectional lens takes xi >= 0 and k1 k2 p1 p2, got {self}")
        _check_finite("omnidirectional", (self.xi, self.skew, *self.coefficients))

    def project(self, points_cam: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        points_cam = np.asarray(points_cam, dtype=np.float64)
        sphere = points_cam / np.linalg.norm(points_cam, axis=-1, keepdims=True)
        z = sphere[..., 2:]
        # beyond it two directions share a pixel (xi > 1) or the formula turns over (xi <= 1)
        seen = z > (-1 / self.xi if self.xi > 1 else -self.xi)
        flat = sphere[..., :2] / np.where(seen, z + self.xi, np.nan)
        k1, k2, p1, p2 = self.coefficients
        flat = np.where(np.hypot(flat[..., :1], flat[..., 1:]) <= _farthest((k1, k2)), flat, np.nan)
        x, y = flat[..., 0], flat[..., 1]
        r2 = x**2 + y**2
        radial = 1 + (k1 + k2 * r2) * r2
        bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
        bent_y = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
        px = _to_pixels(self.camera, np.stack([bent_x, bent_y], axis=-1))
        px[..., 0] += self.skew * bent_y
        return px


@dataclass(frozen=True)
class Turned:
    """A recorded image that was turned clockwise by quarter turns after its lens, as Ego-Exo4D turns Aria's.

    lens, width, height: of the sensor, as calibrated. The camera frame of `project` is the TURNED image's (x right in
    it, y down); `turned_from_sensor` brings points of the sensor's frame there.
    """

    lens: Lens
    quarter_turns: int
    width: int
    height: int

    def project(self, points_cam: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        points_cam = np.asarray(points_cam, dtype=np.float64)
        px = self.lens.project(points_cam @ turned_from_sensor(self.quarter_turns))  # rows: the inverse rotation
        height, width = self.height, self.width
        for _ in range(self.quarter_turns % 4):
            px = np.stack([height - px[..., 1], px[..., 0]], axis=-1)
            height, width = width, height
        return px


def turned_from_sensor(quarter_turns: int) -> Float64[np.ndarray, "3 3"]:
    """Rotation from the sensor's camera frame to that of its image turned clockwise."""
    return np.linalg.matrix_power(TURNED_CLOCKWISE, quarter_turns % 4)


@lru_cache(maxsize=2)
def pinhole_maps(lens: Lens, output: PinholeCamera) -> Maps:
    """Maps for ``cv2.remap(recorded, *maps, cv2.INTER_LINEAR)``: the recorded image as `output` would have seen it.

    The last two are kept, since a clip's frames are asked for in several goes; not to be written to.
    """
    u, v = np.meshgrid(np.arange(output.width) + 0.5, np.arange(output.height) + 0.5)
    rays = output.unproject(np.stack([u, v], axis=-1), np.ones(u.shape))
    px = lens.project(rays) - 0.5  # OpenCV counts pixel centres from 0
    px = np.nan_to_num(px, nan=-1e6).astype(np.float32)  # unseen: outside the recorded image, so black
    return np.ascontiguousarray(px[..., 0]), np.ascontiguousarray(px[..., 1])


def _kannala_brandt(points_cam: np.ndarray, coefficients: tuple[float, ...]) -> Float64[np.ndarray, "*n 2"]:
    """Normalised image position: radius r(theta) in the direction of (x, y); NaN beyond the largest r."""
    points_cam = np.asarray(points_cam, dtype=np.float64)
    across = np.hypot(points_cam[..., 0], points_cam[..., 1])
    theta = np.arctan2(across, points_cam[..., 2])
    radius = theta * np.polynomial.polynomial.polyval(theta**2, (1.0, *coefficients))
    radius = np.where((theta <= _widest(coefficients)) & np.isfinite(theta), radius, np.nan)
    on_axis = across < 1e-12
    scale = np.where(on_axis, 1.0, radius / np.where(on_axis, 1.0, across))
    scale = np.where(on_axis & np.isnan(radius), np.nan, scale)
    return points_cam[..., :2] * scale[..., None]


@lru_cache(maxsize=256)
def _widest(coefficients: tuple[float, ...]) -> float:
    """Angle from the axis up to which r(theta) grows, at most pi, radians."""
    powers = np.zeros(2 * len(coefficients) + 1)
    powers[::2] = [(2 * n + 1) * k for n, k in enumerate((1.0, *coefficients))]
    roots = np.polynomial.polynomial.polyroots(np.trim_zeros(powers, "b"))
    real = roots[np.abs(roots.imag) < 1e-9].real
    return float(min([np.pi, *real[real > 0]]))


@lru_cache(maxsize=256)
def _farthest(numerator: tuple[float, ...], denominator: tuple[float, ...] = ()) -> float:
    """Radius up to which r (1 + k1 r^2 + k2 r^4 + ...) / (1 + k4 r^2 + ...) grows; inf if it always does."""
    over = np.array([1.0, *numerator])
    under = np.array([1.0, *denominator])
    # d/dr of r N / D, as a polynomial in s = r^2: (N + 2 s N') D - 2 s N D'
    poly = np.polynomial.polynomial
    grown = poly.polyadd(over, 2 * poly.polymulx(poly.polyder(over)))
    slope = poly.polysub(poly.polymul(grown, under), 2 * poly.polymulx(poly.polymul(over, poly.polyder(under))))
    roots = np.concatenate([poly.polyroots(np.trim_zeros(part, "b")) for part in (slope, under)])
    real = roots[np.abs(roots.imag) < 1e-9].real
    return float(np.sqrt(min([np.inf, *real[real > 0]])))


def _to_pixels(camera: PinholeCamera, flat: Float[np.ndarray, "*n 2"]) -> Float64[np.ndarray, "*n 2"]:
    return flat * [camera.fx, camera.fy] + [camera.cx, camera.cy]


def _check_finite(name: str, values: tuple[float, ...]) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} lens needs finite coefficients, got {values}")
