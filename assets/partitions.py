"""The partition vocabulary of the graph: one partition a shard of params.yaml, which is one folder of videos."""

import os
from pathlib import Path

import dagster as dg

from ops.config import MAX_SHARDS, Config


def workspace() -> Path:
    """Folder with params.yaml: HAND3D_ROOT, else the working directory."""
    return Path(os.environ.get("HAND3D_ROOT", ".")).resolve()


def by_shard(config: Config) -> dg.StaticPartitionsDefinition:
    """Raises ValueError for more shards than a fan-in edge may carry."""
    if len(config.shards) > MAX_SHARDS:
        raise ValueError(
            f"params.yaml lists {len(config.shards)} shards, at most {MAX_SHARDS} are allowed (Dagster ignores changes "
            "past that): put several folders below one, and list that"
        )
    return dg.StaticPartitionsDefinition(list(config.shards))
