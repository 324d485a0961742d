"""Read a LeRobot v3.0 dataset without the lerobot package (which needs another torch): parquet and mp4 or PNG.

Rows are control steps. `images` are turned upright and RGB; `state` and `action` mean what the dataset's info.json
says (ours: CONVENTIONS.md, robot action). A camera may be slower than the control loop: a row then holds the last
image taken, and `image_age_s` says how old it is; 0 where the image was taken at that very step. Datasets of others
lack that column and have a fresh image in every row.
"""

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int, UInt8

VERSION = "v3.0"
VIEW_KEYS = {"agentview": "observation.images.image", "wrist": "observation.images.image2"}
"""Our view names and the keys of the hub's LIBERO sets; another dataset's views keep the last part of their key."""
STATE_KEY, ACTION_KEY, AGE_KEY = "observation.state", "action", "observation.image_age_s"


class Frames:
    """A view's images by row, decoded when asked for; each distinct image is decoded once and kept.

    Index with a row number, a slice or an array of row numbers: (h, w, 3) or (n, h, w, 3) uint8.
    """

    def __init__(
        self,
        decode: Callable[[int], UInt8[np.ndarray, "h w 3"]],
        distinct: Int[np.ndarray, " n"],
        size: tuple[int, int],
    ):
        self._decode = lru_cache(maxsize=20_000)(decode)
        self._distinct = distinct
        self.shape = (len(distinct), *size, 3)

    def __len__(self) -> int:
        return len(self._distinct)

    def __getitem__(self, rows) -> UInt8[np.ndarray, "... h w 3"]:
        wanted = self._distinct[rows]
        if wanted.ndim == 0:
            return self._decode(int(wanted))
        return (
            np.stack([self._decode(int(i)) for i in wanted])
            if len(wanted)
            else np.zeros((0, *self.shape[1:]), np.uint8)
        )


@dataclass(frozen=True)
class RobotDataset:
    """N control steps of all episodes, in order.

    images: view -> Frames. state (N, 8), action (N, 7) float32. image_age_s (N,): 0 where the image is the row's own.
    episode_index, frame_index (N,). tasks: instruction of each row's `task_index`. fps: control steps a second.
    """

    images: dict[str, Frames]
    state: Float[np.ndarray, "n s"]
    action: Float[np.ndarray, "n a"]
    image_age_s: Float[np.ndarray, " n"]
    episode_index: Int[np.ndarray, " n"]
    frame_index: Int[np.ndarray, " n"]
    task_index: Int[np.ndarray, " n"]
    tasks: tuple[str, ...]
    fps: float

    def __len__(self) -> int:
        return len(self.state)

    @property
    def task(self) -> list[str]:
        """Instruction of every row."""
        return [self.tasks[i] for i in self.task_index]

    @property
    def num_episodes(self) -> int:
        return len(np.unique(self.episode_index))

    def conditioning_rows(self) -> Int[np.ndarray, " m"]:
        """Rows whose image was taken at that very step: the only ones to train on, as a policy sees fresh images."""
        return np.flatnonzero(self.image_age_s == 0)

    def chunk(self, row: int, length: int) -> tuple[Float[np.ndarray, "h a"], np.ndarray]:
        """The `length` actions from `row` on, and which of them are padding.

        Past the end of the episode the last action is repeated, as LeRobot does (action_is_pad).
        """
        rows = row + np.arange(length)
        last = int(np.searchsorted(self.episode_index, self.episode_index[row], side="right")) - 1
        return self.action[np.minimum(rows, last)], rows > last


def read(folder: Path) -> RobotDataset:
    """Read a dataset folder. Raises ValueError for another version or a missing feature, FileNotFoundError for none."""
    info_path = folder / "meta" / "info.json"
    if not info_path.is_file():
        raise FileNotFoundError(f"no LeRobot dataset at {folder}: meta/info.json is missing")
    info = json.loads(info_path.read_text(encoding="utf-8"))
    if info.get("codebase_version") != VERSION:
        raise ValueError(
            f"{folder} is a LeRobot {info.get('codebase_version')} dataset; {VERSION} is read (lerobot converts older ones)"
        )
    missing = {STATE_KEY, ACTION_KEY} - set(info["features"])
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(sorted(missing))}; it has {', '.join(info['features'])}")
    views = {key: spec for key, spec in info["features"].items() if spec["dtype"] in ("image", "video")}
    images_here = [key for key, spec in views.items() if spec["dtype"] == "image"]
    columns = _columns(folder, info, images_here)
    order = np.argsort(columns["index"], kind="stable")
    numbers = {key: column[order] for key, column in columns.items() if key not in images_here}
    episode = numbers["episode_index"].astype(np.int64)
    age = numbers.get(AGE_KEY, np.zeros(len(episode), np.float32)).reshape(len(episode))
    images = {}
    for key, spec in views.items():
        size = tuple(spec["shape"][:2])
        if spec["dtype"] == "image":
            images[_view_name(key)] = _png_frames([columns[key][i] for i in order], age, size)
        else:
            images[_view_name(key)] = _video_frames(folder, info, key, episode, numbers["timestamp"], age, size)
    return RobotDataset(
        images=images,
        state=numbers[STATE_KEY].astype(np.float32),
        action=numbers[ACTION_KEY].astype(np.float32),
        image_age_s=age,
        episode_index=episode,
        frame_index=numbers["frame_index"].astype(np.int64),
        task_index=numbers["task_index"].astype(np.int64),
        tasks=_tasks(folder),
        fps=float(info["fps"]),
    )


def _view_name(key: str) -> str:
    return next((view for view, known in VIEW_KEYS.items() if known == key), key.rsplit(".", 1)[-1])


def video_file(folder: Path, info: dict, key: str, chunk: object, file: object) -> Path:
    """Where info.json says that a video lies. Raises ValueError for a place outside the data set."""
    path = folder / str(info["video_path"]).format(video_key=key, chunk_index=chunk, file_index=file)
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):  # links are the owner's own
        raise ValueError(f"{folder}: info.json names a video outside the data set ({path}): fetch it again")
    return path


def _tasks(folder: Path) -> tuple[str, ...]:
    table = pq.read_table(folder / "meta" / "tasks.parquet")
    text = "__index_level_0__" if "__index_level_0__" in table.column_names else "task"
    by_index = dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))
    return tuple(by_index[i] for i in range(len(by_index)))


def _columns(folder: Path, info: dict, image_keys: list[str]) -> dict[str, np.ndarray | list[bytes]]:
    """All rows of all data files: numeric features as arrays, image features as encoded bytes."""
    paths = sorted((folder / "data").glob("chunk-*/file-*.parquet"))
    tables = [pq.read_table(path) for path in paths]
    if sum(len(table) for table in tables) != info["total_frames"]:
        found = sum(len(table) for table in tables)
        raise ValueError(
            f"{folder} holds {found} rows, its info.json promises {info['total_frames']}: the copy is incomplete"
        )
    wanted = [key for key, spec in info["features"].items() if spec["dtype"] not in ("image", "video", "string")]
    numbers = {key: np.concatenate([_array(table[key]) for table in tables]) for key in wanted}
    return numbers | {key: [row["bytes"] for table in tables for row in table[key].to_pylist()] for key in image_keys}


def _array(column) -> np.ndarray:
    flat = column.combine_chunks()
    if hasattr(flat, "chunks"):  # a chunked array of no chunks
        return np.zeros(0)
    if hasattr(flat, "flatten") and flat.type.num_fields:
        values = flat.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(flat), -1)
    return flat.to_numpy(zero_copy_only=False)


def _first_rows(age: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """For every row the row whose image it holds."""
    rows = np.arange(len(age))
    return np.maximum.accumulate(np.where(age == 0, rows, 0)) if len(age) else rows


def _png_frames(encoded: list[bytes], age: np.ndarray, size: tuple[int, int]) -> Frames:
    from PIL import Image

    def decode(row: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(encoded[row])).convert("RGB"))

    return Frames(decode, _first_rows(age), size)


def _video_frames(
    folder: Path,
    info: dict,
    key: str,
    episode: np.ndarray,
    timestamp: np.ndarray,
    age: np.ndarray,
    size: tuple[int, int],
) -> Frames:
    """Frames of the mp4 files: a row's frame is the one shown at from_timestamp + timestamp."""
    from ops.video import read_frames

    starts = {}
    for path in sorted((folder / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
        prefix = f"videos/{key}/"
        table = pq.read_table(
            path, columns=["episode_index", *(prefix + c for c in ("chunk_index", "file_index", "from_timestamp"))]
        )
        for row in table.to_pylist():
            file = video_file(folder, info, key, row[prefix + "chunk_index"], row[prefix + "file_index"])
            starts[row["episode_index"]] = (file, row[prefix + "from_timestamp"])
    times = np.array([starts[e][1] for e in episode]) + timestamp.reshape(len(episode))
    numbers = np.rint(times * info["fps"]).astype(int)

    def decode(row: int) -> np.ndarray:
        return next(read_frames(starts[int(episode[row])][0], [int(numbers[row])])).rgb

    return Frames(decode, _first_rows(age), size)
