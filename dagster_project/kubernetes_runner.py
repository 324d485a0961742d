"""Runner that makes an artefact in a Kubernetes job: the same plan as a container's (ops/jobs.py), on a shared volume.

The volume holds the workspace; the job mounts only its inputs from it, read-only, and a folder of its own. A job is
deleted when the step ends, however it ends, and by its time to live where the step's process was killed.
"""

import os
import re
import shutil
import sys
import threading
import time
from typing import Any

import dagster as dg

from assets.handles import StageRunner
from dagster_project.runners import ENTRY, attested_or_died, on_cluster, pinned, workers_variables
from ops import artefacts, jobs
from ops.artefacts import Artefact
from ops.config import Config
from ops.stages import BY_NAME

GPU = "nvidia.com/gpu"
POOL = "hand3d/pool"
NEVER_STARTS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
}


class Kubernetes(StageRunner):
    """images: environment -> image pinned by digest. claim: of the volume that is mounted at `root` here as well.
    memory, cpu: request and limit of a job. user: uid:gid. tracking_secret: secret whose keys become environment of
    stages that write to MLflow. pending_s: how long a job may wait for a node. deadline_s: how long it may run."""

    images: dict[str, str]
    memory: str = "8Gi"
    cpu: str = "2"
    user: str = "10001:10001"
    require_gpu: bool = False
    namespace: str = "hand3d"
    claim: str = "hand3d-workspace"
    tracking_secret: str = ""
    pending_s: float = 900.0
    deadline_s: int = 7 * 24 * 3600
    poll_s: float = 5.0

    def run(self, stage: str, shard: str, context: dg.AssetExecutionContext | None = None) -> Artefact:
        settings = self.settings()
        with artefacts.turn(self.folder, settings, stage, shard) as taken:
            if taken.standing is not None:
                return taken.standing
            said = self._adopted(settings, stage, shard)
            return artefacts.record(self.folder, settings, stage, shard, said.seconds, taken)

    def _adopted(self, settings: Config, stage: str, shard: str) -> jobs.Attestation:
        artefacts.drop_removed_shards(self.folder, settings)
        jobs.clear_abandoned(self.folder)
        job = jobs.plan(self.folder.resolve(), settings, stage, shard)
        try:
            spec = self.render(job)
            jobs.give(job, self.user)
            self._run(spec, job)
            return jobs.adopt(self.folder, job)
        finally:
            shutil.rmtree(job.folder, ignore_errors=True)

    def render(self, job: jobs.Job) -> dict[str, Any]:
        """The job as the API takes it. Raises ValueError for an image that is not pinned and inputs off the volume."""
        gpu = self.require_gpu and BY_NAME[job.stage].gpu
        labels = {
            "app.kubernetes.io/name": "hand3d",
            "hand3d/stage": job.stage,
            "hand3d/network": reached(job),  # infra/k8s/base.yaml
        }
        uid, gid = (int(number) for number in self.user.split(":"))
        pod: dict[str, Any] = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": uid,
                "runAsGroup": gid,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [self._container(job, gpu)],
            "volumes": [
                {"name": "workspace", "persistentVolumeClaim": {"claimName": self.claim}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            ],
        }
        if gpu:
            pod["nodeSelector"] = {POOL: "gpu"}
            pod["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name(job), "namespace": self.namespace, "labels": labels},
            "spec": {
                "backoffLimit": 0,  # Dagster decides about another try
                "activeDeadlineSeconds": self.deadline_s,
                "ttlSecondsAfterFinished": 3600,
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }

    def _container(self, job: jobs.Job, gpu: bool) -> dict[str, Any]:
        limits = {"memory": self.memory, "cpu": self.cpu, **({GPU: "1"} if gpu else {})}
        env = {"HOME": "/tmp", "HF_HUB_OFFLINE": "1", **workers_variables()}
        if job.tracked and "MLFLOW_TRACKING_URI" in os.environ:
            env["MLFLOW_TRACKING_URI"] = os.environ["MLFLOW_TRACKING_URI"]
        secret = [{"secretRef": {"name": self.tracking_secret}}] if job.tracked and self.tracking_secret else []
        return {
            "name": "stage",
            "image": pinned(self.images, jobs.environment(job.stage)),
            "command": ENTRY,
            "args": job.arguments(self.require_gpu),
            "env": [{"name": key, "value": value} for key, value in env.items()],
            "envFrom": secret,
            "resources": {"requests": dict(limits), "limits": limits},
            "securityContext": {
                "privileged": False,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                *(self._mount(mount) for mount in job.mounts),
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": "shm", "mountPath": "/dev/shm"},
            ],
        }

    def _mount(self, mount: jobs.Mount) -> dict[str, Any]:
        root = self.folder.resolve()
        if not mount.source.is_relative_to(root):
            raise ValueError(
                f"{mount.source} lies outside the workspace's volume ({root}): copy it below the workspace, or mount its "
                "volume there, and name that path in params.yaml"
            )
        path = mount.source.relative_to(root).as_posix()
        return {"name": "workspace", "mountPath": mount.target, "subPath": path, "readOnly": not mount.writable}

    def _run(self, spec: dict[str, Any], job: jobs.Job) -> None:
        """Submit, wait, delete. Raises RuntimeError in the job's words, or the cluster's where it never started."""
        batch, core = _apis()
        batch.create_namespaced_job(self.namespace, spec)
        try:
            failed = self._wait(batch, core, spec["metadata"]["name"])
        finally:
            batch.delete_namespaced_job(
                spec["metadata"]["name"], self.namespace, propagation_policy="Background", grace_period_seconds=10
            )
        if failed or not job.attestation.is_file():
            attested_or_died(job.attestation, failed)

    def _wait(self, batch: Any, core: Any, job_name: str) -> str:
        """ "" when the job has succeeded, else why it has not."""
        waited, follower = time.monotonic(), None
        while True:
            status = batch.read_namespaced_job_status(job_name, self.namespace).status
            pod = _pod(core, self.namespace, job_name)
            if follower is None and pod and pod.status.phase != "Pending":
                follower = _follow(core, self.namespace, pod.metadata.name)
            if status.succeeded or status.failed:
                follower.join(timeout=30) if follower else None
                return "" if status.succeeded else _why_failed(status, pod)
            stuck = _stuck(pod)
            if stuck or ((pod is None or pod.status.phase == "Pending") and time.monotonic() - waited > self.pending_s):
                return stuck or f"no node took the job in {self.pending_s:.0f} s: {_unscheduled(pod)}"
            time.sleep(self.poll_s)


def name(job: jobs.Job) -> str:
    """Of a Kubernetes object: lower case, digits, dashes, at most 63 characters, different for every job."""
    words = re.sub("[^a-z0-9]+", "-", job.folder.name.rsplit(".", 1)[0].lower()).strip("-")
    return f"hand3d-{words[:42].strip('-')}-{job.folder.name.rsplit('.', 1)[1]}"


def reached(job: jobs.Job) -> str:
    """What its pod may talk to, by the network policies."""
    if job.tracked:
        return "tracking"
    return "ray" if on_cluster(job) else "none"


def _apis() -> tuple[Any, Any]:
    from kubernetes import client, config

    if "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config()
    else:
        config.load_kube_config()
    return client.BatchV1Api(), client.CoreV1Api()


def _pod(core: Any, namespace: str, job_name: str) -> Any:
    pods = core.list_namespaced_pod(namespace, label_selector=f"job-name={job_name}").items
    return pods[0] if pods else None


def _follow(core: Any, namespace: str, pod: str) -> threading.Thread:
    """Print the pod's log as it comes."""

    def copy() -> None:
        answer = core.read_namespaced_pod_log(pod, namespace, follow=True, _preload_content=False)
        for chunk in answer.stream():
            sys.stderr.write(chunk.decode(errors="replace"))

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def _statuses(pod: Any) -> list:
    return list((pod.status.container_statuses or []) if pod else [])


def _stuck(pod: Any) -> str:
    """Why the container can never start, or ""."""
    for status in _statuses(pod):
        waiting = status.state.waiting
        if waiting and waiting.reason in NEVER_STARTS:
            return f"the container cannot start: {waiting.reason}: {waiting.message}"
    return ""


def _why_failed(status: Any, pod: Any) -> str:
    for container in _statuses(pod):
        ended = container.state.terminated
        if ended:
            return f"the job's container ended with code {ended.exit_code} ({ended.reason})"
    reasons = [condition.message for condition in status.conditions or [] if condition.type == "Failed"]
    return f"the job failed: {'; '.join(filter(None, reasons)) or 'the cluster gives no reason'}"


def _unscheduled(pod: Any) -> str:
    conditions = (pod.status.conditions or []) if pod else []
    messages = [item.message for item in conditions if item.type == "PodScheduled" and item.status == "False"]
    return "; ".join(filter(None, messages)) or "no pod was made (quota? permissions? `kubectl describe job` tells)"
