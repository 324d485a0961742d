"""A code location with fake stages, for a real daemon: `dagster dev --python-file` of this file. Not a test."""

import os
from pathlib import Path

import dagster as dg
import pytest

from dagster_project import definitions
from tests.assets import fakes

fakes.install(pytest.MonkeyPatch(), Path(os.environ["HAND3D_ROOT"]))


@dg.definitions
def defs() -> dg.Definitions:
    return definitions.build(Path(os.environ["HAND3D_ROOT"]))
