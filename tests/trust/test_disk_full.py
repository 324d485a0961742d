"""A full disk: the message says so, nothing that stood is lost, and the next run goes on once there is room.

The workspace lies on a small file system of its own, mounted for the test.
"""

import contextlib
import json
import os
import re
import subprocess
import sys

import pytest

from ops import artefacts, data_version, pipeline
from ops.jobs import files_hash
from ops.stages import Stage
from tests.assets import fakes
from tests.runners.world import REPOSITORY
from tests.trust import world

MB = 1_000_000
LANE = """
import json, sys
from pathlib import Path
import pytest
from tests.assets import fakes
from dagster_project import demo, home
root = Path(sys.argv[1])
with pytest.MonkeyPatch.context() as patch:
    fakes.install(patch, root)
    home.prepare(root)
    try:
        print("FAILED" + json.dumps(demo.run_lane(demo.Lane("one", "label_shard", "one", ("raw_videos",)), str(root)).failed))
    except Exception as error:
        print("RAISED" + json.dumps(f"{type(error).__name__}: {error}"))
"""


@pytest.fixture
def disk(tmp_path):
    """A folder on 24 MB; `.grow` gives it more room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs to be root, and allowed to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def root(disk, monkeypatch):
    return world.make(disk, monkeypatch)


def fill(root, left=0):
    """Take all room but `left` bytes."""
    stat = os.statvfs(root)
    with (root / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        file.write(bytes(max(0, stat.f_bavail * stat.f_frsize - left)))
        while left == 0:
            file.write(b" ")


def make_room(root):
    (root / "ballast").unlink()


def large(context):
    report = fakes.run(context)
    (context.out / "large.bin").write_bytes(bytes(30 * MB))
    return report


def test_while_a_stage_writes(root, monkeypatch):
    artefacts.make(root, world.settings(root), "raw_videos", "one")
    made = files_hash(pipeline.output(root, "raw_videos", "one"))
    world.film(root, "another video")
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "function", lambda stage: large)
        with pytest.raises(OSError, match=r"the disk holding .* is full .* free space and run again"):
            artefacts.make(root, world.settings(root), "raw_videos", "one")
    assert files_hash(pipeline.output(root, "raw_videos", "one")) == made
    assert os.statvfs(root).f_bavail * os.statvfs(root).f_frsize > 20 * MB, "the half that was written is gone"
    artefacts.make(root, world.settings(root), "raw_videos", "one")
    assert files_hash(pipeline.output(root, "raw_videos", "one")) != made
    assert data_version.stale(root, ["raw_videos@one"]) == {}


def test_while_dvc_records(root, monkeypatch):
    """The disk fills between the stage's end and its record in dvc.lock and the cache."""
    artefacts.make(root, world.settings(root), "raw_videos", "one")
    before = data_version.recorded(root)
    world.film(root, "another video")
    judge = artefacts._judged

    def filled(*given, **named):
        fill(root)
        return judge(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "_judged", filled)
        with pytest.raises(OSError, match=r"the disk holding .* is full .* free space and run again"):
            artefacts.make(root, world.settings(root), "raw_videos", "one")
    assert data_version.recorded(root) == before, "whole, and of the version before"
    make_room(root)
    assert "raw_videos@one" in data_version.stale(root, ["raw_videos@one"])
    artefacts.make(root, world.settings(root), "raw_videos", "one")
    assert data_version.stale(root, ["raw_videos@one"]) == {}
    assert world._cache(root) == []


@pytest.mark.slow
def test_while_dagster_keeps_its_events(root):
    """Its database lies on the full disk too: the run cannot even say that it failed."""
    lane = [sys.executable, "-W", "ignore", "-c", LANE, str(root)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}

    def run():
        done = subprocess.run(lane, env=environment, capture_output=True, text=True)
        line = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "RAISED"))), "")
        assert line, done.stderr[-2000:]
        return line[:6], json.loads(line[6:])

    assert run() == ("FAILED", {})
    made = files_hash(pipeline.output(root, "raw_videos", "one"))
    world.film(root, "another video")
    fill(root)
    _, said = run()
    assert said, "it does not claim to have worked"
    assert re.search(r"full|No space left|disk I/O error", json.dumps(said)), said
    assert files_hash(pipeline.output(root, "raw_videos", "one")) == made
    make_room(root)
    assert run() == ("FAILED", {})
    assert files_hash(pipeline.output(root, "raw_videos", "one")) != made
    assert data_version.stale(root, ["raw_videos@one"]) == {}


@pytest.mark.slow
def test_while_mlflow_keeps_a_run(root):
    from ops import tracking
    from ops.config import SyntheticConfig

    with tracking.start_run(root, "stage1", SyntheticConfig(), {}) as run:
        run.metric("loss", 1.0)
    fill(root)
    full = pytest.raises(Exception, match=r"disk is full|No space left|disk I/O error")
    with full, tracking.start_run(root, "stage1", SyntheticConfig(), {}) as other:
        other.metric("loss", 0.5)
    make_room(root)
    assert tracking.run_metrics(root, run.run_id)["loss"] == 1.0
    with tracking.start_run(root, "stage1", SyntheticConfig(), {}) as other:
        other.metric("loss", 0.5)
    assert tracking.run_metrics(root, other.run_id)["loss"] == 0.5
