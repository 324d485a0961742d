"""`python -m dagster_project.ui`: Dagster and MLflow on 127.0.0.1 until Ctrl-C. Nothing listens on other interfaces."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dagster_project import home
from ops import config, data_version, tracking

DAGSTER_PORT, MLFLOW_PORT = 3000, 5000


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
    servers = {name: subprocess.Popen(command, cwd=root, env=environment) for name, command in commands(root).items()}
    print(
        f"Dagster: http://127.0.0.1:{DAGSTER_PORT}   MLflow: http://127.0.0.1:{MLFLOW_PORT}   (Ctrl-C ends both)",
        flush=True,
    )
    try:
        while all(server.poll() is None for server in servers.values()):
            time.sleep(0.5)
    except KeyboardInterrupt:
        return 0
    finally:
        for server in servers.values():
            server.send_signal(signal.SIGINT)
        for server in servers.values():
            server.wait()
    ended = [name for name, server in servers.items() if server.returncode]
    print(f"ui: {', '.join(ended)} ended by itself; is its port in use?", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
