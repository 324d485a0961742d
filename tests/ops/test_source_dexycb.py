"""DexYCB: what its example says is what comes back, and the raw labels say the same by manopth's own formula."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason, Reject
from ops.sources import dexycb
from ops.sources.example import SKIN, make_truth, seen_by
from ops.sources.safe_load import load_yaml
from tests.ops.toy_hands import toy_arrays, write_toy_models

CAMERA = PinholeCamera(615.1, 614.6, 313.2, 243.9, 640, 480)
OTHER = PinholeCamera(612.0, 611.5, 322.0, 238.0, 640, 480)
SERIALS = ("836212060125", "839512060362")
MASTER_TO_OTHER = transforms.make(
    transforms.rotvec_to_rotmat(np.array([0.1, -0.7, 0.05])), np.array([0.35, -0.05, 0.1])
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def truths(models):
    """A left and a right hand, each seen by the master camera and another one; frame 2 of each has no hand."""
    made = {}
    for number, side in enumerate(("left", "right")):
        truth = make_truth(models, CAMERA, 4, 30.0, (side,), moving=False, seed=number, name=f"20200709_14143{number}")
        truth = replace(truth, subject=f"s{number + 1:02d}", T_cam_world=np.tile(np.eye(4), (4, 1, 1)))
        truth.hands[side].valid[2] = False
        other = seen_by(truth, OTHER, np.tile(MASTER_TO_OTHER, (4, 1, 1)))
        made[side] = dict(zip(SERIALS, (truth, other), strict=True))
    return made


@pytest.fixture(scope="module")
def written(tmp_path_factory, truths):
    root = tmp_path_factory.mktemp("dexycb")
    for of_serial in truths.values():
        for serial, truth in of_serial.items():
            dexycb.write_example(root, truth, serial, SERIALS[0])
    return root


@pytest.fixture
def copy(tmp_path, truths):
    """One sequence that a test may damage, and its camera's folder."""
    truth = truths["right"][SERIALS[0]]
    dexycb.write_example(tmp_path, truth)
    return tmp_path, tmp_path / dexycb.SUBJECTS[1] / truth.name / SERIALS[0]


def read(root, models=None, view=None):
    return list(dexycb.read_clips(root, view, models))


def rejected(root, models=None) -> Reject:
    (found,) = read(root, models)
    assert isinstance(found, Reject), found
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("serial", SERIALS)
def test_round_trip(written, truths, models, side, serial):
    truth = truths[side][serial]
    (clip,) = [clip for clip in read(written, models, serial) if truth.name in clip.clip_id]
    subject = dexycb.SUBJECTS[side == "right"]
    assert clip.clip_id == f"dexycb/{subject}/{truth.name}/{serial}"
    assert (clip.subject, clip.view, clip.split, clip.num_frames) == (subject, serial, "train", 4)
    assert (clip.licence, clip.noncommercial, clip.redistributable) == ("CC BY-NC 4.0", True, True)
    np.testing.assert_allclose(clip.camera.K, truth.camera.K, atol=1e-9)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-12)
    np.testing.assert_allclose(clip.times_s, np.arange(4) / 30)
    hand, wanted = clip.hands[side], truth.hands[side]
    assert list(clip.hands) == [side]
    np.testing.assert_array_equal(hand.valid, wanted.valid)
    np.testing.assert_allclose(hand.beta, wanted.beta, atol=1e-12)
    for name in ("theta", "r", "tau"):  # float32 on disk
        np.testing.assert_allclose(getattr(hand, name)[hand.valid], getattr(wanted, name)[hand.valid], atol=2e-6)
        assert (getattr(hand, name)[2] == 0).all()
    joints = truth.models[side].joints(hand.theta, hand.r, hand.tau, hand.beta)[hand.valid]
    np.testing.assert_allclose(joints, truth.joints_cam[side][hand.valid], atol=1e-6)
    px = truth.camera.project(truth.joints_cam[side])
    np.testing.assert_allclose(clip.published_px[side][hand.valid], px[hand.valid], atol=1e-4)
    assert np.isnan(clip.published_px[side][2]).all()
    (said,) = clip.instructions
    assert (said.text, said.side, said.start_s, said.end_s) == ("pick up the bleach cleanser", side, 0.0, 4 / 30)
    assert clip.object_names == ("bleach cleanser",)
    (thing,), (box,) = clip.objects, truth.objects
    np.testing.assert_allclose(thing.T_cam_obj, box.T_cam_obj, atol=1e-6)
    np.testing.assert_allclose(thing.position_cam, box.position_cam, atol=1e-6)
    inside = np.clip(np.round(box.boxes_px), 0, [640, 480, 640, 480])
    np.testing.assert_array_equal(thing.boxes_px, inside)
    for frame in range(4):
        depth = clip.depth_m(frame)
        assert np.nanmax(np.abs(depth - truth.depth_m[frame])) <= 0.5e-3 + 1e-6  # millimetres on disk
    for frame, rgb in zip(clip.frames(), truth.rgb, strict=True):
        assert np.abs(frame.rgb.astype(int) - rgb).mean() < 2  # JPEG


def test_joints_without_mano_files(written, truths):
    clips = read(written)
    assert len(clips) == 4
    for clip in clips:
        (side,) = clip.joints
        truth = truths[side][clip.view]
        assert (clip.hands, clip.hand_model) == ({}, None)
        valid = clip.joints[side].valid
        np.testing.assert_array_equal(valid, truth.hands[side].valid)
        np.testing.assert_allclose(clip.joints[side].joints_cam[valid], truth.joints_cam[side][valid], atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_manopths_formula_on_the_raw_labels_gives_the_same_hand(written, truths, models, side):
    """manopth in double precision, by hand: pose = mean + c C, LBS about the joints, + trans; then the official K."""
    raw = toy_arrays(side)
    truth = truths[side][SERIALS[1]]
    folder = written / dexycb.SUBJECTS[side == "right"] / truth.name / SERIALS[1]
    meta = load_yaml(folder.parent / "meta.yml")
    beta = np.array(load_yaml(written / f"calibration/mano_{meta['mano_calib'][0]}/mano.yml")["betas"])
    K = load_yaml(written / f"calibration/intrinsics/{SERIALS[1]}_640x480.yml")["color"]
    image = next(iter(read(written, models, SERIALS[1])[side == "right"].frames([1]))).rgb
    with np.load(folder / "labels_000001.npz") as label:
        assert {key: (label[key].shape, label[key].dtype.name) for key in label.files} == {
            "seg": ((480, 640), "uint8"),
            "pose_y": ((1, 3, 4), "float32"),
            "pose_m": ((1, 51), "float32"),
            "joint_3d": ((1, 21, 3), "float32"),
            "joint_2d": ((1, 21, 2), "float32"),
        }
        pose, published, published_px = label["pose_m"][0].astype(float), label["joint_3d"][0], label["joint_2d"][0]
    turns = np.concatenate([pose[:3], raw["hands_mean"] + pose[3:48] @ raw["hands_components"]]).reshape(16, 3)
    shaped = raw["v_template"] + raw["shapedirs"] @ beta
    rest = raw["J_regressor"] @ shaped
    parents, world = raw["kintree_table"][0], []
    for k in range(16):
        R = transforms.rotvec_to_rotmat(turns[k])
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = R, rest[k] - (rest[int(parents[k])] if k else 0)
        world.append(step if k == 0 else world[int(parents[k])] @ step)
    joints = np.array([T[:3, 3] for T in world]) + pose[48:]
    mine = published[[0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3]]  # MANO's order out of OpenPose's
    np.testing.assert_allclose(joints, mine, atol=1e-6)
    u = joints[:, 0] / joints[:, 2] * K["fx"] + K["ppx"]
    v = joints[:, 1] / joints[:, 2] * K["fy"] + K["ppy"]
    np.testing.assert_allclose(np.stack([u, v], 1)[4], published_px[9], atol=1e-3)
    knuckle = image[round(v[4]), round(u[4])].astype(float)  # pixel centres are whole numbers there
    near = {s: np.abs(knuckle / knuckle.sum() - np.array(SKIN[s]) / sum(SKIN[s])).sum() for s in SKIN}
    assert near[side] < 0.06, f"{knuckle} is no skin"


def test_extrinsics_are_camera_to_master(written, truths):
    """A point at the hand, through the file's numbers, is one point of the world for both cameras."""
    truth = truths["right"]
    name = truth[SERIALS[0]].name
    stored = load_yaml(written / f"calibration/extrinsics_{name}/extrinsics.yml")
    assert stored["master"] == SERIALS[0]
    assert "!!python/tuple" in (written / f"calibration/extrinsics_{name}/extrinsics.yml").read_text()
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load((written / f"calibration/extrinsics_{name}/extrinsics.yml").read_text())
    seen = []
    for serial in SERIALS:
        T = np.array(stored["extrinsics"][serial]).reshape(3, 4)
        seen.append(T[:, :3] @ truth[serial].joints_cam["right"][0, 0] + T[:, 3])
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-9)


def test_views_and_files(written):
    everything = dexycb.list_videos(written)
    assert len(everything) == 4
    assert [path.name for path in dexycb.list_videos(written, SERIALS[1])] == [SERIALS[1]] * 2
    assert dexycb.list_videos(written, "000000000000") == []
    with pytest.raises(ValueError, match="serial"):
        dexycb.list_videos(written, "ego")
    names = {path.relative_to(written).parts[-1] for path in dexycb.side_files(everything[0])}
    assert names == {"meta.yml", f"{SERIALS[0]}_640x480.yml", "extrinsics.yml", "mano.yml", "textured_simple.obj"}


def test_split_is_s1_by_people():
    assert [dexycb._split(subject) for subject in dexycb.SUBJECTS] == ["train"] * 6 + ["test"] * 3 + ["train"]
    assert dexycb._split("20250101-subject-77") == ""


def test_unquoted_identifiers_are_understood(copy, models):
    root, folder = copy
    meta = folder.parent / "meta.yml"
    meta.write_text(meta.read_text().replace("'", ""))
    assert isinstance(load_yaml(meta)["extrinsics"], int)
    (clip,) = read(root, models)
    assert clip.hands


def _without(label: dict, key: str):
    del label[key]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda label: label["pose_m"].__setitem__((0, 7), np.nan), Reason.NAN_LABEL),
        (lambda label: label["joint_3d"].__setitem__((0, 0), np.inf), Reason.NAN_LABEL),
        (lambda label: label.__setitem__("pose_m", np.zeros((1, 48), np.float32)), Reason.BAD_LABEL),
        (lambda label: label.__setitem__("pose_y", np.zeros((3, 3, 4), np.float32)), Reason.BAD_LABEL),
        (lambda label: label["pose_y"].__setitem__((0, 0, 0), 4.0), Reason.BAD_LABEL),
        (lambda label: _without(label, "seg"), Reason.BAD_LABEL),
    ],
)
def test_bad_labels_are_named(copy, models, change, reason):
    root, folder = copy
    path = folder / "labels_000001.npz"
    with np.load(path) as file:
        label = {key: file[key] for key in file.files}
    change(label)
    np.savez(path, **label)
    found = rejected(root, models)
    assert (found.reason, found.item) == (reason, folder.relative_to(root).as_posix())
    assert found.frame in (1, -1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root, folder: (folder / "labels_000001.npz").write_bytes(b"no zip"), Reason.BAD_LABEL),
        (lambda root, folder: (folder / "labels_000003.npz").unlink(), Reason.FRAME_COUNT_MISMATCH),
        (lambda root, folder: (folder / "color_000001.jpg").unlink(), Reason.FRAME_COUNT_MISMATCH),
        (lambda root, folder: (folder / "color_000000.jpg").write_bytes(b"no image"), Reason.CORRUPT_VIDEO),
        (lambda root, folder: [p.unlink() for p in folder.glob("labels_*")], Reason.MISSING_LABELS),
        (lambda root, folder: [p.unlink() for p in folder.glob("color_*")], Reason.EMPTY_VIDEO),
        (lambda root, folder: (folder.parent / "meta.yml").unlink(), Reason.MISSING_SIDE_FILE),
        (lambda root, folder: (folder.parent / "meta.yml").write_text("{"), Reason.BAD_LABEL),
        (lambda root, folder: (folder.parent / "meta.yml").write_text("num_frames: 4"), Reason.BAD_LABEL),
        (lambda root, folder: next(root.glob("calibration/mano_*/mano.yml")).unlink(), Reason.MISSING_SIDE_FILE),
        (lambda root, folder: next(root.glob("calibration/extr*/*.yml")).write_text("a: !!python/name:os.system"), Reason.BAD_LABEL),
        (lambda root, folder: next(root.glob("calibration/intrinsics/*")).write_text("color: {fx: 1}"), Reason.BAD_LABEL),
    ],
)  # fmt: skip
def test_damaged_copies_are_rejected_with_the_reason(copy, models, damage, reason):
    damage(*copy)
    assert rejected(copy[0], models).reason is reason


def test_one_bad_sequence_stops_nothing(written, models, tmp_path):
    import shutil

    shutil.copytree(written, tmp_path / "all")
    next((tmp_path / "all").glob("*/*/*/labels_000000.npz")).write_bytes(b"")
    found = read(tmp_path / "all", models)
    assert [isinstance(item, Reject) for item in found].count(True) == 1
    assert len(found) == 4


def test_missing_depth_is_no_depth(copy, models):
    root, folder = copy
    (folder / "aligned_depth_to_color_000001.png").unlink()
    (clip,) = read(root, models)
    assert clip.depth_m(1) is None
    assert clip.depth_m(0) is not None


def test_the_example_refuses_what_the_layout_cannot_hold(tmp_path, models):
    with pytest.raises(ValueError, match="one hand"):
        dexycb.write_example(tmp_path, make_truth(models, CAMERA, 1, moving=False))
    with pytest.raises(ValueError, match="fixed"):
        dexycb.write_example(tmp_path, make_truth(models, CAMERA, 3, sides=("left",)))


def test_a_shard_of_one_view_reads_by_its_name(written, models):
    shard = ShardConfig("third-person", "dexycb", str(written), view=SERIALS[1], hand_model=str(models))
    video = dexycb.list_videos(written, SERIALS[1])[0]
    assert dexycb.read_clip(video, shard, RawVideosConfig()).clip_id.startswith("third-person/20200709-subject-01/")
    with pytest.raises(ClipError):
        dexycb.read_clip(video.with_name("000000000000"), shard, RawVideosConfig())
