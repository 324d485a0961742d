"""Notice what changed outside Dagster without starting a run, and ask for runs of what is then stale.

Three sensors: `source_changes` looks at the folders of videos, `dvc_changes` at what `dvc repro`, `dvc pull` and
`dvc checkout` left, `automation` asks for runs. All are off unless HAND3D_AUTOMATION=on: a laptop should not start
training by itself.
"""

import json
import os
import time
from pathlib import Path

import dagster as dg

from assets.clips import observation
from assets.factory import ONLY_STALE
from assets.upkeep import SURVEY, folders_check
from dagster_project import outside
from ops.config import Config
from ops.turns import listing

BUDGET_S = 30.0
"""Of one look at the folders: Dagster ends a sensor after 60 s. The next look goes on where this one stopped."""
MAX_GB = 5.0
"""A changed folder that holds more is hashed in a run of `source_survey`, which has no time limit."""


def switched_on() -> bool:
    """HAND3D_AUTOMATION: "on" starts every sensor and schedule with the code location, "off" (default) none.

    What somebody has since switched by hand in the UI stays as it is."""
    value = os.environ.get("HAND3D_AUTOMATION", "off")
    if value not in ("on", "off"):
        raise ValueError(f"HAND3D_AUTOMATION is on or off, got {value!r}")
    return value == "on"


def every_s(default: int) -> int:
    """HAND3D_LOOK_EVERY_S: seconds between two looks of a sensor, in the place of its default."""
    text = os.environ.get("HAND3D_LOOK_EVERY_S", str(default))
    if not text.isdigit() or not int(text):
        raise ValueError(f"HAND3D_LOOK_EVERY_S is a number of seconds, 1 or more, got {text!r}")
    return int(text)


def status() -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if switched_on() else dg.DefaultSensorStatus.STOPPED


def sensors(config: Config, root: Path) -> list[dg.SensorDefinition]:
    return [
        source_changes(config, root),
        dvc_changes(config, root),
        dg.AutomationConditionSensorDefinition(
            "automation",
            target=dg.AssetSelection.all(include_sources=True),
            minimum_interval_seconds=every_s(30),
            default_status=status(),
            # a step first asks DVC: what is up to date by content is recorded, not made again
            run_tags={ONLY_STALE: "true"},
            description="Asks for runs of exactly what a change of content or code made stale.",
        ),
    ]


def source_changes(config: Config, root: Path) -> dg.SensorDefinition:
    """Hash the folders whose file list, sizes or times changed since the last tick, and report new content."""

    @dg.sensor(
        name="source_changes",
        target=dg.AssetSelection.assets(SURVEY),
        minimum_interval_seconds=every_s(60),
        default_status=status(),
        description="Looks at the folders of videos and reports new content; starts no run.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        known = json.loads(context.cursor or "{}")
        large = too_large(config, root, known)
        events, now, problems = changes(config, root, known | large)
        if problems != known.get("", []):  # once when a folder vanishes, once when it is back
            events.append(folders_check(problems))
        now[""] = problems
        key = f"{sorted(mark for mark, _ in large.values())}"
        runs = [dg.RunRequest(key, asset_selection=[dg.AssetKey(SURVEY)])] if large else []
        reason = None if events or runs else "; ".join(problems) or "no folder changed"
        return dg.SensorResult(runs, reason, json.dumps(now), asset_events=events)

    return sensor


def dvc_changes(config: Config, root: Path) -> dg.SensorDefinition:
    """Record versions that DVC made or fetched; ask for runs of those that are out of date as they came."""

    @dg.sensor(
        name="dvc_changes",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=every_s(60),
        default_status=status(),
        description="Records what `dvc repro`, `dvc pull` or `dvc checkout` put there, with DVC's hash as data version.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        mark = outside.lock_mark(root)
        if mark == context.cursor:
            return dg.SensorResult(skip_reason="dvc.lock has not changed")
        found = outside.record(context.instance, config, root)
        runs = [outside.request(item, mark) for item in found.stale]
        # looked at again until the files are as dvc.lock says
        cursor = None if found.waiting else mark
        reason = None if runs else found.said()
        return dg.SensorResult(runs, reason, cursor)

    return sensor


def changes(
    config: Config, root: Path, known: dict, budget_s: float = BUDGET_S
) -> tuple[list[dg.AssetObservation | dg.AssetCheckEvaluation], dict, list[str]]:
    """Events for shards with new content; known: shard -> [fingerprint, content hash] of the last look, given back
    updated. The fingerprint is cheap and changes with the content, unless a tool changes bytes and keeps size and time;
    the weekly survey finds those. Folders that cannot be read are named, and looked at again the next time, as are
    those for which the time was too short."""
    from ops.sources.manifest import content_version

    events, now, problems, start = [], {}, [], time.monotonic()
    for key, shard in config.shards.items():
        seen = known.get(key, [None, None])
        now[key] = seen
        mark = listing([root / shard.root])
        if mark == seen[0] or (events and time.monotonic() - start > budget_s):
            continue
        try:
            version = content_version(root, shard)
        except (OSError, ValueError) as error:
            problems.append(f"{key}: {error}")
            now[key] = [None, seen[1]]
            continue
        now[key] = [mark, version]
        if version != seen[1]:
            events.append(observation(key, version))
    return events, now, problems


def too_large(config: Config, root: Path, known: dict) -> dict[str, list]:
    """Changed shards that a sensor has no time to hash: shard -> [new fingerprint, old content hash]."""
    found = {}
    for key, shard in config.shards.items():
        folder, (mark, version) = root / shard.root, known.get(key, [None, None])
        now = listing([folder])
        if now != mark and sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) > MAX_GB * 1e9:
            found[key] = [now, version]
    return found
