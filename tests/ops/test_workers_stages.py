"""The stages that share their clips out: the same bytes from every kind of worker, and a clip that crashes costs itself."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest

from ops import jobs, tables
from ops.config import Config, ManoFitsConfig, PointCloudsConfig, RawVideosConfig, ShardConfig, TrainConfig
from ops.geometry.camera import PinholeCamera
from ops.perception import mano_fits
from ops.pipeline import run_stage
from ops.sources import dexycb
from ops.sources.example import make_truth
from tests.ops.toy_hands import natural_poses, write_toy_models
from tests.ops.toy_workers import ray_cluster

STAGES = ("raw_videos", "mano_fits", "point_clouds", "objects")
NAMES = ("20200709_141430", "20200709_141431", "20200709_141432")
SHARD = "it"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Three labelled clips with depth, whose joints are to be fitted; and what the four stages make of them here."""
    root, models = tmp_path_factory.mktemp("workers"), write_toy_models(tmp_path_factory.mktemp("models"), 0)
    camera = PinholeCamera.from_fov_x(55.0, 640, 480)
    for number, name in enumerate(NAMES):
        truth = make_truth(models, camera, 4, sides=("right",), moving=False, seed=number, name=name)
        theta, hand = natural_poses(np.random.default_rng(number), 4)[0], truth.hands["right"]
        joints = truth.models["right"].joints(theta, hand.r, hand.tau, hand.beta)
        truth = replace(truth, hands={"right": replace(hand, theta=theta)}, joints_cam={"right": joints})
        dexycb.write_example(root / "dexycb", truth)
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    config = Config(
        {SHARD: ShardConfig("dexycb", "dexycb", "dexycb")}, train, train, train, train, raw_videos=RawVideosConfig(),
        mano_fits=ManoFitsConfig(hand_model=str(models)), point_clouds=PointCloudsConfig(long_edge=96),
    )  # fmt: skip
    for stage in STAGES:
        run_stage(root, config, stage, SHARD)
    return root, config, {stage: jobs.files_hash(root / "data" / stage / SHARD) for stage in STAGES}


def made(root, name):
    return tables.read(name, root / "data" / "mano_fits" / SHARD / f"{name}.parquet")


def test_there_is_something_to_compare(workspace):
    root, _, _ = workspace
    assert made(root, "mano_fits")["clip_id"].n_unique() == len(NAMES)
    assert set(made(root, "mano_fits")["route"]) == {"joints"}
    clouds = tables.read("point_clouds", root / "data" / "point_clouds" / SHARD / "point_clouds.parquet")
    assert clouds["clip_id"].n_unique() == len(NAMES)


@pytest.mark.slow
def test_processes_give_the_same_bytes(workspace, monkeypatch):
    root, config, expected = workspace
    monkeypatch.setenv("HAND3D_WORKERS", "processes:2")
    for stage in STAGES:
        run_stage(root, config, stage, SHARD)
        assert jobs.files_hash(root / "data" / stage / SHARD) == expected[stage], stage


@pytest.mark.slow
def test_two_workers_on_ray_give_the_same_bytes(workspace, monkeypatch):
    root, config, expected = workspace
    with ray_cluster() as address:
        monkeypatch.setenv("HAND3D_WORKERS", f"ray:{address}")
        for stage in ("mano_fits", "point_clouds"):
            run_stage(root, config, stage, SHARD)
            assert jobs.files_hash(root / "data" / stage / SHARD) == expected[stage], stage


def load_deadly(*arguments):
    """The real worker, but for a clip at which a library crashes."""
    fits = mano_fits.load_fitter(*arguments)
    return lambda task: ctypes.string_at(0) if NAMES[1] in task[0]["clip_id"] else fits(task)


@pytest.mark.slow
def test_clip_that_crashes_its_worker_is_rejected_and_the_shard_stands(workspace, monkeypatch):
    root, config, _ = workspace
    with monkeypatch.context() as patch:
        patch.setenv("HAND3D_WORKERS", "processes:1")
        patch.setattr(mano_fits, "load_fitter", load_deadly)
        report = run_stage(root, config, "mano_fits", SHARD)
    rejects = made(root, "rejects")
    assert report.rejects == {"crashed_worker": 1}
    assert rejects["item"].str.contains(NAMES[1]).all()
    assert rejects["detail"].to_list() == ["two workers ended at it, the second one was killed by SIGSEGV"]
    assert made(root, "mano_fits")["clip_id"].n_unique() == len(NAMES) - 1
    run_stage(root, config, "mano_fits", SHARD)  # other tests compare with the whole one
