"""EPIC-KITCHENS-100: raw head-camera video (GoPro) with narrated actions; no hands, no intrinsics.

    PXX/videos/PXX_YY.MP4 and PXX_1YY.MP4                  48 to 90 frames a second
    EPIC_100_{train,validation}.csv, EPIC_100_video_info.csv   in the root or epic-kitchens-100-annotations/

Intrinsics are unknown: state an assumed field of view. HaWoR's results beside a video
(folder <video>/cam_space) are read as its hands.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from ops.config import RawVideosConfig, ShardConfig
from ops.rejects import ClipError, Reason, Reject
from ops.sources import hawor
from ops.sources.base import Clip, Instruction, Source, read_each
from ops.sources.example import Truth
from ops.sources.raw_video import assumed_camera, clip_id, duration_s, find_up, per_file, side_of
from ops.video import VideoInfo, probe, write_video

KIND = "epic_kitchens"
SOURCE = Source(
    kind=KIND,
    title="EPIC-KITCHENS-100",
    licence="CC BY-NC 4.0",
    noncommercial=True,
    redistributable=True,
    gated=False,
    needs_mano=False,
    url="https://epic-kitchens.github.io",
    how_to_get="Download the videos with the project's script and clone epic-kitchens-100-annotations into the root.",
    notes=("No intrinsics: state raw_videos.assumed_fov_x_deg, or add HaWoR's results.",),
)
TABLES = {"train": "EPIC_100_train.csv", "test": "EPIC_100_validation.csv"}
COLUMNS = ("narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns", "all_noun_classes")  # fmt: skip


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """All videos, sorted."""
    return sorted(path for path in root.rglob("*") if path.suffix.lower() == ".mp4" and path.name.startswith("P"))


def side_files(video: Path) -> list[Path]:
    """The annotation tables, and HaWoR's results."""
    return [*(path for path in (_table(video, split) for split in TABLES) if path), *hawor.files_of(video)]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """A video with its narrated actions. Split: the validation table's videos are "test", the train table's "train".

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, UNSUPPORTED_CAMERA (no field of view stated), BAD_SIDE_FILE (table).
    """
    info = info or probe(video)
    actions = {split: _actions(path).get(video.stem, []) for split in TABLES if (path := _table(video, split))}
    split = next((split for split, found in actions.items() if found), "")
    found = hawor.read(video, info, shard.hand_model)
    why = f"EPIC-KITCHENS gives no intrinsics for {video.name}"
    return Clip(
        clip_id=clip_id(video, shard),
        source=shard.source,
        kind=KIND,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=found.camera if found else assumed_camera(info, config, why),
        intrinsics="assumed",
        split=split,
        instructions=_instructions(actions.get(split, []), duration_s(info)),
        object_names=tuple(dict.fromkeys(row["noun"] for row in actions.get(split, []))),
        subject=video.stem.split("_")[0],
        **(found.labels() if found else {}),
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Videos one by one; unreadable ones as Reject."""
    model = hand_model and str(hand_model)
    return read_each(list_videos, read_clip, ShardConfig(KIND, KIND, str(root), view=view, hand_model=model))


def _table(video: Path, split: str) -> Path | None:
    folders = ("", "epic-kitchens-100-annotations/", "annotations/")
    return find_up(video, *(f"{folder}{TABLES[split]}" for folder in folders))


@per_file
def _actions(table: Path) -> dict[str, list[dict[str, str]]]:
    """Rows by video. Raises ClipError BAD_SIDE_FILE if columns are missing."""
    by_video: dict[str, list[dict[str, str]]] = {}
    with table.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        missing = {"video_id", "start_timestamp", "stop_timestamp", "narration", "noun"} - set(rows.fieldnames or ())
        if missing:
            raise ClipError(Reason.BAD_SIDE_FILE, f"{table.name} lacks the columns {', '.join(sorted(missing))}")
        for row in rows:
            kept = {key: row[key] for key in ("start_timestamp", "stop_timestamp", "narration", "noun")}
            by_video.setdefault(row["video_id"], []).append(kept)
    return by_video


def _instructions(rows: list[dict[str, str]], end_s: float) -> tuple[Instruction, ...]:
    spans = [
        (_seconds(row["start_timestamp"]), _seconds(row["stop_timestamp"]), row["narration"].strip()) for row in rows
    ]
    spans = [(start, min(stop, end_s), text) for start, stop, text in spans]
    return tuple(Instruction(start, stop, text, side_of(text)) for start, stop, text in spans if start < stop and text)


def _seconds(stamp: str) -> float:
    """ "00:01:23.45" as seconds. Raises ClipError BAD_SIDE_FILE."""
    try:
        hours, minutes, seconds = stamp.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"a time of the table is {stamp!r}, should be HH:MM:SS.ff") from error


# -- example


def write_example(root: Path, truth: Truth) -> None:
    """A video of participant P01 with its rows in the train table."""
    number = len(list_videos(root)) + 1
    video_id = f"P01_{number:02d}"
    path = root / "P01" / "videos" / f"{video_id}.MP4"
    write_video(path.with_suffix(".mp4"), truth.rgb, truth.fps)
    path.with_suffix(".mp4").rename(path)
    table = root / "epic-kitchens-100-annotations" / TABLES["train"]
    table.parent.mkdir(parents=True, exist_ok=True)
    new = not table.is_file()
    with table.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        for count, item in enumerate(truth.instructions):
            start, stop = _stamp(item.start_s), _stamp(item.end_s)
            frames = (round(item.start_s * truth.fps) + 1, round(item.end_s * truth.fps))
            writer.writerow([f"{video_id}_{count}", "P01", video_id, start, start, stop, *frames, item.text, "pick-up", 0, "box", 0, "['box']", "[0]"])  # fmt: skip


def _stamp(seconds: float) -> str:
    return f"{int(seconds // 3600):02d}:{int(seconds // 60) % 60:02d}:{seconds % 60:05.2f}"
