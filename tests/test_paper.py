"""Every number of the paper that the code holds, against the paper."""

import math
from importlib.resources import files
from pathlib import Path

import pytest

from ops import config as cfg

PAPER = cfg.load(Path(str(files("ops") / "configs" / "paper.yaml")))


@pytest.mark.parametrize(
    ("stage", "rows", "batch", "lr", "decay", "warmup"),
    [
        ("stage1", 300_368, 32, 1e-5, 0.01, 0.03),  # Table 6, supplementary B
        ("stage2", 1_030_850, 32, 1e-5, 0.01, 0.03),  # Table 7, supplementary B
        ("stage3", 30_000 * 128, 128, 5e-5, 1e-5, 0.05),  # supplementary B
    ],
)
def test_training_hyperparameters(stage, rows, batch, lr, decay, warmup):
    config = getattr(PAPER, stage)
    assert (config.batch_size, config.lr, config.weight_decay, config.warmup_ratio) == (batch, lr, decay, warmup)
    assert config.num_steps == math.ceil(rows / batch)


def test_data_constants():
    assert PAPER.point_clouds.fps == 1.0  # 3.2.1
    assert PAPER.hand3d_action.chunk_s == 10.0  # supplementary D.1
    assert PAPER.hand3d_test.num_rows == 2000  # 4.4


def test_motion_token_grid():
    from ops.hand3d import motion_tokens

    assert motion_tokens.NUM_BINS == 1024  # supplementary C
    assert tuple(motion_tokens.LOW_M) == (-0.5, -0.5, 0.0)
    assert tuple(motion_tokens.HIGH_M) == (0.5, 0.5, 1.0)
