"""Windows of wrist motion -> waypoints, path lengths and motion tokens, many windows at once (paper 3.2.1, suppl. C).

Windows of equally many waypoints are worked on together, in blocks that fit the cache. Both hands' waypoints alternate,
left first. Metres; waypoints in the camera frame of the conditioning image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool, Float, Float32, Int, UInt16

from ops.hand3d import motion_tokens, recordings, trajectories
from ops.hand3d.recordings import Recordings, Sightings
from ops.sources.base import SIDES
from ops.tables import BOTH

BLOCK_POINTS = 1 << 16


@dataclass(frozen=True, eq=False)
class Paths:
    """What windows look like in the world, before any camera. One entry a window.

    num_gaps: waypoints that nobody saw. length_m: path length, of the hand that moves more (0 with gaps).
    blocks: (windows, waypoints in the world frame) of equally long ones.
    """

    num_gaps: Int[np.ndarray, " windows"]
    length_m: Float[np.ndarray, " windows"]
    blocks: list[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n points 3"]]]


@dataclass(frozen=True, eq=False)
class Views:
    """Motions as one camera each sees them. windows: which; offsets: into the flat arrays, in waypoints."""

    windows: Int[np.ndarray, " rows"]
    offsets: Int[np.ndarray, " rows_1"]
    waypoints: Float32[np.ndarray, "points 3"]
    tokens: UInt16[np.ndarray, "points 3"]
    num_clipped: Int[np.ndarray, " rows"]


def paths(seen: Sightings, windows: pl.DataFrame, max_gap_s: float, min_length_m: float) -> Paths:
    """Waypoints of all windows; blocks hold only those without gaps and at least min_length_m long."""
    num_gaps, length_m = np.zeros(len(windows), np.int64), np.zeros(len(windows))
    start_s, hz = windows["start_s"].to_numpy(), windows["hz"].to_numpy()
    left = 2 * windows["clip"].to_numpy()
    own = left + (windows["side"] == SIDES[1]).to_numpy()
    blocks = []
    for members, is_both, num in _blocks(windows):
        times_s = (start_s[members, None] + np.arange(num) / hz[members, None]).reshape(-1)
        tracks = (left[members], left[members] + 1) if is_both else (own[members],)
        world, gaps = _waypoints(seen, tracks, times_s, num, max_gap_s)
        moved = np.max([trajectories.path_length_m(world[:, :, hand]) for hand in range(len(tracks))], axis=0)
        num_gaps[members], length_m[members] = gaps, np.where(gaps > 0, 0.0, moved)
        kept = (gaps == 0) & (moved >= min_length_m)
        if kept.any():
            blocks.append((members[kept], world[kept].reshape(int(kept.sum()), -1, 3)))
    return Paths(num_gaps, length_m, blocks)


def _blocks(windows: pl.DataFrame) -> Iterator[tuple[np.ndarray, bool, int]]:
    """Places of windows with equally many waypoints of the same number of hands, whether of both, and how many."""
    both, num = (windows["side"] == BOTH).to_numpy(), windows["num"].to_numpy()
    for is_both in (False, True):
        for length in np.unique(num[both == is_both]):
            members = np.flatnonzero((both == is_both) & (num == length))
            step = max(1, BLOCK_POINTS // int(length))
            for start in range(0, len(members), step):
                yield members[start : start + step], is_both, int(length)


def _waypoints(
    seen: Sightings, tracks: tuple[Int[np.ndarray, " n"], ...], times_s: Float[np.ndarray, " n_num"], num: int, max_gap_s: float
) -> tuple[Float[np.ndarray, "n num hands 3"], Int[np.ndarray, " n"]]:  # fmt: skip
    """World frame, of one track a window and hand -> waypoints, and how many of them are not supported."""
    world = np.empty((len(tracks[0]), num, len(tracks), 3))
    gaps = np.zeros(len(tracks[0]), np.int64)
    for hand, track in enumerate(tracks):
        points, supported = trajectories.resample(seen, np.repeat(track, num), times_s, max_gap_s)
        world[:, :, hand] = points.reshape(-1, num, 3)
        gaps += (~supported).reshape(-1, num).sum(axis=1)
    return world, gaps


def views(known: Recordings, paths_: Paths, place: Int[np.ndarray, " windows"]) -> Views:
    """All motions of `paths_`, seen from the camera of frame place[window] (counted through the batch)."""
    waypoints, tokens, clipped, members, nums = [], [], [], [], []
    for windows, world in paths_.blocks:
        cam = recordings.to_camera(known.T_cam_world[place[windows]], world)
        waypoints.append(cam.astype(np.float32).reshape(-1, 3))
        tokens.append(motion_tokens.encode(cam)[0].reshape(-1, 3))
        clipped.append(motion_tokens.clipped(cam).sum(axis=1))
        members.append(windows)
        nums.append(np.full(len(windows), world.shape[1]))
    if not members:
        empty = np.zeros(0, np.int64)
        return Views(empty, np.zeros(1, np.int64), np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint16), empty)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(nums))])
    return Views(
        np.concatenate(members), offsets, np.concatenate(waypoints), np.concatenate(tokens), np.concatenate(clipped)
    )


def select(seen: Views, chosen: Bool[np.ndarray, " rows"]) -> Views:
    """The chosen rows alone."""
    if chosen.all():
        return seen
    nums = np.diff(seen.offsets)
    points = np.repeat(chosen, nums)
    offsets = np.concatenate([[0], np.cumsum(nums[chosen])])
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
    first, rest = (np.concatenate([[0], np.cumsum(n)]) for n in (head, nums - head))
    return ragged(values[in_head], first), ragged(values[~in_head], rest)


def ragged(values: np.ndarray, offsets: np.ndarray) -> pl.Series:
    """(points, 3) rows of many motions, end to end -> one list of 3 n numbers a motion."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(3 * offsets.astype(np.int64)), flat)))
