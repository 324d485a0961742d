"""Forward from a video: every row, checkpoint, score and registered version that goes if its participant withdraws.

Which artefacts read it is taken from dvc.lock, how many rows they hold of it from the tables themselves. An artefact
that only read it is listed as well: its content was decided with the video at hand, and removing the video re-makes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ops.data_version import recorded
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
    """A version in the model registry. used: "yes", or "unknown" where dvc.lock no longer describes its checkpoint."""

    version: int
    aliases: str
    used: str


def clips(root: Path, wanted: str) -> pl.DataFrame:
    """Rows (shard, clip_id, video, sha256, subject) of the clips that `wanted` names: a clip_id, a video's path, the
    first 8 or more characters of its sha256, or "subject:NAME" for all of one participant. Raises ValueError for none.
    """
    files = sorted((root / "data" / FIRST).glob("*/clips.parquet"))
    if not files:
        raise FileNotFoundError(f"{root / 'data' / FIRST} holds no clips.parquet: run `hand3d run {FIRST}` first")
    columns = ("clip_id", "video", "sha256", "subject")
    tables = [
        pl.read_parquet(file, columns=list(columns)).with_columns(shard=pl.lit(file.parent.name)) for file in files
    ]
    subject = wanted.removeprefix("subject:")
    if subject != wanted:
        rule = (pl.col("subject") == subject) & (pl.col("subject") != "")
    else:
        rule = (pl.col("clip_id") == wanted) | (pl.col("video") == wanted)
        rule |= pl.col("sha256").str.starts_with(wanted) & (len(wanted) >= MIN_SHA)
    found = pl.concat(tables).filter(rule)
    if found.is_empty():
        raise ValueError(
            f"no clip of {FIRST} is named {wanted!r}: give a clip_id, a video's path, {MIN_SHA} or more characters of "
            f"its sha256, or subject:NAME, as `data/{FIRST}/<shard>/clips.parquet` has them"
        )
    return found.select("shard", *columns)


def uses(root: Path, found: pl.DataFrame) -> list[Use]:
    """Every artefact that the clips went into, nearest first. found: from `clips`."""
    lock, wanted = recorded(root), found["clip_id"].unique().to_list()
    starts = [f"{FIRST}@{shard}" for shard in found["shard"].unique(maintain_order=True)]
    return [_use(root, address, lock[address], wanted) for address in downstream(lock, starts)]


def downstream(lock: dict[str, dict], starts: Sequence[str]) -> list[str]:
    """`starts` and every address of dvc.lock that was made from them, each after one that it was made from."""
    queue, seen = [start for start in starts if start in lock], []
    while queue:
        address = queue.pop(0)
        if address in seen:
            continue
        seen.append(address)
        made = [out["path"] for out in lock[address]["outs"]]
        queue += [name for name, entry in lock.items() if any(_reads(entry, path) for path in made)]
    return seen


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


def registered(root: Path, model_name: str, used: Sequence[Use]) -> list[Registered]:
    """Versions of the registered policy whose checkpoint is among `used`, and those of which it can no longer be told."""
    from ops import tracking

    content = {use.content for use in used if use.artefact == "posttrained_policies"}
    if not content:
        return []
    marks = {tracking.get_alias(root, model_name, alias): alias for alias in ("champion", "challenger")}
    found = []
    for version in tracking.versions(root, model_name):
        known = tracking.version_tags(root, model_name, version).get("dvc_md5") in content
        found.append(Registered(version, marks.get(version, ""), "yes" if known else "unknown"))
    return found


def _reads(entry: dict, path: str) -> bool:
    return any(
        Path(path).is_relative_to(dep["path"]) or Path(dep["path"]).is_relative_to(path)
        for dep in entry.get("deps", [])
    )


def _use(root: Path, address: str, entry: dict, wanted: Sequence[str]) -> Use:
    name, _, shard = address.partition("@")
    mine, total, there = rows_of(output(root, name, shard), wanted)
    how = HOLDS if mine else NONE_LEFT if there else MADE_FROM
    return Use(address, how, mine, total, entry["outs"][0]["md5"])
