"""Write a LeRobot v3.0 dataset: many episodes a file, image bytes in the parquet rows or mp4 beside them.

Robot demonstrations and hand trajectories alike: a Layout says which numbers a step has. Written one episode at a
time, so memory holds one episode and the numbers of all. The layout is the one lerobot 0.4 writes; readers there and
ops.lerobot.reader read it. PNG (`storage="image"`) keeps pixels exactly; mp4 ("video", H.264) is small.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8

from ops.lerobot.reader import ACTION_KEY, AGE_KEY, STATE_KEY, VERSION, VIEW_KEYS

CHUNK_SIZE, DATA_FILE_MB, VIDEO_FILE_MB = 1000, 100, 200
RAW_VIDEO_BYTES = 1e9
"""Frames wait decoded until their file is written; this bounds the memory, and keeps files below VIDEO_FILE_MB."""
STATE_NAMES = ["x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right"]
ACTION_NAMES = ["dx", "dy", "dz", "turn_x", "turn_y", "turn_z", "gripper"]
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_SCALARS = {
    "timestamp": pa.float32(),
    "frame_index": pa.int64(),
    "episode_index": pa.int64(),
    "index": pa.int64(),
    "task_index": pa.int64(),
}


class Steps(Protocol):
    """What `write` takes: one episode of T steps. images: view -> distinct images; image_index (T,): which of them
    each step holds. task: the instruction. split: "train", "test"."""

    @property
    def images(self) -> dict[str, UInt8[np.ndarray, "m h w 3"]]: ...
    @property
    def image_index(self) -> np.ndarray: ...
    @property
    def task(self) -> str: ...
    @property
    def split(self) -> str: ...
    def numbers(self) -> dict[str, np.ndarray]:
        """Feature -> (T,) or (T, n), float32 or int64, the same features in every episode."""
        ...


@dataclass(frozen=True)
class Layout:
    """names: feature -> names of its components, None where it has none. view_keys: view -> feature."""

    names: dict[str, list[str] | None]
    view_keys: dict[str, str]
    robot_type: str


ROBOT = Layout({STATE_KEY: STATE_NAMES, ACTION_KEY: ACTION_NAMES, AGE_KEY: None}, VIEW_KEYS, "panda")


@dataclass(frozen=True)
class Episode:
    """One demonstration of T control steps.

    images: view -> distinct images, oldest first. image_index (T,): which of them each step holds. image_age_s (T,).
    state (T, 8), action (T, 7) float32. task: the instruction.
    """

    images: dict[str, UInt8[np.ndarray, "m h w 3"]]
    image_index: np.ndarray
    image_age_s: Float[np.ndarray, " t"]
    state: Float[np.ndarray, "t 8"]
    action: Float[np.ndarray, "t 7"]
    task: str
    split: str = "train"

    def __len__(self) -> int:
        return len(self.state)

    def numbers(self) -> dict[str, np.ndarray]:
        values = {STATE_KEY: self.state, ACTION_KEY: self.action, AGE_KEY: self.image_age_s}
        return {key: column.astype(np.float32) for key, column in values.items()}


@dataclass
class _Totals:
    """What is known only at the end: rows for meta files and values for statistics."""

    episodes: list[dict] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    numbers: dict[str, list[np.ndarray]] = field(default_factory=dict)
    histograms: dict[str, np.ndarray] = field(default_factory=dict)


def write(folder: Path, episodes: Iterable[Steps], fps: float, storage: str = "image", layout: Layout = ROBOT) -> int:
    """Write all episodes into an empty folder; returns their number. Episodes of one split must follow each other.

    Raises ValueError for no episodes, an unknown storage, splits that alternate, or an episode whose arrays disagree.
    """
    if storage not in ("image", "video"):
        raise ValueError(f"storage is 'image' or 'video', got {storage!r}")
    iterator = iter(episodes)
    first = next(iterator, None)
    if first is None:
        raise ValueError("a dataset needs at least one episode, got none")
    totals = _Totals()
    features = _features(first, fps, storage, layout)
    files = _DataFiles(folder, features)
    keys = {view: layout.view_keys[view] for view in first.images}
    videos = {view: _VideoFiles(folder, key, fps) for view, key in keys.items()} if storage == "video" else {}
    for episode in chain([first], iterator):
        _check(episode, first)
        _add(episode, totals, files, videos, features, keys, fps)
    files.close()
    for video in videos.values():
        video.close()
    _write_meta(folder, totals, features, fps, layout.robot_type, storage if keys else "none")
    return len(totals.episodes)


def _check(episode: Steps, first: Steps) -> None:
    numbers, expected = episode.numbers(), first.numbers()
    lengths = {len(values) for values in numbers.values()} | ({len(episode.image_index)} if first.images else set())
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"an episode's numbers and image index (state, action, ...) must have one length above 0, got {sorted(lengths)}"
        )
    if {k: v.shape[1:] for k, v in numbers.items()} != {k: v.shape[1:] for k, v in expected.items()}:
        raise ValueError("every episode must have the features of the first, in the same shapes")
    if {v: i.shape[1:] for v, i in episode.images.items()} != {v: i.shape[1:] for v, i in first.images.items()}:
        raise ValueError("every episode must have the views and image size of the first")


def _features(first: Steps, fps: float, storage: str, layout: Layout) -> dict[str, dict]:
    features = {}
    for view, images in first.images.items():
        height, width = images.shape[1:3]
        key = layout.view_keys[view]
        features[key] = {"dtype": storage, "shape": [height, width, 3], "names": ["height", "width", "channels"]}
        if storage == "video":
            features[key]["info"] = {
                "video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False,
            }  # fmt: skip
    for key, values in first.numbers().items():
        shape = list(values.shape[1:]) or [1]
        features[key] = {"dtype": str(values.dtype), "shape": shape, "names": layout.names[key]}
    return features | {
        key: {"dtype": str(kind).replace("float", "float32"), "shape": [1], "names": None}
        for key, kind in _SCALARS.items()
    }


def _add(
    episode: Steps,
    totals: _Totals,
    files: "_DataFiles",
    videos: dict,
    features: dict,
    keys: dict[str, str],
    fps: float,
) -> None:
    numbers = dict(episode.numbers())
    number, length = len(totals.episodes), len(next(iter(numbers.values())))
    numbers |= {
        "timestamp": (np.arange(length) / fps).astype(np.float32),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, number),
        "index": totals.frames + np.arange(length),
        "task_index": np.full(length, totals.tasks.setdefault(episode.task, len(totals.tasks))),
    }
    row = {"episode_index": number, "tasks": [episode.task], "length": length}
    row |= files.add(numbers, {} if videos else _encoded(episode, keys))
    row |= {"dataset_from_index": totals.frames, "dataset_to_index": totals.frames + length}
    for view, video in videos.items():
        row |= video.add(episode.images[view][episode.image_index])
    row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    histograms = {keys[v]: _histogram(i[episode.image_index]) for v, i in episode.images.items()}
    row |= {
        f"stats/{key}/{stat}": value
        for key, stats in _stats(numbers, histograms).items()
        for stat, value in stats.items()
    }
    totals.episodes.append(row)
    totals.splits.append(episode.split)
    totals.frames += length
    for key, values in numbers.items():
        totals.numbers.setdefault(key, []).append(values)
    for key, counts in histograms.items():
        totals.histograms[key] = totals.histograms.get(key, 0) + counts


def _encoded(episode: Steps, keys: dict[str, str]) -> dict[str, list[dict]]:
    """PNG bytes of every row; rows that hold the same image share them."""
    columns = {}
    for view, images in episode.images.items():
        pngs = [_png(image) for image in images]
        columns[keys[view]] = [{"bytes": pngs[i], "path": None} for i in episode.image_index]
    return columns


def _png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


class _DataFiles:
    """data/chunk-XXX/file-XXX.parquet, one row group an episode; a new file above DATA_FILE_MB."""

    def __init__(self, folder: Path, features: dict[str, dict]):
        self._folder, self._number, self._writer, self._path = folder, 0, None, None
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        kinds = {key: image if spec["dtype"] == "image" else _number_type(spec) for key, spec in features.items()}
        kinds |= _SCALARS
        self._schema = pa.schema([(key, kinds[key]) for key, spec in features.items() if spec["dtype"] != "video"])

    def add(self, numbers: dict[str, np.ndarray], images: dict[str, list[dict]]) -> dict[str, int]:
        if self._writer is not None and self._path.stat().st_size > DATA_FILE_MB * 1e6:
            self.close()
            self._number += 1
        if self._writer is None:
            self._path = _numbered(self._folder / "data", self._number, "parquet")
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        columns = {key: _arrow(values) for key, values in numbers.items()}
        columns |= {key: pa.array(rows, self._schema.field(key).type) for key, rows in images.items()}
        self._writer.write_table(pa.table([columns[name] for name in self._schema.names], schema=self._schema))
        return {"data/chunk_index": self._number // CHUNK_SIZE, "data/file_index": self._number % CHUNK_SIZE}

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _number_type(spec: dict) -> pa.DataType:
    """float32 and int64 features; a single number is a plain column, as lerobot writes it."""
    kind = pa.int64() if spec["dtype"] == "int64" else pa.float32()
    return kind if spec["shape"] == [1] else pa.list_(kind, spec["shape"][0])


def _arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _numbered(folder: Path, number: int, suffix: str) -> Path:
    path = folder / f"chunk-{number // CHUNK_SIZE:03d}" / f"file-{number % CHUNK_SIZE:03d}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class _VideoFiles:
    """videos/<key>/chunk-XXX/file-XXX.mp4: episodes one after another, a keyframe every second frame."""

    def __init__(self, folder: Path, key: str, fps: float):
        self._folder, self._key, self._fps = folder / "videos" / key, key, fps
        self._number, self._pending, self._frames, self._bytes = 0, [], 0, 0

    def add(self, frames: UInt8[np.ndarray, "t h w 3"]) -> dict[str, float]:
        if self._bytes > RAW_VIDEO_BYTES:
            self.close()
            self._number += 1
        start, self._frames = self._frames, self._frames + len(frames)
        self._pending.append(frames)
        self._bytes += frames.nbytes
        values = {
            "chunk_index": self._number // CHUNK_SIZE,
            "file_index": self._number % CHUNK_SIZE,
            "from_timestamp": start / self._fps,
            "to_timestamp": self._frames / self._fps,
        }
        return {f"videos/{self._key}/{name}": value for name, value in values.items()}

    def close(self) -> None:
        from ops.video import write_video

        if self._pending:
            write_video(_numbered(self._folder, self._number, "mp4"), _each(self._pending), self._fps, gop=2)
        self._pending, self._frames, self._bytes = [], 0, 0


def _each(batches: list[np.ndarray]) -> Iterator[np.ndarray]:
    for batch in batches:
        yield from batch


def _histogram(images: UInt8[np.ndarray, "t h w 3"]) -> np.ndarray:
    """Counts of the 256 values by channel, (3, 256): exact statistics of images without keeping them."""
    return np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(3)])


def _stats(numbers: dict[str, np.ndarray], histograms: dict[str, np.ndarray]) -> dict[str, dict[str, list]]:
    stats = {key: _number_stats(values.astype(np.float64)) for key, values in numbers.items()}
    return stats | {key: _image_stats(counts) for key, counts in histograms.items()}


def _number_stats(values: np.ndarray) -> dict[str, list]:
    flat = values.reshape(len(values), -1)
    stats = {"min": flat.min(0), "max": flat.max(0), "mean": flat.mean(0), "std": flat.std(0)}
    stats |= {name: np.quantile(flat, q, axis=0) for name, q in QUANTILES.items()}
    return {name: value.tolist() for name, value in stats.items()} | {"count": [len(flat)]}


def _image_stats(counts: np.ndarray) -> dict[str, list]:
    """Of values scaled to [0, 1], shape (3, 1, 1) each, as lerobot has them."""
    values, total = np.arange(256) / 255, counts.sum(1)
    mean = counts @ values / total
    std = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))
    seen = np.cumsum(counts, axis=1)
    stats = {
        "min": values[(counts > 0).argmax(1)],
        "max": values[255 - (counts[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": std,
    }
    stats |= {name: values[(seen >= q * total[:, None]).argmax(1)] for name, q in QUANTILES.items()}
    return {name: value.reshape(3, 1, 1).tolist() for name, value in stats.items()} | {"count": [int(total[0])]}


def _write_meta(folder: Path, totals: _Totals, features: dict, fps: float, robot_type: str, storage: str) -> None:
    meta = folder / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(totals.episodes), meta / "episodes" / "chunk-000" / "file-000.parquet")
    _write_tasks(meta / "tasks.parquet", list(totals.tasks))
    numbers = {key: np.concatenate(parts) for key, parts in totals.numbers.items()}
    _write_json(meta / "stats.json", _stats(numbers, totals.histograms))
    info = {
        "codebase_version": VERSION, "robot_type": robot_type, "total_episodes": len(totals.episodes),
        "total_frames": totals.frames, "total_tasks": len(totals.tasks), "chunks_size": CHUNK_SIZE,
        "data_files_size_in_mb": DATA_FILE_MB, "video_files_size_in_mb": VIDEO_FILE_MB, "fps": int(fps) if float(fps).is_integer() else fps,
        "splits": _splits(totals.splits),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4" if storage == "video" else None,
        "features": features,
    }  # fmt: skip
    _write_json(meta / "info.json", info)


def _splits(of_episodes: list[str]) -> dict[str, str]:
    """Split -> "from:to" over episodes. Raises ValueError where one split's episodes do not follow each other."""
    ranges, start = {}, 0
    for split, group in groupby(of_episodes):
        if split in ranges:
            raise ValueError(f"episodes of split {split!r} do not follow each other: give all of one split first")
        stop = start + len(list(group))
        ranges[split], start = f"{start}:{stop}", stop
    return ranges


def _write_tasks(path: Path, tasks: list[str]) -> None:
    """A pandas frame whose index is the text, which is how lerobot looks tasks up; written without pandas."""
    index = "__index_level_0__"
    kinds = (("task_index", "task_index", "int64", "int64"), (None, index, "unicode", "object"))
    keys = ("name", "field_name", "pandas_type", "numpy_type")
    columns = [dict(zip(keys, kind, strict=True)) | {"metadata": None} for kind in kinds]
    labels = [dict(zip(keys, (None, None, "unicode", "object"), strict=True)) | {"metadata": {"encoding": "UTF-8"}}]
    pandas = {"index_columns": [index], "column_indexes": labels, "columns": columns, "pandas_version": "2.3.0"}
    table = pa.table({"task_index": list(range(len(tasks))), index: tasks})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=4), encoding="utf-8")
