"""mano_fits of labelled sources: MANO labels in the model they belong to, joints fitted with one shape a person."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ops import tables
from ops.config import Config, ManoFitsConfig, RawVideosConfig, ShardConfig, TrainConfig
from ops.geometry.camera import PinholeCamera
from ops.hands.mano import load_models
from ops.perception import mano_fits
from ops.pipeline import run_stage
from ops.rejects import Reason
from ops.sources import dexycb, h2o
from ops.sources.base import JointTrack
from ops.sources.example import make_truth
from ops.sources.manifest import read_clips
from tests.ops.toy_hands import natural_poses, write_toy_models

CAMERA = PinholeCamera.from_fov_x(55.0, 640, 480)
NAMES = ("20200709_141430", "20200709_141431")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two made-up people's MANO files: other shapes, other means."""
    return {name: write_toy_models(tmp_path_factory.mktemp(name), seed) for seed, name in enumerate(("a", "b"))}


@pytest.fixture(scope="module")
def truths(folders):
    """Two clips of one person's right hand, grasping."""
    made = []
    for number, name in enumerate(NAMES):
        truth = make_truth(folders["a"], CAMERA, 6, sides=("right",), moving=False, seed=number, name=name)
        theta = natural_poses(np.random.default_rng(number), 6)[0]
        beta = np.linspace(0.8, -0.8, 10)
        hand = replace(truth.hands["right"], theta=theta, beta=beta)
        joints = truth.models["right"].joints(theta, hand.r, hand.tau, beta)
        made.append(replace(truth, hands={"right": hand}, joints_cam={"right": joints}))
    return made


def make(root, shard: ShardConfig, **fits) -> tuple[pl.DataFrame, pl.DataFrame]:
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    config = Config(
        {"it": shard}, train, train, train, train, raw_videos=RawVideosConfig(), mano_fits=ManoFitsConfig(**fits)
    )
    run_stage(root, config, "raw_videos", "it")
    run_stage(root, config, "mano_fits", "it")
    folder = root / "data" / "mano_fits" / "it"
    return tables.read("mano_fits", folder / "mano_fits.parquet"), tables.read("rejects", folder / "rejects.parquet")


def column(table: pl.DataFrame, name: str) -> np.ndarray:
    return np.array(table[name].to_list())


@pytest.fixture
def workspace(tmp_path, truths):
    for truth in truths:
        dexycb.write_example(tmp_path / "dexycb", truth)
    return tmp_path


def test_mano_labels_use_the_clips_own_files(workspace, truths, folders):
    """No stand-in is there, and mano_fits.hand_model names another person's files: neither may be touched."""
    shard = ShardConfig("dexycb", "dexycb", "dexycb", hand_model=str(folders["a"]))
    table, rejects = make(workspace, shard, hand_model=str(folders["b"]))
    assert (table.height, rejects.height) == (12, 0)
    assert set(table["route"]) == {"labels"}
    assert set(table["hand_model"]) == {"mano"}
    for truth in truths:
        rows = table.filter(pl.col("clip_id").str.contains(truth.name))
        np.testing.assert_allclose(column(rows, "joints_cam").reshape(-1, 21, 3), truth.joints_cam["right"], atol=1e-6)
        np.testing.assert_allclose(column(rows, "theta"), truth.hands["right"].theta, atol=1e-5)
        np.testing.assert_allclose(column(rows, "tau"), truth.hands["right"].tau, atol=1e-6)
    assert (table["residual_mm"] == 0).all()


def test_joints_alone_are_fitted_with_one_shape_a_person(workspace, truths, folders):
    shard = ShardConfig("dexycb", "dexycb", "dexycb")
    table, rejects = make(workspace, shard, hand_model=str(folders["a"]))
    assert (table.height, rejects.height) == (12, 0)
    assert set(table["route"]) == {"joints"}
    assert set(table["hand_model"]) == {"mano"}
    measured = np.concatenate([truth.joints_cam["right"] for truth in truths])
    fitted = column(table, "joints_cam").reshape(-1, 21, 3)
    off_mm = 1000 * np.linalg.norm(fitted - measured, axis=-1).mean(axis=1)
    np.testing.assert_allclose(column(table, "residual_mm"), off_mm, atol=0.01)  # the residual is what it says
    assert off_mm.max() < 0.5
    wrists = np.concatenate([truth.hands["right"].tau for truth in truths])
    np.testing.assert_allclose(column(table, "tau"), wrists, atol=1e-3)
    betas = column(table, "beta")
    np.testing.assert_array_equal(betas, np.broadcast_to(betas[0], betas.shape))
    apart, _ = make(workspace, shard, hand_model=str(folders["a"]), shape_of="clip")
    each = [column(apart.filter(pl.col("clip_id").str.contains(name)), "beta") for name in NAMES]
    assert all((one == one[0]).all() for one in each)
    assert not np.allclose(each[0][0], each[1][0])


def test_a_shards_mano_files_go_before_the_stages(workspace, folders):
    """EgoDex and the like have no MANO labels: the shard's hand_model is what its hands are fitted with."""
    truth = make_truth(folders["a"], CAMERA, 4, seed=3)
    h2o.write_example(workspace / "h2o", truth)
    for path in (workspace / "h2o").glob("*/*/*/cam4/hand_pose_mano/*"):
        path.unlink()
    shard = ShardConfig("h2o", "h2o", "h2o")
    table, _ = make(workspace, shard, hand_model=str(folders["a"]))
    assert set(table["side"]) == {"left", "right"}
    assert column(table, "residual_mm").max() < 0.5
    other, _ = make(workspace, shard, hand_model=str(folders["b"]))
    assert not np.allclose(column(table, "beta"), column(other, "beta"))


def test_missing_joints_and_what_fixes_no_hand(workspace, truths, folders):
    shard = ShardConfig("dexycb", "dexycb", "dexycb")
    make(workspace, shard, hand_model=str(folders["a"]))
    clip = next(iter(read_clips(workspace / "data" / "raw_videos" / "it", workspace)))
    joints = clip.joints["right"].joints_cam.copy()
    joints[0, [8, 20]] = np.nan  # two fingertips are not seen
    joints[1, 4:] = np.nan  # four joints
    joints[2, :, 0] *= 3  # no hand looks like that
    joints[3, 1:, 2] = np.inf
    spoilt = replace(clip, joints={"right": JointTrack(joints, np.arange(6) != 5)})
    models = load_models(folders["a"])
    beta = {"right": truths[0].hands["right"].beta}
    table, rejects = mano_fits.clip_fits(spoilt, ManoFitsConfig(), models, workspace / "none", beta)
    assert table["frame"].to_list() == [0, 4]
    whole = column(table, "joints_cam").reshape(-1, 21, 3)
    assert np.isfinite(whole).all()
    assert np.linalg.norm(whole[0] - truths[0].joints_cam["right"][0], axis=-1)[[0, 4, 12, 16]].max() < 1e-3
    found = {(reject.frame, reject.reason) for reject in rejects}
    assert found == {
        (1, Reason.BAD_LABEL),
        (2, Reason.FIT_RESIDUAL_TOO_HIGH),
        (3, Reason.BAD_LABEL),
        (5, Reason.NO_HAND_DETECTED),
    }
    assert "4 usable joints of 21" in next(reject.detail for reject in rejects if reject.frame == 1)


def test_noisy_joints_are_smoothed_over_time(workspace, truths, folders):
    """One second of a hand that turns and closes, 5 mm noise: nearer to the truth with the temporal term."""
    make(workspace, ShardConfig("dexycb", "dexycb", "dexycb"), hand_model=str(folders["a"]))
    clip = next(iter(read_clips(workspace / "data" / "raw_videos" / "it", workspace)))
    models, hand = load_models(folders["a"]), truths[0].hands["right"]
    time = np.linspace(0, 1, 30)[:, None]
    r, tau = hand.r[:1] + time * 0.3, hand.tau[:1] + time * 0.05
    truth = models["right"].joints(hand.theta[:1] + time * 0.2, r, tau, hand.beta)
    noisy = truth + np.random.default_rng(0).normal(0, 5e-3, truth.shape)
    moving = replace(
        clip, num_frames=30, times_s=time[:, 0], depth=None, joints={"right": JointTrack(noisy, np.arange(30) != 7)}
    )
    error_mm = {}
    for smooth in (False, True):
        settings = ManoFitsConfig(smooth=smooth)
        table, _ = mano_fits.clip_fits(moving, settings, models, workspace / "none", {"right": hand.beta})
        frames = table["frame"].to_numpy()
        assert 7 not in frames  # what is not labelled is not made up from its neighbours
        found = column(table, "joints_cam").reshape(-1, 21, 3)
        error_mm[smooth] = 1000 * np.linalg.norm(found - truth[frames], axis=-1).mean()
    assert error_mm[True] < 0.75 * error_mm[False]


def test_mano_labels_go_before_joints_of_the_same_hand(workspace, truths, folders):
    shard = ShardConfig("dexycb", "dexycb", "dexycb", hand_model=str(folders["a"]))
    make(workspace, shard)
    clip = next(iter(read_clips(workspace / "data" / "raw_videos" / "it", workspace)))
    nonsense = JointTrack(np.full((6, 21, 3), np.nan), np.ones(6, bool))
    both = replace(
        clip, joints={"right": nonsense, "left": JointTrack(truths[0].joints_cam["right"], np.ones(6, bool))}
    )
    table, _ = mano_fits.clip_fits(both, ManoFitsConfig(), load_models(folders["a"]), workspace / "none")
    routes = dict(table.select("side", "route").unique().iter_rows())
    assert routes["right"] == "labels"
    assert routes.get("left", "joints") == "joints"


def test_the_shape_rule_is_checked():
    with pytest.raises(ValueError, match="must be 'subject' or 'clip', got 'person'"):
        ManoFitsConfig(shape_of="person")
