"""Depth of a frame from a second frame of a moving camera: classical two-view geometry, no learned weights.

Relative pose from matched features (or the given poses), the rotation taken out, dense flow both ways, triangulation.
Where the poses are not given the scale is arbitrary: the baseline is 1. The scene is taken to stand still; hands do
not, so their pixels are left out, and so is whatever the two flows disagree on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera, opencv_K
from ops.perception.depth_maps import map_size, points_of_depth, shrink_depth
from ops.rejects import Reason, Reject
from ops.sources.base import Clip
from ops.video import Frame

# ASSUMED, all: chosen on rendered clips with known depth and on real moving-camera video.
WORK_EDGE = 480  # pixels of the image that is matched
OFFSETS_S = (0.4, 0.8, 1.2, 2.0)  # how far the second frame lies, tried in turn, ahead and then back
MIN_MATCHES = 60
MIN_INLIERS = 40
STATIC_PX = 1.0  # median motion of features below which the camera stands still
MIN_PARALLAX_PX = 4.0  # median motion of inliers once the rotation is taken out
MAX_DISAGREEMENT_PX = 1.0  # forward and backward flow
MIN_PIXEL_PARALLAX_PX = 0.7  # below it a depth is noise
MIN_COVERAGE = 0.1


@dataclass(frozen=True)
class Pair:
    """Relative pose of two frames of one camera. T_b_a: p_b = T_b_a p_a. scale "metric" or "relative" (|t| = 1)."""

    T_b_a: Float[np.ndarray, "4 4"]
    num_inliers: int
    parallax_px: float


def frame_map(
    clip: Clip, index: int, hands_px: dict[int, Float[np.ndarray, "n 21 2"]], size: tuple[int, int]
) -> tuple[Frame, np.ndarray, np.ndarray] | Reject:
    """(frame resized, points (h, w, 3), confidence (h, w)) of one frame, or why not."""
    work = map_size(clip.camera, WORK_EDGE)
    camera = clip.camera.resized(*work)
    best = Reject(clip.clip_id, Reason.DEPTH_NONE_STATIC_CAMERA, index, detail="no second frame within reach")
    for other in _candidates(clip, index):
        pair_of_frames = {frame.index: frame for frame in clip.frames(sorted({index, other}), work)}
        a, b = pair_of_frames[index].rgb, pair_of_frames[other].rgb
        masks = [_hand_mask(hands_px.get(i), clip.camera, work) for i in (index, other)]
        given = (
            None if clip.T_cam_world is None else transforms.relative(clip.T_cam_world[other], clip.T_cam_world[index])
        )
        pair = relative_pose(a, b, camera, masks, given)
        if not isinstance(pair, Pair):
            reason, detail = pair
            best = Reject(clip.clip_id, reason, index, detail=f"against frame {other}: {detail}")
            continue
        depth = dense_depth(a, b, camera, pair.T_b_a, masks)
        coverage = float(np.isfinite(depth).mean())
        if coverage < MIN_COVERAGE:
            best = Reject(
                clip.clip_id, Reason.TOO_FEW_MATCHES, index, detail=f"depth for {coverage:.0%} of the pixels only"
            )
            continue
        return _resized(pair_of_frames[index], depth, camera, size)
    return best


def relative_pose(
    a: np.ndarray, b: np.ndarray, camera: PinholeCamera, masks: list[np.ndarray], given: np.ndarray | None = None
) -> Pair | tuple[Reason, str]:
    """Pose of camera b relative to a, from features outside the masks; or the reason and numbers why not.

    given: T_b_a where poses are known; features then only tell whether there is parallax to measure.
    """
    pa, pb = _matches(a, b, masks)
    if len(pa) < MIN_MATCHES:
        return Reason.TOO_FEW_MATCHES, f"{len(pa)} matches, {MIN_MATCHES} needed"
    motion = float(np.median(np.linalg.norm(pa - pb, axis=1)))
    if motion < STATIC_PX:
        return Reason.DEPTH_NONE_STATIC_CAMERA, f"features move by {motion:.2f} px: the camera stands still"
    K = opencv_K(camera)
    if given is None:
        E, inlier = cv2.findEssentialMat(pa, pb, K, method=cv2.USAC_MAGSAC, prob=0.9999, threshold=1.0)
        if E is None or E.shape != (3, 3):
            return Reason.TOO_FEW_MATCHES, "no essential matrix fits the matches"
        count, R, t, inlier = cv2.recoverPose(E, pa, pb, K, mask=inlier)
        given, kept = transforms.make(R, t[:, 0]), inlier[:, 0] > 0
    else:
        kept = np.ones(len(pa), bool)
        count = len(pa)
    if count < MIN_INLIERS:
        return Reason.TOO_FEW_MATCHES, f"{count} inliers, {MIN_INLIERS} needed"
    parallax = float(np.median(np.linalg.norm(_derotated(pa[kept], K, given[:3, :3]) - pb[kept], axis=1)))
    if parallax < MIN_PARALLAX_PX:
        return Reason.BASELINE_TOO_SMALL, f"parallax {parallax:.1f} px, {MIN_PARALLAX_PX} needed"
    return Pair(given, int(count), parallax)


def dense_depth(
    a: np.ndarray, b: np.ndarray, camera: PinholeCamera, T_b_a: Float[np.ndarray, "4 4"], masks: list[np.ndarray]
) -> Float[np.ndarray, "h w"]:
    """Depth of a's pixels in the unit of T_b_a's translation; NaN where flow, parallax or side do not agree."""
    K = opencv_K(camera)
    R, t = T_b_a[:3, :3], T_b_a[:3, 3]
    size = (camera.width, camera.height)
    # b as seen by a camera at b's place with a's orientation: what motion is left is parallax
    derotate = K @ R.T @ np.linalg.inv(K)
    gray_a = cv2.cvtColor(a, cv2.COLOR_RGB2GRAY)
    gray_b = cv2.warpPerspective(cv2.cvtColor(b, cv2.COLOR_RGB2GRAY), derotate, size)
    seen_b = (
        cv2.warpPerspective(np.where(masks[1], 0, 255).astype(np.uint8), derotate, size, flags=cv2.INTER_NEAREST) > 0
    )
    flow_estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forward, backward = flow_estimator.calc(gray_a, gray_b, None), flow_estimator.calc(gray_b, gray_a, None)
    u, v = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    there = (u + forward[..., 0], v + forward[..., 1])
    back = cv2.remap(backward, *there, cv2.INTER_LINEAR, borderValue=(np.inf, np.inf))
    landed = cv2.remap(seen_b.astype(np.uint8), *there, cv2.INTER_NEAREST) > 0
    with np.errstate(invalid="ignore"):
        agree = np.linalg.norm(forward + back, axis=-1) < MAX_DISAGREEMENT_PX
    z = _triangulate(np.stack([u, v], -1), np.stack(there, -1), K, R.T @ t)
    z[~(agree & landed & ~masks[0])] = np.nan
    return z.astype(np.float32)


def _triangulate(p: np.ndarray, q: np.ndarray, K: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Depth in a from pixel p in a and pixel q in a parallel camera; a point X has X + c in the second camera.

    q ~ K (z K^-1 p + c): with e = K c, q z' = p z + e, z' = z + c_z. Two linear equations for z, least squares:
    z (q - p) = e_xy - q c_z.
    """
    e = K @ c
    d = q - p
    rhs = e[:2] - q * c[2]
    square = (d**2).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (d * rhs).sum(-1) / square
        # the part of the flow that no depth explains: a moving thing, or a wrong match
        off = np.linalg.norm(z[..., None] * d - rhs, axis=-1) / z
    z[~((z > 0) & (square > MIN_PIXEL_PARALLAX_PX**2) & (np.abs(off) < 1.0))] = np.nan
    return z


def _derotated(pa: np.ndarray, K: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Where a's pixels would be seen by b if it had only turned."""
    moved = np.c_[pa, np.ones(len(pa))] @ (K @ R @ np.linalg.inv(K)).T
    return moved[:, :2] / moved[:, 2:]


def _matches(a: np.ndarray, b: np.ndarray, masks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mutual SIFT matches that pass the ratio test, as (n, 2) integer-centred pixels."""
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


def _candidates(clip: Clip, index: int) -> Iterator[int]:
    """Second frames, nearest in time first; ahead before back."""
    tried = {index}
    for offset in OFFSETS_S:
        for sign in (1, -1):
            when = clip.times_s[index] + sign * offset
            if 0 <= when <= clip.times_s[-1]:
                other = int(np.abs(clip.times_s - when).argmin())
                if other not in tried:
                    tried.add(other)
                    yield other


def _hand_mask(hands_px: np.ndarray | None, camera: PinholeCamera, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Pixels of the hands and a margin: hulls of their joints, grown by a twelfth of the longer edge."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    for joints in [] if hands_px is None else hands_px:
        points = joints[np.isfinite(joints).all(axis=1)] * (np.array(size) / (camera.width, camera.height))
        if len(points) >= 3:
            hull = cv2.convexHull(np.clip(points, -1e4, 1e4).round().astype(np.int32))
            cv2.fillConvexPoly(mask, hull, 1)
    return cv2.dilate(mask, np.ones((max(size) // 12,) * 2, np.uint8)) > 0


def _resized(
    frame: Frame, depth: np.ndarray, camera: PinholeCamera, size: tuple[int, int]
) -> tuple[Frame, np.ndarray, np.ndarray]:
    points = points_of_depth(shrink_depth(depth, size), camera.resized(*size))
    rgb = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
    return Frame(frame.index, frame.time_s, rgb), points, np.isfinite(points[..., 2]).astype(np.float32)
