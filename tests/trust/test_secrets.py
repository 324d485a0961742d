"""Secrets come by environment only: no file of settings holds one, and a job gets those of MLflow alone."""

from dagster_project import runners
from ops import jobs
from ops.stages import BY_NAME
from tests.runners.world import REPOSITORY

CANARY = "canary-4f1c9b"
SECRETS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DAGSTER_POSTGRES_PASSWORD", "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_POSTGRES_PASSWORD", "POSTGRES_PASSWORD", "STORE_PASSWORD", "WORDING_KEY", "HAND3D_ALERT_SMTP_PASSWORD",
)  # fmt: skip


def test_a_job_gets_the_secrets_of_mlflow_only_and_only_where_it_writes_there(tmp_path, monkeypatch):
    """Of a container; a Kubernetes job names the secret instead (tests/runners/test_kubernetes.py)."""
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    for stage, allowed in (("mano_fits", set()), ("stage1_checkpoint", {"MLFLOW_TRACKING_PASSWORD"})):
        job = jobs.Job(stage, "", tmp_path, (), jobs.tracked(BY_NAME[stage]))
        given = runners.variables(job)
        assert {name for name, value in given.items() if value == CANARY} == allowed


def test_files_of_settings_hold_no_secret():
    """They name environment variables; the example's values are empty."""
    example = (REPOSITORY / "infra" / "env.example").read_text(encoding="utf-8")
    filled = [line for line in example.splitlines() if "PASSWORD=" in line and line.split("=", 1)[1].strip(" '\"")]
    assert filled == []
    for name in ("dagster.yaml", "dagster-postgres.yaml", "compose.yaml"):
        text = (REPOSITORY / "infra" / name).read_text(encoding="utf-8")
        for line in text.splitlines():
            if "password:" in line.lower() and not line.lstrip().startswith("#"):
                assert "env:" in line or "${" in line, f"{name}: {line}"
