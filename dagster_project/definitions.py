"""The one Definitions object: assets, checks, jobs, sensors and the resources of this deployment."""

import warnings
from functools import lru_cache
from pathlib import Path

import dagster as dg

from assets import benchmarks, checkpoints, clips, geometry, hand3d
from assets.factory import build_group
from assets.partitions import workspace
from assets.upkeep import upkeep
from dagster_project import run_start
from dagster_project.jobs import jobs
from dagster_project.registry_events import registry_sensor
from dagster_project.resources import resources
from dagster_project.schedules import schedules
from dagster_project.sensors import sensors
from dagster_project.watch import alert_sensor
from ops import config

GROUPS = (clips, geometry, hand3d, checkpoints, benchmarks)


def build(root: Path) -> dg.Definitions:
    """Definitions of a workspace. Raises ValueError for a params.yaml that does not hold."""
    run_start.install()
    settings = config.load(root / "params.yaml")
    # what a later Dagster may change is no news to the pinned one
    quiet = warnings.catch_warnings(action="ignore", category=dg.BetaWarning)
    with quiet, warnings.catch_warnings(action="ignore", category=dg.PreviewWarning):
        assets = [clips.video_folders(settings, root)]
        for module in GROUPS:
            assets += build_group(module.ASSETS, module.GROUP, settings, root)
        return dg.Definitions(
            assets=[*assets, *upkeep(settings, root)],
            jobs=jobs(),
            schedules=schedules(settings, root),
            sensors=[*sensors(settings, root), alert_sensor(), registry_sensor(settings, root)],
            resources=resources(root),
            executor=dg.in_process_executor,
        )


@dg.definitions
def defs() -> dg.Definitions:
    """Of this process's workspace. Dagster asks six times for a run."""
    root = workspace()
    return _once(root, (root / "params.yaml").read_bytes())


@lru_cache(maxsize=1)
def _once(root: Path, params: bytes) -> dg.Definitions:
    return build(root)
