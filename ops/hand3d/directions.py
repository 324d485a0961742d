"""(direction, distance) of a displacement: the form of every Hand3D-visual label (paper 3.2.1).

Vectors are in metres and OpenCV camera axes: +x right, +y down, +z forward (away from the camera). A direction is one
integer an axis, -1, 0 or 1: the sign of every component of the unit vector whose magnitude exceeds gamma.
"""

import numpy as np
import polars as pl
from jaxtyping import Float, Int8

AXIS_WORDS = (("left", "right"), ("up", "down"), ("backward", "forward"))  # (negative, positive) of x, y, z
# ASSUMED: a displacement that prints as "0.00 m" has no direction; at 5 mm the sign is measurement noise.
STILL_M = 0.005
MAX_GAMMA = 3**-0.5  # above it a unit vector can have no component over the threshold


def check_gamma(gamma: float) -> None:
    """Raise ValueError where gamma would leave some displacements without any direction."""
    if not 0 < gamma < MAX_GAMMA:
        raise ValueError(
            f"gamma is {gamma}: take a value between 0 and {MAX_GAMMA:.4f} (1/sqrt(3)), else diagonal displacements have no direction"
        )


def measure(
    vectors: Float[np.ndarray, "rows 3"], gamma: float
) -> tuple[Float[np.ndarray, " rows"], Int8[np.ndarray, "rows 3"]]:
    """Displacements in metres -> distance in metres (float32) and direction (-1, 0, 1 an axis).

    Computed from the float32 values that are stored, so that a row's label follows from the row's vector. A distance
    under STILL_M, and so the zero vector, has direction (0, 0, 0). Raises ValueError for gamma out of range and for
    components that are not finite.
    """
    check_gamma(gamma)
    stored = np.asarray(vectors, np.float32).reshape(-1, 3)
    if not np.isfinite(stored).all():
        raise ValueError(
            f"{int((~np.isfinite(stored)).any(axis=1).sum())} of {len(stored)} displacements are not finite"
        )
    x, y, z = stored.astype(np.float64).T
    exact_m = np.sqrt(x * x + y * y + z * z)
    distance_m = exact_m.astype(np.float32)
    moving = distance_m >= np.float32(STILL_M)
    threshold_m = gamma * exact_m
    axes = [np.sign(component) * ((np.abs(component) > threshold_m) & moving) for component in (x, y, z)]
    return distance_m, np.stack(axes, axis=1).astype(np.int8)


def phrase(direction: tuple[int, int, int], still: str = "no movement") -> str:
    """(1, 1, 0) -> "right and down"; `still` where no axis has a direction."""
    words = [AXIS_WORDS[axis][(sign + 1) // 2] for axis, sign in enumerate(direction) if sign]
    if not words:
        return still
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def phrases(direction: Int8[np.ndarray, "rows 3"], still: str = "no movement") -> pl.Series:
    """`phrase` of many directions, through the table of all 27."""
    table = pl.Series([phrase((x, y, z), still) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)])
    code = (direction.astype(np.int64) + 1) @ np.array([9, 3, 1])
    return table.gather(code)


def metres(distance_m: Float[np.ndarray, " rows"]) -> pl.Series:
    """float32 metres -> "0.23", exactly what f"{d:.2f}" gives (a float32 times 100 is exact in float64)."""
    return decimals(np.asarray(distance_m, np.float32).astype(np.float64), 2)


def decimals(values: Float[np.ndarray, " rows"], places: int) -> pl.Series:
    """Numbers with so many decimals, each different one worded once."""
    whole, index = np.unique(np.rint(values * 10**places).astype(np.int64), return_inverse=True)
    return pl.Series([f"{value / 10**places:.{places}f}" for value in whole], dtype=pl.String).gather(index)
