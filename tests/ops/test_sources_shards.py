"""Shards of sources whose clips are folders of images: parts by `include`, versions, resumption, unreadable clips."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ops import tables
from ops.config import Config, RawVideosConfig, ShardConfig, TrainConfig
from ops.geometry.camera import PinholeCamera
from ops.pipeline import run_stage
from ops.rejects import ClipError, Reason
from ops.sources import dexycb, h2o, manifest
from ops.sources.example import make_truth
from ops.store import Report
from tests.ops.toy_hands import write_toy_models

CAMERA = PinholeCamera.from_fov_x(60.0, 160, 120)
SHARD = ShardConfig("h2o", "h2o", "h2o")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """H2O: two sequences of each of two subjects."""
    root = tmp_path_factory.mktemp("all")
    models = write_toy_models(root / "mano")
    for subject in ("s01", "s02"):
        for number in range(2):
            truth = make_truth(models, CAMERA, 3, seed=number, name=f"k1/{number}")
            h2o.write_example(root / "h2o", replace(truth, subject=subject))
    return root


@pytest.fixture
def workspace(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(root, shards: dict[str, ShardConfig], name: str):
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    config = Config(shards, train, train, train, train, raw_videos=RawVideosConfig())
    report = run_stage(root, config, "raw_videos", name)
    folder = root / "data" / "raw_videos" / name
    clips, rejects = (tables.read(t, folder / f"{t}.parquet") for t in ("clips", "rejects"))
    assert Report.load(folder) == report
    return clips, rejects


def test_shards_are_parts_of_one_copy(workspace):
    shards = {
        "one": replace(SHARD, include=("subject1/*",)),
        "two": replace(SHARD, include=("subject2/k1/1", "subject2/k1/0")),
    }
    ids = {name: run(workspace, shards, name)[0]["clip_id"].to_list() for name in shards}
    assert ids["one"] == ["h2o/subject1/k1/0/cam4", "h2o/subject1/k1/1/cam4"]
    assert ids["two"] == ["h2o/subject2/k1/0/cam4", "h2o/subject2/k1/1/cam4"]
    with pytest.raises(ValueError, match=r"none of the 4 clips .* matches include"):
        run(workspace, {"none": replace(SHARD, include=("subject9/*",))}, "none")
    assert [clip.clip_id for clip in manifest.read_clips(workspace / "data" / "raw_videos", workspace)] == [
        *ids["one"],
        *ids["two"],
    ]


def test_the_version_of_a_shard_follows_its_own_bytes(workspace):
    one, two = (replace(SHARD, include=(f"subject{k}/*",)) for k in (1, 2))
    before = manifest.content_version(workspace, one), manifest.content_version(workspace, two)
    assert manifest.content_version(workspace, one) == before[0]
    sequence = workspace / "h2o" / "subject1" / "k1" / "0" / "cam4"
    changes = [
        sequence / "rgb" / "000001.png",
        sequence / "hand_pose" / "000002.txt",
        sequence / "depth" / "000000.png",
        sequence / "cam_intrinsics.txt",
    ]
    for path in changes:
        kept = path.read_bytes()
        path.write_bytes(kept + b" ")
        assert manifest.content_version(workspace, one) != before[0], path.name
        assert manifest.content_version(workspace, two) == before[1]
        path.write_bytes(kept)
    assert manifest.content_version(workspace, one) == before[0]
    (sequence / "rgb" / "000002.png").rename(sequence / "rgb" / "000007.png")
    assert manifest.content_version(workspace, one) != before[0]


def test_an_interrupted_shard_goes_on_where_it_stopped(workspace, monkeypatch):
    read, done = h2o.read_clip, []

    def failing(video, *arguments):
        done.append(video)
        if len(done) == 3:
            raise KeyboardInterrupt
        return read(video, *arguments)

    monkeypatch.setattr(h2o, "read_clip", failing)
    with pytest.raises(KeyboardInterrupt):
        run(workspace, {"all": SHARD}, "all")
    assert not (workspace / "data" / "raw_videos" / "all").exists()
    # the contact sheet reads clips again: count only the rows
    rows, made = manifest._row, []
    monkeypatch.setattr(manifest, "_row", lambda video, *rest: made.append(video) or rows(video, *rest))
    clips, _ = run(workspace, {"all": SHARD}, "all")
    assert (clips.height, len(made)) == (4, 2)
    assert {path.parts[-5] for path in made} == {"subject2"}


def test_an_image_that_changed_meanwhile_is_looked_at_again(workspace, monkeypatch):
    sheet = manifest._contact_sheet
    monkeypatch.setattr(manifest, "_contact_sheet", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(workspace, {"all": SHARD}, "all")
    label = workspace / "h2o" / "subject2" / "k1" / "0" / "cam4" / "hand_pose" / "000000.txt"
    label.write_text("nan " + label.read_text()[2:])
    monkeypatch.setattr(manifest, "_contact_sheet", sheet)
    clips, rejects = run(workspace, {"all": SHARD}, "all")
    assert clips.height == 3
    assert rejects["reason"].to_list() == [str(Reason.NAN_LABEL)]


def test_unreadable_sequences_are_listed_and_stop_nothing(workspace):
    sequences = sorted((workspace / "h2o").glob("subject*/k1/*/cam4"))
    (sequences[0] / "rgb" / "000000.png").write_bytes(b"no image")
    (sequences[1] / "hand_pose" / "000001.txt").write_text("1 2 3")
    (sequences[2] / "cam_intrinsics.txt").unlink()
    clips, rejects = run(workspace, {"all": SHARD}, "all")
    assert clips["clip_id"].to_list() == ["h2o/subject2/k1/1/cam4"]
    found = {row["item"]: (row["reason"], row["frame"]) for row in rejects.iter_rows(named=True)}
    assert found == {
        "h2o/subject1/k1/0/cam4/rgb": ("corrupt_video", 0),
        "h2o/subject1/k1/1/cam4/rgb": ("bad_label", 1),
        "h2o/subject2/k1/0/cam4/rgb": ("missing_side_file", -1),
    }
    assert all(row["detail"] for row in rejects.iter_rows(named=True))


def test_a_clip_that_changed_after_raw_videos_is_refused(workspace):
    clips, _ = run(workspace, {"all": SHARD}, "all")
    image = workspace / "h2o" / "subject1" / "k1" / "0" / "cam4" / "rgb" / "000001.png"
    image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(ClipError, match="has changed since raw_videos was made"):
        manifest.read_clip(clips.row(0, named=True), workspace)


def test_a_rejected_image_deep_inside_is_found_when_it_is_decoded(workspace):
    """raw_videos decodes the first image and those of its contact sheet; the check of the copy three of each clip."""
    clips, _ = run(workspace, {"all": SHARD}, "all")
    row = clips.row(0, named=True)
    path = workspace / "h2o" / "subject1" / "k1" / "0" / "cam4" / "rgb" / "000002.png"
    path.write_bytes(b"\0" * path.stat().st_size)
    clip = manifest.read_clip(row, workspace)
    assert len(list(clip.frames([0, 1]))) == 2
    with pytest.raises(ClipError) as error:
        list(clip.frames([2]))
    assert (error.value.reason, error.value.frame) == (Reason.CORRUPT_VIDEO, 2)


def test_views_are_shards_of_their_own(tmp_path):
    models = write_toy_models(tmp_path / "mano")
    truth = make_truth(models, PinholeCamera.from_fov_x(55.0, 640, 480), 2, sides=("left",), moving=False)
    for serial in ("836212060125", "839512060362"):
        dexycb.write_example(tmp_path / "dexycb", truth, serial)
    base = ShardConfig("dexycb", "dexycb", "dexycb", hand_model="mano")
    shards = {"both": base, "second": replace(base, view="839512060362"), "part": replace(base, include=("*/*/8362*",))}
    views = {name: [clip_id.split("/")[-1] for clip_id in run(tmp_path, shards, name)[0]["clip_id"]] for name in shards}
    assert views == {"both": ["836212060125", "839512060362"], "second": ["839512060362"], "part": ["836212060125"]}
    clips = list(manifest.read_clips(tmp_path / "data" / "raw_videos" / "second", tmp_path))
    assert [clip.view for clip in clips] == ["839512060362"]
    assert clips[0].hand_model == Path(tmp_path / "mano")
    assert np.isfinite(clips[0].hands["left"].tau).all()
