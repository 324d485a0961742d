"""The acceptance checks as asset checks of a shard: sound data passes, spoilt data stops what is downstream."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ops import checks, tables
from ops.config import Config, RawVideosConfig, ShardConfig, TrainConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.pipeline import output, run_stage
from ops.sources import h2o
from ops.sources.example import make_truth
from ops.stages import BY_NAME
from ops.store import Report
from tests.ops.toy_hands import natural_poses, write_toy_models

CAMERA = PinholeCamera.from_fov_x(50.0, 320, 240)
LABELS = ("label_hand_size", "published_joints", "wrist_is_tau", "handedness", "depth_scale")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


def truth(models, number=0):
    made = make_truth(models, CAMERA, 6, seed=number, name=f"k1/{number}")
    rng, hands, joints = np.random.default_rng(number), {}, {}
    for side, hand in made.hands.items():
        hands[side] = replace(hand, theta=natural_poses(rng, 6, side)[0])
        joints[side] = made.models[side].joints(hands[side].theta, hand.r, hand.tau, hand.beta)
    # the toy's mesh has no surface: its depth is where the palms are
    depth_m = np.full_like(made.depth_m, 0.5)
    return replace(made, hands=hands, joints_cam=joints, depth_m=depth_m)


def findings(root, models) -> dict[str, checks.Finding]:
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    shard = ShardConfig("h2o", "h2o", "h2o", hand_model=str(models))
    config = Config({"it": shard}, train, train, train, train, raw_videos=RawVideosConfig())
    found = {}
    for name in ("raw_videos", "mano_fits"):
        run_stage(root, config, name, "it")
        made = checks.Made(root, config, BY_NAME[name], "it", Report.load(output(root, name, "it")))
        found |= {one.name: one for one in checks.evaluate(made)}
    return found


def test_a_sound_shard_passes_with_numbers(tmp_path, models):
    for number in range(2):
        h2o.write_example(tmp_path / "h2o", truth(models, number))
    found = findings(tmp_path, models)
    assert {name: one.detail for name, one in found.items() if not one.passed} == {}
    for name in ("reader_round_trip", "camera_direction", "frame_counts", "clip_licence", *LABELS):
        assert found[name].blocking
    assert "2 of 2 clips judged, 0 fail" in found["published_joints"].detail
    assert "apart_px" in found["published_joints"].detail
    assert "wrist_speed_ratio" in found["camera_direction"].detail


def test_a_spoilt_shard_is_stopped(tmp_path, models):
    """Poses written the wrong way round, and depth in tenths of a millimetre."""
    for number in range(2):
        made = truth(models, number)
        wrong = replace(made, T_cam_world=transforms.invert(made.T_cam_world), depth_m=made.depth_m * 10)
        h2o.write_example(tmp_path / "h2o", wrong)
    found = findings(tmp_path, models)
    assert {name for name, one in found.items() if not one.passed} == {"camera_direction", "depth_scale"}
    assert all(found[name].blocking for name in ("camera_direction", "depth_scale"))


def test_spoilt_rows_of_mano_fits_are_found(tmp_path, models):
    """Whoever wrote the table: the check reads rows, not the labels behind them."""
    for number in range(2):
        h2o.write_example(tmp_path / "h2o", truth(models, number))
    findings(tmp_path, models)
    path = output(tmp_path, "mano_fits", "it") / "mano_fits.parquet"
    table = tables.read("mano_fits", path)
    moved = np.array(table["tau"].to_list()) + np.array([0.096, 0.0, 0.0])
    table = table.with_columns(pl.Series("tau", moved.astype(np.float32), dtype=pl.Array(pl.Float32, 3)))
    table.write_parquet(path)
    (check,) = [check for check in checks.checks_of("mano_fits") if check.name == "wrist_is_tau"]
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    config = Config({"it": ShardConfig("h2o", "h2o", "h2o", hand_model=str(models))}, train, train, train, train)
    passed, detail = check.function(checks.Made(tmp_path, config, BY_NAME["mano_fits"], "it", Report()))
    assert not passed
    assert "tau_to_joint_m 0.096" in detail
