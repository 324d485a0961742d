"""Candidates of the tasks about two frames: how a hand or the camera has moved (paper 3.2.1, categories 3 and 4).

A hand's displacement is in the camera frame of the LAST frame, with the camera's own movement taken out through
T_cam_world. A camera's movement is that of its body: the displacement of its centre in the last frame's axes, and the
rotation vector that turns the first frame's axes into the last's (radians; the axis is the same in both frames).
"""

import numpy as np
import polars as pl
from jaxtyping import Float

from ops.geometry import transforms
from ops.hand3d.facts import Facts
from ops.hand3d.relations import finish, rejects, row_id
from ops.hand3d.stable import stable_hash
from ops.rejects import Reason
from ops.tables import F32, vec

MAX_GAP = 3  # ASSUMED: the two frames are one to three samples (seconds, at 1 fps) apart
# ASSUMED: below both, the camera has not moved: it would print as 0 degrees and 0.00 m.
STILL_CAMERA_M = 0.005
STILL_CAMERA_DEG = 0.5


def hand_movement(facts: Facts, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Displacement of the wrist between two frames -> candidates, rejects."""
    last = facts.hands.join(
        facts.samples.select("clip_id", "frame", "sample", "T_cam_world"),
        on=["clip_id", "frame"],
        maintain_order="left",
    )
    pairs = _with_first(last.with_columns(row_id=row_id("hand_movement", "side")), facts, seed)
    pairs = pairs.join(
        facts.hands.select("clip_id", "side", first_frame="frame", first_wrist="wrist"),
        on=["clip_id", "side", "first_frame"], how="left", maintain_order="left",
    )  # fmt: skip
    gone, seen = pairs.filter(pl.col("first_wrist").is_null()), pairs.filter(pl.col("first_wrist").is_not_null())
    unknown, known = _by_pose(seen)
    rejected = [
        rejects(gone, Reason.HAND_GAP, pl.format("the hand is not seen in frame {}", "first_frame")),
        rejects(
            unknown, Reason.NO_CAMERA_POSE, pl.lit("the camera may have moved: a hand's own movement needs its pose")
        ),
    ]
    T_last_first = relative_poses(known)
    start = transforms.apply(T_last_first, known["first_wrist"].to_numpy().astype(np.float64).reshape(-1, 3))
    vector = known["wrist"].to_numpy().astype(np.float64).reshape(-1, 3) - start
    rows = _two_frames(known, vector).with_columns(start=pl.Series(start.astype(np.float32), dtype=vec(3, F32)))
    return finish(rows, facts, "hand_movement", seed), pl.concat(rejected)


def camera_movement(facts: Facts, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rotation and translation of the camera between two frames -> candidates, rejects."""
    pairs = _with_first(facts.samples.with_columns(row_id=row_id("camera_movement")), facts, seed)
    unknown, known = _by_pose(pairs)
    translation, rotation = body_motion(relative_poses(known))
    still = (np.linalg.norm(translation, axis=1) < STILL_CAMERA_M) & (
        np.degrees(np.linalg.norm(rotation, axis=1)) < STILL_CAMERA_DEG
    )
    rows = _two_frames(known, translation).with_columns(
        rotation=pl.Series(rotation.astype(np.float32), dtype=vec(3, F32))
    )
    rejected = [
        rejects(unknown, Reason.NO_CAMERA_POSE, pl.lit("the camera's pose is not known")),
        rejects(
            known.filter(still),
            Reason.INSIGNIFICANT_MOTION,
            pl.format("the camera stays still since frame {}", "first_frame"),
        ),
    ]
    return finish(rows.filter(~still), facts, "camera_movement", seed), pl.concat(rejected)


def body_motion(
    T_last_first: Float[np.ndarray, "rows 4 4"],
) -> tuple[Float[np.ndarray, "rows 3"], Float[np.ndarray, "rows 3"]]:
    """How the camera itself moved, from the transform of first-camera to last-camera coordinates.

    -> displacement of its centre in the last frame's axes, metres, and its rotation vector, radians.
    """
    # the first camera's centre has last-camera coordinates t, so the centre went from t to 0
    translation = -T_last_first[:, :3, 3]
    rotation = transforms.rotmat_to_rotvec(np.swapaxes(T_last_first[:, :3, :3], -1, -2))
    return translation, rotation


def relative_poses(pairs: pl.DataFrame) -> Float[np.ndarray, "rows 4 4"]:
    """T_last_first: coordinates of the first frame's camera -> the last frame's."""
    T_last_world, T_first_world = (
        pairs[name].to_numpy().reshape(-1, 4, 4) for name in ("T_cam_world", "first_T_cam_world")
    )
    return transforms.relative(T_last_world, T_first_world)


def _with_first(last: pl.DataFrame, facts: Facts, seed: int) -> pl.DataFrame:
    """Pair every sampled frame but the first with one up to MAX_GAP samples earlier, chosen by the row's id."""
    last = last.filter(pl.col("sample") > 0)
    most = np.minimum(last["sample"].to_numpy(), MAX_GAP).astype(np.uint64)
    gap = pl.Series(1 + (stable_hash(last["row_id"], seed, "gap") % most).astype(np.int64), dtype=pl.Int64)
    first = facts.samples.select("clip_id", first_sample="sample", first_frame="frame", first_T_cam_world="T_cam_world")
    return last.with_columns(first_sample=pl.col("sample") - gap).join(
        first, on=["clip_id", "first_sample"], maintain_order="left"
    )


def _by_pose(pairs: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    known = pl.col("T_cam_world").is_not_null() & pl.col("first_T_cam_world").is_not_null()
    return pairs.filter(~known), pairs.filter(known)


def _two_frames(pairs: pl.DataFrame, vector: np.ndarray) -> pl.DataFrame:
    return pairs.with_columns(
        frames=pl.concat_list("first_frame", "frame"),
        vector=pl.Series(vector.astype(np.float32).reshape(-1, 3), dtype=vec(3, F32)),
        scale=pl.lit(1.0),  # poses and hands are metric
    )
