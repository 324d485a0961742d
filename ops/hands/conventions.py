"""From other toolkits' hand parameters to ours and back: hand mean, PCA, transl, mirrors, rotations, fingertips.

Ours: theta (45) axis-angle with FLAT mean, tau = WRIST position (CONVENTIONS.md). Data sets differ (radians, metres):
smplx and ARCTIC: axis-angle about the mean hand, transl. DexYCB: 45 PCA coefficients about the mean hand, transl.
H2O, HOI4D: flat axis-angle, transl. TACO, OakInk2: flat, the wrist itself (manopth's and manotorch's center_idx=0).
VITRA-1M: rotation matrices of MANO_RIGHT for both hands, the left one in a mirror; the wrist itself.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Float64
from scipy.spatial.transform import Rotation

from ops.geometry.transforms import rotmat_to_rotvec, rotvec_to_rotmat
from ops.hands.joints import MANO21_OF_OPENPOSE, TIP_VERTICES
from ops.hands.mano import HandModel, model_of

# vertices taken for the tips thumb, index, middle, ring, little. smplx: also HaMeR, HOT3D, VITRA and ours. manopth:
# also manotorch, OakInk2, H2O, HOI4D, TACO, DexYCB; its left hand has another middle finger
TIP_SETS: Mapping[tuple[str, str], tuple[int, ...]] = MappingProxyType(
    {
        ("smplx", "left"): TIP_VERTICES,
        ("smplx", "right"): TIP_VERTICES,
        ("manopth", "left"): (745, 317, 445, 556, 673),
        ("manopth", "right"): (745, 317, 444, 556, 673),
    }
)
SIXD_LAYOUTS = ("columns_interleaved", "columns", "rows")


# -- hand mean and PCA


def flat_theta_from_mean(model: HandModel, hand_pose: Float[np.ndarray, "n 45"]) -> Float64[np.ndarray, "n 45"]:
    """theta of axis-angles that count from the mean hand (flat_hand_mean=False: ARCTIC, smplx's default)."""
    return _checked(hand_pose, 45, "hand_pose") + model.hands_mean


def mean_pose_from_flat_theta(model: HandModel, theta: Float[np.ndarray, "n 45"]) -> Float64[np.ndarray, "n 45"]:
    """Axis-angles that count from the mean hand: the inverse of `flat_theta_from_mean`."""
    return _checked(theta, 45, "theta") - model.hands_mean


def flat_theta_from_pca(
    model: HandModel, coeffs: Float[np.ndarray, "n k"], flat_hand_mean: bool = False
) -> Float64[np.ndarray, "n 45"]:
    """theta of the first k PCA coefficients, k <= 45. flat_hand_mean: they count from the flat hand, not the mean.

    As manopth does for every k, and smplx for k < 45: given 45, smplx takes them for axis-angles.
    """
    coeffs = np.asarray(coeffs, dtype=np.float64)
    if coeffs.ndim != 2 or not 1 <= coeffs.shape[1] <= 45:
        raise ValueError(f"PCA coefficients must have shape (n, k) with k from 1 to 45, got {coeffs.shape}")
    return coeffs @ model.hands_components[: coeffs.shape[1]] + (0 if flat_hand_mean else model.hands_mean)


def pca_from_flat_theta(
    model: HandModel, theta: Float[np.ndarray, "n 45"], num_components: int = 45, flat_hand_mean: bool = False
) -> Float64[np.ndarray, "n k"]:
    """Coefficients of the nearest pose (least squares): the inverse of `flat_theta_from_pca` for 45 components,
    lossy for fewer."""
    if not 1 <= num_components <= 45:
        raise ValueError(f"num_components must be from 1 to 45, got {num_components}")
    offset = _checked(theta, 45, "theta") - (0 if flat_hand_mean else model.hands_mean)
    return np.linalg.lstsq(model.hands_components[:num_components].T, offset.T, rcond=None)[0].T


# -- position


def tau_from_transl(
    model: HandModel, transl: Float[np.ndarray, "n 3"], beta: Float[np.ndarray, "*n 10"]
) -> Float64[np.ndarray, "n 3"]:
    """Wrist position of smplx's, manopth's or MANO's transl, m. They turn the hand about J0(beta), not the origin."""
    return _checked(transl, 3, "transl") + model.wrist(beta)


def transl_from_tau(
    model: HandModel, tau: Float[np.ndarray, "n 3"], beta: Float[np.ndarray, "*n 10"]
) -> Float64[np.ndarray, "n 3"]:
    """MANO's transl of a wrist position, m: the inverse of `tau_from_transl`."""
    return _checked(tau, 3, "tau") - model.wrist(beta)


# -- mirror x -> -x


def mirror_rotvec(rotvec: Float[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Axis-angles seen in the mirror x -> -x: (x, -y, -z) of every triple in the last axis (3, 45 or 48 numbers).

    Own inverse. Takes a right hand's theta to the left model's theta of the mirrored hand and back.
    """
    rotvec = np.asarray(rotvec, dtype=np.float64)
    if rotvec.ndim == 0 or rotvec.shape[-1] % 3:
        raise ValueError(f"the last axis must hold axis-angle triples, got shape {rotvec.shape}")
    return rotvec * np.tile([1.0, -1.0, -1.0], rotvec.shape[-1] // 3)


def mirror_rotmat(R: Float[np.ndarray, "*n 3 3"]) -> Float64[np.ndarray, "*n 3 3"]:
    """Rotations seen in the mirror x -> -x: M R M."""
    return np.asarray(R, dtype=np.float64) * np.outer([-1.0, 1.0, 1.0], [-1.0, 1.0, 1.0])


def mirror_points(points: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
    """Points seen in the mirror x -> -x."""
    return np.asarray(points, dtype=np.float64) * [-1.0, 1.0, 1.0]


def mirror_hand(
    theta: Float[np.ndarray, "n 45"], r: Float[np.ndarray, "n 3"], tau: Float[np.ndarray, "n 3"]
) -> tuple[Float64[np.ndarray, "n 45"], Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n 3"]]:
    """theta, r, tau of the other hand in the mirrored scene (a flipped image: HaMeR, HaWoR). Own inverse."""
    return mirror_rotvec(theta), mirror_rotvec(r), mirror_points(tau)


def left_from_mirrored_right(
    theta: Float[np.ndarray, "n 45"], r: Float[np.ndarray, "n 3"], tau: Float[np.ndarray, "n 3"]
) -> tuple[Float64[np.ndarray, "n 45"], Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n 3"]]:
    """theta, r, tau for the left model of VITRA-1M's left hands: ``r (mirror(MANO_RIGHT(theta)) - wrist) + tau``.

    The mirror stands in the hand's own frame: r and tau stay. Own inverse. The left model has to be the right one's
    mirror image in shape as well (`mirror_model`, or a left model after `fix_left_shape`).
    """
    return mirror_rotvec(theta), np.array(r, dtype=np.float64), np.array(tau, dtype=np.float64)


# -- left models


def has_left_shape_bug(left: HandModel, right: HandModel) -> bool:
    """Whether a left model's shapes move x as the right one's do: MANO_LEFT as published (smplx issue 48)."""
    return bool(np.abs(left.shapedirs[:, 0, :] - right.shapedirs[:, 0, :]).sum() < 1)


def fix_left_shape(left: HandModel, right: HandModel) -> HandModel:
    """The left model with the x offsets of its shapes turned round where they are the right hand's; named "...-fixed".

    For labels made so (InterHand2.6M, HOT3D, HaWoR). NOT for ARCTIC and DexYCB, which were fitted without.
    """
    if not has_left_shape_bug(left, right):
        return left
    return model_of(
        _arrays(left) | {"shapedirs": left.shapedirs * [[-1.0], [1.0], [1.0]]}, "left", f"{left.name}-fixed"
    )


def mirror_model(model: HandModel) -> HandModel:
    """The other hand by x -> -x; named "...-mirrored". For labels that use MANO_RIGHT for both hands (VITRA, HaMeR)."""
    flip, side = np.array([-1.0, 1.0, 1.0]), "left" if model.side == "right" else "right"
    mirrored = {
        "v_template": model.v_template * flip,
        "shapedirs": model.shapedirs * flip[:, None],
        "posedirs": model.posedirs * flip[:, None] * np.tile(np.outer(flip, flip).ravel(), 15),
        "hands_mean": mirror_rotvec(model.hands_mean),
        "hands_components": mirror_rotvec(model.hands_components),
        "f": model.faces[:, ::-1],
    }
    return model_of(_arrays(model) | mirrored, side, f"{model.name}-mirrored")


def _arrays(model: HandModel) -> dict[str, np.ndarray]:
    names = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "hands_mean", "hands_components")
    return {name: getattr(model, name) for name in names} | {"f": model.faces}


# -- rotations


def theta_from_rotmats(R: Float[np.ndarray, "n 15 3 3"]) -> Float64[np.ndarray, "n 45"]:
    """Axis-angles of finger rotations (VITRA-1M, HaWoR, HaMeR)."""
    R = np.asarray(R)
    if R.ndim != 4 or R.shape[1:] != (15, 3, 3):
        raise ValueError(f"finger rotations must have shape (n, 15, 3, 3), got {R.shape}")
    return rotmat_to_rotvec(R).reshape(-1, 45)


def rotmats_from_theta(theta: Float[np.ndarray, "n 45"]) -> Float64[np.ndarray, "n 15 3 3"]:
    return rotvec_to_rotmat(_checked(theta, 45, "theta").reshape(-1, 15, 3))


def rotvec_from_quat(quat_wxyz: Float[np.ndarray, "*n 4"]) -> Float64[np.ndarray, "*n 3"]:
    """Axis-angles of quaternions w, x, y, z (OakInk2, manotorch); they need not have length one."""
    quat = np.asarray(quat_wxyz, dtype=np.float64)
    flat = Rotation.from_quat(quat.reshape(-1, 4), scalar_first=True).as_rotvec()
    return flat.reshape(*quat.shape[:-1], 3)


def quat_from_rotvec(rotvec: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 4"]:
    """Unit quaternions w, x, y, z with w >= 0."""
    rotvec = np.asarray(rotvec, dtype=np.float64)
    flat = Rotation.from_rotvec(rotvec.reshape(-1, 3)).as_quat(canonical=True, scalar_first=True)
    return flat.reshape(*rotvec.shape[:-1], 4)


def sixd_from_rotmat(
    R: Float[np.ndarray, "*n 3 3"], layout: str = "columns_interleaved"
) -> Float64[np.ndarray, "*n 6"]:
    """Six numbers of a rotation. Layouts: "columns_interleaved" (Being-H0: R[:, :2] row by row), "columns" (HaMeR:
    first column, then second), "rows" (PyTorch3D: first row, then second)."""
    R = np.asarray(R, dtype=np.float64)
    part = {"columns_interleaved": R[..., :2], "columns": np.swapaxes(R[..., :2], -1, -2), "rows": R[..., :2, :]}
    return part[_layout(layout)].reshape(*R.shape[:-2], 6)


def rotmat_from_sixd(
    sixd: Float[np.ndarray, "*n 6"], layout: str = "columns_interleaved"
) -> Float64[np.ndarray, "*n 3 3"]:
    """Rotation of six numbers by Gram-Schmidt, the first vector keeping its direction. Layouts: `sixd_from_rotmat`.

    Raises ValueError for vectors that vanish or are parallel.
    """
    sixd = np.asarray(sixd, dtype=np.float64)
    if _layout(layout) == "columns_interleaved":
        first, second = sixd[..., 0::2], sixd[..., 1::2]
    else:
        first, second = sixd[..., :3], sixd[..., 3:]
    x = _unit(first)
    y = _unit(second - (x * second).sum(-1, keepdims=True) * x)
    axes = np.stack([x, y, np.cross(x, y)], axis=-2)
    return axes if layout == "rows" else np.swapaxes(axes, -1, -2)


def _layout(layout: str) -> str:
    if layout not in SIXD_LAYOUTS:
        raise ValueError(f"unknown 6-D layout {layout!r}; known: {', '.join(SIXD_LAYOUTS)}")
    return layout


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (length > 1e-8).all():
        raise ValueError("6-D rotation with a vanishing vector or two parallel ones")
    return vectors / length


# -- fingertips


def joints_of_convention(
    model: HandModel,
    theta: Float[np.ndarray, "n 45"],
    r: Float[np.ndarray, "n 3"],
    tau: Float[np.ndarray, "n 3"],
    beta: Float[np.ndarray, "*n 10"],
    tips: str,
) -> Float64[np.ndarray, "n 21 3"]:
    """21 joints in OpenPose order with the fingertips of "smplx" or "manopth", to compare with published joints.

    Rows of the project always have smplx's (`HandModel.joints`); manopth's lie some millimetres away. Tips from the
    mesh, to 1e-6 m.
    """
    vertices = model.vertices(theta, r, tau, beta)
    return with_tips(mano16_of(model.joints(theta, r, tau, beta)), vertices, tips, model.side)


def with_tips(
    joints16: Float[np.ndarray, "n 16 3"], vertices: Float[np.ndarray, "n 778 3"], tips: str, side: str
) -> Float64[np.ndarray, "n 21 3"]:
    """21 joints in OpenPose order of MANO's 16 and its mesh. tips: "smplx" or "manopth"."""
    if (tips, side) not in TIP_SETS:
        raise ValueError(f"no fingertips {tips!r} of side {side!r}; known: {', '.join(map(str, TIP_SETS))}")
    points = np.concatenate([joints16, np.asarray(vertices)[:, list(TIP_SETS[tips, side])]], axis=1)
    return points[:, list(MANO21_OF_OPENPOSE)].astype(np.float64)


def mano16_of(joints: Float[np.ndarray, "n 21 3"]) -> Float[np.ndarray, "n 16 3"]:
    """MANO's 16 joints in its own order, of 21 in OpenPose order."""
    return np.asarray(joints)[:, [MANO21_OF_OPENPOSE.index(k) for k in range(16)]]


def _checked(values: np.ndarray, size: int, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != size:
        raise ValueError(f"{name} must have shape (n, {size}), got {values.shape}")
    return values
