"""What has to be made: what DVC finds missing or out of date, and what Dagster has not recorded as it lies on disk."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.factory import CODE_TAG, DATA_TAG, version_of_code
from ops import data_version
from ops.config import Config
from ops.stages import STAGES


@dataclass(frozen=True)
class Due:
    """One artefact to make or to record. why: for the reader."""

    stage: str
    shard: str
    why: str


def due(instance: dg.DagsterInstance, config: Config, root: Path) -> list[Due]:
    """In the graph's order. A stage is judged by its inputs as they lie on disk; what follows from a re-run is judged
    when it has run, so that equal content stops early."""
    stale, versions = data_version.stale(root), data_version.recorded(root)
    found = []
    for stage in STAGES:
        code = version_of_code(stage, config)
        known = latest(instance, stage.name, list(config.shards) if stage.partitioned else [""])
        for shard, tags in known.items():
            address = data_version.address(stage.name, shard)
            if address in stale or address not in versions:
                found.append(Due(stage.name, shard, stale.get(address, "not made")))
            elif tags.get(DATA_TAG) != versions[address]["outs"][0]["md5"]:
                found.append(Due(stage.name, shard, "made outside Dagster: to be recorded"))
            elif tags.get(CODE_TAG) != code:
                found.append(Due(stage.name, shard, "code or parameters changed without effect: to be recorded"))
    return found


def latest(instance: dg.DagsterInstance, name: str, shards: list[str]) -> dict[str, dict[str, str]]:
    """Shard -> tags of its latest materialisation; empty where there is none."""
    key = dg.AssetKey(name)
    if shards == [""]:
        event = instance.get_latest_materialization_event(key)
        return {"": dict(event.asset_materialization.tags or {}) if event else {}}
    tags: dict[str, dict[str, str]] = {shard: {} for shard in shards}
    for shard in shards:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[shard]), limit=1
        )
        for record in records.records:
            tags[shard] = dict(record.asset_materialization.tags or {})
    return tags
