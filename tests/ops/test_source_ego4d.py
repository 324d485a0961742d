"""Ego4D: the omnidirectional video comes out straight (against OpenCV's own undistortion where it has it), narrations of
the wearer become instructions, one entry of a huge JSON file is read without the rest."""

import json
from itertools import pairwise

import cv2
import numpy as np
import pytest

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.sources import ego4d
from ops.sources.base import Clip
from ops.sources.example import SKIN, make_truth
from ops.sources.raw_video import json_entry, narrated, side_of
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera.from_fov_x(70.0, 320, 240)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return make_truth(write_toy_models(tmp_path_factory.mktemp("toy")), CAMERA, num_frames=4, seed=1, name="a")


@pytest.fixture
def root(tmp_path, truth):
    ego4d.write_example(tmp_path, truth)
    return tmp_path


def read(root, view=None):
    return list(ego4d.read_clips(root, view))


def intrinsics(root):
    (path,) = (root / "intrinsics" / "ego4d").glob("*.npy")
    return path, np.load(path, allow_pickle=True).item()


def test_round_trip(root, truth):
    (clip,) = read(root)
    uid = ego4d.example_uid("a")
    assert (clip.clip_id, clip.kind, clip.intrinsics) == (f"ego4d/v2/full_scale/{uid}", "ego4d", "given")
    assert (clip.subject, clip.split, clip.has_labels, clip.T_cam_world) == ("1", "", False, None)
    assert (clip.noncommercial, clip.redistributable) == (True, False)
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-9)
    assert clip.lens.xi == 0.6
    assert clip.lens.coefficients == (-0.05, 0.01, 0.0, 0.0)
    (said,) = clip.instructions
    assert said.text == "pick up the box"
    assert said.start_s <= 2 / 30 <= said.end_s
    assert {path.name for path in ego4d.side_files(clip.video)} == {f"{uid}.npy", "narration.json", "ego4d.json"}


def test_frames_are_undistorted_to_the_pinhole(root, truth):
    """The undistorted frame is the example's own picture again, and its hands are where the labels project; the
    recorded one is not."""
    (clip,) = read(root)
    recorded = next(Clip._recorded(clip, [2], None)).rgb.astype(int)
    straight = next(clip.frames([2])).rgb.astype(int)
    wanted = truth.rgb[2].astype(int)
    inside = np.s_[30:-30, 40:-40]
    assert np.abs(straight[inside] - wanted[inside]).mean() < 6
    assert np.abs(recorded[inside] - wanted[inside]).mean() > 15
    for side in ("left", "right"):
        u, v = CAMERA.project(truth.joints_cam[side][2, 9]).astype(int)
        colour = straight[v, u] / straight[v, u].sum()
        assert np.abs(colour - np.array(SKIN[side]) / sum(SKIN[side])).sum() < 0.06


@pytest.mark.skipif(
    not hasattr(cv2, "omnidir"), reason="this OpenCV has no contrib modules; test_lenses has its numbers"
)
def test_vitras_maps(root):
    from ops.geometry.lenses import pinhole_maps

    (clip,) = read(root)
    K = CAMERA.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    D, xi = np.array([clip.lens.coefficients]), np.array([0.6])
    theirs = cv2.omnidir.initUndistortRectifyMap(K, D, xi, np.eye(3), K, (320, 240), cv2.CV_32FC1, cv2.omnidir.RECTIFY_PERSPECTIVE)  # fmt: skip
    for ours, other in zip(pinhole_maps(clip.lens, clip.camera), theirs, strict=True):
        np.testing.assert_allclose(ours, other, atol=2e-3)


def test_another_size_of_the_same_video(root, truth):
    """Intrinsics are for the full size: a smaller copy gets a smaller camera and lens."""
    path, stored = intrinsics(root)
    for part in stored.values():
        part["K"] = np.diag([4.0, 4.0, 1.0]) @ CAMERA.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    np.save(path, np.array(stored, dtype=object), allow_pickle=True)
    (clip,) = read(root)
    np.testing.assert_allclose(clip.camera.K, CAMERA.K, atol=1e-9)
    assert (clip.camera.width, clip.lens.camera.width) == (320, 320)
    assert clip.lens.camera.fx == pytest.approx(CAMERA.fx)


def test_a_video_that_needs_no_undistortion(root):
    path, stored = intrinsics(root)
    stored["intrinsics_ori"] |= {"xi": np.array([0.0]), "D": np.zeros((1, 4))}
    np.save(path, np.array(stored, dtype=object), allow_pickle=True)
    (clip,) = read(root)
    assert clip.lens is None


def test_without_intrinsics(root):
    path, _ = intrinsics(root)
    path.unlink()
    (reject,) = read(root)
    assert reject.reason == Reason.UNSUPPORTED_CAMERA
    assert "assumed_fov_x_deg" in reject.detail
    (video,) = ego4d.list_videos(root)
    clip = ego4d.read_clip(video, ShardConfig("e", "ego4d", str(root)), RawVideosConfig(80.0))
    assert (clip.intrinsics, clip.lens) == ("assumed", None)
    assert clip.camera.fx == pytest.approx(160 / np.tan(np.deg2rad(40)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("intrinsics_new"), Reason.BAD_LABEL),
        (lambda s: s["intrinsics_ori"].pop("xi"), Reason.BAD_LABEL),
        (lambda s: s["intrinsics_ori"].__setitem__("D", np.zeros(2)), Reason.BAD_LABEL),
        (lambda s: s["intrinsics_new"]["K"].__setitem__((0, 0), np.nan), Reason.NAN_LABEL),
        (lambda s: s["intrinsics_new"]["K"].__setitem__((0, 2), 300.0), Reason.UNSUPPORTED_CAMERA),
    ],
)
def test_bad_intrinsics(root, change, reason):
    path, stored = intrinsics(root)
    change(stored)
    np.save(path, np.array(stored, dtype=object), allow_pickle=True)
    (reject,) = read(root)
    assert reject.reason == reason


def test_only_the_wearers_narrations(root):
    file = root / "v2/annotations/narration.json"
    content = json.loads(file.read_text())
    texts = [
        "#C C picks up a #unsure with the left hand.",
        "#c C stirs",
        "#O woman Y laughs",
        "#summary C cooks",
        "#C C ",
    ]
    content[ego4d.example_uid("a")] = {
        "narration_pass_2": {
            "narrations": [{"timestamp_sec": 0.03 * n, "narration_text": t} for n, t in enumerate(texts)]
        }
    }
    file.write_text(json.dumps(content))
    (clip,) = read(root)
    assert [(said.text, said.side) for said in clip.instructions] == [
        ("picks up a with the left hand", "left"),
        ("stirs", None),
    ]


def test_views_and_order(root, truth):
    (root / "v2/video_540ss").mkdir()
    (video,) = ego4d.list_videos(root)
    (root / "v2/video_540ss" / video.name).write_bytes(video.read_bytes())
    assert len(ego4d.list_videos(root)) == 1
    assert [path.parent.name for path in ego4d.list_videos(root, "video_540ss")] == ["video_540ss"]
    assert ego4d.list_videos(root / "v2/full_scale") == [video]
    with pytest.raises(ValueError, match="full_scale, video_540ss, clips"):
        ego4d.list_videos(root, "exo")


def test_one_entry_of_a_large_json(tmp_path):
    """Braces and quotes inside texts do not confuse the search; a broken file is named."""
    ids = [ego4d.example_uid(str(n)) for n in range(50)]
    entries = {uid: {"text": 'a } "quoted\\" { brace', "n": n, "list": [{"x": 1}]} for n, uid in enumerate(ids)}
    file = tmp_path / "big.json"
    for wrap in (lambda e: e, lambda e: {"version": 1, "videos": e}):
        file.write_text(json.dumps(wrap(entries), indent=2))
        for uid in (ids[0], ids[20], ids[-1]):
            assert json_entry(file, uid) == entries[uid]
        assert json_entry(file, ego4d.example_uid("nobody")) is None
    file.write_text(json.dumps(entries)[:-40])
    with pytest.raises(ClipError, match="big") as error:
        json_entry(file, ids[-1])
    assert error.value.reason == Reason.BAD_SIDE_FILE


def test_egovlps_windows():
    """The published example: distance of narrations over 4.9 s is the window's length in seconds (EgoClip's first row has
    a moment at 3.3445 s and a window of 2.967651 to 3.721266 s)."""
    gap = (3.721266 - 2.967651) * 4.9
    times = 3.3445 + gap * np.arange(5)
    first, *_ = narrated([(float(t), "x") for t in times], 100.0)
    assert (first.start_s, first.end_s) == (pytest.approx(2.967651, abs=1e-3), pytest.approx(3.721266, abs=1e-3))
    close = narrated([(1.0 + 0.1 * n, "x") for n in range(4)], 100.0)
    assert all(b.start_s > a.start_s for a, b in pairwise(close))
    assert close[0].end_s - close[0].start_s == pytest.approx(0.5)
    assert narrated([(5.0, "late")], 2.0) == ()
    assert narrated([(0.0, "x")], 2.0)[0].start_s == 0.0


def test_sides_in_words():
    assert side_of("opens the lid with the left hand") == "left"
    assert side_of("moves it from the left hand to the right hand") is None
    assert side_of("lifts it with both hands, left hand first") is None
    assert side_of("turns left") is None
