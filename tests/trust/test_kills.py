"""SIGKILL at any point of a run: nothing half-written is ever visible, and the next run gives the undisturbed result.

HAND3D_KILLS sets how many points are tried (default 5); HAND3D_KILL_SEED another draw of them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ops import data_version
from tests.assets import fakes
from tests.runners.world import REPOSITORY
from tests.trust import world

KILLS = int(os.environ.get("HAND3D_KILLS", "5"))
SEED = int(os.environ.get("HAND3D_KILL_SEED", "6"))
FIRST, SECOND = world.CONTENTS


class Nursery:
    """tests/trust/nursery.py at work."""

    def __init__(self, root):
        command = [sys.executable, "-W", "ignore", "-m", "tests.trust.nursery", str(root)]
        given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(command, cwd=REPOSITORY, **given)
        assert self.process.stdout.readline() == "ready\n"

    def start(self, stages=world.CHAIN, kill_at=None):
        self.process.stdin.write(json.dumps({"stages": stages, "kill_at": kill_at}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield world.make(tmp_path_factory.mktemp("kills"), patch)


@pytest.fixture(scope="module")
def known(root):
    return world.undisturbed(root)


@pytest.fixture(scope="module")
def nursery(root, known):
    started = Nursery(root)
    yield started
    started.process.stdin.close()
    started.process.wait(timeout=30)


def other(content):
    return SECOND if content == FIRST else FIRST


@pytest.mark.slow
def test_killed_before_any_file_operation(root, known, nursery):
    """Each window between two operations is one point; a seeded sample of them, all with HAND3D_KILLS=10000."""
    content = SECOND
    world.film(root, content)
    nursery.start()
    assert nursery.end() == 0
    operations = int((root / "operations.txt").read_text())
    assert operations > 40, operations
    points = sorted(random.Random(SEED).sample(range(1, operations + 1), min(KILLS, operations)))
    problems = {}
    for point in points:
        content = other(content)
        world.film(root, content)
        nursery.start(kill_at=point)
        killed = nursery.end() == -signal.SIGKILL
        found = world.check(root, known) if killed else ["was not killed"]
        data_version.prepare(root)
        world.run(root)
        found += world.check_healed(root, content, known)
        if found:
            problems[f"operation {point} of {operations}"] = found
    assert not problems, f"HAND3D_KILL_SEED={SEED}: {problems}"


@pytest.mark.slow
def test_killed_at_any_time(root, known, nursery):
    """Kills fall between two instructions anywhere, in the middle of a write too."""
    draw, content, problems, killed = random.Random(SEED), SECOND, {}, 0
    world.film(root, content)
    start = time.monotonic()
    nursery.start()
    assert nursery.end() == 0
    usual = time.monotonic() - start
    for trial in range(KILLS):
        content = other(content)
        world.film(root, content)
        process, after = nursery.start(), draw.uniform(0, usual)
        time.sleep(after)
        os.kill(process, signal.SIGKILL)  # one that has ended waits to be collected until we ask how it ended
        killed += nursery.end() == -signal.SIGKILL
        found = world.check(root, known)
        data_version.prepare(root)
        world.run(root)
        found += world.check_healed(root, content, known)
        if found:
            problems[f"trial {trial}, after {after:.4f} s"] = found
    assert not problems, f"HAND3D_KILL_SEED={SEED}: {problems}"
    assert killed >= KILLS // 3, "most runs had ended before they were killed"


def killed_leftovers(root):
    """What a command killed at a bad time leaves in DVC's own files, which it writes in place."""
    (root / "dvc.lock").write_text((root / "dvc.lock").read_text("utf-8")[:700], encoding="utf-8")
    (root / ".dvc" / "tmp" / "rwlock").write_text("", encoding="utf-8")


def test_what_a_killed_dvc_command_damages_is_mended(root, known, capsys):
    """Of `dvc` itself: our own commits replace dvc.lock in one step."""
    content = next(content for content, found in known.items() if found == world.hashes(root))
    before = data_version.recorded(root)
    killed_leftovers(root)
    with pytest.raises(ValueError, match="`hand3d status` puts the last whole one back"):
        data_version.recorded(root)
    data_version.prepare(root)
    assert capsys.readouterr().err.count("mended") == 2
    assert data_version.recorded(root) == before
    world.run(root)
    assert world.check_healed(root, content, known) == []


def test_leftovers_beside_a_shard_are_no_shard(root, known):
    """As a version that filled folders beside the outputs left them: `*/clips.parquet` finds them too."""
    folder = root / "data" / "raw_videos"
    for name in (".one.partial", ".one.old"):
        fakes.write(folder / name / "clips.parquet", "half")
    world.run(root)
    assert [path.name for path in folder.iterdir()] == [world.SHARD]


def test_a_killed_runner_takes_its_process_along(root, tmp_path):
    """The process that a run worker started for a stage ends with it, though nobody could tell it to."""
    code = (
        "import sys, time; from ops.orphans import leave_with_parent; leave_with_parent(); "
        "print('at work', flush=True); time.sleep(600)"
    )
    parent = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); print(child.pid, flush=True); child.wait()"
    process = subprocess.Popen(
        [sys.executable, "-c", parent, code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    child = int(process.stdout.readline())
    assert process.stdout.readline() == "at work\n"
    process.kill()
    process.wait(timeout=10)
    assert process.stdout.read() == "", "ends when the last writer has gone"
    deadline = time.monotonic() + 30  # it closes its output a moment before it is gone
    while _alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
