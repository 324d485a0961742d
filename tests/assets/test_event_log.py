"""Dagster's event log with kept engines: the files and what is in them are those of Dagster's own, which is the second
route here."""

import sqlite3

import dagster as dg
import pytest
import yaml

from dagster_project import definitions, event_log, home
from tests.assets import fakes

CHECKED = ("raw_videos", "mano_fits")
KEYS = [dg.AssetKey(name) for name in CHECKED]


@pytest.fixture
def root(tmp_path, monkeypatch):
    fakes.ready(tmp_path, monkeypatch)
    home.prepare(tmp_path)
    return tmp_path


def dagsters_own(root) -> None:
    """The same home without our storage, as one that was made before it."""
    path = root / ".dagster" / "dagster.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings.pop("event_log_storage", None)
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")


def label(root, shard: str) -> list[tuple]:
    """Make two stages of a shard; what the event log then says of the run, but for times."""
    job = definitions.build(root).resolve_job_def("label_shard")
    with dg.DagsterInstance.get() as instance:
        done = job.execute_in_process(instance=instance, partition_key=shard, asset_selection=KEYS)
        assert done.success
        kept = isinstance(instance.event_log_storage, event_log.EventLog)
        events = [
            (entry.dagster_event.event_type_value, entry.dagster_event.step_key)
            for entry in instance.all_logs(done.run_id)
            if entry.is_dagster_event
        ]
        versions = [instance.get_latest_materialization_event(key).run_id == done.run_id for key in KEYS]
    return [kept, versions, events]


def test_it_is_what_a_new_home_uses_and_writes_what_dagster_writes(root):
    ours = label(root, "one")
    assert ours[0], "a new home has it"
    dagsters_own(root)
    theirs = label(root, "two")
    assert not theirs[0], "and goes on without it"
    assert ours[1:] == theirs[1:]
    counted = planned(root)
    assert counted["one"] == counted["two"] > 0


def test_history_of_dagsters_own_is_read_on(root):
    dagsters_own(root)
    label(root, "one")
    (root / ".dagster" / "dagster.yaml").write_bytes(home.SETTINGS.read_bytes())
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, event_log.EventLog)
        assert instance.get_materialized_partitions(dg.AssetKey("mano_fits")) == {"one"}
    assert label(root, "two")[0]


def test_a_batch_that_fails_leaves_nothing_behind(root, monkeypatch, capfd):
    """Dagster then stores the events one by one: none is there twice."""
    undisturbed = label(root, "one")
    store, failed = event_log.EventLog.store_event, []

    def fails_once(log, event):
        store(log, event)
        if "connections" in log._batch.__dict__ and not failed:
            failed.append(event)
            raise OSError("no space left on device")

    monkeypatch.setattr(event_log.EventLog, "store_event", fails_once)
    assert label(root, "two") == undisturbed
    assert failed, "planned events are written together"
    assert "no space left on device" in capfd.readouterr().err
    assert len(set(planned(root).values())) == 1, planned(root)


def planned(root) -> dict[str, int]:
    """Shard -> rows of its checks in the index."""
    with sqlite3.connect(root / ".dagster" / "history" / "runs" / "index.db") as connection:
        return dict(connection.execute("select partition, count(*) from asset_check_executions group by 1").fetchall())


def test_a_run_writes_into_its_file_and_not_beside_it(root, monkeypatch):
    """The web server learns of new events by the file's change, and watches no other."""
    job = definitions.build(root).resolve_job_def("label_shard")
    store, beside = event_log.EventLog.store_event, []

    def then_look(log, event):
        store(log, event)
        if "connections" not in log._batch.__dict__:  # else it is about to
            beside.extend((root / ".dagster" / "history" / "runs").glob(f"{event.run_id}.db-wal"))

    monkeypatch.setattr(event_log.EventLog, "store_event", then_look)
    with dg.DagsterInstance.get() as instance:
        assert job.execute_in_process(instance=instance, partition_key="one", asset_selection=KEYS).success
    assert beside == []


def test_an_index_that_was_put_in_the_place_of_another_is_the_one_that_is_written(root):
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("mano_fits", partition="one"))
        for path in (root / ".dagster" / "history" / "runs").glob("index.db*"):
            path.unlink()
        with dg.DagsterInstance.from_config(str(root / ".dagster")) as another:
            assert another.get_materialized_partitions(dg.AssetKey("mano_fits")) == set()
            instance.report_runless_asset_event(dg.AssetMaterialization("mano_fits", partition="two"))
            assert another.get_materialized_partitions(dg.AssetKey("mano_fits")) == {"two"}
