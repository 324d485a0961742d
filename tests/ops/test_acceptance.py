"""The nine acceptance checks: each passes sound labels and catches the slip it is for; and the check of a user's copy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ops.__main__ import main
from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.conventions import joints_of_convention
from ops.hands.mano import load_models
from ops.rejects import Reason
from ops.sources import acceptance, dexycb, h2o, round_trip, survey
from ops.sources.base import Clip, HandTrack, JointTrack
from ops.sources.example import make_truth
from tests.ops.toy_hands import natural_poses, write_toy_models

CAMERA = PinholeCamera.from_fov_x(40.0, 320, 240)
NUM_FRAMES = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


class _Depth:
    """A wall that stands in the world, seen by the moving camera, and the palm's depth at its joints' pixels."""

    def __init__(self, T_cam_world, camera, hands, scale=1.0):
        self.T, self.camera, self.hands, self.scale = T_cam_world, camera, hands, scale
        self.frames = range(len(T_cam_world))

    def read(self, frame):
        camera, T = self.camera, self.T[frame] @ np.linalg.inv(self.T[0])  # world := first camera
        v, u = np.mgrid[: camera.height, : camera.width] + 0.5
        rays = camera.unproject(np.stack([u, v], -1), np.ones(u.shape))
        normal, offset = T[:3, :3] @ np.array([0.3, 0.1, 1.0]), 1.5  # n . x = d, carried along
        z = (offset + normal @ T[:3, 3]) / (rays @ normal)
        for joint in np.concatenate([joints[frame, [0, 5, 9, 13, 17]] for joints in self.hands]):
            x, y = np.floor(camera.project(joint)).astype(int)
            z[max(y - 3, 0) : max(y + 4, 0), max(x - 3, 0) : max(x + 4, 0)] = joint[2]
        return (z * self.scale).astype(np.float32)


@pytest.fixture(scope="module")
def sound(models, tmp_path_factory):
    """A clip with both hands grasping, a moving camera, depth, images and published pixels (of manopth's tips)."""
    import cv2

    truth = make_truth(models, CAMERA, NUM_FRAMES, seed=5)
    hands, published, rng = {}, {}, np.random.default_rng(3)
    for side, track in truth.hands.items():
        theta = natural_poses(rng, NUM_FRAMES, side)[0]
        hands[side] = replace(track, theta=theta)
        joints = joints_of_convention(truth.models[side], theta, track.r, track.tau, track.beta, "manopth")
        published[side] = CAMERA.project(joints)
    folder = tmp_path_factory.mktemp("images")
    for frame, rgb in enumerate(truth.rgb):
        cv2.imwrite(str(folder / f"{frame}.png"), rgb)
    joints = [truth.models[s].joints(h.theta, h.r, h.tau, h.beta) for s, h in hands.items()]
    depth = _Depth(truth.T_cam_world, CAMERA, joints)
    return Clip(
        "x/clip", "x", "h2o", folder, 30.0, NUM_FRAMES, np.arange(NUM_FRAMES) / 30, CAMERA, "given", "train", "CC BY-NC 4.0",
        image_files=tuple(sorted(folder.glob("*.png"))), T_cam_world=truth.T_cam_world, hands=hands, hand_model=models,
        published_px=published, depth=depth, redistributable=True,
    )  # fmt: skip


def verdicts(clip, use="research") -> dict[str, acceptance.Measured]:
    return {one.name: one for one in acceptance.measure(clip, acceptance.hands_of(clip, None), use)}


def failed(clip, **kwargs) -> set[str]:
    return {name for name, one in verdicts(clip, **kwargs).items() if one.passed is False}


def changed(clip, **fields) -> Clip:
    """Every hand's fields changed by a function of the track."""
    hands = {s: replace(h, **{name: f(h) for name, f in fields.items()}) for s, h in clip.hands.items()}
    return replace(clip, hands=hands)


def test_sound_labels_pass_all_eight(sound):
    found = verdicts(sound)
    assert {name: one.passed for name, one in found.items()} == dict.fromkeys(found, True)
    assert len(found) == 8
    assert 0.07 < found["hand_size"].numbers["palm_m"] < 0.12
    assert found["published_joints"].numbers["apart_px"] < 1e-6  # the toolkits' fingertips are left out
    assert found["wrist_is_tau"].numbers["tau_to_joint_m"] == 0
    assert found["handedness"].numbers["curl"] > 0.15
    assert found["camera_direction"].numbers["wrist_speed_ratio"] < 0.8
    assert found["depth_scale"].numbers["depth_to_palm"] == pytest.approx(1, abs=0.02)


def test_millimetres_for_metres(sound):
    assert "hand_size" in failed(changed(sound, tau=lambda h: h.tau * 1000))
    joints = {"right": JointTrack(1000 * np.ones((NUM_FRAMES, 21, 3)), np.ones(NUM_FRAMES, bool))}
    assert "hand_size" in failed(replace(sound, hands={}, joints=joints))


def test_a_wrong_wrist_is_a_tenth_of_a_metre(sound, models):
    model = load_models(models)
    hands = {s: replace(h, tau=h.tau + model[s].wrist(h.beta)) for s, h in sound.hands.items()}
    found = verdicts(replace(sound, hands=hands))
    assert found["published_joints"].passed is False
    assert found["wrist_is_tau"].passed is False
    assert 0.05 < found["wrist_is_tau"].numbers["to_published_wrist_m"] < 0.12
    apart = acceptance.Hand("right", np.arange(2), np.zeros((2, 21, 3)), np.full((2, 3), 0.001))
    assert acceptance.wrist_is_tau([apart]).passed is False


def test_a_missing_or_doubled_mean_pose(sound, models):
    mean = load_models(models)
    hands = {s: replace(h, theta=h.theta - mean[s].hands_mean) for s, h in sound.hands.items()}
    assert "published_joints" in failed(replace(sound, hands=hands))


def test_mirrored_hands_bend_back(sound, models):
    mirrored = {"left": sound.hands["left"]}
    theta = np.tile([1, -1, -1], 15) * mirrored["left"].theta  # a right hand's pose given to the left model
    wrong = replace(sound, hands={"left": replace(mirrored["left"], theta=theta)}, published_px={})
    assert failed(wrong) == {"handedness"}
    joints = load_models(models)["left"].joints(*(getattr(mirrored["left"], n) for n in ("theta", "r", "tau", "beta")))
    as_right = replace(
        sound, hands={}, joints={"right": JointTrack(joints, np.ones(NUM_FRAMES, bool))}, published_px={}
    )
    assert failed(as_right) == {"handedness"}


def test_curl_tells_sides_apart_for_hands_however_turned(models):
    rng = np.random.default_rng(0)
    for side, model in load_models(models).items():
        theta, r, tau, beta = natural_poses(rng, 300, side)
        found = acceptance.curl(model.joints(theta, r, tau, beta), side)
        assert np.median(found) > 0.15
        np.testing.assert_allclose(
            acceptance.curl(model.joints(theta, r, tau, beta), {"left": "right"}.get(side, "left")), -found
        )


def test_a_flat_hand_is_not_judged(sound):
    flat = changed(sound, theta=lambda h: 0 * h.theta)
    assert verdicts(flat)["handedness"].passed is None


def test_a_pose_with_a_mirror_is_no_camera(sound):
    T = sound.T_cam_world.copy()
    T[:, 0] *= -1
    flipped = replace(sound, T_cam_world=T, depth=None)
    assert acceptance.handedness(flipped, acceptance.hands_of(flipped, None)).passed is False


@pytest.mark.parametrize("with_depth", [True, False])
def test_camera_to_world_taken_for_world_to_camera(sound, with_depth):
    kept = sound if with_depth else replace(sound, depth=None)
    assert verdicts(kept)["camera_direction"].passed
    inverted = replace(kept, T_cam_world=transforms.invert(kept.T_cam_world))
    found = verdicts(inverted)["camera_direction"]
    assert found.passed is False
    assert ("depth_error" in found.numbers) is with_depth
    standing = replace(kept, T_cam_world=np.tile(kept.T_cam_world[0], (NUM_FRAMES, 1, 1)))
    assert verdicts(standing)["camera_direction"].passed is None


def test_depth_in_other_units(sound):
    depth = sound.depth
    for scale, passed in ((1.0, True), (1000 / 4000, False), (4.0, False), (1000.0, False)):
        other = replace(sound, depth=_Depth(depth.T, depth.camera, depth.hands, scale))
        assert verdicts(other)["depth_scale"].passed is passed
    assert verdicts(replace(sound, depth=None))["depth_scale"].passed is None


def test_frame_counts(sound):
    short = changed(sound, valid=lambda h: h.valid[:-1])
    assert acceptance.frame_counts(short).passed is False
    assert acceptance.frame_counts(replace(sound, image_files=sound.image_files[:-1], num_frames=5)).passed is False
    assert acceptance.frame_counts(replace(sound, times_s=np.zeros(NUM_FRAMES))).passed is False
    other_size = replace(sound, camera=CAMERA.resized(640, 480))
    assert acceptance.frame_counts(other_size).passed is False


def test_licences(sound):
    assert failed(sound) == set()
    assert failed(sound, use="redistribution") == set()
    assert failed(sound, use="commercial") == {"licence"}
    assert failed(replace(sound, licence=" ")) == {"licence"}


def test_a_clip_without_labels_is_judged_by_what_it_has(sound):
    bare = replace(sound, hands={}, T_cam_world=None, depth=None, published_px={})
    assert {name for name, one in verdicts(bare).items() if one.passed is not None} == {"frame_counts", "licence"}


def test_frames_without_a_label_do_not_count(sound):
    def without(track: HandTrack) -> np.ndarray:
        return np.where(np.arange(NUM_FRAMES)[:, None] == 2, 0.0, track.tau)

    valid = np.arange(NUM_FRAMES) != 2
    holes = changed(sound, tau=without, valid=lambda h: valid)
    assert failed(holes) == set()


def test_judgement_over_clips():
    def of(passed, value):
        return acceptance.Measured("hand_size", passed, {"palm_m": value}, "why")

    (verdict,) = acceptance.judge([of(True, 0.09)] * 38 + [of(False, 9.0)] + [of(None, 0.1)])
    assert (verdict.passed, verdict.numbers) == (True, {"palm_m": 0.09})
    (verdict,) = acceptance.judge([of(True, 0.09)] * 8 + [of(False, 9.0)] * 2)
    assert verdict.passed is False
    assert verdict.detail == "10 of 10 clips judged, 2 fail: why"
    (verdict,) = acceptance.judge([of(None, 0.1)])
    assert verdict.passed is None


# -- check 1


@pytest.mark.parametrize("kind", ["dexycb", "h2o", "egodex"])
def test_the_round_trip_runs_on_the_spot(kind, models):
    found = round_trip.round_trip(kind, models)
    assert found.passed, found
    assert found.numbers["joints_m"] < 1e-6


def test_the_round_trip_sees_a_reader_that_forgets_the_mean(models, monkeypatch):
    monkeypatch.setattr(dexycb, "flat_theta_from_pca", lambda model, c: c @ model.hands_components)
    found = round_trip.round_trip("dexycb", models)
    assert found.passed is False
    assert found.numbers["rotation"] > 0.05


def test_kinds_without_a_layout_have_no_round_trip(models):
    assert round_trip.round_trip("folder", models).passed is None


# -- a user's copy


@pytest.fixture(scope="module")
def standin(weights):
    """Whose mesh, unlike the toy's, the example's depth can be taken from."""
    return weights / "hand_model"


@pytest.fixture(scope="module")
def copy(tmp_path_factory, standin):
    """Six DexYCB sequences, one of which is damaged."""
    root = tmp_path_factory.mktemp("copy")
    camera = PinholeCamera.from_fov_x(55.0, 640, 480)
    for number in range(6):
        truth = make_truth(
            standin, camera, 2, sides=("right",), moving=False, seed=number, name=f"20200709_14143{number}"
        )
        dexycb.write_example(root, truth)
    next(root.glob("*/20200709_141433/*/labels_000001.npz")).write_bytes(b"")
    return root


def look(copy, standin, **kwargs):
    shard = ShardConfig("dexycb", "dexycb", str(copy), hand_model=str(standin))
    config = RawVideosConfig()
    found = survey.survey(shard, config, None, **kwargs)
    return found, "\n".join(survey.lines(found, config))


@pytest.mark.weights
def test_a_copy_is_listed_clip_by_clip_and_judged(copy, standin):
    found, text = look(copy, standin)
    assert (found.num_clips, len(found.seen), found.unexpected, found.passed) == (
        6,
        6,
        1,
        False,
    )  # a sixth is unreadable
    assert "bad_label: labels_000001.npz does not read" in text
    assert "5 of 6 clips read" in text
    assert found.verdicts[0].name == "round_trip"
    assert all(verdict.passed is not False for verdict in found.verdicts), text
    fewer, _ = look(copy, standin, max_clips=3)
    assert [one.item.split("/")[1][-1] for one in fewer.seen] == ["0", "2", "5"]
    assert fewer.passed


@pytest.mark.weights
def test_known_gaps_of_a_data_set_are_no_fault_of_the_copy(copy, standin):
    found, _ = look(copy, standin)
    rejects = [one.reject for one in found.seen if one.reject]
    assert [reject.reason for reject in rejects] == [Reason.BAD_LABEL]
    expected = tuple(
        replace(one, reject=one.reject and replace(one.reject, reason=Reason.KNOWN_BAD_CLIP)) for one in found.seen
    )
    assert replace(found, seen=expected).passed


@pytest.mark.weights
def test_the_console_checks_a_copy_and_writes_examples(tmp_path, standin, capsys):
    example = ["sources", "example", "h2o", str(tmp_path / "h2o"), "--hand-model", str(standin)]
    assert main(example) == 0
    assert main(example) == 1
    assert "not empty" in capsys.readouterr().err
    check = ["sources", "check", str(tmp_path / "h2o"), "--kind", "h2o", "--hand-model", str(standin)]
    assert main(check) == 0
    assert main([*check, "--use", "commercial"]) == 1
    assert "FAILED  licence" in capsys.readouterr().out
    assert main([*check, "--use", "profit"]) == 1
    assert "raw_videos.use must be one of" in capsys.readouterr().err
    (next(Path(tmp_path).glob("h2o/*/*/*/cam4/cam_intrinsics.txt"))).write_text("1 2 3")
    assert main(check) == 1
    assert "0 of 1 clips read" in capsys.readouterr().out
    assert main(["sources", "check", str(tmp_path / "none"), "--kind", "h2o"]) == 1
    assert main(["sources", "check", str(tmp_path), "--kind", "h20"]) == 1
    assert "no reader for shards of kind 'h20'" in capsys.readouterr().err


def test_the_console_lists_every_kind(capsys):
    assert main(["sources"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(survey.READERS)
    assert any("dexycb" in line and "CC BY-NC 4.0" in line for line in lines)


@pytest.mark.weights
def test_a_wrong_frame_convention_of_a_whole_copy_is_found(tmp_path, standin):
    """H2O whose camera poses were written world-to-camera: the labels read well, the check says no."""
    for number in range(2):
        truth = make_truth(standin, CAMERA, 6, seed=number, name=f"k1/{number}")
        wrong = replace(truth, T_cam_world=transforms.invert(truth.T_cam_world))
        h2o.write_example(tmp_path, wrong)
    shard = ShardConfig("h2o", "h2o", str(tmp_path), hand_model=str(standin))
    found = survey.survey(shard, RawVideosConfig(), None)
    assert {verdict.name for verdict in found.verdicts if verdict.passed is False} == {"camera_direction"}
