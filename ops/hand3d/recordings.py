"""What motion rows are made from, as flat arrays over many clips: times, camera poses, texts and sightings of wrists.

Frames of all clips of a batch stand end to end; a `place` counts them through. Metres, seconds; wrists in the world frame
(T_cam_world is world-to-camera, identities where the camera stands still).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from numba import njit

from ops.hand3d.facts import CLIP_COLUMNS
from ops.hand3d.windows import INSTRUCTION
from ops.sources.base import SIDES, Clip
from ops.tables import BOOL, STR

ABOUT = {"clip_id": STR} | {name: STR for name in CLIP_COLUMNS} | {"noncommercial": BOOL, "redistributable": BOOL}
TICKS_PER_S = 1e7  # whole numbers order sightings of all hands at once: a tenth of a microsecond, times below 30 hours
_TRACK_SHIFT = 40


@dataclass(frozen=True, eq=False)
class Recordings:
    """A batch of clips.

    about: a row a clip, ABOUT. first: places of clip i are first[i] to first[i + 1]. instructions: windows.INSTRUCTION.
    T_cam_world: a row a place.
    """

    about: pl.DataFrame
    first: Int[np.ndarray, " clips_1"]
    times_s: Float[np.ndarray, " places"]
    T_cam_world: Float[np.ndarray, "places 4 4"]
    instructions: pl.DataFrame

    @property
    def duration_s(self) -> Float[np.ndarray, " clips"]:
        """Time of the last frame."""
        return self.times_s[self.first[1:] - 1]


@dataclass(frozen=True, eq=False)
class Sightings:
    """Wrists seen, in ascending order of `key`: track (2 * clip + hand), then time."""

    key: Int[np.ndarray, " n"]
    track: Int[np.ndarray, " n"]
    times_s: Float[np.ndarray, " n"]
    wrist_world: Float[np.ndarray, "n 3"]


def gather(clips: Sequence[Clip]) -> Recordings:
    """What clips say of themselves; poses are identities until `with_poses`."""
    about = [(clip.clip_id, *(getattr(clip, name) for name in CLIP_COLUMNS)) for clip in clips]
    instructions = [
        (place, i.start_s, i.end_s, i.side, i.text) for place, clip in enumerate(clips) for i in clip.instructions
    ]
    times_s = np.concatenate([clip.times_s for clip in clips]).astype(np.float64)
    return Recordings(
        about=pl.DataFrame(about, schema=ABOUT, orient="row"),
        first=np.concatenate([[0], np.cumsum([len(clip.times_s) for clip in clips])]).astype(np.int64),
        times_s=times_s,
        T_cam_world=np.broadcast_to(np.eye(4), (len(times_s), 4, 4)),
        instructions=pl.DataFrame(instructions, schema=INSTRUCTION, orient="row"),
    )


def with_poses(known: Recordings, poses: Mapping[int, Float[np.ndarray, "frames 4 4"]]) -> Recordings:
    """poses: T_cam_world a frame, by the clip's place in the batch."""
    T_cam_world = known.T_cam_world.copy()
    for clip, T in poses.items():
        T_cam_world[known.first[clip] : known.first[clip + 1]] = T
    return replace(known, T_cam_world=T_cam_world)


def sightings(known: Recordings, fits: pl.DataFrame) -> Sightings:
    """Wrists of the batch in the world frame. fits: clip_id, frame, side, tau of the mano_fits table, any order."""
    clip = _clips_of(known, fits["clip_id"])
    if (clip < 0).any():  # of another batch
        fits, clip = fits.filter(pl.Series(clip >= 0)), clip[clip >= 0]
    place = known.first[clip] + fits["frame"].to_numpy()
    track = 2 * clip + (fits["side"] == SIDES[1]).to_numpy()
    wrist_world = to_world(known.T_cam_world, place, fits["tau"].to_numpy().astype(np.float64).reshape(-1, 3))
    times_s = known.times_s[place]
    key = keys(track, times_s)
    if (key[1:] >= key[:-1]).all():
        return Sightings(key, track, times_s, wrist_world)
    order = np.argsort(key, kind="stable")
    return Sightings(key[order], track[order], times_s[order], wrist_world[order])


def _clips_of(known: Recordings, clip_id: pl.Series) -> Int[np.ndarray, " n"]:
    """Place of each row's clip in the batch, -1 for none; fast where the rows of a clip lie together."""
    clips = known.about.select("clip_id", clip=pl.int_range(pl.len()))
    runs = clip_id.rle().struct.unnest()
    place = runs.join(clips, left_on="value", right_on="clip_id", how="left", maintain_order="left")["clip"]
    return np.repeat(place.fill_null(-1).to_numpy(), runs["len"].to_numpy())


def keys(track: Int[np.ndarray, " n"], times_s: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Whole numbers in the order of track, then time."""
    return (track.astype(np.int64) << _TRACK_SHIFT) + np.rint(times_s * TICKS_PER_S).astype(np.int64)


@njit(cache=True)
def to_world(
    T_cam_world: Float[np.ndarray, "places 4 4"], place: Int[np.ndarray, " n"], points_cam: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """R^T (p - t), a point a row, each with the pose of its own place (which is read where it lies, not copied)."""
    out = np.empty((len(place), 3))
    for i in range(len(place)):
        T = T_cam_world[place[i]]
        x, y, z = points_cam[i, 0] - T[0, 3], points_cam[i, 1] - T[1, 3], points_cam[i, 2] - T[2, 3]
        for axis in range(3):
            out[i, axis] = T[0, axis] * x + T[1, axis] * y + T[2, axis] * z
    return out


@njit(cache=True)
def to_camera(
    T_cam_world: Float[np.ndarray, "places 4 4"], place: Int[np.ndarray, " n"], points_world: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """R p + t, a point a row, each with the pose of its own place."""
    out = np.empty((len(place), 3))
    for i in range(len(place)):
        T = T_cam_world[place[i]]
        x, y, z = points_world[i, 0], points_world[i, 1], points_world[i, 2]
        for axis in range(3):
            out[i, axis] = T[axis, 0] * x + T[axis, 1] * y + T[axis, 2] * z + T[axis, 3]
    return out
