"""Transforms against roma and by their group laws; the camera against OpenCV, a hand-written lens and real pixels."""

import cv2
import numpy as np
import pytest

from ops.geometry import transforms
from ops.geometry.camera import (
    PinholeCamera,
    distort,
    opencv_K,
    undistort_maps,
    undistort_pixels,
)

CAMERA = PinholeCamera(fx=600.0, fy=610.0, cx=322.5, cy=235.0, width=640, height=480)
LENSES = [
    (-0.28, 0.09, 1e-3, -5e-4),
    (-0.3, 0.11, 1e-3, -6e-4, -0.02),
    (0.4, -0.1, 1e-3, -6e-4, 0.02, 0.7, -0.05, 0.01),
]


def random_transforms(seed: int, n: int = 50) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return transforms.make(transforms.rotvec_to_rotmat(rng.normal(0, 2, (n, 3))), rng.normal(0, 1, (n, 3)))


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6, 1.0, np.pi - 1e-7])
def test_axis_angle_survives_the_round_trip_at_any_size(size: float) -> None:
    axes = np.random.default_rng(0).normal(size=(30, 3))
    rotvec = size * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    back = transforms.rotmat_to_rotvec(transforms.rotvec_to_rotmat(rotvec))
    np.testing.assert_allclose(back, rotvec, atol=1e-9)


def test_axis_angle_agrees_with_roma() -> None:
    roma, torch = pytest.importorskip("roma"), pytest.importorskip("torch")
    rotvec = np.random.default_rng(1).normal(0, 2, (4, 25, 3))
    np.testing.assert_allclose(
        transforms.rotvec_to_rotmat(rotvec), roma.rotvec_to_rotmat(torch.tensor(rotvec)).numpy(), atol=1e-12
    )


def test_a_reflection_is_no_rotation() -> None:
    with pytest.raises(ValueError, match="not a proper rotation"):
        transforms.rotmat_to_rotvec(np.diag([1.0, 1.0, -1.0]))
    with pytest.raises(ValueError, match="not a proper rotation"):
        transforms.rotmat_to_rotvec(1.01 * np.eye(3))


def test_transforms_form_a_group() -> None:
    T, U = random_transforms(2), random_transforms(3)
    points = np.random.default_rng(4).normal(size=(50, 3))
    np.testing.assert_allclose(
        transforms.apply(T @ U, points), transforms.apply(T, transforms.apply(U, points)), atol=1e-12
    )
    np.testing.assert_allclose(transforms.invert(T) @ T, np.broadcast_to(np.eye(4), T.shape), atol=1e-12)
    np.testing.assert_allclose(transforms.relative(T, U) @ U, T, atol=1e-12)
    spread = np.linalg.norm(np.diff(points, axis=0), axis=1)
    moved = np.linalg.norm(np.diff(transforms.apply(T[0], points), axis=0), axis=1)
    np.testing.assert_allclose(moved, spread, atol=1e-12)


def test_apply_takes_one_transform_a_frame() -> None:
    T, points = random_transforms(5, n=7), np.random.default_rng(6).normal(size=(7, 21, 3))
    together = transforms.apply(T[:, None], points)
    for frame in range(7):
        by_hand = points[frame] @ T[frame, :3, :3].T + T[frame, :3, 3]
        np.testing.assert_allclose(together[frame], by_hand, atol=1e-12)


def test_projection_and_unprojection_are_inverse() -> None:
    points = np.random.default_rng(7).uniform([-1, -1, 0.2], [1, 1, 5], (40, 2, 3))
    np.testing.assert_allclose(CAMERA.unproject(CAMERA.project(points), points[..., 2]), points, atol=1e-12)


def test_points_not_in_front_have_no_pixel() -> None:
    px = CAMERA.project(np.array([[0.1, 0.1, -1.0], [0.1, 0.1, 0.0], [0.0, 0.0, 1.0]]))
    assert np.isnan(px[:2]).all()
    np.testing.assert_allclose(px[2], [CAMERA.cx, CAMERA.cy])
    assert CAMERA.contains(px).tolist() == [False, False, True]


def test_projection_is_opencvs_moved_by_half_a_pixel() -> None:
    points = np.random.default_rng(8).uniform([-0.5, -0.5, 0.5], [0.5, 0.5, 3], (60, 3))
    integer_centred, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), opencv_K(CAMERA), None)
    np.testing.assert_allclose(CAMERA.project(points), integer_centred[:, 0] + 0.5, atol=1e-9)
    again = PinholeCamera.from_opencv(opencv_K(CAMERA), CAMERA.width, CAMERA.height)
    np.testing.assert_allclose(again.K, CAMERA.K)


def test_resizing_an_image_scales_its_pixels() -> None:
    """A dot drawn at a projected point stays at the projected point when OpenCV resizes the image."""
    point = np.array([0.07, -0.05, 1.0])
    image = np.zeros((480, 640), np.float32)
    column, row = np.floor(CAMERA.project(point)).astype(int)
    image[row, column] = 1.0
    centre = (np.array([column, row]) + 0.5) / 4
    small = cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA)
    at = np.argwhere(small > 0)[0][::-1]
    assert (np.floor(centre) == at).all()
    np.testing.assert_allclose(CAMERA.resized(160, 120).project(point), CAMERA.project(point) / 4)
    assert CAMERA.resized(160, 120).resized(640, 480) == CAMERA


def test_field_of_view_reaches_the_image_border() -> None:
    camera = PinholeCamera.from_fov_x(60.0, 640, 480)
    edge = np.array([np.tan(np.deg2rad(30)), 0, 1.0])
    np.testing.assert_allclose(camera.project(edge), [640, 240], atol=1e-9)


@pytest.mark.parametrize("bad", [{"fx": 0.0}, {"fy": -1.0}, {"cx": np.nan}, {"width": 0}])
def test_impossible_intrinsics_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="camera needs finite intrinsics"):
        PinholeCamera(**({"fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0, "width": 2, "height": 2} | bad))
    with pytest.raises(ValueError, match="field of view"):
        PinholeCamera.from_fov_x(180.0, 640, 480)


def lens_by_hand(camera: PinholeCamera, dist: tuple[float, ...], points: np.ndarray) -> np.ndarray:
    """Brown-Conrady with rational radial term, written out from its definition."""
    k1, k2, p1, p2, k3, k4, k5, k6 = (*dist, 0, 0, 0, 0)[:8]
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    r2 = x**2 + y**2
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
    yd = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    return np.stack([camera.fx * xd + camera.cx, camera.fy * yd + camera.cy], axis=1)


@pytest.mark.parametrize("dist", LENSES, ids=["4", "5", "8"])
def test_distortion_follows_its_definition_and_is_undone(dist: tuple[float, ...]) -> None:
    points = np.random.default_rng(9).uniform([-0.45, -0.35, 0.9], [0.45, 0.35, 1.1], (80, 3))
    px = distort(CAMERA, np.array(dist), points)
    np.testing.assert_allclose(px, lens_by_hand(CAMERA, dist, points), atol=1e-9)
    np.testing.assert_allclose(undistort_pixels(CAMERA, np.array(dist), px), CAMERA.project(points), atol=1e-4)


@pytest.mark.parametrize("dist", LENSES, ids=["4", "5", "8"])
def test_undistorted_image_shows_points_where_the_pinhole_camera_puts_them(dist: tuple[float, ...]) -> None:
    """Blobs drawn through the lens come out of the maps at their pinhole pixels: a half-pixel slip would show."""
    point = np.array([[-0.3, 0.2, 1.0], [0.25, -0.22, 1.0], [0.02, 0.01, 1.0]])
    rows, columns = np.mgrid[:480, :640] + 0.5
    image = np.zeros((480, 640), np.float32)
    for u, v in lens_by_hand(CAMERA, dist, point):
        image += np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 3.0**2)).astype(np.float32)
    straight = cv2.remap(image, *undistort_maps(CAMERA, np.array(dist)), cv2.INTER_LINEAR)
    for u, v in CAMERA.project(point):
        window = straight * ((np.abs(columns - u) < 15) & (np.abs(rows - v) < 15))
        found = np.array([(window * columns).sum(), (window * rows).sum()]) / window.sum()
        np.testing.assert_allclose(found, [u, v], atol=0.06)


def test_distortion_takes_only_the_known_models() -> None:
    for bad in ([0.1, 0.2], [0.1] * 12, [np.nan] * 5):
        with pytest.raises(ValueError, match="4, 5 or 8 finite coefficients"):
            undistort_maps(CAMERA, np.array(bad))
