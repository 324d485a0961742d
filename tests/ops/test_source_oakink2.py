"""OakInk2: what its example says is what comes back, smplx's skinning says the same of the raw pickle, and the traps."""

import ast
import json
import pickle
import shutil
from collections import OrderedDict
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.rejects import Reason
from ops.sources import oakink2
from ops.sources.base import Instruction
from ops.sources.example import box_corners_m, make_truth, seen_by
from ops.sources.manifest import READERS, files_of
from tests.ops.source_world import JOINTS16, assert_hands, in_openpose, skin_share, smplx_joints, unlabelled, without
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera(150.2, 151.7, 83.4, 61.9, 160, 120)
FIXED = PinholeCamera(140.0, 141.0, 79.0, 62.0, 160, 120)
TEXTS = (Instruction(0.0, 0.1, "reach for the box", "left"), Instruction(0.1, 0.2, "pick up the box"))
KEY = "O02@0001@00001"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def truth(models):
    return replace(make_truth(models, CAMERA, num_frames=7, seed=4, name="tea"), instructions=TEXTS)


@pytest.fixture
def root(tmp_path, truth):
    oakink2.write_example(tmp_path, truth)
    return tmp_path


@pytest.fixture
def anno_file(root):
    return next((root / "anno_preview").iterdir())


@pytest.fixture
def edit(anno_file):
    """edit(change): the annotation with something else in it."""

    def write(change, protocol=None):
        with anno_file.open("rb") as file:
            anno = pickle.load(file)  # our own
        change(anno)
        with anno_file.open("wb") as file:
            pickle.dump(anno, file, protocol)

    return write


def read(root, models, view=None):
    return list(oakink2.read_clips(root, view, models))


def frames_of(clip):
    return [int(path.stem) for path in clip.image_files]


def test_round_trip(root, truth, models):
    (clip,) = read(root, models)
    token = oakink2.list_videos(root)[0].parent.name
    assert (clip.clip_id, clip.view, clip.split) == (f"oakink2/{token}/egocentric", "egocentric", "")
    assert (clip.kind, clip.num_frames, clip.fps) == ("oakink2", 7, pytest.approx(30))
    assert (clip.noncommercial, clip.redistributable, clip.depth) == (True, False, None)
    assert_hands(clip, truth, 2e-7)  # float32 tensors
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-12)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-12)
    np.testing.assert_allclose(clip.times_s, np.arange(7) / 30, atol=1e-12)
    for frame, image in enumerate(clip.frames()):
        np.testing.assert_array_equal(image.rgb, truth.rgb[frame])
    (thing,), (known,) = clip.objects, truth.objects
    assert thing.name == "box"
    np.testing.assert_allclose(thing.T_cam_obj, known.T_cam_obj, atol=1e-12)
    np.testing.assert_allclose(thing.position_cam, known.position_cam, atol=1e-12)
    np.testing.assert_allclose(thing.boxes_px, known.boxes_px, atol=1e-9)
    assert clip.task == "reach for the box; pick up the box"
    assert [(i.text, i.side) for i in clip.instructions] == [(i.text, i.side) for i in TEXTS]
    np.testing.assert_allclose([(i.start_s, i.end_s) for i in clip.instructions], [(0, 0.1), (0.1, 0.2)])


@pytest.mark.parametrize("seed", range(4))
def test_any_hands_and_cameras(tmp_path, models, seed):
    rng = np.random.default_rng(seed)
    camera = PinholeCamera(*rng.uniform(120, 200, 2), *rng.uniform(50, 70, 2), 120, 120)
    sides = (("left", "right"), ("left",), ("right",), ("left", "right"))[seed]
    truth = make_truth(models, camera, num_frames=3, sides=sides, moving=seed != 3, seed=50 + seed)
    oakink2.write_example(tmp_path, truth)
    (clip,) = read(tmp_path, models)
    assert_hands(clip, truth, 1e-6)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-9)
    np.testing.assert_allclose(clip.camera.K, camera.K, atol=1e-9)


def matrix_of(wxyz):
    """Rotation of a quaternion by its polynomial, not by SciPy."""
    w, x, y, z = np.moveaxis(np.asarray(wxyz, np.float64), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), [0, 1], [-2, -1])


def test_manotorchs_formula_gives_the_pixels(root, truth, models, anno_file):
    """Raw pickle -> w x y z quaternions -> smplx's skinning, joints - J0 + tsl -> world-to-camera -> K -> skin."""
    anno = pickle.loads(anno_file.read_bytes())
    (clip,) = read(root, models)
    for prefix, side in (("lh", "left"), ("rh", "right")):
        labels = [anno["raw_mano"][i] for i in anno["frame_id_list"]]
        quats, tsl, betas = (
            np.stack([label[f"{prefix}__{name}"].numpy()[0] for label in labels]).astype(np.float64)
            for name in ("pose_coeffs", "tsl", "betas")
        )
        joints = smplx_joints(side, matrix_of(quats), betas)
        in_world = in_openpose(joints - joints[:, :1] + tsl[:, None])
        for frame, i in enumerate(anno["frame_id_list"]):
            T, K = anno["cam_extr"]["egocentric"][i], anno["cam_intr"]["egocentric"][i]
            in_camera = in_world[frame] @ T[:3, :3].T + T[:3, 3]
            np.testing.assert_allclose(in_camera, truth.joints_cam[side][frame, JOINTS16], atol=1e-6)
            px = (in_camera @ K.T)[:, :2] / in_camera[:, 2:] + 0.5  # OpenCV counts pixel centres from 0
            assert skin_share(cv2.imread(str(clip.image_files[frame]))[..., ::-1], px, side) > 0.9
        found = clip.hands[side]
        again = truth.models[side].joints(found.theta, found.r, found.tau, found.beta)[:, JOINTS16]
        np.testing.assert_allclose(again, truth.joints_cam[side][:, JOINTS16], atol=1e-6)


def test_extrinsics_are_world_to_camera_frame_by_frame(root, models, anno_file):
    """The box stands in the world: each frame's own extrinsics undo the ego camera's motion, one for all does not."""
    anno = pickle.loads(anno_file.read_bytes())
    (clip,) = read(root, models)
    T = np.stack([anno["cam_extr"]["egocentric"][i] for i in anno["frame_id_list"]])
    box = clip.objects[0].position_cam
    world = np.einsum("nji,nj->ni", T[:, :3, :3], box - T[:, :3, 3])
    assert np.ptp(world, axis=0).max() < 1e-9
    constant = np.einsum("ji,nj->ni", T[0, :3, :3], box - T[0, :3, 3])
    assert np.ptp(constant, axis=0).max() > 0.01


def test_frames_are_mocap_frames(root, models, edit, truth):
    """Images are every 4th of 120 Hz and begin at 1208; one that is left out moves no label, only time."""
    (clip,) = read(root, models)
    assert frames_of(clip) == [1208 + 4 * k for k in range(7)]
    edit(lambda anno: anno["frame_id_list"].remove(1216))
    (clip,) = read(root, models)  # its image is still there, without labels
    assert frames_of(clip) == [1208, 1212, 1220, 1224, 1228, 1232]
    np.testing.assert_allclose(clip.times_s * 30, [0, 1, 3, 4, 5, 6])
    kept = [0, 1, 3, 4, 5, 6]
    np.testing.assert_allclose(clip.hands["right"].tau, truth.hands["right"].tau[kept], atol=2e-7)
    np.testing.assert_allclose(clip.objects[0].T_cam_obj, truth.objects[0].T_cam_obj[kept], atol=1e-12)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world[kept], atol=1e-12)


def test_every_camera_can_be_chosen(tmp_path, truth, models):
    T = transforms.make(transforms.rotvec_to_rotmat(np.array([0.1, 0.4, 0.2])), [0.1, 0.0, 0.3])
    fixed = seen_by(truth, FIXED, np.tile(T @ truth.T_cam_world[0], (7, 1, 1)))
    oakink2.write_example(tmp_path, truth, {"allocentric_left": fixed})
    (clip,) = read(tmp_path, models, "allocentric_left")
    assert clip.view == "allocentric_left"
    assert clip.video.name == "104122064161"
    assert_hands(clip, fixed, 2e-7)
    np.testing.assert_allclose(clip.camera.K, FIXED.K, atol=1e-12)
    np.testing.assert_array_equal(next(clip.frames([3])).rgb, fixed.rgb[3])
    assert [c.view for c in read(tmp_path, models)] == ["egocentric"]
    (reject,) = read(tmp_path, models, "allocentric_top")  # cam_def names it, but its images were not fetched
    assert (reject.reason, "allocentric_top" in reject.detail) == (Reason.EMPTY_VIDEO, True)
    with pytest.raises(ValueError, match="allocentric_top"):
        oakink2.list_videos(tmp_path, "ego")


def test_one_hand_and_a_gap(tmp_path, truth, models):
    oakink2.write_example(tmp_path, replace(unlabelled(truth, "right", [2, 3]), name="a"))
    oakink2.write_example(tmp_path, replace(without(truth, "left"), name="b"))
    gap, one = read(tmp_path, models)
    assert_hands(gap, unlabelled(truth, "right", [2, 3]), 2e-7)
    assert_hands(one, without(truth, "left"), 2e-7)


def test_a_frame_without_any_hand(root, models, edit):
    edit(lambda anno: anno["raw_mano"].pop(1216))
    (clip,) = read(root, models)
    assert [hand.valid.tolist() for hand in clip.hands.values()] == [[True, True, False, True, True, True, True]] * 2
    assert np.abs(clip.hands["left"].tau[2]).max() == 0


def test_an_object_without_pose_for_a_while(root, models, edit):
    edit(lambda anno: [anno["obj_transf"][KEY].pop(i) for i in range(1216, 1224)])
    (thing,) = read(root, models)[0].objects
    assert thing.visible.tolist() == [True, True, False, False, True, True, True]
    assert np.isnan(thing.T_cam_obj[2:4]).all()
    assert np.isnan(thing.boxes_px[2:4]).all()
    assert np.isfinite(thing.T_cam_obj[[0, 1, 4, 5, 6]]).all()


def test_opposite_quaternions_are_the_same_hand(root, truth, models, edit):
    edit(lambda anno: [label["rh__pose_coeffs"].mul_(-1) for label in anno["raw_mano"].values()])
    assert_hands(read(root, models)[0], truth, 2e-7)


# -- variants of the layout


def test_jpg_images_and_other_places(root, truth, models):
    """README: jpg; its loader: png. The annotation folder is anno in the full release; archives nest program/."""
    video = oakink2.list_videos(root)[0]
    for path in list(video.iterdir()):
        cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path)), [cv2.IMWRITE_JPEG_QUALITY, 100])
        path.unlink()
    (root / "anno_preview").rename(root / "anno")
    (root / "program").rename(root / "packed")
    (root / "program").mkdir()
    (root / "packed").rename(root / "program" / "program")
    (root / "object_repair").rename(root / "object_preview")
    (clip,) = read(root, models)
    assert clip.image_files[0].suffix == ".jpg"
    assert_hands(clip, truth, 2e-7)
    assert len(clip.instructions) == 2
    assert (clip.objects[0].name, clip.objects[0].visible.all()) == ("box", True)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cameras_are_found_without_reading_all(root, models, edit, protocol, monkeypatch):
    edit(lambda anno: None, protocol)
    oakink2._camera_names.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(oakink2, "load_pickle_lazily", lambda _: pytest.fail("the whole annotation was read"))
        (video,) = oakink2.list_videos(root)
    assert video.name == "104422070969"
    assert len(read(root, models)[0].hands) == 2


def test_cameras_that_stand_elsewhere_in_the_file(root, models, edit):
    edit(lambda anno: [anno.update({key: anno.pop(key)}) for key in reversed(list(anno))])
    oakink2._camera_names.cache_clear()
    assert oakink2.list_videos(root)[0].name == "104422070969"
    assert len(read(root, models)[0].hands) == 2


def test_cameras_by_serial(root, truth, models, edit):
    def by_serial(anno):
        for key in ("cam_intr", "cam_extr"):
            anno[key] = {"104422070969": anno[key]["egocentric"]}

    edit(by_serial)
    assert_hands(read(root, models)[0], truth, 2e-7)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian", "none"])
def test_meshes(root, truth, models, form):
    """Outlines from .ply of every kind; without a mesh the pose stays and there is no box, not a guessed one."""
    mesh = root / "object_repair" / "align_ds" / KEY / "model.obj"
    mesh.unlink()
    corners = np.concatenate([box_corners_m(), 0.5 * box_corners_m()])
    header = f"ply\nformat {form} 1.0\ncomment x\nelement vertex {len(corners)}\nproperty float x\nproperty float y\n"
    header += (
        "property float z\nproperty uchar red\nelement face 0\nproperty list uchar int vertex_indices\nend_header\n"
    )
    if form == "ascii":
        body = "".join(f"{x} {y} {z} 200\n" for x, y, z in corners).encode()
    else:
        order = "<" if form == "binary_little_endian" else ">"
        table = np.zeros(len(corners), [(axis, f"{order}f4") for axis in "xyz"] + [("red", "u1")])
        table["x"], table["y"], table["z"] = corners.T
        body = table.tobytes()
    if form != "none":
        (mesh.parent / "scan.ply").write_bytes(header.encode() + body)
    (thing,) = read(root, models)[0].objects
    np.testing.assert_allclose(thing.T_cam_obj, truth.objects[0].T_cam_obj, atol=1e-12)
    if form == "none":
        assert (thing.visible.any(), thing.position_cam, np.isnan(thing.boxes_px).all()) == (False, None, True)
    else:
        np.testing.assert_allclose(thing.boxes_px, truth.objects[0].boxes_px, atol=1e-3)


def test_object_names(root, models):
    for folder, key in (("object_repair", "obj_desc"), ("object_affordance", "part_desc")):
        path = root / folder / f"{key}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({KEY: {"obj_id": KEY, "obj_name": f"teapot of {key}"}}))
    assert read(root, models)[0].objects[0].name == "teapot of obj_desc"
    (root / "object_repair" / "obj_desc.json").unlink()
    assert read(root, models)[0].objects[0].name == "teapot of part_desc"
    (root / "object_affordance" / "part_desc.json").unlink()
    assert read(root, models)[0].objects[0].name == KEY


# -- text and split


def program(root, name, content):
    path = next((root / "program" / name).iterdir())
    path.write_text(json.dumps(content))


def said(clip):
    return [(i.text, i.side, round(i.start_s * 120), round(i.end_s * 120)) for i in clip.instructions]


def test_intervals_of_either_hand(root, models):
    """Keys are tuples as text, half-open, in mocap frames; None for the hand that has no part in it."""
    keys = ["((1208, 1220), None)", "(None, (1212, 1224))", "((1212,1228),(1212,1228))", "([1216, 1224], [1220, 1232])"]
    program(root, "desc_info", {key: {"seg_desc": f"step {k}"} for k, key in enumerate(keys)})
    program(root, "program_info", {key: {"primitive": "hold"} for key in keys})
    assert said(read(root, models)[0]) == [
        ("step 0", "left", 0, 12),
        ("step 1", "right", 4, 16),
        ("step 2", None, 4, 20),
        ("step 3", "left", 8, 16),
        ("step 3", "right", 12, 24),
    ]
    assert ast.literal_eval(keys[0]) == ((1208, 1220), None)


def test_primitives_without_a_sentence(root, models):
    keys = ["((1208, 1212), None)", "((1212, 1216), None)", "((1000, 1300), None)", "((2000, 2100), None)"]
    primitives = ["screw_lid", "?(unk)", "hold", "swap"]
    program(root, "program_info", {k: {"primitive": p} for k, p in zip(keys, primitives, strict=True)})
    program(root, "desc_info", {"((1208,1212),None)": {"seg_desc": ""}})
    assert said(read(root, models)[0]) == [("screw lid", "left", 0, 4), ("hold", "left", 0, 28)]


def test_without_primitives_the_complex_task_is_said(root, models):
    for name in ("program_info", "desc_info"):
        shutil.rmtree(root / "program" / name)
    assert said(read(root, models)[0]) == [("reach for the box; pick up the box", None, 0, 28)]
    (root / "program" / "task_target.json").unlink()
    (clip,) = read(root, models)
    assert (clip.instructions, clip.task) == ((), "")


@pytest.mark.parametrize(
    "key", ["__import__('os').system('true')", "((5, 4), None)", "(None, None)", "7", "((1,), None)", "x"]
)
def test_bad_intervals(root, models, key):
    program(root, "desc_info", {key: {"seg_desc": "x"}})
    (reject,) = read(root, models)
    assert reject.reason == Reason.BAD_LABEL
    assert key in reject.detail


@pytest.mark.parametrize(("name", "split"), [("train", "train"), ("val", "test"), ("test", "test"), ("all", "")])
def test_split_of_its_authors(root, models, name, split):
    key = oakink2.list_videos(root)[0].parent.name.replace("++", "/")
    (root / "split").mkdir()
    (root / "split" / f"{name}.txt").write_text(f"scene_01__A003/seq__e76b\n{key}\n")
    assert read(root, models)[0].split == split


# -- damage


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("echo broken into > /dev/null",)


class FakeTensor:
    """Pickled as a tensor whose storage is the given bytes."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        import torch

        return torch._utils._rebuild_tensor_v2, (FakeStorage(self.content), 0, (1, 3), (3, 1), False, OrderedDict())


class FakeStorage(FakeTensor):
    def __reduce__(self):
        import torch

        return torch.storage._load_from_bytes, (self.content,)


def with_nan(anno, name="rh__tsl"):
    anno["raw_mano"][1216][name][0, 1] = float("nan")


def mirrored(anno):
    anno["cam_extr"]["egocentric"][1216][0] *= -1


def zoomed(anno):
    anno["cam_intr"]["egocentric"] = {i: K * [[1 + k / 50], [1], [1]] for k, (i, K) in enumerate(anno["cam_intr"]["egocentric"].items())}  # fmt: skip


def of_another_size(anno):
    anno["cam_intr"]["egocentric"] = {i: K * [[5], [5], [1]] for i, K in anno["cam_intr"]["egocentric"].items()}


def with_code_in_a_tensor(anno):
    """The bytes of a tensor are a pickle of their own; they are read late, and refused like all else."""
    anno["raw_mano"][1216]["rh__tsl"] = FakeTensor(pickle.dumps(Evil(), 2))


DAMAGES = {
    "code in a tensor": (with_code_in_a_tensor, Reason.BAD_LABEL, "restricted loader"),
    "code": (lambda anno: anno.update(raw_mano=Evil()), Reason.BAD_LABEL, "system"),
    "nan": (with_nan, Reason.NAN_LABEL, "rh__tsl"),
    "no camera pose": (lambda anno: anno["cam_extr"]["egocentric"].pop(1216), Reason.MISSING_LABELS, "1216"),
    "no hands": (lambda anno: anno.pop("raw_mano"), Reason.MISSING_LABELS, "raw_mano"),
    "a mirror": (mirrored, Reason.BAD_LABEL, "rigid"),
    "no rotation": (lambda anno: anno["raw_mano"][1216]["lh__pose_coeffs"].zero_(), Reason.BAD_LABEL, "length 0"),
    "axis-angle": (lambda anno: anno["raw_mano"][1216].update(lh__pose_coeffs=np.zeros((1, 48))), Reason.BAD_LABEL, "(1, 48)"),
    "zoom": (zoomed, Reason.UNSUPPORTED_CAMERA, "change"),
    "another size": (of_another_size, Reason.UNSUPPORTED_CAMERA, "resized"),
    "backwards": (lambda anno: anno["frame_id_list"].reverse(), Reason.BAD_LABEL, "ascend"),
    "no image": (lambda anno: anno["frame_id_list"].insert(0, 1204), Reason.MISSING_LABELS, "1204"),
    "no names": (lambda anno: anno.pop("cam_def"), Reason.EMPTY_VIDEO, "camera"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_stops_nothing(root, truth, models, edit, damage):
    change, reason, says = DAMAGES[damage]
    edit(change)
    oakink2._camera_names.cache_clear()
    oakink2.write_example(root, replace(truth, name="zzz"))
    reject, clip = read(root, models)
    assert reject.reason == reason, reject
    assert says in reject.detail
    assert len(clip.hands) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "pickle"),
        (b"", "pickle"),
        (b"\x80\x05}", "pickle"),
    ],
)
def test_files_that_are_no_pickles(root, truth, models, anno_file, content, says):
    """What a failed fetch leaves; a Git LFS pointer is what OakInk2 itself had before 2024-12."""
    anno_file.write_bytes(content)
    oakink2.write_example(root, replace(truth, name="zzz"))
    reject, clip = read(root, models)
    assert (reject.reason, says in reject.detail) == (Reason.BAD_LABEL, True), reject
    assert len(clip.hands) == 2


def test_missing_files(root, truth, models, anno_file):
    video = oakink2.list_videos(root)[0]
    (video / "001216.png").unlink()
    (reject,) = read(root, models)
    assert (reject.reason, "6 of the 7" in reject.detail) == (Reason.FRAME_COUNT_MISMATCH, True)
    anno_file.unlink()
    (reject,) = read(root, models)
    assert reject.reason == Reason.MISSING_LABELS
    assert "anno_preview/" in reject.detail


def test_without_mano_files_it_says_what_to_do(root):
    (reject,) = read(root, None)
    assert (reject.reason, "MANO_LEFT.pkl" in reject.detail) == (Reason.MISSING_HAND_MODEL, True)


def test_a_broken_image_is_found_when_read(root, models):
    video = oakink2.list_videos(root)[0]
    (video / "001208.png").write_bytes(b"png")
    (reject,) = read(root, models)
    assert reject.reason == Reason.CORRUPT_VIDEO


def test_side_files_and_registration(root, anno_file):
    assert READERS["oakink2"] == "ops.sources.oakink2"
    (video,) = oakink2.list_videos(root)
    assert len(files_of(video)) == 7
    names = {path.relative_to(root).parts[0] for path in oakink2.side_files(video)}
    assert names == {"anno_preview", "program", "object_repair"}
    assert root / "object_repair" / "align_ds" / KEY / "model.obj" in oakink2.side_files(video)
    assert anno_file in oakink2.side_files(video)
    assert oakink2.side_files(video.parent) == oakink2.side_files(video)


def test_only_hands_of_image_frames_are_read(root, models, monkeypatch):
    """A sequence has some 100,000 tensors; those of the body and of frames between images stay bytes."""
    from ops.sources import safe_load

    read_tensors = []
    monkeypatch.setattr(
        safe_load, "_storage", lambda content, real=safe_load._storage: read_tensors.append(1) or real(content)
    )
    oakink2._read_labels.cache_clear()
    read(root, models)
    assert len(read_tensors) == 7 * 6


def test_the_shard_may_have_another_name(root, models):
    shard = ShardConfig("mine", "oakink2", str(root), hand_model=str(models))
    clip = oakink2.read_clip(oakink2.list_videos(root)[0], shard, RawVideosConfig())
    assert (clip.source, clip.clip_id.split("/")[0]) == ("mine", "mine")
