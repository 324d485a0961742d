"""The real daemon. As `make ui` starts it: a changed video is followed, a touched file is not, and all ends when told.
By itself: it judges what is fresh, and what is late is told of."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from sqlalchemy.exc import OperationalError

from assets import upkeep
from assets.factory import version_of_code
from dagster_project import home, sensors, ui
from ops import config, data_version
from ops.stages import STAGES
from tests.assets import fakes

REPOSITORY = Path(__file__).parents[2]
LOCATION = str(REPOSITORY / "tests" / "assets" / "daemon_location.py")
LIMIT_S = 600.0  # of a test's waits on a loaded machine; the first takes about 40 s on an idle one


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two shards of fake videos, and a home whose queue is looked at every second."""
    fakes.workspace(tmp_path)
    fakes.install(monkeypatch, tmp_path)
    monkeypatch.delenv("DAGSTER_HOME")
    home.prepare(tmp_path)
    settings = yaml.safe_load((tmp_path / ".dagster" / "dagster.yaml").read_text(encoding="utf-8"))
    settings["run_coordinator"] = {
        "module": "dagster.core.run_coordinator",
        "class": "QueuedRunCoordinator",
        "config": {"dequeue_interval_seconds": 1},
    }
    fakes.write(tmp_path / ".dagster" / "dagster.yaml", yaml.safe_dump(settings))
    data_version.prepare(tmp_path)
    return tmp_path


class Clock:
    """Wait for something with a limit."""

    def __init__(self, process):
        self.process, self.end = process, time.monotonic() + LIMIT_S

    def until(self, what, done):
        while not (found := done()):
            assert self.process.poll() is None, f"the servers ended while waiting for {what}"
            assert time.monotonic() < self.end, f"{what}: not within {LIMIT_S:.0f} s"
            time.sleep(0.3)
        return found


@pytest.fixture
def served(root, monkeypatch):
    """`make ui`'s Dagster command on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ui.commands(root, port)["Dagster"]
    place = command.index("-m")
    command[place : place + 2] = ["-f", LOCATION]
    with started(command, root) as process:
        try:
            yield Clock(process)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(LIMIT_S)  # dagster's own limits add up to 6 minutes: 60 + 60 + 180 + 60 s


@contextmanager
def started(command, root, **more):
    """A process with every sensor switched on; with the block, all that it has started is killed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "HAND3D_AUTOMATION": "on",
        "HAND3D_LOOK_EVERY_S": "1",
        "PYTHONWARNINGS": "ignore",
        **more,
    }
    with log_of(root).open("w") as log:
        streams = {"stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(
            command, cwd=root, env=environment, **streams, start_new_session=True, preexec_fn=ui.hear
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def log_of(root):
    return root / "servers.log"


def record_everything(root, instance):
    """As if it had all been made: nothing is missing when the daemon comes."""
    settings = config.load(root / "params.yaml")
    for event in sensors.changes(settings, root, {})[0]:
        instance.report_runless_asset_event(event)
    for stage in STAGES:
        for shard in fakes.SHARDS if stage.partitioned else [None]:
            tags = {"dagster/data_version": "1", "dagster/code_version": version_of_code(stage, settings)}
            instance.report_runless_asset_event(dg.AssetMaterialization(stage.name, partition=shard, tags=tags))


@pytest.mark.slow
def test_daemon_follows_a_changed_video_and_nothing_else(root, request):
    with dg.DagsterInstance.from_config(str(root / ".dagster")) as instance:
        record_everything(root, instance)
        servers = request.getfixturevalue("served")

        def runs():
            return [(run, {key.to_user_string() for key in run.asset_selection or ()}) for run in instance.get_runs()]

        def looks(name, more=2):
            begin = ticks(instance, name)
            servers.until(f"{more} looks of {name}", lambda: ticks(instance, name) >= begin + more)

        looks("source_changes")
        looks("automation")
        os.utime(root / "videos" / "one" / "a.mp4")
        looks("source_changes")
        looks("automation")
        assert runs() == [], "a new time on the same content asks for nothing"
        fakes.write(root / "videos" / "two" / "a.mp4", "another video")
        servers.until(
            "the runs of the changed shard",
            lambda: any("hand3d_action" in assets and run.is_finished for run, assets in runs()),
        )
        made = fakes.ran(root)
        wanted = [f"{stage.name} two" for stage in STAGES if stage.partitioned]
        assert sorted(line for line in made if " " in line) == sorted(wanted), "each once, of that shard only"
        of_shard = [run for run, _ in runs() if "dagster/partition" in run.tags]
        assert {run.tags["dagster/partition"] for run in of_shard} == {"two"}
        assert {run.status.value for run in of_shard if run.is_finished} == {"SUCCESS"}


def ticks(instance, name):
    """How often a sensor has looked."""
    states = [state for state in instance.all_instigator_state() if state.name == name]
    return len(instance.get_ticks(states[0].instigator_origin_id, states[0].selector_id)) if states else 0


LATE = {upkeep.SURVEY: ("FAIL", "error"), upkeep.RESCORE: ("WARN", "warning")}


@pytest.mark.slow
def test_daemon_judges_freshness_and_what_is_late_is_told(root):
    """Of the four assets with a policy, two are late; one of them is then made again."""
    fresh = dict.fromkeys(["champion", "benchmark_scores"], "PASS")
    late = {name: state for name, (state, _) in LATE.items()}
    often = {"FRESHNESS_DAEMON_INTERVAL_SECONDS": "2", "HAND3D_LOOK_EVERY_S": "3"}
    daemon = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-f", LOCATION]
    with dg.DagsterInstance.from_config(str(root / ".dagster")) as instance:
        record_everything(root, instance)
        with started(daemon, root, **often, HAND3D_ALERTS="log") as process:
            clock = Clock(process)

            def made(name, seconds_ago):
                clock.until(f"a record of {name}", lambda: record_made(instance, name, seconds_ago))

            clock.until("the first look's end: it tells of nothing before it", lambda: ticks(instance, "alerts") >= 2)
            made(upkeep.SURVEY, 10 * 24 * 3600)
            made(upkeep.RESCORE, 27 * 3600)
            clock.until("the states of all four", lambda: judged(instance) == fresh | late)
            clock.until("both to be told of", lambda: len(told(root)) >= 2)
            made(upkeep.SURVEY, 0)
            clock.until("the survey to be fresh", lambda: judged(instance) == fresh | late | {upkeep.SURVEY: "PASS"})
            begin = ticks(instance, "alerts")
            clock.until("two more looks", lambda: ticks(instance, "alerts") >= begin + 2)
            expected = [(level, f"not fresh ({state}): {name}") for name, (state, level) in LATE.items()]
            assert sorted(told(root)) == sorted(expected)


def record_made(instance, name, seconds_ago):
    """As if made then, for the last time; False where the daemon held the database for too long."""
    materialised = StepMaterializationData(dg.AssetMaterialization(name))
    event = DagsterEvent(
        DagsterEventType.ASSET_MATERIALIZATION.value, RUNLESS_JOB_NAME, event_specific_data=materialised
    )
    try:
        instance.report_dagster_event(event, RUNLESS_RUN_ID, timestamp=time.time() - seconds_ago)
    except OperationalError:
        return False
    return True


def judged(instance):
    """Asset -> state, of all that the daemon has judged by a policy."""
    records = instance.get_freshness_state_records(instance.get_asset_keys())
    states = {key.to_user_string(): record.freshness_state.value for key, record in records.items()}
    return {name: state for name, state in states.items() if state != "NOT_APPLICABLE"}


def told(root):
    """(level, title) of each alert of freshness in the log, where HAND3D_ALERTS=log writes it. One that comes twice has
    the same key: on a busy machine Dagster cuts a look short, and what it told is not remembered."""
    lines = log_of(root).read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    alerts = [json.loads(line) for line in lines if line.startswith('{"key": "fresh ')]
    return list({alert["key"]: (alert["level"], alert["title"]) for alert in alerts}.values())
