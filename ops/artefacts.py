"""Make an artefact, check it, record it: the one way for the console, DVC's commands and Dagster."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ops import checks, data_version, turns
from ops.config import Config
from ops.pipeline import output, run_stage
from ops.stages import BY_NAME
from ops.store import Report, saying_when_full


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


@dataclass(frozen=True)
class Turn:
    """A turn at making an artefact. standing: what another run made while we waited for it. inputs: as they were."""

    standing: Artefact | None = None
    inputs: dict[str, str] = field(default_factory=dict)


@contextmanager
def turn(root: Path, config: Config, name: str, shard: str = "") -> Iterator[Turn]:
    """Nobody else makes this artefact, or replaces what it is made from, in the block (ops/turns.py)."""
    with turns.alone(root, config, name, shard) as waited:
        if waited and "DVC_STAGE" not in os.environ:
            address = data_version.address(name, shard)
            if address not in data_version.stale(root, [address]):
                yield Turn(load(root, config, name, shard))
                return
        yield Turn(inputs=turns.inputs_now(root, config, name, shard))


def make(root: Path, config: Config, name: str, shard: str = "") -> Artefact:
    """Run a stage, check its output and record it in dvc.lock; with a failed blocking check it stays unrecorded,
    so that it counts as stale. Raises what the stage raises; ValueError where its inputs changed meanwhile."""
    with turn(root, config, name, shard) as taken:
        if taken.standing is not None:
            return taken.standing
        start = time.monotonic()
        drop_removed_shards(root, config)
        report = run_stage(root, config, name, shard)
        _require_still(root, taken, name, shard)
        with saying_when_full(root):
            return _judged(root, config, name, shard, report, time.monotonic() - start, record=True)


def record(root: Path, config: Config, name: str, shard: str, seconds: float, taken: Turn) -> Artefact:
    """Check and record an output that another process has just made in our turn, as `make` does with its own.

    Raises FileNotFoundError where there is no report.json: what a process says it made does not count; ValueError
    where its inputs changed meanwhile.
    """
    report = Report.load(output(root, name, shard))
    _require_still(root, taken, name, shard)
    with saying_when_full(root):
        return _judged(root, config, name, shard, report, seconds, record=True)


def _require_still(root: Path, taken: Turn, name: str, shard: str) -> None:
    kinds = turns.changed(root, taken.inputs, name, shard)
    if kinds:
        raise ValueError(
            f"{' and '.join(kinds)} changed while {data_version.address(name, shard)} was made: what it was made from "
            "cannot be told, so it is not recorded; run it again"
        )


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
    if record and name == "champion":  # here, and not in the stage: wherever that ran, dvc.lock and the cache are here
        from ops import lineage_record  # polars takes 0.1 s, which definitions do not need

        report = lineage_record.register(root, output(root, name), report)
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
