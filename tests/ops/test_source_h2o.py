"""H2O: what its example says is what comes back, smplx says the same of the raw text, and every trap is stepped into."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason, Reject
from ops.sources import h2o
from ops.sources.base import Clip, Instruction
from ops.sources.example import make_truth, seen_by
from ops.sources.manifest import READERS, files_of
from tests.ops.source_world import JOINTS16, assert_hands, in_openpose, skin_share, smplx_joints, unlabelled, without
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera(152.3, 151.1, 80.9, 61.4, 160, 120)
FIXED = PinholeCamera(140.0, 141.0, 79.0, 62.0, 160, 120)
TEXTS = (Instruction(0.0, 0.1, "grab milk"), Instruction(0.1, 0.2, "open milk"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_toy_models(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def truth(models):
    made = make_truth(models, CAMERA, num_frames=7, seed=3)
    milk = replace(made.objects[0], name="milk")
    return replace(made, name="k2/3", subject="subject3", instructions=TEXTS, objects=(milk,))


@pytest.fixture
def root(tmp_path, truth):
    h2o.write_example(tmp_path, truth)
    return tmp_path


@pytest.fixture
def seq(root):
    return root / "subject3" / "k2" / "3" / "cam4"


def read(root, models=None, view=None) -> list[Clip | Reject]:
    return list(h2o.read_clips(root, view, models))


def test_round_trip(root, truth, models):
    (clip,) = read(root, models)
    assert (clip.clip_id, clip.kind, clip.view, clip.subject) == ("h2o/subject3/k2/3/cam4", "h2o", "cam4", "subject3")
    assert (clip.num_frames, clip.fps, clip.intrinsics) == (7, pytest.approx(30.0), "given")
    assert (clip.noncommercial, clip.redistributable) == (True, False)
    assert_hands(clip, truth, 1e-12)  # text keeps every digit
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-12)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-12)
    assert (clip.hand_model, clip.joints) == (models, {})
    for frame, image in enumerate(clip.frames()):
        np.testing.assert_array_equal(image.rgb, truth.rgb[frame])
        np.testing.assert_allclose(clip.depth_m(frame), truth.depth_m[frame], atol=0.5e-3)  # whole millimetres
    np.testing.assert_allclose(clip.times_s, np.arange(7) / 30)


def test_objects_come_back(root, truth, models):
    (clip,) = read(root, models)
    (thing,), (known,) = clip.objects, truth.objects
    assert thing.name == "milk"
    np.testing.assert_allclose(thing.T_cam_obj, known.T_cam_obj, atol=1e-12)
    np.testing.assert_allclose(thing.position_cam, known.position_cam, atol=1e-12)
    np.testing.assert_allclose(thing.boxes_px, known.boxes_px, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_any_hands_and_cameras(tmp_path, models, seed):
    rng = np.random.default_rng(seed)
    camera = PinholeCamera(*rng.uniform(120, 200, 2), *rng.uniform(50, 70, 2), 120, 120)
    sides = (("left", "right"), ("left",), ("right",), ("left", "right"))[seed]
    truth = make_truth(models, camera, num_frames=3, sides=sides, moving=seed != 3, seed=50 + seed)
    h2o.write_example(tmp_path, truth)
    (clip,) = read(tmp_path, models)
    assert_hands(clip, truth, 1e-9)
    np.testing.assert_allclose(clip.T_cam_world, truth.T_cam_world, atol=1e-9)
    np.testing.assert_allclose(clip.camera.K, camera.K, atol=1e-9)
    np.testing.assert_allclose(clip.depth_m(1), truth.depth_m[1], atol=0.5e-3)


def test_smplx_finds_the_joints_in_the_raw_mano_label(seq, truth, models):
    """smplx: J(pose, beta) + trans, nothing else: not the wrist, not a mean. Both hands against hand_pose's text."""
    rows = [np.loadtxt(seq / "hand_pose_mano" / f"{k:06d}.txt") for k in range(7)]
    assert {row.shape for row in rows} == {(124,)}
    joints = np.array([np.loadtxt(seq / "hand_pose" / f"{k:06d}.txt") for k in range(7)])
    (clip,) = read(seq.parents[3], models)
    for k, side in enumerate(("left", "right")):
        label = np.array(rows)[:, 62 * k : 62 * k + 62]
        rotmats = transforms.rotvec_to_rotmat(label[:, 4:52].reshape(-1, 16, 3))
        found = in_openpose(smplx_joints(side, rotmats, label[:, 52:]) + label[:, None, 1:4])
        stated = joints[:, 64 * k + 1 : 64 * k + 64].reshape(-1, 21, 3)
        np.testing.assert_allclose(found, stated[:, JOINTS16], atol=1e-9)
        hand = clip.hands[side]
        np.testing.assert_allclose(hand.tau, stated[:, 0], atol=1e-9)
        slip_m = np.linalg.norm(label[:, 1:4] - hand.tau, axis=1)
        assert (slip_m > 0.08).all()  # trans is not the wrist: taking it for one would be seen
        for frame, image in enumerate(clip.frames()):
            assert skin_share(image.rgb, clip.camera.project(stated[frame]), side) > 0.9


def test_camera_pose_is_camera_to_world(seq, truth, models):
    """The object stands in the world: through the raw 4 x 4 as camera-to-world it does not move, else it would."""
    poses = np.array([np.loadtxt(seq / "cam_pose" / f"{k:06d}.txt") for k in range(7)]).reshape(-1, 4, 4)
    (clip,) = read(seq.parents[3], models)
    box = clip.objects[0].position_cam
    still = np.einsum("nij,nj->ni", poses[:, :3, :3], box) + poses[:, :3, 3]
    assert np.ptp(still, axis=0).max() < 1e-9
    assert np.ptp(transforms.apply(transforms.invert(poses), box), axis=0).max() > 0.01
    np.testing.assert_allclose(transforms.apply(clip.T_cam_world, still), box, atol=1e-9)


def test_without_mano_files_the_joints_are_given(root, truth):
    (clip,) = read(root)
    assert (clip.hands, clip.hand_model, set(clip.joints)) == ({}, None, {"left", "right"})
    for side, track in clip.joints.items():
        np.testing.assert_allclose(track.joints_cam, truth.joints_cam[side], atol=1e-12)


def test_every_camera_can_be_chosen(root, truth, models):
    poses = np.tile(transforms.make(transforms.rotvec_to_rotmat(np.array([0.1, 0.4, 0.2])), [0.1, 0.0, 0.3]), (7, 1, 1))
    fixed = seen_by(truth, FIXED, poses @ truth.T_cam_world[0])
    h2o.write_example(root, fixed, view="cam1")
    (clip,) = read(root, models, "cam1")
    assert (clip.clip_id, clip.view) == ("h2o/subject3/k2/3/cam1", "cam1")
    assert_hands(clip, fixed, 1e-12)
    np.testing.assert_allclose(clip.T_cam_world, fixed.T_cam_world, atol=1e-12)
    np.testing.assert_allclose(clip.camera.K, FIXED.K, atol=1e-12)
    assert [said.text for said in clip.instructions] == ["grab milk", "open milk"]  # cam4's labels, cam1 has none
    assert [clip.view for clip in read(root, models)] == ["cam4"]
    with pytest.raises(ValueError, match="cam0, cam1"):
        h2o.list_videos(root, "cam7")


@pytest.mark.parametrize("given", [("hand_pose_MANO", "obj_pose_RT"), ("Hand_Pose_Mano", "Obj_Pose_rt")])
def test_upper_case_folders(seq, truth, models, given):
    for old, new in zip(("hand_pose_mano", "obj_pose_rt"), given, strict=True):
        (seq / old).rename(seq / new)
    (clip,) = read(seq.parents[3], models)
    assert_hands(clip, truth, 1e-12)
    assert len(clip.objects) == 1
    assert any(given[0] in str(path) for path in h2o.side_files(clip.video))


def test_one_hand_and_a_gap(tmp_path, truth, models):
    h2o.write_example(tmp_path, replace(unlabelled(truth, "right", [2, 3]), name="h1/0"))
    h2o.write_example(tmp_path, replace(without(truth, "left"), name="h1/1"))
    both, one = read(tmp_path, models)
    assert both.hands["right"].valid.tolist() == [True, True, False, False, True, True, True]
    assert both.hands["left"].valid.all()
    assert_hands(both, unlabelled(truth, "right", [2, 3]), 1e-12)
    assert_hands(one, without(truth, "left"), 1e-12)
    assert set(read(tmp_path)[1].joints) == {"right"}


def test_joints_check_the_mano_labels(tmp_path, truth, models):
    h2o.write_example(tmp_path, unlabelled(truth, "right", [2]))
    (clip,) = read(tmp_path, models)
    for side, px in clip.published_px.items():
        expected = CAMERA.project(truth.joints_cam[side])
        if side == "right":
            expected[2] = np.nan
        np.testing.assert_allclose(px, expected, atol=1e-9)


def test_numbers_of_unlabelled_hands_mean_nothing(seq, models):
    """A hand with flag 0 may carry anything, also in the text of a real file."""
    path = seq / "hand_pose_mano" / "000002.txt"
    words = path.read_text().split()
    words[0:5] = ["0", "999", "-999", "5", "1e9"]
    path.write_text(" ".join(words))
    (clip,) = read(seq.parents[3], models)
    assert not clip.hands["left"].valid[2]
    assert np.abs(clip.hands["left"].tau[2]).max() == 0
    assert np.abs(clip.hands["left"].beta).max() < 5


def test_two_objects_in_turn(tmp_path, truth, models):
    milk = truth.objects[0]
    first, last = milk.T_cam_obj.copy(), milk.T_cam_obj.copy()
    first[3:], last[:3] = np.nan, np.nan
    things = (replace(milk, T_cam_obj=first), replace(milk, name="cappuccino", T_cam_obj=last))
    h2o.write_example(tmp_path, replace(truth, objects=things))
    (clip,) = read(tmp_path, models)
    assert [thing.name for thing in clip.objects] == ["milk", "cappuccino"]
    assert [thing.visible.tolist() for thing in clip.objects] == [[True] * 3 + [False] * 4, [False] * 3 + [True] * 4]
    assert np.isnan(clip.objects[0].boxes_px[3:]).all()
    np.testing.assert_allclose(clip.objects[1].T_cam_obj, last, atol=1e-12)


# -- text


def times(clip):
    return [(said.text, round(said.start_s * 30), round(said.end_s * 30)) for said in clip.instructions]


def test_the_action_list_and_the_frames_say_the_same(root, models):
    """subject3/k2 is held out: its list has no labels, so the labels of frames speak; a labelled list goes first."""
    expected = [("grab milk", 0, 3), ("open milk", 3, 6)]
    assert times(read(root, models)[0]) == expected
    assert "action_label" not in (root / "action_labels" / "action_test.txt").read_text().splitlines()[0]
    rows = "id path action_label start_act end_act start_frame end_frame\n1 subject3/k2/3 5 0 2 0 6\n2 subject3/k2/3 18 3 5 0 6\n"
    (root / "action_labels" / "action_val.txt").write_text(rows)
    shutil.rmtree(root / "subject3/k2/3/cam4/action_label")
    assert times(read(root, models)[0]) == expected


def test_the_list_tells_repeated_actions_apart(root, models):
    """Two grabs in a row are one run of labels, but two rows; a sequence that another list names is no business of ours."""
    rows = "id path action_label start_act end_act start_frame end_frame\n8 subject3/k2/3 5 0 2 0 6\n9 subject3/k2/3 5 3 5 0 6\n10 subject1/h1/0 16 0 5 0 6\n"
    (root / "label_split").mkdir()
    (root / "label_split" / "action_val.txt").write_text(rows)
    assert times(read(root, models)[0]) == [("grab milk", 0, 3), ("grab milk", 3, 6)]


def test_verb_and_object_are_the_last_resort(seq, models):
    shutil.rmtree(seq / "action_label")
    assert times(read(seq.parents[3], models)[0]) == [("grab milk", 0, 3), ("open milk", 3, 6)]


def test_official_numbers_of_actions():
    assert len(h2o.ACTIONS) == 37
    known = {1: "grab book", 8: "grab cappuccino", 9: "place book", 16: "place cappuccino", 17: "open lotion",
             20: "close lotion", 23: "pour milk", 24: "take out espresso", 27: "take out cappuccino",
             28: "put in espresso", 30: "put in cappuccino", 31: "apply lotion", 33: "read book", 36: "squeeze lotion"}  # fmt: skip
    assert {k: h2o.ACTIONS[k] for k in known} == known
    assert (h2o.VERBS[6], h2o.VERBS[11], h2o.OBJECTS[8]) == ("take out", "squeeze", "cappuccino")


@pytest.mark.parametrize(
    ("subject", "scene", "split"),
    [(1, "o2", "train"), (2, "h1", "train"), (3, "h1", "train"), (3, "h2", "train"), (3, "k1", "train"),
     (3, "k2", "test"), (3, "o1", "test"), (3, "o2", "test"), (4, "h1", "test")],
)  # fmt: skip
def test_official_split_whatever_lists_are_called(tmp_path, models, truth, subject, scene, split):
    """The README's links are swapped, so that a pose_train.txt may be the validation list: names decide nothing."""
    h2o.write_example(tmp_path, replace(truth, subject=f"s{subject}", name=f"{scene}/0"))
    (tmp_path / "pose_lists").mkdir()
    (tmp_path / "pose_lists" / "pose_train.txt").write_text("subject3/k2/0/cam4/rgb/000020.png\n")
    assert read(tmp_path, models)[0].split == split


# -- copies and damage


def test_the_ego_archive(tmp_path, truth, models):
    h2o.write_example(tmp_path, truth)
    shutil.copytree(tmp_path / "subject3", tmp_path / "subject3_ego")
    assert [clip.clip_id for clip in read(tmp_path, models)] == ["h2o/subject3/k2/3/cam4"]
    shutil.rmtree(tmp_path / "subject3")
    (clip,) = read(tmp_path, models)
    assert (clip.clip_id, clip.subject, clip.split) == ("h2o/subject3_ego/k2/3/cam4", "subject3", "test")


def test_a_smaller_copy_has_a_smaller_camera(seq, models):
    for path in (seq / "rgb").iterdir():
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (80, 60)))
    shutil.rmtree(seq / "depth")
    (clip,) = read(seq.parents[3], models)
    assert clip.camera == CAMERA.resized(80, 60)
    for path in (seq / "rgb").iterdir():
        cv2.imwrite(str(path), np.zeros((60, 60, 3), np.uint8))
    assert read(seq.parents[3], models)[0].reason == Reason.UNSUPPORTED_CAMERA


def edit(path, change):
    words = path.read_text().split()
    change(words)
    path.write_text(" ".join(words))


def move_hand(words, by_m):
    for k in (1, 2, 3):
        words[k] = str(float(words[k]) + by_m)


DAMAGES = {
    "no label folder": (lambda s: shutil.rmtree(s / "cam_pose"), Reason.MISSING_LABELS, "cam_pose"),
    "no mano folder": (lambda s: shutil.rmtree(s / "hand_pose_mano"), Reason.MISSING_LABELS, "hand_pose_mano"),
    "no intrinsics": (lambda s: (s / "cam_intrinsics.txt").unlink(), Reason.MISSING_SIDE_FILE, "cam_intrinsics"),
    "bad intrinsics": (lambda s: edit(s / "cam_intrinsics.txt", lambda w: w.__setitem__(0, "-3")), Reason.BAD_LABEL, "fx"),
    "missing label": (lambda s: (s / "hand_pose_mano/000003.txt").unlink(), Reason.FRAME_COUNT_MISMATCH, "6 labels for 7"),
    "missing image": (lambda s: (s / "rgb/000003.png").unlink(), Reason.FRAME_COUNT_MISMATCH, "7 labels for 6"),
    "no image": (lambda s: [path.unlink() for path in (s / "rgb").iterdir()], Reason.EMPTY_VIDEO, "no image"),
    "broken image": (lambda s: (s / "rgb/000000.png").write_bytes(b"png"), Reason.CORRUPT_VIDEO, "000000.png"),
    "118 numbers": (lambda s: edit(s / "hand_pose_mano/000001.txt", lambda w: w.__delitem__(slice(118, None))), Reason.BAD_LABEL, "(118,)"),
    "a word": (lambda s: edit(s / "hand_pose/000001.txt", lambda w: w.__setitem__(5, "x")), Reason.BAD_LABEL, "'x'"),
    "nan": (lambda s: edit(s / "hand_pose_mano/000001.txt", lambda w: w.__setitem__(70, "nan")), Reason.NAN_LABEL, "hand_pose_mano/000001"),
    "flag 2": (lambda s: edit(s / "hand_pose_mano/000001.txt", lambda w: w.__setitem__(0, "2")), Reason.BAD_LABEL, "not 0 or 1"),
    "mirror": (lambda s: edit(s / "cam_pose/000002.txt", lambda w: w.__setitem__(slice(0, 4), [str(-float(x)) for x in w[:4]])), Reason.BAD_LABEL, "rigid"),
    "class 9": (lambda s: edit(s / "obj_pose/000002.txt", lambda w: w.__setitem__(0, "9")), Reason.BAD_LABEL, "class 9"),
    "two classes": (lambda s: edit(s / "obj_pose/000002.txt", lambda w: w.__setitem__(0, "1")), Reason.BAD_LABEL, "different objects"),
    "action 37": (lambda s: edit(s / "action_label/000002.txt", lambda w: w.__setitem__(0, "37")), Reason.BAD_LABEL, "class 37"),
    "version 1.0": (lambda s: [edit(p, lambda w: move_hand(w, 0.05)) for p in (s / "hand_pose_mano").iterdir()], Reason.BAD_LABEL, "version 1.1"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_stops_nothing(root, seq, truth, models, damage):
    h2o.write_example(root, replace(truth, name="o1/0"))
    act, reason, says = DAMAGES[damage]
    act(seq)
    reject, clip = read(root, models)
    assert (reject.reason, reject.item) == (reason, "subject3/k2/3/cam4/rgb"), reject
    assert says in reject.detail
    assert clip.clip_id == "h2o/subject3/o1/0/cam4"


def test_frames_of_a_bad_label_are_named(seq, models):
    edit(seq / "hand_pose_mano" / "000004.txt", lambda words: words.__setitem__(70, "inf"))
    with pytest.raises(ClipError) as caught:
        h2o.read_clip(
            seq / "rgb", ShardConfig("h2o", "h2o", str(seq.parents[3]), hand_model=str(models)), RawVideosConfig()
        )
    assert caught.value.frame == 4


def test_an_action_after_the_end_is_refused(root, models):
    rows = "id path action_label start_act end_act start_frame end_frame\n1 subject3/k2/3 5 90 99 0 6\n"
    (root / "action_train.txt").write_text(rows)
    assert read(root, models)[0].reason == Reason.BAD_LABEL


def test_frames_that_were_left_out_keep_their_time(seq, models):
    for folder in seq.iterdir():
        for path in folder.glob("000003.*") if folder.is_dir() else ():
            path.unlink()
    (clip,) = read(seq.parents[3], models)
    np.testing.assert_allclose(clip.times_s * 30, [0, 1, 2, 4, 5, 6])
    assert times(clip) == [("grab milk", 0, 3), ("open milk", 4, 6)]


def test_side_files_are_all_that_counts(root, seq):
    assert READERS["h2o"] == "ops.sources.h2o"
    (video,) = h2o.list_videos(root)
    sides = h2o.side_files(video)
    used = {
        path
        for folder in seq.iterdir()
        if folder.is_dir() and folder.name not in ("rgb", "rgb256")
        for path in folder.iterdir()
    }
    assert set(sides) == used | {seq / "cam_intrinsics.txt", root / "action_labels" / "action_test.txt"}
    assert [path.name for path in files_of(video)] == [f"{k:06d}.png" for k in range(7)]


def test_reading_is_lazy(root, monkeypatch):
    monkeypatch.setattr(h2o, "load_models", lambda _: pytest.fail("read before it was asked for"))
    assert isinstance(h2o.read_clips(root, None, root), type(x for x in ()))
