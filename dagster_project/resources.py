"""Resources of each deployment, chosen by one variable: HAND3D_DEPLOYMENT (default "local")."""

import os
from pathlib import Path

from assets.handles import InProcess, StageRunner, Subprocess

RUNNERS: dict[str, type[StageRunner]] = {"local": InProcess, "subprocess": Subprocess}


def resources(root: Path) -> dict[str, StageRunner]:
    """Raises ValueError for a deployment that does not exist."""
    deployment = os.environ.get("HAND3D_DEPLOYMENT", "local")
    if deployment not in RUNNERS:
        raise ValueError(f"HAND3D_DEPLOYMENT is one of {', '.join(RUNNERS)}, got {deployment!r}")
    return {"runner": RUNNERS[deployment](root=str(root))}
