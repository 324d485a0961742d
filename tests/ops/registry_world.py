"""A registry to test with: real and embedded, with its tables made once a process (that takes seconds)."""

import json
import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ops import tracking
from ops.config import TrainConfig
from ops.evaluation import champion
from tests.assets import fakes

REPOSITORY = Path(__file__).parents[2]
MODEL = "vipa-vla-libero-object"


def ready(root: Path) -> Path:
    """A workspace of fake stages with the repository's rule and an empty registry."""
    fakes.workspace(root)
    (root / champion.RULE_FILE).write_bytes((REPOSITORY / champion.RULE_FILE).read_bytes())
    return store(root)


def store(root: Path) -> Path:
    """An empty registry in a workspace."""
    (root / "mlflow.db").write_bytes(_empty())
    return root


@cache
def _empty() -> bytes:
    memory = "/dev/shm"  # two hundred small commits: on a busy disk they take minutes
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        root = Path(folder)
        tracking.models(root)
        return (root / "mlflow.db").read_bytes()


def policy(root: Path, weight: float) -> Path:
    """A checkpoint as stage 3 leaves one, with the run it came from."""
    folder = root / "data" / "posttrained_policies"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": np.full(2, weight, np.float32)}, folder / "model.safetensors")
    with tracking.start_run(root, "posttrained_policies", TrainConfig(1, 1, 0.1, 0.0, 0.0), {}) as run:
        pass
    (folder / "training.json").write_text(json.dumps({"mlflow_run_id": run.run_id}), encoding="utf-8")
    return folder


def register(root: Path, weight: float = 1.0, folder: Path | None = None, **tags: str) -> int:
    """A version with the tags that the gate gives (gate="passed" unless told)."""
    own = policy(root, weight)
    run_id = json.loads((own / "training.json").read_text(encoding="utf-8"))["mlflow_run_id"]
    folder = folder or own
    tags = {"content": tracking.folder_version(folder), "gate": "passed", **tags}
    return tracking.register(root, MODEL, run_id, folder, tags)
