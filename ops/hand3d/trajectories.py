"""Wrist trajectories: frames' wrist positions -> evenly timed waypoints in one camera's frame (paper 3.2.1).

A moving camera is taken out through T_cam_world: positions are interpolated in the world frame and then expressed in
the camera frame of the conditioning image. Metres, seconds.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from ops.geometry import transforms
from ops.sources.base import Clip


@dataclass(frozen=True, eq=False)
class Track:
    """Where one wrist was seen in a clip: n sightings in ascending time, world frame."""

    times_s: Float[np.ndarray, " n"]
    wrist_world: Float[np.ndarray, "n 3"]


def track(clip: Clip, poses: Float[np.ndarray, "T 4 4"], fits: pl.DataFrame, side: str) -> Track:
    """The wrist of one side from the clip's rows of mano_fits. poses: T_cam_world a frame."""
    rows = fits.filter(side=side).sort("frame")
    frames = rows["frame"].to_numpy()
    wrist_cam = rows["tau"].to_numpy().astype(np.float64).reshape(-1, 3)
    return Track(clip.times_s[frames], transforms.apply(transforms.invert(poses[frames]), wrist_cam))


def resample(
    seen: Track, times_s: Float[np.ndarray, " m"], max_gap_s: float
) -> tuple[Float[np.ndarray, "m 3"], Bool[np.ndarray, " m"]]:
    """Waypoints at the given times, world frame, and whether each is supported.

    Linear between the two sightings around a time. Supported means: seen within half a microsecond of it, or between
    two sightings at most max_gap_s apart. Nothing is extrapolated; unsupported waypoints are NaN.
    """
    if not len(seen.times_s):
        return np.full((len(times_s), 3), np.nan), np.zeros(len(times_s), bool)
    after = np.searchsorted(seen.times_s, times_s - 5e-7)  # first sighting not before the time
    upper = np.minimum(after, len(seen.times_s) - 1)
    on_it = np.abs(seen.times_s[upper] - times_s) <= 5e-7
    lower = np.where(on_it, upper, np.maximum(after - 1, 0))
    gap_s = seen.times_s[upper] - seen.times_s[lower]
    bracketed = (after > 0) & (after < len(seen.times_s)) & (gap_s <= max_gap_s + 1e-9)
    weight = np.where(on_it, 0.0, (times_s - seen.times_s[lower]) / np.where(gap_s > 0, gap_s, 1.0))
    points = seen.wrist_world[lower] + weight[:, None] * (seen.wrist_world[upper] - seen.wrist_world[lower])
    supported = on_it | bracketed
    points[~supported] = np.nan
    return points, supported


def path_length_m(points: Float[np.ndarray, "n 3"], offsets: Int[np.ndarray, " rows_1"]) -> Float[np.ndarray, " rows"]:
    """Length of each row's path; row i is points[offsets[i]:offsets[i + 1]]."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    total = np.concatenate([[0.0], np.cumsum(steps)])  # steps between rows cancel: no row ends on one
    return total[offsets[1:] - 1] - total[offsets[:-1]]


def frame_at(clip: Clip, time_s: float) -> int:
    """The frame on screen at a time: the last one presented by then."""
    return max(int(np.searchsorted(clip.times_s, time_s + 1e-6, side="right")) - 1, 0)
