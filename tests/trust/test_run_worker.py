"""The real daemon, its run workers and its code server, killed: every run is ended with a reason, and a re-run heals."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml

from ops import artefacts, data_version
from tests.runners.world import REPOSITORY
from tests.trust import world

SCRIPTS = Path(sys.executable).parent
LOCATION = ["-m", "tests.trust.location"]
pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path, monkeypatch):
    world.make(tmp_path, monkeypatch)
    home = tmp_path / ".dagster"
    home.mkdir()
    settings = yaml.safe_load((REPOSITORY / "infra" / "dagster.yaml").read_text(encoding="utf-8"))
    settings["run_monitoring"] |= {"poll_interval_seconds": 1, "free_slots_after_run_end_seconds": 1}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs()  # makes the databases, which two processes must not do at once
    return tmp_path


def environment(root):
    own = {"DAGSTER_HOME": str(root / ".dagster"), "HAND3D_ROOT": str(root), "PYTHONPATH": str(REPOSITORY)}
    return os.environ | own | {"PYTHONWARNINGS": "ignore", "DAGSTER_DISABLE_TELEMETRY": "true"}


@pytest.fixture
def daemon(root):
    """Starts daemons in process groups of their own, which hold their code servers as well."""
    started = []

    def start():
        with (root / f"daemon-{len(started)}.log").open("wb") as log:
            command = [SCRIPTS / "dagster-daemon", "run", *LOCATION]
            given = {"cwd": REPOSITORY, "env": environment(root), "stdout": log, "stderr": subprocess.STDOUT}
            started.append(subprocess.Popen(command, start_new_session=True, **given))
        return started[-1]

    yield start
    for process in started:
        kill_group(process)


def kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(timeout=20)


def wait(what, found, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.3)
    return result


def test_killed_run_worker_and_killed_daemon(root, daemon):
    first = daemon()
    launch = [SCRIPTS / "dagster", "job", "backfill", *LOCATION, "-j", "first", "--partitions", "one,two", "--noprompt"]
    done = subprocess.run(launch, cwd=REPOSITORY, env=environment(root), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    begun = {shard: root / f"begun-{shard}.txt" for shard in ("one", "two")}
    for shard, path in begun.items():
        wait(f"the run of {shard}", lambda path=path: path.is_file() and path.read_text())
        begins = psutil.Process(int(path.read_text())).parent().cmdline()
        assert "forkserver" in " ".join(begins), "a run begins as a fork (dagster_project/run_start.py)"
    with dg.DagsterInstance.from_config(str(root / ".dagster")) as instance:

        def status(shard):
            (run,) = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": shard}))
            return run.status.value

        os.kill(int(begun["one"].read_text()), signal.SIGKILL)
        wait("the killed run to end", lambda: status("one") == "FAILURE")
        assert status("two") == "STARTED"
        kill_group(first)
        with contextlib.suppress(ProcessLookupError):  # has a group of its own, and may have ended with its server
            os.kill(int(begun["two"].read_text()), signal.SIGKILL)
        assert status("two") == "STARTED", "nobody is left to say that it has ended"
        daemon()
        wait("the run without a process to end", lambda: status("two") == "FAILURE")
        (lost,) = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": "two"}))
        said = [event.message or "" for event in instance.all_logs(lost.run_id)]
        assert any("the code server that ran it is gone: run it again" in message for message in said), said
    (root / "go").touch()
    for shard in ("one", "two"):
        artefacts.make(root, world.settings(root), "raw_videos", shard)
    assert data_version.stale(root, ["raw_videos@one", "raw_videos@two"]) == {}
    assert sorted(path.name for path in (root / "data" / "raw_videos").iterdir()) == ["one", "two"]
