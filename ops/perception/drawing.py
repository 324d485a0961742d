"""Pictures people look at: hand skeletons on frames, contact sheets, depth maps. RGB uint8 arrays."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ops.hands.joints import BONE_RGB, BONES

TILE = (320, 240)  # width and height of a cut-out


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
    """Depth as colours, near = warm; grey where there is none. The range is the map's own 2nd to 98th percentile."""
    import matplotlib

    valid = np.isfinite(z)
    picture = np.full((*z.shape, 3), 128, np.uint8)
    if valid.any():
        low, high = np.percentile(z[valid], [2, 98])
        shade = 1 - np.clip((z - low) / max(high - low, 1e-9), 0, 1)
        colours = matplotlib.colormaps["turbo"](np.nan_to_num(shade))[..., :3]
        picture[valid] = (colours[valid] * 255).astype(np.uint8)
    return picture


def sheet(pictures: list[np.ndarray], captions: list[str], path: Path, columns: int = 4, width: int = 260) -> None:
    """A contact sheet as a PNG of a few hundred kB at most (palette of 160 colours)."""
    tiles = []
    for picture, caption in zip(pictures, captions, strict=True):
        image = Image.fromarray(picture)
        image = image.resize((width, round(width * image.height / image.width)), Image.Resampling.BILINEAR)
        tile = Image.new("RGB", (width, image.height + 14), "white")
        tile.paste(image, (0, 0))
        ImageDraw.Draw(tile).text((2, image.height + 1), caption[:44], fill="black")
        tiles.append(tile)
    columns = min(columns, len(tiles))
    height = max(tile.height for tile in tiles)
    page = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "white")
    for place, tile in enumerate(tiles):
        page.paste(tile, (place % columns * width, place // columns * height))
    page.quantize(160).save(path, optimize=True)
