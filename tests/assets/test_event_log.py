"""Dagster's event log with kept engines: the files and what is in them are those of Dagster's own, which is the second
route here."""

import sqlite3

import dagster as dg
import pytest
import yaml

from dagster_project import definitions, event_log, home
from tests.assets import fakes

CHECKED = ("raw_videos", "mano_fits")


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
        keys = [dg.AssetKey(name) for name in CHECKED]
        done = job.execute_in_process(instance=instance, partition_key=shard, asset_selection=keys)
        assert done.success
        kept = isinstance(instance.event_log_storage, event_log.EventLog)
        events = [
            (entry.dagster_event.event_type_value, entry.dagster_event.step_key)
            for entry in instance.all_logs(done.run_id)
            if entry.is_dagster_event
        ]
        versions = [instance.get_latest_materialization_event(key).run_id == done.run_id for key in keys]
    return [kept, versions, events]


def test_it_is_what_a_new_home_uses_and_writes_what_dagster_writes(root):
    ours = label(root, "one")
    assert ours[0], "a new home has it"
    dagsters_own(root)
    theirs = label(root, "two")
    assert not theirs[0], "and goes on without it"
    assert ours[1:] == theirs[1:]
    index = root / ".dagster" / "history" / "runs" / "index.db"
    with sqlite3.connect(index) as connection:
        counted = dict(
            connection.execute("select partition, count(*) from asset_check_executions group by 1").fetchall()
        )
    assert counted["one"] == counted["two"] > 0


def test_history_of_dagsters_own_is_read_on(root):
    dagsters_own(root)
    label(root, "one")
    (root / ".dagster" / "dagster.yaml").write_bytes(home.SETTINGS.read_bytes())
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, event_log.EventLog)
        assert instance.get_materialized_partitions(dg.AssetKey("mano_fits")) == {"one"}
    assert label(root, "two")[0]
