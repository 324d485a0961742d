"""Run one stage in a workspace. The same call serves the console, DVC and Dagster.

A workspace is a folder with ``params.yaml`` and ``dvc.yaml``; artefacts lie below its ``data``.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.code_version import code_version
from ops.config import Config, ShardConfig
from ops.stages import BY_NAME, Stage
from ops.store import Report, saying_when_full, whole_folder
from ops.workers import Workers, chosen, each, each_parts


@dataclass(frozen=True)
class StageContext:
    """What a stage function may know.

    root: the workspace. config: all of params.yaml. shard: partition key, "" for unpartitioned stages.
    out: empty folder to fill (renamed into place afterwards).
    scratch: survives an interruption; holds whatever lets a re-run go on where it stopped.
    """

    root: Path
    stage: Stage
    config: Config
    shard: str
    out: Path
    scratch: Path

    @property
    def shard_config(self) -> ShardConfig:
        return self.config.shards[self.shard]

    def input(self, name: str) -> Path:
        """Folder of an upstream artefact: this shard's, or all of it for an unpartitioned stage.

        Raises FileNotFoundError naming the stage to run first; KeyError if the stage does not declare the read.
        """
        if name not in self.stage.reads:
            raise KeyError(f"stage {self.stage.name} reads {self.stage.reads}, not {name}: add it in ops/stages.py")
        per_shard = BY_NAME[name].partitioned and self.stage.partitioned
        folder = self.root / "data" / name / (self.shard if per_shard else "")
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: run `hand3d run {name}` first")
        return folder

    def each(
        self, load: Callable, arguments: tuple, items: Sequence, unit: str, lost: Callable[[Any, str], Any]
    ) -> Iterator:
        """`load(*arguments)` once a worker, then its result on every item, in their order, with a line of progress.

        The deployment says which workers (ops/workers.py), no stage does. lost: what stands for an item that took its
        worker along, from the item and the reason.
        """
        workers, how = self._workers(), self._checked(load, arguments)
        return self.progress(each(*how, items, workers, lost), len(items), unit)

    def each_parts(
        self, load: Callable, arguments: tuple, items: Sequence, unit: str, lost: Callable[[Any, str], list]
    ) -> Iterator[Iterator]:
        """`each` for results that are iterators over large parts; one is to be used up before the next."""
        workers, how = self._workers(), self._checked(load, arguments)
        return self.progress(each_parts(*how, items, workers, self.scratch, lost), len(items), unit)

    def _workers(self) -> Workers:
        return chosen(1.0 if self.stage.gpu and os.environ.get("HAND3D_GPU") == "required" else 0.0)

    def _checked(self, load: Callable, arguments: tuple) -> tuple[Callable, tuple]:
        """Workers of a cluster have an installation of their own, which must hold the same code."""
        if self._workers().kind != "ray":
            return load, arguments
        return load_same_code, (self.stage.name, code_version(self.stage), load, arguments)

    def progress(self, items: Iterable, total: int | None = None, unit: str = "item") -> Iterator:
        """Iterate with a line of progress on stderr every few seconds (rate and time left)."""
        total = total if total is not None else len(items)  # type: ignore[arg-type]
        label = self.stage.name + (f"[{self.shard}]" if self.shard else "")
        start = last = time.monotonic()
        for done, item in enumerate(items):
            yield item
            now = time.monotonic()
            if now - last > 5 or (done + 1 == total and now - start > 1):
                last = now
                rate = (done + 1) / (now - start)
                left = (total - done - 1) / rate
                print(
                    f"{label}: {done + 1}/{total} {unit}s, {rate:.1f}/s, {left:.0f} s left", file=sys.stderr, flush=True
                )


def load_same_code(stage: str, expected: str, load: Callable, arguments: tuple) -> Callable:
    """`load(*arguments)` on a worker. Raises ValueError where its code for the stage is not the caller's."""
    here = code_version(BY_NAME[stage])
    if here != expected:
        raise ValueError(
            f"a worker has other code for {stage} than the caller ({here[:12]}, not {expected[:12]}): install the same commit "
            "on every node of the cluster (infra/README.md)"
        )
    return load(*arguments)


def output(root: Path, name: str, shard: str = "") -> Path:
    return root / "data" / name / shard


def partial(root: Path, name: str, shard: str = "") -> Path:
    """Where an output is filled: hidden from DVC and from stages that list the shards of another."""
    return root / "data" / ".scratch" / ".partial" / (f"{name}@{shard}" if shard else name)


def clear_beside(target: Path) -> None:
    """Remove what a killed run of an earlier version left beside an output, where others list shards."""
    for left in ("partial", "old"):
        shutil.rmtree(target.with_name(f".{target.name}.{left}"), ignore_errors=True)


def run_stage(root: Path, config: Config, name: str, shard: str = "") -> Report:
    """Make one artefact, whole or not at all.

    Raises ValueError for an unknown stage or shard, OSError with advice when the disk is full.
    """
    stage = BY_NAME.get(name)
    if stage is None:
        raise ValueError(f"no stage {name!r}; there are: {', '.join(BY_NAME)}")
    if stage.partitioned != bool(shard) or (shard and shard not in config.shards):
        allowed = f"one of {', '.join(config.shards)}" if stage.partitioned else "no shard"
        raise ValueError(f"stage {name} takes {allowed}, got {shard!r}")
    scratch = root / "data" / ".scratch" / name / shard
    scratch.mkdir(parents=True, exist_ok=True)
    target = output(root, name, shard)
    with saying_when_full(root):
        clear_beside(target)
        with whole_folder(target, partial(root, name, shard)) as out:
            report = stage.function()(StageContext(root, stage, config, shard, out, scratch))
            report.save(out)
    shutil.rmtree(scratch, ignore_errors=True)
    return report
