"""Pictures people look at: hand skeletons on frames, contact sheets, depth maps. RGB uint8 arrays."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ops.hands.joints import BONE_RGB, BONES


def hand(rgb: np.ndarray, joints_px: np.ndarray, visible: np.ndarray | None = None, width: int = 2) -> np.ndarray:
    """A copy of the picture with one hand's skeleton; joints that are not visible are drawn hollow.

    joints_px: (21, 2), continuous pixels; bones with a NaN end are left out.
    """
    picture = rgb.copy()
    points = np.where(np.isfinite(joints_px), joints_px - 0.5, -1e6).round().astype(int)
    for (a, b), colour in zip(BONES, BONE_RGB, strict=True):
        if np.isfinite(joints_px[[a, b]]).all():
            cv2.line(picture, points[a].tolist(), points[b].tolist(), colour, width, cv2.LINE_AA)
    for joint, point in enumerate(points):
        filled = visible is None or bool(visible[joint])
        cv2.circle(picture, point.tolist(), width + 1, (255, 255, 255), -1 if filled else 1, cv2.LINE_AA)
    return picture


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
