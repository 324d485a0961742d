"""Hand3D's sampling: quotas against a second route, rows even over clips, the paper's counts at full size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from scipy.optimize import linprog

from ops import tables
from ops.config import Hand3DActionConfig, Hand3DVisualConfig
from ops.hand3d import dry_run, full_size, sampling, targets
from tests.ops import hand3d_world as made
from tests.ops.test_hand3d_action import build as build_action
from tests.ops.test_hand3d_visual import build as build_visual


def most(available, by_source, by_task):
    """Largest sum of a matrix within its cells, rows and columns: the transportation problem as a linear program."""
    sources, tasks = available.shape
    rows = np.kron(np.eye(sources), np.ones(tasks))
    columns = np.kron(np.ones(sources), np.eye(tasks))
    bounds = [(0, n) for n in available.reshape(-1)]
    found = linprog(-np.ones(sources * tasks), np.vstack([rows, columns]), [*by_source, *by_task], bounds=bounds)
    return round(-found.fun)


def first_step(available, by_source, by_task):
    """What `allocate` takes under both targets, before what is missing is given to others."""
    quota = np.floor(sampling._fitted(available, by_source, by_task)).astype(np.int64)
    sampling._complete(quota, available, by_source - quota.sum(1), by_task - quota.sum(0))
    return quota


@pytest.mark.parametrize("seed", range(30))
def test_quotas_are_as_large_as_the_targets_allow(seed):
    rng = np.random.default_rng(seed)
    sources, tasks = rng.integers(1, 7), rng.integers(1, 5)
    available = rng.integers(0, 400, (sources, tasks)) * (rng.random((sources, tasks)) < 0.8)
    by_source, by_task = rng.integers(0, 600, sources), rng.integers(0, 900, tasks)
    quota = first_step(available, by_source, by_task)
    assert (quota >= 0).all()
    assert (quota <= available).all()
    assert (quota.sum(1) <= by_source).all()
    assert (quota.sum(0) <= by_task).all()
    assert quota.sum() == most(available, by_source, by_task)
    whole = sampling.allocate(available, by_source, by_task)
    assert (whole <= available).all()
    assert whole.sum(0).tolist() == np.minimum(by_task, available.sum(0)).tolist()


def test_enough_of_everything_meets_both_tables_exactly():
    for name in ("visual", "action"):
        paper = targets.paper(name)
        by_source, by_task = np.array(list(paper.by_source.values())), np.array(list(paper.by_task.values()))
        assert by_source.sum() == by_task.sum()
        available = np.full((len(by_source), len(by_task)), 2 * by_task.max())
        quota = sampling.allocate(available, by_source, by_task)
        assert quota.sum(1).tolist() == by_source.tolist()
        assert quota.sum(0).tolist() == by_task.tolist()
        exact = np.outer(by_source, by_task) / by_task.sum()
        assert np.abs(quota - exact).max() < 20  # and in proportion


def test_the_papers_totals():
    assert targets.paper("visual").num_rows == 300_368
    assert targets.paper("action").num_rows == 1_030_850
    small = targets.paper("visual", 1000)
    assert sum(small.by_source.values()) == sum(small.by_task.values()) == 1000
    assert abs(small.by_task["task_completion"] - 687) <= 1


def counted(**rows):
    """source__task=available -> the table that plans start from."""
    cells = [(*name.split("__"), num) for name, num in rows.items()]
    return pl.DataFrame(cells, schema=["source", "task", "available"], orient="row")


def test_missing_sources_are_made_up_for_by_the_others_and_it_is_said():
    target = targets.Targets({"a": 60, "b": 40}, {"x": 70, "y": 30})
    plan = sampling.plan_of(counted(A__x=500, A__y=500, kitchen__x=100, kitchen__y=50), target)
    got = dict(plan.group_by("source").agg(pl.col("rows").sum()).iter_rows())
    assert sum(got.values()) == 100
    assert got["A"] > 60
    assert got["kitchen"] > 0
    notes = " ".join(sampling.explain(plan, target))
    assert "100 of 100 rows wanted" in notes
    assert "Missing: b" in notes
    assert "A, kitchen" in notes
    short = sampling.plan_of(counted(A__x=20, A__y=500), target)
    assert short["rows"].to_list() == [20, 30]  # nothing is left out to keep proportions, no task goes over its target
    assert "x 20 of 70" in " ".join(sampling.explain(short, target))


def many_rows(seed=0, num=3000):
    rng = np.random.default_rng(seed)
    clip = rng.geometric(0.05, num)  # few clips have most rows
    source = np.where(clip % 3 == 0, "Arctic", "H2O")
    task = rng.choice(tables.VISUAL_TASKS, num, p=[0.3, 0.5, 0.15, 0.05])
    return pl.DataFrame({
        "row_id": [f"{s}/{c}:{t}:{i}" for i, (s, c, t) in enumerate(zip(source, clip, task, strict=True))],
        "clip_id": [f"{s}/{c}" for s, c in zip(source, clip, strict=True)], "source": source, "task": task,
    })  # fmt: skip


def test_rows_are_even_over_clips_and_do_not_depend_on_order():
    rows, target = many_rows(), targets.paper("visual", 300)
    chosen = sampling.choose(rows, target, 42)
    assert len(chosen.row_id) == 300
    again = sampling.choose(rows.sample(fraction=1, shuffle=True, seed=5), target, 42)
    assert chosen.row_id.equals(again.row_id)
    assert not chosen.row_id.equals(sampling.choose(rows, target, 43).row_id)
    kept = rows.join(chosen.row_id, on="row_id")
    for (source, task), there in rows.group_by("source", "task"):
        taken = dict(kept.filter(source=source, task=task).group_by("clip_id").len().iter_rows())
        most_taken = max(taken.values(), default=0)
        for clip, num in there.group_by("clip_id").len().iter_rows():  # who gives less than the most has no more
            assert taken.get(clip, 0) >= min(num, most_taken - 1)


def test_more_videos_change_little():
    rows, target = many_rows(num=3000), targets.paper("visual", 300)
    more = pl.concat([rows, many_rows(seed=9, num=60).with_columns(row_id="new/" + pl.col("row_id"))])
    before, after = (set(sampling.choose(r, target, 42).row_id["row_id"]) for r in (rows, more))
    assert len(before & after) > 250


def test_clips_are_even_over_sources_scenes_and_tasks():
    rng = np.random.default_rng(0)
    num = 6000
    source = rng.choice(["A", "B", "C"], num, p=[0.9, 0.09, 0.01])
    about = pl.DataFrame({
        "clip_id": [f"{i:05d}" for i in range(num)], "source": source, "subject": rng.choice(["x", "y"], num, p=[0.95, 0.05]),
        "task": rng.choice(["put", "turn"], num, p=[0.8, 0.2]), **dict.fromkeys(tables.VISUAL_TASKS, [10] * num),
    })  # fmt: skip
    chosen = about.join(sampling.choose_clips(about, 300, None, 42), on="clip_id")
    of_c = int((source == "C").sum())
    assert of_c < 100
    got = dict(chosen.group_by("source").len().iter_rows())
    assert got == {"C": of_c, "A": (300 - of_c + 1) // 2, "B": (300 - of_c) // 2}
    cells = chosen.filter(source="A").group_by("subject", "task").len()["len"]
    assert cells.max() - cells.min() <= 1
    target = targets.Targets(
        {"a": 100, "b": 5000, "c": 0}, dict(zip(tables.VISUAL_TASKS, [51, 51, 2499, 2499], strict=True))
    )
    more = about.join(sampling.choose_clips(about, 300, target, 42), on="clip_id")
    assert (
        more.filter(source="B").height * 10 >= 2450 > (more.filter(source="B").height - 1) * 10
    )  # as many as it needs


@pytest.fixture
def shards(tmp_path):
    worlds = [made.make_world(name, seed) for name, seed in (("a", 1), ("b", 2), ("c", 3))]
    for shard, some in (("one", worlds[:2]), ("two", worlds[2:])):
        for name, build in (("visual", build_visual), ("action", build_action)):
            folder = tmp_path / name / shard
            folder.mkdir(parents=True)
            tables.write(f"{name}_rows", build(some)[0], folder / f"{name}_rows.parquet")
    return tmp_path


def test_rows_of_all_shards_are_read_through_the_sampling(shards):
    clips = pl.DataFrame({"clip_id": ["made/a", "made/b", "made/c"], "subject": ["", "", ""]})
    everything = tables.read("visual_rows", shards / "visual")
    assert sampling.visual_rows(shards / "visual", clips, Hand3DVisualConfig()).equals(everything)
    config = Hand3DVisualConfig(targets="paper", num_rows=60, num_clips=2)
    chosen = sampling.visual_rows(shards / "visual", clips, config)
    assert len(chosen) <= 60
    assert chosen["clip_id"].n_unique() == 2
    assert chosen.join(everything, on="row_id", how="anti").is_empty()
    action = sampling.action_rows(shards / "action", Hand3DActionConfig(targets="paper", num_rows=12))
    assert len(action) == 12
    with pytest.raises(ValueError, match="give 'paper', or null"):
        sampling.action_rows(shards / "action", Hand3DActionConfig(targets="papper"))
    with pytest.raises(FileNotFoundError, match="run its stage first"):
        sampling.action_rows(shards / "nothing", Hand3DActionConfig())


def test_shares_of_motions_are_counted_as_sampled_out():
    worlds = [made.make_world("a", 1, seconds=60.0)]
    everything, _ = build_action(worlds)
    rows, rejected = build_action(
        worlds, Hand3DActionConfig(waypoint_hz=5.0, prediction_share=0.5, translation_share=0.0)
    )
    left_out = rejected.filter(reason="sampled_out")
    assert len(rows) + len(left_out) == len(everything)
    assert rows.filter(task="motion_translation").is_empty()
    share = (
        rows.filter(task="contextual_motion_prediction").height
        / everything.filter(task="contextual_motion_prediction").height
    )
    assert 0.3 < share < 0.7
    assert rows.equals(everything.join(rows.select("row_id"), on="row_id", how="semi"))
    with pytest.raises(ValueError, match="give 0 to 1"):
        build_action(worlds, Hand3DActionConfig(translation_share=1.5))


def test_dry_run_plans_the_papers_counts():
    """From metadata of nine sources at full size: every category within 1% of the paper's (here: exactly)."""
    for name, plan in dry_run.plan().items():
        assert plan["rows"].sum() == targets.paper(name).num_rows
        for line in sampling.beside_paper(plan, name):
            assert abs(line["rows"] / line["paper_rows"] - 1) <= 0.01, line
        assert len(sampling.explain(plan, targets.paper(name))) == 1  # nothing had to be done instead


def test_metadata_says_what_the_generator_makes(tmp_path):
    """Rows promised by metadata are the rows made of such clips."""
    clips = full_size.metadata(3).group_by("source", maintain_order=True).head(2)
    promised = full_size.rows_there_are(clips, full_size.VISUAL)
    made_ = dry_run.visual_shard(tmp_path / "v", clips)
    assert made_.rows == pytest.approx(promised.select(pl.sum_horizontal(tables.VISUAL_TASKS).sum()).item(), rel=0.05)
    action = full_size.metadata(3, "action").group_by("source", maintain_order=True).head(25)
    motions = full_size.motions_there_are(action, full_size.ACTION)["available"].sum()
    assert dry_run.action_shard(tmp_path / "a", action).rows == pytest.approx(motions, rel=0.2)
    dry_run.action_shard(tmp_path / "b", action)
    assert (tmp_path / "a/action_rows.parquet").read_bytes() == (tmp_path / "b/action_rows.parquet").read_bytes()


def test_batches_do_not_change_rows(tmp_path, monkeypatch):
    from ops.hand3d import action

    worlds = [made.make_world(name, seed) for name, seed in (("a", 1), ("b", 2), ("c", 3))]
    whole, _ = build_action(worlds)
    clips = [world.clip for world in worlds]
    small = [list(batch) for batch in action.batches(clips, 150)]
    assert [len(batch) for batch in small] == [2, 1]
    parts = [
        action.build(batch, made.fits(worlds), Hand3DActionConfig(waypoint_hz=5.0), made.poses_of).rows
        for batch in small
    ]
    assert pl.concat(parts).equals(whole)


def test_paper_configuration_is_the_dry_runs():
    path = Path(dry_run.__file__).parents[1] / "configs" / "paper.yaml"
    paper = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert replace(Hand3DVisualConfig(), **paper["hand3d_visual"]) == full_size.VISUAL
    assert replace(Hand3DActionConfig(), **paper["hand3d_action"]) == full_size.ACTION
