"""Notice changed video folders without starting a run, and ask for runs of what is then stale."""

import hashlib
import json
from pathlib import Path

import dagster as dg

from assets.factory import VIDEO_FOLDERS
from ops.config import Config

EVERY_S = 60


def sensors(config: Config, root: Path) -> list[dg.SensorDefinition]:
    """Both are off until switched on in the UI: a laptop should not start training by itself."""
    return [
        source_changes(config, root),
        dg.AutomationConditionSensorDefinition(
            "automation",
            target=dg.AssetSelection.all(include_sources=True),
            default_status=dg.DefaultSensorStatus.STOPPED,
        ),
    ]


def source_changes(config: Config, root: Path) -> dg.SensorDefinition:
    """Hash the folders whose file list, sizes or times changed since the last tick, and report new content."""

    @dg.sensor(name="source_changes", minimum_interval_seconds=EVERY_S, asset_selection=[VIDEO_FOLDERS])
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        known = json.loads(context.cursor or "{}")
        events, now, problems = changes(config, root, known)
        reason = "; ".join(problems) or "no folder changed"
        if not events:
            return dg.SensorResult(skip_reason=reason, cursor=json.dumps(now))
        return dg.SensorResult(asset_events=events, cursor=json.dumps(now))

    return sensor


def changes(config: Config, root: Path, known: dict) -> tuple[list[dg.AssetObservation], dict, list[str]]:
    """Events for shards with new content; known: shard -> [fingerprint, content hash] of the last look, given back
    updated. Folders that cannot be read are named, and looked at again the next time."""
    from ops.sources.manifest import content_version

    events, now, problems = [], {}, []
    for key, shard in config.shards.items():
        seen = known.get(key, [None, None])
        mark = fingerprint(root / shard.root)
        if mark == seen[0]:
            now[key] = seen
            continue
        try:
            version = content_version(root, shard)
        except (OSError, ValueError) as error:
            problems.append(f"{key}: {error}")
            continue
        now[key] = [mark, version]
        if version != seen[1]:
            events.append(observation(key, version))
    return events, now, problems


def observation(shard: str, version: str) -> dg.AssetObservation:
    """A folder's content hash as an event of the asset graph."""
    return dg.AssetObservation(VIDEO_FOLDERS, partition=shard, tags={"dagster/data_version": version})


def fingerprint(folder: Path) -> str:
    """Names, sizes and times of a folder's files: cheap, and changes whenever the content does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
