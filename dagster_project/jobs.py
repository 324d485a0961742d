"""Named selections of the graph."""

import dagster as dg

from assets.upkeep import RESCORE, SURVEY
from ops.stages import STAGES

PER_SHARD = [stage.name for stage in STAGES if stage.partitioned]
OVERALL = [stage.name for stage in STAGES if not stage.partitioned]

LABEL_SHARD, TRAIN_AND_SCORE = "label_shard", "train_and_score"
LOOK_AT_SOURCES, RESCORE_CHAMPION = "look_at_sources", "rescore_champion"


def jobs() -> list:
    """label_shard makes a shard's rows from its videos; train_and_score everything that reads all shards; the other two
    look again at what nobody changed."""
    return [
        dg.define_asset_job(
            LABEL_SHARD, dg.AssetSelection.assets(*PER_SHARD), description="From a shard's videos to its rows."
        ),
        dg.define_asset_job(
            TRAIN_AND_SCORE,
            dg.AssetSelection.assets(*OVERALL),
            description="Test set, base model, three training stages, scores, promotion.",
        ),
        dg.define_asset_job(
            LOOK_AT_SOURCES, dg.AssetSelection.assets(SURVEY), description="Every byte of every folder of videos."
        ),
        dg.define_asset_job(
            RESCORE_CHAMPION, dg.AssetSelection.assets(RESCORE), description="The registered champion's score, anew."
        ),
    ]
