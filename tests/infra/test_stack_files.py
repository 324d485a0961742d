"""Compose and Kubernetes files, images and their locks: what they promise, read from the files themselves."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from ops import jobs
from ops.code_version import code_files
from ops.stages import STAGES
from tests.runners.test_docker import builder, cache
from tests.runners.world import REPOSITORY

INFRA = REPOSITORY / "infra"
NEVER_CALLED = {"training": ("libero.py",)}
"""Files that an image's stages reach by imports, and whose functions they do not call: training starts no simulator."""


def compose():
    return yaml.safe_load((INFRA / "compose.yaml").read_text(encoding="utf-8"))


def manifests():
    files = sorted((INFRA / "k8s").glob("*.yaml"))
    documents = [(path.name, document) for path in files for document in yaml.safe_load_all(path.read_text("utf-8"))]
    return [(name, document) for name, document in documents if "apiVersion" in document]


def test_only_the_proxy_listens_and_on_this_machine():
    services = compose()["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert services["proxy"]["ports"] == ["${HAND3D_BIND:-127.0.0.1}:${HAND3D_PORT:-8443}:8443"]
    assert [name for name, service in services.items() if "outside" in service["networks"]] == ["proxy"]
    assert compose()["networks"]["inside"] == {"internal": True}


@pytest.mark.parametrize("name", list(compose()["services"]))
def test_services_are_unprivileged_and_pinned_by_the_deployer(name):
    service = compose()["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert re.fullmatch(r"\$\{HAND3D_IMAGE_[A-Z]+:\?.*\}", service["image"])
    assert not [volume for volume in service.get("volumes", []) if "docker.sock" in volume]
    assert service.get("network_mode") is None


def test_secrets_come_from_the_environment_and_every_variable_has_its_line():
    text = (INFRA / "compose.yaml").read_text(encoding="utf-8")
    example = (INFRA / "env.example").read_text(encoding="utf-8")
    given = dict(line.split("=", 1) for line in example.splitlines() if re.match(r"[A-Z]", line))
    assert set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", text)) - {"HAND3D_GPU"} <= set(given)
    for name in [name for name in given if re.search("PASSWORD|HASH|USER$", name) and name != "HAND3D_USER"]:
        assert given[name].strip("'") == "", "an example holds no secret"
        assert f"${{{name}:?" in text, f"{name} has no default"


def test_secrets_are_not_committed():
    ignored = subprocess.run(["git", "check-ignore", "infra/.env"], cwd=REPOSITORY, capture_output=True)
    assert ignored.returncode == 0


def test_code_locations_health_is_that_of_its_server():
    """The check of compose.yaml against a real gRPC server that says in turn what Dagster's would."""
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    kind, *command = compose()["services"]["code"]["healthcheck"]["test"]
    assert (kind, command[:2]) == ("CMD", ["python3", "-c"])
    server, servicer = grpc.server(ThreadPoolExecutor(2)), health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert command[2].count(":4000") == 1
    check = [sys.executable, "-c", command[2].replace(":4000", f":{port}")]
    healthy = []
    for status in ("SERVING", "NOT_SERVING"):
        servicer.set("DagsterApi", health_pb2.HealthCheckResponse.ServingStatus.Value(status))
        healthy.append(subprocess.run(check, capture_output=True).returncode == 0)
    server.stop(None).wait()
    healthy.append(subprocess.run(check, capture_output=True).returncode == 0)
    assert healthy == [True, False, False]


@pytest.fixture(scope="session")
def compose_command(tmp_path_factory):
    """`docker compose` where it is installed, else docker-compose out of Debian's packages, else a skip that says so."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    if not shutil.which("apt-get") or not Path("/usr/bin/python3").exists():
        pytest.skip(
            "neither `docker compose` nor docker-compose is installed, and there is no apt-get to fetch it with"
        )
    folder = cache() / "compose-packages"
    got = subprocess.run([INFRA / "docker" / "engine.sh", "compose", folder], capture_output=True, text=True)
    if got.returncode:
        pytest.skip(f"docker-compose can neither be found nor fetched here: {got.stderr.strip()[-300:]}")
    return [got.stdout.strip()]


@pytest.mark.slow
def test_compose_accepts_the_file_and_fills_it_in(compose_command, tmp_path):
    """With the example's variables, the empty ones filled in: what compose makes of it is what is meant."""
    filled = re.sub(
        r"^([A-Z0-9_]+)=(''|)$", r"\1=filled", (INFRA / "env.example").read_text("utf-8"), flags=re.MULTILINE
    )
    text = (INFRA / "compose.yaml").read_text(encoding="utf-8")
    assert text.count("\nname: hand3d\n") == 1
    (tmp_path / ".env").write_text(filled, encoding="utf-8")
    # docker-compose 1 refuses the top-level name, which later ones want
    given = text if compose_command[0] == "docker" else text.replace("\nname: hand3d\n", "\n")
    (tmp_path / "compose.yaml").write_text(given, encoding="utf-8")
    command = [*compose_command, "--env-file", ".env", "--file", "compose.yaml", "--project-name", "hand3d", "config"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load(done.stdout)["services"]
    assert set(resolved) == set(compose()["services"])
    assert resolved["mlflow"]["environment"]["AWS_SECRET_ACCESS_KEY"] == "filled"
    assert "HAND3D_DEPLOYMENT" not in resolved["webserver"]["environment"]
    assert resolved["code"]["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    (port,) = resolved["proxy"]["ports"]
    assert port == "127.0.0.1:8443:8443/tcp" or (port["host_ip"], port["published"]) == ("127.0.0.1", "8443")
    incomplete = filled.replace("STORE_PASSWORD=filled", "STORE_PASSWORD=")
    (tmp_path / ".env").write_text(incomplete, encoding="utf-8")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "STORE_PASSWORD" in done.stderr, "a missing secret is named"


@pytest.mark.skipif(not find_spec("kubernetes_validate"), reason="pip install 'hand3d-pipeline[k8s]'")
@pytest.mark.parametrize(
    ("file", "manifest"), manifests(), ids=lambda value: value if isinstance(value, str) else value["kind"]
)
def test_manifests_hold_against_the_kubernetes_schema(file, manifest):
    import kubernetes_validate as validate

    if manifest["kind"] != "RayCluster":
        validate.validate(manifest, "1.32", strict=True)
        return
    groups = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
    for group in groups:  # the operator's own kind: its pods are the API's
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}
        validate.validate(template, "1.32", strict=True)


def test_nothing_in_the_cluster_is_privileged():
    text = "".join(path.read_text("utf-8") for path in (INFRA / "k8s").glob("*.yaml"))
    assert "hostPath" not in text
    assert "hostNetwork" not in text
    assert "LoadBalancer" not in text
    assert "privileged: true" not in text
    assert "pod-security.kubernetes.io/enforce: restricted" in text


def test_mlflow_of_the_cluster_is_the_one_that_the_others_name():
    by_kind = {document["kind"]: document for name, document in manifests() if name == "mlflow.yaml"}
    service, pod = by_kind["Service"], by_kind["Deployment"]["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == container["ports"][0]["name"]
    address = f"http://{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{port['port']}"
    assert address in (INFRA / "k8s" / "dagster-values.yaml").read_text("utf-8")
    env = {entry["name"]: entry for entry in container["env"]}
    assert address.removeprefix("http://") in env["MLFLOW_SERVER_ALLOWED_HOSTS"]["value"].split(",")
    secret = [name for name, entry in env.items() if "secretKeyRef" in entry.get("valueFrom", {})]
    assert set(secret) == {"MLFLOW_POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    policies = {document["metadata"]["name"]: document for _, document in manifests() if "podSelector" in str(document)}
    (way,) = [rule for rule in policies["jobs-that-track"]["spec"]["egress"] if "podSelector" in rule["to"][0]]
    assert way["to"][0]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert way["ports"] == [{"protocol": "TCP", "port": port["port"]}]


def test_mlflow_of_the_cluster_takes_its_settings_from_these_variables():
    """They are options of `mlflow server` by environment; one that it does not know would be ignored in silence."""
    from mlflow.cli import cli

    known = {str(option.envvar) for option in cli.commands["server"].params if option.envvar}
    (deployment,) = [document for name, document in manifests() if document["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    names = {entry["name"] for entry in container["env"] if entry["name"].startswith("MLFLOW_")}
    assert names - {"MLFLOW_POSTGRES_PASSWORD", "MLFLOW_S3_ENDPOINT_URL"} <= known
    flags = {option for parameter in cli.commands["server"].params for option in parameter.opts}
    assert {word for word in container["command"] if word.startswith("--")} <= flags


def test_chart_and_runner_agree_on_names():
    values = yaml.safe_load((INFRA / "k8s" / "dagster-values.yaml").read_text(encoding="utf-8"))
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    names = {entry["name"] for entry in deployment["env"]}
    from dagster_project.resources import ENVIRONMENTS

    assert {f"HAND3D_IMAGE_{name.upper()}" for name in ENVIRONMENTS} <= names
    assert deployment["volumes"] == values["runLauncher"]["config"]["k8sRunLauncher"]["volumes"]
    claims = {
        document["metadata"]["name"] for _, document in manifests() if document["kind"] == "PersistentVolumeClaim"
    }
    assert {deployment["volumes"][0]["persistentVolumeClaim"]["claimName"]} == claims


@pytest.mark.parametrize("image", builder().images())
def test_locks_are_up_to_date(image):
    build = builder()
    assert (INFRA / "docker" / f"{image}.lock").read_text(encoding="utf-8") == build.lock(image)


@pytest.mark.parametrize("image", builder().images())
def test_images_hold_every_library_that_their_stages_import(image):
    """By the source, imports inside functions included: what is missing would show in the middle of a long run."""
    build, distributions = builder(), importlib.metadata.packages_distributions()
    held = {line.split("==")[0] for line in build.lock(image).splitlines() if "==" in line}
    instead = build.environments()["instead"]
    missing = set()
    for stage in STAGES:
        if jobs.environment(stage.name) != image:
            continue
        for path in code_files(stage):
            if path.name in NEVER_CALLED.get(image, ()):
                continue
            for module in imported_modules(path) - set(sys.stdlib_module_names) - {"ops"}:
                names = {build.canonical(name) for name in distributions.get(module, [module])}
                if not {instead.get(name, name) for name in names} & held:
                    missing.add((stage.name, path.name, module))
    assert not missing


def imported_modules(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_every_image_of_the_runners_is_built():
    from dagster_project.resources import ENVIRONMENTS

    assert set(builder().images()) == set(ENVIRONMENTS)
    assert {jobs.environment(stage.name) for stage in STAGES} == set(ENVIRONMENTS)


def test_runbook_names_what_exists():
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`(infra/[\w./-]+)`", text):
        assert (REPOSITORY / path).exists() or path == "infra/.env", path
    for section in (
        "Install",
        "Upgrade",
        "Back up",
        "Restore",
        "Rotate secrets",
        "Add a GPU node",
        "When something is red",
    ):
        assert f"## {section}" in text
    stopped = " ".join(re.findall(r"\bstack stop ([a-z ]+)", text)).split()
    entered = re.findall(r"\bstack (?:exec -T|run --rm --entrypoint \w+) ([a-z]+)", text)
    assert len(stopped) >= 4
    assert len(entered) >= 5
    assert {*stopped, *entered} <= set(compose()["services"])
    documented = set(re.findall(r"`(HAND3D_[A-Z_]+)`", text))
    source = "".join(path.read_text("utf-8") for path in (REPOSITORY / "dagster_project").glob("*.py"))
    assert set(re.findall(r'"(HAND3D_[A-Z_]+)"', source)) - {"HAND3D_BROWSER_TESTS"} <= documented
