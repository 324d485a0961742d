"""Hand model and fit against smplx: mesh, 21 keypoints, and MANO from joints by batched Adam.

All on a made-up hand in MANO's format with full pose blend shapes (the licensed files may not be shipped), double
precision joints, one thread, process CPU time. Adam is given what a good user gives it: all frames in one batch, the
closed-form wrist as start, shared betas, a ridge on the pose; it runs until its mean joint error is 0.6 mm.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ops.geometry.transforms import rotmat_to_rotvec
from ops.hands.fit import fit
from ops.hands.fit_kernel import place_palms
from ops.hands.joints import MANO21_OF_OPENPOSE, OPENPOSE_OF_MANO21, TIP_VERTICES
from ops.hands.mano import HandModel, load_models
from tests.ops.toy_hands import natural_poses, toy_arrays, write_toy_models

BATCH, FIT_FRAMES, NOISY_FRAMES = 256, 128, 64
ADAM_GOAL_MM, ADAM_LIMIT, ADAM_NOISY = 0.6, 1000, 500
NOISE_M = 3e-3


def rows() -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        model = load_models(write_toy_models(Path(folder)))["right"]
    reference = _smplx()
    hands = natural_poses(np.random.default_rng(0), BATCH)
    mesh_peer, keypoints_peer = _forward_peers(model, reference, hands)
    mesh = BATCH / _cpu_s(lambda: model.vertices(*hands), 15)
    keypoints = BATCH / _cpu_s(lambda: model.joints(*hands), 15)
    difference_mm = 1000 * np.abs(model.vertices(*hands) - _smplx_forward(model, reference, hands)[0]).max()
    return [
        _row("MANO mesh", mesh, mesh_peer, "hands/s/core", f"smplx, batch {BATCH}; difference {difference_mm:.1g} mm"),
        _row("21 keypoints", keypoints, keypoints_peer, "hands/s/core", f"smplx's mesh and tips, batch {BATCH}"),
        *_fit_rows(model, reference),
    ]


def _fit_rows(model: HandModel, reference: object) -> list[dict[str, object]]:
    truth = natural_poses(np.random.default_rng(1), FIT_FRAMES)
    joints = model.joints(*truth)
    result = fit(model, joints)
    ours_mm = _error_mm(result.joints, joints)
    ours = FIT_FRAMES / _cpu_s(lambda: fit(model, joints), 9)
    start = time.process_time()
    peer_joints, _, steps = _adam(model, reference, joints, ADAM_LIMIT, ADAM_GOAL_MM)
    peer = FIT_FRAMES / (time.process_time() - start)
    note = f"error {ours_mm.mean():.3f} mm (worst frame {ours_mm.max():.3f}) vs {_error_mm(peer_joints, joints).mean():.2f} mm after {steps} steps of smplx + Adam"
    return [_row("MANO from joints", ours, peer, "hands/s/core", note), _noisy_row(model, reference)]


def _noisy_row(model: HandModel, reference: object) -> dict[str, object]:
    truth = natural_poses(np.random.default_rng(2), NOISY_FRAMES)
    joints = model.joints(*truth) + np.random.default_rng(3).normal(0, NOISE_M, (NOISY_FRAMES, 21, 3))
    result = fit(model, joints)
    vertices = model.vertices(*truth)
    ours = _error_mm(model.vertices(result.theta, result.r, result.tau, result.beta), vertices).mean()
    _, peer_vertices, steps = _adam(model, reference, joints, ADAM_NOISY, 0.0)
    peer = _error_mm(peer_vertices, vertices).mean()
    note = f"vertex error to the truth at 3 mm joint noise; less is better, ratio = peer / ours; Adam {steps} steps"
    return {
        "name": "fit error, noisy (less is better)",
        "ours": float(ours),
        "peer": float(peer),
        "unit": "mm",
        "ratio": float(peer / ours),
        "note": note,
    }


def _row(name: str, ours: float, peer: float, unit: str, note: str) -> dict[str, object]:
    return {
        "name": name,
        "ours": float(ours),
        "peer": float(peer),
        "unit": unit,
        "ratio": float(ours / peer),
        "note": note,
    }


def _cpu_s(function: Callable[[], object], repeats: int) -> float:
    """Median process CPU time of a call, after two that compile and warm up."""
    times = []
    for repeat in range(repeats + 2):
        start = time.process_time()
        function()
        if repeat > 1:
            times.append(time.process_time() - start)
    return statistics.median(times)


def _error_mm(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return 1000 * np.linalg.norm(found - truth, axis=-1).mean(axis=1)


def _smplx() -> object:
    import smplx
    import torch

    torch.set_num_threads(1)
    arrays = smplx.utils.Struct(**toy_arrays("right"))
    return smplx.MANO("unused", data_struct=arrays, is_rhand=True, use_pca=False, flat_hand_mean=True)


def _smplx_forward(model: HandModel, reference: object, hands: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    import torch

    theta, r, tau, beta = hands
    beta = np.tile(beta, (len(theta), 1))
    values = {"hand_pose": theta, "global_orient": r, "transl": tau - model.wrist(beta), "betas": beta}
    with torch.no_grad():
        out = reference(**{key: torch.tensor(value, dtype=torch.float32) for key, value in values.items()})
        return out.vertices.numpy(), _with_tips(out).numpy()


def _with_tips(out: object) -> object:
    """21 joints in OpenPose order from smplx's output."""
    import torch

    joints = torch.cat([out.joints, out.vertices[:, list(TIP_VERTICES)]], dim=1)
    return joints[:, list(MANO21_OF_OPENPOSE)]


def _forward_peers(model: HandModel, reference: object, hands: tuple[np.ndarray, ...]) -> tuple[float, float]:
    import torch

    theta, r, tau, beta = hands
    values = {"hand_pose": theta, "global_orient": r, "transl": tau, "betas": np.tile(beta, (len(theta), 1))}
    tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in values.items()}
    with torch.no_grad():
        mesh = _cpu_s(lambda: reference(**tensors).vertices, 15)
        keypoints = _cpu_s(lambda: _with_tips(reference(**tensors)), 15)
    return BATCH / mesh, BATCH / keypoints


def _adam(
    model: HandModel, reference: object, joints: np.ndarray, limit: int, goal_mm: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Joints, vertices and steps of smplx with batched Adam."""
    import torch

    target = torch.tensor(joints, dtype=torch.float32)
    r, transl = _start(model, joints)
    pose, beta = torch.zeros(len(joints), 45, requires_grad=True), torch.zeros(1, 10, requires_grad=True)
    optimiser = torch.optim.Adam([pose, beta, r, transl], lr=0.05)
    for step in range(limit):
        optimiser.zero_grad()
        out = reference(betas=beta.expand(len(joints), 10), hand_pose=pose, global_orient=r, transl=transl)
        distance = ((_with_tips(out) - target) ** 2).sum(-1)
        (distance.sum() + 1e-7 * (pose**2).sum()).backward()
        if step % 10 == 0 and 1000 * distance.detach().sqrt().mean().item() <= goal_mm:
            break
        optimiser.step()
    found, vertices = _with_tips(out).detach().numpy(), out.vertices.detach().numpy()
    return found, vertices, step


def _start(model: HandModel, joints: np.ndarray) -> tuple[object, object]:
    """Wrist rotation and translation of the palm's best rigid fit at the mean shape."""
    import torch

    rest = model.keypoints.template
    ordered = np.ascontiguousarray(joints[:, list(OPENPOSE_OF_MANO21)])
    wrist, tau = np.empty((len(joints), 3, 3)), np.empty((len(joints), 3))
    place_palms(ordered, np.ones((len(joints), 21)), rest, wrist, tau, np.ones(len(joints), bool))
    values = (rotmat_to_rotvec(wrist), tau - model.wrist(np.zeros(10)))
    r, transl = (torch.tensor(value, dtype=torch.float32).requires_grad_() for value in values)
    return r, transl
