"""The release of Hand3D, loaded with the libraries people use: datasets, webdataset, pyarrow, pandas, PyAV."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import replace

import av
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from ops import checks, config, tables
from ops.hand3d import sampling
from ops.hand3d.release import card, conversations, frames, parts, write
from ops.hand3d.release.tars import TarShards
from ops.pipeline import output, run_stage
from ops.sources import manifest
from ops.stages import BY_NAME
from ops.store import Report
from tests.ops import release_world
from tests.ops.release_world import SHARDS, WORLDS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(manifest.READERS, "made", "tests.ops.release_world")
        yield release_world.make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def made(root):
    """The release with frames of the open shard alone."""
    run_stage(root, release_world.settings(), "hand3d_dataset")
    return output(root, "hand3d_dataset")


@pytest.fixture(scope="module")
def upstream(root):
    return {
        ("visual", "train"): tables.read("visual_rows", root / "data" / "hand3d_visual"),
        ("visual", "test"): tables.read("visual_rows", root / "data" / "hand3d_test" / "visual_rows.parquet"),
        **{("action", s): tables.read("action_rows", root / "data" / "hand3d_action").filter(split=s) for s in tables.SPLITS},
    }  # fmt: skip


def again(root, tmp_path, report=False, **values):
    """Another release from the same upstream artefacts, without the quality report unless asked for."""
    data = tmp_path / "data"
    data.mkdir()
    for path in (root / "data").iterdir():
        if path.name not in ("hand3d_dataset", ".scratch"):
            (data / path.name).symlink_to(path)
    for path in root.glob("*.mp4"):
        (tmp_path / path.name).symlink_to(path)
    with pytest.MonkeyPatch.context() as patch:
        if not report:
            patch.setattr("ops.hand3d.quality.write", lambda *_: None)
        run_stage(tmp_path, release_world.settings(**values), "hand3d_dataset")
    return output(tmp_path, "hand3d_dataset")


def frame_numbers(row):
    return row["frames"] if "frames" in row else [row["frame"]]


def is_frame(image, clip_id, frame):
    """Whether a picture is that frame of that clip and no other: those differ by at least 20 levels."""
    middle = np.asarray(image)[8:-8, 8:-8].reshape(-1, 3).mean(0)
    return np.abs(middle - release_world.colour(clip_id[-1], frame)).max() < 9


def assert_same(ours, theirs):
    """JSON writes float32 with the digits that read back to it."""
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        numbers = isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float))
        equal = np.array_equal(np.float32(ours[name]), np.float32(value)) if numbers else ours[name] == value
        assert equal, name


@pytest.mark.parametrize(("kind", "split"), [("visual", "train"), ("visual", "test"), ("action", "train"), ("action", "test")])  # fmt: skip
def test_hugging_face_loads_every_row_without_a_script(made, upstream, kind, split, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(made), kind, split=split, cache_dir=str(tmp_path))
    expected = {row["row_id"]: row for row in upstream[kind, split].iter_rows(named=True)}
    assert len(loaded) == len(expected)
    for row in loaded:
        for column, value in expected[row["row_id"]].items():
            assert row[column] == value, column
    streamed = next(iter(datasets.load_dataset(str(made), kind, split=split, streaming=True)))
    assert streamed["row_id"] == loaded[0]["row_id"]
    assert not list(made.rglob("*.py"))


def test_clips_are_a_configuration_and_name_no_path_of_this_machine(made, root, tmp_path):
    datasets = pytest.importorskip("datasets")
    clips = datasets.load_dataset(str(made), "clips", cache_dir=str(tmp_path))["train"]
    assert sorted(clips["clip_id"]) == [f"made/{name}" for name in "abcd"]
    assert {row["clip_id"]: row["frames_allowed"] for row in clips} == {"made/a": True, "made/b": True, "made/c": False, "made/d": False}  # fmt: skip
    for path in made.rglob("*"):
        if path.is_file():
            assert str(root).encode() not in path.read_bytes(), path


def test_parquet_has_types_that_every_reader_knows(made):
    """Upstream holds fixed-size lists with nulls, which Arrow writes and then cannot read (apache/arrow#35692)."""
    for path in made.rglob("parquet/**/*.parquet"):
        table = pq.read_table(path)
        kinds = {str(field.type) for field in table.schema}
        assert not {kind for kind in kinds if "large" in kind or "fixed" in kind or "view" in kind}, path
    visual = pq.read_table(made / "parquet/visual/train-open.parquet")
    assert visual["rotation"].null_count > 0
    assert visual.schema.field("direction").type.value_type.bit_width == 8
    action = pq.read_table(made / "parquet/action/train-open.parquet")
    assert str(action.schema.field("target_tokens").type.value_type) == "uint16"  # integers, never strings


@pytest.fixture(scope="module")
def images(made, tmp_path_factory):
    """The frame tars, unpacked as the card says."""
    folder = tmp_path_factory.mktemp("unpacked")
    for path in sorted((made / "frames").glob("*.tar")):
        subprocess.run(["tar", "-xf", path, "-C", folder], check=True)
    return folder


def test_internvl_lines_name_frames_that_are_there(made, images, upstream):
    meta = json.loads((made / "conversations/internvl/meta.json").read_text())
    assert set(meta) == {"hand3d-visual-train-open", "hand3d-action-train-open"}
    lines = [json.loads(line) for path in (made / "conversations/internvl").glob("*.jsonl") for line in path.open()]
    rows = {row["row_id"]: row for table in upstream.values() for row in table.iter_rows(named=True)}
    assert {line["id"] for line in lines} == {r for r, row in rows.items() if row["clip_id"] in ("made/a", "made/b")}
    for line in lines:
        row, (human, gpt) = rows[line["id"]], line["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        paths = line["image"] if isinstance(line["image"], list) else [line["image"]]
        assert isinstance(line["image"], list) == (len(frame_numbers(row)) > 1)
        assert human["value"].count("<image>") == len(paths) == len(frame_numbers(row))
        sizes = []
        for path, frame in zip(paths, frame_numbers(row), strict=True):
            with Image.open(images / path) as image:
                sizes.append(image.size)
                assert is_frame(image, row["clip_id"], frame)
        if len(paths) > 1:
            assert human["value"].startswith("Frame-1: <image>\nFrame-2: <image>\n")
            assert [*zip(line["width_list"], line["height_list"], strict=True)] == sizes == [(64, 48)] * len(paths)
        else:
            assert human["value"].startswith("<image>\n")
            assert [(line["width"], line["height"])] == sizes
        check_words(row, human["value"], gpt["value"])
    for name, entry in meta.items():
        assert entry["length"] == sum(1 for _ in (made / entry["annotation"]).open()), name
        assert entry["repeat_time"] == 1


def check_words(row, human, gpt):
    """The turns hold the row's own words and motion tokens, which read back to the row's integers."""
    if "question" in row:
        assert human.endswith(row["question"])
        assert gpt == row["answer"]
        return
    assert row["prompt"] in human
    for text, tokens in ((human, row["context_tokens"]), (gpt, row["target_tokens"])):
        assert [int(n) for n in re.findall(r"<motion_(\d+)>", text)] == tokens
        assert text.count("<mot>") == text.count("</mot>") == bool(tokens)
    if row["target_text"]:
        assert gpt == row["target_text"]


def test_llava_file_is_one_list_with_plain_placeholders(made, images):
    config = yaml.safe_load((made / "conversations/llava/data.yaml").read_text())
    listed = [item["json_path"] for item in config["datasets"]]
    assert listed == ["conversations/llava/visual-train-open.json", "conversations/llava/action-train-open.json"]
    for path in sorted((made / "conversations/llava").glob("*.json")):
        ours = json.loads(path.read_text())
        theirs = [json.loads(line) for line in (made / "conversations/internvl" / f"{path.stem}.jsonl").open()]
        assert [row["id"] for row in ours] == [row["id"] for row in theirs]
        for row in ours:
            named = row["image"] if isinstance(row["image"], list) else [row["image"]]
            assert all((images / name).is_file() for name in named)
            assert row["conversations"][0]["value"].startswith("<image>\n" * len(named))
            assert set(row) == {"id", "image", "conversations"}


def test_webdataset_reads_rows_with_their_frames(made, upstream):
    webdataset = pytest.importorskip("webdataset")
    rows = {row["row_id"]: row for table in upstream.values() for row in table.iter_rows(named=True)}
    seen, keys = set(), set()
    tars = sorted(str(path) for path in (made / "webdataset").glob("*.tar"))
    for sample in webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"):
        row = sample["json"]["row"]
        shots = [sample[f"{k}.jpg"] for k in range(len(frame_numbers(row)))]
        assert f"{len(shots)}.jpg" not in sample
        assert all(is_frame(s, row["clip_id"], f) for s, f in zip(shots, frame_numbers(row), strict=True))
        assert_same(row, rows[row["row_id"]])
        assert sample["json"]["conversation"]["id"] == row["row_id"]
        seen.add(row["row_id"])
        keys.add(sample["__key__"])
    assert seen == {r for r, row in rows.items() if row["clip_id"] in ("made/a", "made/b")}
    assert len(keys) == len(seen)
    for path in tars:
        with tarfile.open(path) as tar:
            assert sum(member.name.endswith(".json") for member in tar) <= 40


def test_lerobot_data_set_by_an_independent_reader(made):
    """The layout as lerobot 0.4 writes it, read with pyarrow, pandas and PyAV, against the world's truth."""
    import pandas

    folder = made / "lerobot" / "open"
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", 5, "human_hand")
    assert info["splits"] == {"train": "0:2", "test": "2:4"}  # one clip each, both hands
    tasks = pandas.read_parquet(folder / "meta/tasks.parquet")
    episodes = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    data = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    sources = pq.read_table(folder / "sources.parquet").to_pylist()
    assert len(data) == info["total_frames"]
    state = np.array(data["observation.state"].to_pylist())
    assert state.shape[1] == info["features"]["observation.state"]["shape"][0] == len(info["features"]["observation.state"]["names"]) == 51  # fmt: skip
    key = "observation.images.egocentric"
    with av.open(str(folder / info["video_path"].format(video_key=key, chunk_index=0, file_index=0))) as container:
        shots = [(float(f.time), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    for episode, source in zip(episodes, sources, strict=True):
        rows = slice(episode["dataset_from_index"], episode["dataset_to_index"])
        world, side = WORLDS[source["clip_id"]], source["side"]
        assert episode["tasks"] == [f"{side} hand: put the red cube on the blue plate"]
        assert tasks.index[data["task_index"][rows.start].as_py()] == episode["tasks"][0]
        used = np.array(data["observation.source_frame"][rows.start : rows.stop])
        np.testing.assert_array_equal(used, np.arange(10, 10 + 2 * episode["length"], 2))
        assert episode["length"] == release_world.NUM
        truth = np.array([world.in_camera(10, world.wrist_world[side][f]) for f in used])
        np.testing.assert_allclose(state[rows, :3], truth, atol=1e-6)
        action = np.array(data["action"].to_pylist())[rows]
        np.testing.assert_array_equal(action[:-1], state[rows][1:])
        moved = np.array(data["observation.T_cam_first"].to_pylist())[rows].reshape(-1, 4, 4)
        own = np.array([world.in_camera(f, world.wrist_world[side][f]) for f in used])
        np.testing.assert_allclose(np.einsum("tij,tj->ti", moved[:, :3, :3], truth) + moved[:, :3, 3], own, atol=1e-6)
        fx, _, cx, _ = np.array(data["observation.intrinsics"].to_pylist())[rows.start]
        assert (fx, cx) == pytest.approx((400.0 * 32 / 448, 224.0 * 32 / 448))
        for k, frame in enumerate(used):
            time_s = episode[f"videos/{key}/from_timestamp"] + data["timestamp"][rows.start + k].as_py()
            shown = min(shots, key=lambda shot: abs(shot[0] - time_s))[1]
            assert is_frame(shown, source["clip_id"], frame)
    closed = json.loads((made / "lerobot/closed/meta/info.json").read_text())
    assert not [name for name in closed["features"] if "image" in name]
    assert closed["video_path"] is None


def test_our_own_reader_opens_it_too(made):
    from ops.lerobot import reader as lerobot

    dataset = lerobot.read(made / "lerobot/open")
    assert (dataset.num_episodes, dataset.state.shape[1]) == (4, 51)
    assert dataset.images["egocentric"].shape[1:] == (32, 32, 3)
    assert len(lerobot.read(made / "lerobot/closed").images) == 0


def test_frames_that_may_not_be_passed_on_are_nowhere_and_the_card_says_so(made, root):
    assert frames.clips_shown(made, 10**6) == {"made/a", "made/b"}
    text = (made / "README.md").read_text()
    assert "Frames of made are left out" in text
    assert "own; do not pass on" in text
    closed = pq.read_table(made / "parquet/visual/train-closed.parquet")
    assert len(closed) > 0
    report = Report.load(made)
    assert report.rows["rows_with_frames"] < report.rows["rows"]
    left = report.rows["rows"] - report.rows["rows_with_frames"]
    assert f"{left:,} rows are in the Parquet files only" in text
    page = (made / "quality.html").read_text()
    assert "licence is not known to allow showing" not in page or "no picture" in page


def test_internal_use_shows_everything_and_warns(root, tmp_path):
    release = again(root, tmp_path, internal_use=True, webdataset=False)
    assert frames.clips_shown(release, 10**6) == {f"made/{name}" for name in "abcd"}
    text = (release / "README.md").read_text()
    assert "For internal use only" in text
    assert "declaration of internal use" in text
    assert not (release / "webdataset").exists()


def test_parquet_alone(root, tmp_path):
    release = again(root, tmp_path, conversations=False, webdataset=False, lerobot=False)
    assert {path.name for path in release.iterdir() if path.is_dir()} == {"parquet"}
    assert Report.load(release).rows["rows_with_frames"] == 0
    assert card.broken(release) == []


def test_checksums_agree_with_sha256sum_and_find_what_changed(made, tmp_path):
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    assert card.broken(copy) == []
    (copy / "parquet/clips.parquet").write_bytes(b"x")
    (copy / "README.md").unlink()
    (copy / "stranger.txt").write_text("x")
    assert card.broken(copy) == ["README.md", "parquet/clips.parquet", "stranger.txt"]
    lines = [line for line in (made / "SHA256SUMS").read_text().splitlines(keepends=True) if "README.md" not in line]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() in (made / "README.md").read_text()


def test_interrupted_release_goes_on_where_it_stopped_and_ends_in_the_same_bytes(made, root, tmp_path, monkeypatch):
    written, real = [], write.write_part

    def part_that_fails_once(part, *rest):
        written.append(part.name)
        if len(written) == 3:
            raise OSError("the power went")
        return real(part, *rest)

    monkeypatch.setattr(write, "write_part", part_that_fails_once)
    with pytest.raises(OSError, match="power"):
        again(root, tmp_path)
    assert not output(tmp_path, "hand3d_dataset").exists()
    run_stage(tmp_path, release_world.settings(), "hand3d_dataset")
    assert written[3] == written[2]  # the two before it were kept
    assert len(written) == len(set(written)) + 1
    assert (output(tmp_path, "hand3d_dataset") / "SHA256SUMS").read_text() == (made / "SHA256SUMS").read_text()


def test_changed_settings_throw_finished_work_away(tmp_path):
    made_by = []

    def make(folder):
        made_by.append(folder)
        (folder / "x").write_text("x")
        return {"n": len(made_by)}

    for key in ("a", "a", "b"):
        _, facts = parts.once(tmp_path, "piece", key, make)
    assert len(made_by) == 2
    assert facts == {"n": 2}


def test_card_counts_are_the_rows(made, upstream):
    text = (made / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert [item["config_name"] for item in front["configs"]] == ["visual", "action", "clips"]
    assert front["size_categories"] == ["n<1K"]
    for (kind, split), table in upstream.items():
        assert f"| {kind} | {split} | {len(table)} |" in text
        for task, count in table["task"].value_counts().iter_rows():
            clips = table.filter(task=task)["clip_id"].n_unique()
            assert f"| made | {task} | {split} | {count} | {clips} |" in text


def test_video_that_breaks_off_loses_its_frames_and_not_its_rows(root, tmp_path):
    workspace = tmp_path / "broken"
    shutil.copytree(root, workspace, ignore=shutil.ignore_patterns("hand3d_dataset", ".scratch"))
    path = workspace / "a.mp4"
    data = bytearray(path.read_bytes())
    data[2000 : len(data) // 2] = bytes(len(data) // 2 - 2000)  # the index at its end stays readable
    path.write_bytes(data)
    spoiled = replace(WORLDS["made/a"], clip=replace(WORLDS["made/a"].clip, video=path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORLDS, "made/a", spoiled)
        patch.setattr("ops.hand3d.quality.write", lambda *_: None)
        report = run_stage(workspace, release_world.settings(lerobot=False), "hand3d_dataset")
    assert report.rejects == {"corrupt_video": 1}
    release = output(workspace, "hand3d_dataset")
    (path,) = (release / "frames").glob("open-*.tar")
    with tarfile.open(path) as tar:
        shown = {member.name: Image.open(tar.extractfile(member)).convert("RGB") for member in tar}
    assert all(is_frame(image, name[:6], int(name[7:13])) for name, image in shown.items())
    assert "made/a/000040.jpg" not in shown
    named = (release / "conversations/internvl/visual-train-open.jsonl").read_text()
    assert set(re.findall(r"made/a/\d+.jpg", named)) <= set(shown)
    assert pq.read_table(release / "parquet/visual/train-open.parquet")["clip_id"].unique().to_pylist() == ["made/a"]


def test_tars_depend_on_contents_alone_and_refuse_paths_outside(tmp_path):
    for name in ("x", "y"):
        with TarShards(tmp_path / name / "part", 2) as tars:
            places = [place for k in range(5) for place in tars.add({f"{k}.bin": bytes([k]) * (700 * k)})]
    for number in range(3):
        first, second = (tmp_path / name / f"part-{number:05d}.tar" for name in ("x", "y"))
        assert first.read_bytes() == second.read_bytes()
    for k, (name, offset, size) in enumerate(places):
        with (tmp_path / "y" / name).open("rb") as file:
            file.seek(offset)
            assert file.read(size) == bytes([k]) * (700 * k)
    with TarShards(tmp_path / "z", 2) as tars, pytest.raises(ValueError, match="outside"):
        tars.add({"../x": b""})
    with pytest.raises(ValueError, match="samples_per_tar"):
        TarShards(tmp_path / "z", 0)


def test_frames_are_never_enlarged():
    assert frames.fitted(448, 336, 224) == (224, 168)
    assert frames.fitted(1080, 1920, 448) == (252, 448)
    assert frames.fitted(64, 48, 448) == (64, 48)
    with pytest.raises(ValueError, match="frame_long_edge"):
        frames.fitted(64, 48, 0)
    assert Image.open(io.BytesIO(frames.jpeg(np.zeros((4, 6, 3), np.uint8), 90))).size == (6, 4)


def test_batches_do_not_change_the_rows(root):
    (part, *_) = parts.list_parts(*(root / "data" / f"hand3d_{k}" for k in ("visual", "action", "test")), list(SHARDS))
    whole = pl.concat(part.batches())
    sizes = [len(batch) for batch in part.batches(7)]
    assert set(sizes[:-1]) == {7}
    assert pl.concat(part.batches(7)).equals(whole)
    assert len(whole) == part.count()


def test_only_rows_that_the_targets_choose_are_released(root, tmp_path, upstream, monkeypatch):
    plain = release_world.settings
    chosen = {
        "hand3d_visual": config.Hand3DVisualConfig(targets="paper", num_rows=12),
        "hand3d_action": config.Hand3DActionConfig(targets="paper", num_rows=8),
    }
    monkeypatch.setattr(release_world, "settings", lambda **values: replace(plain(**values), **chosen))
    release = again(root, tmp_path, conversations=False, webdataset=False, lerobot=False)
    clips = tables.read("clips", root / "data" / "raw_videos")
    wanted = {
        "visual/train": sampling.visual_rows(root / "data" / "hand3d_visual", clips, chosen["hand3d_visual"]),
        "visual/test": upstream["visual", "test"],
        "action/train": sampling.action_rows(root / "data" / "hand3d_action", chosen["hand3d_action"]).filter(split="train"),
        "action/test": upstream["action", "test"],
    }  # fmt: skip
    for name, rows in wanted.items():
        kind, split = name.split("/")
        found = pl.read_parquet(release / "parquet" / kind / f"{split}-*.parquet", columns=["row_id"])
        assert sorted(found["row_id"]) == sorted(rows["row_id"]), name
    assert 0 < len(wanted["visual/train"]) <= 12 < len(upstream["visual", "train"])
    made = checks.Made(tmp_path, release_world.settings(), BY_NAME["hand3d_dataset"], "", Report.load(release))
    assert checks._all_rows_released(made)[0]
    assert not checks._all_rows_released(replace(made, config=plain()))[0]


def test_missing_upstream_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="run hand3d_visual"):
        parts.list_parts(tmp_path, tmp_path, tmp_path, ["s"])
    with pytest.raises(ValueError, match="style"):
        conversations.records(pl.DataFrame(), pl.DataFrame(), "other")


@pytest.mark.slow
def test_memory_hardly_grows_with_the_rows(tmp_path):
    """Peak of a fresh process, for four times as many rows, beside the plain way, which holds them all."""
    from bench import bench_hand3d_dataset as bench

    small, large = tmp_path / "small.parquet", tmp_path / "large.parquet"
    bench.made_rows(small, 50_000, per_file=25_000)
    bench.made_rows(large, 200_000, per_file=25_000)
    ours = [bench.peak_mb("ours", path, tmp_path / "ours") for path in (small, large)]
    plain = [bench.peak_mb("plain", path, tmp_path / "plain") for path in (small, large)]
    assert plain[1] > 2 * plain[0], plain
    assert ours[1] - ours[0] < 0.5 * (plain[1] - plain[0]), (ours, plain)
