"""Kubernetes: job specs against the API's schema, and the runner against an API server that runs the jobs here."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from assets.handles import InProcess
from dagster_project import demo, kubernetes_runner
from dagster_project.kubernetes_runner import Kubernetes
from ops import config, jobs
from tests.assets import fakes
from tests.runners import world

IMAGE = "registry.example/hand3d-labelling@sha256:" + "a" * 64
IMAGES = dict.fromkeys(("labelling", "training", "simulator", "orchestrator"), IMAGE)
VERSION = "1.32"
NEEDS_EXTRA = pytest.mark.skipif(
    not find_spec("kubernetes") or not find_spec("kubernetes_validate"), reason="pip install 'hand3d-pipeline[k8s]'"
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    return fakes.ready(tmp_path, monkeypatch)


def rendered(root, stage="raw_videos", shard="one", **given):
    runner = Kubernetes(root=str(root), images=IMAGES, **given)
    return runner.render(jobs.plan(root, config.load(root / "params.yaml"), stage, shard))


def validate(spec):
    """Against the API's own schema; unknown fields are errors."""
    import kubernetes_validate

    kubernetes_validate.validate(spec, VERSION, strict=True)


@NEEDS_EXTRA
def test_specs_hold_against_the_schema_and_unknown_fields_are_seen(root, monkeypatch):
    validate(rendered(root))
    world.materialise(root, InProcess(root=str(root)), "raw_videos")
    validate(rendered(root, "mano_fits", require_gpu=True))
    job = jobs.plan(root, config.load(root / "params.yaml"), "robot_demonstrations")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    validate(Kubernetes(root=str(root), images=IMAGES, tracking_secret="mlflow").render(job))
    wrong = rendered(root)
    wrong["spec"]["template"]["spec"]["containers"][0]["memoryLimit"] = "1Gi"
    with pytest.raises(Exception, match="memoryLimit"):
        validate(wrong)


def test_pod_is_shut_in(root):
    spec = rendered(root)
    pod = spec["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"]["privileged"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert pod["automountServiceAccountToken"] is False
    assert spec["spec"]["backoffLimit"] == 0
    assert spec["spec"]["ttlSecondsAfterFinished"] > 0
    assert "hostPath" not in json.dumps(spec)
    assert container["resources"]["limits"] == {"memory": "8Gi", "cpu": "2"}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/workspace/data", "/workspace/data/.scratch/raw_videos/one", "/tmp", "/dev/shm"}
    assert all(mount["subPath"] for mount in container["volumeMounts"] if mount["name"] == "workspace")
    assert spec["spec"]["template"]["metadata"]["labels"]["hand3d/network"] == "none"


def test_gpu_stage_gets_a_gpu_node_and_asserts_it(root):
    world.materialise(root, InProcess(root=str(root)), "raw_videos")
    pod = rendered(root, "mano_fits", require_gpu=True)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == {"hand3d/pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "--require-gpu" in container["args"]
    plain = rendered(root, "raw_videos", require_gpu=True)["spec"]["template"]["spec"]
    assert "nodeSelector" not in plain
    assert "nvidia.com/gpu" not in plain["containers"][0]["resources"]["limits"]


def test_a_job_reaches_the_ray_cluster_that_does_its_clips(root, monkeypatch):
    assert rendered(root)["metadata"]["labels"]["hand3d/network"] == "none"
    monkeypatch.setenv("HAND3D_WORKERS", "ray:ray://hand3d-ray-head-svc:10001")
    spec = rendered(root)
    assert spec["spec"]["template"]["metadata"]["labels"]["hand3d/network"] == "ray"
    (container,) = spec["spec"]["template"]["spec"]["containers"]
    assert {"name": "HAND3D_WORKERS", "value": "ray:ray://hand3d-ray-head-svc:10001"} in container["env"]
    policies = (world.REPOSITORY / "infra" / "k8s" / "base.yaml").read_text("utf-8")
    assert "{hand3d/network: ray}" in policies
    assert "port: 10001" in policies


def test_input_off_the_volume_is_refused(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("elsewhere")
    fakes.write(outside / "a.mp4", "video")
    text = (root / "params.yaml").read_text("utf-8").replace("videos/one", str(outside))
    fakes.write(root / "params.yaml", text)
    with pytest.raises(ValueError, match="lies outside the workspace's volume"):
        rendered(root)


def test_names_are_valid_and_differ(root):
    names = {rendered(root)["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    long = jobs.Job(
        "x", "", Path("calibrated_point_clouds@A_very_long.Shard_name_of_many_letters.0123456789ab"), (), False
    )
    assert len(kubernetes_runner.name(long)) <= 63
    assert kubernetes_runner.name(long).replace("-", "").isalnum()
    assert kubernetes_runner.name(long).islower()


class FakeCluster(ThreadingHTTPServer):
    """Answers the four calls that the runner makes, and runs a job's command here, in a folder laid out as its mounts
    say. how: "run", "pending", "bad image", "killed"."""

    def __init__(self, root: Path, how: str) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.root, self.how, self.jobs, self.deleted, self.codes = root, how, {}, [], {}

    def run(self, spec: dict) -> None:
        (container,) = spec["spec"]["template"]["spec"]["containers"]
        view = self.root.parent / f"{self.root.name}-node"
        view.mkdir(exist_ok=True)
        data = None
        for mount in sorted(container["volumeMounts"], key=lambda mount: mount["mountPath"]):
            target = mount["mountPath"].removeprefix("/workspace/")
            source = self.root / mount.get("subPath", "")
            if target == "data":
                data = source
            elif target.startswith("data/"):
                point = data / target.removeprefix("data/")
                point.rmdir() if point.is_dir() else point.unlink(missing_ok=True)
                point.symlink_to(source)
            elif mount["name"] == "workspace":
                (view / target).parent.mkdir(parents=True, exist_ok=True)
                (view / target).unlink(missing_ok=True)
                (view / target).symlink_to(source)
        (view / "code").symlink_to(self.root / "code")  # stands for what is in the image
        (view / "data").unlink(missing_ok=True)
        (view / "data").symlink_to(data)
        words = [word.replace("/workspace", str(view)) for word in container["args"]]
        command = [world.fake_python(self.root), "-m", "assets.piped", *words]
        self.codes[spec["metadata"]["name"]] = subprocess.run(command).returncode


class Api(BaseHTTPRequestHandler):
    def answer(self, body: object, code: int = 200, kind: str = "application/json") -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        spec = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        validate(spec)
        self.server.jobs[spec["metadata"]["name"]] = spec
        if self.server.how == "run":
            self.server.run(spec)
        if self.server.how == "killed":
            self.server.codes[spec["metadata"]["name"]] = 137
        self.answer(spec)

    def do_DELETE(self) -> None:
        self.server.deleted.append(self.path.split("?")[0].rsplit("/", 1)[1])
        self.answer({"kind": "Status", "status": "Success"})

    def do_GET(self) -> None:
        (name,) = self.server.jobs
        code = self.server.codes.get(name)
        if "/log" in self.path:
            return self.answer("a line of the job's log\n", kind="text/plain")
        if "/pods" in self.path:
            return self.answer({"kind": "PodList", "apiVersion": "v1", "items": [self.pod(name, code)]})
        status = {} if code is None else {"succeeded": 1} if code == 0 else {"failed": 1}
        return self.answer(self.server.jobs[name] | {"status": status})

    def pod(self, name: str, code: int | None) -> dict:
        status: dict = {"phase": "Pending" if code is None else "Succeeded" if code == 0 else "Failed"}
        common = {"name": "stage", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}
        if self.server.how == "pending":
            why = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            status["conditions"] = [{"type": "PodScheduled", "status": "False", "message": why}]
        if self.server.how == "bad image":
            state = {"waiting": {"reason": "ImagePullBackOff", "message": "no such digest"}}
            status["containerStatuses"] = [common | {"state": state}]
        if code:
            state = {"terminated": {"exitCode": code, "reason": "OOMKilled"}}
            status["containerStatuses"] = [common | {"state": state}]
        return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": f"{name}-x"}, "status": status}


@pytest.fixture
def cluster(root, monkeypatch):
    """Starts a fake cluster of a kind; returns it and a runner that talks to it through the real client."""
    from kubernetes import client

    servers = []

    def start(how):
        server = FakeCluster(root, how)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
        api = client.ApiClient(settings)
        monkeypatch.setattr(kubernetes_runner, "_apis", lambda: (client.BatchV1Api(api), client.CoreV1Api(api)))
        uid = f"{os.getuid() or 10001}:{os.getgid() or 10001}"
        runner = Kubernetes(root=str(root), images=IMAGES, user=uid, poll_s=0.05, pending_s=0.5)
        return server, runner

    yield start
    for server in servers:
        server.shutdown()


@NEEDS_EXTRA
def test_a_job_gives_the_same_artefact_and_is_deleted(root, cluster):
    here = world.materialise(root, InProcess(root=str(root)), "raw_videos")
    server, runner = cluster("run")
    there = world.materialise(root, runner, "raw_videos")
    assert there.success, demo.failures(there)
    assert world.version_of(there) == world.version_of(here)
    assert world.metadata_of(there) == world.metadata_of(here)
    assert server.deleted == list(server.jobs)
    assert list((root / "data" / ".scratch" / ".jobs").iterdir()) == []


@NEEDS_EXTRA
@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("pending", "no node took the job in 0 s: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        ("bad image", "the container cannot start: ImagePullBackOff: no such digest"),
        ("killed", "ended with code 137 (OOMKilled), but it left no made.json: killed (out of memory?)"),
    ],
)
def test_a_job_that_cannot_end_well_says_why_and_is_deleted(root, cluster, how, why):
    server, runner = cluster(how)
    result = world.materialise(root, runner, "raw_videos")
    assert why in demo.failures(result)["raw_videos"]
    assert server.deleted == list(server.jobs)
    assert not (root / "data" / "raw_videos" / "one").exists()


@NEEDS_EXTRA
def test_failure_comes_back_in_the_stages_words(root, cluster):
    fakes.write(root / fakes.FAIL, "raw_videos one")
    _, runner = cluster("run")
    (root.parent / f"{root.name}-node").mkdir()
    (root.parent / f"{root.name}-node" / fakes.FAIL).write_text("raw_videos one")
    result = world.materialise(root, runner, "raw_videos")
    assert "ValueError: raw_videos: told to fail" in demo.failures(result)["raw_videos"]


def test_the_runner_needs_python_only():
    """It loads without the kubernetes package, so that other deployments do not need it."""
    code = "import sys; import dagster_project.resources; print([m for m in ('kubernetes', 'docker', 'ray') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=world.REPOSITORY
    )
    assert done.stdout.strip() == "[]", done.stderr
