"""Video and the hands in it: the start of every lineage."""

from pathlib import Path

import dagster as dg

from assets.factory import DATA_TAG, OWNERS, VIDEO_FOLDERS, Described
from assets.partitions import by_shard
from ops.config import Config

GROUP = "clips"

ASSETS = (
    Described(
        "raw_videos",
        ("parquet", "video"),
        """Which videos a shard holds and what is known about each. One row a readable video: size, frame rate,
intrinsics of the undistorted image (pixels) and whether they were given or assumed, labels and depth at hand, split,
licence, sha256. Videos are referenced by content, never copied. A corrupt, empty or unlabelled-where-labels-are-due
video becomes a reject with its reason.""",
    ),
    Described(
        "mano_fits",
        ("parquet", "mediapipe"),
        """Hands of every frame as MANO parameters. One row a hand in a frame: theta (45, flat hand mean), r, tau (WRIST
position), beta (10); 21 OpenPose-ordered joints in the frame's camera axes (metres) and in pixels; visibility of each
joint with its reason. Given labels are used where a source has them, else a tracker and a fit (VIPA-VLA 3.2.1).""",
    ),
)


def video_folders(config: Config, root: Path) -> dg.AssetsDefinition:
    """The folders that params.yaml names: observed, never made here. Their content is raw_videos' reason to re-run."""
    partitions = by_shard(config)

    @dg.observable_source_asset(
        name=VIDEO_FOLDERS,
        partitions_def=partitions,
        group_name=GROUP,
        owners=OWNERS,
        tags={"kind/video": ""},
        description="""Folders of video files with their labels, one a shard. Observing one hashes the bytes and names of its
videos and side files: a changed, added or removed file gives the partition a new data version, a new timestamp does not.""",
    )
    def observed() -> dg.DataVersionsByPartition:
        return dg.DataVersionsByPartition(content_versions(config, root))

    return observed


def observation(shard: str, version: str) -> dg.AssetObservation:
    """A folder's content hash as an event of the asset graph."""
    return dg.AssetObservation(VIDEO_FOLDERS, partition=shard, tags={DATA_TAG: version})


def observed_version(instance: dg.DagsterInstance, shard: str) -> str | None:
    """Content hash of a shard's folder as last observed."""
    filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey(VIDEO_FOLDERS), asset_partitions=[shard])
    records = instance.fetch_observations(filters, limit=1).records
    return records[0].asset_observation.tags.get(DATA_TAG) if records else None


def content_versions(config: Config, root: Path) -> dict[str, str]:
    """Shard -> content hash; a folder that is missing or holds no video is left out."""
    from ops.sources.manifest import content_version

    versions = {}
    for key, shard in config.shards.items():
        try:
            versions[key] = content_version(root, shard)
        except (FileNotFoundError, ValueError) as error:
            dg.get_dagster_logger().warning(f"shard {key}: {error}")
    return versions
