"""The connection to Postgres is lost in the middle of a run: nothing that stood is lost, and a re-run goes on from there."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ops import data_version
from tests.assets import fakes
from tests.infra.test_stack_runs import PASSWORDS, instance_folder, postgres, processes  # noqa: F401 - fixtures
from tests.runners.world import REPOSITORY
from tests.trust import world

pytestmark = [pytest.mark.slow, pytest.mark.container]
LANE = """
import sys, time
from pathlib import Path
import pytest
from ops.stages import Stage
from tests.assets import fakes
from dagster_project import demo
import dagster as dg
root = Path(sys.argv[1])
def held(context):
    made = fakes.run(context)
    if context.stage.name == "mano_fits":
        (root / "begun").touch()
        while not (root / "go").exists():
            time.sleep(0.1)
    return made
with pytest.MonkeyPatch.context() as patch:
    fakes.install(patch, root)
    patch.setenv("DAGSTER_HOME", sys.argv[2])
    patch.setattr(Stage, "function", lambda stage: held)
    with dg.DagsterInstance.get() as instance:
        demo.close_dead_runs(instance)
    print("FAILED", demo.run_lane(demo.Lane("one", "label_shard", "one", ("raw_videos", "mano_fits", "hand3d_action")), str(root)).failed)
    with dg.DagsterInstance.get() as instance:
        print("RUNS", sorted(run.status.value for run in instance.get_runs()))
"""


class Server:
    """The fixture's Postgres, to be stopped at once, as by a power cut, and started again."""

    def __init__(self, port):
        import psycopg2

        with (
            psycopg2.connect(
                host="127.0.0.1", port=port, dbname="postgres", user="postgres", password="superpass"
            ) as link,
            link.cursor() as cursor,
        ):
            cursor.execute("SHOW data_directory")
            self.data = Path(cursor.fetchone()[0])
        link.close()
        self.port, self.program = port, sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))[-1]
        self.user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}

    def _ctl(self, *words):
        command = [self.program, "-D", self.data, "-w", *words]
        given = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, check=True, cwd=self.data.parent, **given, **self.user)

    def stop(self):
        self._ctl("-m", "immediate", "stop")

    def start(self):
        self._ctl("-o", f"-p {self.port} -k {self.data.parent} -h 127.0.0.1", "start")


@pytest.fixture
def root(tmp_path, monkeypatch):
    return world.make(tmp_path, monkeypatch)


@pytest.mark.parametrize("back", [True, False], ids=["back before the run needs it", "away until the run has ended"])
def test_a_run_that_loses_its_database(root, postgres, tmp_path_factory, monkeypatch, back):  # noqa: F811
    home, server = instance_folder(tmp_path_factory.mktemp("home"), postgres), Server(postgres)
    environment = os.environ | PASSWORDS | {
        "DAGSTER_LOGS": str(home / "logs"), "DAGSTER_POSTGRES_HOST": "127.0.0.1", "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", LANE, str(root), str(home)]
    given = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, **given)
    while not (root / "begun").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    server.stop()
    if back:
        server.start()
    (root / "go").touch()
    said, errors = first.communicate(timeout=240)
    if not back:
        server.start()
        assert first.returncode or "FAILED {}" not in said, "it does not claim to have worked"
        assert "OperationalError" in said + errors
    elif first.returncode == 0 and "FAILED {}" in said:
        assert "RUNS" in said
    made = fakes.ran(root)
    assert made[:2] == ["raw_videos one", "mano_fits one"]
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert "FAILED {}" in second.stdout, second.stderr
    assert "STARTED" not in second.stdout, "the run before is ended, not shown as running for ever"
    assert "raw_videos one" not in fakes.ran(root), "what had been recorded is not made again"
    assert data_version.stale(root, [f"{name}@one" for name in ("raw_videos", "mano_fits", "hand3d_action")]) == {}
