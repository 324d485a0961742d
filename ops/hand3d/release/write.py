"""One part of a release into its files: canonical Parquet, conversations, WebDataset tars, and the tallies beside them.

Rows pass through in batches, so memory does not grow with their number. Rows whose frames are not released (licence, or a
video that does not decode) are in the Parquet only; the others name or hold frames, and a trainer would stop there.
"""

from pathlib import Path
from types import TracebackType

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ops.config import Hand3DDatasetConfig
from ops.hand3d.release import conversations
from ops.hand3d.release.frames import PackedFrames
from ops.hand3d.release.parts import Part, released
from ops.hand3d.release.tars import TarShards
from ops.hand3d.tally import Tally

_CLIPS_PUBLIC = (
    "clip_id", "source", "shard", "kind", "sha256", "side_sha256", "fps", "num_frames", "width", "height", "fx", "fy", "cx",
    "cy", "intrinsics", "split", "licence", "noncommercial", "redistributable", "frames_allowed", "frame_width", "frame_height",
)  # fmt: skip


def write_part(part: Part, folder: Path, clips: pl.DataFrame, frames: PackedFrames | None, config: Hand3DDatasetConfig):
    """Write all files of a part below `folder` and return its facts: rows, rows with frames, tally.

    clips: clips tables with rights. frames: packed frames of the part's clips, None where no format needs them.
    """
    tally = Tally(config.near_duplicate_mm / 1000, config.seed, 12 * config.gallery_rows)
    num_rows = num_with_frames = 0
    with _Parquet(released(folder, part)) as table, _Formats(part, folder, clips, config) as formats:  # fmt: skip
        for rows in part.batches():
            table.add(rows)
            tally.add(part.kind, rows)
            num_rows += len(rows)
            if frames is not None:
                covered = rows.filter(frames.covers(conversations.with_turns(rows)))
                formats.add(covered, frames)
                num_with_frames += len(covered)
    return {"rows": num_rows, "with_frames": num_with_frames, "tally": tally.facts()}


def write_clips(clips: pl.DataFrame, path: Path) -> None:
    """What is known about each clip, without the paths of this machine."""
    with _Parquet(path) as table:
        table.add(clips.select(_CLIPS_PUBLIC).sort("clip_id"))


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The types every reader knows: no large strings or lists, no metadata of one library, and plain lists for vectors,
    since Arrow cannot read a fixed-size list with nulls back from Parquet (apache/arrow#35692)."""
    return pa.schema([(field.name, _plain(field.type)) for field in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


class _Parquet:
    """One Parquet file, a row group a batch; no file for no rows."""

    def __init__(self, path: Path):
        self._path, self._writer = path, None

    def add(self, rows: pl.DataFrame) -> None:
        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, plain_schema(table.schema), compression="zstd")
        self._writer.write_table(table.cast(plain_schema(table.schema)))

    def __enter__(self) -> "_Parquet":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._writer is not None:
            self._writer.close()


class _Formats:
    """The formats with frames that are asked for, of one part."""

    def __init__(self, part: Part, folder: Path, clips: pl.DataFrame, config: Hand3DDatasetConfig):
        self._part, self._folder, self._clips, self._config = part, folder, clips, config
        self._files: dict[str, object] = {}
        self._count = 0
        self._tars = TarShards(folder / "webdataset" / part.name, config.samples_per_tar)

    def __enter__(self) -> "_Formats":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if "llava" in self._files:
            self._files["llava"].write("\n]\n")
        for file in self._files.values():
            file.close()
        self._tars.close()

    def add(self, rows: pl.DataFrame, frames: PackedFrames) -> None:
        if rows.is_empty():
            return
        texts = {style: conversations.records(rows, self._clips, style) for style in conversations.STYLES}
        if self._config.conversations:
            self._lines("internvl", "jsonl", "\n".join(texts["internvl"]) + "\n", "", "")
            self._lines("llava", "json", ",\n".join(texts["llava"]), "[\n", ",\n")
        if self._config.webdataset:
            self._samples(rows, texts["internvl"], frames)
        self._count += len(rows)

    def _lines(self, style: str, suffix: str, text: str, head: str, between: str) -> None:
        """Append to a text file: `head` before the first batch, `between` before each further one."""
        if style not in self._files:
            path = self._folder / "conversations" / style / f"{self._part.name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[style] = path.open("w", encoding="utf-8", newline="\n")
            self._files[style].write(head + text)
        else:
            self._files[style].write(between + text)

    def _samples(self, rows: pl.DataFrame, texts: pl.Series, frames: PackedFrames) -> None:
        """One sample a row: <part>-<number>.0.jpg, ... and .json, which holds the row and its conversation."""
        packed = frames.read(rows["clip_id"])
        facts = rows.select(json=pl.struct(pl.all()).struct.json_encode())["json"]
        shots = conversations.with_turns(rows)["frames"]
        stem = self._part.name.replace(".", "_")  # WebDataset ends a key at its first dot
        for i, (clip_id, shown, row, text) in enumerate(zip(rows["clip_id"], shots, facts, texts, strict=True)):
            key = f"{stem}-{self._count + i:08d}"
            members = {f"{key}.{k}.jpg": packed[clip_id, frame] for k, frame in enumerate(shown)}
            body = f'{{"row":{row},"conversation":{text}}}'
            self._tars.add(members | {f"{key}.json": body.encode()})
