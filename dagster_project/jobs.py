"""Named selections of the graph."""

import dagster as dg

from ops.stages import STAGES

PER_SHARD = [stage.name for stage in STAGES if stage.partitioned]
OVERALL = [stage.name for stage in STAGES if not stage.partitioned]

LABEL_SHARD, TRAIN_AND_SCORE = "label_shard", "train_and_score"


def jobs() -> list:
    """label_shard makes a shard's rows from its videos; train_and_score everything that reads all shards."""
    return [
        dg.define_asset_job(
            LABEL_SHARD, dg.AssetSelection.assets(*PER_SHARD), description="From a shard's videos to its rows."
        ),
        dg.define_asset_job(
            TRAIN_AND_SCORE,
            dg.AssetSelection.assets(*OVERALL),
            description="Test set, base model, three training stages, scores, promotion.",
        ),
    ]
