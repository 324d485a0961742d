"""A made-up hand in MANO's format for tests: everything that the stand-in lacks is non-zero in it.

Pose blend shapes, a hand mean, betas that bend as well as scale, tips skinned by two joints. Needs no download.
"""

from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline

from ops.hands.joints import MANO_PARENTS, TIP_VERTICES

FAN = np.deg2rad([4.0, -8.0, -36.0, -13.0, 45.0])  # MANO's finger order
ROOTS_M = np.array([[0, 0, 0.03], [0, 0, 0.006], [0.014, 0, -0.03], [0.005, 0, -0.012], [0.06, -0.004, 0.028]])
BONES_M = np.array(
    [[0.033, 0.023, 0.02], [0.032, 0.026, 0.02], [0.02, 0.015, 0.018], [0.029, 0.023, 0.02], [0.032, 0.028, 0.025]]
)


def toy_arrays(side: str, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    joints, ends = _skeleton()
    vertices, weights = _flesh(rng, joints, ends)
    regressor = _regressor(vertices, joints)
    shapedirs = np.stack([_smooth_field(rng, vertices, 0.003 / (k + 1)) for k in range(10)], axis=-1)
    shapedirs[..., 0] = 0.05 * (vertices - joints[0])  # the first beta is mostly size
    posedirs = np.stack(
        [_smooth_field(rng, vertices, 0.002) * _near(vertices, joints[1 + k // 9]) for k in range(135)], axis=-1
    )
    flip = np.array([-1.0 if side == "left" else 1.0, 1.0, 1.0])
    mean = rng.normal(0, 0.2, (15, 3)) * ([1, -1, -1] if side == "left" else [1, 1, 1])
    return {
        "v_template": vertices * flip,
        "shapedirs": shapedirs * flip[:, None],
        "posedirs": posedirs * flip[:, None] * np.tile(np.outer(flip, flip).ravel(), 15),
        "J_regressor": regressor,
        "kintree_table": np.array([[4294967295, *MANO_PARENTS[1:]], range(16)]),
        "weights": weights,
        "hands_components": np.linalg.qr(rng.normal(size=(45, 45)))[0],
        "hands_mean": mean.ravel(),
        "f": rng.integers(0, 778, (1538, 3)),
    }


def write_toy_models(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for side in ("left", "right"):
        np.savez(folder / f"{side}.npz", **toy_arrays(side, seed))
    return folder


def natural_poses(rng: np.random.Generator, n: int, side: str = "right") -> tuple[np.ndarray, ...]:
    """theta, r, tau, beta: fingers bend and spread as hands do, any wrist rotation."""
    theta = np.zeros((n, 15, 3))
    theta[:, :12, 2] = rng.uniform(-0.2, 1.5, (n, 12))
    theta[:, [0, 3, 6, 9], 1] = rng.normal(0, 0.15, (n, 4))
    theta[:, 12] = rng.normal(0, 0.3, (n, 3))
    theta[:, 13:, 1] = rng.uniform(-0.8, 0.2, (n, 2))
    if side == "left":
        theta *= [1, -1, -1]
    quaternion = rng.normal(size=(n, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    angle = 2 * np.arccos(np.clip(quaternion[:, :1], -1, 1))
    axis = quaternion[:, 1:] / np.linalg.norm(quaternion[:, 1:], axis=1, keepdims=True)
    r = axis * np.where(angle > np.pi, angle - 2 * np.pi, angle)
    return theta.reshape(n, 45), r, rng.normal(0, 0.3, (n, 3)) + np.array([0, 0, 0.5]), rng.normal(0, 1, 10)


def smooth_motion(rng: np.random.Generator, n: int, side: str = "right", fps: float = 30.0) -> tuple[np.ndarray, ...]:
    """theta, r, tau, beta of a hand in continuous motion: everyday reaches and grasps at 30 frames a second.

    Natural poses every 0.7 s joined by splines; the wrist travels at up to 0.5 m/s or so and turns at up to 2 rad/s.
    """
    knots = int(np.ceil(n / fps / 0.7)) + 4
    theta, _, _, beta = natural_poses(rng, knots, side)
    r = rng.normal(0, 1.0, 3) + np.cumsum(rng.normal(0, 0.3, (knots, 3)), axis=0)
    tau = np.array([0, 0, 0.5]) + np.cumsum(rng.normal(0, 0.08, (knots, 3)), axis=0)
    times = np.arange(n) / fps / 0.7 + 1.5
    theta, r, tau = (CubicSpline(np.arange(knots), values)(times) for values in (theta, r, tau))
    return theta, r, tau, beta


def _skeleton() -> tuple[np.ndarray, np.ndarray]:
    """Joints (16, 3) and the far end of every joint's bone (16, 3)."""
    joints = [np.array([0.0957, 0.0064, 0.0062])]
    ends = [np.zeros(3)]
    for f in range(5):
        direction = np.array([-np.cos(FAN[f]), 0.0, np.sin(FAN[f])])
        at = ROOTS_M[f]
        for length in BONES_M[f]:
            joints.append(at)
            at = at + length * direction
            ends.append(at)
    return np.array(joints), np.array(ends)


def _flesh(rng: np.random.Generator, joints: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices around the bones and their weights on the bone and its parent; tips where MANO has them."""
    bone = rng.integers(0, 16, 778)
    along = rng.random(778)
    tips = list(TIP_VERTICES)
    bone[tips], along[tips] = [15, 3, 6, 12, 9], 1.0
    vertices = joints[bone] + along[:, None] * (ends - joints)[bone] + rng.normal(0, 0.006, (778, 3))
    weights = np.zeros((778, 16))
    own = np.clip(0.6 + along, 0, 1)
    own[tips] = 0.97
    weights[np.arange(778), bone] += own
    weights[np.arange(778), np.maximum(np.array(MANO_PARENTS)[bone], 0)] += 1 - own
    return vertices, weights


def _regressor(vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Weights of ten near vertices that give each joint exactly."""
    regressor = np.zeros((16, 778))
    for k, joint in enumerate(joints):
        near = np.argsort(np.linalg.norm(vertices - joint, axis=1))[:10]
        system = np.vstack([vertices[near].T, np.ones(10)])
        regressor[k, near] = np.linalg.lstsq(system, np.append(joint, 1.0), rcond=None)[0]
    return regressor


def _near(vertices: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Pose blend shapes are local: they fade over two centimetres, as MANO's were trained to."""
    return np.exp(-((vertices - joint) ** 2).sum(axis=1, keepdims=True) / (2 * 0.02**2))


def _smooth_field(rng: np.random.Generator, vertices: np.ndarray, size: float) -> np.ndarray:
    """Offsets (778, 3) that vary over a few centimetres."""
    waves = rng.normal(0, 25.0, (3, 4))
    return size * np.sin(vertices @ waves + rng.uniform(0, 6, 4)) @ rng.normal(0, 0.5, (4, 3))
