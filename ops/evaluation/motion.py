"""How far generated wrist motions are from true ones, on held-out Hand3D-action rows. Metres, conditioning camera.

Mean error: mean distance over the waypoints to produce; final error: at the last one. Beside the model stand answers
that need none: staying where the hand is (for generation that is the true first waypoint, which the model has to see
in the image, so this baseline knows more), going on with the velocity last seen (prediction only), and, knowing neither
image nor truth, the mean motion and the mean position of the training rows. A motion of one hand is (n, 3), of both hands
(n, 2, 3), left first; each hand is continued, moved and scored as its own, and a row's error is the mean over its hands.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from ops.evaluation.spatial import bootstrap_ci
from ops.tables import BOTH

GENERATION, PREDICTION = "instructional_motion_generation", "contextual_motion_prediction"
VELOCITY_STEPS = 3  # waypoint steps that the last velocity is the mean of
Motion = Float[np.ndarray, "n 3"] | Float[np.ndarray, "n 2 3"]


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


def truth(rows: pl.DataFrame) -> tuple[list[Motion], list[Motion]]:
    """Waypoints already seen and waypoints to produce, a row each."""
    seen, wanted = [], []
    for flat, context, side in rows.select("waypoints", "context_tokens", "side").iter_rows():
        step = (2, 3) if side == BOTH else (3,)
        points = np.array(flat, dtype=np.float64).reshape(-1, *step)
        num_seen = len(context) // math.prod(step)
        seen.append(points[:num_seen])
        wanted.append(points[num_seen:])
    return seen, wanted


def score(task: str, predicted: Sequence[np.ndarray], wanted: Sequence[np.ndarray], seed: int = 0) -> MotionScore:
    """predicted: of the truth's shapes, or both hands' waypoints in turns, as a model produces them.

    Raises ValueError for no rows, or for a motion of another length than asked.
    """
    sizes = [(np.size(p), np.size(w)) for p, w in zip(predicted, wanted, strict=True)]
    if not sizes or any(ours != theirs for ours, theirs in sizes):
        raise ValueError(f"motions and truth must have equal lengths and at least one row, got {sizes[:4]} numbers")
    pairs = [(np.reshape(p, np.shape(w)), w) for p, w in zip(predicted, wanted, strict=True)]
    errors = np.array([np.linalg.norm(p - w, axis=-1).mean() for p, w in pairs])
    final = np.array([np.linalg.norm(p[-1] - w[-1], axis=-1).mean() for p, w in pairs])
    shape = np.array([np.linalg.norm((p - p[0]) - (w - w[0]), axis=-1).mean() for p, w in pairs])
    return MotionScore(
        task, len(pairs), float(errors.mean()), bootstrap_ci(errors, seed), float(final.mean()), float(shape.mean())
    )


def constant_position(seen: Sequence[Motion], wanted: Sequence[Motion]) -> list[Motion]:
    """Stay at the last waypoint seen; where none was seen, at the true first one."""
    return [np.repeat((s[-1:] if len(s) else w[:1]), len(w), axis=0) for s, w in zip(seen, wanted, strict=True)]


def constant_velocity(seen: Sequence[Motion], wanted: Sequence[Motion]) -> list[Motion]:
    """Go on as in the last VELOCITY_STEPS steps seen; with fewer than two waypoints seen, stay."""
    out = []
    for start, s, w in zip(constant_position(seen, wanted), seen, wanted, strict=True):
        steps = min(VELOCITY_STEPS, len(s) - 1)
        velocity = (s[-1] - s[-1 - steps]) / steps if steps > 0 else np.zeros(w.shape[1:])
        out.append(start + np.multiply.outer(np.arange(1, len(w) + 1), velocity))
    return out


def mean_motion(train: pl.DataFrame, task: str, wanted: Sequence[Motion]) -> list[Motion]:
    """Mean training motion of the task, brought to the asked length by linear interpolation. Looks at no image.

    Raises ValueError where the task has no training row.
    """
    known = _training_motions(train, task)
    mean = {
        w.shape[1:]: np.mean([resampled(p, 32) for p in _of_as_many_hands(known, w)], axis=0) for w in _shapes(wanted)
    }
    return [resampled(mean[w.shape[1:]], len(w)) for w in wanted]


def mean_position(train: pl.DataFrame, task: str, wanted: Sequence[Motion]) -> list[Motion]:
    """Stay at the mean training waypoint of the task: the constant position of an answerer that looks at nothing.

    Raises ValueError where the task has no training row.
    """
    known = _training_motions(train, task)
    mean = {w.shape[1:]: np.concatenate(_of_as_many_hands(known, w)).mean(axis=0) for w in _shapes(wanted)}
    return [np.repeat(mean[w.shape[1:]][None], len(w), axis=0) for w in wanted]


def _training_motions(train: pl.DataFrame, task: str) -> list[Motion]:
    _, known = truth(train.filter(task=task))
    if not known:
        raise ValueError(f"no training row of task {task}: its mean needs one")
    return known


def _shapes(wanted: Sequence[Motion]) -> list[Motion]:
    """One motion of each number of hands."""
    return list({w.shape[1:]: w for w in wanted}.values())


def _of_as_many_hands(known: list[Motion], wanted: Motion) -> list[Motion]:
    """Training motions of as many hands as wanted; where there are none, every hand of theirs for every hand wanted."""
    same = [points for points in known if points.shape[1:] == wanted.shape[1:]]
    if same:
        return same
    single = [hand for points in known for hand in np.moveaxis(points.reshape(len(points), -1, 3), 1, 0)]
    return [
        np.broadcast_to(hand.reshape(len(hand), *[1] * (wanted.ndim - 2), 3), (len(hand), *wanted.shape[1:]))
        for hand in single
    ]


def resampled(points: Motion, num: int) -> Motion:
    old, new = np.linspace(0, 1, len(points)), np.linspace(0, 1, num)
    columns = [np.interp(new, old, column) for column in points.reshape(len(points), -1).T]
    return np.stack(columns, axis=1).reshape(num, *points.shape[1:])


def draw(predicted: Sequence[Motion], wanted: Sequence[Motion], titles: Sequence[str], path: Path) -> None:
    """Some motions over the truth: seen by the camera (x right, y down) and from above (x right, z forward). A dot is
    where a hand starts; predicted: as for `score`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

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
                for hand, path_m in enumerate(np.moveaxis(np.reshape(points, (len(wanted[column]), -1, 3)), 1, 0)):
                    axis.plot(path_m[:, 0], path_m[:, second], color=colour, label=None if hand else name)
                    axis.plot(*path_m[0, [0, second]], "o", color=colour, markersize=4)
            axis.set(xlabel="x, m (right)", ylabel=label)
            axis.set_aspect("equal", adjustable="datalim")
            axis.xaxis.set_major_locator(MaxNLocator(4))
            if row == 0:
                axis.invert_yaxis()
                axis.set_title(textwrap.fill(textwrap.shorten(titles[column], 70, placeholder=" ..."), 36), fontsize=7)
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=75)
