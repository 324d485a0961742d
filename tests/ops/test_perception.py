"""Depth, objects and scale against worlds of known truth and naive twins. No weights needed."""

import dataclasses
import zipfile
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from ops import config, tables
from ops.config import CalibrationConfig, PointCloudsConfig
from ops.geometry import transforms
from ops.perception import calibration, drawing, objects, pairs, point_clouds, two_view
from ops.perception.visibility import OCCLUSION_MARGIN_M, Visibility, at_pixels, classify
from ops.rejects import Reason, Reject
from tests.ops.perception_world import CAMERA, make_clip, pose, view

NO_MASKS = (np.zeros((240, 320), bool),) * 2
SHIFT, TURN = (0.12, -0.01, 0.02), (0.01, -0.06, 0.015)


# -- visibility


def test_each_reason_for_not_seeing_a_joint():
    joints = np.tile([0.0, 0.0, 1.0], (1, 21, 1))
    joints[0, 1] = [0, 0, -0.2]
    joints[0, 2] = [5, 0, 1.0]
    joints[0, 4] = np.nan
    surface = np.full((1, 21), np.nan)
    surface[0, 3] = 1.0 - OCCLUSION_MARGIN_M - 0.01
    surface[0, 5] = 1.0 - OCCLUSION_MARGIN_M + 0.01  # a joint lies below the skin that hides it
    got = classify(joints, CAMERA.project(joints), CAMERA, surface)[0]
    expected = [
        Visibility.VISIBLE, Visibility.BEHIND_CAMERA, Visibility.OUTSIDE_IMAGE, Visibility.OCCLUDED,
        Visibility.NOT_TRACKED, Visibility.VISIBLE,
    ]  # fmt: skip
    assert got[:6].tolist() == expected


def test_pixels_are_looked_up_by_floor():
    image = np.arange(12.0).reshape(3, 4)
    px = np.array([[0.0, 0.0], [3.99, 2.99], [1.5, 1.0], [4.0, 1.0], [-0.01, 1.0], [np.nan, 0.0]])
    assert np.array_equal(at_pixels(image, px), [0, 11, 5, np.nan, np.nan, np.nan], equal_nan=True)


# -- scale


def _naive_scale(joint_z: np.ndarray, map_z: np.ndarray, visible: np.ndarray) -> tuple[float, int, float]:
    ratios = [j / m for j, m, v in zip(joint_z, map_z, visible, strict=True) if v and j > 0 and m > 0]
    if not ratios:
        return np.nan, 0, np.nan
    s = float(np.median(ratios))
    return s, len(ratios), float(np.median([abs(r - s) for r in ratios])) / s


def test_scales_equal_a_naive_loop():
    rng = np.random.default_rng(0)
    joint_z, map_z = rng.uniform(0.2, 1, (300, 42)), rng.uniform(0.1, 3, (300, 42))
    map_z[rng.random(map_z.shape) < 0.5] = np.nan
    joint_z[:, 21:][rng.random(300) < 0.5] = np.nan
    map_z[rng.random(map_z.shape) < 0.02] = -1.0
    visible = rng.random(map_z.shape) < 0.6
    visible[:3] = False
    naive = [_naive_scale(*row) for row in zip(joint_z, map_z, visible, strict=True)]
    for got, expected in zip(calibration.scales(joint_z, map_z, visible), zip(*naive, strict=True), strict=True):
        np.testing.assert_array_equal(got, np.array(expected))


def test_median_of_an_even_count_is_the_mean_of_the_middle_two():
    s, count, spread = calibration.scales(np.array([[2.0, 4.0]]), np.ones((1, 2)), np.ones((1, 2), bool))
    assert (s[0], count[0]) == (3.0, 2)
    assert spread[0] == pytest.approx(1 / 3)


def test_a_map_times_a_factor_gives_the_scale_over_it():
    rng = np.random.default_rng(1)
    joint_z = rng.uniform(0.3, 0.9, (20, 42))
    map_z, visible = joint_z * rng.normal(1, 0.02, joint_z.shape), rng.random(joint_z.shape) < 0.8
    once, many = calibration.scales(joint_z, map_z, visible)[0], calibration.scales(joint_z, 0.37 * map_z, visible)[0]
    np.testing.assert_allclose(many, once / 0.37, rtol=1e-12)
    np.testing.assert_allclose(once, 1, atol=0.02)


def _frames(num: int) -> pl.DataFrame:
    return pl.DataFrame({"clip_id": ["c"] * num, "frame": range(num), "time_s": [float(i) for i in range(num)]})


def test_too_few_joints_and_too_wide_a_spread_are_rejected_with_numbers():
    found = _frames(3).with_columns(
        scale=pl.Series([1.0, 2.0, 3.0]), num_omega=pl.Series([20, 4, 20]), spread=pl.Series([0.01, 0.0, 0.4])
    )
    kept, rejects = calibration._accepted(found, CalibrationConfig(min_omega=5, max_spread=0.15))
    assert kept["frame"].to_list() == [0]
    assert [(r.reason, r.frame) for r in rejects] == [
        (Reason.TOO_FEW_SCALE_JOINTS, 1),
        (Reason.SCALE_SPREAD_TOO_LARGE, 2),
    ]
    assert "4 visible joints" in rejects[0].detail
    assert "0.400" in rejects[1].detail


# -- two views


def test_triangulation_of_exact_pixels_is_exact():
    rng = np.random.default_rng(2)
    X = np.c_[rng.uniform(-0.5, 0.5, (200, 2)), rng.uniform(0.4, 3, 200)]
    for c in (np.array([0.1, 0.02, 0.0]), np.array([0.01, 0.0, -0.15])):
        p, q = (cv2.projectPoints(points, np.zeros(3), np.zeros(3), CAMERA.K, None)[0][:, 0] for points in (X, X + c))
        z, parallax = two_view.triangulate(p, q, CAMERA.K, c)
        np.testing.assert_allclose(parallax, np.linalg.norm(p - q, axis=1))
        known = parallax > two_view.MIN_PIXEL_PARALLAX_PX
        np.testing.assert_allclose(z[known], X[known, 2], rtol=1e-9)
        assert np.isnan(z[~known]).all()
        assert known.mean() > 0.8


def test_confident_depth_is_better_depth():
    rng = np.random.default_rng(3)
    X = np.c_[rng.uniform(-0.5, 0.5, (4000, 2)), rng.uniform(0.4, 6, 4000)]
    c = np.array([0.05, 0.0, 0.0])
    p = CAMERA.project(X)
    z, parallax = two_view.triangulate(p, CAMERA.project(X + c) + rng.normal(0, 0.3, (4000, 2)), CAMERA.K, c)
    error, sure = np.abs(z / X[:, 2] - 1), two_view.confidence_of(parallax)
    by_confidence = [np.nanmedian(error[(sure >= low) & (sure < low + 0.05)]) for low in (0.8, 0.85, 0.9, 0.95)]
    assert (np.diff(by_confidence) < 0).all()


def test_motion_that_no_depth_explains_is_left_out():
    p, c = np.array([[160.0, 120.0]]), np.array([0.1, 0.0, 0.0])  # parallax is horizontal
    assert np.isfinite(two_view.triangulate(p, p + np.array([20.0, 0.5]), CAMERA.K, c)[0])
    assert np.isnan(two_view.triangulate(p, p + np.array([20.0, 2.0]), CAMERA.K, c)[0])
    assert np.isnan(two_view.triangulate(p, p - [20.0, 0.0], CAMERA.K, c)[0])  # behind the camera


def test_pose_and_depth_of_a_moving_camera():
    a, depth = view(np.eye(4))
    b, _ = view(pose(SHIFT, TURN))
    pair = two_view.relative_pose(a, b, CAMERA, NO_MASKS)
    truth = pose(SHIFT, TURN)
    turn_deg = np.rad2deg(np.linalg.norm(cv2.Rodrigues(pair.T_b_a[:3, :3] @ truth[:3, :3].T)[0]))
    cosine = pair.T_b_a[:3, 3] @ truth[:3, 3] / np.linalg.norm(truth[:3, 3])
    assert turn_deg < 0.2
    assert np.rad2deg(np.arccos(cosine)) < 2
    z, confidence = two_view.dense_depth(a, b, CAMERA, pair.T_b_a, NO_MASKS)
    seen = np.isfinite(z)
    ratio = (z / depth)[seen]
    assert seen.mean() > 0.6
    assert np.median(ratio) == pytest.approx(1 / np.linalg.norm(SHIFT), rel=0.01)  # |t| = 1
    assert np.median(np.abs(ratio / np.median(ratio) - 1)) < 0.01
    assert ((confidence > 0) == seen).all()


def test_given_poses_make_depth_metric_and_masks_stay_empty():
    a, depth = view(np.eye(4))
    b, _ = view(pose(SHIFT, TURN))
    masks = (np.zeros((240, 320), bool), np.zeros((240, 320), bool))
    masks[0][100:140, 100:200] = True
    z, confidence = two_view.dense_depth(a, b, CAMERA, pose(SHIFT, TURN), masks)
    assert np.isnan(z[masks[0]]).all()
    assert not confidence[masks[0]].any()
    assert np.nanmedian(z / depth) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (pose((0, 0, 0)), Reason.DEPTH_NONE_STATIC_CAMERA),
        (pose((0, 0, 0), (0.01, -0.1, 0.02)), Reason.BASELINE_TOO_SMALL),
        (None, Reason.TOO_FEW_MATCHES),
    ],
)
def test_no_depth_without_parallax(second, reason):
    a, _ = view(np.eye(4))
    b = np.full_like(a, 128) if second is None else view(second)[0]
    got, detail = two_view.relative_pose(a, b, CAMERA, NO_MASKS)
    assert got == reason
    assert any(character.isdigit() for character in detail)


def test_a_static_camera_is_told_even_when_much_of_the_picture_moves():
    a, _ = view(np.eye(4))
    b, _ = view(pose(SHIFT))
    b[:, :130] = a[:, :130]  # most of the picture is another rigid thing that moves
    assert two_view.relative_pose(a, b, CAMERA, NO_MASKS)[0] == Reason.DEPTH_NONE_STATIC_CAMERA


@pytest.mark.parametrize("metric", [True, False])
def test_a_hand_that_stands_still_is_told_from_one_that_moves(metric):
    rng = np.random.default_rng(4)
    hand = np.array([0.05, 0.05, 0.5]) + rng.normal(0, 0.04, (21, 3))
    T = pose((0.08, 0, 0.01), (0, -0.03, 0))
    if not metric:
        T[:3, 3] /= np.linalg.norm(T[:3, 3])
    there = transforms.apply(pose((0.08, 0, 0.01), (0, -0.03, 0)), hand)
    assert two_view.stands_still(hand, CAMERA.project(there), CAMERA, T, metric)
    lifted = transforms.apply(pose((0.08, 0, 0.01), (0, -0.03, 0)), hand - [0, 0.03, 0])
    assert not two_view.stands_still(hand, CAMERA.project(lifted), CAMERA, T, metric)
    assert not two_view.stands_still(np.full((21, 3), np.nan), CAMERA.project(there), CAMERA, T, metric)
    along = transforms.apply(pose((0.08, 0, 0.01), (0, -0.03, 0)), hand + np.array([0.03, 0, 0]))
    assert two_view.stands_still(hand, CAMERA.project(along), CAMERA, T, metric) == (not metric)  # the stated limit


# -- the stage's parts on a small video

NO_HANDS = tables.frame("mano_fits", [])


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    poses = [pose((0.025 * i, 0, 0.004 * i), (0, -0.012 * i, 0)) for i in range(11)]
    return make_clip(tmp_path_factory.mktemp("moving"), poses, given=True)


def test_maps_of_a_moving_camera_are_metric_with_poses_and_relative_without(moving):
    for clip, scale in ((moving, "metric"), (dataclasses.replace(moving, T_cam_world=None), "relative")):
        found = list(point_clouds.clip_maps(clip, NO_HANDS, PointCloudsConfig(fps=1.0, long_edge=160)))
        assert [row["frame"] for row, *_ in found] == [0, 5, 10]
        for row, points, confidence, rgb in found:
            assert (row["route"], row["scale"]) == ("two_view", scale)
            assert points.shape == (120, 160, 3)
            assert confidence.shape == rgb.shape[:2] == (120, 160)
            truth = view(moving.T_cam_world[row["frame"]], CAMERA.resized(160, 120))[1]
            ratio = points[..., 2] / truth
            assert np.nanmedian(np.abs(ratio / np.nanmedian(ratio) - 1)) < 0.03
            if scale == "metric":
                assert np.nanmedian(ratio) == pytest.approx(1, abs=0.03)


def test_a_static_camera_gives_rejects_and_never_a_map(tmp_path):
    clip = make_clip(tmp_path, [pose((0, 0, 0))] * 16)
    for known in (clip, dataclasses.replace(clip, T_cam_world=np.stack([np.eye(4)] * 16))):
        found = list(point_clouds.clip_maps(known, NO_HANDS, PointCloudsConfig()))
        assert all(isinstance(item, Reject) for item in found)
        assert [(item.reason, item.frame) for item in found] == [
            (Reason.DEPTH_NONE_STATIC_CAMERA, frame) for frame in (0, 5, 10, 15)
        ]


def test_maps_on_disk_are_read_back(tmp_path, moving):
    row, points, confidence, _ = next(point_clouds.clip_maps(moving, NO_HANDS, PointCloudsConfig()))
    with zipfile.ZipFile(tmp_path / point_clouds.FILE, "w") as file:
        point_clouds._store(file, 0, points, confidence)
    back, sure = point_clouds.read_point_map(tmp_path, 0)
    assert (np.isnan(back) == np.isnan(points)).all()
    np.testing.assert_allclose(back, points, rtol=1e-3)
    np.testing.assert_allclose(sure, confidence, atol=1e-3)
    assert row["coverage"] == pytest.approx(np.isfinite(back[..., 2]).mean())


def test_missing_cut3r_weights_say_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cut3r_512_dpt_4_64\.pth.*set point_clouds\.cut3r to null"):
        point_clouds.load_estimator(PointCloudsConfig(cut3r=str(tmp_path / "none.pth")))
    assert point_clouds.load_estimator(PointCloudsConfig()) is None


def test_hands_between_tracked_frames_are_the_nearest_ones():
    rows = [
        {
            "frame": frame,
            "time_s": frame / 10,
            "side": "left",
            "joints_cam": [float(frame)] * 63,
            "joints_px": [0.0] * 42,
        }
        for frame in (0, 2, 10)
    ]
    hands = pairs.Hands.of(pl.DataFrame(rows))
    assert hands.at(0.15)["left"][0][0, 0] == 2
    assert hands.at(0.6) == {}
    assert pairs.Hands.of(tables.frame("mano_fits", [])).at(0.0) == {}


# -- objects


def test_box_position_is_the_median_of_the_middle():
    rng = np.random.default_rng(5)
    points = rng.normal(0, 1, (40, 60, 3)) + np.array([0, 0, 5])
    points[rng.random((40, 60)) < 0.3] = np.nan
    box = np.array([10.0, 8.0, 30.0, 28.0])
    middle = [points[v, u] for v in range(13, 23) for u in range(15, 25) if np.isfinite(points[v, u, 2])]
    np.testing.assert_array_equal(objects.box_position(points, box), np.median(middle, axis=0))
    assert objects.box_position(np.full((40, 60, 3), np.nan), box) is None
    assert objects.box_position(points, np.array([100.0, 100.0, 120.0, 120.0])) is None  # outside the picture


def test_a_plain_thing_at_the_fingertips_is_proposed():
    rng = np.random.default_rng(6)
    picture = rng.integers(90, 110, (240, 320, 3)).astype(np.uint8)
    cv2.rectangle(picture, (180, 100), (220, 150), (200, 30, 30), -1)
    hand = np.c_[np.linspace(80, 176, 21), np.linspace(130, 120, 21)]
    hand[:, 1] += rng.normal(0, 6, 21)
    (name, box, score), *_ = objects.proposals(picture, hand[None], 3)
    assert name == "object"
    np.testing.assert_allclose(box, [180, 100, 221, 151], atol=6)
    assert 0.5 < score <= 1
    assert objects.proposals(picture, np.empty((0, 21, 2)), 3) == []


def test_boxes_without_depth_and_frames_without_objects_are_rejected(moving):
    cloud = {"clip_id": "c", "frame": 5, "time_s": 1.0, "map_width": 160, "map_height": 120}
    points = np.full((120, 160, 3), np.nan)
    points[:, 80:] = [0.1, 0.2, 0.9]
    boxes = [("left cup", np.array([10.0, 10, 60, 60]), 1.0), ("right cup", np.array([240.0, 10, 300, 60]), 1.0)]
    rows, rejects = objects._locate(moving, cloud, boxes, "labels", points)
    assert [(row["name"], row["frame"]) for row in rows] == [("right cup", 5)]
    np.testing.assert_allclose(rows[0]["position_map"], [0.1, 0.2, 0.9])
    assert [(r.reason, r.frame, r.detail) for r in rejects] == [(Reason.BOX_WITHOUT_DEPTH, 5, "left cup")]
    assert [r.reason for r in objects._locate(moving, cloud, [], "proposal", points)[1]] == [Reason.NO_OBJECT]


def test_grounding_dino_runs_from_a_local_folder(tmp_path):
    """The code path, with a tiny random model in the public layout: boxes lie in the picture and carry given names."""
    folder = tiny_grounding_dino(tmp_path)
    detector = objects.GroundingDino(folder)
    detector.BOX_THRESHOLD = detector.TEXT_THRESHOLD = 0.0  # random weights are sure of nothing
    found = detector.boxes(
        np.random.default_rng(0).integers(0, 255, (120, 160, 3)).astype(np.uint8), ("red cup", "ball")
    )
    assert found
    for name, box, score in found:
        assert name in ("red cup", "ball")
        assert box.shape == (4,)
        assert (box[2:] >= box[:2]).all()
        assert -160 < box.min() <= box.max() < 320
        assert 0 <= score <= 1
    with pytest.raises(FileNotFoundError, match="grounding-dino-tiny"):
        objects.GroundingDino(tmp_path / "none")


def test_phrases_of_the_detector_become_given_names():
    names = ("red cup", "red ball")
    assert [objects.named(label, names) for label in ("cup", "red ball.", "a red cup", "table", "")] == [
        "red cup", "red ball", "red cup", None, None,
    ]  # fmt: skip


def tiny_grounding_dino(folder: Path) -> Path:
    """Random weights with the public keys, and a word-piece tokenizer whose special ids are BERT's (hard-coded there)."""
    import torch
    from transformers import BertConfig, BertTokenizerFast, GroundingDinoConfig, GroundingDinoForObjectDetection
    from transformers.models.swin.configuration_swin import SwinConfig

    words = ["[PAD]"] + [f"[unused{i}]" for i in range(1100)]
    for index, word in ((100, "[UNK]"), (101, "[CLS]"), (102, "[SEP]"), (103, "[MASK]"), (1012, "."), (1029, "?")):
        words[index] = word
    words += ["red", "cup", "ball"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    text = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    backbone = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=7, out_indices=[2, 3, 4]
    )
    settings = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=5,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
    )  # fmt: skip
    GroundingDinoForObjectDetection(settings).save_pretrained(folder)
    return folder


def test_cut3r_gives_maps_of_the_frames(tmp_path, moving):
    """The code path, with the tiny random network: one map a sampled frame, in relative scale."""
    import torch

    from ops.models.cut3r import Cut3r
    from ops.models.cut3r_maps import Cut3rMaps
    from ops.models.presets import tiny

    torch.manual_seed(0)
    estimator = Cut3rMaps(Cut3r(tiny().spatial), long_edge=64)
    found = list(point_clouds.clip_maps(moving, NO_HANDS, PointCloudsConfig(long_edge=160), estimator))
    assert [row["frame"] for row, *_ in found] == [0, 5, 10]
    for row, points, confidence, _ in found:
        assert (row["route"], row["scale"]) == ("cut3r", "relative")
        assert points.shape == (120, 160, 3)
        assert np.isfinite(points).all()
        assert (confidence > 0).all()


# -- pictures


def test_a_hand_outside_or_without_numbers_can_be_drawn():
    picture = np.zeros((100, 150, 3), np.uint8)
    for joints in (
        np.full((21, 2), np.nan),
        np.full((21, 2), -400.0),
        np.c_[np.linspace(20, 60, 21), np.full(21, 50.0)],
    ):
        drawn = drawing.hand(picture, joints, np.ones(21, bool))
        assert drawn.shape == (drawing.TILE[1], drawing.TILE[0], 3)
    assert drawn.any()


# -- calibration, whole


def test_calibration_stage_makes_objects_metric(tmp_path, monkeypatch):
    """A map in a unit of 2.5 m: s = 2.5, the object's place in metres; a frame without hands leaves its object out."""
    from ops.pipeline import StageContext
    from ops.stages import BY_NAME

    clip = make_clip(tmp_path, [pose((0, 0, 0))] * 6)
    monkeypatch.setattr(calibration, "read_clips", lambda *_: iter([clip]))
    data = tmp_path / "data"
    for name in ("raw_videos", "mano_fits", "point_clouds", "objects"):
        (data / name / "s").mkdir(parents=True)
    joints = np.c_[np.linspace(-0.2, 0.2, 21), np.linspace(-0.1, 0.1, 21), np.linspace(0.5, 0.7, 21)]
    px = CAMERA.project(joints)
    depth = np.full((120, 160), 4.0)
    for place, z in zip((px * 0.5).astype(int), joints[:, 2], strict=True):
        depth[place[1], place[0]] = z
    hand = {
        "clip_id": clip.clip_id, "frame": 0, "time_s": 0.0, "side": "left", "theta": [0.0] * 45, "r": [0.0] * 3,
        "tau": joints[0], "beta": [0.0] * 10, "joints_cam": joints.ravel(), "joints_px": px.ravel(),
        "visibility": [0] * 21, "residual_mm": 0.0, "reprojection_px": None, "score": 1.0, "route": "labels",
        "hand_model": "toy",
    }  # fmt: skip
    cloud = {
        "clip_id": clip.clip_id, "time_s": 0.0, "route": "two_view", "scale": "relative", "map_width": 160,
        "map_height": 120, "coverage": 1.0, "T_cam_world": None, "pose": "none",
    }  # fmt: skip
    thing = {
        "clip_id": clip.clip_id, "time_s": 0.0, "name": "cup", "box_px": [0.0] * 4, "score": 1.0, "route": "labels",
        "position_map": [0.1, 0.0, 0.4],
    }  # fmt: skip
    table = tables.frame("mano_fits", [hand])
    tables.write("mano_fits", table, data / "mano_fits/s/mano_fits.parquet")
    clouds = tables.frame("point_clouds", [cloud | {"frame": 5 * i, "index": i} for i in (0, 1)])
    tables.write("point_clouds", clouds, data / "point_clouds/s/point_clouds.parquet")
    found = tables.frame("objects", [thing | {"frame": 0}, thing | {"frame": 5}])
    tables.write("objects", found, data / "objects/s/objects.parquet")
    with zipfile.ZipFile(data / "point_clouds/s" / point_clouds.FILE, "w") as file:
        for index in (0, 1):
            points = np.repeat(depth[..., None] / 2.5, 3, axis=-1)
            point_clouds._store(file, index, points, np.ones(depth.shape))
    settings = config.load(Path(__file__).parents[2] / "params.yaml")
    out = tmp_path / "out"
    out.mkdir()
    report = calibration.run(StageContext(tmp_path, BY_NAME["calibrated_point_clouds"], settings, "s", out, tmp_path))
    (scale,) = tables.read("calibrations", out / "calibrations.parquet").iter_rows(named=True)
    assert scale["scale"] == pytest.approx(2.5, rel=1e-3)
    assert scale["num_omega"] == 21
    assert scale["spread"] < 1e-3
    (cup,) = tables.read("object_positions", out / "object_positions.parquet").iter_rows(named=True)
    np.testing.assert_allclose(cup["position_cam"], [0.25, 0.0, 1.0], rtol=1e-3)
    assert report.rejects == {"not_calibrated": 1, "too_few_scale_joints": 1}
    assert (out / report.pictures["scales"]).stat().st_size > 1000
