"""The frames that rows look at, as JPEG: decoded once a shard, packed into tars, found again by clip and frame.

A frame of a clip whose licence forbids passing it on is left out, unless the user has declared internal use. Frames are
resized to a longest edge (CONVENTIONS.md: a pure scaling of the intrinsics), never enlarged.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import UInt8

from ops import tables
from ops.config import Hand3DDatasetConfig
from ops.hand3d.release.tars import TarShards
from ops.rejects import ClipError
from ops.sources.manifest import read_clip

INDEX = "index.parquet"
EPISODE_SOURCES = "sources.parquet"
"""Beside a LeRobot data set: the clip, hand and licence of each episode."""
_INDEX = {"clip_id": pl.String, "frame": pl.Int32, "tar": pl.String, "offset": pl.Int64, "size": pl.Int64}
_UNREADABLE = {"clip_id": pl.String, "detail": pl.String}
DECODERS = 2
"""Videos decoded at once, by threads (decoders work outside Python's lock); each takes memory for its frames."""
_RANDOM_ACCESS = 500  # frames asked of a video at once: bounds the memory of the encoded ones


def read_clips_table(raw_videos: Path, shards: list[str]) -> pl.DataFrame:
    """Clips of all shards with the shard they lie in."""
    read = [tables.read("clips", raw_videos / shard / "clips.parquet") for shard in shards]
    return pl.concat([table.with_columns(shard=pl.lit(shard)) for shard, table in zip(shards, read, strict=True)])


def with_rights(clips: pl.DataFrame, config: Hand3DDatasetConfig) -> pl.DataFrame:
    """Adds frames_allowed, and frame_width and frame_height: the size of a written frame."""
    sizes = [fitted(w, h, config.frame_long_edge) for w, h in clips.select("width", "height").iter_rows()]
    return clips.with_columns(
        frames_allowed=pl.col("redistributable") | pl.lit(config.internal_use),
        frame_width=pl.Series([size[0] for size in sizes], dtype=pl.Int32),
        frame_height=pl.Series([size[1] for size in sizes], dtype=pl.Int32),
    )


def fitted(width: int, height: int, long_edge: int) -> tuple[int, int]:
    """Size with the given longest edge and the same shape; the original where that is smaller."""
    if long_edge < 1:
        raise ValueError(f"hand3d_dataset.frame_long_edge is {long_edge}: give at least 1 pixel")
    scale = min(1.0, long_edge / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def wanted(rows_of: list[pl.LazyFrame], clip_ids: pl.Series) -> pl.DataFrame:
    """Distinct (clip_id, frame) that rows of the given tables name, for the given clips, sorted."""
    found = []
    for table in rows_of:
        rows = table.filter(pl.col("clip_id").is_in(clip_ids.implode()))
        if "frames" in rows.collect_schema():
            rows = rows.select("clip_id", frame="frames").explode("frame")
        found.append(rows.select("clip_id", "frame").unique().collect())
    return pl.concat(found).unique().sort("clip_id", "frame")


def pack(folder: Path, name: str, clips: pl.DataFrame, needed: pl.DataFrame, root: Path, config: Hand3DDatasetConfig):
    """Write frames/<name>-NNNNN.tar and index.parquet. clips: rows with rights; only allowed ones are opened.

    Returns facts: frames, bytes, unreadable {clip: why} (their rows are released without frames).
    """
    places, unreadable = [], {}
    with TarShards(folder / "frames" / name, config.samples_per_tar) as tars:
        for row in clips.filter("frames_allowed").iter_rows(named=True):
            frames = needed.filter(clip_id=row["clip_id"])["frame"].to_list()
            try:
                for frame, jpeg in encoded(row, frames, root, config.jpeg_quality) if frames else ():
                    (place,) = tars.add({path_of(row["clip_id"], frame): jpeg})
                    places.append((row["clip_id"], frame, *place))
            except ClipError as error:
                unreadable[row["clip_id"]] = str(error)
    index = pl.DataFrame(places, _INDEX, orient="row").sort("clip_id", "frame")
    index.write_parquet(folder / INDEX)
    return {"frames": len(index), "bytes": int(index["size"].sum()), "unreadable": unreadable}


def encoded(row: dict, frames: list[int], root: Path, quality: int) -> Iterator[tuple[int, bytes]]:
    """JPEG of frames of one clip, in order."""
    clip = read_clip(row, root)
    size = (row["frame_width"], row["frame_height"])
    for start in range(0, len(frames), _RANDOM_ACCESS):
        for frame in clip.frames(frames[start : start + _RANDOM_ACCESS], size):
            yield frame.index, jpeg(frame.rgb, quality)


def jpeg(rgb: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def path_of(clip_id: str, frame: int) -> str:
    """Where a frame lies, relative to the folder its tar is unpacked in."""
    return f"{clip_id}/{frame:06d}.jpg"


def clips_shown(release: Path, samples_per_tar: int) -> set[str]:
    """Clips of which a release holds frames: all frame tars, the first samples of each WebDataset tar, and LeRobot data
    sets with images."""
    shown: set[str] = set()
    for path in sorted((release / "frames").glob("*.tar")):
        with tarfile.open(path) as tar:
            shown.update(member.name.rsplit("/", 1)[0] for member in tar)
    for path in sorted((release / "webdataset").glob("*.tar")):
        with tarfile.open(path) as tar:
            bodies = (tar.extractfile(member) for member in tar if member.name.endswith(".json"))
            shown.update(json.load(body)["row"]["clip_id"] for body in islice(bodies, samples_per_tar) if body)
    for path in sorted((release / "lerobot").glob(f"*/{EPISODE_SOURCES}")):
        shown.update(pl.read_parquet(path).filter("images")["clip_id"])
    return shown


class PackedFrames:
    """Bytes of packed frames by clip and frame. folders: of `pack`, one a shard; opened for reading only."""

    def __init__(self, folders: list[Path]):
        self._index = pl.concat(
            [pl.read_parquet(f / INDEX).with_columns(folder=pl.lit(str(f / "frames"))) for f in folders]
        )

    def covers(self, rows: pl.DataFrame) -> pl.Series:
        """Which rows have all their frames packed. rows: clip_id, frames (list)."""
        pairs = rows.select("clip_id", "frames").with_row_index("_row").explode("frames").rename({"frames": "frame"})
        found = pairs.join(self._index.select("clip_id", "frame", _there=True), on=["clip_id", "frame"], how="left")
        return found.group_by("_row").agg(pl.col("_there").is_not_null().all()).sort("_row")["_there"]

    def read(self, clip_ids: pl.Series) -> "OpenFrames":
        """The frames of some clips, ready to be looked up."""
        return OpenFrames(self._index.filter(pl.col("clip_id").is_in(clip_ids.unique().implode())))


class OpenFrames:
    """(clip_id, frame) -> JPEG bytes, read when asked for."""

    def __init__(self, index: pl.DataFrame):
        self._places = {(c, f): (folder, tar, o, s) for c, f, tar, o, s, folder in index.iter_rows()}

    def __getitem__(self, key: tuple[str, int]) -> bytes:
        folder, tar, offset, size = self._places[key]
        with (Path(folder) / tar).open("rb") as file:
            file.seek(offset)
            return file.read(size)
