"""Two runs of the same partition at once: one waits for the other, or is refused with words that help."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from ops import artefacts, data_version, pipeline, turns
from ops.jobs import files_hash
from ops.stages import Stage
from ops.store import Report
from tests.assets import fakes
from tests.runners.world import REPOSITORY
from tests.trust import world

HOLD = "import sys; from pathlib import Path; from ops import config, turns; root = Path(sys.argv[1])\nwith turns.alone(root, config.load(root / 'params.yaml'), *sys.argv[2:]): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def root(tmp_path, monkeypatch):
    return world.make(tmp_path, monkeypatch)


class Holder:
    """Another process that is at work on an artefact until it is told to stop, or is killed."""

    def __init__(self, root, *address):
        command = [sys.executable, "-c", HOLD, str(root), *address]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "held\n"

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)


def test_two_makers_do_not_mix_and_the_second_takes_what_the_first_made(root, monkeypatch):
    """Both write their own name into every file. Without turns the second emptied the folder that the first was filling."""
    inside, most = [], []

    def slow(context):
        inside.append(threading.get_ident())
        most.append(len(inside))
        for number in range(5):
            fakes.write(context.out / f"{number}.txt", str(threading.get_ident()))
            time.sleep(0.05)
        inside.remove(threading.get_ident())
        return fakes.run(context)

    monkeypatch.setattr(Stage, "function", lambda stage: slow)
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(artefacts.make(root, world.settings(root), "raw_videos", "one")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert [most, len(made)] == [[1], 2], "made once, and given to both"
    writers = {(pipeline.output(root, "raw_videos", "one") / f"{number}.txt").read_text() for number in range(5)}
    assert len(writers) == 1
    assert {artefact.version for artefact in made} == {data_version.recorded_version(root, "raw_videos", "one")}


def test_waiting_is_said_and_ends_with_the_other(root, capfd):
    holder = Holder(root, "raw_videos", "one")
    threading.Timer(1.0, holder.end).start()
    assert artefacts.make(root, world.settings(root), "raw_videos", "one").seconds > 0
    said = capfd.readouterr().err
    assert (
        f"raw_videos@one is in use by a run that makes or reads it (last made by process {holder.process.pid}" in said
    )
    assert "waiting (Ctrl-C gives up)" in said


def test_a_killed_holder_holds_nothing(root):
    holder = Holder(root, "raw_videos", "one")
    holder.process.kill()
    holder.process.wait(timeout=20)
    artefacts.make(root, world.settings(root), "raw_videos", "one")


def test_impatient_run_is_refused(root, monkeypatch):
    monkeypatch.setenv("HAND3D_WAIT_S", "0.3")
    holder = Holder(root, "mano_fits", "one")
    try:
        for stage in ("mano_fits", "raw_videos"):  # it makes the one, and reads the other
            with pytest.raises(turns.BusyError, match=f"{stage}@one is in use by .* run again when it has ended"):
                artefacts.make(root, world.settings(root), stage, "one")
        artefacts.make(root, world.settings(root), "raw_videos", "two")  # another partition is another matter
    finally:
        holder.end()
    monkeypatch.setenv("HAND3D_WAIT_S", "soon")
    with pytest.raises(ValueError, match="HAND3D_WAIT_S is a number of seconds, got 'soon'"):
        artefacts.make(root, world.settings(root), "raw_videos", "one")


def test_readers_do_not_wait_for_each_other(root):
    artefacts.make(root, world.settings(root), "raw_videos", "one")
    holder = Holder(root, "mano_fits", "one")
    try:
        with turns.alone(root, world.settings(root), "hand3d_action", "two") as waited:
            assert not waited
        with turns._lock(root, "raw_videos@one", ours=False) as waited:
            assert not waited
    finally:
        holder.end()


@pytest.mark.slow
def test_dvc_repro_beside_a_run_is_refused_and_not_stuck(root, monkeypatch):
    """`dvc repro` holds DVC's lock, which the other run needs to record: were it to wait, both would wait for ever."""
    artefacts.make(root, world.settings(root), "raw_videos", "one")
    world.film(root, "another video")
    holder = Holder(root, "raw_videos", "one")
    script = root / "bin" / "hand3d"
    environment = fakes.environment(root)
    script.write_text(
        script.read_text("utf-8").replace(
            "sys.exit(main())", "from ops import turns; turns.WAIT_INSIDE_DVC_S = 0.5; sys.exit(main())"
        )
    )
    refused = subprocess.run(
        ["dvc", "repro", "raw_videos@one"], cwd=root, env=environment, capture_output=True, text=True
    )
    holder.end()
    assert refused.returncode != 0
    assert "raw_videos@one is in use by" in refused.stderr
    artefacts.make(root, world.settings(root), "raw_videos", "one")
    assert data_version.stale(root, ["raw_videos@one"]) == {}


def test_a_run_waits_for_dvc_repro(root, capfd):
    """DVC lists what it is making; the list here is one that it would write."""
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    writing = {os.fspath(root.resolve() / "data" / "raw_videos" / "one"): {"pid": other.pid, "cmd": "dvc repro"}}
    listed = root / ".dvc" / "tmp" / "rwlock"
    fakes.write(listed, json.dumps({"write": writing, "read": {}}))

    def end():
        listed.write_text('{"write": {}, "read": {}}')
        other.communicate()

    threading.Timer(1.0, end).start()
    artefacts.make(root, world.settings(root), "raw_videos", "one")
    assert f"raw_videos@one is in use by `dvc repro` (process {other.pid}): waiting" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["parameters", "code", "videos"])
def test_inputs_that_change_meanwhile_are_not_recorded_as_those_it_was_made_from(root, monkeypatch, kind):
    """DVC hashes inputs when the work is done: the edit would count as what the output was made from, and as up to date."""
    changes = {
        "parameters": lambda: fakes.write(
            root / "params.yaml", (root / "params.yaml").read_text("utf-8").replace("0.3", "0.4")
        ),
        "code": lambda: fakes.write(root / "code" / "mano_fits.py", "# edited\n"),
        "videos": lambda: world.film(root, "edited"),
    }
    stage = "raw_videos" if kind == "videos" else "mano_fits"
    if stage == "mano_fits":
        artefacts.make(root, world.settings(root), "raw_videos", "one")

    def edited(context) -> Report:
        report = fakes.run(context)
        changes[kind]()
        return report

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "function", lambda _: edited)
        with pytest.raises(ValueError, match=f"{kind} changed while {stage}@one was made: .* run it again"):
            artefacts.make(root, world.settings(root), stage, "one")
    assert f"{stage}@one" in data_version.stale(root, [f"{stage}@one"])
    artefacts.make(root, world.settings(root), stage, "one")
    assert data_version.stale(root, [f"{stage}@one"]) == {}
    assert files_hash(pipeline.output(root, stage, "one"))
