"""Rows drawn on their frames, as in the paper's Figure 3: where the answer's numbers lie in the picture.

A visual row shows its frames; in the last one a circle where the vector starts, an arrow to where it ends, and the object's
box. A motion row shows its waypoints from dark to bright. A triad gives the camera axes with the vector in 3-D, since
forward and backward cannot be seen in a picture. Points are camera coordinates, metres; drawn at twice the size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from jaxtyping import Float

from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError
from ops.sources.base import Clip
from ops.tables import BOTH

if TYPE_CHECKING:
    from PIL import Image

HEIGHT = 300
_OVER = 2  # supersampling
_START, _END, _OBJECT, _HAND = (255, 209, 71), (255, 77, 77), (86, 204, 242), (122, 230, 140)
_PATH = {"context": ((120, 130, 150), (205, 212, 224)), "left": ((20, 90, 60), (120, 255, 160)), "right": ((120, 30, 10), (255, 200, 60))}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Drawn:
    """A row and its picture; None where its frames may not be shown or cannot be read (`why`)."""

    row: dict[str, object]
    picture: "Image.Image | None"
    why: str = ""


def choose(rows: pl.DataFrame, clips: pl.DataFrame, num: int) -> list[dict[str, object]]:
    """`num` rows, from as many sources and then clips as possible, in their order; the ones that show something first.

    clips: clip_id, fx, fy, cx, cy, width, height, frames_allowed.
    """
    known = {row["clip_id"]: row for row in clips.iter_rows(named=True)}
    ranked = sorted(rows.iter_rows(named=True), key=lambda row: not _tells(row, known[row["clip_id"]]))
    chosen: list[dict[str, object]] = []
    while ranked and len(chosen) < num:
        sources = [row["source"] for row in chosen]
        used = [row["clip_id"] for row in chosen]
        place = min(range(len(ranked)), key=lambda i: (not _tells(ranked[i], known[ranked[i]["clip_id"]]), sources.count(ranked[i]["source"]), used.count(ranked[i]["clip_id"]), i))  # fmt: skip
        chosen.append(ranked.pop(place))
    return chosen


def _tells(row: dict, clip: dict) -> bool:
    """Whether the frame may be shown and the row's points lie in it."""
    if not clip["frames_allowed"]:
        return False
    points = _points(row)
    if points is None:
        return True
    px = _camera(clip).project(points)
    inside = (px > 4).all() and (px < [clip["width"] - 4, clip["height"] - 4]).all()
    return bool(inside and np.linalg.norm(px[-1] - px[0]) > 0.06 * clip["width"])


def _camera(clip: dict) -> PinholeCamera:
    return PinholeCamera(*(clip[name] for name in ("fx", "fy", "cx", "cy", "width", "height")))


def _points(row: dict) -> Float[np.ndarray, "n 3"] | None:
    """Start and end of a visual row's vector, or a motion row's waypoints; None for a camera's movement."""
    if "waypoints" in row:
        return np.array(row["waypoints"], float).reshape(-1, 3)
    if row["start"] is None:
        return None
    return np.array([row["start"], np.add(row["start"], row["vector"])], float)


def draw(row: dict[str, object], clip: Clip, boxes: dict[str, np.ndarray]) -> Drawn:
    """boxes: name -> x0, y0, x1, y1 of objects in the row's last frame, pixels of the clip's camera."""
    from PIL import Image

    frames = [row["frame"]] if "waypoints" in row else list(row["frames"])  # type: ignore[call-overload]
    width = round(HEIGHT * clip.camera.width / clip.camera.height)
    try:
        shots = [Image.fromarray(f.rgb) for f in clip.frames(sorted(set(frames)), (_OVER * width, _OVER * HEIGHT))]
    except ClipError as error:
        return Drawn(row, None, str(error))
    canvas = _Canvas(shots[-1], clip.camera.resized(_OVER * width, _OVER * HEIGHT), 17 if len(shots) == 2 else 13)
    if "waypoints" in row:
        _motion(canvas, row)
    else:
        _vector(canvas, row, boxes)
    sheet = _beside(shots[:-1], frames, canvas)
    return Drawn(row, sheet.resize((sheet.width // _OVER, sheet.height // _OVER), Image.Resampling.LANCZOS))


def _beside(earlier: list, frames: list[int], last: "_Canvas") -> "Image.Image":
    """The last frame, and to its left a column of the earlier ones."""
    from PIL import Image

    width, height = last.image.size
    size = (width // max(len(earlier), 1), height // max(len(earlier), 1))
    sheet = Image.new("RGB", (width + (size[0] if earlier else 0), height), (24, 27, 32))
    for place, shot in enumerate(earlier):
        thumb = _Canvas(shot.resize(size, Image.Resampling.LANCZOS), None, last.font_px)
        thumb.pill(f"frame {frames[place]}", (8, 8), centre=False)
        sheet.paste(thumb.image, (0, place * size[1]))
    last.pill(f"frame {frames[-1]}", (8, 8), centre=False)
    sheet.paste(last.image, (size[0] if earlier else 0, 0))
    return sheet


class _Canvas:
    """One picture at twice its size, and the camera that sees it."""

    def __init__(self, image: "Image.Image", camera: PinholeCamera | None, font_px: int):
        from PIL import ImageDraw, ImageFont

        self.image, self.camera, self.font_px = image, camera, font_px
        self.pen = ImageDraw.Draw(image, "RGBA")
        self.font = ImageFont.load_default(font_px * _OVER)

    def px(self, points: Float[np.ndarray, "n 3"]) -> list[tuple[float, float]]:
        assert self.camera is not None
        return [(float(u), float(v)) for u, v in self.camera.project(points)]

    def arrow(self, a: tuple[float, float], b: tuple[float, float], colour, width: float = 3) -> None:
        """Line with a head at b, on a dark edge that keeps it visible."""
        a, b = np.array(a), np.array(b)
        length = float(np.linalg.norm(b - a))
        if not np.isfinite(length) or length < 2:
            return
        along = (b - a) / length
        head = min(12.0 * _OVER, 0.6 * length)
        across = np.array([-along[1], along[0]]) * head * 0.45
        neck = b - along * head
        for colour_, extra in (((0, 0, 0, 150), 3 * _OVER), ((*colour, 255), 0)):
            self.pen.line([*a, *neck], fill=colour_, width=round(width * _OVER + extra))
            grow = 1 + extra / head
            tip = [
                b + along * extra,
                neck + across * grow - along * extra / 2,
                neck - across * grow - along * extra / 2,
            ]
            self.pen.polygon([tuple(p) for p in tip], fill=colour_)

    def dot(self, at: tuple[float, float], colour, radius: float = 5, hollow: bool = False) -> None:
        if not np.isfinite(at).all():
            return
        (x, y), r = at, radius * _OVER
        self.pen.ellipse([x - r - 2, y - r - 2, x + r + 2, y + r + 2], outline=(0, 0, 0, 160), width=2 * _OVER)
        if hollow:
            self.pen.ellipse([x - r, y - r, x + r, y + r], outline=(*colour, 255), width=2 * _OVER)
        else:
            self.pen.ellipse([x - r, y - r, x + r, y + r], fill=(*colour, 255))

    def pill(self, text: str, at: tuple[float, float], colour=(255, 255, 255), centre: bool = True) -> None:
        """Text on a dark ground, kept inside the picture."""
        if not np.isfinite(at).all():
            return
        left, top, right, bottom = self.pen.textbbox((0, 0), text, font=self.font)
        pad = 4 * _OVER
        w, h = right - left + 2 * pad, bottom - top + 2 * pad
        x = at[0] - w / 2 if centre else at[0]
        x = min(max(x, 2), self.image.width - w - 2)
        y = min(max(at[1], 2), self.image.height - h - 2)
        self.pen.rounded_rectangle([x, y, x + w, y + h], 4 * _OVER, fill=(16, 18, 24, 190))
        self.pen.text((x + pad - left, y + pad - top), text, fill=colour, font=self.font)


def _vector(canvas: _Canvas, row: dict, boxes: dict[str, np.ndarray]) -> None:
    points = _points(row)
    ends = canvas.px(points) if points is not None else []
    _triad(canvas, np.array(row["vector"], float), ends)
    if row["object"] in boxes:
        _box(canvas, boxes[row["object"]])
    if points is not None:
        start, end = ends
        canvas.arrow(start, end, _END)
        canvas.dot(start, _START, hollow=True)
        below = 1 if start[1] >= end[1] else -1  # labels on the far sides of the arrow
        moved = row["task"] == "hand_movement"
        canvas.pill(f"{row['side']} hand" + (" was here" if moved else ""), _off(start, below), _START)
        canvas.pill(f"{'now' if moved else row['object']}, {row['distance_m']:.2f} m", _off(end, -below), _END)
    if row["rotation"] is not None:
        degrees = np.degrees(np.linalg.norm(row["rotation"]))
        text = f"camera: {row['distance_m']:.2f} m, {degrees:.0f} degrees"
        canvas.pill(text, (canvas.image.width / 2, canvas.image.height - 30 * _OVER), _END)


def _off(at: tuple[float, float], side: int) -> tuple[float, float]:
    """Where a label's top goes: below the point, or above it."""
    return (at[0], at[1] + (9 * _OVER if side > 0 else -36 * _OVER))


def _box(canvas: _Canvas, box: np.ndarray) -> None:
    camera = canvas.camera
    if not np.isfinite(box).all() or camera is None:
        return
    x0, y0, x1, y1 = (float(v) for v in box)
    canvas.pen.rectangle([x0, y0, x1, y1], outline=(0, 0, 0, 130), width=4 * _OVER)
    canvas.pen.rectangle([x0, y0, x1, y1], outline=(*_OBJECT, 255), width=2 * _OVER)


def _motion(canvas: _Canvas, row: dict) -> None:
    points = _points(row)
    assert points is not None
    sides = ["left", "right"] if row["side"] == BOTH else [row["side"]]
    _triad(canvas, points[-len(sides)] - points[0], canvas.px(points))
    seen = len(row["context_tokens"]) // 3 if row["target_text"] is None else 0
    for number, side in enumerate(sides):
        line, context = canvas.px(points[number :: len(sides)]), seen // len(sides)
        _path(canvas, line[: context + 1], _PATH["context"])
        _path(canvas, line[context:], _PATH[side])
        canvas.dot(line[0], _START, 4, hollow=True)
        canvas.pill(f"{side} wrist", _off(line[0], 1), _START)
        canvas.dot(line[-1], _END, 4)


def _path(canvas: _Canvas, line: list[tuple[float, float]], colours) -> None:
    """Waypoints as a line from dark to bright, a dot each."""
    for i in range(len(line) - 1):
        share = i / max(len(line) - 2, 1)
        colour = tuple(round(a + (b - a) * share) for a, b in zip(*colours, strict=True))
        if np.isfinite([*line[i], *line[i + 1]]).all():
            canvas.pen.line([*line[i], *line[i + 1]], fill=(0, 0, 0, 130), width=6 * _OVER)
            canvas.pen.line([*line[i], *line[i + 1]], fill=(*colour, 255), width=3 * _OVER)
            canvas.pen.ellipse([line[i][0] - 5, line[i][1] - 5, line[i][0] + 5, line[i][1] + 5], fill=(*colour, 255))


_OBLIQUE = np.array([[1.0, 0.0], [0.0, 1.0], [0.45, -0.45]])
"""Of the triad: x to the right, y down, z (forward) up and to the right, shortened."""


def _triad(canvas: _Canvas, vector: np.ndarray, busy: list[tuple[float, float]]) -> None:
    """Camera axes in a lower corner, away from the points in `busy`, and the direction of the vector among them."""
    size = 34 * _OVER
    span, height = 2.95 * size, 2.8 * size
    middle = np.median([u for u, _ in busy]) if busy else 0.0
    x0 = 6 * _OVER if middle > canvas.image.width / 2 else canvas.image.width - span - 6 * _OVER
    y0 = canvas.image.height - height - 6 * _OVER
    origin = np.array([x0 + 1.2 * size, y0 + 1.2 * size])
    canvas.pen.rounded_rectangle([x0, y0, x0 + span, y0 + height], 6 * _OVER, fill=(16, 18, 24, 170))
    for axis, name in enumerate(("right", "down", "forward")):
        tip = origin + _OBLIQUE[axis] * size
        canvas.pen.line([*origin, *tip], fill=(170, 178, 190, 255), width=_OVER)
        where = tip + np.array([(-4, 2), (-14, 2), (2, -14)][axis]) * _OVER
        canvas.pen.text(tuple(where), name, fill=(200, 206, 216, 255), font=canvas.font.font_variant(size=10 * _OVER))
    length = np.linalg.norm(vector)
    if length > 1e-6:
        canvas.arrow(tuple(origin), tuple(origin + vector / length @ _OBLIQUE * size * 1.05), _END, 2.5)
