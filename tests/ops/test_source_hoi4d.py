"""HOI4D: what its example says is what comes back, smplx says the same of the raw pickles, and every trap is stepped into."""

import json
import pickle
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ops.config import Config, ShardConfig, TrainConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.conventions import joints_of_convention
from ops.pipeline import run_stage
from ops.rejects import Reason, Reject
from ops.sources import hoi4d, manifest
from ops.sources.base import Clip
from ops.sources.example import make_truth
from ops.sources.grey_video import write_grey_video
from ops.sources.manifest import READERS
from ops.video import write_video
from tests.ops import py2_pickle
from tests.ops.source_world import JOINTS16, assert_hands, in_openpose, skin_share, smplx_joints, unlabelled, without
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera(265.1, 265.4, 242.9, 130.9, 480, 270)
SEQ = "ZY20210800001/H1/C5/N01/S1/s1/T1"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def truth(models):
    return make_truth(models, CAMERA, num_frames=6, fps=15.0, seed=5)


@pytest.fixture(scope="module")
def written(tmp_path_factory, truth):
    root = tmp_path_factory.mktemp("hoi4d")
    hoi4d.write_example(root, truth)
    return root


@pytest.fixture
def root(tmp_path, written):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def notes(root):
    return root / "HOI4D_annotations" / SEQ


@pytest.fixture
def hands(root):
    return root / "handpose" / "refinehandpose_right" / SEQ


def read(root, models) -> list[Clip | Reject]:
    return list(hoi4d.read_clips(root, hand_model=models))


def clip_of(root, models) -> Clip:
    (clip,) = read(root, models)
    assert isinstance(clip, Clip), clip
    return clip


def reject_of(root, models) -> Reject:
    (reject,) = read(root, models)
    assert isinstance(reject, Reject)
    return reject


def test_round_trip(root, truth, models):
    clip = clip_of(root, models)
    assert (clip.clip_id, clip.kind) == (f"hoi4d/HOI4D_release/{SEQ}/align_rgb/image", "hoi4d")
    assert (clip.num_frames, clip.fps, clip.intrinsics) == (6, pytest.approx(15.0), "given")
    assert (clip.subject, clip.view, clip.object_names) == ("H1", "", ("bottle",))
    assert (clip.noncommercial, clip.redistributable, clip.hand_model) == (True, False, models)
    assert_hands(clip, truth, 1e-9)  # float64 on disk
    np.testing.assert_allclose(clip.times_s, np.arange(6) / 15, atol=1e-6)
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-9)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-9)
    for frame in clip.frames():
        assert np.abs(frame.rgb.astype(int) - truth.rgb[frame.index]).mean() < 2  # H.264
        np.testing.assert_allclose(clip.depth_m(frame.index), truth.depth_m[frame.index], atol=0.5001e-3)  # whole mm
        for side, joints in truth.joints_cam.items():
            px = clip.camera.project(joints[frame.index, JOINTS16])
            assert skin_share(frame.rgb, px, side) > 0.85
    assert READERS["hoi4d"] == "ops.sources.hoi4d"


def test_one_hand_with_a_gap(tmp_path, truth, models):
    """A missing pickle is a frame without a hand; finite numbers stand there all the same."""
    one = unlabelled(without(truth, "left"), "right", [2, 3])
    hoi4d.write_example(tmp_path, one)
    clip = clip_of(tmp_path, models)
    assert_hands(clip, one, 1e-9)
    assert clip.hands["right"].valid.tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize("side", ["left", "right"])
def test_smplx_of_the_raw_pickles_gives_the_published_pixels(root, truth, models, side):
    """Second way: the official lines (layer(poseCoeff, beta) + trans, K) against kps2D and against the reader."""
    folder = root / "handpose" / f"refinehandpose_{side}" / SEQ
    labels = [pickle.loads((folder / f"{k}.pickle").read_bytes()) for k in range(6)]
    pose, beta = (np.stack([label[key] for label in labels]) for key in ("poseCoeff", "beta"))
    trans = np.stack([label["trans"] for label in labels])
    rotmats = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(-1, 16, 3, 3)
    joints = in_openpose(smplx_joints(side, rotmats, beta) + trans[:, None])
    K = np.load(root / "camera_params" / "ZY20210800001" / "intrin.npy")
    px = joints @ K.T
    published = np.stack([label["kps2D"] for label in labels])[:, JOINTS16]
    np.testing.assert_allclose(px[..., :2] / px[..., 2:], published, atol=1e-6)
    hand = clip_of(root, models).hands[side]
    ours = truth.models[side].joints(hand.theta, hand.r, hand.tau, hand.beta)[:, JOINTS16]
    np.testing.assert_allclose(ours, joints, atol=1e-9)
    assert (np.linalg.norm(hand.tau - trans, axis=1) > 0.08).all()  # trans is not the wrist


def test_published_pixels_have_manopths_tips(tmp_path, truth, models):
    """kps2D counts pixel centres from 0 at 1920 x 1080; the clip has continuous pixels of its own size."""
    gap = unlabelled(truth, "right", [2])
    hoi4d.write_example(tmp_path, gap)
    clip = clip_of(tmp_path, models)
    for side, hand in clip.hands.items():
        args = (truth.models[side], hand.theta, hand.r, hand.tau, hand.beta)
        px, valid = clip.published_px[side], hand.valid
        of_manopth = clip.camera.project(joints_of_convention(*args, "manopth"))
        np.testing.assert_allclose(of_manopth[valid], px[valid], atol=0.01)
        of_smplx = clip.camera.project(joints_of_convention(*args, "smplx"))
        assert np.abs(of_smplx - px)[valid].max() > 0.5
        np.testing.assert_array_equal(np.isnan(px).all(axis=(1, 2)), ~valid)


def test_pickles_of_python_2(root, truth, models, hands):
    for path in hands.iterdir():
        path.write_bytes(py2_pickle.dumps(pickle.loads(path.read_bytes())))
    assert b"_codecs" not in path.read_bytes()
    assert_hands(clip_of(root, models), truth, 1e-9)


@pytest.mark.parametrize("name", ["refinehandpose", "Refinehandpose"])
@pytest.mark.parametrize("digits", [1, 5])
def test_names_that_copies_change(root, truth, models, hands, name, digits):
    moved = root / "handpose" / f"{name}_right" / SEQ
    files = {path.stem: path.read_bytes() for path in hands.iterdir()}
    shutil.rmtree(root / "handpose" / "refinehandpose_right")
    moved.mkdir(parents=True)
    for stem, content in files.items():
        (moved / f"{int(stem):0{digits}d}.pickle").write_bytes(content)
    assert_hands(clip_of(root, models), truth, 1e-9)


def test_sequences_without_hands_are_kept(root, models):
    """Many have no pickle. Without the whole folder the labels were not fetched: that is another matter."""
    for side in ("left", "right"):
        shutil.rmtree(root / "handpose" / f"refinehandpose_{side}")
    clip = clip_of(root, models)
    assert (clip.hands, clip.hand_model, clip.has_labels) == ({}, None, False)
    assert clip_of(root, None).has_depth  # nor does it need MANO
    (root / "handpose").rmdir()
    reject = reject_of(root, models)
    assert reject.reason == Reason.MISSING_LABELS
    assert "handpose/" in reject.detail


def test_output_log_is_camera_to_world(root, notes, truth, models):
    """The object stands: back-projected depth of its middle stays put in the world; inverted it would fly."""
    clip = clip_of(root, models)
    rows = (notes / "3Dseg" / "output.log").read_text().splitlines()
    raw = np.array([[row.split() for row in rows[5 * k + 1 : 5 * k + 5]] for k in range(6)], float)
    np.testing.assert_allclose(clip.T_cam_world @ raw, np.tile(np.eye(4), (6, 1, 1)), atol=1e-9)
    found, wrong = [], []
    for frame in range(6):
        px = clip.objects[0].boxes_px[frame].reshape(2, 2).mean(axis=0)
        depth_m = clip.depth_m(frame)[int(px[1]), int(px[0])]
        point = clip.camera.unproject(clip.camera.project(truth.objects[0].position_cam[frame]), depth_m)
        found.append(transforms.apply(raw[frame], point))
        wrong.append(transforms.apply(np.linalg.inv(raw[frame]), point))
    assert np.ptp(found, axis=0).max() < 2e-3
    assert np.ptp(wrong, axis=0).max() > 0.02
    (notes / "3Dseg" / "output.log").unlink()
    assert clip_of(root, models).T_cam_world is None


def test_parts_of_objects(root, notes, truth, models):
    """Real file of a bucket: two parts; centre in metres, Euler angles X then Y then Z about the turned axes."""
    for frame in (0, 1, 2, 4):
        part = {
            "center": {"x": -0.0468, "y": -0.0791, "z": 0.6777},
            "rotation": {"x": 3.1285, "y": 0.4901, "z": -1.1192},
        }
        other = {
            "center": {"x": -0.1854, "y": -0.0508, "z": 0.8215},
            "rotation": {"x": 2.7743, "y": 0.9061, "z": -0.862},
        }
        sizes = {"dimensions": {"height": 0.1987, "length": 0.2631, "width": 0.0179}}
        entries = [{"id": 2, "label": "Buckethandle", **part, **sizes}, {"id": 3, "label": "bucket", **other, **sizes}]
        content = {"frameId": 28, "isEffective": int(frame != 4), "objects" if frame == 1 else "dataList": entries}
        text = repr(content) if frame == 2 else json.dumps(content)  # the official reader evaluates Python
        (notes / "objpose" / f"{frame}.json").unlink()
        (notes / "objpose" / f"{frame:05d}.json").write_text(text)
    handle, box, bucket = clip_of(root, models).objects
    assert (handle.name, bucket.name, box.name) == ("Buckethandle", "bucket", "box")
    a, b, c = 3.1285, 0.4901, -1.1192
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    for frame in range(3):
        np.testing.assert_allclose(handle.T_cam_obj[frame, :3, :3], x @ y @ z, atol=1e-12)
        np.testing.assert_allclose(handle.position_cam[frame], [-0.0468, -0.0791, 0.6777])
    ends = np.array([[-0.2631, -0.0179, -0.1987], [0.2631, 0.0179, 0.1987]]) / 2
    corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), -1).reshape(-1, 3) @ (x @ y @ z).T + [
        -0.0468,
        -0.0791,
        0.6777,
    ]
    px = CAMERA.project(corners)
    expected = [*px.min(axis=0).clip(0), *px.max(axis=0).clip(max=[480, 270])]
    np.testing.assert_allclose(handle.boxes_px[0], expected, atol=1e-9)
    assert handle.visible.tolist() == [True, True, True, False, False, False]
    assert box.visible.tolist() == [False, False, False, True, False, True]
    np.testing.assert_allclose(box.T_cam_obj[3], truth.objects[0].T_cam_obj[3], atol=1e-9)
    assert np.isnan(box.T_cam_obj[0]).all()


def test_two_parts_of_one_label(root, notes, models):
    entry = json.loads((notes / "objpose" / "0.json").read_text())
    entry["dataList"] *= 2
    (notes / "objpose" / "0.json").write_text(json.dumps(entry))
    assert [thing.name for thing in clip_of(root, models).objects] == ["box", "box 2"]


@pytest.mark.parametrize("second", [False, True])
def test_both_schemas_of_events(tmp_path, truth, models, second):
    hoi4d.write_example(tmp_path, truth, second_schema=second)
    task, event = clip_of(tmp_path, models).instructions
    assert (task.text, task.start_s, task.end_s) == ("Pick and place the bottle", 0.0, pytest.approx(0.4))
    assert (event.text, event.start_s, event.end_s) == ("pick up the bottle", 0.0, pytest.approx(0.4))


@pytest.mark.parametrize(
    ("info", "last", "expected_s"),
    [
        ({"duration": 20}, 20.0, 0.2),  # half of the clock is half of the video, whatever the clock
        ({"duration": 10}, 10.0, 0.2),
        ({"Duration": "10"}, 9.6, 0.2),
        ({}, 9.2, 5 / 10 * 0.4),  # said nowhere: the last event ends nearer to 10 s
        ({}, 18.0, 5 / 20 * 0.4),
        (None, 18.0, 5 / 20 * 0.4),
    ],
)
def test_clocks_of_events(root, notes, models, info, last, expected_s):
    half = 10.0 if info and info.get("duration") == 20 else 5.0
    events = [("rest", 0, half), ("turn&on&the&switch", half, last), ("Carrywithbothhands", last, last)]
    marks = [{"id": k, "event": e, "startTime": a, "endTime": b} for k, (e, a, b) in enumerate(events)]
    (notes / "action" / "color.json").write_text(json.dumps({"info": info, "events": marks}))
    _, rest, switch = clip_of(root, models).instructions
    assert (rest.text, switch.text) == ("rest", "turn on the switch of the bottle")  # no third: it takes no time
    assert rest.end_s == switch.start_s == pytest.approx(expected_s)


def test_events_that_are_not_there(root, notes, models):
    """One published file is empty."""
    for content in (b"", None):
        path = notes / "action" / "color.json"
        path.unlink() if content is None else path.write_bytes(content)
        assert [said.text for said in clip_of(root, models).instructions] == ["Pick and place the bottle"]


def test_every_task_names_its_object():
    """All 56 tasks of the table; texts without the object's name are its own words."""
    texts = {}
    for row in hoi4d.TASKS.splitlines():
        code, name, *tasks = row.split(",")
        for k in range(len(tasks)):
            texts[code, k + 1] = hoi4d._task(f"ZY20210800003/H4/{code}/N33/S210/s02/T{k + 1}")
            assert texts[code, k + 1][0] == name
    assert len(texts) == 56
    assert texts["C5", 2] == ("bottle", "Pour all the water into a mug")
    assert texts["C2", 2] == ("mug", "Put the mug in the drawer")
    assert texts["C2", 4] == ("mug", "Fill the mug with water by a kettle")
    assert texts["C2", 6] == ("mug", "Pick and place the mug (with water)")
    assert texts["C6", 3] == ("safe", "Take something out of the safe")
    assert texts["C14", 1] == ("trash can", "Open and close the trash can")
    assert texts["C17", 3] == ("lamp", "Turn on and turn off the lamp")
    assert texts["C20", 4] == ("chair", "Pick and place the chair to a new position")
    assert texts["C4", 1] == ("storage furniture", "Open and close the drawer")
    assert not [text for _, text in texts.values() if re.search(r"\bit\b", text)]


def test_splits(root, models):
    assert clip_of(root, models).split == ""  # drawn by name where its lists are not there
    (root / "testset.txt").write_text("ZY20210800001/H1/C5/N01/S1/s1/T2\n")
    (root / "release.txt").write_text(f"{SEQ}\n")
    assert clip_of(root, models).split == "train"
    (root / "release.txt").write_text("")
    (root / "testset.txt").write_text(f"{SEQ}\n")
    assert clip_of(root, models).split == "test"


def test_depth_elsewhere(root, truth, models):
    """In its own tree as the archives have it, or decoded to images as decode.py does; or not fetched."""
    video = hoi4d.list_videos(root)[0]
    beside = video.parents[1] / "align_depth" / "depth_video.avi"
    apart = root / "HOI4D_depth_video" / SEQ / "align_depth"
    apart.mkdir(parents=True)
    beside.rename(apart / "depth_video.avi")
    np.testing.assert_allclose(clip_of(root, models).depth_m(3), truth.depth_m[3], atol=0.5001e-3)
    import cv2

    for frame in (0, 3):
        image = np.round(truth.depth_m[frame] * 1000).astype(np.uint16)
        cv2.imwrite(str(apart / f"{frame:05d}.png"), image)
    (apart / "depth_video.avi").unlink()
    clip = clip_of(root, models)
    assert list(clip.depth.frames) == [0, 3]
    np.testing.assert_allclose(clip.depth_m(3), truth.depth_m[3], atol=0.5001e-3)
    shutil.rmtree(apart)
    assert not clip_of(root, models).has_depth


def test_videos_without_the_release_folder(root, truth, models):
    for path in (root / "HOI4D_release").iterdir():
        path.rename(root / path.name)
    clip = clip_of(root, models)
    assert clip.clip_id == f"hoi4d/{SEQ}/align_rgb/image"
    assert_hands(clip, truth, 1e-9)
    with pytest.raises(ValueError, match="one camera"):
        hoi4d.list_videos(root, "left")


def test_two_persons(tmp_path, truth, models):
    hoi4d.write_example(tmp_path, truth)
    hoi4d.write_example(tmp_path, replace(truth, subject="H7"), code="C12")
    first, second = read(tmp_path, models)
    assert [clip.subject for clip in (first, second)] == ["H1", "H7"]
    assert second.instructions[0].text == "Pick and place the kettle"


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def change(path, **values):
    label = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(label | values))


def trans_as_wrist(hands):
    """Labels whose trans already is the wrist: what a reader with the wrong convention would agree with."""
    for path in hands.iterdir():
        change(path, trans=pickle.loads(path.read_bytes())["trans"] + [0.0957, 0.0064, 0.0062])


SPOILT = {
    "video cut off": (lambda video, notes, hands: video.write_bytes(video.read_bytes()[:2000]), Reason.CORRUPT_VIDEO),
    "video empty": (lambda video, notes, hands: video.write_bytes(b""), Reason.EMPTY_VIDEO),
    "no intrinsics": (lambda video, notes, hands: (hands.parents[8] / "camera_params/ZY20210800001/intrin.npy").unlink(), Reason.MISSING_SIDE_FILE),
    "NaN": (lambda video, notes, hands: change(hands / "4.pickle", trans=np.array([0, np.nan, 0.4])), Reason.NAN_LABEL),
    "key gone": (lambda video, notes, hands: (hands / "4.pickle").write_bytes(pickle.dumps({"beta": np.zeros(10)})), Reason.BAD_LABEL),
    "wrong width": (lambda video, notes, hands: change(hands / "4.pickle", poseCoeff=np.zeros(51)), Reason.BAD_LABEL),
    "pickle cut off": (lambda video, notes, hands: (hands / "0.pickle").write_bytes((hands / "0.pickle").read_bytes()[:90]), Reason.BAD_LABEL),
    "evil": (lambda video, notes, hands: (hands / "0.pickle").write_bytes(pickle.dumps({"beta": Evil()})), Reason.BAD_LABEL),
    "hand after the end": (lambda video, notes, hands: shutil.copy(hands / "0.pickle", hands / "6.pickle"), Reason.FRAME_COUNT_MISMATCH),
    "object after the end": (lambda video, notes, hands: shutil.copy(notes / "objpose/0.json", notes / "objpose/6.json"), Reason.FRAME_COUNT_MISMATCH),
    "object is no JSON": (lambda video, notes, hands: (notes / "objpose/0.json").write_text("__import__('os')"), Reason.BAD_LABEL),
    "object without angles": (lambda video, notes, hands: (notes / "objpose/0.json").write_text('{"dataList": [{"center": {"x": 0, "y": 0, "z": 1}}]}'), Reason.BAD_LABEL),
    "poses cut off": (lambda video, notes, hands: (notes / "3Dseg/output.log").write_text("0 0 1\n1 0 0 0\n"), Reason.FRAME_COUNT_MISMATCH),
    "events of a third schema": (lambda video, notes, hands: (notes / "action/color.json").write_text('{"events": [{"name": "go"}]}'), Reason.BAD_LABEL),
    "event after the end": (lambda video, notes, hands: (notes / "action/color.json").write_text('{"info": {"duration": 10}, "events": [{"event": "go", "startTime": 3, "endTime": 17}]}'), Reason.BAD_LABEL),
    "wrist convention": (lambda video, notes, hands: trans_as_wrist(hands), Reason.BAD_LABEL),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_what_cannot_be_read_is_rejected_with_its_reason(root, models, notes, hands, name, capsys):
    spoil, expected = SPOILT[name]
    (video,) = hoi4d.list_videos(root)
    spoil(video, notes, hands)
    reject = reject_of(root, models)
    assert reject.reason == expected, reject.detail
    assert "never run" not in capsys.readouterr().out


def test_counts_and_sizes_of_videos(root, truth, models):
    (video,) = hoi4d.list_videos(root)
    depth = video.parents[1] / "align_depth" / "depth_video.avi"
    write_grey_video(depth, np.zeros((5, 270, 480), np.uint16), 15.0)
    reject = reject_of(root, models)
    assert (reject.reason, "5 frames" in reject.detail) == (Reason.FRAME_COUNT_MISMATCH, True)
    depth.unlink()
    write_video(video, list(truth.rgb), 30.0)
    reject = reject_of(root, models)
    assert (reject.reason, "fps=fps=15" in reject.detail) == (Reason.FRAME_COUNT_MISMATCH, True)
    write_video(video, list(truth.rgb[:, :, :400]), 15.0)
    assert reject_of(root, models).reason == Reason.UNSUPPORTED_CAMERA


def test_without_mano_files(root):
    reject = reject_of(root, None)
    assert (reject.reason, "MANO_LEFT.pkl" in reject.detail) == (Reason.MISSING_HAND_MODEL, True)


def test_side_files_are_what_the_clip_depends_on(root):
    (root / "release.txt").write_text(SEQ)
    (video,) = hoi4d.list_videos(root)
    names = {path.relative_to(root).as_posix() for path in hoi4d.side_files(video)}
    pickles = {f"handpose/refinehandpose_{side}/{SEQ}/{k}.pickle" for side in ("left", "right") for k in range(6)}
    poses = {f"HOI4D_annotations/{SEQ}/objpose/{k}.json" for k in range(6)}
    single = {f"HOI4D_annotations/{SEQ}/{name}" for name in ("action/color.json", "3Dseg/output.log")}
    others = {"camera_params/ZY20210800001/intrin.npy", "release.txt"}
    assert names == pickles | poses | single | others | {f"HOI4D_release/{SEQ}/align_depth/depth_video.avi"}


def test_through_the_stage_and_back(root, truth, models, tmp_path_factory):
    """The raw_videos stage lists it, and every later stage gets the same clip from its row."""
    workspace = tmp_path_factory.mktemp("workspace")
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    shard = ShardConfig("mine", "hoi4d", str(root), hand_model=str(models))
    run_stage(workspace, Config({"mine": shard}, train, train, train, train), "raw_videos", "mine")
    (clip,) = manifest.read_clips(workspace / "data" / "raw_videos" / "mine", workspace)
    assert clip.clip_id.startswith("mine/")
    assert clip.split in ("train", "test")
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-3)
    assert_hands(clip, truth, 1e-9)
    np.testing.assert_allclose(clip.depth_m(2), truth.depth_m[2], atol=0.5001e-3)
