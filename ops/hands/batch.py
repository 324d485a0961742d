"""Poses of many frames and hands at once: start in closed form, Levenberg-Marquardt, robust loss, pose prior.

Metres, radians; points in MANO21 order. ops.hands.fit finds the shapes and the noise and calls this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ops.hands.fit_kernel import fit_poses, place_points
from ops.hands.fit_start import place_fingers, place_palms
from ops.hands.mano import Keypoints

# clean joints make a narrow curved valley (twist): a stiffer prior first walks along it in few steps
COARSE_NOISE_M = 1e-3
COARSE_ITERATIONS, ITERATIONS = 1, 15  # at most
ENOUGH = 12.0  # of the squared noise: sum over 21 joints below which they are met; noisy joints never get there
# robust loss: joints farther from the fitted hand than this lose weight, as 1 / (1 + (distance / limit)^2)^2
OUTLIER_STDS, MIN_OUTLIER_M, ROBUST_ROUNDS = 5.0, 5e-3, 5

# ASSUMED: the paper names no prior. Standard deviations, radians, of a joint's angles about: its bone (twist), the
# axis normal to the palm (sideways), the axis across the finger (bending). Rows: first, second, last joint of index,
# middle, little and ring; then the thumb's, whose bending axis is not known from the rest pose.
FINGER_STD = ((0.15, 0.3, 0.9), (0.1, 0.1, 0.9), (0.1, 0.1, 0.6))
THUMB_STD = ((0.4, 0.5, 0.5), (0.2, 0.5, 0.5), (0.15, 0.5, 0.5))


@dataclass(frozen=True)
class Batch:
    """Frames of any hands and their poses as they are being solved; m hands, n frames, MANO order."""

    y: np.ndarray
    weight: np.ndarray
    which: np.ndarray
    valid: np.ndarray
    noise: Float64[np.ndarray, " m"]
    rest: Float64[np.ndarray, "m 21 3"]
    pose: Float64[np.ndarray, "m 5 3 135"]
    skin: Float64[np.ndarray, "m 5 16"]
    prior: Float64[np.ndarray, "m 15 3 3"]  # for unit noise
    theta: np.ndarray
    wrist: np.ndarray
    tau: np.ndarray
    iterations: np.ndarray

    @classmethod
    def start(
        cls, models: Sequence[Keypoints], betas: Sequence[np.ndarray], noises: Sequence[float], y: np.ndarray,
        weight: np.ndarray, which: np.ndarray, valid: np.ndarray,
    ) -> "Batch":  # fmt: skip
        """Frames with their start in closed form: palm by Procrustes, bones by their shortest turns."""
        y, weight = np.ascontiguousarray(y), np.ascontiguousarray(weight)  # one memory order: kernels compile once
        rest = np.stack([k.rest(beta[None])[0] for k, beta in zip(models, betas, strict=True)])
        theta, tau = np.zeros((len(y), 45)), np.zeros((len(y), 3))
        wrist = np.tile(np.eye(3), (len(y), 1, 1))
        place_palms(y, weight, which, rest, wrist, tau, valid)
        place_fingers(y, weight, which, rest, theta, wrist, tau, valid)
        parts = (np.stack([getattr(k, name) for k in models]) for name in ("pose", "weights"))
        prior = np.stack([unit_prior(k) for k in models])
        iterations = np.zeros(len(y), np.int64)
        return cls(y, weight, which, valid, np.array(noises), rest, *parts, prior, theta, wrist, tau, iterations)

    def run(self, least_noise: float, limit: int, used: np.ndarray, weight: np.ndarray) -> None:
        """Levenberg-Marquardt with priors for the noise, or for more noise than there is; poses change in place."""
        square, weight = np.maximum(self.noise, least_noise) ** 2, np.ascontiguousarray(weight)
        self.iterations[:] += fit_poses(
            self.y, weight, self.which, self.rest, self.pose, self.skin, self.prior * square[:, None, None, None],
            self.theta, self.wrist, self.tau, used, 0.1 * square, ENOUGH * square, limit,
        )  # fmt: skip

    def solve(self, limit: int = ITERATIONS, coarse_limit: int = COARSE_ITERATIONS) -> None:
        clean = (self.noise < COARSE_NOISE_M)[self.which] & self.valid
        if clean.any():
            self.run(COARSE_NOISE_M, coarse_limit, clean, self.weight)
        self.run(0.0, limit, self.valid, self.weight)

    def solve_robustly(self) -> Float64[np.ndarray, "n 21"]:
        """Solve frames with outlying joints again, with less weight on those; returns what is left of the weights.

        Reweighted least squares for Geman and McClure's loss.
        """
        trust = np.ones(self.weight.shape)
        used, limit = (self.valid.copy(), np.maximum(OUTLIER_STDS * self.noise, MIN_OUTLIER_M)[self.which])
        for _ in range(ROBUST_ROUNDS):
            points, _ = self.points(used)
            excess = np.linalg.norm(points[used] - self.y[used], axis=-1) / limit[used, None]
            far = (excess > 1) & (self.weight[used] > 0)
            new = np.where(far.any(axis=1)[:, None], 1 / (1 + excess**2) ** 2, 1.0)
            changed = np.abs(new - trust[used]).max(axis=1, initial=0.0) > 0.01
            trust[used] = new
            used[used] = changed
            if not used.any():
                break
            self.run(0.0, ITERATIONS, used, self.weight * trust)
        return trust

    def points(self, used: np.ndarray) -> tuple[Float64[np.ndarray, "n 21 3"], Float64[np.ndarray, "n 3"]]:
        """Points of the fitted hands and wrist axis-angles; NaN where not used."""
        return place_points(self.which, self.rest, self.pose, self.skin, self.theta, self.wrist, self.tau, used)


def unit_prior(k: Keypoints) -> Float64[np.ndarray, "15 3 3"]:
    """Quadratic cost of theta, 1 / std^2 along each joint's own axes; times the noise's variance, m^2 / rad^2."""
    joints, ends = (k.template[1:16].reshape(5, 3, 3), k.template[[17, 18, 20, 19, 16], None])
    bone = _unit(np.concatenate([joints[:, 1:], ends], axis=1) - joints)
    normal = np.cross(joints[0, 0] - k.template[0], joints[2, 0] - k.template[0])
    across = _unit(np.cross(bone, normal))
    axes = np.stack([bone, np.cross(across, bone), across], axis=2)
    std = np.array([FINGER_STD] * 4 + [THUMB_STD])
    return np.einsum("fmka,fmk,fmkb->fmab", axes, 1 / std**2, axes).reshape(15, 3, 3)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
