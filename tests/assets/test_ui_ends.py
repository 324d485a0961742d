"""`make ui` ends when told: each server is told once, waits have an end, and no process of theirs is left."""

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from dagster_project import ui

LIMIT_S = 120.0
SERVER = """
import signal, subprocess, sys, time
from pathlib import Path
folder, deaf = Path(sys.argv[1]), sys.argv[2] == "deaf"
if len(sys.argv) == 3:
    signal.signal(signal.SIGINT, lambda *_: (folder / "told").open("a").write("told\\n"))
    helper = subprocess.Popen([sys.executable, __file__, folder, "deaf", "helper"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    helper.stdout.readline()
    (folder / "pids.new").write_text(f"{helper.pid} {__import__('os').getpid()}")
    (folder / "pids.new").rename(folder / "pids")
else:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("deaf now", flush=True)
while deaf or not (folder / "told").exists():
    time.sleep(0.05)
time.sleep(0.5)
"""
"""A server with a helper that no signal interrupts. It notes how often it was told; a deaf one goes on."""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "server.py").write_text(SERVER, encoding="utf-8")
    yield tmp_path
    for process in processes(tmp_path):
        process.kill()


def processes(folder):
    """Those of the server that still live."""
    found = []
    for pid in (folder / "pids").read_text(encoding="utf-8").split() if (folder / "pids").exists() else ():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def until(done):
    deadline = time.monotonic() + LIMIT_S
    while not (found := done()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def command(folder, kind):
    return [sys.executable, str(folder / "server.py"), str(folder), kind]


def told(folder):
    return (folder / "told").read_text(encoding="utf-8").count("told")


def in_a_terminal(folder, kind):
    """(process number, its terminal) of `ui.serve` in a session of its own."""
    process, terminal = pty.fork()
    if not process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it starts with &
        ended = None
        try:
            ended = ui.serve({"it": command(folder, kind)}, folder, None)
        finally:
            os._exit(0 if ended == [] else 1)
    until(lambda: len(processes(folder)) == 2)
    return process, terminal


def code(process):
    ended = until(lambda: [status for pid, status in [os.waitpid(process, os.WNOHANG)] if pid])
    return os.waitstatus_to_exitcode(ended[0])


@pytest.mark.parametrize("by", ["Ctrl-C", "SIGTERM", "SIGHUP"])
def test_told_once_and_nothing_is_left(folder, by, monkeypatch):
    monkeypatch.setattr(ui, "REST_S", 0.5)
    process, terminal = in_a_terminal(folder, "polite")
    if by == "Ctrl-C":
        os.write(terminal, b"\x03")
    else:
        os.kill(process, signal.Signals[by])
    assert code(process) == 0
    until(lambda: not processes(folder))
    assert told(folder) == 1


def test_second_ctrl_c_kills_at_once(folder):
    process, terminal = in_a_terminal(folder, "deaf")
    os.write(terminal, b"\x03")
    until((folder / "told").exists)
    os.write(terminal, b"\x03")
    assert code(process) == 0
    until(lambda: not processes(folder))


def test_patience_has_an_end(folder):
    server = subprocess.Popen(command(folder, "deaf"), start_new_session=True)
    until(lambda: len(processes(folder)) == 2)
    ui.end([server], 0.3)
    until(lambda: not processes(folder))
    assert server.returncode == -signal.SIGKILL


def test_one_that_ends_by_itself_ends_all(folder, monkeypatch):
    monkeypatch.setattr(ui, "REST_S", 0.2)
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    wait = "import pathlib, sys, time\nwhile not pathlib.Path('pids').exists(): time.sleep(0.05)"
    short = [sys.executable, "-c", wait]
    try:
        assert ui.serve({"one": command(folder, "polite"), "other": short}, folder, None) == ["other"]
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
    until(lambda: not processes(folder))
