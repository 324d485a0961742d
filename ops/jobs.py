"""A stage as a job for another process: what it may see, what it runs, and how its output comes back.

The same plan serves a subprocess, a container and a Kubernetes job. A container sees the inputs that the stage declares
and nothing else, read-only, and writes into a folder of its own; the caller checks the output against the attestation
that the job left beside it, and renames it into place. So a job that dies leaves nothing, and one that lies is found out.
"""

import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ops import config as configuration
from ops.code_version import code_files, code_version, imported
from ops.config import Config
from ops.data_version import address
from ops.pipeline import output, run_stage
from ops.stages import BY_NAME, Stage
from ops.store import replace_folder, write_file

WORKSPACE = "/workspace"
"""Where a container sees the workspace."""
ATTESTATION = "made.json"
OWNER = "owner.txt"
ENVIRONMENTS = {
    "training": ("base_model", "stage1_checkpoint", "stage2_checkpoint", "posttrained_policies"),
    "simulator": ("robot_demonstrations", "benchmark_scores"),
    "orchestrator": ("champion",),
}
"""Image of a stage; what is not named here runs in "labelling"."""


@dataclass(frozen=True)
class Attestation:
    """What a job says about itself. files: hash over names and bytes of the output folder. error: why there is none."""

    stage: str
    shard: str
    files: str = ""
    seconds: float = 0.0
    device: str = "cpu"
    error: str = ""


@dataclass(frozen=True)
class Mount:
    """source: absolute path of the machine. target: absolute path in the container."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Job:
    """One stage of one shard. folder: its own, in which `data` is what the container sees as the workspace's data."""

    stage: str
    shard: str
    folder: Path
    mounts: tuple[Mount, ...]
    tracked: bool

    @property
    def attestation(self) -> Path:
        return self.folder / "data" / ATTESTATION

    def arguments(self, require_gpu: bool = False) -> list[str]:
        """Of `hand3d run`, inside the container."""
        return arguments(self.stage, self.shard, WORKSPACE, f"{WORKSPACE}/data/{ATTESTATION}", require_gpu)


def arguments(stage: str, shard: str, root: str, attest: str, require_gpu: bool = False) -> list[str]:
    """Of `hand3d run`, for a job whose caller checks and records the output. require_gpu: where the stage uses one."""
    words = [stage, *(["--shard", shard] if shard else []), "--root", root, "--attest", attest]
    words += ["--expect-code", code_version(BY_NAME[stage])]
    return words + (["--require-gpu"] if require_gpu and BY_NAME[stage].gpu else [])


def environment(stage: str) -> str:
    """Name of the image that holds a stage's libraries."""
    return next((name for name, stages in ENVIRONMENTS.items() if stage in stages), "labelling")


def tracked(stage: Stage) -> bool:
    """Whether it writes to MLflow, and so needs a network and the server's address."""
    return any("ops.tracking" in imported(path) for path in code_files(stage))


def plan(root: Path, config: Config, name: str, shard: str = "") -> Job:
    """Mounts of a job, with a fresh folder for it. Raises FileNotFoundError for an input that is not there."""
    stage = BY_NAME[name]
    folder = _jobs(root) / f"{address(name, shard)}.{uuid.uuid4().hex[:12]}"
    scratch = root / "data" / ".scratch" / name / shard
    inputs = {path: _inside(root, path) for path in _inputs(root, config, stage, shard)}
    for path in inputs:
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: `hand3d status` tells what to run first")
    own = f"{WORKSPACE}/data/.scratch/{name}" + (f"/{shard}" if shard else "")
    mounts = [Mount(folder / "data", f"{WORKSPACE}/data", True), Mount(scratch, own, True)]
    mounts += [Mount(path.resolve(), target) for path, target in inputs.items()]
    _make_mount_points(folder, scratch, mounts)
    write_file(folder / OWNER, owner().encode())
    return Job(name, shard, folder, tuple(mounts), tracked(stage))


def _inputs(root: Path, config: Config, stage: Stage, shard: str) -> Iterator[Path]:
    """Whatever a stage may read, each path once; of a path inside another the outer one."""
    paths = [root / "params.yaml", *(path for path in [root / "dvc.lock"] if path.is_file())]
    for name in stage.reads:
        per_shard = BY_NAME[name].partitioned and stage.partitioned
        paths.append(output(root, name, shard if per_shard else ""))
    paths += [root / file for file in stage.files]
    shards = [config.shards[shard]] if shard else list(config.shards.values())
    if stage.partitioned or "raw_videos" in stage.reads:
        paths += [root / item.root for item in shards]
    sections = [asdict(getattr(config, name)) for name in stage.params] + [asdict(item) for item in shards]
    for value in (value for section in sections for value in section.values()):
        if isinstance(value, str) and value.strip("./") and (root / value).exists():
            paths.append(root / value)
    unique = sorted({Path(os.path.normpath(path)) for path in paths})
    return (path for path in unique if not any(path != other and path.is_relative_to(other) for other in unique))


def _inside(root: Path, path: Path) -> str:
    """The workspace's paths move with it, others keep their name."""
    return f"{WORKSPACE}/{path.relative_to(root).as_posix()}" if path.is_relative_to(root) else str(path)


def _make_mount_points(folder: Path, scratch: Path, mounts: list[Mount]) -> None:
    """Below the job's data folder; the engine would make them as root."""
    scratch.mkdir(parents=True, exist_ok=True)
    data = f"{WORKSPACE}/data/"
    (folder / "data").mkdir(parents=True)
    for mount in mounts:
        if not mount.target.startswith(data):
            continue
        point = folder / "data" / mount.target.removeprefix(data)
        if mount.source.is_dir():
            point.mkdir(parents=True, exist_ok=True)
        else:
            point.parent.mkdir(parents=True, exist_ok=True)
            point.touch()


def work(root: Path, stage: str, shard: str, attest: Path, expect_code: str = "", require_gpu: bool = False) -> int:
    """Inside the job: make the output, or say why not; returns the exit code. Checks and dvc.lock are the caller's."""
    start = time.monotonic()
    try:
        check_code(stage, expect_code)
        device = gpu() if require_gpu else "cpu"
        run_stage(root, configuration.load(root / "params.yaml"), stage, shard)
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        write_file(attest, json.dumps(asdict(Attestation(stage, shard, error=why))).encode())
        raise
    seconds = round(time.monotonic() - start, 3)
    files = files_hash(output(root, stage, shard))
    write_file(attest, json.dumps(asdict(Attestation(stage, shard, files, seconds, device))).encode())
    return 0


def check_code(stage: str, expected: str) -> None:
    """Raises ValueError when the code here is not the caller's: the output would be recorded under the wrong version."""
    here = code_version(BY_NAME[stage])
    if expected and here != expected:
        commit = os.environ.get("HAND3D_GIT_COMMIT", "unknown")
        raise ValueError(
            f"this image (commit {commit}) has other code for {stage} than the caller ({here[:12]}, not {expected[:12]}): "
            "build the images anew (python infra/docker/build.py image) and set their digests"
        )


def gpu() -> str:
    """Name of the first GPU, asserted: some engines ignore a request for one. Raises ValueError where torch sees none."""
    try:
        import torch
    except ImportError:
        raise ValueError("a GPU was required, but this environment has no torch to use it with") from None
    if not torch.cuda.is_available():
        raise ValueError(
            f"a GPU was required, but torch {torch.__version__} sees none: give the container one, use a CUDA build of "
            "torch, or set HAND3D_GPU=off"
        )
    return torch.cuda.get_device_name(0)


def attested(path: Path) -> Attestation:
    """What a job said. Raises RuntimeError with its reason where it failed, FileNotFoundError where it said nothing."""
    if not path.is_file():
        raise FileNotFoundError(f"the job left no {path.name}: it was killed before it ended (out of memory?)")
    said = Attestation(**json.loads(path.read_text(encoding="utf-8")))
    if said.error:
        raise RuntimeError(said.error)
    return said


def adopt(root: Path, job: Job) -> Attestation:
    """Take a finished job's output over, whole. Raises RuntimeError where it is not what the job says it made."""
    said = attested(job.attestation)
    made = output(job.folder, job.stage, job.shard)
    verify(made, said)
    own(made)
    replace_folder(made, output(root, job.stage, job.shard))
    shutil.rmtree(root / "data" / ".scratch" / job.stage / job.shard, ignore_errors=True)
    return said


def verify(made: Path, said: Attestation) -> None:
    """Raises RuntimeError where the folder is not the one attested."""
    if not (made / "report.json").is_file():
        raise RuntimeError(f"the job says it made {address(said.stage, said.shard)}, but left no report.json in {made}")
    found = files_hash(made)
    if found != said.files:
        raise RuntimeError(f"{made} holds other bytes than the job attested ({found[:12]}, not {said.files[:12]})")


def give(job: Job, user: str) -> None:
    """Let the container's user write the job's folder and scratch, where we are root; else it runs as us."""
    uid, gid = (int(number) for number in user.split(":"))
    if os.geteuid() != 0:
        if uid != os.geteuid():
            raise ValueError(
                f"containers must run as you to write your workspace: HAND3D_USER={os.geteuid()}:{os.getegid()}"
            )
        return
    for folder in [job.folder, *(mount.source for mount in job.mounts if mount.writable)]:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, uid, gid, follow_symlinks=False)


def own(folder: Path) -> None:
    """Give files of a container's user to ours, where we may."""
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, 0, 0, follow_symlinks=False)


def files_hash(folder: Path) -> str:
    """sha256 over names and bytes of all files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def owner() -> str:
    """This process, told apart from a later one of the same number."""
    import psutil

    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def owner_gone(text: str) -> bool:
    """Whether an `owner` was a process of this machine that has ended."""
    import psutil

    host, process, started = text.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(process)).create_time() - float(started)) > 1
    except psutil.NoSuchProcess:
        return True


def clear_abandoned(root: Path) -> list[Path]:
    """Remove folders of jobs whose caller, on this machine, is gone."""
    gone = []
    for folder in _jobs(root).glob("*.*"):
        if (folder / OWNER).is_file() and owner_gone((folder / OWNER).read_text(encoding="utf-8")):
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder)
    return gone


def _jobs(root: Path) -> Path:
    return root / "data" / ".scratch" / ".jobs"
