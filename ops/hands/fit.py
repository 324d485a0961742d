"""MANO parameters of measured 3D joints: all frames of a clip in one call (paper 3.2.1: fitting MANO to joints).

The paper fits by gradient descent. Here: (1) the shape from bone lengths, once for the clip; (2) wrist and fingers in
closed form; (3) Levenberg-Marquardt on the 21 keypoints, never on the mesh; (4) one step of the shape with all poses
eliminated, and (3) again. Metres, radians; joints in OpenPose order, in any right-handed frame (ours: camera).

21 points do not fix a hand: the twist of a bone about itself moves no joint or little. A prior settles what they
leave open. It weighs against the noise found in the clip itself, so that clean joints are met exactly and noisy ones
are not chased.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from ops.geometry.transforms import rotmat_to_rotvec
from ops.hands.fit_kernel import PALM, fit_poses, place_fingers, place_palms, shape_step
from ops.hands.joints import MANO21_OF_OPENPOSE, OPENPOSE_OF_MANO21
from ops.hands.mano import HandModel, Keypoints
from ops.hands.shape import NOISE_FLOOR_M, beta_and_noise, noise_given_beta

MIN_JOINTS = 10  # of 21 in a frame
MIN_PALM_SPREAD_M = 0.005  # of the palm points across their main direction: a line does not fix a rotation
SHAPE_FRAMES = 128  # most frames that the shape step looks at
# the shape step has no defence against noise (bones come out longer by 2 sigma^2 / length), bone lengths have
MAX_REFINED_NOISE_M = 5e-4
# clean joints make a narrow curved valley (twist): a stiffer prior first walks along it in few steps
COARSE_NOISE_M = 1e-3
FIRST_ITERATIONS, LAST_ITERATIONS = 6, 15  # at most; first passes need not end, a few slow frames would hold up all

# ASSUMED: the paper names no prior. Standard deviations, radians, of a joint's angles about: its bone (twist), the
# axis normal to the palm (sideways), the axis across the finger (bending). Rows: first, second, last joint of index,
# middle, little and ring; then the thumb's, whose bending axis is not known from the rest pose.
FINGER_STD = ((0.15, 0.3, 0.9), (0.1, 0.1, 0.9), (0.1, 0.1, 0.6))
THUMB_STD = ((0.4, 0.5, 0.5), (0.2, 0.5, 0.5), (0.15, 0.5, 0.5))


@dataclass(frozen=True)
class HandFit:
    """A fitted clip of one hand; n frames. Frames that cannot be fitted are NaN and not `valid`.

    theta, r, tau, beta: as in ops.hands.mano. joints: the fitted hand's 21 joints, OpenPose order, m.
    residual_mm: mean distance of fitted to measured joints over the joints that were measured.
    valid: enough joints were measured. observed: which were; a finger without any lies flat, by the prior.
    noise_mm: standard deviation of a measured coordinate as estimated from the clip. iterations: a frame.
    """

    theta: Float64[np.ndarray, "n 45"]
    r: Float64[np.ndarray, "n 3"]
    tau: Float64[np.ndarray, "n 3"]
    beta: Float64[np.ndarray, " 10"]
    joints: Float64[np.ndarray, "n 21 3"]
    residual_mm: Float64[np.ndarray, " n"]
    valid: Bool[np.ndarray, " n"]
    observed: Bool[np.ndarray, "n 21"]
    noise_mm: float
    iterations: np.ndarray


def fit(
    model: HandModel,
    joints: Float[np.ndarray, "n 21 3"],
    weights: Float[np.ndarray, "n 21"] | None = None,
    beta: Float[np.ndarray, " 10"] | None = None,
) -> HandFit:
    """Fit every frame of one hand.

    joints: measured, m, OpenPose order; a joint with a NaN is missing. weights: importance of a joint, 0 = missing,
    1 = full. beta: the hand's shape if it is known; otherwise estimated, one for the clip.
    A frame is fitted if it has at least MIN_JOINTS joints and three of wrist and knuckles that are not in a line.

    Raises ValueError for wrong shapes, or negative or infinite weights.
    """
    y, weight = _measured(joints, weights)
    order = list(OPENPOSE_OF_MANO21)
    y, weight = np.ascontiguousarray(y[:, order]), np.ascontiguousarray(weight[:, order])
    valid = _enough(y, weight)
    weight = np.where(valid[:, None], weight, 0.0)
    k = model.keypoints
    known = None if beta is None else _checked_beta(beta)
    if known is None:
        shape, noise = beta_and_noise(k, y, weight)
    else:
        shape, noise = known, noise_given_beta(k, y, weight, known)
    theta, wrist, tau = _closed_form(k.rest(shape[None])[0], y, weight, valid)
    unit_prior, iterations = _unit_prior(k), np.zeros(len(y), dtype=np.int64)

    def solve(scale: float, tolerance: float, limit: int) -> None:
        rest, prior = k.rest(shape[None])[0], unit_prior * scale**2
        iterations[:] += fit_poses(
            y, weight, rest, k.pose, k.weights, prior, theta, wrist, tau, valid, tolerance * scale**2, limit
        )

    if noise < COARSE_NOISE_M:
        solve(COARSE_NOISE_M, 0.1, FIRST_ITERATIONS)
    if known is None and valid.any() and noise < MAX_REFINED_NOISE_M:
        solve(noise, 1.0, FIRST_ITERATIONS)
        shape = _refine_shape(k, y, weight, shape, noise, unit_prior * noise**2, theta, wrist, tau, valid)
    solve(noise, 0.1, LAST_ITERATIONS)
    return _result(model, theta, wrist, tau, shape, y, weight, valid, noise, iterations)


# -- what was measured


def _measured(joints: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Joints without NaN and their weights; whatever is missing has weight 0."""
    y = np.array(joints, dtype=np.float64)
    if y.ndim != 3 or y.shape[1:] != (21, 3):
        raise ValueError(f"joints must have shape (n, 21, 3), got {y.shape}")
    weight = np.ones(y.shape[:2]) if weights is None else np.array(weights, dtype=np.float64)
    if weight.shape != y.shape[:2]:
        raise ValueError(f"weights must have shape {y.shape[:2]}, got {weight.shape}")
    weight = np.where(np.isnan(weight), 0.0, weight)
    if (weight < 0).any() or not np.isfinite(weight).all():
        raise ValueError("weights must be finite and at least 0 (0 = missing)")
    present = np.isfinite(y).all(axis=-1)
    y[~present] = 0.0
    return y, np.where(present, weight, 0.0)


def _checked_beta(beta: np.ndarray) -> np.ndarray:
    beta = np.array(beta, dtype=np.float64)
    if beta.shape != (10,) or not np.isfinite(beta).all():
        raise ValueError(f"beta must be ten finite numbers, got {beta}")
    return beta


def _enough(y: np.ndarray, weight: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Frames that fix a hand: joints enough, and palm points that span a plane."""
    palm, seen = y[:, PALM], weight[:, PALM] > 0
    count = np.maximum(seen.sum(axis=1), 1)
    centre = (palm * seen[..., None]).sum(axis=1) / count[:, None]
    centred = (palm - centre[:, None]) * seen[..., None]
    spread = np.linalg.eigvalsh(np.einsum("npi,npj->nij", centred, centred) / count[:, None, None])[:, 1]
    plane = np.sqrt(np.maximum(spread, 0)) > MIN_PALM_SPREAD_M
    return ((weight > 0).sum(axis=1) >= MIN_JOINTS) & (seen.sum(axis=1) >= 3) & plane


# -- start


def _closed_form(
    rest: np.ndarray, y: np.ndarray, weight: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """theta (n, 45), wrist rotation (n, 3, 3), tau (n, 3): palm by Procrustes, bones by their shortest turns."""
    theta, tau = np.zeros((len(y), 45)), np.zeros((len(y), 3))
    wrist = np.tile(np.eye(3), (len(y), 1, 1))
    place_palms(y, weight, rest, wrist, tau, valid)
    place_fingers(y, weight, rest, theta, wrist, tau, valid)
    return theta, wrist, tau


# -- prior


def _unit_prior(k: Keypoints) -> Float64[np.ndarray, "15 3 3"]:
    """Quadratic cost of theta, 1 / std^2 along each joint's own axes; times the noise's variance, m^2 / rad^2."""
    joints, tips = k.template[:16], k.template[[17, 18, 20, 19, 16]]
    normal = np.cross(joints[1] - joints[0], joints[7] - joints[0])
    prior = np.empty((15, 3, 3))
    for f in range(5):
        ends = [joints[3 * f + 2], joints[3 * f + 3], tips[f]]
        for m in range(3):
            bone = _unit(ends[m] - joints[3 * f + 1 + m])
            across = _unit(np.cross(bone, normal))
            axes = np.stack([bone, np.cross(across, bone), across])
            std = np.array((FINGER_STD if f < 4 else THUMB_STD)[m])
            prior[3 * f + m] = axes.T @ np.diag(1 / std**2) @ axes
    return prior


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


# -- shape


def _refine_shape(
    k: Keypoints, y: np.ndarray, weight: np.ndarray, beta: np.ndarray, noise: float, prior: np.ndarray,
    theta: np.ndarray, wrist: np.ndarray, tau: np.ndarray, valid: np.ndarray,
) -> Float64[np.ndarray, " 10"]:  # fmt: skip
    """One Gauss-Newton step of the shared betas with every pose free to follow."""
    chosen = np.flatnonzero(valid)
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, SHAPE_FRAMES).astype(int))]
    rest = k.rest(beta[None])[0]
    parts = (array[chosen] for array in (theta, wrist, tau))
    matrix, gradient = shape_step(y[chosen], weight[chosen], rest, k.pose, k.weights, k.shape, prior, *parts)
    unit = max(noise, NOISE_FLOOR_M) ** 2 * np.eye(10)
    return beta - np.linalg.solve(matrix + unit, gradient + unit @ beta)


def _result(
    model: HandModel, theta: np.ndarray, wrist: np.ndarray, tau: np.ndarray, beta: np.ndarray, y: np.ndarray,
    weight: np.ndarray, valid: np.ndarray, noise: float, iterations: np.ndarray,
) -> HandFit:  # fmt: skip
    lost = ~valid
    order = list(MANO21_OF_OPENPOSE)
    r = rotmat_to_rotvec(wrist)
    for array in (theta, r, tau):
        array[lost] = np.nan
    joints = model.joints(theta, r, tau, beta)
    observed = weight[:, order] > 0
    distance = np.linalg.norm(joints - y[:, order], axis=-1)
    residual = np.where(observed, distance, 0.0).sum(axis=1) / np.maximum(observed.sum(axis=1), 1)
    residual_mm = np.where(valid, 1000 * residual, np.nan)
    beta = beta if valid.any() else np.full(10, np.nan)
    return HandFit(theta, r, tau, beta, joints, residual_mm, valid, observed, 1000 * noise, iterations)
