"""How far generated wrist motions are from true ones, on held-out Hand3D-action rows. Metres, conditioning camera.

Mean error: mean distance over the waypoints to produce; final error: at the last one. Beside the model stand answers
that need none: staying where the hand is (for generation that is the true first waypoint, which the model has to see
in the image, so this baseline knows more), going on with the velocity last seen (prediction only), and, knowing neither
image nor truth, the mean motion and the mean position of the training rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from ops.evaluation.spatial import bootstrap_ci

GENERATION, PREDICTION = "instructional_motion_generation", "contextual_motion_prediction"
VELOCITY_STEPS = 3  # waypoint steps that the last velocity is the mean of


@dataclass(frozen=True, eq=False)
class MotionScore:
    """Of one answerer on rows of one task. *_ci: 95% bootstrap interval over rows."""

    task: str
    num_rows: int
    mean_error_m: float
    mean_error_ci_m: tuple[float, float]
    final_error_m: float
    shape_error_m: float
    """Mean error with both motions moved to start at the same place: is the movement right, wherever it is seen."""

    def metrics(self, prefix: str) -> dict[str, float]:
        low, high = self.mean_error_ci_m
        return {
            f"{prefix}mean_error_m": self.mean_error_m,
            f"{prefix}mean_error_low_m": low,
            f"{prefix}mean_error_high_m": high,
            f"{prefix}final_error_m": self.final_error_m,
            f"{prefix}shape_error_m": self.shape_error_m,
        }


def truth(rows: pl.DataFrame) -> tuple[list[Float[np.ndarray, "c 3"]], list[Float[np.ndarray, "n 3"]]]:
    """Waypoints already seen and waypoints to produce, a row each."""
    seen, wanted = [], []
    for flat, context in rows.select("waypoints", "context_tokens").iter_rows():
        points = np.array(flat, dtype=np.float64).reshape(-1, 3)
        seen.append(points[: len(context) // 3])
        wanted.append(points[len(context) // 3 :])
    return seen, wanted


def score(task: str, predicted: Sequence[np.ndarray], wanted: Sequence[np.ndarray], seed: int = 0) -> MotionScore:
    """Raises ValueError for no rows, or for a motion of another length than asked."""
    lengths = [(len(p), len(w)) for p, w in zip(predicted, wanted, strict=True)]
    if not lengths or any(ours != theirs for ours, theirs in lengths):
        raise ValueError(f"motions and truth must have equal lengths and at least one row, got {lengths[:4]}")
    pairs = list(zip(predicted, wanted, strict=True))
    errors = np.array([np.linalg.norm(p - w, axis=1).mean() for p, w in pairs])
    final = np.array([np.linalg.norm(p[-1] - w[-1]) for p, w in pairs])
    shape = np.array([np.linalg.norm((p - p[0]) - (w - w[0]), axis=1).mean() for p, w in pairs])
    return MotionScore(
        task, len(pairs), float(errors.mean()), bootstrap_ci(errors, seed), float(final.mean()), float(shape.mean())
    )


def constant_position(seen: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Stay at the last waypoint seen; where none was seen, at the true first one."""
    return [np.repeat((s[-1:] if len(s) else w[:1]), len(w), axis=0) for s, w in zip(seen, wanted, strict=True)]


def constant_velocity(seen: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Go on as in the last VELOCITY_STEPS steps seen; with fewer than two waypoints seen, stay."""
    out = []
    for start, s, w in zip(constant_position(seen, wanted), seen, wanted, strict=True):
        steps = min(VELOCITY_STEPS, len(s) - 1)
        velocity = (s[-1] - s[-1 - steps]) / steps if steps > 0 else np.zeros(3)
        out.append(start + np.arange(1, len(w) + 1)[:, None] * velocity)
    return out


def mean_motion(train: pl.DataFrame, task: str, wanted: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Mean training motion of the task, brought to the asked length by linear interpolation. Looks at no image.

    Raises ValueError where the task has no training row.
    """
    _, known = truth(train.filter(task=task))
    if not known:
        raise ValueError(f"no training row of task {task}: the mean motion needs one")
    mean = np.mean([resampled(points, 32) for points in known], axis=0)
    return [resampled(mean, len(w)) for w in wanted]


def mean_position(train: pl.DataFrame, task: str, wanted: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Stay at the mean training waypoint of the task: the constant position of an answerer that looks at nothing.

    Raises ValueError where the task has no training row.
    """
    _, known = truth(train.filter(task=task))
    if not known:
        raise ValueError(f"no training row of task {task}: the mean position needs one")
    return [np.repeat(np.concatenate(known).mean(axis=0)[None], len(w), axis=0) for w in wanted]


def resampled(points: Float[np.ndarray, "n 3"], num: int) -> Float[np.ndarray, "m 3"]:
    old, new = np.linspace(0, 1, len(points)), np.linspace(0, 1, num)
    return np.stack([np.interp(new, old, points[:, axis]) for axis in range(3)], axis=1)


def draw(predicted: Sequence[np.ndarray], wanted: Sequence[np.ndarray], titles: Sequence[str], path: Path) -> None:
    """Some motions over the truth: seen by the camera (x right, y down) and from above (x right, z forward)."""
    from matplotlib.figure import Figure

    num = min(4, len(predicted))
    figure = Figure(figsize=(2.6 * max(1, num), 5), layout="constrained")
    axes = figure.subplots(2, max(1, num), squeeze=False)
    for column in range(num):
        for row, (second, label) in enumerate(((1, "y, m (down)"), (2, "z, m (forward)"))):
            axis = axes[row, column]
            for points, colour, name in (
                (wanted[column], "#1c2430", "true"),
                (predicted[column], "#1f6feb", "predicted"),
            ):
                axis.plot(points[:, 0], points[:, second], color=colour, label=name)
                axis.plot(*points[0, [0, second]], "o", color=colour, markersize=4)
            axis.set(xlabel="x, m (right)", ylabel=label)
            if row == 0:
                axis.invert_yaxis()
                axis.set_title(titles[column][:34], fontsize=7)
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=75)
