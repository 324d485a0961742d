"""What happens in the model registry, as events of the asset `champion`: promotions, refusals, roll-backs, by whomever.

A roll-back from the console, a promotion by `dvc repro` and an alias that somebody moves in MLflow's own pages start no
Dagster run. This sensor reads the registry's journal (ops/evaluation/registry.py) and reports what the asset's history
does not show yet; it starts no run either. Each event shows whose policy is champion now, and the lineage behind it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from assets.factory import CODE_TAG, DATA_TAG, markdown_list, markdown_table
from dagster_project.sensors import every_s, status
from ops.config import Config
from ops.evaluation.registry import BY_HAND, PROMOTED, REFUSED, WITHDRAWN, Event

ASSET = "champion"
AT, KIND, AFTER = "registry/at", "registry/event", "registry/champion"
MAX_HISTORY = 200  # materialisations of the asset that are looked through for what was reported
INPUT_TAGS = ("dagster/input_data_version/", "dagster/input_event_pointer/")


@dataclass(frozen=True)
class History:
    """What the asset's page shows already. told: times of registry events. made: (time, version) of Dagster's own runs,
    which report their promotion or refusal themselves. by_hand: (time, version) of moves nobody wrote down. tags: of
    the newest materialisation."""

    told: frozenset[str]
    made: tuple[tuple[str, int], ...]
    by_hand: tuple[tuple[str, int | None], ...]
    tags: dict[str, str]


def registry_sensor(config: Config, root: Path) -> dg.SensorDefinition:
    """The sensor of a workspace."""

    @dg.sensor(
        name="registry_events",
        target=dg.AssetSelection.assets(ASSET),
        minimum_interval_seconds=every_s(60),
        default_status=status(),
        description="Reports promotions, refusals, roll-backs and moves by hand of the model registry; starts no run.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        events, suspect, said = look(context.instance, config.champion.model_name, root, context.cursor or "")
        return dg.SensorResult(asset_events=events, skip_reason=None if events else said, cursor=suspect)

    return sensor


def look(
    instance: dg.DagsterInstance, model_name: str, root: Path, suspect: str = ""
) -> tuple[list[dg.AssetMaterialization], str, str]:
    """Events that the asset's page does not show yet, oldest first; what to hand back as `suspect` the next time; and
    why there are none. An alias that is not where the last event left it is reported when it is still so at the next
    look: between moving it and writing that down, a roll-back looks the same."""
    from ops import tracking
    from ops.evaluation import registry

    if not tracking.exists(root):
        return [], "", "nothing was registered yet"
    try:
        with tracking.readable(root):
            journal = registry.events(root, model_name)
            now = tracking.get_alias(root, model_name, "champion")
            history = told(instance)
            new = [event for event in journal if not known(event, history)]
            moved = by_hand(journal, history, now)
            mark = f"{moved.before} -> {moved.after}" if moved else ""
            if moved and mark == suspect:
                new.append(moved)
            return [materialization(root, model_name, event, history) for event in new], mark, "nothing new"
    except OSError as error:
        return [], suspect, str(error)


def told(instance: dg.DagsterInstance) -> History:
    """Read from the asset's materialisations."""
    records = instance.fetch_materializations(dg.AssetKey(ASSET), limit=MAX_HISTORY).records
    times, made, hand = set(), [], []
    for record in records:
        values = {key: value.value for key, value in record.asset_materialization.metadata.items()}
        if AT in values:
            times.add(values[AT])
            if values[KIND] == BY_HAND:
                hand.append((values[AT], int(values[AFTER]) or None))
        elif "metric/version" in values:
            at = datetime.fromtimestamp(record.timestamp, UTC).isoformat(timespec="microseconds")
            made.append((at, int(values["metric/version"])))
    newest = records[0].asset_materialization.tags if records else {}
    return History(frozenset(times), tuple(made), tuple(hand), dict(newest or {}))


def known(event: Event, history: History) -> bool:
    """Whether the page shows it: reported before, or the outcome of a run of Dagster's."""
    if event.kind in (PROMOTED, REFUSED) and any(
        version == event.version and at >= event.at for at, version in history.made
    ):
        return True
    return event.at in history.told


def by_hand(journal: list[Event], history: History, now: int | None) -> Event | None:
    """The move that nobody wrote down, if there was one since the last move that is known."""
    moves = [(event.at, event.after) for event in journal] + list(history.by_hand)
    expected = max(moves)[1] if moves else now
    if expected == now:
        return None
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    reason = "the alias was moved in MLflow, past gate and roll-back"
    return Event(at, BY_HAND, now or expected or 0, expected, now, reason, "unknown")


def materialization(root: Path, model_name: str, event: Event, history: History) -> dg.AssetMaterialization:
    """An event of the asset: what happened, all versions, and the lineage of the policy that is champion after it. Data
    and code version stay those of the last materialisation: the gate's decision on disk has not changed."""
    from ops import data_version

    kept = {
        key: value for key, value in history.tags.items() if key in (CODE_TAG, DATA_TAG) or key.startswith(INPUT_TAGS)
    }
    if DATA_TAG not in kept and (version := data_version.recorded_version(root, ASSET)):
        kept[DATA_TAG] = version
    metadata = {
        KIND: dg.MetadataValue.text(event.kind),
        AT: dg.MetadataValue.text(event.at),
        AFTER: dg.MetadataValue.int(event.after or 0),  # 0: none
        "registry/before": dg.MetadataValue.int(event.before or 0),
        "registry/version": dg.MetadataValue.int(event.version),
        "registry/reason": dg.MetadataValue.md(event.reason),
        "registry/by": dg.MetadataValue.text(event.by),
        "table/versions": dg.MetadataValue.md(markdown_table(versions(root, model_name))),
        **lineage(root, model_name, event.after),
    }
    text = f"{event.kind}: version {event.version}, champion {event.before or 'none'} -> {event.after or 'none'}"
    return dg.AssetMaterialization(ASSET, description=text, metadata=metadata, tags=kept)


def versions(root: Path, model_name: str) -> list[dict[str, object]]:
    """The newest 50 versions with what the gate said of them."""
    from ops import tracking

    marks = {version: name for name, version in tracking.aliases(root, model_name).items()}
    rows = []
    for version in list(tracking.versions(root, model_name))[-50:]:
        tags = tracking.version_tags(root, model_name, version)
        row = {"version": version, "alias": marks.get(version, ""), "gate": tags.get("gate", "")}
        rows.append(row | {"score": tags.get("score_mean", ""), "rolled back": tags.get(WITHDRAWN, "")})
    return rows


def lineage(root: Path, model_name: str, version: int | None) -> dict[str, dg.MetadataValue]:
    """Backward tables of a version, and how to ask forward."""
    from ops import lineage_record

    record = lineage_record.of_version(root, model_name, version) if version else None
    if record is None:
        return {}
    tables = {f"table/{title}": markdown_table(rows) for title, rows in lineage_record.tables(record).items()}
    tables["notes"] = markdown_list(lineage_record.notes(record))
    return {name: dg.MetadataValue.md(text) for name, text in tables.items()}
