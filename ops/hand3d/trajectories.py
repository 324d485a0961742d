"""Wrist trajectories: sightings of wrists -> evenly timed waypoints (paper 3.2.1).

A moving camera is taken out through T_cam_world: positions are interpolated in the world frame and then expressed in
the camera frame of the conditioning image. Metres, seconds; many hands of many clips at once.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit

from ops.hand3d.recordings import TICKS_PER_S, Recordings, Sightings, keys

ON_IT_S = 5e-7  # nearer than half a microsecond, a sighting is at the time asked for


def resample(
    seen: Sightings, track: Int[np.ndarray, " m"], times_s: Float[np.ndarray, " m"], max_gap_s: float
) -> tuple[Float[np.ndarray, "m 3"], Bool[np.ndarray, " m"]]:
    """Waypoints of the given tracks at the given times, world frame, and whether each is supported.

    Linear between the two sightings around a time. Supported means: seen within half a microsecond of it, or between
    two sightings at most max_gap_s apart. Nothing is extrapolated; unsupported waypoints are NaN.
    """
    wanted = keys(track, times_s) - round(ON_IT_S * TICKS_PER_S)
    return _resample(seen.key, seen.track, seen.times_s, seen.wrist_world, wanted, track, times_s, max_gap_s)


@njit(cache=True)
def _resample(
    key: np.ndarray, seen_track: np.ndarray, seen_s: np.ndarray, wrist: np.ndarray, wanted: np.ndarray, track: np.ndarray,
    times_s: np.ndarray, max_gap_s: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """wanted: keys from which a sighting counts as not before the time. Walks on while times of one track ascend."""
    points, supported = np.full((len(wanted), 3), np.nan), np.zeros(len(wanted), np.bool_)
    after = 0
    for i in range(len(wanted)):
        if i == 0 or track[i] != track[i - 1] or wanted[i] < wanted[i - 1]:
            after = np.searchsorted(key, wanted[i])
        while after < len(key) and key[after] < wanted[i]:
            after += 1
        if after == len(key) or seen_track[after] != track[i]:
            continue
        if abs(seen_s[after] - times_s[i]) <= ON_IT_S:
            points[i], supported[i] = wrist[after], True
        elif after > 0 and seen_track[after - 1] == track[i]:
            gap_s = seen_s[after] - seen_s[after - 1]
            if gap_s <= max_gap_s + 1e-9:
                weight = (times_s[i] - seen_s[after - 1]) / gap_s
                points[i] = wrist[after - 1] + weight * (wrist[after] - wrist[after - 1])
                supported[i] = True
    return points, supported


@njit(cache=True)
def path_length_m(
    points: Float[np.ndarray, "points 3"], offsets: Int[np.ndarray, " n_1"], hands: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Length of each motion's path; where the points of both hands alternate, of the hand that moves more."""
    longest_m = np.zeros(len(hands))
    for row in range(len(hands)):
        for hand in range(hands[row]):
            length_m = 0.0
            for i in range(offsets[row] + hand + hands[row], offsets[row + 1], hands[row]):
                x, y, z = points[i] - points[i - hands[row]]
                length_m += np.sqrt(x * x + y * y + z * z)
            longest_m[row] = max(longest_m[row], length_m)
    return longest_m


def frames_at(
    known: Recordings, clip: Int[np.ndarray, " n"], times_s: Float[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """The frame on screen at a time of a clip: the last one presented by then."""
    of_clip = np.repeat(np.arange(len(known.first) - 1), np.diff(known.first))
    ordered = keys(of_clip, known.times_s)
    place = np.searchsorted(ordered, keys(clip, times_s) + round(1e-6 * TICKS_PER_S), side="right") - 1
    return np.maximum(place - known.first[clip], 0)
