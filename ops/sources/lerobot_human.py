"""LeRobot v3.0 data sets as a source of videos and sentences: an episode a clip, cut out of its mp4 file.

    meta/info.json, meta/episodes/chunk-*/file-*.parquet, videos/<key>/chunk-XXX/file-XXX.mp4, data/...

A clip's path is that of its video file with the episode below it: .../file-000.mp4/episode-000012. Robot or human, what the
numbers of a row mean is a data set's own business: they are not read here (UniHand's are, in ops.sources.unihand), the hands
come from the tracker. Intrinsics are not part of the format: state an assumed field of view.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ops.config import RawVideosConfig, ShardConfig
from ops.lerobot.reader import VERSION, video_file
from ops.lerobot.writer import Layout, write
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import Clip, Instruction, Source, read_each
from ops.sources.example import Truth
from ops.sources.raw_video import assumed_camera, clip_id, find_up, per_file, read_json, side_of
from ops.video import VideoInfo, probe

KIND = "lerobot_human"
SOURCE = Source(
    kind=KIND,
    title="LeRobot v3.0 data sets",
    licence="as the data set states",
    noncommercial=True,
    redistributable=False,
    gated=False,
    needs_mano=False,
    url="https://github.com/huggingface/lerobot",
    how_to_get="Any data set in LeRobot's v3.0 layout with its videos as mp4 files; lerobot converts older ones.",
    notes=(
        "No intrinsics: state raw_videos.assumed_fov_x_deg.",
        "Images stored in the rows are not read, mp4 files are.",
    ),
)
EGO_WORDS = ("ego", "head", "top")


@dataclass(frozen=True, eq=False)
class Episodes:
    """Where each episode of a data set lies. Arrays over episodes, ascending by number."""

    number: np.ndarray
    length: np.ndarray
    tasks: tuple[tuple[str, ...], ...]
    file: tuple[Path, ...]
    """Video file of the chosen view."""
    start_s: np.ndarray
    """In that file."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """meta/info.json of a data set, and its folder."""

    folder: Path
    info: dict

    @property
    def views(self) -> list[str]:
        """Keys of its videos."""
        return [key for key, spec in self.info["features"].items() if spec.get("dtype") == "video"]

    def view(self, wanted: str | None) -> str:
        """Key of a view by its key or last part; None = the one that sounds like a head camera, else the first."""
        if not self.views:
            raise ValueError(f"{self.folder} has no video feature; it has {', '.join(self.info['features'])}")
        if wanted is None:
            return next((key for word in EGO_WORDS for key in self.views if word in key.lower()), self.views[0])
        found = [key for key in self.views if wanted in (key, key.rsplit(".", 1)[-1])]
        if not found:
            raise ValueError(f"{self.folder} has the views {', '.join(self.views)}, not {wanted!r}")
        return found[0]


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """Episodes of all data sets at or below root, sorted. Raises ValueError for another version or a missing view."""
    found = []
    for info in sorted(root.rglob("meta/info.json")):
        dataset = read_dataset(info)
        episodes = read_episodes(dataset, dataset.view(view))
        found += [file / f"episode-{number:06d}" for file, number in zip(episodes.file, episodes.number, strict=True)]
    return sorted(found)


def side_files(video: Path) -> list[Path]:
    """Of an episode: the data set's description and its table of episodes."""
    info = find_up(video, "meta/info.json", levels=8)
    return [] if info is None else [info, *sorted(info.parent.glob("episodes/chunk-*/file-*.parquet"))]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """An episode. info: of the whole video file. Split: "test" if the data set calls it anything but train.

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, MISSING_LABELS (no such episode), FRAME_COUNT_MISMATCH (the file ends
    before it), UNSUPPORTED_CAMERA (no field of view stated), BAD_SIDE_FILE.
    """
    info = info or probe(video.parent)
    clip, dataset = cut_clip(video, shard, info, KIND, SOURCE)
    why = f"{dataset.folder.name} is a LeRobot data set, which knows no intrinsics"
    return replace(clip, camera=assumed_camera(info, config, why))


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Episodes one by one; unreadable ones as Reject."""
    return read_each(list_videos, read_clip, ShardConfig(KIND, KIND, str(root), view=view))


def read_dataset(info_file: Path) -> DataSet:
    """Raises ValueError for another version."""
    info = read_json(info_file)
    if (
        not isinstance(info, dict)
        or info.get("codebase_version") != VERSION
        or not isinstance(info.get("features"), dict)
    ):
        version = info.get("codebase_version") if isinstance(info, dict) else None
        raise ValueError(f"{info_file} is of LeRobot {version}; {VERSION} is read (lerobot converts older ones)")
    return DataSet(info_file.parents[1], info)


def read_episodes(dataset: DataSet, view: str) -> Episodes:
    """Table of episodes. Raises ClipError BAD_SIDE_FILE if columns are missing."""
    paths = sorted((dataset.folder / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    wanted = [
        "episode_index",
        "length",
        "tasks",
        *(f"videos/{view}/{c}" for c in ("chunk_index", "file_index", "from_timestamp")),
    ]
    parts = []
    for path in paths:
        missing = sorted(set(wanted) - set(pq.read_schema(path).names))
        if missing:
            raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} lacks the columns {', '.join(missing)}")
        parts.append(pq.read_table(path, columns=wanted).to_pydict())
    columns = {key: [value for part in parts for value in part[key]] for key in wanted}
    order = np.argsort(columns["episode_index"])
    places = zip(columns[wanted[3]], columns[wanted[4]], strict=True)
    try:
        names = [video_file(dataset.folder, dataset.info, view, chunk, file) for chunk, file in places]
    except (ValueError, LookupError, AttributeError) as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"info.json: video_path leads nowhere: {error}") from error
    return Episodes(
        number=np.array(columns["episode_index"], np.int64)[order],
        length=np.array(columns["length"], np.int64)[order],
        tasks=tuple(_texts(columns["tasks"][i]) for i in order),
        file=tuple(names[i] for i in order),
        start_s=np.array(columns[wanted[5]], float)[order],
    )


def _texts(value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else list(value or [])
    return tuple(str(item).strip() for item in items if str(item).strip())


def cut_clip(video: Path, shard: ShardConfig, info: VideoInfo, kind: str, source: Source) -> tuple[Clip, DataSet]:
    """The clip of an episode's path, with the video's own shape as camera (to be replaced), and its data set."""
    meta = find_up(video, "meta/info.json", levels=8)
    if meta is None:
        raise ClipError(Reason.MISSING_LABELS, f"no meta/info.json above {video.parent.name}")
    dataset, episodes = _of_file(meta, shard.view)
    number = int(video.name.removeprefix("episode-"))
    at = int(np.searchsorted(episodes.number, number))
    if at == len(episodes.number) or episodes.number[at] != number or episodes.file[at] != video.parent:
        raise ClipError(Reason.MISSING_LABELS, f"{video.parent.name} holds no episode {number}")
    fps = float(dataset.info["fps"])
    frames = round(float(episodes.start_s[at]) * fps) + np.arange(episodes.length[at])
    if not len(frames) or frames[-1] >= info.num_frames:
        detail = f"{video.parent.name} has {info.num_frames} frames, episode {number} ends at {frames[-1] if len(frames) else 0}"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, detail)
    times_s = info.times_s[frames] - info.times_s[frames[0]]
    end_s = float(times_s[-1]) + 1 / fps
    clip = Clip(
        clip_id=clip_id(video, shard),
        source=shard.source,
        kind=kind,
        video=video.parent,
        fps=fps,
        num_frames=len(frames),
        times_s=times_s,
        camera=assumed_camera(info, RawVideosConfig(60.0), ""),
        intrinsics="assumed",
        split=_split(dataset, number),
        frame_numbers=frames,
        instructions=tuple(Instruction(0.0, end_s, text, side_of(text)) for text in episodes.tasks[at][:1]),
        view=shard.view or "",
        **source.terms(),
    )
    return clip, dataset


def _of_file(meta: Path, view: str | None) -> tuple[DataSet, Episodes]:
    try:
        return _views_of(meta)[view]
    except KeyError:
        dataset = read_dataset(meta)
        _views_of(meta)[view] = dataset, read_episodes(dataset, dataset.view(view))
        return _views_of(meta)[view]
    except ValueError as error:
        raise ClipError(Reason.BAD_SIDE_FILE, str(error)) from error


@per_file
def _views_of(meta: Path) -> dict[str | None, tuple[DataSet, Episodes]]:
    """Filled by _of_file."""
    return {}


def _split(dataset: DataSet, number: int) -> str:
    for name, span in dataset.info.get("splits", {}).items():
        first, _, last = str(span).partition(":")
        if first.isdigit() and last.isdigit() and int(first) <= number < int(last):
            return "train" if name == "train" else "test"
    return ""


# -- example


@dataclass(frozen=True)
class ExampleSteps:
    """A truth as an episode of the writer."""

    truth: Truth
    values: dict[str, np.ndarray]

    @property
    def images(self) -> dict[str, np.ndarray]:
        return {"ego": self.truth.rgb}

    @property
    def image_index(self) -> np.ndarray:
        return np.arange(self.truth.num_frames)

    @property
    def task(self) -> str:
        return self.truth.instructions[0].text

    @property
    def split(self) -> str:
        return "train"

    def numbers(self) -> dict[str, np.ndarray]:
        return self.values


def write_example(root: Path, truth: Truth, *more: Truth) -> None:
    """A data set <truth.name> of one episode a truth, all in one mp4 file."""
    state = [
        np.concatenate([t.hands[side].tau for side in sorted(t.hands)], axis=1).astype(np.float32)
        for t in (truth, *more)
    ]
    layout = Layout({"observation.state": None}, {"ego": "observation.images.ego"}, "human")
    steps = [ExampleSteps(t, {"observation.state": values}) for t, values in zip((truth, *more), state, strict=True)]
    write(root / truth.name, steps, truth.fps, "video", layout)
