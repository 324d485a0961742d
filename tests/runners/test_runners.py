"""In process and subprocess: the same artefact, the same words for a failure, and no trust in messages."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from assets.handles import InProcess
from dagster_project import demo, resources, runners
from ops import data_version, jobs
from tests.assets import fakes
from tests.runners import world


@pytest.fixture
def root(tmp_path, monkeypatch):
    return fakes.ready(tmp_path, monkeypatch)


def subprocess_runner(root):
    return runners.Subprocess(root=str(root), python=world.fake_python(root))


def test_subprocess_gives_the_same_artefact(root):
    here = world.materialise(root, InProcess(root=str(root)), "raw_videos")
    assert here.success
    shutil.rmtree(root / "data" / "raw_videos")
    there = world.materialise(root, subprocess_runner(root), "raw_videos")
    assert there.success, demo.failures(there)
    assert world.version_of(there) == world.version_of(here)
    assert world.metadata_of(there) == world.metadata_of(here)
    assert data_version.recorded_version(root, "raw_videos", "one") == world.version_of(here)
    assert data_version.stale(root, ["raw_videos@one"]) == {}


def test_failure_comes_back_in_the_stages_words(root):
    fakes.write(root / fakes.FAIL, "raw_videos one")
    result = world.materialise(root, subprocess_runner(root), "raw_videos")
    assert not result.success
    assert (
        demo.failures(result)["raw_videos"]
        == "RuntimeError: ValueError: raw_videos: told to fail; take it out of fail.txt"
    )
    assert not (root / "data" / "raw_videos" / "one").exists()


def test_lost_messages_lose_nothing(root, monkeypatch):
    """Pipes drops what it cannot read; then the files on disk count, and the run says so."""
    monkeypatch.setattr("dagster._core.pipes.context.PipesMessageHandler.handle_message", lambda *_: None)
    result = world.materialise(root, subprocess_runner(root), "raw_videos")
    assert result.success
    assert world.metadata_of(result)["rows/clips"] == 2
    assert world.version_of(result) == data_version.recorded_version(root, "raw_videos", "one")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("report.json", "left no report.json"),
        ("clips.parquet", "holds other bytes than the job attested"),
    ],
)
def test_output_that_is_not_what_was_attested_fails(root, monkeypatch, damage, why):
    real = jobs.attested

    def damaging(path):
        said = real(path)
        (root / "data" / "raw_videos" / "one" / damage).unlink()
        return said

    monkeypatch.setattr(jobs, "attested", damaging)
    result = world.materialise(root, subprocess_runner(root), "raw_videos")
    assert not result.success
    assert why in demo.failures(result)["raw_videos"]
    assert data_version.recorded_version(root, "raw_videos", "one") is None


def test_message_that_contradicts_the_disk_fails(root, monkeypatch):
    real = jobs.attested
    monkeypatch.setattr(jobs, "attested", lambda path: replace(real(path), files="0" * 64))
    result = world.materialise(root, subprocess_runner(root), "raw_videos")
    assert "reported other files" in demo.failures(result)["raw_videos"]


def test_killed_process_is_named_and_leaves_nothing(root, tmp_path):
    script = tmp_path / "bin" / "killed"
    fakes.write(script, "#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    result = world.materialise(root, runners.Subprocess(root=str(root), python=str(script)), "raw_videos")
    assert "code -9, but it left no made.json: killed (out of memory?)" in demo.failures(result)["raw_videos"]
    assert not (root / "data" / "raw_videos" / "one").exists()


def test_other_code_is_refused_before_it_runs(root):
    attest = root / "made.json"
    with pytest.raises(ValueError, match="has other code for raw_videos than the caller"):
        jobs.work(root, "raw_videos", "one", attest, expect_code="0" * 64)
    assert fakes.ran(root) == []
    assert "ValueError: this image" in json.loads(attest.read_text(encoding="utf-8"))["error"]


def test_gpu_is_asserted_and_only_where_the_stage_wants_one(root):
    import torch

    assert "--require-gpu" not in jobs.arguments("raw_videos", "one", ".", "x", require_gpu=True)
    assert "--require-gpu" in jobs.arguments("mano_fits", "one", ".", "x", require_gpu=True)
    if torch.cuda.is_available():
        assert jobs.gpu()
        return
    with pytest.raises(ValueError, match=r"a GPU was required, but torch .* sees none"):
        jobs.work(root, "mano_fits", "one", root / "made.json", require_gpu=True)
    assert fakes.ran(root) == []


def test_a_job_sees_its_inputs_and_nothing_else(root):
    fakes.write(
        root / "params.yaml", (root / "params.yaml").read_text("utf-8") + "objects: {grounding_dino: models/dino}\n"
    )
    fakes.write(root / "models" / "dino" / "weights.bin", "x")
    for name in ("raw_videos", "mano_fits", "point_clouds"):
        assert world.materialise(root, InProcess(root=str(root)), name).success
    from ops import config

    job = jobs.plan(root, config.load(root / "params.yaml"), "objects", "one")
    seen = {mount.target: mount.writable for mount in job.mounts}
    assert {target for target, writable in seen.items() if writable} == {
        "/workspace/data",
        "/workspace/data/.scratch/objects/one",
    }
    read_only = {target for target, writable in seen.items() if not writable}
    assert {"params.yaml", "videos/one", "data/raw_videos/one", "data/mano_fits/one", "data/point_clouds/one"} <= {
        target.removeprefix("/workspace/") for target in read_only
    }
    assert not [target for target in read_only if "two" in target]
    assert (job.folder / "data" / "mano_fits" / "one").is_dir(), "mount points are ours, not the engine's"


def test_folders_of_killed_callers_are_cleared_and_those_of_living_ones_kept(root):
    from ops import config

    settings = config.load(root / "params.yaml")
    jobs_of = [jobs.plan(root, settings, "raw_videos", shard) for shard in fakes.SHARDS]
    host = jobs.owner().split()[0]
    fakes.write(jobs_of[0].folder / jobs.OWNER, f"{host} {2**22 + 1} 1.00")
    assert jobs.clear_abandoned(root) == [jobs_of[0].folder]
    assert jobs_of[1].folder.is_dir()
    assert not jobs.owner_gone("another-host 1 1.00"), "of another machine nothing is known"
    assert jobs.owner_gone(f"{host} {os.getpid()} 1.00"), "the number is used again by a younger process"


def test_every_stage_has_an_image_and_tracked_ones_are_known():
    from ops.stages import BY_NAME

    named = [name for names in jobs.ENVIRONMENTS.values() for name in names]
    assert [name for name in named if name not in BY_NAME] == []
    assert len(named) == len(set(named))
    tracked = {name for name, stage in BY_NAME.items() if jobs.tracked(stage)}
    assert {"stage1_checkpoint", "posttrained_policies", "champion"} <= tracked
    assert not {"raw_videos", "mano_fits", "hand3d_visual"} & tracked


def test_missing_extra_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hand3d-pipeline\[k8s\]'"):
        runners.require("a_module_that_is_not_there", "k8s")


@pytest.mark.parametrize("image", ["", "hand3d:latest", "registry/hand3d", "hand3d@sha256:12"])
def test_image_that_can_change_under_its_name_is_refused(image):
    with pytest.raises(ValueError, match="HAND3D_IMAGE_LABELLING must be an image pinned by digest"):
        runners.pinned({"labelling": image}, "labelling")
    assert runners.pinned({"labelling": f"r/h@sha256:{'a' * 64}"}, "labelling")


def test_settings_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND3D_DEPLOYMENT", "docker")
    monkeypatch.setenv("HAND3D_IMAGE_LABELLING", "sha256:" + "a" * 64)
    monkeypatch.setenv("HAND3D_MEMORY", "3g")
    monkeypatch.setenv("HAND3D_GPU", "required")
    runner = resources.resources(tmp_path)["runner"]
    assert (type(runner).__name__, runner.memory, runner.require_gpu) == ("Docker", "3g", True)
    assert runner.images == {"labelling": "sha256:" + "a" * 64}
    monkeypatch.setenv("HAND3D_GPU", "maybe")
    with pytest.raises(ValueError, match="HAND3D_GPU is off or required, got 'maybe'"):
        resources.resources(tmp_path)


def test_terminated_process_ends_at_once(root):
    """As process 1 of a container it would ignore SIGTERM, and be killed after ten seconds."""
    script = (
        "import time; from ops import __main__ as c; c.main = lambda _: (print('at work', flush=True), time.sleep(60)); "
        "from assets import piped; piped.main()"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, "--attest", "x"]
    process = subprocess.Popen(command, cwd=world.REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert "at work" in process.stdout.readline()  # however long the start takes
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 143
