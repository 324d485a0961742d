"""Promotion by the written rule, against a real embedded registry."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from ops import checks, tables, tracking
from ops.config import load
from ops.evaluation import champion
from ops.evaluation.champion import Decision, Interval, Rule
from ops.pipeline import run_stage
from ops.stages import BY_NAME
from ops.store import Report
from tests.assets import fakes
from tests.ops import registry_world as world

REPOSITORY = Path(__file__).parents[2]
RULE = Rule("progress", 0.9, 10, 0.0, 0.0, 0.0)


def trials(policy, random=0.1, mean_action=0.2, num=10, noise=0.05, seed=0):
    draw = np.random.default_rng(seed)
    means = {"policy": policy, "random": random, "mean_action": mean_action}
    rows = [
        fakes.valid_row("trials")
        | {"policy": name, "init_index": i, "seed": i, "suite": "libero_object", "progress": p}
        for name, mean in means.items()
        for i, p in enumerate(np.clip(mean + noise * draw.standard_normal(num), 0, 1))
    ]
    return tables.frame("trials", rows)


def test_clear_winner_has_no_reason_against_it():
    assert champion.judge(RULE, trials(0.8)) == []


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (trials(0.2, mean_action=0.2), "mean_action"),  # equal to a baseline
        (trials(0.05), "random"),  # worse than one
        (trials(0.8, num=9), "the rule needs 10"),
        (trials(0.25, noise=0.3, mean_action=0.2), "lower 90% bound"),  # better, but not surely
    ],
)
def test_doubtful_candidates_are_refused_with_the_reason(table, named):
    assert named in " ".join(champion.judge(RULE, table))


def test_pairs_are_of_equal_initial_states():
    table = trials(0.8)
    shuffled = table.sample(fraction=1, shuffle=True, seed=3)
    np.testing.assert_array_equal(
        champion.paired(table, "random", "progress"), champion.paired(shuffled, "random", "progress")
    )


def test_bound_agrees_with_the_normal_one():
    """A second route: for many values the bootstrap's bounds are mean -+ z times the standard error."""
    values = np.random.default_rng(0).normal(0.5, 0.2, 400)
    found = champion.interval(values, 0.9)
    half = 1.2816 * values.std() / np.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=1e-3)
    assert found.high == pytest.approx(values.mean() + half, abs=1e-3)


def test_champion_is_compared_only_where_that_means_something():
    tags = {"tasks": "libero_object/0", "score_name": "progress", "score_mean": "0.7"}
    score = Interval(0.6, 0.5, 0.7, 10)
    assert "0.600" in champion.against_champion(RULE, score, "libero_object/0", 3, tags)[0]
    assert champion.against_champion(replace(RULE, max_regression=0.2), score, "libero_object/0", 3, tags) == []
    assert "not comparable" in champion.against_champion(RULE, score, "libero_goal/0", 3, tags)[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"score": "luck"}, "score is one of"), ({"confidence": 1.5}, "between 0.5 and 1"), ({"margn": 1}, "unknown key")],
)
def test_bad_rules_are_refused(tmp_path, change, named):
    rule = yaml.safe_load((REPOSITORY / champion.RULE_FILE).read_text(encoding="utf-8"))
    fakes.write(tmp_path / "promotion.yaml", yaml.safe_dump(rule | change))
    with pytest.raises(ValueError, match=named):
        champion.read_rule(tmp_path / "promotion.yaml")


def test_rule_of_the_repository_holds_the_tested_values():
    assert champion.read_rule(REPOSITORY / champion.RULE_FILE) == RULE


@pytest.mark.parametrize("block", [True, False])
def test_a_refusal_blocks_where_params_say_so(tmp_path, block):
    settings = load(REPOSITORY / "params.yaml")
    settings = replace(settings, champion=replace(settings.champion, block_refused=block))
    for promoted in (True, False):
        folder = tmp_path / "data" / "champion"
        folder.mkdir(parents=True, exist_ok=True)
        Decision(promoted, ["0.1 below the champion"], "m", 2, 1, 1).save(folder)
        found = checks.evaluate(checks.Made(tmp_path, settings, BY_NAME["champion"], "", Report()))
        gate = next(finding for finding in found if finding.name == "promotion_gate")
        assert (gate.passed, gate.blocking) == (promoted, block)
        assert gate.detail == "0.1 below the champion"


def test_registry_over_four_policies(tmp_path, monkeypatch):
    """First is promoted, a worse one refused, a better one promoted, the same one again keeps its version."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = world.ready(tmp_path)
    settings = load(root / "params.yaml")
    name = settings.champion.model_name

    def decide(weight, score):
        folder = root / "data" / "posttrained_policies"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weight": np.full(2, weight, np.float32)}, folder / "model.safetensors")
        with tracking.start_run(root, "posttrained_policies", settings.stage3, {}) as run:
            pass
        fakes.write(folder / "training.json", json.dumps({"mlflow_run_id": run.run_id, "weight": weight}))
        scores = root / "data" / "benchmark_scores"
        scores.mkdir(exist_ok=True)
        tables.write("trials", trials(score), scores / "trials.parquet")
        report = run_stage(root, settings, "champion")
        decision = Decision.load(root / "data" / "champion")
        assert report.metrics["promoted"] == decision.promoted
        assert tracking.get_alias(root, name, "challenger") is None
        assert tracking.version_tags(root, name, decision.version)["gate"] == (
            "passed" if decision.promoted else "refused"
        )
        return decision

    first = decide(1.0, 0.6)
    assert (first.promoted, first.champion_before, first.champion_after) == (True, None, 1)
    worse = decide(2.0, 0.4)
    assert (worse.promoted, worse.version, worse.champion_after) == (False, 2, 1)
    assert "the champion (version 1) has 0." in worse.reasons[0]
    better = decide(3.0, 0.8)
    assert (better.promoted, better.champion_before, better.champion_after) == (True, 1, 3)
    again = run_stage(root, settings, "champion")
    assert again.metrics["version"] == 3
    assert tracking.versions(root, name) == [1, 2, 3]
    useless = trials(0.1)
    tables.write("trials", useless, root / "data" / "benchmark_scores" / "trials.parquet")
    run_stage(root, settings, "champion")
    fallen = Decision.load(root / "data" / "champion")
    assert not fallen.promoted
    assert fallen.champion_after is None
    assert any("none any more" in reason for reason in fallen.reasons)
