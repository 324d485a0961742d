"""The stack without containers, for real: Postgres under Dagster and MLflow, an S3 store under MLflow, the proxy before both.

The programs are those of the machine (`infra/system-packages.sh` says which packages): what is missing is named by the skip.
"""

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.runners.world import REPOSITORY

INFRA = REPOSITORY / "infra"
SCRIPTS = Path(sys.executable).parent
PASSWORDS = {"DAGSTER_POSTGRES_PASSWORD": "dagsterpass", "MLFLOW_POSTGRES_PASSWORD": "mlflowpass"}
pytestmark = [pytest.mark.slow, pytest.mark.container]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url, seconds=90.0):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(url, timeout=5).read()
        except (OSError, urllib.error.URLError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


@pytest.fixture(scope="module")
def processes():
    started = []

    def start(command, log, **given):
        started.append(subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT, **given))
        return started[-1]

    yield start
    for process in reversed(started):
        process.terminate()
    for process in reversed(started):
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory, processes):
    """Port of a Postgres with the two databases that infra/postgres-init.sh makes. Its superuser has a password too."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs or find_spec("psycopg2") is None or find_spec("dagster_postgres") is None:
        pytest.skip("needs Debian's postgresql and pip install 'hand3d-pipeline[k8s]'")
    binaries, port = programs[-1].parent, free_port()
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="hand3d-postgres-"))  # pytest's own folders are closed to other users
    if user:
        shutil.chown(folder, "postgres", "postgres")
    (folder / "password").write_text("superpass")
    (folder / "password").chmod(0o644)
    subprocess.run(
        [binaries / "initdb", "--pgdata", folder / "data", "--username", "postgres", "--auth", "scram-sha-256",
         "--pwfile", folder / "password", "--no-sync", "--locale", "C"],  # the poorest one there is: SQL_ASCII
        check=True, capture_output=True, cwd=folder, **user,
    )  # fmt: skip
    command = [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    processes(command, tmp_path_factory.mktemp("postgres") / "log", cwd=folder, **user)
    environment = os.environ | PASSWORDS | {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGPASSWORD": "superpass"}
    for _ in range(100):
        if subprocess.run([binaries / "pg_isready", "-q"], env=environment).returncode == 0:
            break
        time.sleep(0.2)
    subprocess.run([INFRA / "postgres-init.sh"], env=environment, check=True)
    yield port
    subprocess.run([binaries / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], cwd=folder, **user)
    shutil.rmtree(folder)


def connect(port, name, user=None):
    import psycopg2

    password = PASSWORDS[f"{(user or name).upper()}_POSTGRES_PASSWORD"]
    return psycopg2.connect(host="127.0.0.1", port=port, dbname=name, user=user or name, password=password)


def test_databases_are_apart(postgres):
    import psycopg2

    connect(postgres, "dagster").close()
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        connect(postgres, "mlflow", user="dagster")
    with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
        psycopg2.connect(host="127.0.0.1", port=postgres, dbname="dagster", user="dagster", password="wrong")


@pytest.mark.parametrize("name", ["dagster", "mlflow"])
def test_databases_hold_any_text_whatever_the_servers_locale(postgres, name):
    with connect(postgres, name) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s", ("K\u00e4se \u624b",))
        assert cursor.fetchone() == ("K\u00e4se \u624b",)


def instance_folder(folder, port):
    """A DAGSTER_HOME with the stack's settings, which name port 5432."""
    settings = yaml.safe_load((INFRA / "dagster-postgres.yaml").read_text(encoding="utf-8"))
    settings["storage"]["postgres"]["postgres_db"]["port"] = port
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


@pytest.fixture
def dagster_home(tmp_path, postgres, monkeypatch):
    home = instance_folder(tmp_path, postgres)
    for name, value in {
        "DAGSTER_HOME": str(home),
        "DAGSTER_LOGS": str(home / "logs"),
        "DAGSTER_POSTGRES_HOST": "127.0.0.1",
        **PASSWORDS,
    }.items():
        monkeypatch.setenv(name, value)
    return home


def test_dagster_keeps_runs_and_versions_in_postgres(dagster_home, postgres):
    """A partition materialised by one process is seen by another, and lies in the database."""
    import dagster as dg

    code = (
        "import dagster as dg\n"
        "@dg.asset(partitions_def=dg.StaticPartitionsDefinition(['one']))\n"
        "def table(): return dg.MaterializeResult(data_version=dg.DataVersion('v7'))\n"
        "with dg.DagsterInstance.get() as instance:\n"
        "    assert dg.materialize([table], partition_key='one', instance=instance).success\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    with dg.DagsterInstance.get() as instance:
        assert (
            "Postgres" in type(instance.event_log_storage).__name__ or "postgres" in str(instance.info_dict()).lower()
        )
        record = instance.get_latest_data_version_record(dg.AssetKey("table"), partition_key="one")
        assert (
            record.event_log_entry.dagster_event.step_materialization_data.materialization.tags["dagster/data_version"]
            == "v7"
        )
        assert len(instance.get_runs()) == 1
    with connect(postgres, "dagster") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM runs WHERE status = 'SUCCESS'")
        assert cursor.fetchone() == (1,)
    assert not list(dagster_home.rglob("*.db")), "nothing in sqlite beside it"


@pytest.fixture(scope="module")
def store(tmp_path_factory, processes):
    """Address of an S3 server with the bucket."""
    import boto3

    port = free_port()
    processes(
        [SCRIPTS / "moto_server", "--host", "127.0.0.1", "--port", str(port)], tmp_path_factory.mktemp("store") / "log"
    )
    wait_for(f"http://127.0.0.1:{port}/moto-api/")
    keys = {"aws_access_key_id": "user", "aws_secret_access_key": "pass", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys).create_bucket(Bucket="hand3d-mlflow")
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def mlflow_server(postgres, store, tmp_path_factory, processes):
    """Address of the server, started by the very command of compose.yaml with other addresses in it."""
    port = free_port()
    service = yaml.safe_load((INFRA / "compose.yaml").read_text(encoding="utf-8"))["services"]["mlflow"]
    command = service["command"][0].replace("$$", "$").replace("@postgres/", f"@127.0.0.1:{postgres}/")
    command = command.replace("--host 0.0.0.0 --port 5000 --workers 2", f"--host 127.0.0.1 --port {port} --workers 1")
    command = command.replace("mlflow:5000", f"127.0.0.1:{port}")
    assert command.count("127.0.0.1") == 3
    environment = os.environ | PASSWORDS | {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_S3_ENDPOINT_URL": store,
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "pass",
        "AWS_DEFAULT_REGION": "us-east-1",
        "HAND3D_HOST": "localhost:*",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("mlflow")
    processes(["sh", "-c", command], folder / "log", env=environment, cwd=folder)
    wait_for(f"http://127.0.0.1:{port}/health")
    return f"http://127.0.0.1:{port}"


def test_a_policy_is_registered_in_postgres_and_lies_in_the_store(
    mlflow_server, store, postgres, tmp_path, monkeypatch
):
    """Through ops.tracking, as the champion stage does it; the client needs no key of the store."""
    import boto3
    import numpy as np
    from safetensors.numpy import save_file

    from ops import tracking

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    policy = tmp_path / "policy"
    policy.mkdir()
    save_file({"weight": np.arange(3, dtype=np.float32)}, policy / "model.safetensors")
    from ops.config import SyntheticConfig

    with tracking.start_run(tmp_path, "stage3", SyntheticConfig(), {"policy": policy}) as run:
        run.metric("loss", 0.5)
    version = tracking.register(tmp_path, "policy", run.run_id, policy, {"gate": "passed"})
    tracking.set_alias(tmp_path, "policy", "champion", version)
    assert tracking.get_alias(tmp_path, "policy", "champion") == version
    got = tracking.download(tmp_path, "policy", version, tmp_path / "back")
    assert (got / "model.safetensors").read_bytes() == (policy / "model.safetensors").read_bytes()
    keys = {"aws_access_key_id": "user", "aws_secret_access_key": "pass", "region_name": "us-east-1"}
    listed = boto3.client("s3", endpoint_url=store, **keys).list_objects_v2(Bucket="hand3d-mlflow")["Contents"]
    assert [item for item in listed if item["Key"].endswith("policy/model.safetensors")]
    with connect(postgres, "mlflow") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM model_versions")
        assert cursor.fetchone() == (1,)


@pytest.fixture(scope="module")
def proxy(mlflow_server, tmp_path_factory, processes):
    """Address of the proxy with infra/proxy/Caddyfile before a stand-in for Dagster's web server and the real MLflow."""
    program = os.environ.get("HAND3D_CADDY") or shutil.which("caddy")
    if program is None:
        pytest.skip("needs Debian's caddy")
    folder, port, behind = tmp_path_factory.mktemp("proxy"), free_port(), free_port()
    (folder / "index.html").write_text("dagster is here")
    processes(
        [sys.executable, "-m", "http.server", str(behind), "--bind", "127.0.0.1", "--directory", folder],
        folder / "web.log",
    )
    hashed = subprocess.run(
        [program, "hash-password", "--plaintext", "open sesame"], capture_output=True, text=True, check=True
    )
    environment = os.environ | {
        "HAND3D_SITE": f"https://localhost:{port}",
        "HAND3D_TLS": "internal",
        "HAND3D_AUTH_USER": "lab",
        "HAND3D_AUTH_HASH": hashed.stdout.strip(),
        "DAGSTER_UPSTREAM": f"127.0.0.1:{behind}",
        "MLFLOW_UPSTREAM": mlflow_server.removeprefix("http://"),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "HOME": str(folder),
    }
    text = (INFRA / "proxy" / "Caddyfile").read_text(encoding="utf-8")
    # its own authority is not put among the machine's: that is the administrator's choice
    (folder / "Caddyfile").write_text(text.replace("\tadmin off\n", "\tadmin off\n\tskip_install_trust\n", 1))
    processes(
        [program, "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"], folder / "log", env=environment
    )
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return f"https://localhost:{port}"
        time.sleep(0.2)
    raise AssertionError((folder / "log").read_text())


def fetch(url, password=None):
    request = urllib.request.Request(url)
    if password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"lab:{password}".encode()).decode())
    unverified = ssl._create_unverified_context()  # the test's own authority
    try:
        with urllib.request.urlopen(request, context=unverified, timeout=20) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def test_nothing_passes_the_proxy_without_the_password(proxy):
    for path in ("/", "/mlflow/", "/mlflow/api/2.0/mlflow/experiments/search?max_results=1", "/graphql"):
        assert fetch(proxy + path)[0] == 401, path
        assert fetch(proxy + path, "wrong")[0] == 401, path
    code, text, headers = fetch(proxy + "/", "open sesame")
    assert (code, text) == (200, "dagster is here")
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_mlflow_answers_below_its_path(proxy):
    code, text, _ = fetch(f"{proxy}/mlflow/api/2.0/mlflow/experiments/search?max_results=5", "open sesame")
    assert code == 200, text
    assert "experiments" in json.loads(text)
    code, page, _ = fetch(f"{proxy}/mlflow/", "open sesame")
    assert code == 200
    assert "MLflow" in page
