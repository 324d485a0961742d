"""Dagster's home of a workspace: run history and events in <workspace>/.dagster."""

import os
import shutil
from pathlib import Path

SETTINGS = Path(__file__).parent.parent / "infra" / "dagster.yaml"


def prepare(root: Path) -> Path:
    """Make the home, set DAGSTER_HOME for this process and its children, and return it. An existing one is kept."""
    home = Path(os.environ.get("DAGSTER_HOME") or root / ".dagster").absolute()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").is_file():
        shutil.copyfile(SETTINGS, home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["HAND3D_ROOT"] = str(root)
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "100")  # a run's planned events are written together
    return home
