"""Roll-back of the champion on a real embedded registry: where it may go, what it leaves behind, what follows."""

import json
import shutil

import polars as pl
import pytest

from ops import config, tables, tracking
from ops.__main__ import main
from ops.evaluation import champion, registry
from ops.evaluation.champion import Decision
from ops.pipeline import run_stage
from tests.ops import registry_world as world
from tests.ops.test_champion import trials


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return world.ready(tmp_path)


def decide(root, weight, score):
    """Train (a policy of this weight), score, and let the real stage decide."""
    world.policy(root, weight)
    scores = root / "data" / "benchmark_scores"
    scores.mkdir(exist_ok=True)
    tables.write("trials", trials(score), scores / "trials.parquet")
    run_stage(root, config.load(root / "params.yaml"), "champion")
    return Decision.load(root / "data" / "champion")


def champion_now(root):
    return tracking.get_alias(root, world.MODEL, "champion")


def test_rollback_goes_back_step_by_step_and_what_was_taken_out_stays_out(root, capsys):
    for weight, score in ((1.0, 0.5), (2.0, 0.6), (3.0, 0.8)):
        assert decide(root, weight, score).promoted
    assert main(["rollback", "--reason", "drops the bowl", "--root", str(root)]) == 0
    assert capsys.readouterr().out.strip() == f"champion of {world.MODEL}: version 3 -> 2"
    assert tracking.version_tags(root, world.MODEL, 3)[registry.WITHDRAWN] == "drops the bowl"
    again = decide(root, 3.0, 0.8)  # the same policy judged again: by its score it would win
    assert (again.version, again.promoted, again.champion_after) == (3, False, 2)
    assert "was rolled back (drops the bowl)" in " ".join(again.reasons)
    # the next candidate is compared with version 2 (0.6), not with version 3 (0.8)
    assert registry.rollback(root, world.MODEL, "worse outdoors").after == 1
    refused, promoted = decide(root, 4.0, 0.45), decide(root, 5.0, 0.55)
    assert "the champion (version 1) has 0." in " ".join(refused.reasons)
    assert (promoted.promoted, promoted.champion_before, promoted.champion_after) == (True, 1, 5)
    assert registry.rollback(root, world.MODEL, "it was the gripper", to=3).after == 3  # a person may bring it back
    assert registry.WITHDRAWN not in tracking.version_tags(root, world.MODEL, 3)
    kinds = [(event.kind, event.version, event.before, event.after) for event in registry.events(root, world.MODEL)]
    assert kinds == [
        ("promoted", 1, None, 1),
        ("promoted", 2, 1, 2),
        ("promoted", 3, 2, 3),
        ("rolled_back", 2, 3, 2),
        ("refused", 3, 2, 2),
        ("rolled_back", 1, 2, 1),
        ("refused", 4, 1, 1),
        ("promoted", 5, 1, 5),
        ("rolled_back", 3, 5, 3),
    ]
    assert main(["versions", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "rolled back: worse outdoors" in said
    assert "champion 5 -> 3" in said


def test_rollback_refuses_what_could_not_serve(root, monkeypatch, capsys):
    first, second, third = (world.register(root, weight) for weight in (1.0, 2.0, 3.0))
    failed = world.register(root, 4.0, gate="refused")
    tracking.set_alias(root, world.MODEL, "champion", third)

    def refused(*arguments):
        assert main(["rollback", "--reason", "x", *arguments, "--root", str(root)]) == 1
        assert champion_now(root) == third, "a refused roll-back changes nothing"
        assert registry.WITHDRAWN not in tracking.version_tags(root, world.MODEL, third)
        return capsys.readouterr().err

    assert "never passed the gate (gate: refused)" in refused("--to", str(failed))
    assert "is the champion already" in refused("--to", str(third))
    assert "has the versions 1, 2, 3, 4, not 9" in refused("--to", "9")
    with pytest.raises(ValueError, match="needs a reason"):
        registry.rollback(root, world.MODEL, " ")
    sources = {version: tracking.client(root).get_model_version(world.MODEL, str(version)).source for version in (1, 2)}
    folders = {version: root / source.removeprefix(root.as_uri() + "/") for version, source in sources.items()}
    (folders[second] / "model.safetensors").write_bytes(b"other")
    assert "are not those that were registered" in refused()
    shutil.rmtree(folders[first].parent)
    assert "are gone" in refused("--to", str(first))


def test_rollback_without_a_registry_or_an_earlier_champion(root, capsys):
    world.register(root, 1.0)
    tracking.set_alias(root, world.MODEL, "champion", 1)
    with pytest.raises(ValueError, match="no earlier champion"):
        registry.rollback(root, world.MODEL, "x")
    (root / "mlflow.db").unlink()
    assert main(["rollback", "--reason", "x", "--root", str(root)]) == 1
    assert "there is no registry at" in capsys.readouterr().err
    assert not (root / "mlflow.db").exists(), "asking made no empty one"


def test_a_champion_moved_while_another_is_judged_is_not_overrun(root, monkeypatch):
    decide(root, 1.0, 0.5)
    decide(root, 2.0, 0.6)
    judge = champion.judge

    def meanwhile(rule, table):
        registry.rollback(root, world.MODEL, "meanwhile")
        return judge(rule, table)

    monkeypatch.setattr(champion, "judge", meanwhile)
    with pytest.raises(ValueError, match="was changed while version 3 was judged"):
        decide(root, 3.0, 0.9)
    assert champion_now(root) == 1
    assert tracking.get_alias(root, world.MODEL, "challenger") is None


def test_events_are_whole_json_of_bounded_size(root):
    version = world.register(root, 1.0)
    event = registry.note(root, world.MODEL, registry.REFUSED, version, None, "r" * 10_000)
    tags = tracking.version_tags(root, world.MODEL, version)
    (kept,) = [json.loads(value) for name, value in tags.items() if name.startswith(registry.PREFIX)]
    assert len(kept["reason"]) == registry.MAX_REASON
    assert pl.Series([kept["at"]]).str.to_datetime().item() is not None
    assert registry.events(root, world.MODEL) == [event]
