"""`python -m dagster_project.ui`: Dagster and MLflow on 127.0.0.1 until Ctrl-C. Nothing listens on other interfaces."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dagster_project import home
from ops import config, data_version, tracking

DAGSTER_PORT, MLFLOW_PORT = 3000, 5000
PATIENCE_S = 150.0
"""Dagster gives its webserver and its daemon a minute each to finish what they are at."""
REST_S = 10.0
"""For what a server leaves behind, as a run: interrupted, it is recorded as such."""


def commands(root: Path, dagster_port: int = DAGSTER_PORT, mlflow_port: int = MLFLOW_PORT) -> dict[str, list[str]]:
    """Name -> command of each server; both run in the workspace."""
    scripts = Path(sys.executable).parent
    dagster = [str(scripts / "dagster"), "dev", "--host", "127.0.0.1", "--port", str(dagster_port)]
    dagster += ["-m", "dagster_project.definitions"]
    mlflow = [str(scripts / "mlflow"), "ui", "--host", "127.0.0.1", "--port", str(mlflow_port)]
    mlflow += ["--backend-store-uri", tracking.tracking_uri(root)]
    return {"Dagster": dagster, "MLflow": mlflow}


def main() -> int:
    """Serve until interrupted or until one of the two ends."""
    root = Path(os.environ.get("HAND3D_ROOT", ".")).resolve()
    try:
        config.load(root / "params.yaml")
    except ValueError as error:
        print(f"ui: {error}", file=sys.stderr)
        return 1
    home.prepare(root)
    data_version.prepare(root)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    package = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    print(
        f"Dagster: http://127.0.0.1:{DAGSTER_PORT}   MLflow: http://127.0.0.1:{MLFLOW_PORT}   (Ctrl-C ends both)",
        flush=True,
    )
    ended = serve(commands(root), root, environment)
    if not ended:
        return 0
    print(f"ui: {', '.join(ended)} ended by itself; is its port in use?", file=sys.stderr)
    return 1


def serve(servers: dict[str, list[str]], root: Path, environment: dict[str, str]) -> list[str]:
    """Until Ctrl-C, the terminal's end or SIGTERM: then no name is returned; or until one ends: its name. None of their
    processes is left."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.default_int_handler)  # a shell ignores SIGINT for what it starts with &
    started: dict[str, subprocess.Popen] = {}
    try:
        for name, command in servers.items():  # in sessions of their own: Ctrl-C would reach all of their processes
            started[name] = subprocess.Popen(command, cwd=root, env=environment, start_new_session=True)
        while not (ended := [name for name, server in started.items() if server.poll() is not None]):
            time.sleep(0.5)
    except KeyboardInterrupt:
        ended = []
    end(started.values())
    return ended


def hear() -> None:
    """For a child's begin: SIGINT ends it, also where a shell ignores it for this process, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end(servers: Iterable[subprocess.Popen], patience_s: float = PATIENCE_S) -> None:
    """Tell them once, wait, then end what is left of their process groups; a second Ctrl-C kills at once."""
    servers = list(servers)
    try:
        for server in servers:
            server.send_signal(signal.SIGINT)
        deadline = time.monotonic() + patience_s
        for server in servers:
            server.wait(max(0.0, deadline - time.monotonic()))
        for server in servers:
            _rest(server.pid)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        print("ui: killing the servers", file=sys.stderr)
    finally:
        for server in servers:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _rest(group: int) -> None:
    """Interrupt what lives on in a group, and give it a moment."""
    deadline = time.monotonic() + REST_S
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGINT)
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
