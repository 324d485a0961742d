"""Rigid transforms as numpy arrays: rotations (..., 3, 3), transforms (..., 4, 4), axis-angle (..., 3) in radians.

``T_a_b`` maps coordinates of frame b to frame a: ``p_a = apply(T_a_b, p_b)``. All functions broadcast over leading
axes and compute in float64. Rotations are converted through SciPy, which is exact near 0 and pi.
"""

import numpy as np
from jaxtyping import Float, Float64
from scipy.spatial.transform import Rotation


def rotvec_to_rotmat(rotvec: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3 3"]:
    rotvec = np.asarray(rotvec, dtype=np.float64)
    return Rotation.from_rotvec(rotvec.reshape(-1, 3)).as_matrix().reshape(*rotvec.shape, 3)


def rotmat_to_rotvec(rotmat: Float[np.ndarray, "*n 3 3"]) -> Float64[np.ndarray, "*n 3"]:
    """The shortest one, |rotvec| <= pi. Raises ValueError for a matrix that is no proper rotation (to 1e-4)."""
    rotmat = np.asarray(rotmat, dtype=np.float64)
    flat = rotmat.reshape(-1, 3, 3)
    error = np.abs(flat @ flat.transpose(0, 2, 1) - np.eye(3)).max(initial=0.0)
    if not error < 1e-4 or (np.linalg.det(flat) < 0).any():
        raise ValueError(f"not a proper rotation: |R R^T - I| is {error:.2g} (1e-4 allowed) or det R is -1")
    return Rotation.from_matrix(flat).as_rotvec().reshape(rotmat.shape[:-1])


def make(R: Float[np.ndarray, "*n 3 3"], t: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 4 4"]:
    """Transform x -> R x + t."""
    R, t = np.asarray(R, dtype=np.float64), np.asarray(t, dtype=np.float64)
    T = np.zeros((*np.broadcast_shapes(R.shape[:-2], t.shape[:-1]), 4, 4))
    T[..., :3, :3], T[..., :3, 3], T[..., 3, 3] = R, t, 1.0
    return T


def invert(T: Float[np.ndarray, "*n 4 4"]) -> Float64[np.ndarray, "*n 4 4"]:
    """Of a rigid transform: T_b_a from T_a_b."""
    R_t = np.swapaxes(np.asarray(T, dtype=np.float64)[..., :3, :3], -1, -2)
    return make(R_t, -(R_t @ T[..., :3, 3:])[..., 0])


def apply(T: Float[np.ndarray, "*n 4 4"], points: Float[np.ndarray, "*m 3"]) -> Float64[np.ndarray, "*k 3"]:
    """Points in the target frame. Leading axes broadcast: one T (4, 4) for any points, or T (n, 1, 4, 4) for (n, p, 3)."""
    T, points = np.asarray(T, dtype=np.float64), np.asarray(points, dtype=np.float64)
    return (T[..., :3, :3] @ points[..., None])[..., 0] + T[..., :3, 3]


def relative(T_a_w: Float[np.ndarray, "*n 4 4"], T_b_w: Float[np.ndarray, "*n 4 4"]) -> Float64[np.ndarray, "*n 4 4"]:
    """T_a_b of two frames known in a third: p_a = T_a_b p_b."""
    return np.asarray(T_a_w, dtype=np.float64) @ invert(T_b_w)
