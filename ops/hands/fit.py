"""MANO parameters of measured 3D joints: all frames and hands in one call (paper 3.2.1: fitting MANO to joints).

The paper fits by gradient descent. Here: (1) the shape from bone lengths, one for all clips of a subject's hand;
(2) wrist and fingers in closed form; (3) Levenberg-Marquardt on the 21 keypoints, never on the mesh. Clean joints get a
step of the shape with all poses eliminated between (2) and (3). Metres, radians; joints in OpenPose order, in any
right-handed frame (ours: camera).

21 points do not fix a hand: the twist of a bone about itself moves no joint or little. A prior settles what they
leave open and stands for joint limits. It weighs against the noise found in the clip itself, so that clean joints are
met exactly and noisy ones are not chased. Joints far off the fitted hand lose their weight (robust loss). `smooth`
adds a temporal term.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from ops.hands.batch import Batch
from ops.hands.fit_kernel import shape_step
from ops.hands.fit_start import PALM
from ops.hands.joints import MANO21_OF_OPENPOSE, OPENPOSE_OF_MANO21
from ops.hands.mano import HandModel, Keypoints
from ops.hands.shape import NOISE_FLOOR_M, beta_and_noise, noise_given_beta
from ops.hands.smoothing import smooth_tracks

MIN_JOINTS = 10  # of 21 in a frame
MIN_PALM_SPREAD_M = 0.005  # of the palm points across their main direction: a line does not fix a rotation
SHAPE_FRAMES = 32  # most frames that the shape step looks at
# the shape step has no defence against noise (bones come out longer by 2 sigma^2 / length), bone lengths have; the
# temporal term has nothing to do below
MAX_REFINED_NOISE_M = 5e-4
SHAPE_ITERATIONS = 3  # at most


@dataclass(frozen=True)
class HandFit:
    """A fitted clip of one hand; n frames. Frames that cannot be fitted are NaN and not `valid`.

    hand_model: name of the model that theta and beta belong to. theta, r, tau, beta: as in ops.hands.mano. joints: the fitted hand's 21 joints, OpenPose order, m.
    residual_mm: mean distance of fitted to measured joints over the joints that were measured.
    valid: enough joints were measured. observed: which were; a finger without any lies flat, by the prior.
    trust: what the robust loss left of each joint's weight, 1 for joints that agree with the hand.
    noise_mm: standard deviation of a measured coordinate as estimated from the clip. iterations: a frame.
    """

    hand_model: str
    theta: Float64[np.ndarray, "n 45"]
    r: Float64[np.ndarray, "n 3"]
    tau: Float64[np.ndarray, "n 3"]
    beta: Float64[np.ndarray, " 10"]
    joints: Float64[np.ndarray, "n 21 3"]
    residual_mm: Float64[np.ndarray, " n"]
    valid: Bool[np.ndarray, " n"]
    observed: Bool[np.ndarray, "n 21"]
    trust: Float64[np.ndarray, "n 21"]
    noise_mm: float
    iterations: np.ndarray


@dataclass(frozen=True)
class Track:
    """Measured joints of one hand over a clip; arguments as of `fit`. Tracks of one model and subject share beta."""

    model: HandModel
    joints: Float[np.ndarray, "n 21 3"]
    weights: Float[np.ndarray, "n 21"] | None = None
    beta: Float[np.ndarray, " 10"] | None = None
    subject: str | None = None


def fit(
    model: HandModel,
    joints: Float[np.ndarray, "n 21 3"],
    weights: Float[np.ndarray, "n 21"] | None = None,
    beta: Float[np.ndarray, " 10"] | None = None,
    smooth: bool = False,
    robust: bool = True,
) -> HandFit:
    """Fit every frame of one hand.

    joints: measured, m, OpenPose order; a joint with a NaN is missing. weights: importance of a joint, 0 = missing,
    1 = full. beta: the hand's shape if it is known; otherwise estimated, one for the clip.
    smooth: temporal term; frames then are consecutive and equally spaced, lost ones NaN. It leaves clean joints alone.
    robust: take weight from joints that lie far off the fitted hand.
    A frame is fitted if it has at least MIN_JOINTS joints and three of wrist and knuckles that are not in a line.

    Raises ValueError for wrong shapes, or negative or infinite weights.
    """
    return fit_tracks([Track(model, joints, weights, beta)], smooth, robust)[0]


def fit_tracks(tracks: Sequence[Track], smooth: bool = False, robust: bool = True) -> list[HandFit]:
    """Fit many clips, left and right hands among them, in one batched solve; one result a track, in order.

    Tracks of the same model and the same subject share one beta and one noise; a track without subject has its own.
    Raises ValueError as `fit` does, or if tracks of one subject name different betas.
    """
    if not tracks:
        return []
    measured = [_measured(track.joints, track.weights) for track in tracks]
    hands, hand_of_track = _hands(tracks)
    which = np.repeat(hand_of_track, [len(y) for y, _ in measured])
    lengths = np.cumsum([len(y) for y, _ in measured])[:-1]
    y, weight = (np.concatenate(arrays) for arrays in zip(*measured, strict=True))
    valid = _enough(y, weight)
    weight = np.where(valid[:, None], weight, 0.0)
    shapes = [_shape(hands[m], y[which == m], weight[which == m], valid[which == m]) for m in range(len(hands))]
    target, trust = y, np.ones(weight.shape)
    if smooth:  # an outlier must not be smeared over its neighbours
        if robust:
            batch = _batch(hands, shapes, y, weight, which, valid)
            batch.solve()
            trust = batch.solve_robustly()
        target = _smoothed(hands, shapes, y, weight * trust, which, lengths)
    batch = _batch(hands, shapes, target, weight, which, valid)
    batch.solve()
    if robust:
        trust = np.minimum(trust, batch.solve_robustly())
    arrays = (batch.theta, batch.tau, *batch.points(valid), y, weight, trust, valid, batch.iterations)
    parts = zip(*(np.split(array, lengths) for array in arrays), strict=True)
    chosen = (shapes[m] for m in hand_of_track)
    return [_result(track, shape, *part) for track, shape, part in zip(tracks, chosen, parts, strict=True)]


# -- hands and their shapes


@dataclass(frozen=True)
class _Hand:
    """One hand of one subject, of which there may be several tracks."""

    keypoints: Keypoints
    beta: np.ndarray | None


@dataclass
class _Shape:
    """beta and noise (standard deviation of a coordinate, m) of a hand."""

    beta: Float64[np.ndarray, " 10"]
    noise: float


def _hands(tracks: Sequence[Track]) -> tuple[list[_Hand], list[int]]:
    """Distinct hands, and each track's."""
    keys: dict[tuple[int, object], int] = {}
    hands: list[_Hand] = []
    which = []
    for n, track in enumerate(tracks):
        beta = None if track.beta is None else _checked_beta(track.beta)
        key = (id(track.model), n if track.subject is None else track.subject)
        if key not in keys:
            keys[key] = len(hands)
            hands.append(_Hand(track.model.keypoints, beta))
        elif not np.array_equal(hands[keys[key]].beta, beta):
            raise ValueError(f"tracks of subject {track.subject!r} name different betas: give one, or none")
        which.append(keys[key])
    return hands, which


def _shape(hand: _Hand, y: np.ndarray, weight: np.ndarray, valid: np.ndarray) -> _Shape:
    """Known or estimated beta of a hand, and its noise."""
    k = hand.keypoints
    if hand.beta is not None:
        return _Shape(hand.beta, noise_given_beta(k, y, weight, hand.beta))
    shape = _Shape(*beta_and_noise(k, y, weight))
    chosen = np.flatnonzero(valid)
    if len(chosen) and shape.noise < MAX_REFINED_NOISE_M:
        chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, SHAPE_FRAMES).astype(int))]
        shape.beta = _refined_beta(hand, shape, y[chosen], weight[chosen])
    return shape


def _refined_beta(hand: _Hand, shape: _Shape, y: np.ndarray, weight: np.ndarray) -> Float64[np.ndarray, " 10"]:
    """One Gauss-Newton step of the shared betas with every pose free to follow, over some frames."""
    k, beta = hand.keypoints, shape.beta
    batch = _batch([hand], [shape], y, weight, np.zeros(len(y), np.int64), np.ones(len(y), bool))
    batch.solve(SHAPE_ITERATIONS, SHAPE_ITERATIONS)
    prior = batch.prior[0] * shape.noise**2
    matrix, gradient = shape_step(
        y, weight, batch.rest[0], k.pose, k.weights, k.shape, prior, batch.theta, batch.wrist, batch.tau
    )
    unit = max(shape.noise, NOISE_FLOOR_M) ** 2 * np.eye(10)
    return beta - np.linalg.solve(matrix + unit, gradient + unit @ beta)


def _batch(
    hands: list[_Hand], shapes: list[_Shape], y: np.ndarray, weight: np.ndarray, which: np.ndarray, valid: np.ndarray
) -> Batch:
    models = [hand.keypoints for hand in hands]
    return Batch.start(models, [s.beta for s in shapes], [s.noise for s in shapes], y, weight, which, valid)


def _smoothed(
    hands: list[_Hand], shapes: list[_Shape], y: np.ndarray, weight: np.ndarray, which: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Points after the temporal term, track by track; shapes and noise are estimated anew from them."""
    target = y.copy()
    noisy = [m for m, shape in enumerate(shapes) if shape.noise >= MAX_REFINED_NOISE_M]
    for rows in np.split(np.arange(len(y)), lengths):
        if len(rows) and which[rows[0]] in noisy:
            target[rows] = smooth_tracks(y[rows], weight[rows], shapes[which[rows[0]]].noise)
    for m in noisy:
        own, k = which == m, hands[m].keypoints
        if hands[m].beta is None:
            shapes[m] = _Shape(*beta_and_noise(k, target[own], weight[own]))
        else:
            shapes[m].noise = noise_given_beta(k, target[own], weight[own], shapes[m].beta)
    return target


# -- what was measured


def _measured(joints: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Joints without NaN and their weights in MANO order; whatever is missing has weight 0."""
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
    order = list(OPENPOSE_OF_MANO21)
    return np.ascontiguousarray(y[:, order]), np.where(present, weight, 0.0)[:, order]


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


# -- result


def _result(
    track: Track, shape: _Shape, theta: np.ndarray, tau: np.ndarray, points: np.ndarray, r: np.ndarray, y: np.ndarray,
    weight: np.ndarray, trust: np.ndarray, valid: np.ndarray, iterations: np.ndarray,
) -> HandFit:  # fmt: skip
    order = list(MANO21_OF_OPENPOSE)
    theta, tau = (np.where(valid[:, None], array, np.nan) for array in (theta, tau))
    observed, count = weight > 0, (weight > 0).sum(axis=1)
    distance = np.where(observed, np.linalg.norm(points - y, axis=-1), 0.0)
    residual_mm = np.where(valid, 1000 * distance.sum(axis=1) / np.maximum(count, 1), np.nan)
    beta = shape.beta if valid.any() else np.full(10, np.nan)
    return HandFit(
        track.model.name, theta, r, tau, beta, points[:, order], residual_mm, valid, observed[:, order],
        trust[:, order], 1000 * shape.noise, iterations,
    )  # fmt: skip
