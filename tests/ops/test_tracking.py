"""Runs and registry against a real embedded store (made once: its first creation takes seconds)."""

from dataclasses import dataclass

import numpy as np
import pytest
from safetensors.numpy import save_file

from ops import tracking
from tests.ops import registry_world as world


@dataclass(frozen=True)
class Section:
    lr: float = 0.5
    num_steps: int = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return world.store(tmp_path_factory.mktemp("tracking"))


@pytest.fixture(autouse=True)
def embedded(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def policy(folder, value):
    folder.mkdir()
    save_file({"weight": np.full(2, value, np.float32)}, folder / "model.safetensors")
    return folder


def test_run_keeps_params_versions_and_curves(root, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"rows")
    with tracking.start_run(root, "stage1_checkpoint", Section(), {"hand3d_visual": tmp_path}) as run:
        for step in range(1, 1203):  # more than one batch of the store
            run.metric("loss", 1 / step, step)
    found = tracking.client(root).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.5", "num_steps": "3"}
    assert found.data.tags["data_version/hand3d_visual"] == tracking.folder_version(tmp_path)
    assert len(found.data.tags["git_commit"]) == 40 or found.data.tags["git_commit"] == "unknown"
    history = tracking.client(root).get_metric_history(run.run_id, "loss")
    assert [point.step for point in history] == list(range(1, 1203))
    assert tracking.run_metrics(root, run.run_id)["loss"] == pytest.approx(1 / 1202)
    assert found.info.artifact_uri.startswith((root / "mlruns").as_uri())


def test_run_that_raises_is_marked_failed_and_keeps_its_curve(root):
    ids = []

    def diverge():
        with tracking.start_run(root, "stage1_checkpoint", Section(), {}) as run:
            ids.append(run.run_id)
            run.metric("loss", 2.0, 1)
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        diverge()
    assert tracking.client(root).get_run(ids[0]).info.status == "FAILED"
    assert tracking.run_metrics(root, ids[0])["loss"] == 2.0


def test_folder_version_follows_names_and_bytes_only(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = tracking.folder_version(tmp_path)
    for name in ("report.json", "training.json"):
        (tmp_path / name).write_text("{}")
    assert tracking.folder_version(tmp_path) == first
    (tmp_path / "a").write_bytes(b"2")
    changed = tracking.folder_version(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, changed, tracking.folder_version(tmp_path)}) == 3


def test_registry_round_trip(root, tmp_path):
    name = "policy-under-test"
    assert tracking.get_alias(root, name, "champion") is None  # no such model
    with tracking.start_run(root, "champion", Section(), {}) as run:
        first = tracking.register(root, name, run.run_id, policy(tmp_path / "one", 1.0), {"gate": "passed"})
    with tracking.start_run(root, "champion", Section(), {}) as run:
        second = tracking.register(root, name, run.run_id, policy(tmp_path / "two", 2.0), {"gate": "failed"})
    assert tracking.versions(root, name) == [first, second] == [1, 2]
    assert tracking.get_alias(root, name, "champion") is None  # no such alias
    tracking.set_alias(root, name, "champion", first)
    assert tracking.get_alias(root, name, "champion") == first
    tracking.set_alias(root, name, "champion", second)  # moves, never two
    assert tracking.get_alias(root, name, "champion") == second
    tracking.delete_alias(root, name, "champion")
    tracking.delete_alias(root, name, "champion")
    assert tracking.get_alias(root, name, "champion") is None
    assert tracking.version_tags(root, name, second) == {"gate": "failed"}
    assert tracking.version_run_id(root, name, second) == run.run_id
    kept = tracking.download(root, name, first, tmp_path)
    assert (kept / "model.safetensors").read_bytes() == (tmp_path / "one" / "model.safetensors").read_bytes()


def test_folder_without_weights_is_not_registered(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="safetensors"):
        tracking.register(root, "policy-under-test", "0" * 32, tmp_path, {})
