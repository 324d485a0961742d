"""The real daemon, as `make ui` starts it: a changed video is followed, a touched file is not, and all ends when told."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets.factory import version_of_code
from dagster_project import home, sensors, ui
from ops import config, data_version
from ops.stages import STAGES
from tests.assets import fakes

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 300.0  # of a wait on a loaded machine; the whole takes about 40 s on an idle one


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
    """`make ui`'s Dagster command on a free port, with everything switched on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ui.commands(root, port)["Dagster"]
    place = command.index("-m")
    command[place : place + 2] = ["-f", str(REPOSITORY / "tests" / "assets" / "daemon_location.py")]
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "HAND3D_AUTOMATION": "on",
        "HAND3D_LOOK_EVERY_S": "1",
        "PYTHONWARNINGS": "ignore",
    }
    with (root / "servers.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Clock(process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(LIMIT_S)
        finally:
            for kind in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, kind)
                except ProcessLookupError:
                    break
                time.sleep(0.5)


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
