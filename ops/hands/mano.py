"""MANO's forward function in numpy and numba: hand parameters -> mesh or 21 joints.

theta (45) finger axis-angle in MANO's joint order with FLAT hand mean, r (3) wrist axis-angle, tau (3) WRIST
position, beta (10) shape. The hand turns about its wrist: ``x = R (x_hand - J_wrist(beta)) + tau``; MANO's own
transl is ``tau - J_wrist(beta)`` (`from_smplx`). Metres, radians; joints in OpenPose order (ops.hands.joints).

`joints` never builds the mesh: a hand's 21 keypoints are 16 chain joints and 5 skinned vertices, some 10 kFLOP.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from numba import njit

from ops.hands.joints import MANO21_OF_OPENPOSE, MANO_PARENTS, TIP_VERTICES
from ops.hands.mano_files import read_arrays

CHUNK = 32  # frames of mesh at a time: what fits into a core's cache


@dataclass(frozen=True, eq=False)
class Keypoints:
    """The rows of a hand model that its 21 keypoints need: 16 joints, then the tip vertices thumb to little.

    template (21, 3) m; shape (21, 3, 10) m a beta; pose (5, 3, 135) pose blend shapes of the tips; weights (5, 16).
    """

    template: Float64[np.ndarray, "21 3"]
    shape: Float64[np.ndarray, "21 3 10"]
    pose: Float64[np.ndarray, "5 3 135"]
    weights: Float64[np.ndarray, "5 16"]

    def rest(self, beta: Float64[np.ndarray, "m 10"]) -> Float64[np.ndarray, "m 21 3"]:
        return self.template + np.moveaxis(np.tensordot(self.shape, beta, axes=(2, 1)), 2, 0)


@dataclass(frozen=True, eq=False)
class HandModel:
    """One hand in MANO's format.

    name: "mano" or "anny-standin", goes into every row. side: "left" or "right". faces: triangles, outward.
    v_template, shapedirs, posedirs, J_regressor, weights, hands_mean, hands_components: as in MANO's file, float64.
    hands_components: its pose PCA, one component a row.
    """

    name: str
    side: str
    faces: Int64[np.ndarray, "1538 3"]
    v_template: Float64[np.ndarray, "778 3"]
    shapedirs: Float64[np.ndarray, "778 3 10"]
    posedirs: Float64[np.ndarray, "778 3 135"]
    J_regressor: Float64[np.ndarray, "16 778"]
    weights: Float64[np.ndarray, "778 16"]
    hands_mean: Float64[np.ndarray, " 45"]
    hands_components: Float64[np.ndarray, "45 45"]
    keypoints: Keypoints
    _mesh: "_Mesh"

    def joints(
        self,
        theta: Float[np.ndarray, "n 45"],
        r: Float[np.ndarray, "n 3"],
        tau: Float[np.ndarray, "n 3"],
        beta: Float[np.ndarray, "*n 10"],
    ) -> Float64[np.ndarray, "n 21 3"]:
        """21 joints in OpenPose order, in the frame of r and tau. beta: one for all (10,) or one a frame (n, 10)."""
        theta, r, tau, beta = _parameters(theta, r, tau, beta)
        k = self.keypoints
        return keypoints_forward(theta, r, tau, k.rest(beta), k.pose, k.weights)

    def vertices(
        self,
        theta: Float[np.ndarray, "n 45"],
        r: Float[np.ndarray, "n 3"],
        tau: Float[np.ndarray, "n 3"],
        beta: Float[np.ndarray, "*n 10"],
    ) -> Float32[np.ndarray, "n 778 3"]:
        """Mesh in the frame of r and tau, single precision (1e-6 m)."""
        theta, r, tau, beta = _parameters(theta, r, tau, beta)
        out = np.empty((len(theta), 778, 3), dtype=np.float32)
        shaped = self._mesh.shaped(beta)
        rest = self.keypoints.rest(beta)[:, :16]
        for start in range(0, len(theta), CHUNK):
            part = slice(start, start + CHUNK)
            own = part if len(beta) > 1 else slice(0, 1)
            features, transforms = mesh_transforms(theta[part], r[part], tau[part], rest[own])
            self._mesh.skin(shaped[own], features, transforms, out[part])
        return out

    def wrist(self, beta: Float[np.ndarray, "*n 10"]) -> Float64[np.ndarray, "*n 3"]:
        """J_wrist(beta) of the file: what separates tau from MANO's transl."""
        k = self.keypoints
        return k.template[0] + np.asarray(beta, dtype=np.float64) @ k.shape[0].T


def load_models(folder: Path) -> dict[str, HandModel]:
    """Both hands from a folder: ``{left,right}.npz`` or ``MANO_{LEFT,RIGHT}.{npz,pkl}`` (the licensed files).

    Raises FileNotFoundError naming what was looked for, ValueError for a damaged or untrusted file.
    """
    return {side: load_model(_find(Path(folder), side), side) for side in ("left", "right")}


def load_model(path: Path, side: str) -> HandModel:
    """One hand. A file without a ``name`` is taken for MANO itself."""
    data = read_arrays(path)
    return model_of(data, side, str(data.get("name", "mano")))


def model_of(data: Mapping[str, np.ndarray], side: str, name: str) -> HandModel:
    """A hand model of arrays by MANO's names; of the shapes, the first ten count."""
    if side not in ("left", "right"):
        raise ValueError(f"side must be left or right, got {side!r}")
    arrays = {key: np.asarray(data[key], dtype=np.float64) for key in _ARRAYS}
    arrays["shapedirs"] = np.ascontiguousarray(arrays["shapedirs"][:, :, :10])
    keypoints = _keypoints(arrays)
    return HandModel(
        name=name,
        side=side,
        faces=np.asarray(data["f"]).astype(np.int64),
        **arrays,
        keypoints=keypoints,
        _mesh=_Mesh.of(arrays),
    )


def from_smplx(
    model: HandModel,
    global_orient: Float[np.ndarray, "n 3"],
    hand_pose: Float[np.ndarray, "n 45"],
    transl: Float[np.ndarray, "n 3"],
    beta: Float[np.ndarray, "*n 10"],
    flat_hand_mean: bool,
) -> tuple[Float64[np.ndarray, "n 45"], Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n 3"]]:
    """theta, r, tau from smplx's (or MANO's, ARCTIC's, DexYCB's) parameters; axis-angle, no PCA coefficients."""
    theta = np.asarray(hand_pose, dtype=np.float64) + (0 if flat_hand_mean else model.hands_mean)
    return theta, np.asarray(global_orient, dtype=np.float64), np.asarray(transl, dtype=np.float64) + model.wrist(beta)


# -- kernels


@njit(cache=True)
def rodrigues(x: float, y: float, z: float, out: np.ndarray) -> None:
    """Rotation matrix of an axis-angle vector, by series near zero."""
    square = x * x + y * y + z * z
    if square < 1e-8:
        a, b = 1.0 - square / 6.0, 0.5 - square / 24.0
    else:
        angle = np.sqrt(square)
        a, b = np.sin(angle) / angle, (1.0 - np.cos(angle)) / square
    out[0, 0], out[1, 1], out[2, 2] = 1.0 - b * (y * y + z * z), 1.0 - b * (x * x + z * z), 1.0 - b * (x * x + y * y)
    out[0, 1], out[1, 0] = b * x * y - a * z, b * x * y + a * z
    out[0, 2], out[2, 0] = b * x * z + a * y, b * x * z - a * y
    out[1, 2], out[2, 1] = b * y * z - a * x, b * y * z + a * x


@njit(cache=True)
def pose_chain(theta: np.ndarray, rest: np.ndarray, local: np.ndarray, world: np.ndarray, joints: np.ndarray) -> None:
    """Fill local and world rotations (16, 3, 3) and joint positions (16, 3) of one frame from the wrist's, entry 0."""
    for k in range(1, 16):
        parent = MANO_PARENTS[k]
        rodrigues(theta[3 * k - 3], theta[3 * k - 2], theta[3 * k - 1], local[k])
        for i in range(3):
            joints[k, i] = joints[parent, i]
            for j in range(3):
                joints[k, i] += world[parent, i, j] * (rest[k, j] - rest[parent, j])
                world[k, i, j] = (
                    world[parent, i, 0] * local[k, 0, j]
                    + world[parent, i, 1] * local[k, 1, j]
                    + world[parent, i, 2] * local[k, 2, j]
                )


@njit(cache=True)
def skin_tips(rest: np.ndarray, posed: np.ndarray, weights: np.ndarray, world: np.ndarray, points: np.ndarray) -> None:
    """Fill the five tip vertices, points[16:], after `pose_chain`. posed (5, 3): tips at rest with pose offsets."""
    for tip in range(5):
        points[16 + tip] = 0.0
        for k in range(16):
            weight = weights[tip, k]
            if weight != 0.0:
                for i in range(3):
                    turned = points[k, i]
                    for j in range(3):
                        turned += world[k, i, j] * (posed[tip, j] - rest[k, j])
                    points[16 + tip, i] += weight * turned


@njit(cache=True)
def add_pose_offset(local: np.ndarray, pose: np.ndarray, first: int, last: int, at: np.ndarray) -> None:
    """Pose blend shapes of one vertex from joints first to last - 1: (R - I), weighted."""
    for k in range(first, last):
        for i in range(3):
            for j in range(3):
                feature = local[k, i, j] - (1.0 if i == j else 0.0)
                column = 9 * (k - 1) + 3 * i + j
                for c in range(3):
                    at[c] += pose[c, column] * feature


@njit(cache=True)
def keypoints_forward(
    theta: np.ndarray, r: np.ndarray, tau: np.ndarray, rest: np.ndarray, pose: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """21 keypoints (n, 21, 3) in OpenPose order. rest: (n or 1, 21, 3)."""
    out = np.empty((len(theta), 21, 3))
    local, world = np.empty((16, 3, 3)), np.empty((16, 3, 3))
    points, posed = np.empty((21, 3)), np.empty((5, 3))
    has_pose = np.any(pose != 0.0)
    for frame in range(len(theta)):
        own = rest[frame if len(rest) > 1 else 0]
        rodrigues(r[frame, 0], r[frame, 1], r[frame, 2], world[0])
        points[0] = tau[frame]
        pose_chain(theta[frame], own, local, world, points)
        posed[:] = own[16:]
        if has_pose:
            for tip in range(5):
                add_pose_offset(local, pose[tip], 1, 16, posed[tip])
        skin_tips(own, posed, weights, world, points)
        for joint in range(21):
            out[frame, joint] = points[MANO21_OF_OPENPOSE[joint]]
    return out


@njit(cache=True)
def mesh_transforms(
    theta: np.ndarray, r: np.ndarray, tau: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pose features (n, 135) and transforms of the rest mesh (n, 12, 16): nine rotation rows, then translation."""
    n = len(theta)
    features, transforms = np.empty((n, 135), np.float32), np.empty((n, 12, 16), np.float32)
    local, world, points = np.empty((16, 3, 3)), np.empty((16, 3, 3)), np.empty((16, 3))
    for frame in range(n):
        own = rest[frame if len(rest) > 1 else 0]
        rodrigues(r[frame, 0], r[frame, 1], r[frame, 2], world[0])
        points[0] = tau[frame]
        pose_chain(theta[frame], own, local, world, points)
        for k in range(16):
            for i in range(3):
                offset = points[k, i]
                for j in range(3):
                    offset -= world[k, i, j] * own[k, j]
                    transforms[frame, 3 * i + j, k] = world[k, i, j]
                    if k > 0:
                        features[frame, 9 * (k - 1) + 3 * i + j] = local[k, i, j] - (1.0 if i == j else 0.0)
                transforms[frame, 9 + i, k] = offset
    return features, transforms


@njit(cache=True, fastmath=True)
def _skin(blended: np.ndarray, posed: np.ndarray, out: np.ndarray) -> None:
    """blended (n, 12, 778) vertex transforms; posed (n or 1, 3, 778) rest vertices; out (n, 778, 3)."""
    for frame in range(len(blended)):
        T, p = blended[frame], posed[frame if len(posed) > 1 else 0]
        for i in range(3):
            for v in range(778):
                out[frame, v, i] = (
                    T[3 * i, v] * p[0, v] + T[3 * i + 1, v] * p[1, v] + T[3 * i + 2, v] * p[2, v] + T[9 + i, v]
                )


@dataclass(frozen=True, eq=False)
class _Mesh:
    """Mesh arrays in single precision, coordinate planes first so that kernels run along the vertices."""

    template: Float32[np.ndarray, " 2334"]
    shape: Float32[np.ndarray, "10 2334"]
    pose: Float32[np.ndarray, "135 2334"]
    weights: Float32[np.ndarray, "16 778"]
    has_pose: bool

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "_Mesh":
        planes = arrays["v_template"].T.reshape(-1).astype(np.float32)
        shape, pose = (
            np.ascontiguousarray(arrays[key].transpose(2, 1, 0).reshape(-1, 3 * 778).astype(np.float32))
            for key in ("shapedirs", "posedirs")
        )
        weights = np.ascontiguousarray(arrays["weights"].T.astype(np.float32))
        return cls(planes, shape, pose, weights, bool(pose.any()))

    def shaped(self, beta: np.ndarray) -> Float32[np.ndarray, "m 3 778"]:
        return (self.template + beta.astype(np.float32) @ self.shape).reshape(-1, 3, 778)

    def skin(self, shaped: np.ndarray, features: np.ndarray, transforms: np.ndarray, out: np.ndarray) -> None:
        posed = shaped + (features @ self.pose).reshape(-1, 3, 778) if self.has_pose else shaped
        blended = (transforms.reshape(-1, 16) @ self.weights).reshape(-1, 12, 778)
        _skin(blended, posed, out)


# -- loading

_ARRAYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "hands_mean", "hands_components")


def _keypoints(arrays: dict[str, np.ndarray]) -> Keypoints:
    tips = list(TIP_VERTICES)
    template = np.concatenate([arrays["J_regressor"] @ arrays["v_template"], arrays["v_template"][tips]])
    shape = np.concatenate(
        [np.tensordot(arrays["J_regressor"], arrays["shapedirs"], axes=1), arrays["shapedirs"][tips]]
    )
    pose = np.ascontiguousarray(arrays["posedirs"][tips])
    return Keypoints(template, shape, pose, np.ascontiguousarray(arrays["weights"][tips]))


def _find(folder: Path, side: str) -> Path:
    names = [f"{side}.npz", f"MANO_{side.upper()}.npz", f"MANO_{side.upper()}.pkl"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no hand model in {folder}: looked for {', '.join(names)}; `hand3d bootstrap` builds one")


def _parameters(*values: np.ndarray) -> tuple[np.ndarray, ...]:
    theta, r, tau, beta = (np.ascontiguousarray(value, dtype=np.float64) for value in values)
    beta = np.atleast_2d(beta)
    n = len(theta)
    if theta.shape != (n, 45) or r.shape != (n, 3) or tau.shape != (n, 3) or beta.shape not in ((n, 10), (1, 10)):
        shapes = ", ".join(str(np.shape(value)) for value in values)
        raise ValueError(f"expected theta (n, 45), r (n, 3), tau (n, 3), beta (10,) or (n, 10), got {shapes}")
    return theta, r, tau, beta
