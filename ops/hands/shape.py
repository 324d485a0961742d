"""Hand shape (beta) and noise of a clip from distances that no pose can change.

In a MANO-format model wrist and knuckles are one rigid body and bones keep their length, so their distances depend on
beta alone: 15 + 10 pairs, solved for 10 betas with a unit prior. Distances of noisy points are too long on average;
the spread over the clip tells by how much. Metres.
"""

from itertools import combinations

import numpy as np
from jaxtyping import Float64

from ops.hands.fit_start import PALM
from ops.hands.joints import MANO_PARENTS
from ops.hands.mano import Keypoints

PAIRS = np.array([*combinations(PALM, 2), *((k, MANO_PARENTS[k]) for k in range(1, 16) if k not in PALM)])
NOISE_FLOOR_M = 1e-4  # below what any tracker or label has; keeps the prior alive for clean joints
FIRST_GUESS_M = 3e-3  # noise of a hand tracker, where a clip is too short to tell
NUM_PALM_PAIRS = 15
MIN_FRAMES = 8
ITERATIONS = 3


def beta_and_noise(
    keypoints: Keypoints, points: Float64[np.ndarray, "n 21 3"], weight: Float64[np.ndarray, "n 21"]
) -> tuple[Float64[np.ndarray, " 10"], float]:
    """beta of the clip and the standard deviation of a coordinate (m); points in MANO order, weight 0 = missing.

    Noise comes from the spread of distances over frames, and from distances that no beta explains.
    """
    squares, spread, count = _distances(points, weight)
    seen = count > 0
    if not seen.any():
        return np.zeros(10), NOISE_FLOOR_M
    spread_noise = _spread_noise(spread, count)
    noise = FIRST_GUESS_M if spread_noise is None else spread_noise
    beta = np.zeros(10)
    for _ in range(3):  # distances and their noise depend on each other
        # median of |d + e|^2 exceeds |d|^2 by the variance of the two directions across d, 2 sigma^2 each
        lengths = np.sqrt(np.maximum(squares[seen] - 4 * noise**2, 1e-6))
        information = 1 / (2 * noise**2 / count[seen] + NOISE_FLOOR_M**2)
        beta = _solve(keypoints, PAIRS[seen], lengths, information, beta)
        misfit = np.median(np.abs(lengths - _lengths(keypoints, PAIRS[seen], beta)[0])) * 1.4826 / np.sqrt(2)
        noise = max(misfit if spread_noise is None else spread_noise, NOISE_FLOOR_M)
    return beta, max(float(np.hypot(noise, misfit)) if spread_noise is not None else noise, NOISE_FLOOR_M)


def noise_given_beta(
    keypoints: Keypoints,
    points: Float64[np.ndarray, "n 21 3"],
    weight: Float64[np.ndarray, "n 21"],
    beta: Float64[np.ndarray, " 10"],
) -> float:
    """Standard deviation of a coordinate (m), from measured distances against those of a known hand."""
    first, second = PAIRS.T
    both = (weight[:, first] > 0) & (weight[:, second] > 0)
    measured = np.linalg.norm(points[:, first] - points[:, second], axis=-1)
    error = np.abs(measured - _lengths(keypoints, PAIRS, beta)[0])[both]
    return max(float(np.median(error)) * 1.4826 / np.sqrt(2), NOISE_FLOOR_M) if error.size else NOISE_FLOOR_M


def _distances(points: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every pair over the frames that have both: median squared distance, spread of the distance, number."""
    first, second = PAIRS.T
    both = (weight[:, first] > 0) & (weight[:, second] > 0)
    squares = ((points[:, first] - points[:, second]) ** 2).sum(-1)
    count = both.sum(axis=0)
    masked = np.where(both, squares, np.nan)[:, count > 0]
    median, spread = np.zeros(len(PAIRS)), np.zeros(len(PAIRS))
    if masked.size:
        middle_of = np.median if both.all() else np.nanmedian  # the latter is ten times slower
        middle = middle_of(masked, axis=0)
        median[count > 0] = middle
        spread[count > 0] = 1.4826 * middle_of(np.abs(np.sqrt(masked) - np.sqrt(middle)), axis=0)
    return median, spread, count


def _spread_noise(spread: np.ndarray, count: np.ndarray) -> float | None:
    """Noise of a coordinate from how distances vary over the clip; None for too few frames to tell."""
    enough = count >= MIN_FRAMES
    palm = enough & (np.arange(len(PAIRS)) < NUM_PALM_PAIRS)  # long ones, hence nearly normal
    chosen = palm if palm.any() else enough
    return float(np.median(spread[chosen]) / np.sqrt(2)) if chosen.any() else None


def _solve(
    keypoints: Keypoints, pairs: np.ndarray, lengths: np.ndarray, information: np.ndarray, beta: np.ndarray
) -> np.ndarray:
    """Gauss-Newton from beta on weighted distance errors with the shape space's own unit prior."""
    for _ in range(ITERATIONS):
        found, jacobian = _lengths(keypoints, pairs, beta)
        matrix = jacobian.T @ (information[:, None] * jacobian) + np.eye(10)
        beta = beta - np.linalg.solve(matrix, jacobian.T @ (information * (found - lengths)) + beta)
    return beta


def _lengths(keypoints: Keypoints, pairs: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of pairs of joints at rest (p,) and their derivatives by beta (p, 10)."""
    first, second = pairs.T
    offsets = keypoints.shape[first] - keypoints.shape[second]
    vectors = keypoints.template[first] - keypoints.template[second] + offsets @ beta
    lengths = np.linalg.norm(vectors, axis=-1)
    return lengths, ((vectors / lengths[:, None])[:, None] @ offsets)[:, 0]
