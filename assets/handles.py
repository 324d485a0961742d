"""What an asset may ask for, as types: a runner that makes an artefact. Which one it is, the deployment decides."""

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import dagster as dg

from ops import artefacts, config
from ops.artefacts import Artefact
from ops.data_version import address
from ops.pipeline import output


class StageRunner(dg.ConfigurableResource, ABC):
    """Makes an artefact of the workspace `root` and returns what is known about it."""

    root: str

    @property
    def folder(self) -> Path:
        return Path(self.root)

    def settings(self) -> config.Config:
        """params.yaml as it is now."""
        return config.load(self.folder / "params.yaml")

    @abstractmethod
    def run(self, stage: str, shard: str) -> Artefact:
        """Make it. Raises whatever the stage raises."""

    def load(self, stage: str, shard: str) -> Artefact:
        """Judge one that stands."""
        return artefacts.load(self.folder, self.settings(), stage, shard)


class InProcess(StageRunner):
    """In the step's own process: no start-up cost, the default on one machine."""

    def run(self, stage: str, shard: str) -> Artefact:
        made = artefacts.make(self.folder, self.settings(), stage, shard)
        print(f"{address(stage, shard)}: made in {made.seconds:.1f} s", file=sys.stderr, flush=True)
        return made


class Subprocess(StageRunner):
    """As `python -m ops run STAGE` in a process of its own; its output is read back from disk, so nothing is lost on
    the way. python: interpreter of the environment that holds the stage's libraries."""

    python: str = sys.executable

    def run(self, stage: str, shard: str) -> Artefact:
        command = [self.python, "-m", "ops", "run", stage, "--root", self.root]
        command += ["--shard", shard] if shard else []
        package = Path(artefacts.__file__).parent.parent
        paths = os.pathsep.join(filter(None, [os.fspath(package), os.environ.get("PYTHONPATH")]))
        before = self._mark(stage, shard)
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths})
        # a new output that a blocking check refuses ends with code 1 as well; it stands, and is judged by load
        if done.returncode and self._mark(stage, shard) == before:
            raise RuntimeError(f"{' '.join(command[1:])} ended with code {done.returncode}: its output says why")
        return self.load(stage, shard)

    def _mark(self, stage: str, shard: str) -> tuple[int, int] | None:
        path = output(self.folder, stage, shard) / "report.json"
        return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None
