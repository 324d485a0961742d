"""Versions that came from outside Dagster, by `dvc repro`, `dvc pull` or `dvc checkout`, recorded without a run.

dvc.lock says which content an artefact should have, the disk which it has; only where the two agree it is recorded,
with DVC's hash as data version. Provenance goes with it, so that Dagster calls stale what DVC calls stale.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from assets.factory import CODE_TAG, DATA_TAG, ONLY_STALE, VIDEO_FOLDERS, inputs, version_of_code
from dagster_project.staleness import latest
from ops import data_version
from ops.config import Config
from ops.pipeline import output
from ops.stages import BY_NAME, STAGES
from ops.store import Report

NEVER = "1"
"""Event pointer older than any event of an input: the artefact was made from something else than is there now."""


@dataclass(frozen=True)
class Item:
    """An artefact. version: its content as dvc.lock has it."""

    stage: str
    shard: str
    version: str


@dataclass
class Found:
    """recorded: told to Dagster. stale: of these, what DVC finds out of date. waiting: addresses whose files are not
    (yet) those of dvc.lock."""

    recorded: list[Item] = field(default_factory=list)
    stale: list[Item] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    def said(self) -> str:
        names = [data_version.address(item.stage, item.shard) for item in self.recorded]
        parts = [f"recorded {', '.join(names)}"] if names else []
        if self.waiting:
            parts.append(f"not as dvc.lock says, run `dvc checkout` or `hand3d run`: {', '.join(self.waiting)}")
        return "; ".join(parts) or "Dagster has every version of dvc.lock"


def lock_mark(root: Path) -> str:
    """Changes with dvc.lock's content; "" where nothing was made."""
    path = root / "dvc.lock"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def record(instance: dg.DagsterInstance, config: Config, root: Path) -> Found:
    """Report every version of dvc.lock that lies on disk and that Dagster does not have, inputs first."""
    items = unrecorded(instance, config, root)
    if not items:
        return Found()
    changed = data_version.differences(root, [data_version.address(item.stage, item.shard) for item in items])
    found = Found()
    for item in items:
        address = data_version.address(item.stage, item.shard)
        said = changed.get(address, [])
        if any("changed outs" in entry for entry in said):
            found.waiting.append(address)
            continue
        instance.report_runless_asset_event(event(instance, config, root, item, not said))
        found.recorded.append(item)
        if said:
            found.stale.append(item)
    return found


def unrecorded(instance: dg.DagsterInstance, config: Config, root: Path) -> list[Item]:
    """Artefacts of dvc.lock whose version is not Dagster's latest, in the graph's order; what a run is making now is
    left to that run."""
    versions, busy = data_version.recorded(root), in_work(instance)
    found = []
    for stage in STAGES:
        known = latest(instance, stage.name, list(config.shards) if stage.partitioned else [""])
        for shard, tags in known.items():
            entry = versions.get(data_version.address(stage.name, shard))
            if entry is None or (stage.name, shard) in busy:
                continue
            if tags.get(DATA_TAG) != entry["outs"][0]["md5"]:
                found.append(Item(stage.name, shard, entry["outs"][0]["md5"]))
    return found


def in_work(instance: dg.DagsterInstance) -> set[tuple[str, str]]:
    """(stage, shard) of everything that a run which has not ended may yet report."""
    statuses = [status for status in dg.DagsterRunStatus if status not in ENDED]
    found = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
        names = {key.to_user_string() for key in run.asset_selection} if run.asset_selection else set(BY_NAME)
        shard = run.tags.get("dagster/partition", "")
        found |= {(name, shard if name in BY_NAME and BY_NAME[name].partitioned else "") for name in names}
    return found


ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def event(instance: dg.DagsterInstance, config: Config, root: Path, item: Item, fresh: bool) -> dg.AssetMaterialization:
    """fresh: whether DVC finds inputs, code and parameters as they were when it was made."""
    stage = BY_NAME[item.stage]
    report = Report.load(output(root, item.stage, item.shard))
    tags = {DATA_TAG: item.version, "dagster/data_version_is_user_provided": "true"}
    tags |= {CODE_TAG: version_of_code(stage, config) if fresh else "of another commit, parameters or inputs"}
    for name in inputs(stage):
        version, pointer = input_event(instance, name, item.shard)
        tags[f"dagster/input_data_version/{name}"] = version
        tags[f"dagster/input_event_pointer/{name}"] = pointer if fresh else NEVER
    metadata: dict[str, object] = {f"rows/{name}": count for name, count in report.rows.items()}
    metadata |= {
        "dvc_hash": item.version,
        "made": "outside Dagster: recorded from dvc.lock, checked by whoever made it",
    }
    return dg.AssetMaterialization(item.stage, partition=item.shard or None, metadata=metadata, tags=tags)


def input_event(instance: dg.DagsterInstance, name: str, shard: str) -> tuple[str, str]:
    """(data version, event pointer) of an input's newest event, as a step would note them."""
    source = name == VIDEO_FOLDERS
    partitioned = source or BY_NAME[name].partitioned
    wanted = [shard] if shard and partitioned else None
    filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey(name), asset_partitions=wanted)
    fetch = instance.fetch_observations if source else instance.fetch_materializations
    records = fetch(filters, limit=1).records
    if not records:
        return "unknown", NEVER
    made = records[0].asset_observation if source else records[0].asset_materialization
    return (made.tags or {}).get(DATA_TAG, "unknown"), str(records[0].storage_id)


def request(item: Item, mark: str) -> dg.RunRequest:
    """A run that makes one artefact anew."""
    return dg.RunRequest(
        run_key=f"{data_version.address(item.stage, item.shard)} {item.version} {mark}",
        asset_selection=[dg.AssetKey(item.stage)],
        partition_key=item.shard or None,
        tags={ONLY_STALE: "true"},
    )
