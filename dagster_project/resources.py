"""Resources of each deployment, chosen by environment variables: HAND3D_DEPLOYMENT (default "local") and the settings of
the runner it names (infra/README.md lists them)."""

import os
from collections.abc import Callable
from pathlib import Path

from assets.handles import InProcess, StageRunner
from dagster_project.kubernetes_runner import Kubernetes
from dagster_project.runners import Docker, Subprocess, require

ENVIRONMENTS = ("labelling", "training", "simulator", "orchestrator")


def resources(root: Path) -> dict[str, StageRunner]:
    """Raises ValueError for a deployment that does not exist, ModuleNotFoundError naming the extra one needs."""
    deployment = os.environ.get("HAND3D_DEPLOYMENT", "local")
    if deployment not in RUNNERS:
        raise ValueError(f"HAND3D_DEPLOYMENT is one of {', '.join(RUNNERS)}, got {deployment!r}")
    return {"runner": RUNNERS[deployment](root)}


def _local(root: Path) -> StageRunner:
    return InProcess(root=str(root))


def _subprocess(root: Path) -> StageRunner:
    return Subprocess(root=str(root), require_gpu=_gpu())


def _docker(root: Path) -> StageRunner:
    require("dagster_docker", "docker")
    given = _given(memory="HAND3D_MEMORY", user="HAND3D_USER", tracking_network="HAND3D_TRACKING_NETWORK")
    return Docker(root=str(root), images=_images(), require_gpu=_gpu(), **given)


def _kubernetes(root: Path) -> StageRunner:
    require("kubernetes", "k8s")
    given = _given(
        memory="HAND3D_MEMORY",
        cpu="HAND3D_CPU",
        user="HAND3D_USER",
        namespace="HAND3D_NAMESPACE",
        claim="HAND3D_WORKSPACE_CLAIM",
        tracking_secret="HAND3D_TRACKING_SECRET",
    )
    return Kubernetes(root=str(root), images=_images(), require_gpu=_gpu(), **given)


RUNNERS: dict[str, Callable[[Path], StageRunner]] = {
    "local": _local,
    "subprocess": _subprocess,
    "docker": _docker,
    "kubernetes": _kubernetes,
}


def _images() -> dict[str, str]:
    names = {environment: f"HAND3D_IMAGE_{environment.upper()}" for environment in ENVIRONMENTS}
    return {environment: os.environ[name] for environment, name in names.items() if name in os.environ}


def _given(**names: str) -> dict[str, str]:
    """Fields whose variable is set; the others keep their default."""
    return {field: os.environ[name] for field, name in names.items() if os.environ.get(name)}


def _gpu() -> bool:
    """HAND3D_GPU: "off" (default), or "required", with which a stage that finds none fails at once."""
    value = os.environ.get("HAND3D_GPU", "off")
    if value not in ("off", "required"):
        raise ValueError(f"HAND3D_GPU is off or required, got {value!r}")
    return value == "required"
