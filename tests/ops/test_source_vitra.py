"""VITRA-1M episodes: round trip of hands, cameras and text, and the official loader's and renderer's formulas on the
raw file: mirrored MANO_RIGHT, wrist = transl_worldspace, world-to-camera."""

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ops.config import Config, RawVideosConfig, ShardConfig, TrainConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.conventions import mirror_rotvec
from ops.hands.mano import load_models
from ops.rejects import ClipError, Reason
from ops.sources import manifest, vitra
from ops.sources.example import make_truth
from ops.sources.hand_models import models_of
from ops.sources.vitra_episode import read_episode, write_episode, write_frame_index
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera.from_fov_x(64.0, 320, 240)
NAME = "Ego4D_abc-1_ep_000000"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def truth(models):
    return make_truth(models, CAMERA, num_frames=8, seed=4, name="abc-1")


@pytest.fixture
def path(tmp_path, truth):
    vitra.write_example(tmp_path, truth)
    return tmp_path / f"Annotation/ego4d_cooking_and_cleaning/episodic_annotations/{NAME}.npy"


def raw(path):
    return np.load(path, allow_pickle=True).item()  # written by this very test


def save(path, stored):
    np.save(path, np.array(stored, dtype=object), allow_pickle=True)


def read(root, models):
    return list(vitra.read_clips(root, hand_model=models))


def test_round_trip(tmp_path, path, truth, models):
    (clip,) = read(tmp_path, models)
    assert clip.clip_id == f"vitra/Annotation/ego4d_cooking_and_cleaning/episodic_annotations/{NAME}"
    assert (clip.num_frames, clip.hand_model, clip.joints) == (6, models, {})
    assert clip.fps == pytest.approx(30)
    np.testing.assert_allclose(clip.times_s, np.arange(6) / 30, atol=1e-6)
    np.testing.assert_allclose(clip.camera.K, CAMERA.K)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world[2:], atol=1e-12)
    for side, track in truth.hands.items():
        mine = clip.hands[side]
        for key in ("theta", "r", "tau"):
            np.testing.assert_allclose(getattr(mine, key), getattr(track, key)[2:], atol=1e-9)
        np.testing.assert_array_equal(mine.beta, track.beta)
        assert mine.valid.all()
        joints = truth.models[side].joints(mine.theta, mine.r, mine.tau, mine.beta)
        np.testing.assert_allclose(joints, truth.joints_cam[side][2:], atol=1e-9)
    (said,) = clip.instructions
    assert (said.text, said.side, said.start_s) == ("pick up the box", "right", 0.0)
    assert said.end_s == pytest.approx(0.2)


def test_frames_are_those_of_the_episode(tmp_path, path, truth, models):
    (clip,) = read(tmp_path, models)
    frames = list(clip.frames())
    assert [frame.index for frame in frames] == list(range(6))
    for frame in frames:
        other = [np.abs(frame.rgb.astype(int) - rgb.astype(int)).mean() for rgb in truth.rgb]
        assert int(np.argmin(other)) == frame.index + 2
    assert [frame.index for frame in clip.frames([1, 4], (160, 120))] == [1, 4]
    with pytest.raises(IndexError, match="0 to 5"):
        next(clip.frames([6]))


def test_without_mano_files_the_joints_are_given(tmp_path, path, truth):
    (clip,) = read(tmp_path, None)
    assert (clip.hands, clip.hand_model) == ({}, None)
    for side in ("left", "right"):
        np.testing.assert_allclose(clip.joints[side].joints_cam, truth.joints_cam[side][2:], atol=1e-9)


def test_the_file_is_what_vitra_publishes(path):
    """Keys, shapes and dtypes of the data set's page and its one public sample."""
    stored, T = raw(path), 6
    assert set(stored) == {"video_clip_id_segment", "extrinsics", "intrinsics", "video_decode_frame", "video_name", "avg_speed", "total_rotvec_degree", "total_transl_dist", "anno_type", "text", "text_rephrase", "left", "right"}  # fmt: skip
    for key, shape, dtype in (("video_clip_id_segment", (T,), "int64"), ("extrinsics", (T, 4, 4), "float64"), ("intrinsics", (3, 3), "float64"), ("video_decode_frame", (T,), "int64")):  # fmt: skip
        assert (stored[key].shape, str(stored[key].dtype)) == (shape, dtype)
    assert stored["text"]["right"] == [("pick up the box", (0, 6))]
    assert stored["text"]["left"] == []
    texts, span = stored["text_rephrase"]["right"][0]
    assert (len(texts), span) == (5, (0, 6))
    hand_shapes = {
        "beta": ((10,), "float64"), "global_orient_camspace": ((T, 3, 3), "float64"), "global_orient_worldspace": ((T, 3, 3), "float64"),
        "hand_pose": ((T, 15, 3, 3), "float64"), "transl_camspace": ((T, 3), "float64"), "transl_worldspace": ((T, 3), "float64"),
        "kept_frames": ((T,), "int64"), "joints_camspace": ((T, 21, 3), "float32"), "joints_worldspace": ((T, 21, 3), "float64"), "wrist": ((T, 1, 3), "float32"),
    }  # fmt: skip
    for side in ("left", "right"):
        nothing = {key for key, value in stored[side].items() if value is None}
        assert nothing == {"max_translation_movement", "max_wrist_rotation_movement", "max_finger_joint_angle_movement"}
        found = {k: (v.shape, str(v.dtype)) for k, v in stored[side].items() if k not in nothing}
        assert found == hand_shapes


def test_vitras_own_formulas(path, truth):
    """From the raw file: the wrist is joint 0, R_w2c takes world to camera, MANO_RIGHT (mirrored for the left) with the
    stored rotations gives the stored joints, and all of it lands on the example's pixels."""
    stored, right = raw(path), truth.models["right"]
    for side, flip in (("left", -1.0), ("right", 1.0)):
        hand = stored[side]
        np.testing.assert_allclose(hand["transl_worldspace"], hand["joints_worldspace"][:, 0], atol=1e-12)
        for t in range(6):
            R, shift = stored["extrinsics"][t, :3, :3], stored["extrinsics"][t, :3, 3]
            np.testing.assert_allclose(
                R @ hand["global_orient_worldspace"][t], hand["global_orient_camspace"][t], atol=1e-12
            )
            in_camera = hand["joints_worldspace"][t] @ R.T + shift
            np.testing.assert_allclose(in_camera, hand["joints_camspace"][t], atol=1e-6)
            fingers = np.stack([_log(one) for one in hand["hand_pose"][t]]).reshape(1, 45)
            J = right.joints(fingers, np.zeros((1, 3)), np.zeros((1, 3)), hand["beta"])[0] * [flip, 1, 1]
            world = J @ hand["global_orient_worldspace"][t].T + hand["transl_worldspace"][t]
            np.testing.assert_allclose(world, hand["joints_worldspace"][t], atol=1e-9)
            px = in_camera @ stored["intrinsics"].T
            truth_px = CAMERA.project(truth.joints_cam[side][t + 2])
            np.testing.assert_allclose(px[:, :2] / px[:, 2:], truth_px, atol=1e-6)


def _log(R):
    """Axis-angle from first principles."""
    angle = np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1))
    return np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) * angle / (2 * np.sin(angle))


def test_invalid_frames_are_identity_and_zeros(tmp_path, path, truth, models):
    track = truth.hands["left"]
    gap = replace(track, valid=np.array([True] * 4 + [False] + [True] * 3))
    vitra.write_example(tmp_path, replace(truth, hands=truth.hands | {"left": gap}))
    stored = raw(path)["left"]
    np.testing.assert_array_equal(stored["kept_frames"], [1, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(stored["hand_pose"][2], np.broadcast_to(np.eye(3), (15, 3, 3)))
    np.testing.assert_array_equal(stored["global_orient_worldspace"][2], np.eye(3))
    for key in ("transl_worldspace", "joints_worldspace", "joints_camspace", "transl_camspace"):
        assert not stored[key][2].any()
    (clip,) = read(tmp_path, models)
    np.testing.assert_array_equal(clip.hands["left"].valid, [True, True, False, True, True, True])
    assert np.isfinite(clip.hands["left"].theta).all()
    stored = raw(path)
    stored["left"]["transl_worldspace"][2] = np.nan  # nobody reads what is not kept
    stored["left"]["kept_frames"] = [1, 1, 0, 1, 1, 1]  # some releases have lists
    save(path, stored)
    (clip,) = read(tmp_path, models)
    assert np.isfinite(clip.hands["left"].tau).all()


def test_the_left_hand_is_mano_right_in_a_mirror(tmp_path, path, truth, models):
    """MANO_LEFT as published has shapes that move x as the right hand's do: its beta would be another hand."""
    published = tmp_path / "published"
    published.mkdir()
    right, left = (dict(np.load(models / f"{side}.npz")) for side in ("right", "left"))
    left["shapedirs"] = left["shapedirs"] * [[-1.0], [1.0], [1.0]]
    np.savez(published / "left.npz", **left)
    np.savez(published / "right.npz", **right)
    (clip,) = read(tmp_path, published)
    track = clip.hands["left"]
    own, mirrored = load_models(published)["left"], models_of(clip, tmp_path)["left"]
    wrong = own.joints(track.theta, track.r, track.tau, track.beta)
    assert np.abs(wrong - truth.joints_cam["left"][2:]).max() > 1e-3
    good = mirrored.joints(track.theta, track.r, track.tau, track.beta)
    np.testing.assert_allclose(good, truth.joints_cam["left"][2:], atol=1e-9)
    fixed = models_of(replace(clip, left_model="fixed"), tmp_path)["left"]
    np.testing.assert_allclose(fixed.joints(track.theta, track.r, track.tau, track.beta), good, atol=1e-9)
    with pytest.raises(ValueError, match="own, fixed, mirrored"):
        models_of(replace(clip, left_model="right"), tmp_path)


def test_an_episode_of_one_hand(tmp_path, models):
    one = make_truth(models, CAMERA, num_frames=5, sides=("left",), seed=9, name="only")
    vitra.write_example(tmp_path, one)
    (clip,) = read(tmp_path, models)
    assert list(clip.hands) == ["left"]
    assert clip.hands["left"].valid.all()
    assert [said.side for said in clip.instructions] == ["left"]


def test_episodes_read_and_written_again_are_the_same_bytes_worth(tmp_path, path):
    again = tmp_path / "again.npy"
    write_episode(again, read_episode(path))
    first, second = raw(path), raw(again)
    for side in ("left", "right"):
        for key, value in first[side].items():
            if value is not None:
                np.testing.assert_allclose(second[side][key], value, atol=1e-7, err_msg=key)
    for key in ("text", "text_rephrase", "video_name", "anno_type"):
        assert first[key] == second[key]
    assert second["avg_speed"] == pytest.approx(first["avg_speed"])


def test_speed_and_camera_motion(tmp_path, path, truth):
    stored = raw(path)
    world = stored["right"]["joints_worldspace"][:, 0]
    assert stored["avg_speed"] == pytest.approx(np.mean([np.linalg.norm(b - a) for a, b in pairwise(world)]))
    centres = [-E[:3, :3].T @ E[:3, 3] for E in stored["extrinsics"]]
    assert stored["total_transl_dist"] == pytest.approx(sum(np.linalg.norm(b - a) for a, b in pairwise(centres)))
    angles = [np.degrees(np.arccos((np.trace(a[:3, :3] @ b[:3, :3].T) - 1) / 2)) for a, b in pairwise(stored["extrinsics"])]  # fmt: skip
    assert stored["total_rotvec_degree"] == pytest.approx(sum(angles))
    assert stored["total_rotvec_degree"] > 1


def test_texts_that_say_nothing_and_spans_outside(tmp_path, path, models):
    stored = raw(path)
    stored["text"] = {
        "left": [("None.", (0, 6)), ("", (0, 2))],
        "right": [("push", (-3, 2)), ("pull", (2, 99)), ("no", (4, 4))],
    }
    save(path, stored)
    (clip,) = read(tmp_path, models)
    found = [(said.text, round(said.start_s * 30), round(said.end_s * 30)) for said in clip.instructions]
    assert found == [("push", 0, 2), ("pull", 2, 6)]


def test_the_frame_index(tmp_path):
    write_frame_index(tmp_path, {"a_ep_000000": 2, "b_ep_000000": 3})
    with np.load(tmp_path / "episode_frame_index.npz") as index:
        np.testing.assert_array_equal(index["index_frame_pair"], [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])
        assert index["index_to_episode_id"].tolist() == ["a_ep_000000", "b_ep_000000"]


class Evil:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_code_in_an_episode_does_not_run(tmp_path, path, models, capsys):
    save(path, raw(path) | {"video_name": Evil()})
    assert b"print" in path.read_bytes()
    (reject,) = read(tmp_path, models)
    assert reject.reason == Reason.BAD_LABEL
    assert "refuse" in reject.detail
    assert "ran" not in capsys.readouterr().out
    path.write_bytes(pickle.dumps(Evil()))
    (reject,) = read(tmp_path, models)
    assert reject.reason == Reason.BAD_LABEL


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        (lambda s: s.pop("extrinsics"), Reason.BAD_LABEL, "lacks extrinsics"),
        (lambda s: s["left"].pop("hand_pose"), Reason.BAD_LABEL, "left lacks hand_pose"),
        (lambda s: s["extrinsics"].__setitem__((2, 0, 0), 7.0), Reason.BAD_LABEL, "no rigid transform"),
        (lambda s: s["right"]["hand_pose"].__setitem__((1, 3), 0.0), Reason.BAD_LABEL, "hand_pose"),
        (lambda s: s["right"]["transl_worldspace"].__setitem__(1, np.nan), Reason.NAN_LABEL, "transl_worldspace"),
        (lambda s: s.__setitem__("video_decode_frame", s["video_decode_frame"][::-1]), Reason.BAD_LABEL, "ascend"),
        (lambda s: s.__setitem__("video_decode_frame", s["video_decode_frame"] + 5), Reason.FRAME_COUNT_MISMATCH, "8 frames"),
        (lambda s: s.__setitem__("video_decode_frame", s["video_decode_frame"][:4]), Reason.BAD_LABEL, "extrinsics"),
        (lambda s: s.__setitem__("video_name", "../../etc/passwd"), Reason.BAD_LABEL, "path"),
        (lambda s: s.__setitem__("video_name", "gone"), Reason.EMPTY_VIDEO, "gone.mp4"),
        (lambda s: s.__setitem__("text", [1]), Reason.BAD_LABEL, "text"),
        (lambda s: s["intrinsics"].__setitem__((0, 2), 500.0), Reason.UNSUPPORTED_CAMERA, "cropped"),
    ],
)  # fmt: skip
def test_bad_episodes_are_named(tmp_path, path, models, change, reason, says):
    stored = raw(path)
    change(stored)
    save(path, stored)
    (reject,) = read(tmp_path, models)
    assert reject.reason == reason
    assert says in reject.detail


def test_a_smaller_video_has_a_smaller_camera(tmp_path, path, models):
    stored = raw(path)
    stored["intrinsics"] = np.diag([4.0, 4.0, 1.0]) @ stored["intrinsics"]
    save(path, stored)
    (clip,) = read(tmp_path, models)
    np.testing.assert_allclose(clip.camera.K, CAMERA.K)


def test_through_the_stage(tmp_path, path, truth, models):
    """Three episodes of one video through raw_videos and back."""
    from ops import tables
    from ops.pipeline import run_stage

    for number in (1, 2):
        stored = raw(path)
        stored["video_decode_frame"] = stored["video_decode_frame"] - number
        save(path.with_name(f"Ego4D_abc-1_ep_00000{number}.npy"), stored)
    shard = ShardConfig("mine", "vitra", str(tmp_path), hand_model=str(models))
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    report = run_stage(tmp_path, Config({"mine": shard}, train, train, train, train), "raw_videos", "mine")
    assert report.rows == {"clips": 3, "videos": 3}
    rows = tables.read("clips", tmp_path / "data/raw_videos/mine/clips.parquet")
    assert rows["side_sha256"].n_unique() == 1
    assert rows["sha256"].n_unique() == 3
    clips = list(manifest.read_clips(tmp_path / "data/raw_videos/mine", tmp_path))
    assert [clip.frame_numbers[0] for clip in clips] == [2, 1, 0]
    np.testing.assert_allclose(clips[2].hands["left"].tau, truth.hands["left"].tau[2:], atol=1e-9)
    first = next(clips[2].frames([0])).rgb.astype(int)
    assert int(np.argmin([np.abs(first - rgb).mean() for rgb in truth.rgb])) == 0


def test_the_left_mirror_by_hand():
    """M R M with M = diag(-1, 1, 1) negates y and z of the axis-angle."""
    rng = np.random.default_rng(0)
    rotvec = rng.normal(0, 1, (50, 3))
    M = np.diag([-1.0, 1.0, 1.0])
    np.testing.assert_allclose(
        transforms.rotvec_to_rotmat(mirror_rotvec(rotvec)), M @ transforms.rotvec_to_rotmat(rotvec) @ M, atol=1e-12
    )


def test_unknown_prefix(tmp_path, path, models):
    path.rename(path.with_name("Other_abc-1_ep_000000.npy"))
    (reject,) = read(tmp_path, models)
    assert "somethingsomethingv2" in reject.detail
    with pytest.raises(ClipError, match="missing"):
        vitra.read_clip(path, ShardConfig("v", "vitra", str(tmp_path)), RawVideosConfig())
