"""Contact sheets have no empty cell, whatever number and shape of pictures they are given."""

import numpy as np
import pytest
from PIL import Image

from ops import contact_sheet


@pytest.mark.parametrize("num", range(1, 14))
def test_every_row_is_full_and_few_pictures_are_left_out(num):
    columns, shown = contact_sheet.grid(num)
    assert shown % columns == 0
    assert num - shown <= (num > 4) * 2
    assert columns <= 5


def test_no_pictures_make_no_sheet(tmp_path):
    with pytest.raises(ValueError, match="1 picture or more, got 0"):
        contact_sheet.sheet([], [], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("num", [1, 3, 5, 7, 12])
def test_no_cell_is_empty(tmp_path, num):
    """Each cell's middle has its picture's colour: each picture has one of its own."""
    colours = [(20 * place + 10, 250 - 18 * place, 40) for place in range(num)]
    pictures = [np.full((30, 40 + place, 3), colour, np.uint8) for place, colour in enumerate(colours)]
    contact_sheet.sheet(pictures, [f"picture {place}" for place in range(num)], tmp_path / "sheet.png", width=80)
    columns, shown = contact_sheet.grid(num)
    with Image.open(tmp_path / "sheet.png") as found:
        page = np.asarray(found.convert("RGB"))
    height = page.shape[0] // (shown // columns)
    middles = [page[height // 3 + row * height, 40 + column * 80] for row in range(shown // columns) for column in range(columns)]  # fmt: skip
    nearest = [int(np.abs(np.array(colours) - middle).sum(axis=1).argmin()) for middle in middles]
    assert nearest == sorted(set(nearest)), "each another one, in their order"
    assert all(np.abs(np.array(colours)[k] - m).max() < 8 for k, m in zip(nearest, middles, strict=True))


def test_a_long_name_keeps_its_end(tmp_path):
    """What tells two clips apart stands at the end."""
    from PIL import ImageDraw

    pen = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    said = contact_sheet._shortened("a_source_of_a_long_name/session-12/camera-3/clip-0042 (train)", 120, pen)
    assert said.startswith("...")
    assert said.endswith("(train)")
    assert pen.textlength(said, font_size=12) <= 120
    assert contact_sheet._shortened("clip", 120, pen) == "clip"


def test_a_sheet_is_small_enough_for_an_asset_page(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 200, 260, 3), np.uint8)
    contact_sheet.sheet(list(noise), [""] * 12, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size <= contact_sheet.MAX_BYTES
