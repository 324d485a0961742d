"""Compose and Kubernetes files, images and their locks: what they promise, read from the files themselves."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml

from ops import jobs
from ops.code_version import code_files
from ops.stages import STAGES
from tests.runners.test_docker import builder
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


def test_compose_accepts_the_file():
    command = next(
        ([tool, *more] for tool, more in (("docker", ["compose"]), ("docker-compose", [])) if _runs([tool, *more])),
        None,
    )
    if command is None:
        pytest.skip(
            "neither `docker compose` nor docker-compose is installed: the file was checked by the tests above only"
        )
    done = subprocess.run(
        [*command, "--env-file", "env.example", "--file", "compose.yaml", "config", "--no-interpolate", "--quiet"],
        cwd=INFRA, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _runs(command):
    return shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0


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
    missing = set()
    for stage in STAGES:
        if jobs.environment(stage.name) != image:
            continue
        for path in code_files(stage):
            if path.name in NEVER_CALLED.get(image, ()):
                continue
            for module in imported_modules(path) - set(sys.stdlib_module_names) - {"ops"}:
                names = {build.canonical(name) for name in distributions.get(module, [module])}
                if not names & held:
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
    documented = set(re.findall(r"`(HAND3D_[A-Z_]+)`", text))
    source = "".join(path.read_text("utf-8") for path in (REPOSITORY / "dagster_project").glob("*.py"))
    assert set(re.findall(r'"(HAND3D_[A-Z_]+)"', source)) - {"HAND3D_BROWSER_TESTS"} <= documented
