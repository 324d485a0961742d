"""Contact sheets of a shard for its asset page: equal cells, none of them empty. RGB uint8 pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

MAX_BYTES = 290_000  # what an asset page still shows
TALLEST = 1.25  # height of a cell over its width; what is taller gets dark sides
_CAPTION = 17  # height in pixels of a line below a cell
_DARK = (24, 27, 32)


def sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    path: Path,
    width: int = 260,
    columns: Sequence[int] = (4, 5, 3),
) -> None:
    """PNG with a caption below each picture. Pictures that would leave the last row half empty are left out, evenly.

    pictures: (h, w, 3) each. width: of a cell, pixels; its height follows from the median shape. columns: allowed, the
    first is liked best.
    """
    across, count = grid(len(pictures), columns)
    picks = np.linspace(0, len(pictures) - 1, count).round().astype(int)
    shape = float(np.median([picture.shape[0] / picture.shape[1] for picture in pictures]))
    cell = (width, round(width * min(shape, TALLEST)))
    page = Image.new("RGB", (across * width, count // across * (cell[1] + _CAPTION)), "white")
    pen = ImageDraw.Draw(page)
    for place, pick in enumerate(picks):
        left, top = place % across * width, place // across * (cell[1] + _CAPTION)
        fitted = ImageOps.pad(Image.fromarray(pictures[pick]), cell, Image.Resampling.BILINEAR, color=_DARK)
        page.paste(fitted, (left, top))
        pen.text((left + 3, top + cell[1] + 1), _shortened(captions[pick], width - 6, pen), fill="black", font_size=12)
    save_small(page, path)


def grid(num: int, columns: Sequence[int] = (4, 5, 3)) -> tuple[int, int]:
    """(columns, pictures shown) of full rows: as many pictures as possible; fewer than a row are all shown in one. Raises
    ValueError for none."""
    if num < 1:
        raise ValueError(f"a contact sheet shows 1 picture or more, got {num}: draw none where nothing is to be seen")
    across = num if num < columns[0] else max(columns, key=lambda count: num // count * count)
    return across, num // across * across


def _shortened(text: str, width: int, pen: ImageDraw.ImageDraw) -> str:
    """With its begin left out where it is too long for the cell: names differ at their ends."""
    if pen.textlength(text, font_size=12) <= width:
        return text
    while text and pen.textlength(f"...{text}", font_size=12) > width:
        text = text[1:]
    return f"...{text}"


def save_small(page: Image.Image, path: Path, kind: Image.Quantize = Image.Quantize.MEDIANCUT) -> None:
    """PNG in as many colours as MAX_BYTES hold; in half the size where 32 are too many."""
    for colours in (256, 128, 64, 32):
        page.quantize(colours, kind, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return
    save_small(page.reduce(2), path, kind)
