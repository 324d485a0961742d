"""The champion scored again: as recorded, drifted in either direction, with other bytes, and against a real registry."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ops import tables, tracking
from ops.config import load
from ops.evaluation import rescore
from ops.evaluation.champion import Rule
from tests.assets import fakes
from tests.ops import registry_world as world

RULE = Rule("progress", 0.9, 10, 0.0, 0.0, 0.0)
TAGS = {"score_name": "progress", "score_mean": "0.5", "tasks": "x/1", "content": "c"}


def trials(progress, policy="policy"):
    rows = [
        fakes.valid_row("trials") | {"policy": policy, "init_index": i, "seed": i, "progress": float(value)}
        for i, value in enumerate(progress)
    ]
    return tables.frame("trials", rows)


def judged(new, before, same=True, tags=TAGS):
    return rescore.judge(RULE, trials(new), None if before is None else trials(before), tags, "m", 3, same)


def test_equal_trials_are_as_recorded():
    found = judged([0, 1, 1, 0.5], [0, 1, 1, 0.5])
    assert (found.problems, found.changed, found.paired) == ([], 0, True)
    assert (found.difference_low, found.difference_high) == (0.0, 0.0)


def test_first_trials_are_compared_with_the_same_ones_and_not_with_the_mean_of_all():
    before = [1, 1, 0, 0, 0, 0]  # mean 1/3; the first two alone have 1
    found = judged([1, 1], before)
    assert (found.problems, found.recorded_mean) == ([], 1.0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_sure_change_in_either_direction_is_a_problem(sign):
    before = np.full(10, 0.5)
    new = before + sign * np.linspace(0.1, 0.4, 10)
    (problem,) = judged(new, before).problems
    assert "simulator, renderer or libraries have changed" in problem
    assert f"{sign * 0.25:+.2f}"[:4] in f"{new.mean() - 0.5:+.3f}"


def test_one_flipped_trial_of_three_is_counted_and_decides_nothing():
    found = judged([1, 1, 0], [1, 1, 1])
    assert (found.problems, found.changed) == ([], 1)


def test_bounds_agree_with_the_normal_ones():
    """A second route: many differences, mean -+ z times the standard error."""
    draw = np.random.default_rng(0)
    before, step = np.clip(draw.normal(0.5, 0.1, 400), 0, 1), draw.normal(0.02, 0.05, 400)
    found, apart = judged(before + step, before), step
    half = 1.2816 * apart.std() / np.sqrt(400)
    assert found.difference_low == pytest.approx(apart.mean() - half, abs=1e-3)
    assert found.difference_high == pytest.approx(apart.mean() + half, abs=1e-3)


def test_without_recorded_trials_the_recorded_mean_is_compared_and_it_says_so():
    found = judged([0.5, 0.4, 0.6, 0.5], None)
    assert (found.problems, found.paired, found.recorded_mean) == ([], False, 0.5)
    assert len(judged([0, 0, 0, 0.1], None).problems) == 1


def test_other_bytes_in_the_registry_are_a_problem_whatever_the_score():
    (problem,) = judged([1, 1], [1, 1], same=False).problems
    assert "not those that were registered" in problem


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return world.ready(tmp_path)


def test_champion_of_a_real_registry_is_loaded_scored_and_logged(root):
    settings = load(root / "params.yaml")
    version = world.register(root, 1.0, score_name="progress", score_mean="0.5", tasks="x/1")
    tracking.set_alias(root, world.MODEL, "champion", version)
    asked = []

    def play(policy, config, scratch):
        asked.append((sorted(path.name for path in policy.iterdir()), config.benchmark.num_trials, scratch.is_dir()))
        return trials([0.5, 0.4, 0.6])

    found = rescore.rescore(root, settings, 3, play)
    assert asked == [(["model.safetensors", "training.json"], 3, True)]
    assert (found.version, found.bytes_as_registered, found.problems) == (version, True, [])
    tags = tracking.version_tags(root, world.MODEL, version)
    assert (tags["rescore"], tags["rescore_run"]) == ("as recorded", found.mlflow_run_id)
    assert float(tags["rescore_mean"]) == pytest.approx(0.5)
    assert tracking.run_metrics(root, found.mlflow_run_id)["rescore/progress_mean"] == pytest.approx(0.5)
    assert tracking.run_tags(root, found.mlflow_run_id)["model_version"] == str(version)
    kept = tracking.fetch(root, found.mlflow_run_id, "trials.parquet", root / "got")
    assert len(pl.read_parquet(kept)) == 3
    assert not (root / "data" / ".scratch" / rescore.STAGE).exists()
    for path in (root / "mlruns").rglob("policy/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert "not those that were registered" in rescore.rescore(root, settings, 3, play).problems[0]
    assert "not those" in tracking.version_tags(root, world.MODEL, version)["rescore"]


def test_no_champion_is_said_and_no_registry_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = load(fakes.workspace(tmp_path) / "params.yaml")
    assert rescore.champion_version(tmp_path, settings) is None
    with pytest.raises(ValueError, match="alias champion: materialise champion first"):
        rescore.rescore(tmp_path, settings)
    assert not (tmp_path / "mlflow.db").exists()


def test_recorded_trials_count_only_for_the_policy_they_are_of(tmp_path):
    lock = {"stages": {"benchmark_scores": {"deps": [{"path": "data/posttrained_policies", "md5": "a.dir"}]}}}
    fakes.write(tmp_path / "dvc.lock", "schema: '2.0'\n" + _yaml(lock))
    table = tmp_path / "data" / "benchmark_scores" / "trials.parquet"
    table.parent.mkdir(parents=True)
    tables.write("trials", pl.concat([trials([1, 0]), trials([0, 0], "random")]), table)
    found = rescore.recorded_trials(tmp_path, {"dvc_md5": "a.dir"})
    assert found["progress"].to_list() == [1.0, 0.0]
    assert rescore.recorded_trials(tmp_path, {"dvc_md5": "b.dir"}) is None
    assert rescore.recorded_trials(tmp_path, {}) is None


def _yaml(value):
    import yaml

    return yaml.safe_dump(value)


def test_rescore_is_plain_numbers(tmp_path):
    found = judged([1, 0.5], [1, 0.5])
    assert json.loads(json.dumps(rescore.asdict(found)))["mean"] == 0.75
    assert replace(found, mlflow_run_id="x").mlflow_run_id == "x"
