"""Pictures people look at: hand skeletons and boxes on frames, depth maps. RGB uint8 arrays."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ops.hands.joints import BONE_RGB, BONES

TILE = (320, 240)  # width and height of a cut-out
YELLOW = (255, 220, 0)


def hand(rgb: np.ndarray, joints_px: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The part of the picture around a hand, TILE in size, with its skeleton.

    joints_px: (21, 2), continuous pixels; bones with a NaN end are left out. visible: (21,); other joints are hollow.
    """
    scale, corner = _window(rgb.shape[1], rgb.shape[0], joints_px)
    shift = 0.5 * scale - 0.5 - scale * corner
    place = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    picture = cv2.warpAffine(rgb, place, TILE, flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    _skeleton(picture, (joints_px - corner) * scale - 0.5, visible)
    return picture


def _window(width: int, height: int, points: np.ndarray) -> tuple[float, np.ndarray]:
    """(scale, upper left corner in pixels) of a window of TILE's shape: the hands and as much again around them."""
    points = points[np.isfinite(points).all(axis=1)]
    points = np.clip(points, 0, [width, height]) if len(points) else np.array([[0.0, 0.0], [width, height]])
    low, high = points.min(axis=0), points.max(axis=0)
    wanted = max(3 * (high - low) / TILE)
    scale = 1 / min(max(wanted, 0.2), max(width / TILE[0], height / TILE[1]))
    span = np.array(TILE) / scale
    corner = np.clip(
        (low + high) / 2 - span / 2, np.minimum(0, [width, height] - span), np.maximum(0, [width, height] - span)
    )
    return float(scale), corner


def _skeleton(picture: np.ndarray, points: np.ndarray, visible: np.ndarray) -> None:
    """Drawn into the picture; points: (21, 2), integer-centred."""
    finite = np.isfinite(points).all(axis=1)
    whole = np.where(finite[:, None], np.clip(points, -1e4, 1e4), 0).round().astype(int)
    for (a, b), colour in zip(BONES, BONE_RGB, strict=True):
        if finite[a] and finite[b]:
            cv2.line(picture, whole[a].tolist(), whole[b].tolist(), colour, 2, cv2.LINE_AA)
    for point in range(21):
        if finite[point]:
            cv2.circle(picture, whole[point].tolist(), 2, (255, 255, 255), -1 if visible[point] else 1, cv2.LINE_AA)


def depth(z: np.ndarray) -> np.ndarray:
    """Depth as colours, near = warm; grey where there is none. The range is `depth_range`."""
    import matplotlib

    valid = np.isfinite(z)
    picture = np.full((*z.shape, 3), 128, np.uint8)
    if valid.any():
        low, high = depth_range(z)
        shade = 1 - np.clip((z - low) / max(high - low, 1e-9), 0, 1)
        colours = matplotlib.colormaps["turbo"](np.nan_to_num(shade))[..., :3]
        picture[valid] = (colours[valid] * 255).astype(np.uint8)
    return picture


def depth_range(z: np.ndarray) -> tuple[float, float]:
    """The map's 2nd and 98th percentile; NaN where it is empty."""
    valid = z[np.isfinite(z)]
    low, high = np.percentile(valid, [2, 98]) if valid.size else (np.nan, np.nan)
    return float(low), float(high)


def boxes(rgb: np.ndarray, named: Sequence[tuple[str, np.ndarray]], shown_width: int = 260) -> np.ndarray:
    """Boxes with their names on them, readable when the picture is shown `shown_width` pixels wide.

    named: name and x0, y0, x1, y1 in pixels.
    """
    image = Image.fromarray(rgb)
    pen, unit = ImageDraw.Draw(image), image.width / shown_width
    for _, box in named:
        pen.rectangle(tuple(np.sort(box.reshape(2, 2), axis=0).ravel()), outline=YELLOW, width=round(max(2 * unit, 1)))
    for name, box in named:
        width, height = pen.textlength(name, font_size=11 * unit) + 4 * unit, 13 * unit
        left = float(np.clip(box[0], 0, max(image.width - width, 0)))
        top = float(np.clip(box[1] - height, 0, image.height - height))
        pen.rectangle((left, top, left + width, top + height), fill=YELLOW)
        pen.text((left + 2 * unit, top), name, fill="black", font_size=11 * unit)
    return np.asarray(image)
