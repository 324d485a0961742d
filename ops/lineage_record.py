"""What a registered version was made from, kept with the version in the registry.

dvc.lock describes the present; a version outlives it. So the part of dvc.lock behind a policy, its parameters and the
clips it was made from become artefacts of the version's run. `hand3d checkout` restores every artefact from them as long
as the cache holds it, which `hand3d gc` sees to.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import yaml

from ops import dvc_cache, lineage, tracking
from ops.data_version import address, content_hash, recorded
from ops.dvc_lock import parsed
from ops.store import Report

POLICY, FIRST = "posttrained_policies", "raw_videos"
TAG, GAPS_TAG = "lineage", "lineage_gaps"
FILES = ("dvc.yaml", "dvc.lock", "params.yaml")
SUFFIX = ".txt"
"""Of FILES in a record: the registry's files may lie in the workspace, and a dvc.yaml there would be one of DVC's."""
CLIPS = "clips.parquet"
COLUMNS = {
    **{name: pl.String for name in ("shard", "clip_id", "source", "video", "sha256", "side_sha256", "split")},
    **{name: pl.String for name in ("subject", "licence", "intrinsics")},
    **{name: pl.Boolean for name in ("has_labels", "noncommercial", "redistributable")},
}
"""Of the clips table, what says which video, which labels and which licence; shard is the partition."""
MAX_ROWS = 50  # of a table in a report


@dataclass(frozen=True)
class Record:
    """lock: the stages behind a policy and its scores. clips: COLUMNS, one row a clip of raw_videos behind it.
    gaps: what is not known, in words; none for an exact record. files: name -> text of dvc.yaml, dvc.lock, params.yaml.
    """

    lock: lineage.Lock
    links: list[lineage.Link]
    clips: pl.DataFrame
    gaps: list[str]
    files: dict[str, str]

    def rows(self) -> list[dict[str, object]]:
        """As `lineage.champion_lineage`."""
        return lineage.rows(self.lock, self.links, list(self.lock))


def collect(root: Path, start: str = POLICY) -> Record:
    """The record of an artefact as dvc.lock has it now; of a policy with the scores that judged it."""
    lock = dict(recorded(root))
    if address(start) not in lock:
        return Record({}, [], pl.DataFrame(schema=COLUMNS), [f"dvc.lock records no {start}"], {})
    found = lineage.links(root, lock, lineage.shards_of(root))
    starts = [address(start), lineage.SCORES] if start == POLICY else [address(start)]
    stages = lineage.behind(lock, found, starts)
    part = {stage: lock[stage] for stage in stages}
    gaps = lineage.broken(found, stages) + lineage.unrecorded(lock, found, stages)
    if start == POLICY and (root / "data" / POLICY).is_dir() and content_hash(root, POLICY) != content(part):
        gaps.append(f"{POLICY} on disk is not the one that dvc.lock records")
    clips, missing = _clips(root, part)
    texts = {name: (root / name).read_text(encoding="utf-8") for name in FILES if name != "dvc.lock"}
    texts["dvc.lock"] = yaml.safe_dump({"schema": "2.0", "stages": part}, sort_keys=False)
    return Record(part, [link for link in found if link.reader in part], clips, gaps + missing, texts)


def content(lock: lineage.Lock, name: str = POLICY) -> str | None:
    """DVC's hash of an artefact in a lock."""
    return lock[name]["outs"][0]["md5"] if name in lock else None


def keep(root: Path, model_name: str, version: int, record: Record) -> str:
    """Store a record with a version; returns where (below the run's artefacts). The same one is stored once; an older
    one, of an equal policy made otherwise, stays beside it. Of an empty record only the reason is stored."""
    tracking.set_version_tag(root, model_name, version, GAPS_TAG, "; ".join(record.gaps)[:4000])
    if not record.lock:
        return ""
    digest = hashlib.sha256(json.dumps(record.files, sort_keys=True).encode()).hexdigest()[:16]
    path = f"lineage/{digest}"
    if tracking.version_tags(root, model_name, version).get(TAG) == path:
        return path
    with TemporaryDirectory() as temporary:
        folder = write(record, Path(temporary) / digest)
        tracking.keep_folder(root, tracking.version_run_id(root, model_name, version), folder, path)
    tracking.set_version_tag(root, model_name, version, "dvc_md5", content(record.lock) or "not recorded")
    tracking.set_version_tag(root, model_name, version, TAG, path)
    return path


def write(record: Record, folder: Path) -> Path:
    """The record as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in record.files.items():
        (folder / f"{name}{SUFFIX}").write_text(text, encoding="utf-8")
    record.clips.write_parquet(folder / CLIPS)
    return folder


def of_version(root: Path, model_name: str, version: int) -> Record | None:
    """The newest record of a registered version; None where none was kept."""
    tags = tracking.version_tags(root, model_name, version)
    if TAG not in tags:
        return None
    with TemporaryDirectory() as temporary:
        run_id = tracking.version_run_id(root, model_name, version)
        return read(tracking.fetch(root, run_id, tags[TAG], Path(temporary)), tags.get(GAPS_TAG, ""))


def every(root: Path, model_name: str, version: int) -> list[Record]:
    """All records of a version, for whoever must not lose anything. Raises FileNotFoundError where its tag names one
    that the run does not hold."""
    tags, run_id = tracking.version_tags(root, model_name, version), tracking.version_run_id(root, model_name, version)
    if TAG not in tags:
        return []
    with TemporaryDirectory() as temporary:
        folder = tracking.fetch(root, run_id, "lineage", Path(temporary))
        found = {f"lineage/{path.name}": read(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    if tags[TAG] not in found:
        raise FileNotFoundError(f"version {version} of {model_name}: its run {run_id} holds no {tags[TAG]}")
    return list(found.values())


def read(folder: Path, gaps: str = "") -> Record:
    """A record from its files. Its lock holds only what belongs together, so every link in it is exact."""
    files = {name: (folder / f"{name}{SUFFIX}").read_text(encoding="utf-8") for name in FILES}
    lock = parsed(files["dvc.lock"])["stages"]
    return Record(lock, [], pl.read_parquet(folder / CLIPS), [gaps] if gaps else [], files)


def licences(clips: pl.DataFrame) -> list[dict[str, object]]:
    """One row a source and licence: clips, participants named, and what the licence forbids."""
    keys = ["source", "licence", "noncommercial", "redistributable"]
    counts = [pl.len().alias("clips"), pl.col("subject").filter(pl.col("subject") != "").n_unique().alias("subjects")]
    table = clips.group_by(keys).agg(*counts).sort(keys)
    forbids = pl.concat_str(
        pl.when("noncommercial").then(pl.lit("commercial use")).otherwise(pl.lit("")),
        pl.when(pl.col("noncommercial") & ~pl.col("redistributable")).then(pl.lit(", ")).otherwise(pl.lit("")),
        pl.when("redistributable").then(pl.lit("")).otherwise(pl.lit("passing on")),
    )
    return table.select("source", "licence", "clips", "subjects", forbids=forbids).to_dicts()


def tables(record: Record) -> dict[str, list[dict[str, object]]]:
    """The record as small tables for an asset's page: licences, videos and labels, artefacts."""
    videos = record.clips.sort("shard", "clip_id").head(MAX_ROWS)
    short = [pl.col(name).str.head(10) for name in ("sha256", "side_sha256")]
    columns = ["clip_id", "split", "subject", "licence", *short]
    return {
        "behind it: licences": licences(record.clips)[:MAX_ROWS],
        "behind it: videos and labels": videos.select(columns).fill_null("").to_dicts(),
        "behind it: artefacts, code, parameters": record.rows()[:MAX_ROWS],
    }


def notes(record: Record) -> list[str]:
    """How complete the tables are and where to ask for more."""
    found = [f"Lineage gap: {gap}." for gap in record.gaps]
    if len(record.clips) > MAX_ROWS:
        found.append(f"{MAX_ROWS} of {len(record.clips):,} videos are listed here.")
    return [
        *found,
        "Backward, whole: `hand3d lineage champion`. Forward: `hand3d uses VIDEO` (or `subject:NAME`) lists every row, "
        "checkpoint, score and registered version that goes with a video or a participant.",
    ]


def register(root: Path, folder: Path, report: Report) -> Report:
    """After stage champion, wherever it ran: keep the record with the version that decision.json names, and put the
    lineage into the report."""
    decision = json.loads((folder / "decision.json").read_text(encoding="utf-8"))
    record = collect(root)
    keep(root, decision["model_name"], decision["version"], record)
    report.tables |= tables(record)
    report.notes += notes(record)
    report.save(folder)
    return report


def restore(root: Path, record: Record, folder: Path, names: Sequence[str] = ()) -> list[str]:
    """Make the artefacts of a record (all, or those of these stages) anew in an empty folder, from the workspace's
    cache; returns their addresses. Raises FileNotFoundError naming what the cache does not hold: `dvc fetch` it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give a new folder, so that nothing is overwritten")
    wanted = [stage for stage in record.lock if not names or stage.partition("@")[0] in names]
    outs = {out["path"]: out["md5"] for stage in wanted for out in record.lock[stage]["outs"]}
    write(record, folder)
    with dvc_cache.opened(root) as cache:
        missing = _missing(cache, outs)
        if missing:
            raise FileNotFoundError(f"the cache does not hold {', '.join(missing[:5])}: `dvc pull` from your remote")
        for path, md5 in outs.items():
            for name, content_md5 in (dvc_cache.listing(cache, md5) or {}).items():
                target = folder / path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cache.oid_to_path(content_md5), target)
    return wanted


def _missing(cache, outs: dict[str, str]) -> list[str]:
    found = []
    for path, md5 in outs.items():
        files = dvc_cache.listing(cache, md5)
        if files is None or not all(Path(cache.oid_to_path(each)).is_file() for each in files.values()):
            found.append(path)
    return found


def _clips(root: Path, lock: lineage.Lock) -> tuple[pl.DataFrame, list[str]]:
    """The clips tables that a lock's raw_videos hold, read from the cache, so that they are those of the lock."""
    found, missing = [pl.DataFrame(schema=COLUMNS)], []
    if not lock:
        return found[0], missing
    with dvc_cache.opened(root) as cache:
        for stage in _partitions(lock, FIRST):
            path = dvc_cache.file(cache, content(lock, stage) or "", CLIPS)
            if path is None:
                missing.append(f"the cache does not hold the clips of {stage}")
                continue
            table = pl.read_parquet(path).with_columns(shard=pl.lit(stage.partition("@")[2]))
            found.append(table.select(pl.col(name).cast(kind) for name, kind in COLUMNS.items()))
    return pl.concat(found), missing


def _partitions(stages: Iterable[str], name: str) -> list[str]:
    return [stage for stage in stages if stage.partition("@")[0] == name]
