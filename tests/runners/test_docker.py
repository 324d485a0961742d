"""Docker: what a container may do (always), and the same op in a container of a real engine (marked `container`).

The engine is the one that DOCKER_HOST or the default socket names, else one out of Debian's packages, which needs root and
apt; the image is built by infra/docker/build.py on a Debian root file system, with fewer packages than the real ones.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from assets.handles import InProcess
from dagster_project import demo, runners
from ops import config, data_version, jobs
from tests.assets import fakes
from tests.runners import world

IMAGE = "sha256:" + "a" * 64
PACKAGES = [
    *("av", "dagster-pipes", "jaxtyping", "numpy", "opencv-python", "pandas", "pandera", "pillow", "polars", "psutil"),
    *("pyarrow", "pyyaml"),
]


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A Docker runner on a fake workspace, and the job of raw_videos in it."""
    root = fakes.workspace(tmp_path)
    fakes.install(monkeypatch, root)
    runner = runners.Docker(root=str(root), images={"labelling": IMAGE}, memory="1g")
    return runner, jobs.plan(root, config.load(root / "params.yaml"), "raw_videos", "one")


def test_container_is_shut_in(planned):
    runner, job = planned
    given = runner.container(job)
    assert given["network_mode"] == "none"
    assert given["user"] == "10001:10001"
    assert (given["mem_limit"], given["memswap_limit"], given["read_only"]) == ("1g", "1g", True)
    assert (given["cap_drop"], given["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert "privileged" not in given
    assert not [mount for mount in given["mounts"] if "docker.sock" in mount["Source"]]
    writable = {mount["Target"] for mount in given["mounts"] if not mount["ReadOnly"]}
    assert writable == {"/workspace/data", "/workspace/data/.scratch/raw_videos/one"}


def test_secrets_and_network_only_for_stages_that_track(planned, monkeypatch):
    runner, job = planned
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert "MLFLOW_TRACKING_PASSWORD" not in runners.variables(job)
    tracked = jobs.Job("stage1_checkpoint", "", job.folder, (), True)
    assert runners.variables(tracked)["MLFLOW_TRACKING_PASSWORD"] == "secret"
    with pytest.raises(ValueError, match="HAND3D_TRACKING_NETWORK"):
        runner.network(tracked)
    assert runner.model_copy(update={"tracking_network": "hand3d"}).network(tracked) == "hand3d"


def test_workers_are_the_deployments_also_in_a_container(planned, monkeypatch):
    """Processes work there; a cluster elsewhere cannot be reached without a network, which is said before anything starts."""
    runner, job = planned
    monkeypatch.setenv("HAND3D_WORKERS", "processes:3")
    assert runners.variables(job)["HAND3D_WORKERS"] == "processes:3"
    assert runner.network(job) == "none"
    monkeypatch.setenv("HAND3D_WORKERS", "ray:head:6379")
    with pytest.raises(ValueError, match="no network to reach the Ray cluster that HAND3D_WORKERS names"):
        runner.network(job)
    assert runner.network(jobs.Job("robot_demonstrations", "", job.folder, (), False)) == "none", "it has no clips"


def test_gpu_is_requested_for_stages_that_want_one(planned):
    runner, job = planned
    runner = runner.model_copy(update={"require_gpu": True})
    assert runner.container(job)["device_requests"] is None
    wants = jobs.Job("mano_fits", "one", job.folder, (), False)
    assert runner.container(wants)["device_requests"][0]["Capabilities"] == [["gpu"]]
    assert "--require-gpu" in wants.arguments(require_gpu=True)


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """A client of a real engine; skips, saying why, where none can start."""
    import docker
    from docker.errors import DockerException

    try:
        yield docker.from_env()
        return
    except DockerException:
        pass
    folder = tmp_path_factory.mktemp("engine")
    script = world.REPOSITORY / "infra" / "docker" / "engine.sh"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("no container engine answers, and starting one out of Debian's packages needs root and apt-get")
    packages = cache() / "engine-packages"
    os.environ["HAND3D_ENGINE_PACKAGES"] = str(packages)
    started = subprocess.run([script, "start", folder], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"no container engine starts here: {started.stderr.strip()[-300:]}")
    os.environ["DOCKER_HOST"] = started.stdout.strip().split("=", 1)[1]
    os.environ["PATH"] = os.pathsep.join([str(packages / "usr" / "bin"), os.environ["PATH"]])
    try:
        yield docker.from_env()
    finally:
        subprocess.run([script, "stop", folder], check=True)
        del os.environ["DOCKER_HOST"]


def cache() -> Path:
    from ops.bootstrap import cache_dir

    cache_dir().mkdir(parents=True, exist_ok=True)
    return cache_dir()


def builder():
    """infra/docker/build.py, which is a script, as a module."""
    spec = spec_from_file_location("build", world.REPOSITORY / "infra" / "docker" / "build.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def image(engine):
    """Digest of a labelling image with what raw_videos needs. HAND3D_TEST_IMAGE names one that is built already."""
    if "HAND3D_TEST_IMAGE" in os.environ:
        return os.environ["HAND3D_TEST_IMAGE"]
    build = builder()
    tar = cache() / "bookworm-python.tar"
    if not tar.is_file():
        partial = tar.with_name(f".{os.getpid()}.tar")
        build.make_root_file_system(build.PYTHON, partial)
        partial.rename(tar)
    build.import_base("localhost/hand3d-test-base:1", tar)
    tag = build.build("labelling", build.lock("labelling", PACKAGES), "localhost/hand3d-test-base:1", True, [])
    return build.digest(tag, None)


@pytest.fixture
def docker_runner(tmp_path, image):
    return runners.Docker(root=str(world.real(tmp_path)), images={"labelling": image}, memory="1g")


@pytest.mark.container
@pytest.mark.slow
def test_container_gives_the_same_bytes_as_this_process_and_a_subprocess(docker_runner, engine):
    root = docker_runner.folder
    versions, bytes_of = {}, {}
    for name, runner in {
        "here": InProcess(root=str(root)),
        "subprocess": runners.Subprocess(root=str(root)),
        "docker": docker_runner,
    }.items():
        shutil.rmtree(root / "data" / "raw_videos", ignore_errors=True)
        result = world.materialise(root, runner, "raw_videos")
        assert result.success, demo.failures(result)
        versions[name] = world.version_of(result)
        bytes_of[name] = jobs.files_hash(root / "data" / "raw_videos" / "one")
        assert world.metadata_of(result)["rejected/corrupt_video"] == 1
    assert len(set(bytes_of.values())) == 1, bytes_of
    assert set(versions.values()) == {data_version.recorded_version(root, "raw_videos", "one")}
    assert data_version.stale(root, ["raw_videos@one"]) == {}
    assert left(engine) == []
    assert list((root / "data" / ".scratch" / ".jobs").iterdir()) == []


@pytest.mark.container
@pytest.mark.slow
def test_inside_there_is_no_network_no_root_and_nothing_to_write(docker_runner, engine, image):
    root = docker_runner.folder
    job = jobs.plan(root, config.load(root / "params.yaml"), "raw_videos", "one")
    jobs.give(job, docker_runner.user)
    probe = (
        "import os, socket\nfrom pathlib import Path\n"
        "print('uid', os.getuid())\nprint('interfaces', [name for _, name in socket.if_nameindex()])\n"
        "for path in ('/workspace/videos/one/a.mp4', '/workspace/params.yaml', '/opt/hand3d/x', '/workspace/data/x', '/tmp/x'):\n"
        "    try:\n        open(path, 'ab').close(); print(path, 'written')\n"
        "    except OSError as error:\n        print(path, 'refused')\n"
        "print('memory', Path('/sys/fs/cgroup/memory/memory.limit_in_bytes').read_text().strip() if "
        "Path('/sys/fs/cgroup/memory/memory.limit_in_bytes').exists() else Path('/sys/fs/cgroup/memory.max').read_text().strip())\n"
    )
    given = docker_runner.container(job) | {"entrypoint": ["python3", "-c"]}
    said = engine.containers.run(image, [probe], remove=True, **given).decode()
    lines = dict(line.split(" ", 1) for line in said.splitlines())
    assert lines == {
        "uid": "10001",
        "interfaces": "['lo']",
        "/workspace/videos/one/a.mp4": "refused",
        "/workspace/params.yaml": "refused",
        "/opt/hand3d/x": "refused",
        "/workspace/data/x": "written",
        "/tmp/x": "written",
        "memory": str(2**30),
    }


@pytest.mark.container
@pytest.mark.slow
def test_failures_in_a_container_come_back_and_leave_no_container(docker_runner, engine):
    root = docker_runner.folder
    small = runners.Docker(root=str(root), images=docker_runner.images, memory="12m")
    small = world.materialise(root, small, "raw_videos")
    assert "left no made.json: killed (out of memory?)" in demo.failures(small)["raw_videos"]
    shutil.rmtree(root / "videos" / "one")
    (root / "videos" / "one").mkdir()
    result = world.materialise(root, docker_runner, "raw_videos")
    assert "ValueError: no clip in" in demo.failures(result)["raw_videos"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "code_version", lambda _: "0" * 64)
        refused = demo.failures(world.materialise(root, docker_runner, "raw_videos"))["raw_videos"]
    assert "has other code for raw_videos than the caller" in refused
    assert not (root / "data" / "raw_videos" / "one").exists()
    assert left(engine) == []


HELD = (
    "import sys, time\nfrom pathlib import Path\nfrom assets import piped\nfrom ops import jobs, store\n"
    "def hold(*_):\n    Path('/workspace/data/held').touch()\n    time.sleep(600)\n"
    "{at} = hold\nsys.exit(piped.main(sys.argv[1:]))\n"
)
"""The real job, which stops where it is about to do `at`, says so, and waits for its end."""


@pytest.mark.container
@pytest.mark.slow
def test_a_container_killed_in_mid_work_leaves_what_stood_and_a_rerun_heals(docker_runner, engine, monkeypatch):
    """SIGKILL before the output is whole, before it is attested, and after it was."""
    root = docker_runner.folder
    assert world.materialise(root, InProcess(root=str(root)), "raw_videos").success
    stood, lock = files_of(root), (root / "dvc.lock").read_bytes()
    (root / "videos" / "one" / "broken.mp4").unlink()
    said = {
        "store.replace_folder": "left no made.json: killed",  # its output is half of one: report.json is not in place
        "jobs.files_hash": "left no made.json: killed",
        "piped.jobs.attested": "though it attested an output",
    }
    for at, why in said.items():
        monkeypatch.setattr(runners, "ENTRY", ["python3", "-c", HELD.format(at=at)])
        result = killed_when_held(root, docker_runner, engine)
        failure = demo.failures(result)["raw_videos"]
        assert why in failure
        assert "137" in failure, "the signal is named"
        assert (files_of(root), (root / "dvc.lock").read_bytes()) == (stood, lock), at
        assert left(engine) == []
        assert list((root / "data" / ".scratch" / ".jobs").iterdir()) == []
    monkeypatch.undo()
    assert list(data_version.stale(root, ["raw_videos@one"])) == ["raw_videos@one"]
    again = world.materialise(root, docker_runner, "raw_videos")
    assert again.success, demo.failures(again)
    assert files_of(root) != stood
    assert world.version_of(again) == data_version.recorded_version(root, "raw_videos", "one")
    assert data_version.stale(root, ["raw_videos@one"]) == {}


def killed_when_held(root, runner, engine):
    """Materialise; as soon as the container says that it waits, it is killed."""

    def kill():
        deadline = time.monotonic() + 120
        while not list((root / "data" / ".scratch" / ".jobs").glob("*/data/held")):
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        (container,) = engine.containers.list(filters={"label": runners.JOB_LABEL})
        container.kill("SIGKILL")

    killer = threading.Thread(target=kill)
    killer.start()
    result = world.materialise(root, runner, "raw_videos")
    killer.join()
    return result


def files_of(root) -> dict[str, str]:
    """What a reader finds of the stage: folder -> hash over its files."""
    return {path.name: jobs.files_hash(path) for path in (root / "data" / "raw_videos").iterdir()}


@pytest.mark.container
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_terminated_run_leaves_no_container(docker_runner, engine, image, how):
    """SIGINT is how Dagster ends a step; after SIGKILL the next container takes the old one along."""
    root = docker_runner.folder
    code = (
        "from pathlib import Path; from dagster_project import runners; from tests.runners import world;"
        "runners.ENTRY[:] = ['python3', '-c', 'import time; time.sleep(100)'];"
        f"runner = runners.Docker(root={str(root)!r}, images={{'labelling': {image!r}}}, memory='1g');"
        f"world.materialise(Path({str(root)!r}), runner, 'raw_videos')"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], cwd=world.REPOSITORY)
    deadline = time.monotonic() + 60
    while not left(engine) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left(engine)
    process.send_signal(how)
    process.wait(timeout=60)
    if how == signal.SIGKILL:
        assert left(engine), "nobody could tidy up"
        with runners.containers_removed("another"):
            pass
    assert left(engine) == []


def left(engine) -> list[str]:
    return [item.name for item in engine.containers.list(all=True, filters={"label": runners.JOB_LABEL})]
