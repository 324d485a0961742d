"""Ego-Exo4D: the turned Fisheye624 and the GoPros come out straight and upright, calibrations and joints as the official
hand benchmark reads them, texts around their moments."""

import json

import numpy as np
import pytest

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.rejects import Reason
from ops.sources import aria, egoexo4d
from ops.sources.example import SKIN, make_truth, seen_by
from tests.ops.toy_hands import write_toy_models

SIZE = 352
FOCAL = 412.5 * SIZE / 1408
CAMERA = PinholeCamera(FOCAL, FOCAL, SIZE / 2, SIZE / 2, SIZE, SIZE)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return make_truth(
        write_toy_models(tmp_path_factory.mktemp("toy")), CAMERA, num_frames=4, seed=3, name="cmu_bike01_2"
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory, truth):
    root = tmp_path_factory.mktemp("egoexo")
    egoexo4d.write_example(root, truth)
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy to change; videos are linked."""
    for path in made.rglob("*"):
        target = tmp_path / path.relative_to(made)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif path.suffix == ".mp4":
            target.symlink_to(path)
        else:
            target.write_bytes(path.read_bytes())
    return tmp_path


def read(root, view=None):
    (clip,) = egoexo4d.read_clips(root, view)
    return clip


def edit(root, pattern, change):
    (path,) = root.glob(pattern)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def skin_at(rgb, px):
    u, v = np.floor(px).astype(int)
    colour = rgb[v, u].astype(float)
    return {side: np.abs(colour / colour.sum() - np.array(SKIN[side]) / sum(SKIN[side])).sum() for side in SKIN}


def test_round_trip(made, truth):
    clip = read(made)
    assert clip.clip_id == "egoexo4d/takes/cmu_bike01_2/frame_aligned_videos/aria01_214-1"
    assert (clip.subject, clip.view, clip.split, clip.intrinsics) == ("s01", "ego", "train", "given")
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-9)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-9)
    for side in ("left", "right"):
        np.testing.assert_allclose(clip.joints[side].joints_cam, truth.joints_cam[side], atol=1e-9)
        assert clip.joints[side].valid.all()
    (said,) = clip.instructions
    assert said.text == "pick up the box"
    assert said.start_s < 2 / 30 < said.end_s
    names = [path.name for path in egoexo4d.side_files(clip.video)]
    assert names[:3] == ["takes.json", "splits.json", "atomic_descriptions_train.json"]
    assert names[-1] == "online_calibration.jsonl"
    assert len(names) == 6


@pytest.mark.parametrize("view", ["ego", "cam01"])
def test_pictures_fit_the_labels(made, truth, view):
    """Undistorted frames are upright, and have skin where the joints project; recorded ones do not."""
    clip = read(made, view)
    world = truth if view == "ego" else seen_by(truth, CAMERA, clip.T_cam_world)
    hits = {"undistorted": 0, "recorded": 0}
    for frame, picture in enumerate(clip.frames()):
        recorded = next(clip._recorded([frame], None)).rgb
        for side in ("left", "right"):
            for joint in (5, 9, 13):
                px = clip.camera.project(clip.joints[side].joints_cam[frame, joint])
                if not (px.min() > 8 and px.max() < SIZE - 8):
                    continue
                hits["undistorted"] += skin_at(picture.rgb, px)[side] < 0.06
                hits["recorded"] += skin_at(recorded, px)[side] < 0.06
        inside = np.s_[90:-90, 90:-90]
        assert np.abs(picture.rgb[inside].astype(int) - world.rgb[frame][inside]).mean() < 8
    assert hits["undistorted"] >= 20
    assert hits["recorded"] < hits["undistorted"] * 0.7 or view != "ego"


def test_the_gopros_pose(made, truth):
    clip = read(made, "cam01")
    assert (clip.view, clip.clip_id.split("/")[-1]) == ("cam01", "cam01")
    expected = truth.T_cam_world[0].copy()
    expected[0, 3] += 0.2
    for frame in range(4):
        np.testing.assert_allclose(clip.T_cam_world[frame], expected, atol=1e-9)
        world = transforms.apply(np.linalg.inv(truth.T_cam_world[frame]), truth.joints_cam["left"][frame])
        np.testing.assert_allclose(clip.joints["left"].joints_cam[frame], transforms.apply(expected, world), atol=1e-9)


def test_project_arias_own_row():
    """The calibration row of projectaria_tools' test, and what its reader makes of it."""
    row = " cam01,40084458-f219-16ca-0c3c-8bd94ee06e6c,1.691723,0.545741,-0.116511,-0.437056,-0.661141,0.501553,0.346871,3840,2160,KANNALABRANDTK3,1761.275757,1761.275757,1920.000000,1080.000000,0.036902,0.057131,-0.057154,0.018458,-1,-1,1"
    named = dict(zip(egoexo4d.GOPRO_HEADER.split(","), row.split(","), strict=True))
    T = aria._pose(named, "cam01")
    np.testing.assert_allclose(np.linalg.inv(T)[:3, 3], [1.691723, 0.545741, -0.116511], atol=1e-9)
    x, y, z, w = -0.437056, -0.661141, 0.501553, 0.346871
    third = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]  # optical axis in the world
    np.testing.assert_allclose(T[2, :3], third, atol=2e-6)


def test_the_official_route_from_the_raw_files(made, truth):
    """Benchmark's loader: world joints by camera_extrinsics (3 x 4), K on the 512-pixel landscape image, then
    aria_landscape_to_portrait: where the upright clip puts them, scaled."""
    clip = read(made)
    (pose,) = made.glob("annotations/ego_pose/train/camera_pose/*.json")
    (hand,) = made.glob("annotations/ego_pose/train/hand/annotation/*.json")
    pose, hand = json.loads(pose.read_text())["aria01"], json.loads(hand.read_text())
    K = np.array(pose["camera_intrinsics"])
    assert K[0].tolist() == [150.0, 0.0, 255.5]
    upright = PinholeCamera(150.0, 150.0, 256.0, 256.0, 512, 512)
    for frame in range(4):
        E = np.array(pose["camera_extrinsics"][str(frame)])
        assert E.shape == (3, 4)
        for number, name in enumerate(egoexo4d.JOINT_NAMES):
            joint = hand[str(frame)][0]["annotation3D"][f"right_{name}"]
            landscape = E @ [joint["x"], joint["y"], joint["z"], 1.0]
            u, v = (K @ landscape)[:2] / landscape[2]
            portrait = [512 - v - 1, u]
            ours = upright.project(clip.joints["right"].joints_cam[frame, number]) - 0.5
            np.testing.assert_allclose(ours, portrait, atol=1e-9)
            np.testing.assert_allclose(
                upright.project(truth.joints_cam["right"][frame, number]) - 0.5, portrait, atol=1e-9
            )


def test_halved_calibrations_are_the_same_lens(root, made):
    """The full sensor's parameters and the benchmark's halved ones, (c - 0.5 - 32) / 2, make one lens."""
    online = read(made).lens
    folder = root / "aria_calib_json"
    folder.mkdir()
    f, cx, cy, *rest = egoexo4d.EXAMPLE_ARIA
    params = [f / 2, (cx - 0.5 - 32) / 2, (cy - 0.5 - 32) / 2, *rest]
    rgb = {"Label": "camera-rgb", "Projection": {"Name": "FisheyeRadTanThinPrism", "Params": params}}
    (folder / "cmu_bike01_2.json").write_text(json.dumps({"CameraCalibrations": [rgb]}))
    (root / "takes/cmu_bike01_2/trajectory/online_calibration.jsonl").unlink()
    clip = read(root)
    assert clip.lens == online
    points = np.array([[0.1, -0.2, 1.0], [0.5, 0.3, 0.8]])
    np.testing.assert_allclose(clip.lens.project(points), online.project(points))
    # a pixel of the full sensor, cut by 32 at each side and halved, first centre at 0.5
    full = np.array([1463.4 + 0.5, 1451.2 + 0.5])
    on_axis = online.lens.project(np.array([[0.0, 0.0, 1.0]]))[0] * 1408 / SIZE
    np.testing.assert_allclose(on_axis, (full - 32) / 2, atol=1e-9)


def test_joints_of_few_views_and_missing_frames(root):
    def change(content):
        content["1"][0]["annotation3D"]["right_thumb_2"]["num_views_for_3d"] = 2
        del content["1"][0]["annotation3D"]["left_wrist"]
        content["2"] = []
        content["3"][0]["annotation3D"] = {}
        content["99"] = content["0"]

    edit(root, "annotations/ego_pose/train/hand/annotation/*.json", change)
    clip = read(root)
    left, right = clip.joints["left"], clip.joints["right"]
    assert np.isnan(right.joints_cam[1, 2]).all()
    assert np.isnan(left.joints_cam[1, 0]).all()
    np.testing.assert_array_equal(left.valid, [True, True, False, False])


def test_automatic_joints_fill_in(root, truth):
    (path,) = root.glob("annotations/ego_pose/train/hand/annotation/*.json")
    content = json.loads(path.read_text())
    other = path.parent.parent / "automatic" / path.name
    other.parent.mkdir()
    for frame in ("0", "1"):
        content[frame][0]["annotation3D"]["left_wrist"]["x"] += 5.0
    other.write_text(json.dumps(content))
    path.write_text(json.dumps({frame: content[frame] for frame in ("2", "3")}))
    (clip_left,) = [read(root).joints["left"]]
    off = np.linalg.norm(clip_left.joints_cam[:, 0] - truth.joints_cam["left"][:, 0], axis=-1)
    np.testing.assert_allclose(off, [5, 5, 0, 0], atol=1e-6)


def test_frames_without_a_pose(root):
    edit(
        root,
        "annotations/ego_pose/train/camera_pose/*.json",
        lambda c: c["aria01"]["camera_extrinsics"].pop("1") and None,
    )
    clip = read(root)
    assert clip.T_cam_world is None
    np.testing.assert_array_equal(clip.joints["left"].valid, [True, False, True, True])


def test_a_take_without_annotations_is_raw_video(root):
    import shutil

    shutil.rmtree(root / "annotations")
    (root / "takes.json").unlink()
    clip = read(root)
    assert (clip.joints, clip.instructions, clip.split, clip.T_cam_world, clip.subject) == ({}, (), "", None, "")


def test_only_the_wearers_descriptions(root):
    def change(content):
        (passes,) = content["annotations"].values()
        other = [{"text": "O waves", "timestamp": 0.05, "subject": "O", "unsure": False}, {"text": "C maybe", "timestamp": 0.06, "subject": "C", "unsure": True}]  # fmt: skip
        passes[0]["descriptions"] += other
        passes.insert(0, {"rejected": True, "descriptions": [{"text": "C wrong", "timestamp": 0.05}]})

    edit(root, "annotations/atomic_descriptions_train.json", change)
    assert [said.text for said in read(root).instructions] == ["pick up the box"]


@pytest.mark.parametrize(
    ("view", "damage", "reason"),
    [
        (None, lambda root: (root / "takes/cmu_bike01_2/trajectory/online_calibration.jsonl").unlink(), Reason.UNSUPPORTED_CAMERA),
        (None, lambda root: (root / "takes/cmu_bike01_2/trajectory/online_calibration.jsonl").write_text("{"), Reason.BAD_SIDE_FILE),
        (None, lambda root: (root / "takes/cmu_bike01_2/trajectory/online_calibration.jsonl").write_text("{}"), Reason.BAD_LABEL),
        ("cam01", lambda root: (root / "takes/cmu_bike01_2/trajectory/gopro_calibs.csv").unlink(), Reason.UNSUPPORTED_CAMERA),
        ("cam01", lambda root: (root / "takes/cmu_bike01_2/trajectory/gopro_calibs.csv").write_text("a,b\n"), Reason.BAD_SIDE_FILE),
        (None, lambda root: edit(root, "annotations/ego_pose/train/camera_pose/*.json", lambda c: c["aria01"]["camera_extrinsics"]["2"][0].__setitem__(0, 9.0)), Reason.BAD_LABEL),
        (None, lambda root: edit(root, "annotations/ego_pose/train/hand/annotation/*.json", lambda c: c["2"][0]["annotation3D"]["left_wrist"].__setitem__("x", float("nan"))), Reason.NAN_LABEL),
        (None, lambda root: edit(root, "annotations/ego_pose/train/hand/annotation/*.json", lambda c: [1, 2]), Reason.BAD_LABEL),
        (None, lambda root: edit(root, "annotations/atomic_descriptions_train.json", lambda c: {"annotations": []}), Reason.BAD_LABEL),
        (None, lambda root: (root / "takes.json").write_text("{"), Reason.BAD_SIDE_FILE),
    ],
)  # fmt: skip
def test_damages_are_named(root, view, damage, reason):
    damage(root)
    reject = read(root, view)
    assert reject.reason == reason


def test_an_unlocalised_gopro(root):
    path = root / "takes/cmu_bike01_2/trajectory/gopro_calibs.csv"
    path.write_text(path.read_text().removesuffix(",1\n") + ",0\n")
    assert read(root, "cam01").reason == Reason.UNSUPPORTED_CAMERA


def test_the_split_of_older_releases(root):
    edit(
        root,
        "annotations/splits.json",
        lambda c: {"split_to_take_uids": {"train": [], "val": list(c["take_uid_to_split"])}},
    )
    assert read(root).split == "test"
    (video,) = egoexo4d.list_videos(root)
    clip = egoexo4d.read_clip(video, ShardConfig("mine", "egoexo4d", str(root / "takes")), RawVideosConfig())
    assert clip.clip_id == "mine/cmu_bike01_2/frame_aligned_videos/aria01_214-1"
