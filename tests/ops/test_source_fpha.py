"""FPHA: what its example says is what comes back, the official formulas say the same of the raw text, every trap is stepped into."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ops.config import Config, ShardConfig, TrainConfig
from ops.geometry import transforms
from ops.pipeline import run_stage
from ops.rejects import Reason, Reject
from ops.sources import fpha, manifest
from ops.sources.base import Clip
from ops.sources.example import box_corners_m, make_truth
from ops.sources.manifest import READERS
from tests.ops.source_world import JOINTS16, skin_share, unlabelled
from tests.ops.toy_hands import write_toy_models

CAMERA = fpha.example_camera()
KEY = "Subject_3/put_salt/1"
# the order of skeleton.txt, as its README lists it, in the words of ops.hands.joints
README_ORDER = [
    "wrist",
    "thumb_1",
    "index_1",
    "middle_1",
    "ring_1",
    "little_1",
    "thumb_2",
    "thumb_3",
    "thumb_4",
    "index_2",
    "index_3",
    "index_4",
    "middle_2",
    "middle_3",
    "middle_4",
    "ring_2",
    "ring_3",
    "ring_4",
    "little_2",
    "little_3",
    "little_4",
]


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    models = write_toy_models(tmp_path_factory.mktemp("toy"))
    return replace(make_truth(models, CAMERA, num_frames=6, seed=5), subject="Subject_3", name="put_salt/1")


@pytest.fixture(scope="module")
def written(tmp_path_factory, truth):
    root = tmp_path_factory.mktemp("fpha")
    fpha.write_example(root, truth)
    return root


@pytest.fixture
def root(tmp_path, written):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def skeleton(root):
    return root / "Hand_pose_annotation_v1_1" / KEY / "skeleton.txt"


def read(root) -> list[Clip | Reject]:
    return list(fpha.read_clips(root))


def clip_of(root) -> Clip:
    (clip,) = read(root)
    assert isinstance(clip, Clip), clip
    return clip


def reject_of(root) -> Reject:
    (reject,) = read(root)
    assert isinstance(reject, Reject)
    return reject


def test_round_trip(root, truth):
    clip = clip_of(root)
    assert (clip.clip_id, clip.kind, clip.subject, clip.view) == (f"fpha/{KEY}", "fpha", "Subject_3", "")
    assert (clip.num_frames, clip.fps, clip.intrinsics) == (6, pytest.approx(30.0), "given")
    assert (clip.noncommercial, clip.redistributable, clip.hands, clip.T_cam_world) == (True, False, {}, None)
    assert set(clip.joints) == {"right"}
    np.testing.assert_allclose(
        clip.joints["right"].joints_cam, truth.joints_cam["right"], atol=1e-8
    )  # six decimals of mm
    assert clip.joints["right"].valid.all()
    np.testing.assert_allclose(clip.times_s, np.arange(6) / 30)
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-12)
    (said,) = clip.instructions
    assert (said.text, said.start_s, said.end_s) == ("put salt", 0.0, pytest.approx(0.2))
    (salt,) = clip.objects
    assert (salt.name, clip.object_names) == ("salt", ("salt",))
    np.testing.assert_allclose(salt.T_cam_obj, truth.objects[0].T_cam_obj, atol=1e-6)  # rotation to six decimals
    np.testing.assert_allclose(salt.position_cam, truth.objects[0].position_cam, atol=1e-6)
    np.testing.assert_allclose(salt.boxes_px, truth.objects[0].boxes_px, atol=1e-3)
    for frame in clip.frames():
        assert np.abs(frame.rgb.astype(int) - truth.rgb[frame.index]).mean() < 2  # JPEG
    assert READERS["fpha"] == "ops.sources.fpha"


def official_extrinsics():
    """As load_example.py has it, millimetres."""
    return np.array([
        [0.999988496304, -0.00468848412856, 0.000982563360594, 25.7],
        [0.00469115935266, 0.999985218048, -0.00273845880292, 1.22],
        [-0.000969709653873, 0.00274303671904, 0.99999576807, 3.902],
        [0, 0, 0, 1],
    ])  # fmt: skip


def official_pixels(points_mm, K):
    """[u, v] of points in millimetres of a camera, pixel centres counted from 0."""
    projected = points_mm @ np.array(K).T
    return projected[:, :2] / projected[:, 2:]


K_COLOUR = [[1395.749023, 0, 935.732544], [0, 1395.749268, 540.681030], [0, 0, 1]]
K_DEPTH = [[475.065948, 0, 315.944855], [0, 475.065857, 245.287079], [0, 0, 1]]


def test_official_formula_lands_on_the_hand_in_both_images(root, truth, skeleton):
    """Second way, from the raw text alone: colour through the extrinsics, depth without; in millimetres."""
    rows = np.loadtxt(skeleton)
    clip = clip_of(root)
    video = fpha.list_videos(root)[0]
    for frame in range(6):
        points = rows[frame, 1:].reshape(21, 3)
        colour_mm = (official_extrinsics() @ np.c_[points, np.ones(21)].T).T[:, :3]
        px = official_pixels(colour_mm, K_COLOUR)
        small = (px + 0.5) / 4  # the example's images are a quarter of the size
        openpose = [README_ORDER.index(name) for name in openpose_names()]
        ours = clip.camera.project(clip.joints["right"].joints_cam[frame])
        np.testing.assert_allclose(small[openpose], ours, atol=1e-5)
        image = cv2.imread(str(video / f"color_{frame:04d}.jpeg"))[..., ::-1]
        assert skin_share(image, small[openpose][JOINTS16], "right") > 0.85
        depth = cv2.imread(str(video.parent / "depth" / f"depth_{frame:04d}.png"), cv2.IMREAD_UNCHANGED)
        at = np.round(official_pixels(points, K_DEPTH)).astype(int)[openpose][JOINTS16]
        measured = depth[at[:, 1], at[:, 0]]
        assert 0.8 < np.median(measured / points[openpose][JOINTS16, 2]) < 1.1  # the hand's surface, before its joints
        assert (measured < 1000).mean() > 0.9


def openpose_names():
    from ops.hands.joints import NAMES

    return NAMES


def test_joint_order_is_the_readmes():
    assert [README_ORDER[k] for k in fpha.SKELETON_OF_OPENPOSE] == list(openpose_names())


def test_object_poses_are_columns_and_millimetres(root):
    """The official lines: reshape(4, 4).T, model in metres x 1000, extrinsics, K."""
    rows = np.loadtxt(root / "Object_6D_pose_annotation_v1_1" / KEY / "object_pose.txt")
    salt = clip_of(root).objects[0]
    corners = np.c_[box_corners_m() * 1000, np.ones(8)]
    for frame in range(6):
        pose = rows[frame, 1:].reshape(4, 4).T
        assert (pose[3] == [0, 0, 0, 1]).all()
        seen = (official_extrinsics() @ pose @ corners.T).T[:, :3]
        px = (official_pixels(seen, K_COLOUR) + 0.5) / 4
        np.testing.assert_allclose(salt.boxes_px[frame], [*px.min(axis=0), *px.max(axis=0)], atol=1e-4)
        np.testing.assert_allclose(transforms.apply(salt.T_cam_obj[frame], box_corners_m()), seen / 1000, atol=1e-7)


def test_depth_is_registered_to_the_colour_image(root, truth):
    """Where the hands are, the depth camera's surface stands in the colour image: unregistered it is pixels off."""
    clip = clip_of(root)
    for frame in range(6):
        depth_m = clip.depth_m(frame)
        assert depth_m.shape == (270, 480)
        near = (truth.depth_m[frame] < 1.0) & np.isfinite(depth_m)
        inside = cv2.erode((truth.depth_m[frame] < 1.0).astype(np.uint8), np.ones((5, 5))) > 0
        off = np.abs(depth_m - truth.depth_m[frame])[near & inside]
        assert near[inside].mean() > 0.97
        assert np.median(off) < 2e-3  # facets are drawn at one depth each
    wrist = truth.joints_cam["right"][:, 0]
    px = clip.camera.project(wrist).astype(int)
    ratio = [clip.depth_m(k)[v, u] / wrist[k, 2] for k, (u, v) in enumerate(px)]
    assert 0.9 < np.median(ratio) < 1.1  # millimetres, by 1000
    assert list(clip.depth.frames) == list(range(6))


def test_bones_are_metres(root):
    joints = clip_of(root).joints["right"].joints_cam
    assert (np.linalg.norm(joints[:, 9] - joints[:, 0], axis=1) > 0.05).all()
    assert (np.linalg.norm(joints[:, 9] - joints[:, 0], axis=1) < 0.13).all()
    assert ((joints[..., 2] > 0.1) & (joints[..., 2] < 1.5)).all()


def test_unlabelled_frames(tmp_path, truth):
    """The first column says which frame a row is of; the others have no hand, and finite numbers."""
    gap = unlabelled(truth, "right", [2, 5])
    fpha.write_example(tmp_path, gap)
    track = clip_of(tmp_path).joints["right"]
    assert track.valid.tolist() == [True, True, False, True, True, False]
    assert np.isfinite(track.joints_cam).all()
    np.testing.assert_allclose(track.joints_cam[track.valid], truth.joints_cam["right"][track.valid], atol=1e-8)


def test_rows_are_images_from_whatever_they_count(root, truth, skeleton):
    lines = skeleton.read_text().splitlines()
    skeleton.write_text("\n".join(f"{k + 1} {line.split(' ', 1)[1]}" for k, line in enumerate(lines)))
    track = clip_of(root).joints["right"]
    assert track.valid.all()
    np.testing.assert_allclose(track.joints_cam, truth.joints_cam["right"], atol=1e-8)


@pytest.mark.parametrize(
    ("action", "text", "thing"),
    [
        ("put_salt", "put salt", "salt"),
        ("use_flash", "use flash", None),
        ("use_spray", "use flash", None),
        ("pour_liquid_soap", "pour liquid soap", "liquid soap"),
        ("open_dish_soap", "open liquid soap", "liquid soap"),
        ("read_paper", "read letter", None),
        ("open_juice_bottle", "open juice bottle", "juice bottle"),
        ("close_milk", "close milk", "milk"),
        ("pour_juice_bottle", "pour juice bottle", "juice bottle"),
        ("squeeze_paper", "squeeze paper", None),
    ],
)
def test_actions_and_their_aliases(tmp_path, truth, action, text, thing):
    fpha.write_example(tmp_path, replace(truth, name=f"{action}/2"))
    clip = clip_of(tmp_path)
    assert [said.text for said in clip.instructions] == [text]
    assert [track.name for track in clip.objects] == list(clip.object_names) == ([thing] if thing else [])


def test_objects_without_models_have_poses_only(root, truth):
    shutil.rmtree(root / "Object_models")
    (salt,) = clip_of(root).objects
    assert (salt.position_cam, salt.visible.any()) == (None, False)
    np.testing.assert_allclose(salt.T_cam_obj, truth.objects[0].T_cam_obj, atol=1e-6)


@pytest.mark.parametrize("key", ["Subject_2/close_milk/4", "Subject_2/put_tea_bag/2", "Subject_4/flip_sponge/2"])
def test_known_bad_sequences(tmp_path, truth, key):
    subject, action, number = key.split("/")
    fpha.write_example(tmp_path, replace(truth, subject=subject, name=f"{action}/{number}"))
    fpha.write_example(tmp_path, replace(truth, subject="Subject_5", name="close_milk/4"))
    rejects = [found for found in read(tmp_path) if isinstance(found, Reject)]
    assert [(found.reason, key in found.detail) for found in rejects] == [(Reason.KNOWN_BAD_CLIP, True)]


def test_splits(root, truth):
    listing = root / "data_split_action_recognition.txt"
    fpha.write_example(root, replace(truth, subject="Subject_5", name="use_flash/3"))
    listing.write_text("Training 1\nSubject_5/use_flash/3 24\n\nTest 1\nSubject_3/put_salt/1 12\n")
    assert {clip.subject: clip.split for clip in read(root)} == {"Subject_3": "test", "Subject_5": "train"}
    listing.write_text("Training 1\nSubject_5/use_flash/3 24\n")
    assert {clip.subject: clip.split for clip in read(root)} == {"Subject_3": "", "Subject_5": "train"}
    listing.unlink()
    assert {clip.subject: clip.split for clip in read(root)} == {"Subject_3": "train", "Subject_5": "test"}


def test_older_annotations_and_smaller_images(root, truth):
    for new, old in (("Hand_pose_annotation_v1_1", "Hand_pose_annotation_v1"), ("Video_files", "Video_files_480")):
        (root / new).rename(root / old)
    (root / "Object_6D_pose_annotation_v1_1").rename(root / "Object_6D_pose_annotation_v1")
    clip = clip_of(root)
    assert (clip.camera.width, len(clip.objects)) == (480, 1)
    np.testing.assert_allclose(clip.joints["right"].joints_cam, truth.joints_cam["right"], atol=1e-8)
    shutil.copytree(root / "Video_files_480", root / "Video_files")
    assert [video.parts[-5] for video in fpha.list_videos(root)] == ["Video_files"]  # listed once
    with pytest.raises(ValueError, match="one camera"):
        fpha.list_videos(root, "ego")


def test_an_image_that_is_missing_leaves_a_gap_in_time(root, truth):
    (fpha.list_videos(root)[0] / "color_0002.jpeg").unlink()
    skeleton = root / "Hand_pose_annotation_v1_1" / KEY / "skeleton.txt"
    assert reject_of(root).reason == Reason.FRAME_COUNT_MISMATCH  # six rows, five images
    lines = skeleton.read_text().splitlines()
    skeleton.write_text("\n".join(lines[:2] + lines[3:]))
    poses = root / "Object_6D_pose_annotation_v1_1" / KEY / "object_pose.txt"
    poses.write_text("\n".join(line for line in poses.read_text().splitlines() if not line.startswith("2 ")))
    clip = clip_of(root)
    kept = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(clip.times_s, np.array(kept) / 30)
    np.testing.assert_allclose(clip.joints["right"].joints_cam, truth.joints_cam["right"][kept], atol=1e-8)


def lines_of(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


SPOILT = {
    "no images": (lambda color, skeleton: [path.unlink() for path in color.iterdir()], Reason.EMPTY_VIDEO),
    "first image damaged": (lambda color, skeleton: (color / "color_0000.jpeg").write_bytes(b"x"), Reason.CORRUPT_VIDEO),
    "no skeleton": (lambda color, skeleton: skeleton.unlink(), Reason.MISSING_LABELS),
    "empty skeleton": (lambda color, skeleton: skeleton.write_text(""), Reason.BAD_LABEL),
    "skeleton cut off": (lambda color, skeleton: skeleton.write_text(skeleton.read_text()[:-40]), Reason.BAD_LABEL),
    "no number": (lambda color, skeleton: skeleton.write_text(skeleton.read_text().replace(" ", " x", 1)), Reason.BAD_LABEL),
    "frames not upwards": (lambda color, skeleton: lines_of(skeleton, lambda lines: lines[::-1]), Reason.BAD_LABEL),
    "NaN": (lambda color, skeleton: lines_of(skeleton, lambda lines: [*lines[:-1], "5" + " nan" * 63]), Reason.NAN_LABEL),
    "a row too many": (lambda color, skeleton: lines_of(skeleton, lambda lines: [*lines, "6" + " 1" * 63]), Reason.FRAME_COUNT_MISMATCH),
    "another shape": (lambda color, skeleton: cv2.imwrite(str(color / "color_0000.jpeg"), np.zeros((480, 640, 3), np.uint8)), Reason.UNSUPPORTED_CAMERA),
    "no rotation": (lambda color, skeleton: lines_of(skeleton.parents[4] / "Object_6D_pose_annotation_v1_1" / KEY / "object_pose.txt", lambda lines: ["0" + " 1" * 16]), Reason.BAD_LABEL),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_what_cannot_be_read_is_rejected_with_its_reason(root, skeleton, name):
    spoil, expected = SPOILT[name]
    spoil(fpha.list_videos(root)[0], skeleton)
    reject = reject_of(root)
    assert reject.reason == expected, reject.detail


def test_side_files_are_what_the_clip_depends_on(root):
    (video,) = fpha.list_videos(root)
    names = {path.relative_to(root).as_posix() for path in fpha.side_files(video)}
    labels = {f"Hand_pose_annotation_v1_1/{KEY}/skeleton.txt", f"Object_6D_pose_annotation_v1_1/{KEY}/object_pose.txt"}
    depth = {f"Video_files/{KEY}/depth/depth_{k:04d}.png" for k in range(6)}
    shared = {"Object_models/salt_model/salt_model.ply", "data_split_action_recognition.txt"}
    assert names == labels | depth | shared


def test_through_the_stage_and_back(root, truth, tmp_path_factory):
    """The raw_videos stage lists it, and every later stage gets the same clip from its row."""
    workspace = tmp_path_factory.mktemp("workspace")
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    shard = ShardConfig("mine", "fpha", str(root))
    run_stage(workspace, Config({"mine": shard}, train, train, train, train), "raw_videos", "mine")
    (clip,) = manifest.read_clips(workspace / "data" / "raw_videos" / "mine", workspace)
    assert clip.clip_id.startswith("mine/")
    assert clip.split in ("train", "test")
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-3)
    np.testing.assert_allclose(clip.joints["right"].joints_cam, truth.joints_cam["right"], atol=1e-8)
    assert clip.depth_m(2).shape == (270, 480)


def test_labels_are_read_without_decoding_images(root, monkeypatch):
    """A clip of thousands of images costs the header of one."""
    monkeypatch.setattr(cv2, "imread", lambda *_: pytest.fail("an image was decoded"))
    assert clip_of(root).num_frames == 6
