"""Windows of wrist motion -> waypoints, path lengths and motion tokens, many windows at once (paper 3.2.1, suppl. C).

Waypoints of all windows stand end to end, window i from offsets[i] to offsets[i + 1]; both hands' alternate, left first.
Metres; waypoints in the camera frame of the conditioning image.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool, Float, Float32, Int, UInt16
from numba import njit

from ops.hand3d import motion_tokens, recordings, trajectories
from ops.hand3d.recordings import Recordings, Sightings
from ops.sources.base import SIDES
from ops.tables import BOTH


@dataclass(frozen=True, eq=False)
class Paths:
    """What windows look like in the world, before any camera.

    num_gaps: waypoints of each window that nobody saw. length_m: its path length, of the hand that moves more (0 with
    gaps). kept: windows without gaps that move enough; offsets, world: waypoints of those alone.
    """

    num_gaps: Int[np.ndarray, " windows"]
    length_m: Float[np.ndarray, " windows"]
    kept: Int[np.ndarray, " rows"]
    offsets: Int[np.ndarray, " rows_1"]
    world: Float[np.ndarray, "points 3"]


@dataclass(frozen=True, eq=False)
class Views:
    """Motions as one camera each sees them. windows: which; offsets: into the flat arrays, in waypoints."""

    windows: Int[np.ndarray, " rows"]
    offsets: Int[np.ndarray, " rows_1"]
    waypoints: Float32[np.ndarray, "points 3"]
    tokens: UInt16[np.ndarray, "points 3"]
    num_clipped: Int[np.ndarray, " rows"]


def paths(seen: Sightings, windows: pl.DataFrame, max_gap_s: float, min_length_m: float) -> Paths:
    """Waypoints of all windows (windows.WINDOW)."""
    both = (windows["side"] == BOTH).to_numpy()
    hands, first_track = 1 + both, 2 * windows["clip"].to_numpy() + (windows["side"] == SIDES[1]).to_numpy()
    offsets = _offsets(hands * windows["num"].to_numpy())
    track, times_s = _asked(first_track, hands, windows["start_s"].to_numpy(), windows["hz"].to_numpy(), offsets)
    world, supported = trajectories.resample(seen, track, times_s, max_gap_s)
    num_gaps = _sums(~supported, offsets)
    length_m = np.where(num_gaps > 0, 0.0, trajectories.path_length_m(world, offsets, hands))
    kept = (num_gaps == 0) & (length_m >= min_length_m)
    nums = np.diff(offsets)
    return Paths(num_gaps, length_m, np.flatnonzero(kept), _offsets(nums[kept]), world[np.repeat(kept, nums)])


@njit(cache=True)
def _asked(
    first_track: np.ndarray, hands: np.ndarray, start_s: np.ndarray, hz: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Track and time of every waypoint."""
    track, times_s = np.empty(offsets[-1], np.int64), np.empty(offsets[-1])
    for row in range(len(hands)):
        for i in range(offsets[row + 1] - offsets[row]):
            track[offsets[row] + i] = first_track[row] + i % hands[row]
            times_s[offsets[row] + i] = start_s[row] + i // hands[row] / hz[row]
    return track, times_s


def _offsets(nums: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n_1"]:
    return np.concatenate([[0], np.cumsum(nums)]).astype(np.int64)


def _sums(flags: Bool[np.ndarray, " points"], offsets: Int[np.ndarray, " n_1"]) -> Int[np.ndarray, " n"]:
    return np.diff(_offsets(flags)[offsets])


def views(known: Recordings, paths_: Paths, place: Int[np.ndarray, " windows"]) -> Views:
    """All motions of `paths_`, seen from the camera of frame place[window] (counted through the batch)."""
    of_point = np.repeat(place[paths_.kept], np.diff(paths_.offsets))
    cam = recordings.to_camera(known.T_cam_world, of_point, paths_.world)
    tokens, _ = motion_tokens.encode(cam)
    num_clipped = _sums(motion_tokens.clipped(cam), paths_.offsets)
    return Views(paths_.kept, paths_.offsets, cam.astype(np.float32), tokens, num_clipped)


def select(seen: Views, chosen: Bool[np.ndarray, " rows"]) -> Views:
    """The chosen rows alone."""
    if chosen.all():
        return seen
    nums = np.diff(seen.offsets)
    points, offsets = np.repeat(chosen, nums), _offsets(nums[chosen])
    return Views(seen.windows[chosen], offsets, seen.waypoints[points], seen.tokens[points], seen.num_clipped[chosen])


def split_lists(
    values: np.ndarray, offsets: Int[np.ndarray, " rows_1"], head: Int[np.ndarray, " rows"]
) -> tuple[pl.Series, pl.Series]:
    """Each row's first `head` waypoints and the rest, as flat lists. values: (points, 3)."""
    nums = np.diff(offsets)
    if not head.any() or (head == nums).all():  # nothing or all: no copy
        none = ragged(values[:0], np.zeros(len(offsets), np.int64))
        return (ragged(values, offsets), none) if head.any() else (none, ragged(values, offsets))
    in_head = np.arange(offsets[-1]) - np.repeat(offsets[:-1], nums) < np.repeat(head, nums)
    return ragged(values[in_head], _offsets(head)), ragged(values[~in_head], _offsets(nums - head))


def ragged(values: np.ndarray, offsets: np.ndarray) -> pl.Series:
    """(points, 3) rows of many motions, end to end -> one list of 3 n numbers a motion."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(3 * offsets.astype(np.int64)), flat)))
