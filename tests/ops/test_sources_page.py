"""docs/sources.md is what the readers say, and each picture's skeleton lies on the hand that was drawn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ops.sources import page, round_trip
from ops.sources.example import SKIN
from ops.sources.manifest import READERS, reader
from tests.ops.toy_hands import write_toy_models

DOCS = Path(__file__).resolve().parents[2] / "docs"
KINDS = round_trip.kinds_with_examples()


def test_every_source_of_the_papers_has_a_reader_and_an_example():
    papers = ["arctic", "hoi4d", "fpha", "h2o", "oakink2", "taco", "dexycb", "egodex", "taste_rob"]
    papers += ["ego4d", "epic_kitchens", "egoexo4d", "ssv2", "vitra", "unihand", "lerobot_human"]
    assert set(papers) <= set(KINDS) <= set(READERS)


@pytest.mark.parametrize("kind", sorted(READERS))
def test_records_say_what_a_user_must_know(kind):
    source = reader(kind).SOURCE
    assert source.kind == kind
    assert min(len(source.title), len(source.licence), len(source.how_to_get)) >= 4
    assert isinstance(source.notes, tuple)
    assert all(note.endswith(".") for note in source.notes)
    assert source.url == "" or source.url.startswith("https://")
    assert not (source.redistributable and "ND" in source.licence.split("-"))


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("kind", KINDS)
def test_examples_read_back_with_their_hands_where_the_picture_has_them(kind, weights):
    shown = page.example(kind, weights / "hand_model")
    section = page.section(kind, shown)
    assert f"## {kind}" in section
    on_skin, looked_at = 0, 0
    for hand in shown.hands:
        frame = int(hand.frames[len(hand.frames) // 2])
        rgb = next(iter(shown.clip.frames([frame]))).rgb.astype(float)
        joints = hand.joints_cam[np.flatnonzero(hand.frames == frame)[0]]
        for u, v in shown.clip.camera.project(joints)[[1, 2, 5, 9, 13]].astype(int):
            colour = rgb[v, u] / max(rgb[v, u].sum(), 1)
            looked_at += 1
            on_skin += np.abs(colour - np.array(SKIN[hand.side]) / sum(SKIN[hand.side])).sum() < 0.1
    assert on_skin >= 0.7 * looked_at
    picture = page.picture(shown)
    assert picture.shape[1] == page.WIDTH


@pytest.mark.slow
@pytest.mark.weights
def test_the_page_is_up_to_date(tmp_path, weights):
    """`hand3d sources docs docs` makes it anew."""
    page.write(tmp_path, weights / "hand_model")
    assert (tmp_path / "sources.md").read_text() == (DOCS / "sources.md").read_text()
    for kind in KINDS:
        made = DOCS / page.PICTURES / f"{kind}.png"
        assert made.stat().st_size < 60_000
        assert Image.open(made).size[0] == page.WIDTH


def test_a_kind_without_a_layout_has_a_section(tmp_path):
    models = write_toy_models(tmp_path)
    assert page.example("folder", models) is None
    assert "Each video's side file states its licence." in page.section("folder", None)
    with pytest.raises(ValueError, match="no layout of its own"):
        round_trip.write("folder", tmp_path / "x", models)
