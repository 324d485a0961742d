"""Make an artefact, check it, record it: the one way for the console, DVC's commands and Dagster."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from ops import checks, data_version
from ops.config import Config
from ops.pipeline import output, run_stage
from ops.stages import BY_NAME
from ops.store import Report


@dataclass(frozen=True)
class Artefact:
    """What is known about an artefact on disk. version: DVC's content hash. seconds: 0 where it stood already."""

    stage: str
    shard: str
    folder: Path
    report: Report
    version: str
    findings: tuple[checks.Finding, ...]
    seconds: float = 0.0

    @property
    def blocked(self) -> list[checks.Finding]:
        return [finding for finding in self.findings if finding.blocking and not finding.passed]


def make(root: Path, config: Config, name: str, shard: str = "") -> Artefact:
    """Run a stage, check its output and record it in dvc.lock; with a failed blocking check it stays unrecorded,
    so that it counts as stale. Raises what the stage raises."""
    start = time.monotonic()
    drop_removed_shards(root, config)
    report = run_stage(root, config, name, shard)
    return _judged(root, config, name, shard, report, time.monotonic() - start, record=True)


def record(root: Path, config: Config, name: str, shard: str = "", seconds: float = 0.0) -> Artefact:
    """Check and record an output that another process has just made, as `make` does with its own.

    Raises FileNotFoundError where there is no report.json: what a process says it made does not count.
    """
    report = Report.load(output(root, name, shard))
    return _judged(root, config, name, shard, report, seconds, record=True)


def load(root: Path, config: Config, name: str, shard: str = "") -> Artefact:
    """Judge an artefact that stands. Raises FileNotFoundError when it was not made."""
    report = Report.load(output(root, name, shard))
    return _judged(root, config, name, shard, report, 0.0, record=False)


def drop_removed_shards(root: Path, config: Config) -> list[Path]:
    """Take outputs of shards that params.yaml no longer names out of the way of stages that read all shards.

    They are moved to data/.removed/<stage>/<shard>, nothing is deleted.
    """
    moved = []
    for stage in BY_NAME.values():
        folder = root / "data" / stage.name
        if not stage.partitioned or not folder.is_dir():
            continue
        for path in folder.iterdir():
            if path.is_dir() and not path.name.startswith(".") and path.name not in config.shards:
                target = root / "data" / ".removed" / stage.name / f"{path.name}.{time.time_ns()}"
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
                moved.append(target)
    return moved


def _judged(
    root: Path, config: Config, name: str, shard: str, report: Report, seconds: float, record: bool
) -> Artefact:
    made = checks.Made(root, config, BY_NAME[name], shard, report)
    findings = tuple(checks.evaluate(made))
    blocked = any(finding.blocking and not finding.passed for finding in findings)
    # inside `dvc repro` DVC records the stage itself, and holds its lock
    inside_dvc = "DVC_STAGE" in os.environ
    if inside_dvc:
        version = ""
    elif record and not blocked:
        version = data_version.commit(root, name, shard)
    else:
        version = data_version.content_hash(root, name, shard)
    return Artefact(name, shard, made.folder, report, version, findings, seconds)
