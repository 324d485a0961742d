"""A second, plain way to every number of a visual row: what a blocking check compares the rows with.

Written row by row from the clip's own labels, hand fits and calibrated object positions, with another library for
rotations; it calls none of the code that makes rows, but for the reader of answers. Slow on purpose: check a sample.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.spatial.transform import Rotation

from ops.hand3d.parsing import parse
from ops.sources.base import Clip

VECTOR_TOLERANCE_M = 1e-5
ROTATION_TOLERANCE_RAD = 1e-5


@dataclass(frozen=True)
class Truth:
    """Tables a row is recomputed from, as dictionaries: points in metres, camera frame of their frame."""

    joints: Mapping[tuple[str, int, str], np.ndarray]
    objects: Mapping[tuple[str, int, str], np.ndarray]
    clips: Mapping[str, Clip]


def truth(clips: Iterable[Clip], fits: pl.DataFrame, positions: pl.DataFrame) -> Truth:
    """clips: those the rows come from; fits: mano_fits; positions: object_positions."""
    joints = {
        (r["clip_id"], r["frame"], r["side"]): np.array(r["joints_cam"], float).reshape(21, 3)
        for r in fits.iter_rows(named=True)
    }
    objects = {
        (r["clip_id"], r["frame"], r["name"]): np.array(r["position_cam"], float)
        for r in positions.iter_rows(named=True)
    }
    return Truth(joints, objects, {clip.clip_id: clip for clip in clips})


def disagreements(rows: pl.DataFrame, known: Truth, gamma: float) -> list[str]:
    """One sentence for every number of a row that the second way does not confirm; empty when all agree."""
    found = []
    for row in rows.iter_rows(named=True):
        found += [f"{row['row_id']}: {problem}" for problem in _problems(row, known, gamma)]
    return found


def _problems(row: dict, known: Truth, gamma: float) -> list[str]:
    vector = np.array(row["vector"], float)
    expected = _expected_vector(row, known)
    problems = []
    if np.abs(vector - expected).max() > VECTOR_TOLERANCE_M:
        problems.append(f"vector is {vector.round(4).tolist()}, recomputed {expected.round(4).tolist()}")
    distance_m = math.sqrt(sum(component * component for component in row["vector"]))
    if abs(distance_m - row["distance_m"]) > VECTOR_TOLERANCE_M:
        problems.append(f"distance is {row['distance_m']:.4f} m, its vector's length {distance_m:.4f} m")
    direction = _expected_direction(row["vector"], distance_m, gamma)
    if list(row["direction"]) != direction:
        problems.append(f"direction is {list(row['direction'])}, recomputed {direction}")
    if row["task"] == "camera_movement":
        problems += _rotation_problems(row, known)
    start = _expected_start(row, known)
    if (start is None) != (row["start"] is None) or (
        start is not None and np.abs(start - row["start"]).max() > VECTOR_TOLERANCE_M
    ):
        problems.append(f"start is {row['start']}, recomputed {start}")
    problems += _contact_problems(row, known)
    return problems + _text_problems(row)


def _expected_vector(row: dict, known: Truth) -> np.ndarray:
    clip_id, frames, side = row["clip_id"], row["frames"], row["side"]
    last = frames[-1]
    if row["task"] == "camera_movement":
        pose = known.clips[clip_id].T_cam_world
        first_centre, last_centre = (-pose[f][:3, :3].T @ pose[f][:3, 3] for f in (frames[0], last))
        return pose[last][:3, :3] @ (last_centre - first_centre)
    if row["task"] == "hand_movement":
        pose = known.clips[clip_id].T_cam_world
        if pose is None:  # a row is made then only where the camera stands still
            return known.joints[clip_id, last, side][0] - known.joints[clip_id, frames[0], side][0]
        start = known.joints[clip_id, frames[0], side][0]
        start_world = pose[frames[0]][:3, :3].T @ (start - pose[frames[0]][:3, 3])
        return known.joints[clip_id, last, side][0] - (pose[last][:3, :3] @ start_world + pose[last][:3, 3])
    palm = _palm(known.joints[clip_id, last, side])
    if row["object"] in ("left hand", "right hand"):
        return _palm(known.joints[clip_id, last, row["object"].split()[0]]) - palm
    return known.objects[clip_id, last, row["object"]] - palm


def _expected_start(row: dict, known: Truth) -> np.ndarray | None:
    """Where the vector begins: the palm asked from, or where the wrist was."""
    last = row["frames"][-1]
    if row["task"] == "camera_movement":
        return None
    if row["task"] == "hand_movement":
        return known.joints[row["clip_id"], last, row["side"]][0] - np.array(row["vector"], float)
    return _palm(known.joints[row["clip_id"], last, row["side"]])


def _palm(joints: np.ndarray) -> np.ndarray:
    wrist, index, middle, ring, little = joints[0], joints[5], joints[9], joints[13], joints[17]
    return (wrist + index + middle + ring + little) / 5


def _expected_direction(vector: list[float], distance_m: float, gamma: float) -> list[int]:
    if np.float32(distance_m) < np.float32(0.005):
        return [0, 0, 0]
    return [0 if abs(c) <= gamma * distance_m else (1 if c > 0 else -1) for c in vector]


def _rotation_problems(row: dict, known: Truth) -> list[str]:
    pose = known.clips[row["clip_id"]].T_cam_world
    first, last = (Rotation.from_matrix(pose[f][:3, :3]).inv() for f in (row["frames"][0], row["frames"][-1]))
    expected = (first.inv() * last).as_rotvec()
    found = np.array(row["rotation"], float)
    if np.abs(found - expected).max() > ROTATION_TOLERANCE_RAD:
        return [f"rotation is {found.round(4).tolist()}, recomputed {expected.round(4).tolist()}"]
    return []


def _contact_problems(row: dict, known: Truth) -> list[str]:
    clip = known.clips[row["clip_id"]]
    touched = (clip.contact or {}).get(row["side"])
    expected = None
    if row["task"] == "spatial_relation" and row["object"] not in ("left hand", "right hand") and touched is not None:
        index = int(touched[row["frames"][-1]])
        expected = index >= 0 and clip.objects[index].name == row["object"]
    return [] if row["contact"] == expected else [f"contact is {row['contact']}, the source says {expected}"]


def _text_problems(row: dict) -> list[str]:
    """The answer must say what the numbers say."""
    said = parse(row["answer"], (row["object"],) if row["object"] else ())
    problems = []
    if said.distance_m is None or abs(said.distance_m - row["distance_m"]) > 0.005 + 1e-6:
        problems.append(f"the answer says {said.distance_m} m, the row {row['distance_m']:.4f} m")
    if said.direction is None or list(said.direction) != list(row["direction"]):
        problems.append(f"the answer says direction {said.direction}, the row {list(row['direction'])}")
    if row["contact"] is not None and said.contact != row["contact"]:
        problems.append(f"the answer says contact {said.contact}, the row {row['contact']}")
    if row["rotation"] is not None:
        degrees = math.degrees(math.sqrt(sum(c * c for c in row["rotation"])))
        if said.rotation_deg is None or abs(said.rotation_deg - degrees) > 0.51:
            problems.append(f"the answer says {said.rotation_deg} degrees, the row {degrees:.2f}")
    return problems


def motion_disagreements(rows: pl.DataFrame) -> list[str]:
    """One sentence for every action row whose tokens, path length, count of clipped points or lengths do not follow
    from its own waypoints; empty when all agree."""
    found = []
    for row in rows.iter_rows(named=True):
        found += [f"{row['row_id']}: {problem}" for problem in _motion_problems(row)]
    return found


def _motion_problems(row: dict) -> list[str]:
    points = [row["waypoints"][i : i + 3] for i in range(0, len(row["waypoints"]), 3)]
    tokens = [*row["context_tokens"], *row["target_tokens"]]
    if len(tokens) != len(row["waypoints"]):
        return [f"{len(tokens)} tokens for {len(points)} waypoints"]
    lows, highs = (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0)
    problems = []
    for i, (x, token) in enumerate(zip(row["waypoints"], tokens, strict=True)):
        low, high = lows[i % 3], highs[i % 3]
        centre = low + (token + 0.5) / 1024
        if abs(min(max(x, low), high) - centre) > 0.4884e-3:
            problems.append(f"token {i} is {token}, its coordinate {x:.4f} m")
    outside = sum(any(not low <= x <= high for x, low, high in zip(p, lows, highs, strict=True)) for p in points)
    if outside != row["num_clipped"]:
        problems.append(f"{row['num_clipped']} waypoints said to be clipped, {outside} lie outside")
    hands = [points[0::2], points[1::2]] if row["side"] == "both" else [points]
    path_m = max(sum(math.dist(path[i], path[i + 1]) for i in range(len(path) - 1)) for path in hands)
    if abs(path_m - row["displacement_m"]) > 1e-4:
        problems.append(f"path is {row['displacement_m']:.4f} m, its waypoints' {path_m:.4f} m")
    if (row["target_text"] is not None) != (row["task"] == "motion_translation"):
        problems.append(f"target text {row['target_text']!r} in a row of {row['task']}")
    return problems
