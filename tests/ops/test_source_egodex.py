"""EgoDex: what its example says is what comes back, and the raw HDF5 says the same by the official helper's formula."""

from dataclasses import replace

import numpy as np
import pytest

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason, Reject
from ops.sources import egodex
from ops.sources.base import HandTrack
from ops.sources.example import SKIN, make_truth
from ops.sources.manifest import READERS
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera.from_fov_x(62.0, 320, 240)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def truth(models):
    return make_truth(models, CAMERA, num_frames=5, seed=3, name="stack_cups")


@pytest.fixture
def episode(tmp_path, truth):
    egodex.write_example(tmp_path, truth)
    return tmp_path / "part1" / "stack_cups" / "0.hdf5"


def read(root):
    return list(egodex.read_clips(root))


def edit(path):
    import h5py

    return h5py.File(path, "r+")


def test_round_trip(tmp_path, episode, truth):
    (clip,) = read(tmp_path)
    assert (clip.clip_id, clip.kind, clip.split, clip.intrinsics) == (
        "egodex/part1/stack_cups/0",
        "egodex",
        "train",
        "given",
    )
    assert (clip.num_frames, clip.subject, clip.object_names) == (5, "s01", ("box",))
    assert (clip.noncommercial, clip.redistributable, clip.licence) == (True, False, "CC BY-NC-ND 4.0")
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-4)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-6)  # float32 on disk
    for side in ("left", "right"):
        np.testing.assert_allclose(clip.joints[side].joints_cam, truth.joints_cam[side], atol=1e-6)
        assert clip.joints[side].valid.all()
    assert clip.hands == {}
    assert clip.has_labels
    (said,) = clip.instructions
    assert (said.text, said.start_s) == ("pick up the box", 0.0)
    assert said.end_s == pytest.approx(5 / 30)
    assert egodex.side_files(clip.video) == [episode]


def test_the_official_helpers_formula_agrees(tmp_path, episode, truth):
    """inv(camera[n]) @ joint[n], then K, from the raw file: those pixels are where the picture has skin."""
    import h5py

    (clip,) = read(tmp_path)
    frames = [frame.rgb for frame in clip.frames()]
    with h5py.File(episode) as file:
        K = np.array(file["camera/intrinsic"], np.float64)
        assert file["camera/intrinsic"].dtype == np.float32
        assert file["camera/intrinsic"].shape == (3, 3)
        assert len([name for name in file["transforms"] if name != "camera"]) == 68
        for side in ("left", "right"):
            for n in range(5):
                tip = np.linalg.inv(file["transforms/camera"][n]) @ file[f"transforms/{side}MiddleFingerKnuckle"][n]
                u, v, w = K @ tip[:3, 3]
                np.testing.assert_allclose([u / w, v / w], CAMERA.project(truth.joints_cam[side][n, 9]), atol=2e-3)
                colour = frames[n][int(v / w), int(u / w)].astype(int)
                near = {s: np.abs(colour / colour.sum() - np.array(SKIN[s]) / sum(SKIN[s])).sum() for s in SKIN}
                assert near[side] < 0.06, f"{colour} is no skin"


def test_opencv_axes(tmp_path, episode):
    """A hand below the middle of the picture has y > 0, one to the right x > 0, and all lie in front (z > 0)."""
    (clip,) = read(tmp_path)
    for side, sign in (("left", -1), ("right", 1)):
        wrist = clip.joints[side].joints_cam[:, 0]
        assert (wrist[:, 2] > 0.1).all()
        assert (sign * wrist[0, 0] > 0).all()
        assert wrist[0, 1] > 0


def test_missing_intrinsics_are_the_data_sets_own(tmp_path, episode):
    with edit(episode) as file:
        del file["camera/intrinsic"]
        file["camera/intrinsic"] = np.zeros((0, 3), np.float32)
    (reject,) = read(tmp_path)  # the example's video is no 16:9
    assert reject.reason == Reason.UNSUPPORTED_CAMERA
    assert "1920 x 1080" in reject.detail


def test_a_smaller_copy_has_a_smaller_camera(tmp_path, models):
    wide = make_truth(models, PinholeCamera.from_fov_x(60.0, 320, 180), num_frames=2, sides=("right",), name="a")
    egodex.write_example(tmp_path, wide)
    with edit(tmp_path / "part1/a/0.hdf5") as file:
        del file["camera/intrinsic"]
        file["camera/intrinsic"] = np.zeros((0, 3), np.float32)
    (clip,) = read(tmp_path)
    assert (clip.camera.width, clip.camera.height) == (320, 180)
    np.testing.assert_allclose([clip.camera.fx, clip.camera.cx, clip.camera.cy], [736.6339 / 6, 160, 90])


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({}, "pick up the box"),
        ({"which_llm_description": "2"}, "The opposite of: pick up the box"),
        ({"which_llm_description": b"2"}, "The opposite of: pick up the box"),
        ({"which_llm_description": 2}, "The opposite of: pick up the box"),
        ({"which_llm_description": "3"}, None),
        ({"which_llm_description": None}, None),
        ({"llm_type": "basic", "which_llm_description": "2"}, "pick up the box"),
        ({"llm_description2": None, "which_llm_description": None}, "pick up the box"),
        ({"llm_type": None, "llm_description": None, "llm_description2": None, "description": "old form"}, "old form"),
        ({"llm_type": None, "type": "reversible", "llm_description": None, "llm_description2": None, "description": "to", "description2": "fro", "which_llm_description": "2"}, "fro"),
        ({"llm_type": "basic", "llm_description": " "}, None),
    ],
)  # fmt: skip
def test_both_forms_of_descriptions(tmp_path, episode, attributes, text):
    with edit(episode) as file:
        for key, value in attributes.items():
            if value is None:
                del file.attrs[key]
            else:
                file.attrs[key] = value
    (clip,) = read(tmp_path)
    assert [said.text for said in clip.instructions] == ([] if text is None else [text])


def test_doubted_joints_are_left_out(tmp_path, episode, truth):
    with edit(episode) as file:
        file["confidences/leftIndexFingerTip"][1] = 0.05
        file["confidences/rightHand"][2] = 0.0
        joint = file["transforms/rightThumbTip"][3]
        joint[0, 3] = np.nan
        file["transforms/rightThumbTip"][3] = joint
    (clip,) = read(tmp_path)
    left, right = clip.joints["left"], clip.joints["right"]
    assert np.isnan(left.joints_cam[1, 8]).all()
    assert np.isfinite(left.joints_cam[[0, 2, 3, 4]]).all()
    assert left.valid.all()
    np.testing.assert_array_equal(right.valid, [True, True, False, True, True])
    assert np.isnan(right.joints_cam[3, 4]).all()
    assert np.isnan(right.joints_cam).any(axis=-1).sum() == 2
    with edit(episode) as file:
        del file["confidences"]
    (clip,) = read(tmp_path)
    assert clip.joints["left"].valid.all()
    assert np.isfinite(clip.joints["left"].joints_cam).all()


def test_a_hand_that_is_not_there(tmp_path, models):
    one = make_truth(models, CAMERA, num_frames=4, sides=("right",), seed=5, name="one")
    track = one.hands["right"]
    gap = HandTrack(track.theta, track.r, track.tau, track.beta, np.array([True, False, True, True]))
    egodex.write_example(tmp_path, replace(one, hands={"right": gap}))
    (clip,) = read(tmp_path)
    assert not clip.joints["left"].valid.any()
    np.testing.assert_array_equal(clip.joints["right"].valid, gap.valid)


@pytest.mark.parametrize(
    ("damage", "reason", "says"),
    [
        (lambda f: f.__delitem__("transforms/camera"), Reason.BAD_LABEL, "no transforms/camera"),
        (lambda f: f.__delitem__("transforms/leftHand"), Reason.BAD_LABEL, "no transforms/leftHand"),
        (lambda f: f["transforms/camera"].__setitem__(2, np.nan), Reason.NAN_LABEL, "camera"),
        (lambda f: f["transforms/camera"].__setitem__((1, 0, 0), 3.0), Reason.BAD_LABEL, "no rigid transform"),
    ],
)
def test_bad_labels_are_named(tmp_path, episode, damage, reason, says):
    with edit(episode) as file:
        damage(file)
    (reject,) = read(tmp_path)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.item) == (reason, "part1/stack_cups/0.mp4")
    assert says in reject.detail


def test_rows_and_frames_must_agree(tmp_path, episode, models):
    longer = make_truth(models, CAMERA, num_frames=6, seed=3, name="stack_cups")
    egodex.write_example(tmp_path, longer)
    (tmp_path / "part1/stack_cups/1.hdf5").replace(episode)
    first, second = read(tmp_path)
    assert first.reason == Reason.FRAME_COUNT_MISMATCH
    assert "6 rows of labels for 5 frames" in first.detail
    assert second.reason == Reason.MISSING_LABELS


def test_a_damaged_file_stops_nothing(tmp_path, episode, truth):
    egodex.write_example(tmp_path, truth)
    episode.write_bytes(episode.read_bytes()[:1000])
    bad, good = read(tmp_path)
    assert bad.reason == Reason.BAD_SIDE_FILE
    assert good.clip_id == "egodex/part1/stack_cups/1"


def test_the_test_part_is_held_out(tmp_path, truth):
    egodex.write_example(tmp_path, truth)
    (tmp_path / "part1").rename(tmp_path / "test")
    (clip,) = read(tmp_path)
    assert clip.split == "test"
    shard = ShardConfig("mine", "egodex", str(tmp_path / "test"))
    assert egodex.read_clip(clip.video, shard, RawVideosConfig()).clip_id == "mine/stack_cups/0"


def test_readers_are_registered_and_lazy(tmp_path, truth):
    assert READERS["egodex"] == "ops.sources.egodex"
    egodex.write_example(tmp_path, truth)
    (tmp_path / "part1/stack_cups/0.mp4").write_bytes(b"")
    clips = egodex.read_clips(tmp_path)
    assert next(clips).reason == Reason.EMPTY_VIDEO
    with pytest.raises(ClipError):
        egodex.read_clip(
            tmp_path / "part1/stack_cups/0.mp4", ShardConfig("e", "egodex", str(tmp_path)), RawVideosConfig()
        )


def test_joints_come_in_openpose_order():
    names = egodex.joint_names("left")
    assert len(names) == 21
    assert names[:5] == ["leftHand", "leftThumbKnuckle", "leftThumbIntermediateBase", "leftThumbIntermediateTip", "leftThumbTip"]  # fmt: skip
    assert names[17:] == ["leftLittleFingerKnuckle", "leftLittleFingerIntermediateBase", "leftLittleFingerIntermediateTip", "leftLittleFingerTip"]  # fmt: skip
