"""Temporal term of the hand fit: joint tracks of a clip with their second differences held small.

Minimises ``sum w |z - y|^2 + lambda sum |z[t-1] - 2 z[t] + z[t+1]|^2`` for every coordinate (Whittaker); what is left of
the noise then goes into the pose fit. One lambda a clip, that of the least expected error for the noise known from
bone lengths (Mallows' criterion): fast motion is smoothed little, a still hand much, unrelated frames not at all.
Frames are equally spaced; metres.
"""

import numpy as np
from jaxtyping import Float64
from scipy.fft import dct
from scipy.linalg import solveh_banded

MIN_FRAMES = 8
# lambda, 0 included: gains fall to a half at about 1 / (2 pi lambda^(1/4)) cycles a frame
STRENGTHS = np.append(0.0, 10.0 ** np.linspace(-3, 6, 37))
MAX_PLAY = 1e-9  # keeps the system definite where a joint is never seen


def smooth_tracks(
    points: Float64[np.ndarray, "n 21 3"], weight: Float64[np.ndarray, "n 21"], noise: float
) -> Float64[np.ndarray, "n 21 3"]:
    """Smoothed points. noise: standard deviation of a coordinate.

    A joint with weight 0 is bridged and stays missing. Clips of fewer than MIN_FRAMES are returned as they are.
    """
    seen = (weight > 0).any(axis=1)
    if seen.sum() < MIN_FRAMES:
        return points
    strength = _choose_strength(_bridged(points, weight), noise)
    smoothed = np.empty_like(points)
    for joint in range(points.shape[1]):
        smoothed[:, joint] = _whittaker(points[:, joint], np.minimum(weight[:, joint], 1.0), strength)
    return smoothed


def _bridged(points: np.ndarray, weight: np.ndarray) -> Float64[np.ndarray, "n k"]:
    """Coordinates over time of the joints seen in half of the frames or more, gaps filled by straight lines."""
    times, tracks = np.arange(len(points)), []
    for joint in range(points.shape[1]):
        seen = weight[:, joint] > 0
        if 2 * seen.sum() >= len(points):
            tracks += [np.interp(times, times[seen], points[seen, joint, axis]) for axis in range(3)]
    return np.stack(tracks, axis=1) if tracks else np.zeros((len(points), 0))


def _choose_strength(tracks: np.ndarray, noise: float) -> float:
    """lambda with the least expected squared error: misfit plus twice the noise that passes.

    In the cosine basis the penalty is diagonal but for its ends; straight lines, which it leaves alone, are taken off.
    """
    n = len(tracks)
    if tracks.shape[1] == 0:
        return 0.0
    line = np.linspace(0, 1, n)[:, None]
    power = (dct(tracks - tracks[0] - line * (tracks[-1] - tracks[0]), axis=0, norm="ortho") ** 2).sum(axis=1)
    penalty = (2 - 2 * np.cos(np.pi * np.arange(n) / n)) ** 2
    gain = 1 / (1 + STRENGTHS[:, None] * penalty)
    score = (1 - gain) ** 2 @ power + 2 * noise**2 * tracks.shape[1] * gain.sum(axis=1)
    return float(STRENGTHS[int(np.argmin(score))])


def _whittaker(track: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    """Solve (W + lambda D'D) z = W y for one joint (n, 3); D: second differences."""
    n = len(track)
    bands = np.zeros((3, n))  # upper form: second diagonal, first, main
    for offset, row in ((0, (1.0, 4.0, 1.0)), (1, (-2.0, -2.0)), (2, (1.0,))):
        for start, value in enumerate(row):
            at = slice(start + offset, n - 2 + start + offset)
            bands[2 - offset, at] += strength * value
    bands[2] += np.maximum(weight, MAX_PLAY)
    return solveh_banded(bands, weight[:, None] * track)
