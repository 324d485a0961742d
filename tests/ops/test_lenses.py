"""Every lens against an implementation of others (OpenCV live, Project Aria's and OpenCV contrib's numbers), a naive
twin, and by sight: a grid of straight lines photographed through it must come out straight."""

import math

import cv2
import numpy as np
import pytest

from ops.geometry.camera import PinholeCamera, opencv_K
from ops.geometry.lenses import (
    Fisheye624,
    KannalaBrandt,
    Omnidirectional,
    RadialTangential,
    Turned,
    pinhole_maps,
    turned_from_sensor,
)

POINTS = np.array([[0.0, 0.0, 1.0], [0.1, -0.2, 0.9], [-0.6, 0.5, 0.7], [0.9, 0.3, 0.8], [-0.2, -1.1, 0.75]])
ARIA = (610.9, 715.2, 709.4, 0.408, -0.4894, 0.1737, 1.1332, -1.7036, 0.651, 0.00075, -0.00031, -0.00058, 0.00023, -0.0002, -0.00012)  # fmt: skip
GOPRO = PinholeCamera(1761.2, 1758.9, 1919.4 + 0.5, 1080.7 + 0.5, 3840, 2160)
GOPRO_K = (0.0421, 0.0321, -0.0158, 0.0031)
EGO4D = PinholeCamera(1450.3, 1448.8, 958.2 + 0.5, 541.9 + 0.5, 1920, 1080)
EGO4D_D = (-0.21, 0.043, 0.0012, -0.0008)
SMALL = PinholeCamera(170.0, 172.0, 201.0, 148.0, 400, 300)
SMALL_LENSES = {
    "kannala-brandt": KannalaBrandt(SMALL, (0.05, -0.02, 0.004, -0.001)),
    "equidistant": KannalaBrandt(SMALL),
    "fisheye624": Fisheye624(SMALL, (0.2, -0.2, 0.1, 0.02, -0.03, 0.01), (0.004, -0.006), (0.01, 0.002, -0.012, 0.001)),
    "omnidirectional": Omnidirectional(PinholeCamera(300, 302, 201, 148, 400, 300), 0.9, (-0.1, 0.02, 0.002, -0.001), 0.8),
    "radial-tangential": RadialTangential(SMALL, (-0.2, 0.03, 0.002, -0.001)),
    "turned": Turned(KannalaBrandt(PinholeCamera(172, 170, 148, 199, 300, 400), (0.05, -0.02)), 1, 300, 400),
}  # fmt: skip


def rays(rng, n=500, widest_deg=75.0):
    theta = np.deg2rad(widest_deg) * np.sqrt(rng.random(n))
    phi = rng.uniform(0, 2 * np.pi, n)
    xyz = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    return xyz * rng.uniform(0.2, 5.0, (n, 1))


def test_project_arias_own_numbers():
    """projectaria_tools 2.3.0: CameraProjection(FISHEYE624 and KANNALA_BRANDT_K3).project."""
    lens = Fisheye624.from_aria(np.array(ARIA), 1408, 1408)
    theirs = [[715.2, 709.4], [783.2568975983703, 573.2805640236825], [255.447291592267, 1092.3510857883507], [1308.762811736435, 906.7610836233721], [589.4647152410861, 15.182333020010105]]  # fmt: skip
    np.testing.assert_allclose(lens.project(POINTS) - 0.5, theirs, atol=1e-9)
    theirs = [[1919.4, 1080.7], [2111.7051203419796, 696.5920325124825], [736.3172555076151, 2065.314769895363], [3438.008551612464, 1586.2417861744195], [1592.5586448001445, -714.5798819757222]]  # fmt: skip
    np.testing.assert_allclose(KannalaBrandt(GOPRO, GOPRO_K).project(POINTS) - 0.5, theirs, atol=1e-9)


@pytest.mark.parametrize(
    ("xi", "theirs"),
    [
        (0.0, [[958.2, 541.9], [1116.7231786628056, 224.4014556344731], [-47.06624873802582, 1380.5365567965728], [2244.1057473779297, 972.9116685742187], [666.5821725234568, -1032.1617932378608]]),
        (0.83, [[958.2, 541.9], [1044.4765952473053, 369.10980310646346], [430.9115437205593, 981.4730584356448], [1633.0943036486196, 767.115153079168], [812.5549451608651, -250.30382811715583]]),
        (1.42, [[958.2, 541.9], [1023.298388145921, 411.5263455697378], [570.916959049003, 864.7157396571566], [1453.274909515382, 706.9811051639854], [852.3314309959317, -34.62661104659617]]),
    ],
)  # fmt: skip
def test_opencv_contribs_omnidirectional_numbers(xi, theirs):
    """cv2.omnidir.projectPoints of opencv-contrib 5.0.0, skew 1.7."""
    lens = Omnidirectional(EGO4D, xi, EGO4D_D, 1.7)
    np.testing.assert_allclose(lens.project(POINTS) - 0.5, theirs, atol=1e-9)


@pytest.mark.skipif(not hasattr(cv2, "omnidir"), reason="this OpenCV has no contrib modules; see the numbers above")
def test_omnidirectional_against_opencv():
    points = rays(np.random.default_rng(1))
    K = opencv_K(EGO4D)
    theirs, _ = cv2.omnidir.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, 0.9, np.array([EGO4D_D]))
    np.testing.assert_allclose(Omnidirectional(EGO4D, 0.9, EGO4D_D).project(points) - 0.5, theirs[:, 0], atol=1e-8)


def test_kannala_brandt_against_opencv():
    points = rays(np.random.default_rng(0))
    theirs, _ = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), opencv_K(GOPRO), np.array(GOPRO_K))
    np.testing.assert_allclose(KannalaBrandt(GOPRO, GOPRO_K).project(points) - 0.5, theirs[:, 0], atol=1e-8)


def test_kannala_brandt_maps_against_opencv():
    """The whole map of an undistorted image, against cv2.fisheye.initUndistortRectifyMap."""
    lens, out = KannalaBrandt(SMALL, (0.05, -0.02, 0.004, -0.001)), PinholeCamera(150, 151, 160, 120, 320, 240)
    theirs = cv2.fisheye.initUndistortRectifyMap(
        opencv_K(SMALL), np.array(lens.coefficients), np.eye(3), opencv_K(out), (320, 240), cv2.CV_32FC1
    )
    for ours, other in zip(pinhole_maps(lens, out), theirs, strict=True):
        np.testing.assert_allclose(ours, other, atol=2e-4)


def naive_fisheye624(point, f, cu, cv, k, p, s):
    """Project Aria's page, formula by formula, one point."""
    x, y, z = point
    theta, phi = math.atan2(math.hypot(x, y), z), math.atan2(y, x)
    r = theta + sum(k[n] * theta ** (2 * n + 3) for n in range(6))
    ur, vr = r * math.cos(phi), r * math.sin(phi)
    tx, ty = p[0] * (2 * ur**2 + r**2) + 2 * p[1] * ur * vr, p[1] * (2 * vr**2 + r**2) + 2 * p[0] * ur * vr
    tpx, tpy = s[0] * r**2 + s[1] * r**4, s[2] * r**2 + s[3] * r**4
    return f * (ur + tx + tpx) + cu, f * (vr + ty + tpy) + cv


def test_fisheye624_against_a_naive_twin():
    rng = np.random.default_rng(2)
    for _ in range(20):
        k, p, s = rng.normal(0, 0.005, 6), rng.normal(0, 0.01, 2), rng.normal(0, 0.01, 4)
        lens = Fisheye624.from_aria(np.array([600.0, 700.0, 710.0, *k, *p, *s]), 1408, 1408)
        points = rays(rng, 40, 60.0)
        twin = [naive_fisheye624(point, 600.0, 700.0, 710.0, k, p, s) for point in points]
        np.testing.assert_allclose(lens.project(points) - 0.5, twin, atol=1e-9)


def test_lenses_reduce_to_one_another():
    points = rays(np.random.default_rng(3), widest_deg=60.0)
    k = (0.05, -0.02, 0.004, -0.001)
    plain = Fisheye624(SMALL, (*k, 0.0, 0.0), (0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(plain.project(points), KannalaBrandt(SMALL, k).project(points), atol=1e-10)
    np.testing.assert_allclose(Omnidirectional(SMALL, 0.0).project(points), SMALL.project(points), atol=1e-9)
    straight = Omnidirectional(SMALL, 0.0, (-0.2, 0.03, 0.002, -0.001))
    opencv = RadialTangential(SMALL, (-0.2, 0.03, 0.002, -0.001))
    np.testing.assert_allclose(straight.project(points), opencv.project(points), atol=1e-7)
    equidistant = KannalaBrandt(SMALL).project(np.array([[np.sin(0.7), 0.0, np.cos(0.7)]]))
    np.testing.assert_allclose(equidistant, [[SMALL.cx + 0.7 * SMALL.fx, SMALL.cy]], atol=1e-12)


def test_lenses_are_blind_where_the_formula_folds_back():
    lens = KannalaBrandt(SMALL, (-0.2,))  # r grows up to theta = sqrt(1 / 0.6) = 1.29
    theta = np.array([0.0, 1.28, 1.30, 2.0, 3.0])
    px = lens.project(np.stack([np.sin(theta), np.zeros(5), np.cos(theta)], axis=-1))
    np.testing.assert_array_equal(np.isnan(px[:, 0]), [False, False, True, True, True])
    wide = KannalaBrandt(SMALL)  # more than a half sphere is seen
    np.testing.assert_allclose(wide.project(np.array([[1.0, 0.0, -1.0]]))[0, 0], SMALL.cx + SMALL.fx * 0.75 * np.pi)
    assert np.isnan(Omnidirectional(SMALL, 0.8).project(np.array([[0.1, 0.0, -1.0]]))).all()
    assert np.isnan(Omnidirectional(SMALL, 1.5).project(np.array([[0.1, 0.0, -1.0]]))).all()
    assert np.isfinite(Omnidirectional(SMALL, 1.5).project(np.array([[1.0, 0.0, -0.5]]))).all()
    assert np.isnan(lens.project(np.array([[np.nan, 0.0, 1.0]]))).all()
    assert not np.isnan(lens.project(np.array([[0.0, 0.0, 2.0]]))).any()


@pytest.mark.parametrize(
    "coefficients",
    [(-0.3, 0.05, 0.0, 0.0), (-0.3, 0.05, 0.001, -0.002, -0.004), (0.5, -0.6, 0, 0, 0.1, 0.8, -0.5, 0.2), (0.1, 0.02, 0, 0), (0.0, 0.0, 0.0, 0.0)],
)  # fmt: skip
def test_radial_lenses_are_blind_beyond_their_farthest_radius(coefficients):
    """By a fine table: up to there the recorded radius grows, right after it does not (or never stops)."""
    radius = np.linspace(0.0, 6.0, 600_001)
    k = dict(zip(("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), (*coefficients, *[0.0] * 8), strict=False))
    s = radius**2
    over, under = 1 + s * (k["k1"] + s * (k["k2"] + s * k["k3"])), 1 + s * (k["k4"] + s * (k["k5"] + s * k["k6"]))
    with np.errstate(divide="ignore"):
        falls = np.flatnonzero((np.diff(radius * over / under) <= 0) | (under[1:] <= 0))
    limit = radius[falls[0]] if len(falls) else np.inf
    inside = np.array([[min(limit, 6.0) - 1e-4, 0.0, 1.0], [min(limit, 6.0) * 0.5, 0.0, 1.0]])
    lens = RadialTangential(SMALL, coefficients)
    assert np.isfinite(lens.project(inside)).all()
    if np.isfinite(limit):
        assert np.isnan(
            lens.project(np.array([[limit + 1e-4, 0.0, 1.0], [0.0, -limit - 1e-4, 1.0], [50.0, 0.0, 1.0]]))
        ).all()
    else:
        assert np.isfinite(lens.project(np.array([[50.0, 0.0, 1.0]]))).all()
    assert np.isnan(lens.project(np.array([[0.1, 0.0, -1.0]]))).all()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turned_images_are_numpys_turned_images(turns):
    """A sensor image with one bright pixel a point, turned by numpy: the lens must find every point in it."""
    sensor, size = KannalaBrandt(PinholeCamera(40, 41, 33, 22, 60, 48), (0.05,)), (60, 48)
    points = rays(np.random.default_rng(4), 40, 30.0)
    cells = np.floor(sensor.project(points)).astype(int)
    image = np.zeros((48, 60), np.int64)
    image[cells[:, 1], cells[:, 0]] = np.arange(1, 41)
    turned = np.rot90(image, -turns)
    lens = Turned(sensor, turns, *size)
    found = np.floor(lens.project(points @ turned_from_sensor(turns).T)).astype(int)
    np.testing.assert_array_equal(turned[found[:, 1], found[:, 0]], image[cells[:, 1], cells[:, 0]])


def test_a_turned_image_is_seen_upright():
    """What is up in the turned image is up (-y) in its camera frame: at one turn the sensor's left."""
    sensor = KannalaBrandt(PinholeCamera(40, 40, 30, 24, 60, 48))
    up = Turned(sensor, 1, 60, 48).project(np.array([[0.0, -0.1, 1.0]]))[0]
    assert up[0] == pytest.approx(24.0)
    assert up[1] < 30
    np.testing.assert_allclose(turned_from_sensor(1) @ [-0.1, 0.0, 1.0], [0.0, -0.1, 1.0])


@pytest.mark.parametrize("name", SMALL_LENSES)
def test_straight_lines_come_out_straight(name):
    """A grid on a wall, drawn through the lens line by line; in the undistorted image every line lies where the
    pinhole camera sees it (0.15 px on average, 0.35 px at worst), while in the recorded image lines are bent by pixels."""
    lens, out = SMALL_LENSES[name], PinholeCamera(150.0, 150.0, 200.0, 150.0, 400, 300)
    lines = [np.array([[a, b, 1.0] for b in np.linspace(-1.0, 1.0, 400)]) for a in np.linspace(-1.0, 1.0, 7)]
    lines += [line[:, [1, 0, 2]] for line in lines]
    bend, miss = [], []
    for line in lines:
        px = lens.project(line)
        chord = px[-1] - px[0]
        away = np.abs((px - px[0]) @ [-chord[1], chord[0]]) / np.linalg.norm(chord)
        bend.append(np.nanmax(away))
        recorded = np.zeros((300, 400), np.uint8)
        track = np.round((px[np.isfinite(px).all(axis=1)] - 0.5) * 256).astype(np.int32)
        cv2.polylines(recorded, [track], False, 255, 3, cv2.LINE_AA, 8)
        straight = cv2.remap(recorded, *pinhole_maps(lens, out), cv2.INTER_LINEAR)
        miss += _offsets(straight, out.project(line))
    assert max(bend) > 3.0
    assert np.mean(miss) < 0.15
    assert np.max(miss) < 0.35


def _offsets(image, px):
    """How far the brightness across a (vertical or horizontal) line lies from where it should, at places along it."""
    if abs(px[-1, 0] - px[0, 0]) > abs(px[-1, 1] - px[0, 1]):
        image, px = image.T, px[:, ::-1]
    ends = np.sort(px[[0, -1], 1])
    at, rows = px[0, 0], np.arange(max(30, int(ends[0]) + 15), min(image.shape[0] - 30, int(ends[1]) - 15), 10)
    if not 30 < at < image.shape[1] - 30:
        return []
    place = np.arange(image.shape[1]) + 0.5
    weights = image[rows].astype(float) * (np.abs(place - at) < 12)
    bright = weights.sum(axis=1) > 500
    return np.abs((weights @ place)[bright] / weights.sum(axis=1)[bright] - at).tolist()


def test_wrong_coefficients_are_refused():
    with pytest.raises(ValueError, match="15 parameters"):
        Fisheye624.from_aria(np.zeros(14), 10, 10)
    with pytest.raises(ValueError, match="finite"):
        KannalaBrandt(SMALL, (float("nan"),))
    with pytest.raises(ValueError, match="xi >= 0"):
        Omnidirectional(SMALL, -0.5)
    with pytest.raises(ValueError, match="6 radial"):
        Fisheye624(SMALL, (0.0,) * 4, (0.0, 0.0), (0.0,) * 4)
