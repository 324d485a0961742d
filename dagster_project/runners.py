"""Runners that make an artefact in another process: a subprocess, or a container of a Docker engine, over Dagster Pipes.

Pipes carries the logs. What was made is read from disk: messages can be lost while a run stays green, so the output is
checked against the attestation that the job wrote beside it (ops/jobs.py), and a message that contradicts it fails the
step.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg

from assets.handles import StageRunner
from ops import artefacts, jobs
from ops.artefacts import Artefact
from ops.config import Config
from ops.pipeline import output
from ops.stages import BY_NAME
from ops.workers import chosen

PINNED = re.compile(r"([^\s@]+@)?sha256:[0-9a-f]{64}")
JOB_LABEL, OWNER_LABEL = "hand3d.job", "hand3d.owner"
ENTRY = ["python3", "-m", "assets.piped"]
PASSED_ON = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Variables that a stage which writes to MLflow gets, and no other."""
WORKERS = ("HAND3D_WORKERS", "HAND3D_CLIP_SECONDS", "HAND3D_GPU")
"""How a job shares its clips out (ops/workers.py)."""


def require(module: str, extra: str) -> None:
    """Raises ModuleNotFoundError naming the extra that brings a library."""
    if find_spec(module) is None:
        raise ModuleNotFoundError(
            f"{module} is not installed, which this HAND3D_DEPLOYMENT needs: pip install 'hand3d-pipeline[{extra}]'"
        )


class Subprocess(StageRunner):
    """In a process of its own on this machine, over Pipes. python: of the environment that holds the stage's libraries."""

    python: str = sys.executable
    require_gpu: bool = False

    def run(self, stage: str, shard: str, context: dg.AssetExecutionContext | None = None) -> Artefact:
        settings = self.settings()
        with artefacts.turn(self.folder, settings, stage, shard) as taken:
            if taken.standing is not None:
                return taken.standing
            artefacts.drop_removed_shards(self.folder, settings)
            said = self._process(stage, shard, context)
            jobs.verify(output(self.folder, stage, shard), said)
            return artefacts.record(self.folder, settings, stage, shard, said.seconds, taken)

    def _process(self, stage: str, shard: str, context: dg.AssetExecutionContext | None) -> jobs.Attestation:
        with tempfile.TemporaryDirectory() as folder:
            attest = Path(folder) / jobs.ATTESTATION
            words = jobs.arguments(stage, shard, self.root, str(attest), self.require_gpu)
            package = Path(artefacts.__file__).parent.parent
            paths = os.pathsep.join(filter(None, [os.fspath(package), os.environ.get("PYTHONPATH")]))
            client = dg.PipesSubprocessClient(env={"PYTHONPATH": paths})
            command = [self.python, *ENTRY[1:], *words]
            return told(lambda: client.run(context=context, command=command), attest, context)


class Docker(StageRunner):
    """In a container: no network, inputs read-only, everything else unwritable but the job's own folder, no privilege.

    images: environment (ops.jobs.environment) -> image pinned by digest. memory: limit, as "8g". user: uid:gid in the
    container. tracking_network: network on which stages that write to MLflow reach it; the others have none.
    """

    images: dict[str, str]
    memory: str = "8g"
    user: str = "10001:10001"
    require_gpu: bool = False
    tracking_network: str = ""

    def run(self, stage: str, shard: str, context: dg.AssetExecutionContext | None = None) -> Artefact:
        image = pinned(self.images, jobs.environment(stage))
        settings = self.settings()
        with artefacts.turn(self.folder, settings, stage, shard) as taken:
            if taken.standing is not None:
                return taken.standing
            said = self._contained(image, settings, stage, shard, context)
            return artefacts.record(self.folder, settings, stage, shard, said.seconds, taken)

    def _contained(
        self, image: str, settings: Config, stage: str, shard: str, context: dg.AssetExecutionContext | None
    ) -> jobs.Attestation:
        from dagster_docker import PipesDockerClient

        artefacts.drop_removed_shards(self.folder, settings)
        jobs.clear_abandoned(self.folder)
        job = jobs.plan(self.folder.resolve(), settings, stage, shard)
        try:
            jobs.give(job, self.user)
            with containers_removed(job.folder.name):
                call = {
                    "image": image,
                    "command": job.arguments(self.require_gpu),
                    "env": variables(job),
                    "container_kwargs": self.container(job),
                }
                said = told(lambda: PipesDockerClient().run(context=context, **call), job.attestation, context)
            jobs.adopt(self.folder, job)
        finally:
            shutil.rmtree(job.folder, ignore_errors=True)
        return said

    def container(self, job: jobs.Job) -> dict[str, Any]:
        """Arguments of the engine's create call."""
        from docker.types import DeviceRequest
        from docker.types import Mount as Bind

        gpus = [DeviceRequest(count=1, capabilities=[["gpu"]])] if self.require_gpu and BY_NAME[job.stage].gpu else None
        return {
            "entrypoint": ENTRY,
            "user": self.user,
            "network_mode": self.network(job),
            "mem_limit": self.memory,
            "memswap_limit": self.memory,
            "pids_limit": 4096,
            "read_only": True,
            "tmpfs": {"/tmp": "rw,nosuid,nodev,size=2g"},
            "shm_size": "1g",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "device_requests": gpus,
            "labels": {JOB_LABEL: job.folder.name, OWNER_LABEL: jobs.owner()},
            "mounts": [Bind(m.target, str(m.source), "bind", read_only=not m.writable) for m in job.mounts],
        }

    def network(self, job: jobs.Job) -> str:
        """ "none", but for stages that write to MLflow. Raises ValueError where those cannot reach it."""
        if on_cluster(job):
            raise ValueError(
                "a container has no network to reach the Ray cluster that HAND3D_WORKERS names: use processes:N with "
                "HAND3D_DEPLOYMENT=docker, or another deployment"
            )
        if not job.tracked:
            return "none"
        if self.tracking_network and os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
            return self.tracking_network
        raise ValueError(
            f"{job.stage} writes to MLflow, which a container reaches only over a network: set MLFLOW_TRACKING_URI to an "
            "http address and HAND3D_TRACKING_NETWORK to the Docker network on which it answers"
        )


def pinned(images: dict[str, str], environment: str) -> str:
    """Image of an environment. Raises ValueError for one that is missing or can change under its name."""
    image = images.get(environment, "")
    if not PINNED.fullmatch(image):
        raise ValueError(
            f"HAND3D_IMAGE_{environment.upper()} must be an image pinned by digest (NAME@sha256:... or sha256:...), got "
            f"{image!r}: `python infra/docker/build.py image` prints it"
        )
    return image


def variables(job: jobs.Job) -> dict[str, str]:
    """Environment of a job: secrets only for those that need them."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ} if job.tracked else {}
    return {"HOME": "/tmp", "HF_HUB_OFFLINE": "1", **workers_variables(), **passed}


def workers_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in WORKERS if os.environ.get(name)}


def on_cluster(job: jobs.Job) -> bool:
    """Whether its clips are done by a Ray cluster elsewhere, which it has to reach."""
    workers = chosen()
    return jobs.environment(job.stage) == "labelling" and workers.kind == "ray" and bool(workers.address)


def told(call: Callable, attest: Path, context: dg.AssetExecutionContext | None) -> jobs.Attestation:
    """Run a Pipes client and return what the job attested on disk. Raises RuntimeError in the job's own words."""
    from dagster._core.errors import DagsterPipesExecutionError
    from dagster_pipes import DagsterPipesError

    results, failed = (), ""
    try:
        results = call().get_results(implicit_materializations=False)
    except (DagsterPipesError, DagsterPipesExecutionError) as error:
        failed = str(error)
    said = attested_or_died(attest, failed)
    reported = [result.metadata["files"].value for result in results if "files" in (result.metadata or {})]
    if not reported:
        context.log.warning("the job's Pipes message was lost; its output on disk is whole and counts")
    elif reported != [said.files]:
        raise RuntimeError(f"the job reported other files ({reported}) than it left on disk ({said.files})")
    return said


def attested_or_died(attest: Path, failed: str) -> jobs.Attestation:
    """What a job that ended attested. failed: how, where not well. Raises RuntimeError."""
    if not attest.is_file():
        raise RuntimeError(f"{failed or 'the job ended well'}, but it left no {attest.name}: killed (out of memory?)")
    said = jobs.attested(attest)
    if failed:
        raise RuntimeError(f"{failed}, though it attested an output")
    return said


@contextmanager
def containers_removed(name: str) -> Iterator[None]:
    """Whatever happens in the block, a run that is terminated included, its containers are gone afterwards; so are
    those of callers that were killed before they could tidy up."""
    import docker

    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": OWNER_LABEL}, ignore_removed=True):
        if jobs.owner_gone(container.labels[OWNER_LABEL]):
            container.remove(force=True)
    try:
        yield
    finally:
        for container in client.containers.list(all=True, filters={"label": f"{JOB_LABEL}={name}"}):
            container.remove(force=True)
        client.close()
