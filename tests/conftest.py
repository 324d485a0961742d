"""Shared fixtures: weights, hand models, and three small clips of known truth."""

import os
from pathlib import Path

import pytest

from ops.config import ShardConfig, SyntheticConfig

REPOSITORY = Path(__file__).parent.parent
TINY = SyntheticConfig(num_clips=3, seconds=2.4, fps=10.0, width=448, height=336, seed=11)


@pytest.fixture(scope="session")
def weights() -> Path:
    """Folder of hand_landmarker.task, hand_model/ and tokenizer/: HAND3D_WEIGHTS, else the repository's data/weights."""
    folder = Path(os.environ.get("HAND3D_WEIGHTS") or REPOSITORY / "data" / "weights")
    wanted = ("hand_landmarker.task", "hand_model/left.npz", "hand_model/right.npz", "tokenizer/tokenizer.json")
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        pytest.fail(
            f"{folder} lacks {', '.join(missing)}: run `hand3d bootstrap --only weights`, or set HAND3D_WEIGHTS"
        )
    return folder


@pytest.fixture(scope="session")
def hand_models(weights):
    """Both hands of the stand-in: {"left": HandModel, "right": HandModel}."""
    from ops.hands.mano import load_models

    return load_models(weights / "hand_model")


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory, hand_models) -> Path:
    """A workspace with data/raw/synthetic-00/clip-000{0,1,2}.mp4 of 24 frames: 0 static camera, 1 moving, 2 moving and
    of split test. `tiny_shard` reads them."""
    from ops.sources import synthetic

    root = tmp_path_factory.mktemp("tiny")
    folder = root / "data" / "raw" / "synthetic-00"
    folder.mkdir(parents=True)
    for number, split in enumerate(("train", "train", "test")):
        synthetic.render_clip(folder / f"clip-{number:04d}.mp4", TINY, hand_models, number, split)
    return root


@pytest.fixture(scope="session")
def tiny_shard() -> ShardConfig:
    return ShardConfig("synthetic", "synthetic", "data/raw/synthetic-00")
