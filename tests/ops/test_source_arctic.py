"""ARCTIC: what its example says is what comes back, smplx says the same of the raw files, and every trap is stepped into."""

import json
import pickle
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ops.config import Config, RawVideosConfig, ShardConfig, TrainConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.mano import load_models
from ops.pipeline import run_stage
from ops.rejects import ClipError, Reason, Reject
from ops.sources import arctic, manifest
from ops.sources.base import Clip
from ops.sources.example import box_corners_m, make_truth, seen_by
from ops.sources.manifest import READERS
from tests.ops.source_world import JOINTS16, assert_hands, in_openpose, skin_share, smplx_joints, without
from tests.ops.toy_hands import toy_arrays, write_toy_models

CAMERA = PinholeCamera(304.6, 302.2, 201.8, 140.8, 400, 300)
FIXED = PinholeCamera(140.0, 141.0, 79.0, 62.0, 160, 120)
EDGE, OFFSET = 10, 2


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def truth(models):
    return replace(make_truth(models, CAMERA, num_frames=7, seed=3), name="waffleiron_use_02", subject="s07")


@pytest.fixture(scope="module")
def written(tmp_path_factory, truth):
    root = tmp_path_factory.mktemp("arctic")
    arctic.write_example(root, truth)
    return root


@pytest.fixture
def root(tmp_path, written):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def raw(root):
    return root / "raw_seqs" / "s07"


@pytest.fixture
def images(root):
    return root / "images" / "s07" / "waffleiron_use_02" / "0"


def read(root, models, view=None) -> list[Clip | Reject]:
    return list(arctic.read_clips(root, view, models))


def load(path):
    return np.load(path, allow_pickle=True).item()


def reason(root, models, view=None) -> tuple[Reason, str]:
    (reject,) = read(root, models, view)
    assert isinstance(reject, Reject)
    return reject.reason, reject.detail


def test_round_trip(root, truth, models):
    (clip,) = read(root, models)
    assert (clip.clip_id, clip.kind) == ("arctic/s07/waffleiron_use_02/0", "arctic")
    assert (clip.view, clip.subject, clip.split) == ("0", "s07", "train")
    assert (clip.num_frames, clip.fps, clip.intrinsics) == (7, pytest.approx(30.0), "given")
    assert (clip.noncommercial, clip.redistributable, clip.hand_model) == (True, False, models)
    assert_hands(clip, truth, 1e-9)  # float64 on disk
    np.testing.assert_allclose(clip.times_s, np.arange(7) / 30, atol=1e-12)
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-9)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-9)
    (said,) = clip.instructions
    assert (said.text, said.start_s, said.end_s, said.side) == ("use the waffle iron", 0.0, pytest.approx(7 / 30), None)
    np.testing.assert_allclose(clip.objects[0].T_cam_obj, truth.objects[0].T_cam_obj, atol=1e-9)
    assert [thing.name for thing in clip.objects] == ["waffle iron", "waffle iron top"]
    assert READERS["arctic"] == "ops.sources.arctic"


def test_float32_files_keep_their_own_precision(root, truth, models, raw):
    """The published arrays are float32: 1e-6 of radians and of metres some metres from the origin."""
    stored = load(raw / "waffleiron_use_02.mano.npy")
    small = {s: {k: np.asarray(v, np.float32) for k, v in hand.items()} for s, hand in stored.items()}
    np.save(raw / "waffleiron_use_02.mano.npy", small)
    assert_hands(read(root, models)[0], truth, 1e-5)


def test_one_hand(tmp_path, truth, models):
    arctic.write_example(tmp_path, without(truth, "left"))
    (clip,) = read(tmp_path, models)
    assert_hands(clip, without(truth, "left"), 1e-9)


def test_undistorted_frames_are_the_truths(root, truth, models):
    (clip,) = read(root, models)
    for frame in clip.frames():
        off = np.abs(frame.rgb.astype(int) - truth.rgb[frame.index])
        assert off.mean() < 3  # interpolated twice, and JPEG
        for side, joints in truth.joints_cam.items():
            px = clip.camera.project(joints[frame.index, JOINTS16])  # tips are narrower than JPEG's colour blocks
            assert skin_share(frame.rgb, px, side) > 0.9


def official_distortion(points_cam, dist8):
    """ARCTIC's model written down again: rational radial, k1 k2 p1 p2 k3 k4 k5 k6."""
    k1, k2, p1, p2, k3, k4, k5, k6 = dist8
    x, y = points_cam[..., 0] / points_cam[..., 2], points_cam[..., 1] / points_cam[..., 2]
    r2 = x**2 + y**2
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
    v = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y**2)
    return np.stack([u, v], axis=-1)


def world_joints_by_smplx(raw, side, sequence="waffleiron_use_02"):
    """16 joints in the world from the raw file, by smplx: full pose = pose + hands_mean, joints + trans."""
    hand = load(raw / f"{sequence}.mano.npy")[side]
    pose = np.concatenate([hand["rot"], hand["pose"] + toy_arrays(side)["hands_mean"]], axis=1)
    rotmats = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(-1, 16, 3, 3)
    return smplx_joints(side, rotmats, np.repeat(hand["shape"][None], len(pose), 0)) + hand["trans"][:, None]


@pytest.mark.parametrize("side", ["left", "right"])
def test_smplx_of_the_raw_files_is_where_the_recorded_image_has_skin(root, truth, models, raw, images, side):
    """Second way: smplx, R and T of the ego camera, ARCTIC's distortion, on the distorted JPEG; row = number - offset."""
    ego = load(raw / "waffleiron_use_02.egocam.dist.npy")
    joints_world = world_joints_by_smplx(raw, side)
    (clip,) = read(root, models)
    hand = clip.hands[side]
    ours = truth.models[side].joints(hand.theta, hand.r, hand.tau, hand.beta)[:, JOINTS16]
    for frame in range(7):
        row = frame + EDGE - OFFSET
        cam = joints_world[row] @ ego["R_k_cam_np"][row].T + ego["T_k_cam_np"][row].T
        np.testing.assert_allclose(in_openpose(cam[None])[0], ours[frame], atol=1e-9)
        normal = official_distortion(cam, ego["dist8"])
        px = normal @ ego["intrinsics"][:2, :2].T + ego["intrinsics"][:2, 2] + 0.5
        recorded = cv2.imread(str(images / f"{frame + EDGE:05d}.jpg"))[..., ::-1]
        assert skin_share(recorded, px, side) > 0.9
        np.testing.assert_allclose(clip.lens.project(cam), px, atol=1e-6)
    corner = np.array([0.6, 0.45, 1.0])
    np.testing.assert_allclose(
        clip.lens.project(corner),
        official_distortion(corner, ego["dist8"]) * [304.6, 302.2] + [201.8, 140.8],
        atol=1e-6,
    )
    assert np.linalg.norm(clip.lens.project(corner) - CAMERA.project(corner)) > 10  # the lens is no trifle


def test_the_example_would_show_forgotten_conventions(root, truth, models, raw):
    """Flat hand, trans taken for the wrist, camera-to-world: each is off by far more than any tolerance above."""
    hand = load(raw / "waffleiron_use_02.mano.npy")["right"]
    model = load_models(models)["right"]
    rows = np.arange(7) + EDGE - OFFSET
    assert np.abs(hand["pose"][rows] - truth.hands["right"].theta).max() > 0.1
    assert 0.08 < np.linalg.norm(model.wrist(hand["shape"])) < 0.13
    ego = load(raw / "waffleiron_use_02.egocam.dist.npy")
    assert np.abs(ego["R_k_cam_np"][rows] - np.swapaxes(truth.T_cam_world[:, :3, :3], 1, 2)).max() > 0.1


def test_wrists_hardly_move_in_the_world(root, models):
    """World-to-camera: the example's wrists drift by 2 cm a coordinate; read the other way round they would fly."""
    (clip,) = read(root, models)
    for hand in clip.hands.values():
        world = transforms.apply(transforms.invert(clip.T_cam_world), hand.tau)
        wrong = transforms.apply(clip.T_cam_world, hand.tau)
        assert np.ptp(world, axis=0).max() < 0.021 < np.ptp(wrong, axis=0).max()
        assert ((hand.tau[:, 2] > 0.1) & (hand.tau[:, 2] < 1.5)).all()


def test_objects_are_millimetres_and_turn_about_minus_z(root, truth, models, raw):
    """Vertices by quaternions, as the toolkit does it: top part about (0, 0, -1) first, then the pose, / 1000."""
    (clip,) = read(root, models)
    poses = np.load(raw / "waffleiron_use_02.object.npy")
    whole, top = clip.objects
    corners_mm = box_corners_m() * 500  # top.obj
    for frame in range(7):
        angle, rotvec, shift = np.split(poses[frame + EDGE - OFFSET], [1, 4])
        world = Rotation.from_rotvec(rotvec) * Rotation.from_rotvec([0, 0, -angle[0]])
        expected = transforms.apply(truth.T_cam_world[frame], (world.apply(corners_mm) + shift) / 1000)
        found = transforms.apply(top.T_cam_obj[frame], corners_mm / 1000)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        px = CAMERA.project(expected)
        np.testing.assert_allclose(top.boxes_px[frame], [*px.min(0), *px.max(0)], atol=1e-6)
        np.testing.assert_allclose(top.position_cam[frame], expected.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(whole.position_cam, truth.objects[0].position_cam, atol=1e-4)
    np.testing.assert_allclose(whole.boxes_px, truth.objects[0].boxes_px, atol=1e-3)  # the lid lies inside
    assert whole.visible.all()


def test_objects_without_templates_have_poses_only(root, truth, models):
    for path in (root / "meta" / "object_vtemplates" / "waffleiron").iterdir():
        path.unlink()
    whole, top = read(root, models)[0].objects
    assert whole.position_cam is None
    assert np.isnan(top.boxes_px).all()
    assert not top.visible.any()
    np.testing.assert_allclose(whole.T_cam_obj, truth.objects[0].T_cam_obj, atol=1e-9)


def test_black_ends_are_left_out(root, models, images):
    """27 rows of labels, 28 images, number 2 is row 0: images 10 to 16 are the clip."""
    (clip,) = read(root, models)
    assert len(list(images.iterdir())) == 28
    assert [path.name for path in clip.image_files] == [f"{number:05d}.jpg" for number in range(10, 17)]
    assert all(frame.rgb.mean() > 50 for frame in clip.frames())


@pytest.mark.parametrize("offset", [0, 1, 5, 12])
def test_every_offset_between_images_and_rows(root, truth, models, offset):
    """The same files with another ioi_offset show other rows; rows before the first image have none."""
    path = root / "meta" / "misc.json"
    misc = json.loads(path.read_text())
    misc["s07"]["ioi_offset"] = offset
    path.write_text(json.dumps(misc))
    (clip,) = read(root, models)
    first = max(EDGE, offset)
    rows = np.clip(np.arange(first, 17) - offset - EDGE + OFFSET, 0, 6)
    assert clip.image_files[0].name == f"{first:05d}.jpg"
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world[rows], atol=1e-9)


@pytest.mark.parametrize(("gone", "kept"), [((12,), True), ((12, 14), True), ((11, 12, 14), False)])
def test_images_that_are_missing(root, truth, models, images, gone, kept):
    for number in gone:
        (images / f"{number:05d}.jpg").unlink()
    if not kept:
        assert reason(root, models)[0] == Reason.FRAME_COUNT_MISMATCH
        return
    (clip,) = read(root, models)
    left = [number - EDGE for number in range(10, 17) if number not in gone]
    np.testing.assert_allclose(clip.times_s, np.array(left) / 30, atol=1e-12)
    np.testing.assert_allclose(clip.hands["left"].tau, truth.hands["left"].tau[left], atol=1e-9)
    np.testing.assert_allclose([frame.time_s for frame in clip.frames()], clip.times_s)


def test_labels_that_are_missing_rows(root, models, images, raw):
    for number in range(28, 32):
        (images / f"{number:05d}.jpg").write_bytes((images / "00027.jpg").read_bytes())
    assert reason(root, models)[0] == Reason.FRAME_COUNT_MISMATCH  # numbers to 31 - 2; 27 rows
    for number in range(28, 32):
        (images / f"{number:05d}.jpg").unlink()
    path = raw / "waffleiron_use_02.egocam.dist.npy"
    ego = load(path)
    for cut, expected in ((2, 5), (3, None)):
        shorter = {k: v[:-cut] if k in ("R_k_cam_np", "T_k_cam_np") else v for k, v in ego.items()}
        np.save(path, shorter)
        if expected is None:
            kind, detail = reason(root, models)
            assert kind == Reason.FRAME_COUNT_MISMATCH
            assert "24 camera poses for 27" in detail
        else:
            assert read(root, models)[0].num_frames == expected
    np.save(raw / "waffleiron_use_02.object.npy", np.zeros((26, 7)))
    assert reason(root, models)[0] == Reason.FRAME_COUNT_MISMATCH


def test_fixed_cameras(root, truth, models):
    """View 3: a pinhole that stands still; the same hands, seen by it."""
    T = truth.T_cam_world[:1] @ transforms.make(transforms.rotvec_to_rotmat(np.array([0.1, -0.2, 0.05])), np.zeros(3))
    T = np.repeat(transforms.make(np.eye(3), np.array([0.05, 0.0, 0.3])) @ T, 7, axis=0)
    fixed = replace(seen_by(truth, FIXED, T), name=truth.name)
    arctic.write_example(root, fixed, view="3")
    (clip,) = read(root, models, "3")
    assert (clip.clip_id, clip.view, clip.lens) == ("arctic/s07/waffleiron_use_02/3", "3", None)
    assert_hands(clip, fixed, 1e-9)
    np.testing.assert_allclose(clip.T_cam_world, T, atol=1e-9)
    np.testing.assert_allclose(clip.camera.K, FIXED.K, atol=1e-9)
    for frame in clip.frames([0, 6]):
        assert np.abs(frame.rgb.astype(int) - fixed.rgb[frame.index]).mean() < 2
        assert skin_share(frame.rgb, clip.camera.project(fixed.joints_cam["right"][frame.index]), "right") > 0.8
    assert read(root, models)[0].view == "0"  # ego by default
    with pytest.raises(ValueError, match="views 0, 1"):
        arctic.list_videos(root, "9")


def test_smaller_ego_images(tmp_path, truth, models):
    """cropped_images/ of the ego view are the whole image, shrunk: intrinsics scale, the distortion stays."""
    arctic.write_example(tmp_path, truth, scale=0.5)
    (clip,) = read(tmp_path, models)
    assert (clip.camera.width, clip.camera.height) == (200, 150)
    np.testing.assert_allclose(clip.camera.K, CAMERA.resized(200, 150).K, atol=1e-9)
    assert_hands(clip, truth, 1e-9)
    for frame in clip.frames([3]):
        assert skin_share(frame.rgb, clip.camera.project(truth.joints_cam["right"][3]), "right") > 0.8
    arctic.write_example(tmp_path, truth)
    assert [video.parts[-4] for video in arctic.list_videos(tmp_path)] == ["images"]  # listed once, the whole ones


def test_cropped_images_of_fixed_cameras_are_refused(root, truth, models):
    fixed = seen_by(truth, FIXED, np.repeat(truth.T_cam_world[:1], 7, axis=0))
    arctic.write_example(root, replace(fixed, name=truth.name), view="1", scale=0.5)
    kind, detail = reason(root, models, "1")
    assert kind == Reason.UNSUPPORTED_CAMERA
    assert "80 x 60" in detail
    assert "images/" in detail


def test_splits(tmp_path, truth, models):
    for subject in ("s03", "s05", "s10"):
        arctic.write_example(tmp_path, replace(truth, subject=subject))
    by_list = {clip.subject: clip.split for clip in read(tmp_path, models)}
    assert by_list == {"s03": "train", "s05": "test", "s10": "train"}  # the example's own lists
    for path in (tmp_path / "splits_json").iterdir():
        path.unlink()
    assert {clip.subject: clip.split for clip in read(tmp_path, models)} == {
        "s03": "test",
        "s05": "test",
        "s10": "train",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("box_grab_01", "grab the box"),
        ("capsulemachine_use_04", "use the capsule machine"),
        ("espressomachine_grab_12", "grab the espresso machine"),
        ("scissors_use_02", "use the scissors"),
    ],
)
def test_texts(tmp_path, truth, models, name, text):
    arctic.write_example(tmp_path, replace(truth, name=name))
    assert [said.text for said in read(tmp_path, models)[0].instructions] == [text]


def test_shapes_a_frame(root, truth, models, raw):
    """Its table says frames x 10: equal rows are one shape, others cannot be one person's."""
    path = raw / "waffleiron_use_02.mano.npy"
    stored = load(path)
    stored["right"]["shape"] = np.repeat(stored["right"]["shape"][None], 27, axis=0)
    np.save(path, stored)
    assert_hands(read(root, models)[0], truth, 1e-9)
    stored["right"]["shape"][4, 2] += 0.5
    np.save(path, stored)
    assert reason(root, models)[0] == Reason.BAD_LABEL


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def change_dict(path, change):
    stored = load(path)
    change(stored)
    np.save(path, stored)


MANO = "waffleiron_use_02.mano.npy"
SPOILT = {
    "no images": (lambda root, raw, images: [path.unlink() for path in images.iterdir()], Reason.EMPTY_VIDEO),
    "first image damaged": (lambda root, raw, images: (images / "00010.jpg").write_bytes(b"x"), Reason.CORRUPT_VIDEO),
    "no mano": (lambda root, raw, images: (raw / MANO).unlink(), Reason.MISSING_LABELS),
    "no ego": (lambda root, raw, images: (raw / MANO.replace("mano", "egocam.dist")).unlink(), Reason.MISSING_LABELS),
    "no object": (lambda root, raw, images: (raw / MANO.replace("mano", "object")).unlink(), Reason.MISSING_LABELS),
    "no misc": (lambda root, raw, images: (root / "meta" / "misc.json").unlink(), Reason.MISSING_SIDE_FILE),
    "misc of others": (lambda root, raw, images: (root / "meta" / "misc.json").write_text("{}"), Reason.BAD_SIDE_FILE),
    "mano cut off": (lambda root, raw, images: (raw / MANO).write_bytes((raw / MANO).read_bytes()[:300]), Reason.BAD_LABEL),
    "NaN": (lambda root, raw, images: change_dict(raw / MANO, lambda d: d["left"]["trans"].__setitem__((5, 1), np.nan)), Reason.NAN_LABEL),
    "key gone": (lambda root, raw, images: change_dict(raw / MANO, lambda d: d["left"].pop("pose")), Reason.BAD_LABEL),
    "wrong width": (lambda root, raw, images: change_dict(raw / MANO, lambda d: d["left"].update(pose=np.zeros((27, 48)))), Reason.BAD_LABEL),
    "no rotation": (lambda root, raw, images: change_dict(raw / MANO.replace("mano", "egocam.dist"), lambda d: d["R_k_cam_np"].__imul__(1.1)), Reason.BAD_LABEL),
    "evil": (lambda root, raw, images: np.save(raw / MANO, np.array({"left": Evil()}, dtype=object)), Reason.BAD_LABEL),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_what_cannot_be_read_is_rejected_with_its_reason(root, models, raw, images, name, capsys):
    spoil, expected = SPOILT[name]
    spoil(root, raw, images)
    kind, detail = reason(root, models)
    assert kind == expected, detail
    assert "never run" not in capsys.readouterr().out


def test_a_bad_clip_does_not_stop_the_others(root, truth, models, raw):
    arctic.write_example(root, replace(truth, name="box_grab_01"))
    (raw / MANO).write_bytes(pickle.dumps({"left": 1}))
    good, bad = read(root, models)
    assert (good.clip_id, bad.reason) == ("arctic/s07/box_grab_01/0", Reason.BAD_LABEL)


def test_without_mano_files(root):
    kind, detail = reason(root, None)
    assert kind == Reason.MISSING_HAND_MODEL
    assert "MANO_LEFT.pkl" in detail


def test_hidden_test_subject_says_so(tmp_path, truth, models):
    arctic.write_example(tmp_path, replace(truth, subject="s03"))
    (tmp_path / "raw_seqs" / "s03" / MANO).unlink()
    assert "hidden test set" in reason(tmp_path, models)[1]


def test_side_files_are_what_the_clip_depends_on(root, models):
    (video,) = arctic.list_videos(root)
    names = [path.relative_to(root).as_posix() for path in arctic.side_files(video)]
    labels = [f"raw_seqs/s07/waffleiron_use_02.{kind}.npy" for kind in ("mano", "object", "egocam.dist")]
    meshes = [f"meta/object_vtemplates/waffleiron/{part}.obj" for part in ("bottom", "top")]
    assert names == [*labels, "meta/misc.json", "splits_json/protocol_p2.json", *meshes]
    with pytest.raises(ClipError) as raised:
        arctic.read_clip(video, ShardConfig("a", "arctic", str(root)), RawVideosConfig())
    assert raised.value.reason == Reason.MISSING_HAND_MODEL


def test_through_the_stage_and_back(root, truth, models, tmp_path_factory):
    """The raw_videos stage lists it, and every later stage gets the same clip from its row."""
    workspace = tmp_path_factory.mktemp("workspace")
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    shard = ShardConfig("mine", "arctic", str(root), hand_model=str(models))
    run_stage(workspace, Config({"mine": shard}, train, train, train, train), "raw_videos", "mine")
    (clip,) = manifest.read_clips(workspace / "data" / "raw_videos" / "mine", workspace)
    assert clip.clip_id.startswith("mine/")
    assert clip.split in ("train", "test")
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-3)
    assert_hands(clip, truth, 1e-9)
    assert np.abs(next(clip.frames([2])).rgb.astype(int) - truth.rgb[2]).mean() < 3


def test_labels_are_read_without_decoding_images(root, models, monkeypatch):
    """A clip of thousands of images costs the header of one."""
    monkeypatch.setattr(cv2, "imread", lambda *_: pytest.fail("an image was decoded"))
    assert read(root, models)[0].num_frames == 7
