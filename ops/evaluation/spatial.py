"""Hand3D-test scores: distance error in metres, direction score of three (paper 4.4, Table 8, Figure 8).

Direction: each axis counts 0 or 1, so a row scores 0 to 3. Distance: mean |predicted - true|. Rules the paper leaves
open, so that silence never pays (ASSUMED): a direction that cannot be read scores 0; a distance that cannot be read
counts as an answer of 0 m, an error of the full true distance. Both are counted, and the error over readable answers
alone is reported beside.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from ops import tables
from ops.hand3d import directions
from ops.hand3d.parsing import Answer, parse

NUM_RESAMPLES = 1000
NUM_BARS = 12  # of the histogram of distance errors, and one for larger ones
Z_95 = 1.959964


@dataclass(frozen=True, eq=False)
class SpatialScore:
    """Of one answerer on rows of Hand3D-test. *_ci: 95% bootstrap interval over rows."""

    num_rows: int
    distance_error_m: float
    distance_error_ci_m: tuple[float, float]
    distance_error_read_m: float
    """Over readable distances alone; NaN if there are none."""
    direction_score: float
    """Mean number of axes right, 0 to 3."""
    direction_score_ci: tuple[float, float]
    num_unread_distances: int
    num_unread_directions: int
    by_task: tuple[dict[str, object], ...]
    """A row a task: task, rows, distance_error_m, direction_score."""
    distance_errors_m: Float[np.ndarray, " rows"]
    direction_scores: Int[np.ndarray, " rows"]

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Numbers for a report or a tracker."""
        return {
            f"{prefix}distance_error_m": self.distance_error_m,
            f"{prefix}distance_error_low_m": self.distance_error_ci_m[0],
            f"{prefix}distance_error_high_m": self.distance_error_ci_m[1],
            f"{prefix}direction_score": self.direction_score,
            f"{prefix}direction_score_low": self.direction_score_ci[0],
            f"{prefix}direction_score_high": self.direction_score_ci[1],
            **(
                {f"{prefix}distance_error_read_m": self.distance_error_read_m}
                if self.num_unread_distances < self.num_rows
                else {}
            ),
            f"{prefix}unread_distances": float(self.num_unread_distances),
            f"{prefix}unread_directions": float(self.num_unread_directions),
        }


def score(rows: pl.DataFrame, answers: Sequence[str], seed: int = 0) -> SpatialScore:
    """Score free-text answers, one a row of visual_rows, in order. Raises ValueError for no rows or another count."""
    if not len(rows) or len(rows) != len(answers):
        raise ValueError(f"{len(rows)} rows and {len(answers)} answers: give one answer a row, and at least one")
    read = [parse(text, _names(name)) for text, name in zip(answers, rows["object"], strict=True)]
    errors_m = distance_errors_m(rows["distance_m"].to_numpy().astype(np.float64), read)
    axes_right = direction_scores(rows["direction"].to_numpy(), read)
    readable = np.array([answer.distance_m is not None for answer in read])
    return SpatialScore(
        num_rows=len(rows),
        distance_error_m=float(errors_m.mean()),
        distance_error_ci_m=bootstrap_ci(errors_m, seed),
        distance_error_read_m=float(errors_m[readable].mean()) if readable.any() else float("nan"),
        direction_score=float(axes_right.mean()),
        direction_score_ci=bootstrap_ci(axes_right, seed),
        num_unread_distances=int((~readable).sum()),
        num_unread_directions=sum(answer.direction is None for answer in read),
        by_task=_by_task(rows["task"], errors_m, axes_right),
        distance_errors_m=errors_m,
        direction_scores=axes_right,
    )


def gain(before: SpatialScore, after: SpatialScore, seed: int = 0) -> dict[str, float]:
    """What pretraining changed, row by row: mean of after minus before with its 95% paired bootstrap interval.

    Raises ValueError where the two are not of the same rows.
    """
    if before.num_rows != after.num_rows:
        raise ValueError(f"a paired comparison needs the same rows, got {before.num_rows} and {after.num_rows}")
    found = {}
    for name, values in (
        ("distance_error_m", after.distance_errors_m - before.distance_errors_m),
        ("direction_score", after.direction_scores - before.direction_scores),
    ):
        low, high = bootstrap_ci(values, seed)
        found |= {f"hand3d_test/gain/{name}": float(values.mean()), f"hand3d_test/gain/{name}_low": low}
        found |= {f"hand3d_test/gain/{name}_high": high}
    return found


def _names(name: str | None) -> tuple[str, ...]:
    return (name,) if name else ()


def distance_errors_m(true_m: np.ndarray, read: Sequence[Answer]) -> np.ndarray:
    """(rows,) |predicted - true|; an unreadable distance counts as 0 m."""
    predicted = np.array([0.0 if answer.distance_m is None else answer.distance_m for answer in read])
    return np.abs(predicted - true_m)


def direction_scores(true: np.ndarray, read: Sequence[Answer]) -> np.ndarray:
    """(rows,) number of axes right; an unreadable direction has none, not even where nothing is to be said."""
    return np.array(
        [
            0 if answer.direction is None else sum(int(a == b) for a, b in zip(answer.direction, truth, strict=True))
            for answer, truth in zip(read, true.tolist(), strict=True)
        ],
        np.int64,
    )


def bootstrap_ci(values: np.ndarray, seed: int, num_resamples: int = NUM_RESAMPLES) -> tuple[float, float]:
    """95% percentile interval of the mean, rows drawn with replacement."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _by_task(task: pl.Series, errors_m: np.ndarray, axes_right: np.ndarray) -> tuple[dict[str, object], ...]:
    table = pl.DataFrame({"task": task, "error": errors_m, "axes": axes_right})
    grouped = table.group_by("task").agg(
        rows=pl.len(), distance_error_m=pl.col("error").mean(), direction_score=pl.col("axes").mean()
    )
    return tuple(grouped.sort("task").to_dicts())


def constant_answers(train: pl.DataFrame, test: pl.DataFrame) -> list[str]:
    """The baseline that looks at no image: for each task the training rows' median distance and commonest direction.

    A task without training rows gets those of all training rows. Written as text, read by the same parser.
    """
    if train.is_empty():
        raise ValueError("the constant answer needs at least one training row")
    overall = _constant(train)
    by_task = {
        task: _constant(train.filter(task=task)) for task in tables.VISUAL_TASKS if (train["task"] == task).any()
    }
    return [by_task.get(task, overall) for task in test["task"]]


def _constant(train: pl.DataFrame) -> str:
    values, counts = np.unique(train["direction"].to_numpy(), axis=0, return_counts=True)
    x, y, z = values[np.argmax(counts)].tolist()
    return f"{directions.phrase((x, y, z))}, {float(train['distance_m'].median()):.2f} m"


def plot(scores: dict[str, SpatialScore], path: Path) -> None:
    """Figure 8: histograms of direction scores and of distance errors as shares of the rows, one colour an answerer.

    Whiskers are 95% intervals of each share (Wilson), the legend gives means with their bootstrap intervals.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges_m = error_edges_m(scores.values())
    for place, (name, result) in enumerate(scores.items()):
        shift = (place - (len(scores) - 1) / 2) * 0.8 / len(scores)
        counts = np.bincount(result.direction_scores, minlength=4)
        said = f"{name}: {result.direction_score:.2f} [{result.direction_score_ci[0]:.2f}, {result.direction_score_ci[1]:.2f}] of 3"
        _bars(left, np.arange(4) + shift, 0.8 / len(scores), counts, f"C{place}", said)
        counts = np.histogram(np.minimum(result.distance_errors_m, edges_m[-1]), edges_m)[0]
        width_m = (edges_m[1] - edges_m[0]) * 0.8 / len(scores)
        centres_m = (edges_m[:-1] + edges_m[1:]) / 2 + shift * (edges_m[1] - edges_m[0])
        low_m, high_m = result.distance_error_ci_m
        _bars(right, centres_m, width_m, counts, f"C{place}", f"{name}: {result.distance_error_m:.3f} [{low_m:.3f}, {high_m:.3f}] m")  # fmt: skip
    left.set(xlabel="direction score", ylabel="share of rows", xticks=range(4), ylim=(0, 1))
    right.set(xlabel=f"distance error, m (above {edges_m[-2]:.2f} in the last bar)", ylabel="share of rows")
    for axes in (left, right):
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=80)


def error_edges_m(scores: Iterable[SpatialScore]) -> Float[np.ndarray, " edges"]:
    """Bins of equal width up to the 95th percentile of the widest, and one more for all that is above."""
    longest_m = max(float(np.quantile(s.distance_errors_m, 0.95)) for s in scores)
    edges_m = np.linspace(0, max(longest_m, 0.05), NUM_BARS + 1)
    return np.append(edges_m, 2 * edges_m[-1] - edges_m[-2])


def _bars(axes, centres: np.ndarray, width: float, counts: np.ndarray, colour: str, label: str) -> None:
    low, high = wilson(counts, int(counts.sum()))
    shares = counts / counts.sum()
    axes.bar(centres, shares, width, color=colour, label=label)
    axes.errorbar(
        centres, shares, np.maximum([shares - low, high - shares], 0), fmt="none", ecolor="black", elinewidth=0.7
    )


def wilson(counts: Int[np.ndarray, " n"], num: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """95% Wilson intervals of the shares counts / num."""
    share, z2 = counts / num, Z_95**2
    middle = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = Z_95 * np.sqrt(share * (1 - share) / num + z2 / (4 * num * num)) / (1 + z2 / num)
    return middle - half, middle + half
