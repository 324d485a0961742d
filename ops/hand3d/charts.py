"""Charts of a release for its quality report, from tallies (ops.hand3d.tally). Metres."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ops.contact_sheet import save_small
from ops.hand3d.tally import DISTANCE_EDGES_M, LENGTH_EDGES_M, WORDS, Totals
from ops.tables import ACTION_TASKS, VISUAL_TASKS

if TYPE_CHECKING:
    from ops.hand3d.gallery import Drawn

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#999999",
)  # apart for colour-blind readers
_SHEET_WIDTH = 1280


def distances(totals: Totals, path: Path) -> None:
    """How far things are (visual) and how far wrists go (action): share of each task's rows in each bin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _shares(left, totals, VISUAL_TASKS, DISTANCE_EDGES_M, "distance, m", "Hand3D-visual")
    _shares(right, totals, ACTION_TASKS, LENGTH_EDGES_M, "path of the wrist, m", "Hand3D-action")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _shares(axes, totals: Totals, tasks: Sequence[str], edges: np.ndarray, label: str, title: str) -> None:
    """Bins beyond the last even one are drawn as one, "and more"."""
    even = int(np.flatnonzero(~np.isclose(np.diff(edges), edges[1] - edges[0]))[0])
    shown = [*edges[: even + 1], edges[even] + (edges[1] - edges[0])]
    widths = (6, 3.6, 1.4) if tasks == ACTION_TASKS else (1.6,) * len(tasks)  # action tasks share motions: upon another
    for task, colour, width in zip(tasks, COLOURS, widths, strict=False):
        counts = np.asarray(totals.distances.get(task, []), float)
        if counts.sum():
            shares = np.append(counts[:even], counts[even:].sum()) / counts.sum()
            axes.stairs(100 * shares, shown, label=f"{task} ({int(counts.sum()):,})", color=colour, linewidth=width)
    axes.set(xlabel=f"{label} (last bin: and more)", ylabel="% of the task's rows", title=title)
    _legend(axes)


def directions(totals: Totals, path: Path) -> None:
    """How often each direction word is said, of each task's rows; a row may say up to three."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    words = (*WORDS, "none")
    present = [task for task in VISUAL_TASKS if task in totals.directions]
    for place, task in enumerate(present):
        shares = 100 * np.asarray(totals.directions[task]) / max(totals.count(task=task), 1)
        width = 0.8 / len(present)
        axes.bar(
            np.arange(len(words)) + (place - (len(present) - 1) / 2) * width,
            shares,
            width,
            label=task,
            color=COLOURS[place],
        )
    axes.set_xticks(range(len(words)), words)
    axes.set(ylabel="% of the task's rows", title="Directions in Hand3D-visual")
    _legend(axes)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _legend(axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def sheet(drawn: "Sequence[Drawn]", path: Path) -> None:
    """The first picture of each task with its question and answer, small enough for an asset page; none, no file."""
    from PIL import Image

    first: dict[str, Drawn] = {}
    for item in drawn:
        if item.picture is not None:
            first.setdefault(str(item.row["task"]), item)
    if not first:
        return
    rows = [
        [_strip(item, _SHEET_WIDTH // len(row)) for item in row]
        for wide in (True, False)
        for row in _rows([item for item in first.values() if _wide(item) == wide], 2 if wide else 3)
    ]
    page = Image.new("RGB", (_SHEET_WIDTH, sum(max(s.height for s in row) for row in rows)), "white")
    top = 0
    for row in rows:
        for column, strip in enumerate(row):
            page.paste(strip, (column * (_SHEET_WIDTH // len(row)), top))
        top += max(strip.height for strip in row)
    save_small(page, path, Image.Quantize.FASTOCTREE)


def _wide(item: "Drawn") -> bool:
    """Whether two such pictures fill a row of the sheet; otherwise it takes three."""
    return item.picture is not None and item.picture.width > 1.6 * item.picture.height


def _rows(items: "Sequence[Drawn]", across: int) -> "list[Sequence[Drawn]]":
    return [items[i : i + across] for i in range(0, len(items), across)]


def _strip(item: "Drawn", width: int):
    import textwrap

    from PIL import Image, ImageDraw

    from ops.hand3d.quality_page import words_of

    question, answer = words_of(item.row)
    lines = [str(item.row["task"])]
    lines += [*textwrap.wrap(f"Q: {question}", width // 7)[:3], *textwrap.wrap(f"A: {answer}", width // 7)[:2]]
    picture = item.picture.copy()
    picture.thumbnail((width - 10, 300))
    strip = Image.new("RGB", (width, picture.height + 16 * len(lines) + 24), "white")
    strip.paste(picture, (0, 4))
    ImageDraw.Draw(strip).multiline_text((2, picture.height + 8), "\n".join(lines), fill="black", font_size=13)
    return strip
