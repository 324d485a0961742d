"""Stage raw_videos: which videos there are, what is known about each, and what was left out with the reason.

Videos are referenced by path and sha256, never copied. `read_clips` gives the clips back to every later stage.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatch
from functools import lru_cache
from importlib import import_module
from pathlib import Path, PurePath
from types import ModuleType

import numpy as np
from PIL import Image

from ops import contact_sheet, tables
from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.pipeline import StageContext
from ops.rejects import ClipError, Reason
from ops.sources import licences
from ops.sources.base import Clip
from ops.sources.virtual_camera import VIRTUAL, to_virtual
from ops.store import Report, write_file, write_rejects
from ops.video import VideoInfo, frame_times_s, probe

READERS = {
    "arctic": "ops.sources.arctic",
    "dexycb": "ops.sources.dexycb",
    "ego4d": "ops.sources.ego4d",
    "egodex": "ops.sources.egodex",
    "egoexo4d": "ops.sources.egoexo4d",
    "epic_kitchens": "ops.sources.epic_kitchens",
    "folder": "ops.sources.folder",
    "fpha": "ops.sources.fpha",
    "h2o": "ops.sources.h2o",
    "hoi4d": "ops.sources.hoi4d",
    "lerobot_human": "ops.sources.lerobot_human",
    "oakink2": "ops.sources.oakink2",
    "ssv2": "ops.sources.ssv2",
    "synthetic": "ops.sources.synthetic",
    "taco": "ops.sources.taco",
    "taste_rob": "ops.sources.taste_rob",
    "unihand": "ops.sources.unihand",
    "vitra": "ops.sources.vitra",
}
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")
MAX_THUMBNAILS = 12


def run(context: StageContext) -> Report:
    """List, check and describe a shard's videos: clips.parquet, rejects.parquet and a contact sheet.

    One bad video never stops the others. Raises FileNotFoundError or ValueError when the shard has no video at all, and
    ValueError when a licence forbids the declared use.
    """
    shard, use = _resolved(context.shard_config, context.root), context.config.raw_videos.use
    licences.require(shard, reader(shard.kind).SOURCE, use)
    videos = list_videos(shard)
    rows, rejects, seen = [], [], set()
    arguments = (context.root, context.scratch, shard, context.config.raw_videos)
    checked = context.each(load_checker, arguments, videos, "video", _lost)
    for video, row in zip(videos, checked, strict=True):
        if isinstance(row, dict) and row["clip_id"] in seen:
            detail = f"another video of the folder gives clip id {row['clip_id']}: rename {video.name}"
            row = ClipError(Reason.DUPLICATE_NAME, detail)
        if isinstance(row, ClipError):
            rejects.append(row.reject(_relative(video, context.root)))
            continue
        seen.add(row["clip_id"])
        rows.append(row)
    refused = licences.refusal(licences.of_tables(tables.frame("clips", rows), ()), use)
    if refused:  # terms that only a video's own side file states
        raise ValueError(refused)
    report = Report(rows={"clips": len(rows), "videos": len(videos)})
    tables.write("clips", tables.frame("clips", rows), context.out / "clips.parquet")
    write_rejects(context.out, rejects, report)
    _contact_sheet(rows, context, report)
    return _summary(report, rows, shard)


def load_checker(
    root: Path, scratch: Path, shard: ShardConfig, config: RawVideosConfig
) -> Callable[[Path], dict | ClipError]:
    """What a worker does with a video: its row, or why there is none."""

    def check(video: Path) -> dict | ClipError:
        try:
            return _finished_row(root, scratch, video, shard, config)
        except ClipError as error:
            return error

    return check


def _lost(video: Path, why: str) -> ClipError:
    return ClipError(Reason.CRASHED_WORKER, why)


def list_videos(shard: ShardConfig) -> list[Path]:
    """Videos of a shard whose root is absolute. Raises FileNotFoundError / ValueError with advice."""
    root = Path(shard.root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"shard folder {root} is missing: run `hand3d bootstrap`, or correct its root in params.yaml"
        )
    videos = reader(shard.kind).list_videos(root, shard.view)
    if not videos:
        raise ValueError(f"no clip in {root}: it is not laid out as reader {shard.kind!r} expects (docs/sources.md)")
    chosen = [video for video in videos if included(video.relative_to(root), shard.include)]
    if not chosen:
        raise ValueError(f"none of the {len(videos)} clips in {root} matches include = {list(shard.include)}")
    return chosen


def included(path: PurePath, patterns: tuple[str, ...]) -> bool:
    """Whether a path, or a folder it lies in, matches one of the patterns; no pattern takes all."""
    places = [path, *path.parents][:-1] or [path]
    return not patterns or any(fnmatch(place.as_posix(), pattern) for pattern in patterns for place in places)


def read_clips(raw_videos: Path, root: Path, split: str | None = None) -> Iterator[Clip]:
    """Clips of a raw_videos output, one shard's folder or the folder of all shards; read one by one.

    root: the workspace. split: "train" or "test" only. Raises ClipError if a video or side file has changed since.
    """
    for row in clip_rows(raw_videos):
        if split is None or row["split"] == split:
            yield read_clip(row, root)


def clip_rows(raw_videos: Path) -> Iterator[dict]:
    """Rows of clips.parquet of a raw_videos output, one shard's folder or the folder of all shards."""
    path = raw_videos / "clips.parquet" if (raw_videos / "clips.parquet").is_file() else raw_videos
    yield from tables.read("clips", path).iter_rows(named=True)


def content_version(root: Path, shard: ShardConfig) -> str:
    """Data version of a shard: a hash over the names and bytes of its videos and side files, in name order."""
    shard = _resolved(shard, root)
    digest = hashlib.sha256()
    for video in list_videos(shard):
        name = video.relative_to(shard.root).as_posix()
        sides = reader(shard.kind).side_files(video)
        digest.update(f"{name}\0{_sha256(files_of(video))}\0{_sha256(sides) if sides else ''}\n".encode())
    return digest.hexdigest()


def files_of(video: Path) -> list[Path]:
    """A file itself, the images of a folder in name order, or the file of which a path below it names a piece."""
    if video.is_dir():
        return sorted(path for path in video.iterdir() if path.is_file())
    return [video.parent if video.parent.is_file() else video]


def split_of(clip_id: str, test_fraction: float) -> str:
    """Split by a hash of the id alone, so that more videos never move a clip to another split."""
    share = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8]) / 2**64
    return "test" if share < test_fraction else "train"


def reader(kind: str) -> ModuleType:
    """Module with list_videos, side_files and read_clip of a kind. Raises ValueError naming the kinds there are."""
    if kind not in READERS:
        raise ValueError(f"no reader for shards of kind {kind!r}; there are: {', '.join(READERS)}")
    return import_module(READERS[kind])


def _resolved(shard: ShardConfig, root: Path) -> ShardConfig:
    hand_model = shard.hand_model and str((root / shard.hand_model).absolute())
    return replace(shard, root=str((root / shard.root).absolute()), hand_model=hand_model)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root.absolute()).as_posix() if path.is_relative_to(root.absolute()) else str(path)


def _num_bytes(video: Path) -> int:
    return sum(path.stat().st_size for path in files_of(video))


def _recorded_size(clip: Clip) -> tuple[int, int]:
    if not clip.image_files:
        return clip.camera.width, clip.camera.height
    with Image.open(clip.image_files[0]) as image:
        return image.size


def _sha256(paths: list[Path]) -> str:
    """Of one file its sha256, of several the sha256 of their names and sha256: an image's number is part of a clip.

    A file that many clips share is read once.
    """
    digests = [_sha256_of_file(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    named = "".join(f"{path.name} {digest}\n" for path, digest in zip(paths, digests, strict=True))
    return digests[0] if len(digests) == 1 else hashlib.sha256(named.encode()).hexdigest()


@lru_cache(maxsize=4096)
def _sha256_of_file(path: Path, *_version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4)
def _probed(video: Path, *_version: int) -> VideoInfo:
    """Of a video whose pieces come one after the other."""
    return probe(video)


def _video_info(video: Path) -> VideoInfo | None:
    """Of the video file that is a clip or holds it; None where the reader knows which video or images a path means."""
    if video.is_dir():
        return None
    (file,) = files_of(video)
    if file.suffix.lower() not in VIDEO_SUFFIXES:
        return None
    if file == video:
        return probe(video)
    status = file.stat()
    return _probed(file, status.st_size, status.st_mtime_ns)


def _finished_row(
    root: Path, scratch: Path, video: Path, shard: ShardConfig, config: RawVideosConfig
) -> dict[str, object]:
    """The video's row; from scratch if an interrupted run had finished it and it has not changed."""
    sides = reader(shard.kind).side_files(video)
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in [*files_of(video), *sides]]
    key = hashlib.sha256(f"{video}{stamp}{config}{shard}".encode()).hexdigest()[:24]
    kept = scratch / f"{key}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    row = _row(video, sides, shard, config, root)
    write_file(kept, json.dumps(row).encode())
    return row


def _row(video: Path, sides: list[Path], shard: ShardConfig, config: RawVideosConfig, root: Path) -> dict[str, object]:
    info = _video_info(video)
    clip = reader(shard.kind).read_clip(video, shard, config, info)
    if config.virtual_camera:
        clip = to_virtual(clip)
    size = (info.width, info.height) if info else _recorded_size(clip)
    return {
        "clip_id": clip.clip_id,
        "source": clip.source,
        "kind": clip.kind,
        "video": _relative(video, root),
        "root": _relative(Path(shard.root), root),
        "view": shard.view,
        "hand_model": shard.hand_model and _relative(Path(shard.hand_model), root),
        "sha256": _sha256(files_of(video)),
        "side_sha256": _sha256(sides) if sides else None,
        "num_bytes": _num_bytes(video),
        "fps": clip.fps,
        "num_frames": clip.num_frames,
        "video_width": size[0],
        "video_height": size[1],
        "width": clip.camera.width,
        "height": clip.camera.height,
        "fx": clip.camera.fx,
        "fy": clip.camera.fy,
        "cx": clip.camera.cx,
        "cy": clip.camera.cy,
        "intrinsics": clip.intrinsics,
        "has_labels": clip.has_labels,
        "has_depth": clip.has_depth,
        "split": clip.split or split_of(clip.clip_id, config.test_fraction),
        "subject": clip.subject,
        **licences.row_terms(clip, shard.hand_model),
    }


def read_clip(row: dict, root: Path) -> Clip:
    """The clip of one row of the clips table. root: the workspace. Raises ClipError if its files have changed since."""
    video = (root / row["video"]).absolute()
    files = files_of(video)
    if not all(file.exists() for file in files) or _num_bytes(video) != row["num_bytes"]:
        raise ClipError(
            Reason.CORRUPT_VIDEO,
            f"{video} is gone or has changed since raw_videos was made: run `hand3d run raw_videos` again",
        )
    info = None
    if not video.is_dir() and files[0].suffix.lower() in VIDEO_SUFFIXES:
        size, times_s = (row["video_width"], row["video_height"]), frame_times_s(files[0])
        info = VideoInfo(row["fps"], len(times_s), *size, times_s, 0)  # keyframes only count when a file is checked
    shard = ShardConfig(
        row["source"],
        row["kind"],
        str((root / row["root"]).absolute()),
        view=row["view"],
        hand_model=row["hand_model"] and str((root / row["hand_model"]).absolute()),
    )
    camera = PinholeCamera(row["fx"], row["fy"], row["cx"], row["cy"], row["width"], row["height"])
    # a field of view assumed in params.yaml when the row was made is part of the row
    assumed = float(np.rad2deg(2 * np.arctan(camera.width / 2 / camera.fx))) if row["intrinsics"] == "assumed" else None
    clip = reader(row["kind"]).read_clip(video, shard, RawVideosConfig(assumed), info)
    if camera == VIRTUAL != clip.camera:  # raw_videos.virtual_camera was set when the row was made
        clip = to_virtual(clip)
    return replace(clip, clip_id=row["clip_id"], split=row["split"], camera=camera)


def _summary(report: Report, rows: list[dict], shard: ShardConfig) -> Report:
    report.metrics = {
        "duration_s": sum(row["num_frames"] / row["fps"] for row in rows),
        "num_frames": float(sum(row["num_frames"] for row in rows)),
        "num_test_clips": float(sum(row["split"] == "test" for row in rows)),
        "size_mb": sum(row["num_bytes"] for row in rows) / 1e6,
    }
    columns = (
        "clip_id",
        "fps",
        "num_frames",
        "width",
        "height",
        "intrinsics",
        "has_labels",
        "has_depth",
        "split",
        "licence",
    )
    report.tables = {"clips": [{column: row[column] for column in columns} for row in rows[:50]]}
    stated = sorted({row["licence"] for row in rows})
    report.notes = [f"source {shard.source}: {len(rows)} clips, licence {'; '.join(stated) or 'of no clip'}"]
    assumed = sum(row["intrinsics"] == "assumed" for row in rows)
    if assumed:
        report.notes.append(
            f"{assumed} clips have an assumed field of view: their metric scale is as good as that guess"
        )
    return report


def _contact_sheet(rows: list[dict], context: StageContext, report: Report) -> None:
    """Frames of up to 12 clips, spread over the shard; of few clips several each, spread over the clip."""
    if not rows:
        return
    picks = sorted(set(np.linspace(0, len(rows) - 1, min(len(rows), MAX_THUMBNAILS)).astype(int).tolist()))
    each = MAX_THUMBNAILS // len(picks)
    pictures, captions = [], []
    for row in (rows[pick] for pick in picks):
        wanted = ((np.arange(each) + 0.5) / each * row["num_frames"]).astype(int).tolist()
        for frame in read_clip(row, context.root).frames(sorted(set(wanted))):
            pictures.append(frame.rgb)
            captions.append(f"{row['clip_id']} {frame.time_s:.1f} s ({row['split']})")
    contact_sheet.sheet(pictures, captions, context.out / "clips.png")
    report.pictures["clips"] = "clips.png"
