"""Wrist waypoints <-> motion tokens (paper 3.2.1, supplementary C).

Camera axes of the conditioning image, metres: x and y in [-0.5, 0.5], z in [0, 1], K = 1024 uniform bins an axis. A
waypoint is three tokens in the order x, y, z, all from one shared set of K indices (CONVENTIONS.md). Inside float64;
never bf16, which cannot tell neighbouring bins apart.
"""

import numpy as np
from jaxtyping import Float, UInt16

NUM_BINS = 1024
LOW_M = (-0.5, -0.5, 0.0)
HIGH_M = (0.5, 0.5, 1.0)
BIN_M = 1.0 / NUM_BINS  # every axis spans one metre
MAX_ERROR_M = BIN_M / 2  # of a coordinate in range, decoded to its bin's centre

_BLOCK_POINTS = 16384  # keeps the float64 working copy in the second-level cache
_LOW_TILED_M = np.tile(np.array(LOW_M), _BLOCK_POINTS)


def encode(points_m: Float[np.ndarray, "*batch 3"]) -> tuple[UInt16[np.ndarray, "*batch 3"], int]:
    """Waypoints -> tokens, and the number of waypoints with a coordinate outside the range (clipped to it).

    The upper edge itself is in range and belongs to the last bin. Raises ValueError for another last axis than 3 and
    for coordinates that are not numbers.
    """
    points = np.asarray(points_m)
    if points.ndim == 0 or points.shape[-1] != 3:
        raise ValueError(f"waypoints have shape {points.shape}: give (..., 3), x y z in metres")
    flat = np.ascontiguousarray(points).reshape(-1)
    tokens = np.empty(flat.size, np.uint16)
    num_clipped = 0
    work = np.empty(min(flat.size, 3 * _BLOCK_POINTS))  # one for all blocks: it stays in the cache
    for start in range(0, flat.size, 3 * _BLOCK_POINTS):
        block = slice(start, min(start + 3 * _BLOCK_POINTS, flat.size))
        num_clipped += _encode_block(flat[block], tokens[block], work[: block.stop - start])
    return tokens.reshape(points.shape), num_clipped


def _encode_block(flat_m: np.ndarray, out: np.ndarray, scaled: np.ndarray) -> int:
    np.subtract(flat_m, _LOW_TILED_M[: flat_m.size], out=scaled)
    scaled *= NUM_BINS
    low, high = scaled.min(), scaled.max()
    if np.isnan(low):
        raise ValueError("a waypoint has a coordinate that is not a number: leave such waypoints out before encoding")
    num_clipped = 0
    if low < 0 or high >= NUM_BINS:
        outside = (scaled < 0) | (scaled > NUM_BINS)
        num_clipped = int(outside.reshape(-1, 3).any(axis=1).sum())
        np.clip(scaled, 0, NUM_BINS - 1, out=scaled)
    out[:] = scaled  # truncation is floor here: nothing is negative any more
    return num_clipped


def clipped(points_m: Float[np.ndarray, "points 3"]) -> np.ndarray:
    """(points,) bool: which waypoints `encode` clips."""
    points = np.asarray(points_m, np.float64)
    outside = [(points[..., axis] < LOW_M[axis]) | (points[..., axis] > HIGH_M[axis]) for axis in range(3)]
    return outside[0] | outside[1] | outside[2]  # an axis at a time: rows of three are slow to go through


def decode(tokens: UInt16[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Tokens -> bin centres, float64 metres; at most MAX_ERROR_M an axis from what was encoded in range.

    Raises ValueError for another last axis than 3, for indices that are not whole and for those outside [0, K).
    """
    indices = np.asarray(tokens)
    if indices.ndim == 0 or indices.shape[-1] != 3:
        raise ValueError(f"tokens have shape {indices.shape}: give (..., 3), one index an axis")
    if not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"tokens have type {indices.dtype}: give integers")
    if indices.size and (indices.min() < 0 or indices.max() >= NUM_BINS):
        raise ValueError(f"tokens range from {indices.min()} to {indices.max()}: allowed are 0 to {NUM_BINS - 1}")
    return (indices + 0.5) * BIN_M + np.array(LOW_M)


def token_string(index: int) -> str:
    """The tokenizer's name of a motion token; nothing on disk holds these strings."""
    return f"<motion_{index}>"
