"""The quality report of a release: every number on it against a count made here."""

import json
import re
from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ops import checks, tables
from ops.hand3d import audit, gallery, quality, tally, targets
from ops.hand3d.release.write import plain_schema
from ops.hand3d.tally import Tally, Totals
from ops.pipeline import output, run_stage
from ops.sources import manifest
from ops.stages import BY_NAME
from ops.store import Report
from tests.ops import release_world
from tests.ops.release_world import GAMMA, SHARDS, WORLDS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(manifest.READERS, "made", "tests.ops.release_world")
        path = release_world.make(tmp_path_factory.mktemp("made"))
        run_stage(path, release_world.settings(webdataset=False, lerobot=False), "hand3d_dataset")
        yield path


@pytest.fixture(scope="module")
def report(root):
    return Report.load(output(root, "hand3d_dataset"))


@pytest.fixture
def release(root, tmp_path):
    """The release's Parquet files, to be spoiled."""
    for path in (output(root, "hand3d_dataset") / "parquet").rglob("*.parquet"):
        there = tmp_path / path.relative_to(output(root, "hand3d_dataset"))
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes())
    return tmp_path


def inputs(root):
    return audit.inputs_of(lambda name: output(root, name), root, list(SHARDS))


def look(root, release, num=10_000):
    return audit.audit(release, inputs(root), GAMMA, num, 1)


def change(release, file, column, row, function):
    """Change one value of a released table."""
    path = release / "parquet" / file
    table = pl.read_parquet(path)
    values = table[column].to_list()
    values[row] = function(values[row])
    changed = table.with_columns(pl.Series(column, values, table.schema[column])).to_arrow(
        compat_level=pl.CompatLevel.oldest()
    )
    pq.write_table(changed.cast(plain_schema(changed.schema)), path)
    return table["row_id"][row]


def test_second_route_agrees_with_the_truth_and_sees_all_tasks(root):
    found = look(root, output(root, "hand3d_dataset"))
    assert found.problems == []
    rows = pl.concat([pl.read_parquet(p, columns=["task"]) for k in ("visual", "action") for p in (output(root, "hand3d_dataset") / "parquet" / k).glob("*.parquet")])  # fmt: skip
    assert found.checked == Counter(rows["task"])
    assert max(found.labels["hand_movement"]) < 1e-5
    assert max(found.labels["camera_movement"]) < 1e-5
    assert max(found.labels["motion_translation"]) < 1e-5


SPOILS = {
    "vector": ("visual/train-open.parquet", "vector", lambda v: [v[0] + 0.01, *v[1:]], "recomputed"),
    "direction": ("visual/train-open.parquet", "direction", lambda d: [-1 if d[0] == 1 else 1, *d[1:]], "direction"),
    "answer": ("visual/test-all.parquet", "answer", lambda _: "left, 9.99 m.", "the answer says"),
    "token": ("action/train-open.parquet", "target_tokens", lambda t: [*(t or [0] * 30)[:-1], 1], "token"),
    "waypoints": ("action/train-open.parquet", "waypoints", lambda w: [v + 0.002 for v in w], "off the wrist's own path"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILS)
def test_second_route_finds_a_spoiled_number(root, release, name):
    file, column, function, message = SPOILS[name]
    row_id = change(release, file, column, 0, function)
    problems = look(root, release).problems
    assert any(message in problem and row_id in problem for problem in problems), problems


def test_row_of_an_unknown_clip_is_a_problem(root, release):
    change(release, "visual/train-open.parquet", "clip_id", 0, lambda _: "made/z")
    assert any("not in raw_videos" in problem for problem in look(root, release).problems)


def test_check_blocks_on_disagreement(root):
    """The rows are spoiled upstream and released as they are: the checksums agree, the numbers do not."""
    settings = release_world.settings()
    made = checks.Made(root, settings, BY_NAME["hand3d_dataset"], "", Report())
    (check,) = (check for check in checks.checks_of("hand3d_dataset") if check.name == "second_route")
    assert check.blocking
    passed, detail = check.function(made)
    assert passed, detail
    path = output(root, "hand3d_dataset") / "parquet/visual/train-open.parquet"
    good = path.read_bytes()
    try:
        table = pq.read_table(path)
        moved = [[x + 0.05, y, z] for x, y, z in table["vector"].to_pylist()]
        place = table.column_names.index("vector")
        pq.write_table(table.set_column(place, "vector", pa.array(moved, table.schema.field("vector").type)), path)
        passed, detail = check.function(made)
    finally:
        path.write_bytes(good)
    assert not passed
    assert "recomputed" in detail


def test_sample_has_every_task_and_follows_from_ids_alone(root):
    path = output(root, "hand3d_dataset") / "parquet/visual/train-open.parquet"
    rows = pl.read_parquet(path)
    few = audit.sample(path, 6, 2, 1)
    assert Counter(few["task"]) == {task: max(2, round(6 * n / len(rows))) for task, n in Counter(rows["task"]).items()}
    assert audit.sample(path, 6, 2, 1).equals(few)
    assert not audit.sample(path, 6, 2, 2).equals(few)
    assert audit.sample(path, len(rows), 2, 1).equals(rows)


def test_distance_from_a_polyline_by_hand():
    line = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    assert audit._distance_m(np.array([0.5, 0.2, 0]), line) == pytest.approx(0.2)
    assert audit._distance_m(np.array([2.0, 1, 0]), line) == pytest.approx(1.0)
    assert audit._distance_m(np.array([0.0, 0, 3]), line[:1]) == pytest.approx(3.0)


def visual_rows(num, seed=0):
    rng = np.random.default_rng(seed)
    base = release_world.valid_row("visual_rows")
    rows = []
    for i in range(num):
        vector = rng.normal(0, 0.2, 3)
        rows.append(base | {"row_id": f"r{i}", "clip_id": f"c{i % 5}", "task": tables.VISUAL_TASKS[i % 4], "frames": [i, i + 1], "vector": vector, "distance_m": float(np.linalg.norm(vector)), "direction": np.sign(vector).astype(int), "question": f"q{i}", "side": "left" if i % 2 else None})  # fmt: skip
    return tables.frame("visual_rows", rows)


def total(*batches, kind="visual", near_m=0.01):
    counted = Tally(near_m, 42, 3)
    for batch in batches:
        counted.add(kind, batch)
    totals = Totals()
    totals.add(kind, json.loads(json.dumps(counted.facts())))
    return totals


def test_repeats_are_counted_by_how_alike_they_are():
    rows = visual_rows(40)
    same = rows.head(3).with_columns(row_id=pl.lit("again ") + pl.col("row_id"))
    asked_otherwise = same.with_columns(row_id=pl.lit("other ") + pl.col("row_id"), question=pl.lit("else?"))
    later = same.with_columns(row_id=pl.lit("later ") + pl.col("row_id"), frames=pl.lit([900, 901], pl.List(pl.Int32)))
    found = total(rows, same, asked_otherwise, later).repeats["visual"]
    # each of the three rows comes four times: twice alike, once asked otherwise, once about other frames
    assert found == {"exact": 3, "near": 6, "recurring": 9}
    moved = rows.head(3).with_columns(row_id=pl.lit("m ") + pl.col("row_id"), vector=pl.Series(rows["vector"].to_numpy()[:3] + 0.5).cast(pl.Array(pl.Float32, 3)))  # fmt: skip
    assert total(rows, moved).repeats["visual"]["near"] == 0


def test_motion_repeats_need_the_same_waypoints_in_the_same_order(root):
    rows = tables.read("action_rows", root / "data" / "hand3d_action")
    base = total(rows, kind="action").repeats["action"]
    assert base["exact"] == 0
    again = rows.with_columns(row_id=pl.lit("x") + pl.col("row_id"))
    assert total(rows, again, kind="action").repeats["action"]["exact"] == len(rows)
    backwards = again.with_columns(pl.col("waypoints").list.reverse(), context_tokens=pl.lit([], pl.List(pl.UInt16)))
    assert total(rows, backwards, kind="action").repeats["action"]["near"] == base["near"]


def test_tallies_do_not_depend_on_batches_and_add_up():
    rows = visual_rows(200)
    whole, cut = total(rows), total(*(rows.slice(i, 33) for i in range(0, 200, 33)))
    for name in ("rows", "clips", "contacts", "sides", "kinds", "repeats", "samples"):
        assert getattr(whole, name) == getattr(cut, name), name
    for task in tables.VISUAL_TASKS:
        part = rows.filter(task=task)
        np.testing.assert_array_equal(whole.distances[task], cut.distances[task])
        assert whole.distances[task].sum() == len(part)
        signs = np.array(part["direction"].to_list())
        assert whole.directions[task].tolist() == [*((signs[:, axis] == sign).sum() for axis in range(3) for sign in (-1, 1)), (signs == 0).all(1).sum()]  # fmt: skip
    assert whole.count(task="spatial_relation") == 50
    assert sum(whole.sides.values()) == 200


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_quantiles_of_a_histogram(q):
    values = np.random.default_rng(3).gamma(2.0, 0.1, 20_000)
    counts = np.histogram(values, tally.DISTANCE_EDGES_M)[0]
    assert tally.quantile_m(counts, tally.DISTANCE_EDGES_M, q) == pytest.approx(np.quantile(values, q), abs=0.004)
    assert np.isnan(tally.quantile_m([0, 0], np.array([0, 1, 2.0]), q))


def test_papers_tables_stand_beside_ours(report):
    rows = report.tables["Hand3D-visual by source, beside the paper's Table 1"]
    paper = {row[""]: row for row in rows}
    assert paper["Arctic"]["paper"] == 100_772
    assert paper["Arctic"]["paper %"] == "33.5"
    assert paper["total"]["paper"] == sum(targets.VISUAL_BY_SOURCE.values()) == 300_368
    assert paper["made"]["paper"] == "-"
    assert paper["made"]["ours"] == paper["total"]["ours"] == report.rows["visual_rows"] - _test_rows(report)
    action = {row[""]: row for row in report.tables["Hand3D-action by task, beside the paper's Table 2"]}
    assert action["total"]["paper"] == 1_030_850
    assert action["instructional_motion_generation"]["paper %"] == "59.2"


def _test_rows(report):
    return sum(1 for world in WORLDS.values() if world.clip.split == "test") * (5 * 7 + 1)


def test_beside_by_hand():
    rows = quality.beside({"A": 30, "B": 70}, {"A": 1, "new": 3})
    assert [(r[""], r["paper"], r["ours"], r["ours %"]) for r in rows] == [("B", 70, 0, "0.0"), ("A", 30, 1, "25.0"), ("new", "-", 3, "75.0"), ("total", 100, 4, "100.0")]  # fmt: skip


def test_every_reject_is_counted_with_its_stage_and_reason(root, report):
    paths = [p for p in (root / "data").rglob("rejects.parquet") if p.parts[-2] != "hand3d_dataset"]
    assert report.metrics["rejected_candidates"] == sum(len(pl.read_parquet(p)) for p in paths) == 2
    assert report.tables["rejected candidates by stage and reason"] == [{"stage": "objects", "reason": "no_object", "count": 2}]  # fmt: skip


def test_page_is_self_contained_and_shows_what_the_report_says(root, report):
    page = (output(root, "hand3d_dataset") / "quality.html").read_text()
    assert not re.findall(r"(?:src|href)='(?!data:|#)[^']*'", page)
    assert "http" not in re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", page)
    for title in report.tables:
        if "beside" in title:
            assert title.replace("'", "&#x27;") in page
    assert "100,772" in page
    assert "all agree" in page
    assert "made/x: objects" in page
    assert page.count("<figure>") == 7 - len(_missing(page))
    assert "no picture: its licence" in page or page.count("data:image/jpeg") == page.count("<figure>")
    for name in report.pictures.values():
        assert (output(root, "hand3d_dataset") / name).stat().st_size < 300_000


def _missing(page):
    return [task for task in (*tables.VISUAL_TASKS, *tables.ACTION_TASKS) if f"<h3>{task.replace('_', ' ')}</h3>" not in page]  # fmt: skip


def test_arrow_lies_where_the_hand_and_the_object_project(root):
    """The drawn picture differs from the frame along the arrow and at its ends, projected here by hand."""
    rows = tables.read("visual_rows", root / "data" / "hand3d_visual").filter(clip_id="made/a", task="spatial_relation")
    world = WORLDS["made/a"]
    for row in rows.head(4).iter_rows(named=True):
        drawn = gallery.draw(row, world.clip, {})
        assert drawn.picture is not None
        scale = gallery.HEIGHT / 336
        left = drawn.picture.width - round(448 * scale)
        ends = []
        for point in (row["start"], np.add(row["start"], row["vector"])):
            u, v = 400.0 * point[0] / point[2] + 224.0, 400.0 * point[1] / point[2] + 168.0
            ends.append((left + u * scale, v * scale))
        flat = np.array(release_world.colour("a", row["frames"][-1]))
        pixels = np.asarray(drawn.picture).astype(int)
        for share in (0.4, 0.5):
            u, v = (a + share * (b - a) for a, b in zip(*ends, strict=True))
            if 5 < u - left < 390 and 5 < v < 290:
                around = pixels[int(v) - 2 : int(v) + 3, int(u) - 2 : int(u) + 3].reshape(-1, 3)
                assert np.abs(around - flat).max() > 60, row["row_id"]


def test_gallery_prefers_other_clips_and_points_inside(root):
    rows = tables.read("visual_rows", root / "data" / "hand3d_visual").filter(task="hand_movement")
    clips = tables.read("clips", root / "data" / "raw_videos").with_columns(frames_allowed=pl.lit(True))
    chosen = gallery.choose(rows, clips, 2)
    assert len({row["clip_id"] for row in chosen}) == 2
    hidden = gallery.choose(rows, clips.with_columns(frames_allowed=pl.col("clip_id") == "made/c"), 1)
    assert hidden[0]["clip_id"] == "made/c"
    assert gallery.choose(rows.clear(), clips, 2) == []


def test_frame_that_cannot_be_read_is_said(root):
    row = tables.read("visual_rows", root / "data" / "hand3d_visual").row(0, named=True)
    from dataclasses import replace

    gone = replace(WORLDS[row["clip_id"]].clip, video=root / "gone.mp4")
    drawn = gallery.draw(row, gone, {})
    assert drawn.picture is None
    assert "gone.mp4" in drawn.why
    assert isinstance(gallery.draw(row, WORLDS[row["clip_id"]].clip, {}).picture, Image.Image)
