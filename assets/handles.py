"""What an asset may ask for, as types: a runner that makes an artefact. Which one it is, the deployment decides."""

import sys
from abc import ABC, abstractmethod
from pathlib import Path

import dagster as dg

from ops import artefacts, config
from ops.artefacts import Artefact
from ops.data_version import address


class StageRunner(dg.ConfigurableResource, ABC):
    """Makes an artefact of the workspace `root` and returns what is known about it.

    The output is whole or absent, checked and recorded here whoever made it, so that every runner gives the same
    artefact: the same bytes, the same data version, the same report.
    """

    root: str

    @property
    def folder(self) -> Path:
        return Path(self.root)

    def settings(self) -> config.Config:
        """params.yaml as it is now."""
        return config.load(self.folder / "params.yaml")

    @abstractmethod
    def run(self, stage: str, shard: str, context: dg.AssetExecutionContext | None = None) -> Artefact:
        """Make it. context: of the step, for runners that speak Dagster Pipes. Raises what the stage raises, or
        RuntimeError with its words where it ran in another process."""

    def load(self, stage: str, shard: str) -> Artefact:
        """Judge one that stands."""
        return artefacts.load(self.folder, self.settings(), stage, shard)


class InProcess(StageRunner):
    """In the step's own process: no start-up cost, the default on one machine."""

    def run(self, stage: str, shard: str, context: dg.AssetExecutionContext | None = None) -> Artefact:
        made = artefacts.make(self.folder, self.settings(), stage, shard)
        print(f"{address(stage, shard)}: made in {made.seconds:.1f} s", file=sys.stderr, flush=True)
        return made
