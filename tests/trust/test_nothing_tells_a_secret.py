"""Secrets of the environment stay there: none is found in anything that a run writes or prints."""

import os
import subprocess
import sys

import pytest

from ops import data_version
from tests.assets import fakes
from tests.runners.world import REPOSITORY, fake_python

CANARY = "canary-4f1c9b"
SECRETS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DAGSTER_POSTGRES_PASSWORD", "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_POSTGRES_PASSWORD", "POSTGRES_PASSWORD", "STORE_PASSWORD", "WORDING_KEY", "HAND3D_ALERT_SMTP_PASSWORD",
)  # fmt: skip
RUN = """
import sys
from pathlib import Path
import dagster as dg, pytest
from tests.assets import fakes
from tests.runners.world import fake_python
from dagster_project import definitions, demo, home, runners
from ops import config, report, tracking
root = Path(sys.argv[1])
with pytest.MonkeyPatch.context() as patch:
    fakes.install(patch, root)
    home.prepare(root)
    defs = definitions.build(root)
    runner = runners.Subprocess(root=str(root), python=str(root / "bin" / "python"))
    outcomes = [demo.run_lane(demo.Lane("one", "label_shard", "one", ("raw_videos", "mano_fits", "point_clouds")), str(root))]
    job = dg.Definitions(assets=defs.assets, jobs=defs.jobs, resources={"runner": runner}).resolve_job_def("label_shard")
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(partition_key="two", instance=instance, raise_on_error=False,
                                        asset_selection=[dg.AssetKey("raw_videos")])
    settings = config.load(root / "params.yaml")
    with tracking.start_run(root, "stage1", settings, {}) as run:
        run.metric("loss", 0.5)
    report.write(root)
print("FAILED", outcomes[0].failed, "SUBPROCESS", result.success)
"""


@pytest.mark.slow
def test_no_secret_is_written_or_said(tmp_path, monkeypatch):
    """Two runs, in process and in a subprocess, one stage that fails with a traceback, an MLflow run, the report."""
    fakes.workspace(tmp_path)
    fakes.install(monkeypatch, tmp_path)
    data_version.prepare(tmp_path)
    fake_python(tmp_path)
    fakes.write(tmp_path / fakes.FAIL, "point_clouds one")
    environment = os.environ | {name: f"{CANARY}-{number}" for number, name in enumerate(SECRETS)}
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert "point_clouds: told to fail" in done.stdout, done.stderr
    assert "SUBPROCESS True" in done.stdout, done.stderr
    assert CANARY not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    names = {path.name for path in files}
    assert {"mlflow.db", "report.html", "dvc.lock", "config.json"} <= names
    assert any(".dagster" in path.parts and path.suffix == ".db" for path in files)
    found = [str(path.relative_to(tmp_path)) for path in files if CANARY.encode() in path.read_bytes()]
    assert found == []
