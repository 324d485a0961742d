"""Pictures of Hand3D for the asset page: questions drawn on their frames (paper Figure 3), histograms, trajectories."""

import textwrap
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw

from ops import contact_sheet, tables
from ops.hand3d.facts import PALM_JOINTS
from ops.rejects import ClipError
from ops.sources.base import Clip

_HEIGHT = 200
_PANEL = 300  # width of the text beside the frames, at least
_LINE = 16
_START, _END = (255, 210, 60), (240, 70, 70)


def questions(rows: pl.DataFrame, clips: dict[str, Clip], fits: pl.DataFrame, path: Path) -> None:
    """One row of each task: its last frames side by side, the measured displacement as a line, question and answer."""
    chosen = [_typical(rows.filter(task=task)) for task in tables.VISUAL_TASKS if (rows["task"] == task).any()]
    strips = [_strip(row, clips[str(row["clip_id"])], fits) for row in chosen]
    width = max(sum(image.width for image in images) for images, _ in strips)
    sheet = Image.new("RGB", (width + _PANEL, len(strips) * (_HEIGHT + 4)), "white")
    for place, (images, text) in enumerate(strips):
        left, top = 0, place * (_HEIGHT + 4)
        for image in images:
            sheet.paste(image, (left, top))
            left += image.width
        _write(sheet, text, left + 10, top)
    contact_sheet.save_small(sheet, path, Image.Quantize.FASTOCTREE)  # keeps thin red lines red


def _typical(rows: pl.DataFrame) -> dict[str, object]:
    """A row with several frames and a visible displacement, always the same one for the same rows."""
    ranked = rows.sort(
        [pl.col("frames").list.len().clip(upper_bound=2), "distance_m", "row_id"], descending=[True, True, False]
    )
    return ranked.row(len(ranked) // 4, named=True)


def _strip(row: dict[str, object], clip: Clip, fits: pl.DataFrame) -> tuple[list[Image.Image], list[str]]:
    """The last two frames of a row and the lines to write beside them."""
    frames = list(row["frames"])[-2:]  # type: ignore[call-overload]
    width = round(_HEIGHT * clip.camera.width / clip.camera.height)
    try:
        images = [Image.fromarray(frame.rgb) for frame in clip.frames(frames, (width, _HEIGHT))]
    except ClipError as error:  # a picture is no reason to lose the rows: say so where it would have been
        images = []
        row = row | {"question": f"(frames could not be read: {error}) {row['question']}"}
    line = _line_px(row, clip, fits)
    if images and line is not None:
        _draw_line(images[-1], line * [width / clip.camera.width, _HEIGHT / clip.camera.height])
    shown = "" if len(frames) == len(row["frames"]) else ", the last two shown"  # type: ignore[arg-type]
    said = [str(row["task"]), str(row["clip_id"]), f"frames {', '.join(map(str, row['frames']))}{shown}"]  # type: ignore[call-overload]
    said += [] if line is None else ["circle: from, dot: to"]
    return images, [*said, "", f"Q: {row['question']}", f"A: {row['answer']}"]


def _write(sheet: Image.Image, lines: list[str], left: int, top: int) -> None:
    """Lines in the sheet's free part to the right of `left`, wrapped."""
    characters = (sheet.width - left) // 7
    wrapped = [part for line in lines for part in (textwrap.wrap(line, characters) or [""])][: _HEIGHT // _LINE]
    ImageDraw.Draw(sheet).multiline_text((left, top + 4), "\n".join(wrapped), fill="black", font_size=12)


def _line_px(row: dict[str, object], clip: Clip, fits: pl.DataFrame) -> np.ndarray | None:
    """(2, 2) start and end of the row's vector in the last frame, pixels; None for the camera's movement."""
    if row["side"] is None:
        return None
    hand = fits.filter(
        pl.col("clip_id") == row["clip_id"], pl.col("frame") == list(row["frames"])[-1], pl.col("side") == row["side"]
    )  # type: ignore[call-overload]
    if hand.is_empty():
        return None
    vector = np.array(row["vector"], np.float64)
    joints = hand["joints_cam"].to_numpy().reshape(21, 3)
    palm = joints[list(PALM_JOINTS)].mean(axis=0)
    ends = (joints[0] - vector, joints[0]) if row["task"] == "hand_movement" else (palm, palm + vector)
    line = clip.camera.project(np.stack(ends).astype(np.float64))
    return line if np.isfinite(line).all() else None


def _draw_line(image: Image.Image, line: np.ndarray) -> None:
    draw = ImageDraw.Draw(image)
    (x0, y0), (x1, y1) = line.tolist()
    draw.line((x0, y0, x1, y1), fill=_END, width=2)
    draw.ellipse((x0 - 4, y0 - 4, x0 + 4, y0 + 4), outline=_START, width=2)
    draw.ellipse((x1 - 4, y1 - 4, x1 + 4, y1 + 4), fill=_END)


def histograms(rows: pl.DataFrame, path: Path) -> None:
    """Distances by task, and how often each direction is said."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    present = [task for task in tables.VISUAL_TASKS if (rows["task"] == task).any()]
    upper = float(np.quantile(rows["distance_m"].to_numpy(), 0.99))
    bins = np.linspace(0, max(upper, 0.05), 30).tolist()
    shown = [rows.filter(task=t)["distance_m"].clip(upper_bound=bins[-1]).to_numpy() for t in present]
    left.hist(shown, bins, stacked=True, label=present)
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="distance, m (last bin: and more)", ylabel="rows", title=f"{len(rows)} rows")
    left.legend(fontsize=7)
    _direction_bars(right, rows["direction"].to_numpy())
    figure.savefig(path, dpi=80)


def _direction_bars(axes, direction: np.ndarray) -> None:
    words = ("left", "right", "up", "down", "backward", "forward")
    shares = [float((direction[:, axis] == sign).mean()) for axis in range(3) for sign in (-1, 1)]
    axes.bar(words, shares, color=["#4477aa", "#4477aa", "#66aa55", "#66aa55", "#cc7744", "#cc7744"])
    axes.set(ylabel="share of rows", title="directions")
    axes.tick_params(axis="x", labelsize=8)


def trajectories(waypoints: list[np.ndarray], titles: list[str], path: Path) -> None:
    """Wrist paths from above (x, z) and from the side (z, y): start as a dot. waypoints: (n, 3) metres each."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    above, side = figure.subplots(1, 2)
    for points, title in zip(waypoints, titles, strict=True):
        (line,) = above.plot(points[:, 0], points[:, 2], label=textwrap.shorten(title, 64, placeholder=" ..."))
        above.plot(*points[0, [0, 2]], "o", color=line.get_color(), markersize=4)
        side.plot(points[:, 2], points[:, 1], color=line.get_color())
        side.plot(*points[0, [2, 1]], "o", color=line.get_color(), markersize=4)
    above.set(xlabel="x right, m", ylabel="z forward, m", title="from above")
    side.set(xlabel="z forward, m", ylabel="y down, m", title="from the side")
    side.invert_yaxis()
    for axes in (above, side):
        axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=80)


def motion_lengths(rows: pl.DataFrame, threshold_m: float, path: Path) -> None:
    """How far the wrist goes in a row, beside the threshold under which rows are left out."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for place, task in enumerate(tables.ACTION_TASKS):  # of the same motions often: thinner lines upon wider ones
        lengths = rows.filter(task=task)["displacement_m"].to_numpy()
        axes.stairs(*np.histogram(lengths, 30), label=task, linewidth=6 - 2.3 * place)
    axes.axvline(threshold_m, color="black", linestyle="--", label=f"left out below {threshold_m} m")
    axes.set(xlabel="path of the wrist, m", ylabel="rows")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=80)
