"""A code location of fake stages, for a real daemon (HAND3D_ROOT says where): raw_videos says that it has begun, in which
process, and waits until the file `go` is there."""

import os
import time
from pathlib import Path

import dagster as dg
import pytest

from dagster_project import definitions
from ops.stages import Stage
from tests.assets import fakes

ROOT = Path(os.environ["HAND3D_ROOT"])
patch = pytest.MonkeyPatch()
fakes.install(patch, ROOT)


def held(context):
    fakes.write(ROOT / f"begun-{context.shard}.txt", str(os.getpid()))
    while not (ROOT / "go").exists():
        time.sleep(0.1)
    return fakes.run(context)


patch.setattr(Stage, "function", lambda stage: held)


def first_only() -> dg.Definitions:
    """The graph, with a job of raw_videos alone."""
    built = definitions.build(ROOT)
    return dg.Definitions(
        assets=built.assets,
        resources=built.resources,
        executor=dg.in_process_executor,
        jobs=[dg.define_asset_job("first", dg.AssetSelection.assets("raw_videos"))],
    )


defs = first_only()
