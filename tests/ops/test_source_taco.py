"""TACO: what its example says is what comes back, smplx's skinning says the same of the raw pickles, and the traps."""

import json
import pickle
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest

from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.rejects import Reason
from ops.sources import taco
from ops.sources.base import Instruction
from ops.sources.example import make_truth, seen_by
from ops.sources.manifest import READERS, files_of
from ops.video import write_video
from tests.ops.source_world import JOINTS16, assert_hands, in_openpose, skin_share, smplx_joints, without
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera(150.2, 151.7, 83.4, 61.9, 160, 120)
FIXED = PinholeCamera(290.0, 291.0, 159.0, 121.0, 320, 240)
TRIPLET = "(pour in some, cup, kettle)"
N = 12  # more than ten: unpadded frame keys sort wrongly from there on


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def truth(models):
    made = make_truth(models, CAMERA, num_frames=N, seed=5, name="20231019_033")
    cup = made.objects[0]
    shift = np.eye(4)
    shift[:3, 3] = [0.12, 0.05, 0.1]
    kettle = replace(cup, name="kettle", T_cam_obj=cup.T_cam_obj @ shift)
    text = (Instruction(0.0, N / 30, "use the cup on the kettle: pour in some"),)
    return replace(made, objects=(replace(cup, name="cup"), kettle), instructions=text)


@pytest.fixture
def root(tmp_path, truth):
    taco.write_example(tmp_path, truth)
    return tmp_path


@pytest.fixture
def seq():
    return f"{TRIPLET}/20231019_033"


def read(root, models, view=None):
    return list(taco.read_clips(root, view, models))


def raw_hand(root, seq, side):
    """Our own pickles."""
    folder = root / "Hand_Poses" / seq
    return [pickle.loads((folder / f"{side}_hand{end}.pkl").read_bytes()) for end in ("", "_shape")]


def put_hand(root, seq, side, labels):
    (root / "Hand_Poses" / seq / f"{side}_hand.pkl").write_bytes(pickle.dumps(labels))


def test_round_trip(root, truth, models, seq):
    (clip,) = read(root, models)
    assert (clip.clip_id, clip.view, clip.kind, clip.split) == (f"taco/{seq}/ego", "ego", "taco", "")
    assert (clip.num_frames, clip.fps, clip.intrinsics) == (N, pytest.approx(30), "given")
    assert (clip.licence, clip.noncommercial, clip.redistributable) == ("CC BY 4.0", False, True)
    assert_hands(clip, truth, 3e-7)  # float32 tensors
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-12)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-12)
    for frame, image in enumerate(clip.frames()):
        assert np.abs(image.rgb.astype(float) - truth.rgb[frame]).mean() < 3  # H.264
        np.testing.assert_allclose(clip.depth_m(frame), truth.depth_m[frame], atol=0.125e-3 + 1e-7)  # quarter mm
    for thing, known in zip(clip.objects, truth.objects, strict=True):
        assert thing.name == known.name
        np.testing.assert_allclose(thing.T_cam_obj, known.T_cam_obj, atol=1e-12)
        np.testing.assert_allclose(thing.position_cam, known.T_cam_obj[:, :3, 3], atol=1e-9)
    np.testing.assert_allclose(clip.objects[0].boxes_px, truth.objects[0].boxes_px, atol=1e-9)  # meshes in centimetres
    assert [(i.start_s, i.text, i.side) for i in clip.instructions] == [(0, truth.instructions[0].text, None)]
    assert clip.instructions[0].end_s == pytest.approx(N / 30)


@pytest.mark.parametrize("seed", range(4))
def test_any_hands_and_cameras(tmp_path, models, seed):
    rng = np.random.default_rng(seed)
    camera = PinholeCamera(*rng.uniform(120, 200, 2), *rng.uniform(50, 70, 2), 120, 120)
    sides = (("left", "right"), ("left",), ("right",), ("left", "right"))[seed]
    truth = make_truth(models, camera, num_frames=3, sides=sides, moving=seed != 3, seed=50 + seed)
    taco.write_example(tmp_path, truth)
    (clip,) = read(tmp_path, models)
    assert_hands(clip, truth, 1e-6)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-9)
    np.testing.assert_allclose(clip.camera.K, camera.K, atol=1e-9)
    np.testing.assert_allclose(clip.depth_m(1), truth.depth_m[1], atol=0.125e-3 + 1e-7)


def test_manopths_formula_gives_the_pixels(root, truth, models, seq):
    """Raw pickles -> smplx's skinning, joints - J0 + hand_trans -> world-to-camera -> K -> skin in the decoded video.

    hand_joints.npy, which TACO's authors computed, is left then right and starts at hand_trans.
    """
    parameters = root / "Egocentric_Camera_Parameters" / seq
    T, K = np.load(parameters / "egocentric_frame_extrinsic.npy"), np.loadtxt(parameters / "egocentric_intrinsic.txt")
    released = np.load(root / "Hand_Poses" / seq / "hand_joints.npy")
    assert (T.shape, K.shape, released.shape) == ((N, 4, 4), (3, 3), (N, 2, 21, 3))
    (clip,) = read(root, models)
    images = [frame.rgb for frame in clip.frames()]
    for k, side in enumerate(("left", "right")):
        labels, shape = raw_hand(root, seq, side)
        assert sorted(labels) == [f"{frame + 1:05d}" for frame in range(N)]
        pose, trans = (
            np.stack([labels[key][n].numpy() for key in sorted(labels)]) for n in ("hand_pose", "hand_trans")
        )
        rotmats = transforms.rotvec_to_rotmat(pose.reshape(-1, 16, 3))
        joints = smplx_joints(side, rotmats, np.tile(shape["hand_shape"].numpy().astype(float), (N, 1)))
        in_world = in_openpose(joints - joints[:, :1] + trans[:, None])
        np.testing.assert_allclose(in_world, released[:, k, JOINTS16], atol=1e-6)
        in_camera = np.einsum("nij,nkj->nki", T[:, :3, :3], in_world) + T[:, None, :3, 3]
        np.testing.assert_allclose(in_camera, truth.joints_cam[side][:, JOINTS16], atol=1e-6)
        px = (in_camera @ K.T)[..., :2] / in_camera[..., 2:] + 0.5  # OpenCV counts pixel centres from 0
        assert np.mean([skin_share(image, at, side) for image, at in zip(images, px, strict=True)]) > 0.9
        found = clip.hands[side]
        again = truth.models[side].joints(found.theta, found.r, found.tau, found.beta)[:, JOINTS16]
        np.testing.assert_allclose(again, in_camera, atol=1e-6)


def test_extrinsics_are_world_to_camera(root, models, seq):
    """The cup stands in the world; with the raw matrices read the other way it would not."""
    T = np.load(root / "Egocentric_Camera_Parameters" / seq / "egocentric_frame_extrinsic.npy")
    cup = read(root, models)[0].objects[0].position_cam
    assert np.ptp(transforms.apply(transforms.invert(T), cup), axis=0).max() < 1e-9
    assert np.ptp(transforms.apply(T, cup), axis=0).max() > 0.01


def test_depth_is_where_the_hands_are(root, truth, models, seq):
    """1/4000 m: a joint's pixel is about as far as the joint; frame k of a file that says 15 fps is frame k of 30."""
    path = root / "Egocentric_Depth_Videos" / seq / "egocentric_depth.avi"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == ("ffv1", "gray16le", 15.0)
        raw = [frame.to_ndarray() for frame in container.decode(stream)]
    (clip,) = read(root, models)
    assert list(clip.depth.frames) == list(range(N))
    ratios = []
    for frame in (0, 5, N - 1):
        joints = truth.joints_cam["right"][frame]
        u, v = np.floor(clip.camera.project(joints)).astype(int).T
        ratios.extend(clip.depth_m(frame)[v, u] / joints[:, 2])
        np.testing.assert_allclose(clip.depth_m(frame), raw[frame] / 4000.0, atol=1e-6)
    assert 0.9 < np.median(ratios) < 1.1


def test_fixed_cameras(tmp_path, truth, models, seq):
    """Calibrated at imgSize, their videos may be smaller; no depth; the same hands."""
    T = transforms.make(transforms.rotvec_to_rotmat(np.array([0.1, 0.4, 0.2])), [0.1, 0.0, 0.3]) @ truth.T_cam_world[0]
    fixed = seen_by(truth, FIXED, np.tile(T, (N, 1, 1)))
    taco.write_example(tmp_path, truth, {"22139908": fixed})
    for view in ("22139908", "marker_removed_22139908"):
        (clip,) = read(tmp_path, models, view)
        assert (clip.clip_id, clip.view, clip.depth) == (f"taco/{seq}/{view}", view, None)
        assert_hands(clip, fixed, 3e-7)
        np.testing.assert_allclose(clip.camera.K, FIXED.K, atol=1e-9)
        np.testing.assert_allclose(clip.T_cam_world, fixed.T_cam_world, atol=1e-12)
        assert "calibration.json" in {path.name for path in taco.side_files(clip.video)}
    path = tmp_path / "Allocentric_RGB_Videos" / seq / "22139908.mp4"
    write_video(path, fixed.rgb[:, ::2, ::2], 30)
    assert read(tmp_path, models, "22139908")[0].camera == FIXED.resized(160, 120)
    write_video(path, fixed.rgb[:, :120], 30)
    assert read(tmp_path, models, "22139908")[0].reason == Reason.UNSUPPORTED_CAMERA
    assert [clip.view for clip in read(tmp_path, models)] == ["ego"]
    with pytest.raises(ValueError, match="serial"):
        taco.list_videos(tmp_path, "top")


# -- hands


def test_unpadded_frame_keys_come_in_order(root, truth, models, seq):
    """ "10" comes before "2" as a text."""
    for side in ("left", "right"):
        labels, _ = raw_hand(root, seq, side)
        put_hand(root, seq, side, {str(int(key)): labels[key] for key in reversed(sorted(labels))})
    assert_hands(read(root, models)[0], truth, 3e-7)


def test_tensors_of_any_make(root, truth, models, seq):
    """Fitting leaves parameters, gradients, batch axes and other dtypes behind; none may matter, none is executed."""
    import torch

    labels, _ = raw_hand(root, seq, "right")
    for k, label in enumerate(labels.values()):
        pose = label["hand_pose"]
        kinds = (
            pose.double().requires_grad_(),
            torch.nn.Parameter(pose),
            pose[None],
            pose.numpy(),
            torch.stack([pose, -pose], 1)[:, 0],
        )
        label["hand_pose"] = kinds[k % len(kinds)]
    put_hand(root, seq, "right", labels)
    assert_hands(read(root, models)[0], truth, 3e-7)


class Pickled:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def on_a_gpu(tensor):
    """Pickled as a tensor that lies on the first GPU: the same bytes but for the name of the device."""
    rebuild, (storage, *rest) = tensor.clone().__reduce_ex__(2)
    load, (content,) = storage.__reduce__()
    cpu, gpu = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    assert content.count(cpu) == 1
    return Pickled(rebuild, Pickled(load, content.replace(cpu, gpu)), *rest)


def test_tensors_from_a_gpu(root, truth, models, seq):
    labels, _ = raw_hand(root, seq, "right")
    put_hand(root, seq, "right", {k: {n: on_a_gpu(v) for n, v in label.items()} for k, label in labels.items()})
    assert b"cuda:0" in (root / "Hand_Poses" / seq / "right_hand.pkl").read_bytes()
    assert_hands(read(root, models)[0], truth, 3e-7)


def test_released_joints_check_the_labels(root, truth, models, seq):
    """In the image of either camera; the released ones are no second label."""
    (clip,) = read(root, models)
    assert clip.joints == {}
    for side, px in clip.published_px.items():
        expected = CAMERA.project(truth.joints_cam[side])
        np.testing.assert_allclose(px[:, JOINTS16], expected[:, JOINTS16], atol=1e-6)
    (root / "Hand_Poses" / seq / "hand_joints.npy").unlink()
    assert read(root, models)[0].published_px == {}


def test_a_missing_shape_is_zeros(root, models, seq):
    (root / "Hand_Poses" / seq / "left_hand_shape.pkl").unlink()
    (clip,) = read(root, models)
    assert np.abs(clip.hands["left"].beta).max() == 0
    assert np.abs(clip.hands["right"].beta).max() > 0.1


def test_one_hand(tmp_path, truth, models):
    taco.write_example(tmp_path, without(truth, "left"))
    assert_hands(read(tmp_path, models)[0], without(truth, "left"), 3e-7)


def test_without_mano_files_the_released_joints_are_given(root, truth, seq):
    (clip,) = read(root, None)
    assert (clip.hands, clip.hand_model) == ({}, None)
    for side in ("left", "right"):
        found, known = clip.joints[side].joints_cam, truth.joints_cam[side]
        np.testing.assert_allclose(found[:, JOINTS16], known[:, JOINTS16], atol=1e-9)
        tips = np.linalg.norm(found - known, axis=-1)[:, [4, 8, 12, 16, 20]]
        assert 0 < tips.max() < 0.15  # manopth's vertices for fingertips; far apart only on a toy hand
        assert clip.joints[side].valid.all()
    (root / "Hand_Poses" / seq / "hand_joints.npy").unlink()
    (reject,) = read(root, None)
    assert (reject.reason, "MANO_LEFT.pkl" in reject.detail) == (Reason.MISSING_HAND_MODEL, True)


# -- text, objects, lists


@pytest.mark.parametrize(
    ("folder", "text"),
    [("(stir-fry, spoon, pan)", "use the spoon on the pan: stir-fry"), ("(empty, bowl, plate)", "use the bowl on the plate: empty"),
     ("(put out, spatula, bowl)", "use the spatula on the bowl: put out")],
)  # fmt: skip
def test_triplets(root, models, folder, text):
    for top in list(root.iterdir()):
        if (top / TRIPLET).exists():
            (top / TRIPLET).rename(top / folder)
    (clip,) = read(root, models)
    assert clip.instructions[0].text == text
    assert [thing.name in text for thing in clip.objects] == [True, True]


@pytest.mark.parametrize("folder", ["object_models_released", "Object_Models/object_models_released", "nowhere"])
def test_meshes_elsewhere(root, truth, models, folder):
    (root / "Object_Models").rename(root / "meshes")
    (root / folder).parent.mkdir(exist_ok=True)
    (root / "meshes").rename(root / folder)
    (clip,) = read(root, models)
    np.testing.assert_allclose(clip.objects[1].T_cam_obj, truth.objects[1].T_cam_obj, atol=1e-12)
    assert clip.objects[0].visible.all() == (folder != "nowhere")
    assert (clip.objects[0].position_cam is None) == (folder == "nowhere")
    assert clip.object_names == (("cup", "kettle") if folder == "nowhere" else ())


@pytest.mark.parametrize(("named", "split"), [("train", "train"), ("test_1", "test"), ("test_4", "test"), (None, "")])
@pytest.mark.parametrize("folder", [".", "data_lists"])
def test_official_splits(root, models, folder, named, split):
    (root / folder).mkdir(exist_ok=True)
    lines = ["20231019_032,test_1", *([f"20231019_033,{named}"] if named else []), "20231019_034,train"]
    path = root / folder / "v1_overall_data_train_test_split.txt"
    path.write_text("\n".join(lines))
    (clip,) = read(root, models)
    assert clip.split == split
    assert path in [side.resolve() for side in taco.side_files(clip.video)] or path.resolve() in taco.side_files(
        clip.video
    )


def test_known_bad_sequences(tmp_path, truth, models):
    said = (Instruction(0, 1, "use the brush on the bowl: brush"),)
    taco.write_example(tmp_path, replace(truth, name="20230919_036", instructions=said), {"22139908": truth})
    taco.write_example(tmp_path, replace(truth, name="20230919_037", instructions=said))
    bad, good = read(tmp_path, models)
    assert (bad.reason, "extrinsics are wrong" in bad.detail) == (Reason.KNOWN_BAD_CLIP, True)
    assert good.num_frames == N
    assert read(tmp_path, models, "22139908")[0].num_frames == N  # only its ego camera is wrong


def test_the_official_list_of_usable_ego_data(root, models):
    (root / "data_lists").mkdir()
    path = root / "data_lists" / "v1_egocentric_data_available_sequences.txt"
    path.write_text(f"(dust, roller, pan) 20230927_032\n{TRIPLET} 20231019_033\n")
    assert read(root, models)[0].num_frames == N
    path.write_text("(dust, roller, pan) 20230927_032\n")
    (reject,) = read(root, models)
    assert reject.reason == Reason.KNOWN_BAD_CLIP


def test_a_sequence_without_ego_video_is_listed(root, truth, models, seq):
    taco.write_example(root, replace(truth, name="20231019_035"))
    shutil.rmtree(root / "Egocentric_RGB_Videos" / seq)
    missing, clip = sorted(read(root, models), key=lambda item: hasattr(item, "clip_id"))
    assert (missing.reason, missing.item) == (Reason.EMPTY_VIDEO, f"Hand_Poses/{seq}")
    assert clip.num_frames == N
    assert all(
        path.exists() for video in taco.list_videos(root) for path in [*files_of(video), *taco.side_files(video)]
    )


# -- damage


def shorten(root, name, by=1):
    path = next(root.glob(f"*/*/*/{name}"))
    np.save(path, np.load(path)[:-by])


def change(root, name, act):
    path = next(root.glob(f"*/*/*/{name}"))
    values = np.load(path)
    act(values)
    np.save(path, values)


def change_hand(root, act):
    seq = f"{TRIPLET}/20231019_033"
    labels, _ = raw_hand(root, seq, "left")
    act(labels)
    put_hand(root, seq, "left", labels)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("echo broken into > /dev/null",)


def resize(root):
    path = next(root.glob("Egocentric_RGB_Videos/*/*/color.mp4"))
    write_video(path, [np.zeros((60, 80, 3), np.uint8)] * N, 30)


def shorter_video(root):
    path = next(root.glob("Egocentric_RGB_Videos/*/*/color.mp4"))
    write_video(path, [np.zeros((120, 160, 3), np.uint8)] * (N - 2), 30)


DAMAGES = {
    "video lost frames": (shorter_video, Reason.FRAME_COUNT_MISMATCH, "12 frames, the video 10"),
    "extrinsics lost frames": (lambda r: shorten(r, "egocentric_frame_extrinsic.npy"), Reason.FRAME_COUNT_MISMATCH, "11 frames, the video 12"),
    "object lost frames": (lambda r: shorten(r, "tool_001.npy"), Reason.FRAME_COUNT_MISMATCH, "tool_001.npy has 11"),
    "hand lost frames": (lambda r: change_hand(r, lambda h: h.pop("00012")), Reason.FRAME_COUNT_MISMATCH, "left_hand.pkl has 11"),
    "hand skips a frame": (lambda r: change_hand(r, lambda h: h.update({"00013": h.pop("00004")})), Reason.BAD_LABEL, "leaves out"),
    "depth lost frames": (lambda r: taco._write_depth(_fresh(r), np.ones((N - 1, 120, 160))), Reason.FRAME_COUNT_MISMATCH, "depth"),
    "depth at half rate": (lambda r: taco._write_depth(_fresh(r), np.ones((N // 2, 120, 160))), Reason.FRAME_COUNT_MISMATCH, "6 frames"),
    "no depth video": (lambda r: _fresh(r).parent.mkdir() or next(r.glob("Egocentric_Depth_Videos/*/*")).joinpath("egocentric_depth.avi").write_bytes(b"avi"), Reason.BAD_SIDE_FILE, "depth"),
    "nan in extrinsics": (lambda r: change(r, "egocentric_frame_extrinsic.npy", lambda v: v.__setitem__((3, 0, 0), np.nan)), Reason.NAN_LABEL, "extrinsic"),
    "nan in hand": (lambda r: change_hand(r, lambda h: h["00003"]["hand_pose"].fill_(float("nan"))), Reason.NAN_LABEL, "hand_pose"),
    "nan in object": (lambda r: change(r, "target_002.npy", lambda v: v.__setitem__((3, 0, 0), np.nan)), Reason.NAN_LABEL, "target_002"),
    "scaled extrinsics": (lambda r: change(r, "egocentric_frame_extrinsic.npy", lambda v: v.__imul__(2)), Reason.BAD_LABEL, "rigid"),
    "PCA pose": (lambda r: change_hand(r, lambda h: h["00003"].update(hand_pose=np.zeros(33))), Reason.BAD_LABEL, "(33,)"),
    "no pose": (lambda r: change_hand(r, lambda h: h["00003"].pop("hand_pose")), Reason.BAD_LABEL, "no hand_pose"),
    "named keys": (lambda r: change_hand(r, lambda h: h.update(meta=h.pop("00003"))), Reason.BAD_LABEL, "frame numbers"),
    "code": (lambda r: change_hand(r, lambda h: h.update({"00003": Evil()})), Reason.BAD_LABEL, "system"),
    "no pickle": (lambda r: next(r.glob("Hand_Poses/*/*/left_hand.pkl")).write_bytes(b"<html>"), Reason.BAD_LABEL, "pickle"),
    "no hands": (lambda r: [p.unlink() for p in r.glob("Hand_Poses/*/*/*_hand.pkl")], Reason.MISSING_LABELS, "right_hand.pkl"),
    "no extrinsics": (lambda r: next(r.glob("*/*/*/egocentric_frame_extrinsic.npy")).unlink(), Reason.MISSING_LABELS, "extrinsic"),
    "pickled extrinsics": (lambda r: np.save(next(r.glob("*/*/*/egocentric_frame_extrinsic.npy")), np.array([Evil()])), Reason.BAD_LABEL, "npy"),
    "no intrinsics": (lambda r: next(r.glob("*/*/*/egocentric_intrinsic.txt")).unlink(), Reason.MISSING_SIDE_FILE, "intrinsic"),
    "bad intrinsics": (lambda r: next(r.glob("*/*/*/egocentric_intrinsic.txt")).write_text("1 2 three"), Reason.BAD_LABEL, "three"),
    "a resized copy": (resize, Reason.UNSUPPORTED_CAMERA, "resized"),
    "no video": (lambda r: next(r.glob("Egocentric_RGB_Videos/*/*/color.mp4")).write_bytes(b"mp4"), Reason.CORRUPT_VIDEO, "color.mp4"),
    "empty video": (lambda r: next(r.glob("Egocentric_RGB_Videos/*/*/color.mp4")).write_bytes(b""), Reason.EMPTY_VIDEO, "color.mp4"),
    "bad mesh": (lambda r: (r / "Object_Models/001_cm.obj").write_text("v 1 2\n"), Reason.BAD_SIDE_FILE, "001_cm.obj"),
}  # fmt: skip


def _fresh(root):
    path = next(root.glob("Egocentric_Depth_Videos/*/*/egocentric_depth.avi"))
    shutil.rmtree(path.parent)
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_stops_nothing(root, truth, models, damage):
    act, reason, says = DAMAGES[damage]
    act(root)
    said = (Instruction(0, 1, "use the spoon on the bowl: stir"),)
    taco.write_example(root, replace(truth, name="20231019_099", instructions=said))
    if damage == "bad mesh":
        (root / "Object_Models" / "001_cm.obj").write_text("v 1 2\n")  # both sequences have this tool
        assert {item.reason for item in read(root, models)} == {reason}
        return
    reject, clip = read(root, models)
    assert reject.reason == reason, reject
    assert says in reject.detail
    assert clip.clip_id == "taco/(stir, spoon, bowl)/20231019_099/ego"


def test_fixed_cameras_need_their_calibration(tmp_path, truth, models, seq):
    taco.write_example(tmp_path, truth, {"22139908": truth})
    path = tmp_path / "Allocentric_Camera_Parameters" / seq / "calibration.json"
    calibration = json.loads(path.read_text())
    for content, reason in (({"1": {}}, Reason.BAD_LABEL), ({"22139908": {"K": [1]}}, Reason.BAD_LABEL),
                            ({"22139908": calibration["22139908"] | {"R": [2.0] * 9}}, Reason.BAD_LABEL)):  # fmt: skip
        path.write_text(json.dumps(content))
        assert read(tmp_path, models, "22139908")[0].reason == reason
    path.unlink()
    assert read(tmp_path, models, "22139908")[0].reason == Reason.MISSING_SIDE_FILE


def test_without_depth(root, models):
    shutil.rmtree(root / "Egocentric_Depth_Videos")
    (clip,) = read(root, models)
    assert (clip.depth, clip.has_depth) == (None, False)


def test_side_files_and_registration(root, seq):
    assert READERS["taco"] == "ops.sources.taco"
    (video,) = taco.list_videos(root)
    assert files_of(video) == [video]
    names = {path.name for path in taco.side_files(video)}
    assert names == {"egocentric_intrinsic.txt", "egocentric_frame_extrinsic.npy", "egocentric_depth.avi", "hand_joints.npy",
                     "left_hand.pkl", "left_hand_shape.pkl", "right_hand.pkl", "right_hand_shape.pkl", "tool_001.npy",
                     "target_002.npy", "001_cm.obj", "002_cm.obj"}  # fmt: skip
