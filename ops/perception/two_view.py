"""Depth of a frame from a second frame of a moving camera: classical two-view geometry, no learned weights.

Relative pose from matched features (or the given poses), the rotation taken out, dense flow both ways, triangulation.
Where the poses are not given the scale is arbitrary: the baseline is 1. The scene is taken to stand still. A hand's
pixels are left out unless its joints say that it stood still, too; so is whatever the two flows disagree on.
Camera frame of the first frame, OpenCV axes. ops.perception.pairs chooses the second frame.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera, opencv_K
from ops.rejects import Reason

# ASSUMED, all: chosen on rendered clips with known depth and on real moving-camera video.
MIN_MATCHES = 60
MIN_INLIERS = 40
STATIC_PX = 0.7  # a quarter of the features moves by less: the camera stands still and something else moves
MIN_UNTURNED_PX = 1.0  # what the best turn leaves of the matches' motion, median; below it no essential matrix is sure
MIN_PARALLAX_PX = 4.0  # median motion of inliers once the rotation is taken out
MAX_DISAGREEMENT_PX = 1.0  # forward and backward flow
MIN_PIXEL_PARALLAX_PX = 0.7  # below it a depth is noise
MAX_OFF_LINE_PX = 1.0  # part of a pixel's motion that no depth explains
FLOW_ERROR_PX = 0.5  # typical error of the dense flow
MAX_HAND_MOTION_PX = 2.0  # median, of a hand's joints against a hand standing still


@dataclass(frozen=True)
class Pair:
    """Relative pose of two frames of one camera. T_b_a: p_b = T_b_a p_a, metres if it was given, else |t| = 1."""

    T_b_a: Float[np.ndarray, "4 4"]
    num_inliers: int
    parallax_px: float


def relative_pose(
    a: np.ndarray,
    b: np.ndarray,
    camera: PinholeCamera,
    masks: tuple[np.ndarray, np.ndarray],
    given: Float[np.ndarray, "4 4"] | None = None,
) -> Pair | tuple[Reason, str]:
    """Pose of camera b relative to a, from features outside the masks; or the reason and numbers why not.

    given: T_b_a where poses are known; features then only tell whether there is parallax to measure.
    """
    pa, pb = matches(a, b, masks)
    if len(pa) < MIN_MATCHES:
        return Reason.TOO_FEW_MATCHES, f"{len(pa)} matches, {MIN_MATCHES} needed"
    still = float(np.percentile(np.linalg.norm(pa - pb, axis=1), 25))
    if still < STATIC_PX:
        return Reason.DEPTH_NONE_STATIC_CAMERA, f"a quarter of {len(pa)} features moves by less than {STATIC_PX} px"
    K = opencv_K(camera)
    kept = np.ones(len(pa), bool)
    if given is None:
        turned = _only_turned(pa, pb, K)
        if turned < MIN_UNTURNED_PX:
            return Reason.BASELINE_TOO_SMALL, f"a turn explains the matches to {turned:.2f} px: no parallax"
        E, inlier = cv2.findEssentialMat(pa, pb, K, method=cv2.USAC_MAGSAC, prob=0.9999, threshold=1.0)
        if E is None or E.shape != (3, 3):
            return Reason.TOO_FEW_MATCHES, "no essential matrix fits the matches"
        _, R, t, inlier = cv2.recoverPose(E, pa, pb, K, mask=inlier)
        given, kept = transforms.make(R, t[:, 0]), inlier[:, 0] > 0
    count = int(kept.sum())
    if count < MIN_INLIERS:
        return Reason.TOO_FEW_MATCHES, f"{count} inliers of {len(pa)} matches, {MIN_INLIERS} needed"
    parallax = float(np.median(np.linalg.norm(_derotated(pa[kept], K, given[:3, :3]) - pb[kept], axis=1)))
    if parallax < MIN_PARALLAX_PX:
        return Reason.BASELINE_TOO_SMALL, f"parallax {parallax:.1f} px, {MIN_PARALLAX_PX} needed"
    return Pair(given, count, parallax)


def dense_depth(
    a: np.ndarray,
    b: np.ndarray,
    camera: PinholeCamera,
    T_b_a: Float[np.ndarray, "4 4"],
    masks: tuple[np.ndarray, np.ndarray],
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """(depth z of a's pixels in the unit of T_b_a's translation, confidence 0 to 1).

    NaN and 0 inside the masks and where flow, parallax or side do not agree.
    """
    K = opencv_K(camera)
    R, t = T_b_a[:3, :3], T_b_a[:3, 3]
    size = (camera.width, camera.height)
    # b as seen by a camera at b's place with a's orientation: what motion is left is parallax
    derotate = K @ R.T @ np.linalg.inv(K)
    gray_a = cv2.cvtColor(a, cv2.COLOR_RGB2GRAY)
    gray_b = cv2.warpPerspective(cv2.cvtColor(b, cv2.COLOR_RGB2GRAY), derotate, size)
    usable = np.where(masks[1], 0, 255).astype(np.uint8)
    usable = cv2.warpPerspective(usable, derotate, size, flags=cv2.INTER_NEAREST)  # 0 outside b as well
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forward, backward = flow.calc(gray_a, gray_b, None), flow.calc(gray_b, gray_a, None)
    u, v = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    there = (u + forward[..., 0], v + forward[..., 1])
    back = cv2.remap(backward, *there, cv2.INTER_LINEAR, borderValue=(np.inf, np.inf))
    landed = cv2.remap(usable, *there, cv2.INTER_NEAREST) > 0
    with np.errstate(invalid="ignore"):
        agree = np.linalg.norm(forward + back, axis=-1) < MAX_DISAGREEMENT_PX
    z, parallax = triangulate(np.stack([u, v], -1), np.stack(there, -1), K, R.T @ t)
    z[~(agree & landed & ~masks[0])] = np.nan
    confidence = np.where(np.isfinite(z), confidence_of(parallax), 0.0)
    return z.astype(np.float32), confidence.astype(np.float32)


def confidence_of(parallax_px: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """1 / (1 + expected relative error of the depth) as far as the flow goes; an error of the pose is not in it."""
    return parallax_px / (parallax_px + FLOW_ERROR_PX)


def triangulate(
    p: Float[np.ndarray, "*n 2"], q: Float[np.ndarray, "*n 2"], K: Float[np.ndarray, "3 3"], c: Float[np.ndarray, " 3"]
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """(depth in a, parallax in pixels) from pixel p in a and q in a parallel camera, where a point X of a is X + c.

    q ~ K (z K^-1 p + c): with e = K c, q (z + c_z) = p z + e. Two linear equations for z, least squares:
    z (q - p) = e_xy - q c_z. NaN behind a, for too little parallax, and where q lies off the line that depths explain.
    """
    e = K @ c
    d = q - p
    rhs = e[:2] - q * c[2]
    square = (d**2).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (d * rhs).sum(-1) / square
        off = np.linalg.norm(d - rhs / z[..., None], axis=-1)
    z[~((z > 0) & (square > MIN_PIXEL_PARALLAX_PX**2) & (off < MAX_OFF_LINE_PX))] = np.nan
    return z, np.sqrt(square)


def stands_still(
    joints_a: Float[np.ndarray, "21 3"],
    px_b: Float[np.ndarray, "21 2"],
    camera: PinholeCamera,
    T_b_a: Float[np.ndarray, "4 4"],
    metric: bool,
) -> bool:
    """Whether a hand seen at joints_a (camera a, m) is seen at px_b because only the camera moved.

    metric: T_b_a is in metres; else the length of its translation is what suits the hand best, so that a hand moving
    just as the camera does is not told from one at another distance.
    """
    R, t = T_b_a[:3, :3], T_b_a[:3, 3]
    turned, ray = joints_a @ R.T, camera.unproject(px_b, np.ones(21))[:, :2]
    # x_b (z + s t_z) = x + s t_x: linear in s
    without, with_s = turned[:, :2] - ray * turned[:, 2:], t[:2] - ray * t[2]
    s = 1.0 if metric else float(-(without * with_s).sum() / max((with_s**2).sum(), 1e-12))
    if not s > 0:
        return False
    apart = np.linalg.norm(camera.project(turned + s * t) - px_b, axis=1)
    return bool(np.median(apart) <= MAX_HAND_MOTION_PX)  # False for NaN


def matches(
    a: np.ndarray, b: np.ndarray, masks: tuple[np.ndarray, np.ndarray]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Mutual SIFT matches that pass the ratio test, as integer-centred pixels."""
    sift = cv2.SIFT_create(nfeatures=2000, contrastThreshold=0.02)
    found = [
        sift.detectAndCompute(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.where(mask, 0, 255).astype(np.uint8))
        for rgb, mask in zip((a, b), masks, strict=True)
    ]
    if any(descriptors is None or len(descriptors) < 2 for _, descriptors in found):
        return np.empty((0, 2)), np.empty((0, 2))
    (ka, da), (kb, db) = found
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    back = {m.queryIdx: m.trainIdx for m in matcher.match(db, da)}
    pairs = [
        m
        for m, second in matcher.knnMatch(da, db, k=2)
        if m.distance < 0.8 * second.distance and back[m.trainIdx] == m.queryIdx
    ]
    pa = np.array([ka[m.queryIdx].pt for m in pairs], np.float64).reshape(-1, 2)
    pb = np.array([kb[m.trainIdx].pt for m in pairs], np.float64).reshape(-1, 2)
    return pa, pb


def hands_mask(
    hands_px: Float[np.ndarray, "n 21 2"], camera: PinholeCamera, size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Pixels of the hands and a margin, in an image of `size`: hulls of their joints, grown by a 24th of its edge."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    for joints in hands_px:
        points = joints[np.isfinite(joints).all(axis=1)] * (np.array(size) / (camera.width, camera.height))
        if len(points) >= 3:
            hull = cv2.convexHull(np.clip(points, -1e4, 1e4).round().astype(np.int32))
            cv2.fillConvexPoly(mask, hull, 1)
    return cv2.dilate(mask, np.ones((max(size) // 12,) * 2, np.uint8)) > 0


def _only_turned(pa: np.ndarray, pb: np.ndarray, K: np.ndarray) -> float:
    """Median distance that the best rotation (Kabsch on the rays, wrong matches trimmed twice) leaves, pixels."""
    rays = [np.c_[p, np.ones(len(p))] @ np.linalg.inv(K).T for p in (pa, pb)]
    a, b = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in rays)
    kept = np.ones(len(pa), bool)
    for _ in range(3):
        u, _, vt = np.linalg.svd(b[kept].T @ a[kept])
        R = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
        apart = np.linalg.norm(_derotated(pa, K, R) - pb, axis=1)
        kept = apart <= max(3 * float(np.median(apart)), 1.0)
    return float(np.median(apart))


def _derotated(pa: np.ndarray, K: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Where a's pixels would be seen by b if it had only turned."""
    moved = np.c_[pa, np.ones(len(pa))] @ (K @ R @ np.linalg.inv(K)).T
    return moved[:, :2] / moved[:, 2:]
