"""TASTE-Rob: captions from the workbook, held-out clips, a camera that stands still; HaWoR's results beside a video as
its hands, checked by its own formula in smplx."""

import json
import zipfile

import numpy as np
import pytest

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.joints import MANO21_OF_OPENPOSE, TIP_VERTICES
from ops.rejects import ClipError, Reason
from ops.sources import hawor, taste_rob
from ops.sources.example import make_truth
from ops.sources.hand_models import models_of
from ops.sources.xlsx import read_sheets, write_sheets
from ops.video import VideoInfo, write_video
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera.from_fov_x(60.0, 320, 240)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """MANO files as published: the left hand's shapes move x as the right's do."""
    folder = write_toy_models(tmp_path_factory.mktemp("toy"))
    left = dict(np.load(folder / "left.npz"))
    left["shapedirs"] = left["shapedirs"] * [[-1.0], [1.0], [1.0]]
    np.savez(folder / "left.npz", **left)
    return folder


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    good = write_toy_models(tmp_path_factory.mktemp("good"))
    return make_truth(good, CAMERA, num_frames=6, seed=2, moving=False)


def read(root, models=None, fov=60.0):
    shard = ShardConfig("taste", "taste_rob", str(root), hand_model=models and str(models))
    return [taste_rob.read_clip(video, shard, RawVideosConfig(fov)) for video in taste_rob.list_videos(root)]


def test_round_trip_without_hands(tmp_path, truth):
    for _ in range(2):
        taste_rob.write_example(tmp_path, truth)
    first, second = read(tmp_path)
    assert (first.clip_id, first.split, second.split) == ("taste/DoubleHand/Kitchen/1000", "train", "test")
    assert (first.has_labels, first.intrinsics) == (False, "assumed")
    assert first.instructions[0].text == "pick up the box"
    np.testing.assert_array_equal(first.T_cam_world, np.broadcast_to(np.eye(4), (6, 4, 4)))
    assert [path.name for path in taste_rob.side_files(first.video)] == ["captions.xlsx", "test.txt"]
    (reject, _) = taste_rob.read_clips(tmp_path)
    assert reject.reason == Reason.UNSUPPORTED_CAMERA


def test_hawors_results_are_the_hands(tmp_path, truth, models):
    taste_rob.write_example_hawor(tmp_path, truth)
    (clip,) = read(tmp_path, models, fov=None)
    assert (clip.intrinsics, clip.left_model, clip.hand_model) == ("assumed", "fixed", models)
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-9)
    own = models_of(clip, tmp_path)
    for side, track in truth.hands.items():
        mine = clip.hands[side]
        for key in ("theta", "r", "tau", "beta"):
            np.testing.assert_allclose(getattr(mine, key), getattr(track, key), atol=1e-9)
        joints = own[side].joints(mine.theta, mine.r, mine.tau, mine.beta)
        np.testing.assert_allclose(joints, truth.joints_cam[side], atol=1e-9)
    assert len(taste_rob.side_files(clip.video)) == 5


@pytest.mark.parametrize("side", ["left", "right"])
def test_hawors_own_formula(tmp_path, truth, models, side):
    """run_mano / run_mano_left(fix_shapedirs): smplx without pose mean, translated by init_trans, from the raw file."""
    smplx = pytest.importorskip("smplx")
    torch = pytest.importorskip("torch")
    taste_rob.write_example_hawor(tmp_path, truth)
    (video,) = taste_rob.list_videos(tmp_path)
    raw = json.loads((video.with_suffix("") / "cam_space" / str(int(side == "right")) / "0_5.json").read_text())
    assert np.shape(raw["init_root_orient"]) == (1, 6, 3, 3)
    assert np.shape(raw["init_hand_pose"]) == (1, 6, 15, 3, 3)
    assert np.shape(raw["init_trans"]) == (1, 6, 3)
    assert np.shape(raw["init_betas"]) == (1, 6, 10)
    arrays = dict(np.load(models / f"{side}.npz"))
    if side == "left":
        arrays["shapedirs"] = arrays["shapedirs"] * [[-1.0], [1.0], [1.0]]
    np.savez(tmp_path / "m.npz", **arrays)
    layer = smplx.MANOLayer(
        str(tmp_path / "m.npz"), data_struct=smplx.utils.Struct(**arrays), is_rhand=side == "right", dtype=torch.float64
    )
    t = {key: torch.tensor(value[0], dtype=torch.float64) for key, value in raw.items()}
    out = layer(
        betas=t["init_betas"],
        global_orient=t["init_root_orient"][:, None],
        hand_pose=t["init_hand_pose"],
        transl=t["init_trans"],
    )
    joints = np.concatenate([out.joints[:, :16].numpy(), out.vertices[:, list(TIP_VERTICES)].numpy()], axis=1)
    joints = joints[:, list(MANO21_OF_OPENPOSE)]
    np.testing.assert_allclose(joints, truth.joints_cam[side], atol=1e-6)
    np.testing.assert_allclose(CAMERA.project(joints), CAMERA.project(truth.joints_cam[side]), atol=1e-3)


def test_hawor_sees_thirty_frames_a_second(tmp_path, truth, models):
    """A 50-fps video: only frames that the 30-fps copy shows have hands, each from its own 30-fps frame."""
    video = tmp_path / "v.mp4"
    write_video(video, np.zeros((50, 16, 16, 3), np.uint8), 50.0)
    from ops.video import probe

    info = probe(video)
    track = truth.hands["right"]
    steps = np.arange(30)
    long = type(track)(
        np.repeat(track.theta[:1], 30, axis=0), np.repeat(track.r[:1], 30, axis=0),
        np.stack([steps / 30.0, 0 * steps, 0.5 + 0 * steps], axis=1), track.beta, np.ones(30, bool),
    )  # fmt: skip
    hawor.write_example(video, CAMERA, {"right": long}, truth.models)
    found = hawor.read(video, info, str(models))
    hand = found.hands["right"]
    assert not found.hands["left"].valid.any()
    assert hand.valid.sum() == 30
    frames = np.flatnonzero(hand.valid)
    np.testing.assert_array_less(np.abs(hand.tau[frames, 0] - info.times_s[frames]), 0.0101)  # half a 50-fps frame
    slow = VideoInfo(15.0, 15, 16, 16, np.arange(15) / 15.0, 1)
    seen = hawor.read(video, slow, str(models)).hands["right"]
    assert seen.valid.all()
    np.testing.assert_allclose(seen.tau[:, 0], slow.times_s, atol=1e-9)


def test_hawors_camera_path(tmp_path, truth, models):
    """traj: position and quaternion xyzw of the camera in the world, to be multiplied by scale."""
    taste_rob.write_example_hawor(tmp_path, truth)
    (video,) = taste_rob.list_videos(tmp_path)
    folder = video.with_suffix("") / "SLAM"
    folder.mkdir()
    from scipy.spatial.transform import Rotation

    T_world_cam = transforms.make(Rotation.random(6, random_state=0).as_matrix(), np.arange(18.0).reshape(6, 3))
    traj = np.concatenate([T_world_cam[:, :3, 3] / 2.5, Rotation.from_matrix(T_world_cam[:, :3, :3]).as_quat()], axis=1)
    np.savez(folder / "hawor_slam_w_scale_0_6.npz", traj=traj, scale=2.5, img_focal=444.0, img_center=[160.0, 120.0])
    info = VideoInfo(30.0, 6, 320, 240, np.arange(6) / 30, 1)
    found = hawor.read(video, info, str(models))
    assert found.camera.fx == 444.0
    np.testing.assert_allclose(found.T_cam_world @ T_world_cam, np.broadcast_to(np.eye(4), (6, 4, 4)), atol=1e-9)
    (clip,) = read(tmp_path, models)
    np.testing.assert_array_equal(clip.T_cam_world[3], np.eye(4))  # TASTE-Rob's camera stands still


def test_hawors_gaps_and_default_focal(tmp_path, truth, models):
    taste_rob.write_example(tmp_path, truth)
    (video,) = taste_rob.list_videos(tmp_path)
    track = truth.hands["left"]
    gap = type(track)(track.theta, track.r, track.tau, track.beta, np.array([True, True, False, False, True, True]))
    hawor.write_example(video, CAMERA, {"left": gap}, truth.models, folder_focal=False)
    assert sorted(p.name for p in (video.with_suffix("") / "cam_space/0").iterdir()) == ["0_1.json", "4_5.json"]
    (clip,) = read(tmp_path, models)
    np.testing.assert_array_equal(clip.hands["left"].valid, gap.valid)
    assert np.isfinite(clip.hands["left"].theta).all()
    assert clip.camera.fx == 600.0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: c.pop("init_betas"), Reason.BAD_LABEL),
        (lambda c: c["init_trans"][0].pop(), Reason.BAD_LABEL),
        (lambda c: c["init_trans"][0][1].__setitem__(0, float("nan")), Reason.NAN_LABEL),
        (lambda c: c["init_root_orient"][0][2][0].__setitem__(0, 5.0), Reason.BAD_LABEL),
    ],
)
def test_damaged_results(tmp_path, truth, models, damage, reason):
    taste_rob.write_example_hawor(tmp_path, truth)
    (video,) = taste_rob.list_videos(tmp_path)
    file = video.with_suffix("") / "cam_space/1/0_5.json"
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ClipError) as error:
        read(tmp_path, models)
    assert error.value.reason == reason
    assert "0_5.json" in error.value.detail


def test_results_without_mano_files(tmp_path, truth):
    taste_rob.write_example_hawor(tmp_path, truth)
    with pytest.raises(ClipError, match="hand_model") as error:
        read(tmp_path)
    assert error.value.reason == Reason.MISSING_HAND_MODEL


def test_missing_captions(tmp_path, truth):
    taste_rob.write_example(tmp_path, truth)
    write_sheets(tmp_path / "captions.xlsx", {name: [["id", "scene", "caption"]] for name in taste_rob.SHEETS.values()})
    with pytest.raises(ClipError, match="no clip 1000 in Double-Hand") as error:
        read(tmp_path)
    assert error.value.reason == Reason.MISSING_LABELS
    (tmp_path / "captions.xlsx").unlink()
    with pytest.raises(ClipError, match=r"captions.xlsx is not there"):
        read(tmp_path)
    (tmp_path / "captions.xlsx").write_bytes(b"no zip")
    with pytest.raises(ClipError, match="no readable") as error:
        read(tmp_path)
    assert error.value.reason == Reason.BAD_SIDE_FILE


def test_workbooks(tmp_path):
    sheets = {"Single-Hand": [["id", "scene", "caption"], ["17", "Dinning", 'a <b> & "c"'], ["18", "", "umlaut \u00e4"]], "Double-Hand": [[]]}  # fmt: skip
    write_sheets(tmp_path / "a.xlsx", sheets)
    assert read_sheets(tmp_path / "a.xlsx") == sheets


MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def workbook(path, sheet, strings):
    with zipfile.ZipFile(path, "w") as book:
        book.writestr(
            "xl/workbook.xml",
            f'<workbook {MAIN} xmlns:r="{OFFICE}"><sheets><sheet name="S" sheetId="1" r:id="rId1"/></sheets></workbook>',
        )
        book.writestr("xl/_rels/workbook.xml.rels", '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="x" Target="/xl/worksheets/sheet1.xml"/></Relationships>')  # fmt: skip
        book.writestr("xl/worksheets/sheet1.xml", sheet)
        book.writestr("xl/sharedStrings.xml", strings)


def test_what_excel_and_others_write(tmp_path):
    """Gaps between cells, formatted runs, inline strings, floats for ids, absolute part names."""
    sheet = (
        f'<worksheet {MAIN}><sheetData><row r="1"><c r="A1" t="s"><v>0</v></c><c r="C1" t="inlineStr"><is><t>in</t></is></c></row>'
        '<row r="3"><c r="B3"><v>12.0</v></c><c r="AA3"><v>2.5</v></c></row></sheetData></worksheet>'
    )
    strings = f"<sst {MAIN}><si><r><t>two </t></r><r><t>runs</t></r><rPh><t>hint</t></rPh></si></sst>"
    workbook(tmp_path / "b.xlsx", sheet, strings)
    rows = read_sheets(tmp_path / "b.xlsx")["S"]
    assert rows[0] == ["two runs", "", "in"]
    assert (rows[1][1], len(rows[1]), rows[1][26]) == ("12", 27, "2.5")


def test_entities_are_refused(tmp_path):
    bomb = f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa">]><sst {MAIN}><si><t>&a;</t></si></sst>'
    workbook(tmp_path / "c.xlsx", f"<worksheet {MAIN}><sheetData/></worksheet>", bomb)
    with pytest.raises(ClipError, match="entities"):
        read_sheets(tmp_path / "c.xlsx")
