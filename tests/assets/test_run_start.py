"""How a code server's runs begin: as forks of a process with one thread, that knows libraries but none of our code."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
LOOK = """
import dagster_project.preloaded, os, sys
print(len(os.listdir("/proc/self/task")))
print(*sorted(name for name in sys.modules if name.split(".")[0] in ("ops", "assets", "dagster_project")))
"""


def answer(code: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_what_is_forked_has_one_thread_and_none_of_our_code():
    threads, ours = answer(LOOK)
    assert threads == "1"
    assert ours.split() == ["dagster_project", "dagster_project.preloaded"]


def test_definitions_have_a_code_server_begin_its_runs_so():
    """That runs then do is shown with a real daemon in tests/trust/test_run_worker.py."""
    code = """
import multiprocessing
from pathlib import Path
from dagster._grpc.server import DagsterApiServer
from dagster_project import definitions
server = object.__new__(DagsterApiServer)
definitions.build(Path())
server._mp_ctx = multiprocessing.get_context("spawn")  # as its __init__ does
print(server._mp_ctx.get_start_method())
"""
    assert answer(code) == ["forkserver"]


def test_only_its_user_reaches_the_process_that_is_forked():
    """It runs what it is told by pickles."""
    code = """
from multiprocessing import forkserver
from pathlib import Path
from dagster_project import run_start
run_start.context()
forkserver.ensure_running()
socket = Path(forkserver._forkserver._forkserver_address)
print(socket.is_socket(), oct(socket.parent.stat().st_mode & 0o777))
"""
    assert answer(code) == ["True 0o700"]
