"""Forward from a video: every row, checkpoint, score and registered version that goes if its participant withdraws.

Which artefacts read it is taken from dvc.lock, how many rows they hold of it from the tables themselves. An artefact
that only read it is listed as well: its content was decided with the video at hand, and removing the video re-makes it.
Registered versions outlive dvc.lock: each carries the list of its clips (ops/lineage_record.py), so that one is found
long after the video has left the folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ops import lineage, lineage_record
from ops.data_version import address, recorded
from ops.pipeline import output

FIRST = "raw_videos"
MIN_SHA = 8  # characters of a sha256 that name a video
HOLDS, NONE_LEFT, MADE_FROM = "holds rows of it", "read it, holds no row of it", "made from it"


@dataclass(frozen=True)
class Use:
    """One artefact behind which the video stands. rows, of: its rows and all rows, over the tables with a clip_id;
    0, 0 where the artefact has no such table (a checkpoint, a score)."""

    artefact: str
    how: str
    rows: int
    of: int
    content: str


@dataclass(frozen=True)
class Registered:
    """A version in the model registry. used: "trained on it", "scored on it" (its split was not train), "no", or
    "unknown: " and why, where no whole record was kept."""

    version: int
    aliases: str
    used: str


def clips(root: Path, wanted: str, kept: Sequence[pl.DataFrame] = ()) -> pl.DataFrame:
    """Rows (shard, clip_id, video, sha256, subject, now) of the clips that `wanted` names: a clip_id, a video's path,
    the first 8 or more characters of its sha256, or "subject:NAME" for all of one participant. now: whether raw_videos
    holds it still. kept: clips of registered versions, which know videos that are gone. Raises ValueError for none.
    """
    files = sorted((root / "data" / FIRST).glob("*/clips.parquet"))
    if not files and not kept:
        raise FileNotFoundError(f"{root / 'data' / FIRST} holds no clips.parquet: run `hand3d run {FIRST}` first")
    columns = ("clip_id", "video", "sha256", "subject")
    present = [
        pl.read_parquet(file, columns=list(columns)).with_columns(shard=pl.lit(file.parent.name)) for file in files
    ]
    tables = [table.select("shard", *columns, now=pl.lit(value=True)) for table in present]
    tables += [table.select("shard", *columns, now=pl.lit(value=False)) for table in kept]
    subject = wanted.removeprefix("subject:")
    if subject != wanted:
        rule = (pl.col("subject") == subject) & (pl.col("subject") != "")
    else:
        rule = (pl.col("clip_id") == wanted) | (pl.col("video") == wanted)
        rule |= pl.col("sha256").str.starts_with(wanted) & (len(wanted) >= MIN_SHA)
    found = pl.concat(tables).filter(rule).unique(["shard", "clip_id", "sha256"], keep="first", maintain_order=True)
    if found.is_empty():
        raise ValueError(
            f"no clip of {FIRST} is named {wanted!r}: give a clip_id, a video's path, {MIN_SHA} or more characters of "
            f"its sha256, or subject:NAME, as `data/{FIRST}/<shard>/clips.parquet` has them"
        )
    return found


def uses(root: Path, found: pl.DataFrame) -> list[Use]:
    """Every artefact that the clips went into, nearest first. found: from `clips`."""
    lock, wanted = dict(recorded(root)), found["clip_id"].unique().to_list()
    starts = [address(FIRST, shard) for shard in found["shard"].unique(maintain_order=True)]
    edges = lineage.links(root, lock, lineage.shards_of(root))
    return [_use(root, made, lock[made], wanted) for made in downstream(lock, starts, edges)]


def downstream(lock: lineage.Lock, starts: Sequence[str], edges: Sequence[lineage.Link]) -> list[str]:
    """`starts` and every address of dvc.lock that was made from them, each after one that it was made from. An input
    that was made again since counts: an earlier state of it was read."""
    return lineage.reachable(
        [start for start in starts if start in lock], ((edge.maker, edge.reader) for edge in edges)
    )


def rows_of(folder: Path, wanted: Sequence[str]) -> tuple[int, int, bool]:
    """(rows of these clips, all rows, whether a table has a clip_id) over every Parquet file below a folder."""
    mine = total = 0
    there = False
    for path in sorted(folder.rglob("*.parquet")):
        table = pl.scan_parquet(path)
        if "clip_id" not in table.collect_schema().names():
            continue
        there = True
        counts = table.select(mine=pl.col("clip_id").is_in(list(wanted)).sum(), total=pl.len()).collect()
        mine, total = mine + counts["mine"].item(), total + counts["total"].item()
    return mine, total, there


def registered(root: Path, model_name: str, found: pl.DataFrame) -> list[Registered]:
    """Every version of the registered policy, and whether the clips went into it, by the bytes of their videos."""
    from ops import tracking

    marks: dict[int, list[str]] = {}
    for alias, version in tracking.aliases(root, model_name).items():
        marks.setdefault(version, []).append(alias)
    return [
        Registered(version, " ".join(sorted(marks.get(version, []))), used(record, found))
        for version in tracking.versions(root, model_name)
        for record in [lineage_record.of_version(root, model_name, version)]
    ]


def used(record: lineage_record.Record | None, found: pl.DataFrame) -> str:
    """As Registered.used, for one version's record."""
    if record is None:
        return "unknown: it was registered without a record of its lineage"
    mine = record.clips.filter(pl.col("sha256").is_in(found["sha256"].to_list()))
    if mine.is_empty():
        return f"unknown: {'; '.join(record.gaps)}" if record.gaps else "no"
    return "trained on it" if "train" in mine["split"].to_list() else "scored on it"


def kept_clips(root: Path, model_name: str) -> list[pl.DataFrame]:
    """Clips of every registered version that has a record."""
    from ops import tracking

    records = (lineage_record.of_version(root, model_name, version) for version in tracking.versions(root, model_name))
    return [record.clips for record in records if record is not None]


def _use(root: Path, address: str, entry: dict, wanted: Sequence[str]) -> Use:
    name, _, shard = address.partition("@")
    mine, total, there = rows_of(output(root, name, shard), wanted)
    how = HOLDS if mine else NONE_LEFT if there else MADE_FROM
    return Use(address, how, mine, total, entry["outs"][0]["md5"])
