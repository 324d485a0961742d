"""Folders with side files, the raw_videos stage, and the clips it gives back."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ops import tables
from ops.config import Config, RawVideosConfig, ShardConfig, TrainConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera, distort
from ops.pipeline import run_stage
from ops.rejects import ClipError, Reason
from ops.sources import folder, manifest, pose2sim
from ops.sources.base import sampled_frames
from ops.video import write_video

SHARD = ShardConfig("mine", "folder", "videos")
GIVEN = {"fx": 100.0, "fy": 101.0, "cx": 79.5, "cy": 59.5}
WIDTH, HEIGHT, NUM_FRAMES = 160, 120, 20


def config(shard=SHARD, **raw) -> Config:
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    return Config({"mine": shard}, train, train, train, train, raw_videos=RawVideosConfig(**raw))


@pytest.fixture(scope="module")
def a_video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    rng = np.random.default_rng(0)
    write_video(path, [rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(NUM_FRAMES)], 10)
    return path


@pytest.fixture
def put(tmp_path, a_video):
    """put(name, side) copies the video with a side file into the workspace's folder."""

    def place(name, side=None):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(a_video, path)
        if side is not None:
            path.with_suffix(".json").write_text(side if isinstance(side, str) else json.dumps(side))
        return path

    return place


def read(path, **raw):
    return folder.read_clip(path, replace(SHARD, root=str(path.parent)), RawVideosConfig(**raw))


def test_opencv_principal_points_get_half_a_pixel(put):
    clip = read(put("a.mp4", GIVEN))
    assert clip.camera == PinholeCamera(100, 101, 80, 60, WIDTH, HEIGHT)
    assert (clip.intrinsics, clip.clip_id, clip.split, clip.licence) == ("given", "mine/a", "", "not stated")


def test_intrinsics_of_another_size_are_scaled(put):
    twice = {"fx": 200.0, "fy": 202.0, "cx": 159.5, "cy": 119.5, "image_size": [320, 240]}
    assert read(put("a.mp4", twice)).camera == PinholeCamera(100, 101, 80, 60, WIDTH, HEIGHT)


def test_fields_of_view(put):
    camera = read(put("a.mp4", {"fov_x_deg": 90.0})).camera
    assert camera.fx == pytest.approx(80)
    assert read(put("b.mp4", {"fov_x_deg": 90.0, "intrinsics": "assumed"})).intrinsics == "assumed"
    clip = read(put("c.mp4"), assumed_fov_x_deg=90.0)
    assert (clip.intrinsics, clip.camera.fx) == ("assumed", pytest.approx(80))


def test_the_folder_file_serves_all_and_the_own_file_wins(put):
    path = put("a.mp4", {"text": "wave"})
    put("b.mp4", {"fov_x_deg": 60.0})
    (path.parent / "_folder.json").write_text(
        json.dumps(GIVEN | {"text": "do nothing", "split": "test", "objects": ["cup"]})
    )
    a, b = read(path), read(path.with_name("b.mp4"))
    assert (a.camera.fx, a.instructions[0].text, a.split, a.object_names) == (100, "wave", "test", ("cup",))
    assert b.camera.fx == pytest.approx(80 / np.tan(np.pi / 6))
    assert b.instructions[0].text == "do nothing"
    assert (a.instructions[0].start_s, a.instructions[0].end_s) == (0, pytest.approx(2.0))


def test_poses_and_instructions(put):
    T = transforms.make(transforms.rotvec_to_rotmat(np.array([0.1, 0.2, 0.3])), [1.0, 2.0, 3.0])
    texts = [{"start_s": 0, "end_s": 1, "text": "reach", "side": "left"}, {"start_s": 1, "end_s": 2.0, "text": "take"}]
    clip = read(put("a.mp4", GIVEN | {"T_cam_world": T.tolist(), "instructions": texts}))
    assert clip.T_cam_world.shape == (NUM_FRAMES, 4, 4)
    np.testing.assert_allclose(clip.T_cam_world, np.broadcast_to(T, (NUM_FRAMES, 4, 4)))
    assert [(i.text, i.side) for i in clip.instructions] == [("reach", "left"), ("take", None)]


@pytest.mark.parametrize(
    ("side", "reason", "says"),
    [
        (None, Reason.MISSING_SIDE_FILE, "assumed_fov_x_deg"),
        ("{not json", Reason.BAD_SIDE_FILE, "no JSON"),
        ("[1, 2]", Reason.BAD_SIDE_FILE, "must hold an object"),
        ({"text": "wave"}, Reason.BAD_SIDE_FILE, "neither"),
        ({"fov": 60}, Reason.BAD_SIDE_FILE, "unknown key 'fov'"),
        ({"fx": 100, "fy": 100}, Reason.BAD_SIDE_FILE, "belong together"),
        (GIVEN | {"fov_x_deg": 60}, Reason.BAD_SIDE_FILE, "not both"),
        (GIVEN | {"fx": "100"}, Reason.BAD_SIDE_FILE, "fx must be a number"),
        (GIVEN | {"fx": True}, Reason.BAD_SIDE_FILE, "fx must be a number"),
        (GIVEN | {"fx": -1}, Reason.BAD_SIDE_FILE, "> 0"),
        (GIVEN | {"cx": float("nan")}, Reason.NAN_LABEL, "cx is nan"),
        (GIVEN | {"cx": 900}, Reason.BAD_SIDE_FILE, "image_size"),
        (GIVEN | {"image_size": [100, 100]}, Reason.BAD_SIDE_FILE, "160 x 120"),
        ({"fov_x_deg": 200}, Reason.BAD_SIDE_FILE, "between 1 and 179"),
        (GIVEN | {"distortion": [0.1, 0.2]}, Reason.BAD_SIDE_FILE, "4, 5 or 8"),
        (GIVEN | {"distortion": [0.1, 0.2, 0, float("inf")]}, Reason.NAN_LABEL, "distortion[3]"),
        (GIVEN | {"T_cam_world": np.eye(3).tolist()}, Reason.BAD_SIDE_FILE, "4 x 4"),
        (GIVEN | {"T_cam_world": (2 * np.eye(4)).tolist()}, Reason.BAD_SIDE_FILE, "rigid"),
        (GIVEN | {"T_cam_world": np.diag([1, 1, -1, 1]).tolist()}, Reason.BAD_SIDE_FILE, "rigid"),
        (GIVEN | {"T_cam_world": [[1, 0, 0, 0], [0, float("nan"), 0, 0]]}, Reason.NAN_LABEL, "T_cam_world[1][1]"),
        (GIVEN | {"T_cam_world": [[1, 0], [1]]}, Reason.BAD_SIDE_FILE, "differ in length"),
        (GIVEN | {"text": ""}, Reason.BAD_SIDE_FILE, "text must be a text"),
        (GIVEN | {"text": "a", "instructions": []}, Reason.BAD_SIDE_FILE, "not both"),
        (GIVEN | {"instructions": [{"text": "a"}]}, Reason.BAD_SIDE_FILE, "instructions[0]"),
        (GIVEN | {"instructions": [{"start_s": 1, "end_s": 0, "text": "a"}]}, Reason.BAD_SIDE_FILE, "start_s < end_s"),
        (GIVEN | {"instructions": [{"start_s": 0, "end_s": 1, "text": "a", "side": "both"}]}, Reason.BAD_SIDE_FILE, "side"),
        (GIVEN | {"split": "val"}, Reason.BAD_SIDE_FILE, "one of train, test"),
        (GIVEN | {"objects": "cup"}, Reason.BAD_SIDE_FILE, "list of texts"),
    ],
)  # fmt: skip
def test_bad_side_files_say_what_and_where(put, side, reason, says):
    with pytest.raises(ClipError) as caught:
        read(put("a.mp4", side))
    assert caught.value.reason == reason
    assert says in caught.value.detail


def test_undistorted_frames_are_pinhole_pictures(tmp_path):
    """Dots drawn where a distorting lens puts points come out where the pinhole camera projects them."""
    camera = PinholeCamera(300, 300, 160, 120, 320, 240)
    lens = (-0.25, 0.08, 0.001, -0.002)
    grid = np.stack(np.meshgrid(np.linspace(-0.35, 0.35, 5), np.linspace(-0.25, 0.25, 4)), -1).reshape(-1, 2)
    points = np.concatenate([grid, np.ones((len(grid), 1))], 1)
    v, u = np.indices((240, 320)) + 0.5
    picture = np.zeros((240, 320))
    for x, y in distort(camera, np.array(lens), points):
        picture += 255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 8)
    video = tmp_path / "a.mp4"
    write_video(video, [np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2)] * 3, 10)
    side = {"fx": 300, "fy": 300, "cx": 159.5, "cy": 119.5, "distortion": lens}
    video.with_suffix(".json").write_text(json.dumps(side))
    clip = read(video)
    for size in (None, (160, 120)):
        frame = next(iter(clip.frames([1], size))).rgb.mean(axis=2)
        seen = clip.camera if size is None else clip.camera.resized(*size)
        v, u = np.indices(frame.shape) + 0.5
        for x, y in seen.project(points):
            near = ((u - x) ** 2 + (v - y) ** 2 < 36) * np.maximum(frame - 20, 0)
            np.testing.assert_allclose([(near * u).sum() / near.sum(), (near * v).sum() / near.sum()], [x, y], atol=0.3)


def test_the_stage_keeps_going_and_counts_what_is_bad(tmp_path, put):
    put("good.mp4", GIVEN)
    put("deep/er/good.mp4", GIVEN)
    put("no_side.mp4")
    put("nan.mp4", GIVEN | {"fx": float("nan")})
    put("empty.mp4", GIVEN).write_bytes(b"")
    put("text.mov", GIVEN).write_bytes(b"not a video")
    put("good.mkv")
    put(".hidden.mp4", GIVEN)
    report = run_stage(tmp_path, config(), "raw_videos", "mine")
    out = tmp_path / "data" / "raw_videos" / "mine"
    clips, rejects = tables.read("clips", out / "clips.parquet"), tables.read("rejects", out / "rejects.parquet")
    assert clips["clip_id"].to_list() == ["mine/deep/er/good", "mine/good"]
    assert report.rejects == {
        "corrupt_video": 1,
        "duplicate_name": 1,
        "empty_video": 1,
        "missing_side_file": 1,
        "nan_label": 1,
    }
    assert len(rejects) == 5
    assert rejects.filter(pl.col("reason") == "nan_label")["item"].item() == "videos/nan.mp4"
    assert report.rows == {"clips": 2, "videos": 7}
    assert (out / report.pictures["clips"]).stat().st_size < 300_000


def test_only_bad_videos_give_empty_tables(tmp_path, put):
    put("a.mp4")
    report = run_stage(tmp_path, config(), "raw_videos", "mine")
    assert report.rows["clips"] == 0
    assert report.rejects == {"missing_side_file": 1}
    assert list(manifest.read_clips(tmp_path / "data/raw_videos/mine", tmp_path)) == []


def test_no_video_at_all_is_an_error_with_advice(tmp_path):
    with pytest.raises(FileNotFoundError, match="hand3d bootstrap"):
        run_stage(tmp_path, config(), "raw_videos", "mine")
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match=r"docs/sources\.md"):
        run_stage(tmp_path, config(), "raw_videos", "mine")
    with pytest.raises(ValueError, match=r"there are: .*folder"):
        run_stage(tmp_path, config(replace(SHARD, kind="nothing")), "raw_videos", "mine")


def test_clips_come_back_as_they_were_read(tmp_path, put):
    paths = [put("a.mp4", GIVEN | {"text": "wave", "split": "train"}), put("b.mp4", {"text": "rest", "split": "test"})]
    run_stage(tmp_path, config(assumed_fov_x_deg=70.0), "raw_videos", "mine")
    for place in ("data/raw_videos/mine", "data/raw_videos"):
        a, b = manifest.read_clips(tmp_path / place, tmp_path)
        assert (a.clip_id, b.clip_id, a.video, b.intrinsics) == ("mine/a", "mine/b", paths[0], "assumed")
        assert b.camera.fx == pytest.approx(80 / np.tan(np.deg2rad(35)))
        assert a.instructions[0].text == "wave"
        assert [f.index for f in a.frames([0, 7])] == [0, 7]
    assert [c.clip_id for c in manifest.read_clips(tmp_path / "data/raw_videos", tmp_path, "test")] == ["mine/b"]


def test_a_changed_video_is_noticed(tmp_path, put):
    path = put("a.mp4", GIVEN)
    run_stage(tmp_path, config(), "raw_videos", "mine")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ClipError, match="run `hand3d run raw_videos` again"):
        list(manifest.read_clips(tmp_path / "data/raw_videos/mine", tmp_path))


def test_the_version_follows_names_and_bytes_only(tmp_path, put):
    path = put("a.mp4", GIVEN)
    first = manifest.content_version(tmp_path, SHARD)
    path.touch()
    assert manifest.content_version(tmp_path, SHARD) == first
    path.with_suffix(".json").write_text(json.dumps(GIVEN | {"text": "wave"}))
    second = manifest.content_version(tmp_path, SHARD)
    put("b.mp4", GIVEN)
    assert len({first, second, manifest.content_version(tmp_path, SHARD)}) == 3


def test_splits_do_not_move_when_videos_are_added():
    ids = [f"mine/{i}" for i in range(4000)]
    splits = {i: manifest.split_of(i, 0.15) for i in ids}
    assert 0.13 < list(splits.values()).count("test") / 4000 < 0.17
    more = {i: manifest.split_of(i, 0.15) for i in [*ids, "mine/new"]}
    assert all(more[i] == splits[i] for i in ids)
    wider = {i for i in ids if manifest.split_of(i, 0.3) == "test"}
    assert {i for i in ids if splits[i] == "test"} < wider


def test_an_interrupted_run_goes_on(tmp_path, put, monkeypatch):
    for name in "abc":
        put(f"{name}.mp4", GIVEN)
    done = []
    real = folder.read_clip

    def counted(video, *args):
        if video.stem == "c" and "c" not in done:
            done.append("c")
            raise KeyboardInterrupt
        done.append(video.stem)
        return real(video, *args)

    monkeypatch.setattr(folder, "read_clip", counted)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, config(), "raw_videos", "mine")
    assert not (tmp_path / "data/raw_videos/mine").exists()
    first = done.index("c")
    run_stage(tmp_path, config(), "raw_videos", "mine")
    before_the_sheet = done[first + 1 : first + 2]
    assert sorted(done[:first]) == ["a", "b"]
    assert before_the_sheet == ["c"]


def test_synthetic_shards_through_the_stage(tiny_clips, tiny_shard, tmp_path):
    shard = replace(tiny_shard, root=str(tiny_clips / tiny_shard.root))
    report = run_stage(tmp_path, config(shard), "raw_videos", "mine")
    clips = list(manifest.read_clips(tmp_path / "data/raw_videos", tmp_path))
    assert report.metrics["num_test_clips"] == 1
    assert [clip.clip_id for clip in clips] == [f"synthetic/clip-000{i}" for i in range(3)]
    assert all(clip.hands and clip.has_depth for clip in clips)


@pytest.mark.parametrize(
    ("times", "fps", "expected"),
    [
        (np.arange(24) / 10, 1.0, [0, 10, 20]),
        (np.arange(60) / 29.97, 1.0, [0, 30]),
        (np.array([0, 0.4, 0.9, 1.3, 2.2]), 1.0, [0, 2, 4]),
        (np.array([0.0]), 1.0, [0]),
        (np.arange(4) / 2, 10.0, [0, 1, 2, 3]),
    ],
)
def test_sampled_frames_are_the_nearest(times, fps, expected):
    assert sampled_frames(times, fps) == expected
    wanted = np.arange(0, times[-1] + 1e-6, 1 / fps)
    assert {int(np.abs(times - w).argmin()) for w in wanted} == set(expected)


CALIBRATION = """<calibration><cameras><camera serial="cam01">
<fov_video bottom="1919" left="0" right="1087" top="0"/>
<transform r11="1" r12="0" r13="0" r21="0" r22="-1" r23="0" r31="0" r32="0" r33="-1" x="100" y="200" z="3000"/>
<intrinsic centerPointU="34784" centerPointV="61408" focalLengthU="107520" focalLengthV="107520"
radialDistortion1="-0.04" radialDistortion2="0.1" radialDistortion3="0" tangentalDistortion1="0.001" tangentalDistortion2="0.002"/>
</camera></cameras></calibration>"""


def test_qualisys_calibrations_become_opencv():
    side = pose2sim.side_file(CALIBRATION, "cam01", 1088, 1920)
    assert (side["fx"], side["cx"], side["cy"]) == (1680, 543.5, 959.5)
    assert side["distortion"] == [-0.04, 0.1, 0.001, 0.002, 0.0]
    T = np.array(side["T_cam_world"])
    position = transforms.invert(T)[:3, 3]
    np.testing.assert_allclose(position, [0.1, 0.2, 3.0])


def test_shrunk_and_padded_videos_get_their_own_intrinsics():
    """A point of the calibrated 1088 x 1920 image, shrunk by 1080/1088 and padded evenly to 1920, where it should be."""
    whole = pose2sim.side_file(CALIBRATION, "cam01", 1088, 1920)
    small = pose2sim.side_file(CALIBRATION, "cam01", 1080, 1920)
    ray = np.array([0.2, -0.3])
    there = [whole["fx"] * ray[0] + whole["cx"] + 0.5, whole["fy"] * ray[1] + whole["cy"] + 0.5]
    here = [small["fx"] * ray[0] + small["cx"] + 0.5, small["fy"] * ray[1] + small["cy"] + 0.5]
    scale = 1080 / 1088
    np.testing.assert_allclose(here, [there[0] * scale, there[1] * scale + (1920 - 1920 * scale) / 2])
    with pytest.raises(ValueError, match="cam09"):
        pose2sim.side_file(CALIBRATION, "cam09", 1088, 1920)
