"""Wrist trajectories: sightings of wrists -> evenly timed waypoints (paper 3.2.1).

A moving camera is taken out through T_cam_world: positions are interpolated in the world frame and then expressed in
the camera frame of the conditioning image. Metres, seconds; many hands of many clips at once.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from ops.hand3d.recordings import TICKS_PER_S, Recordings, Sightings, keys

ON_IT_S = 5e-7  # nearer than half a microsecond, a sighting is at the time asked for


def resample(
    seen: Sightings, track: Int[np.ndarray, " m"], times_s: Float[np.ndarray, " m"], max_gap_s: float
) -> tuple[Float[np.ndarray, "m 3"], Bool[np.ndarray, " m"]]:
    """Waypoints of the given tracks at the given times, world frame, and whether each is supported.

    Linear between the two sightings around a time. Supported means: seen within half a microsecond of it, or between
    two sightings at most max_gap_s apart. Nothing is extrapolated; unsupported waypoints are NaN.
    """
    if not len(seen.key):
        return np.full((len(times_s), 3), np.nan), np.zeros(len(times_s), bool)
    # first sighting of the track not before the time
    after = np.searchsorted(seen.key, keys(track, times_s) - round(ON_IT_S * TICKS_PER_S))
    upper, lower = np.minimum(after, len(seen.key) - 1), np.maximum(after - 1, 0)
    upper_mine, lower_mine = (
        (seen.track[upper] == track) & (after < len(seen.key)),
        (seen.track[lower] == track) & (after > 0),
    )
    upper_s, lower_s = seen.times_s[upper], seen.times_s[lower]
    on_it = upper_mine & (np.abs(upper_s - times_s) <= ON_IT_S)
    gap_s = upper_s - lower_s
    bracketed = upper_mine & lower_mine & (gap_s <= max_gap_s + 1e-9)
    weight = np.where(on_it, 1.0, (times_s - lower_s) / np.where(gap_s > 0, gap_s, 1.0))[:, None]
    start, end = seen.wrist_world[lower], seen.wrist_world[upper]
    points = np.where(on_it[:, None], end, start + weight * (end - start))
    supported = on_it | bracketed
    points[~supported] = np.nan
    return points, supported


def path_length_m(points: Float[np.ndarray, "n m 3"]) -> Float[np.ndarray, " n"]:
    """Length of each row's path of m points."""
    step = np.diff(points, axis=1)
    x, y, z = (step[..., axis] for axis in range(3))
    return np.sqrt(x * x + y * y + z * z).sum(axis=1)


def frames_at(
    known: Recordings, clip: Int[np.ndarray, " n"], times_s: Float[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """The frame on screen at a time of a clip: the last one presented by then."""
    of_clip = np.repeat(np.arange(len(known.first) - 1), np.diff(known.first))
    ordered = keys(of_clip, known.times_s)
    place = np.searchsorted(ordered, keys(clip, times_s) + round(1e-6 * TICKS_PER_S), side="right") - 1
    return np.maximum(place - known.first[clip], 0)
