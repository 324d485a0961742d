"""The registry's journal on the page of the asset `champion`: once each, and moves that nobody wrote down."""

import dagster as dg
import pytest

from dagster_project import definitions, registry_events
from ops import config, lineage_record, tracking
from ops.evaluation import registry
from tests.assets import fakes
from tests.ops import registry_world as world

STALE = {
    "dagster/data_version": "abc.dir",
    "dagster/code_version": "code",
    "dagster/input_data_version/benchmark_scores": "scores.dir",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fakes.workspace(tmp_path)
    fakes.install(monkeypatch, tmp_path)
    return world.store(tmp_path)


def look(root, instance, suspect=""):
    """One tick: what it reports, written into the instance as the daemon does."""
    found, suspect, _ = registry_events.look(instance, world.MODEL, root, suspect)
    for event in found:
        instance.report_runless_asset_event(event)
    return [
        (event.metadata[registry_events.KIND].value, event.metadata["registry/reason"].value) for event in found
    ], suspect


def promote(root, weight):
    version = world.register(root, weight)
    before = tracking.get_alias(root, world.MODEL, "champion")
    tracking.set_alias(root, world.MODEL, "champion", version)
    registry.note(root, world.MODEL, registry.PROMOTED, version, before, "met every rule")
    return version


def test_each_event_is_reported_once_and_moves_by_hand_are_noticed(root):
    with dg.DagsterInstance.ephemeral() as instance:
        promote(root, 1.0)
        promote(root, 2.0)
        assert look(root, instance) == ([("promoted", "met every rule")] * 2, "")
        assert look(root, instance) == ([], "")
        registry.rollback(root, world.MODEL, "drops the bowl")
        assert look(root, instance)[0] == [("rolled_back", "drops the bowl")]
        newest = instance.get_latest_materialization_event(dg.AssetKey("champion")).asset_materialization
        assert newest.metadata[registry_events.AFTER].value == 1
        assert "drops the bowl" in newest.metadata["table/versions"].value
        tracking.set_alias(root, world.MODEL, "champion", 2)  # in MLflow's page
        found, suspect = look(root, instance)
        assert found == [], "a roll-back in the making looks the same"
        assert look(root, instance, suspect)[0][0][0] == "moved_by_hand"
        assert look(root, instance, suspect) == ([], "")
        tracking.delete_alias(root, world.MODEL, "champion")
        found, suspect = look(root, instance)
        assert look(root, instance, suspect)[0][0][0] == "moved_by_hand"
        promote(root, 3.0)
        assert look(root, instance) == ([("promoted", "met every rule")], "")


def test_what_a_run_of_dagsters_reported_itself_is_not_said_twice(root):
    with dg.DagsterInstance.ephemeral() as instance:
        version = promote(root, 1.0)
        of_run = dg.AssetMaterialization("champion", metadata={"metric/version": float(version)}, tags=STALE)
        instance.report_runless_asset_event(of_run)
        assert look(root, instance) == ([], "")
        registry.note(root, world.MODEL, registry.REFUSED, version, version, "scored anew, by dvc repro")
        assert look(root, instance)[0] == [("refused", "scored anew, by dvc repro")]
        newest = instance.get_latest_materialization_event(dg.AssetKey("champion")).asset_materialization
        assert {key: newest.tags[key] for key in STALE} == STALE, "nothing became stale by it"


def test_page_shows_the_lineage_of_the_present_champion(root, monkeypatch):
    version = promote(root, 1.0)
    columns = {name: ["x"] for name in lineage_record.COLUMNS} | {"licence": ["consent on file"], "clip_id": ["one/a"]}
    flags = {name: [True] for name in ("has_labels", "noncommercial", "redistributable")}
    clips = lineage_record.pl.DataFrame(columns | flags, schema=lineage_record.COLUMNS)
    lock = {"raw_videos@one": {"outs": [{"path": "data/raw_videos/one", "md5": "1.dir"}]}}
    record = lineage_record.Record(lock, [], clips, [], dict.fromkeys(lineage_record.FILES, "stages: {}"))
    monkeypatch.setattr(lineage_record, "of_version", lambda *_: record)
    shown = registry_events.lineage(root, world.MODEL, version)
    assert "consent on file" in shown["table/behind it: licences"].value
    assert "one/a" in shown["table/behind it: videos and labels"].value
    assert "raw_videos@one" in shown["table/behind it: artefacts, code, parameters"].value
    assert "hand3d uses" in shown["notes"].value


def test_sensor_says_why_it_is_silent(root, monkeypatch):
    sensor = registry_events.registry_sensor(config.load(root / "params.yaml"), root)
    with dg.DagsterInstance.ephemeral() as instance:
        result = sensor(dg.build_sensor_context(instance=instance))
        assert result.skip_reason.skip_message == "nothing new"
        (root / "mlflow.db").unlink()
        result = sensor(dg.build_sensor_context(instance=instance))
        assert result.skip_reason.skip_message == "nothing was registered yet"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        result = sensor(dg.build_sensor_context(instance=instance))
        assert "cannot be read" in result.skip_reason.skip_message
    names = {sensor.name for sensor in definitions.build(root).sensors}
    assert "registry_events" in names
