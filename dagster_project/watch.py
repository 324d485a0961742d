"""The sensor behind the alerts: what of Dagster's record is worth telling, and whom it was told (dagster_project/alerts.py)."""

import json
import os
import time
from collections.abc import Iterable

import dagster as dg

from dagster_project.alerts import Alert, Sink, deliver, sinks
from dagster_project.errors import innermost
from dagster_project.sensors import every_s, status

WINDOW_S = 2 * 86400.0
"""What is older is neither told nor remembered."""
MAX_A_TICK = 20
"""A storm is told over several ticks: a sensor has 60 s."""
TRIES = 30
"""Of a sink that fails, a tick apart; then its alert is given up."""
DETAIL = 600  # characters of an error
SEVERITY = {"ERROR": "error", "WARN": "warning"}


def alert_sensor() -> dg.SensorDefinition:
    """Raises ValueError where HAND3D_ALERTS or a sink's settings do not hold: better now than when something is red."""
    sinks()

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=every_s(30),
        default_status=status(),
        description="Tells HAND3D_ALERTS of failed runs, failed checks and assets past their freshness policy.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        graph = context.repository_def.asset_graph
        memory = json.loads(context.cursor) if context.cursor else {"since": time.time(), "told": {}}
        since = max(memory["since"], time.time() - WINDOW_S)
        found = events(context.instance, graph, since)
        told, lines = tell(found, memory["told"], sinks())
        cursor = json.dumps({"since": since, "told": told})
        return dg.SensorResult(skip_reason="; ".join(lines) or "nothing to tell", cursor=cursor)

    return sensor


def tell(found: Iterable[Alert], told: dict, to: list[Sink]) -> tuple[dict, list[str]]:
    """Deliver what is new, and again what a sink has missed. told: key -> {"left": sinks to tell, "tries"}; returned
    updated, without what is no longer found."""
    names, after, lines, work = [sink.name for sink in to], {}, [], 0
    for alert in found:
        state = told.get(alert.key, {"left": names, "tries": 0})
        left = [sink for sink in to if sink.name in state["left"]]
        if left and state["tries"] < TRIES:
            if work == MAX_A_TICK:
                if alert.key in told:
                    after[alert.key] = state
                continue
            work += 1
            failed = deliver(alert, left)
            state = {"left": list(failed), "tries": state["tries"] + 1}
            lines.append(f"{alert.title}: {'not told to ' + ', '.join(failed) if failed else 'told'}")
        after[alert.key] = state
    return after, lines


def events(instance: dg.DagsterInstance, graph, since: float) -> list[Alert]:
    """Everything since then (unix time), oldest kinds first: runs, checks, freshness."""
    failed = failed_runs(instance, since)
    return [*failed.values(), *failed_checks(instance, graph, since, set(failed)), *overdue(instance, graph, since)]


def failed_runs(instance: dg.DagsterInstance, since: float) -> dict[str, Alert]:
    """Run id -> alert with its first error and the checks it failed; one that Dagster will retry is not told yet."""
    from datetime import UTC, datetime

    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=datetime.fromtimestamp(since, UTC))
    runs = instance.get_runs(filters, limit=200)
    return {run.run_id: _run_alert(instance, run) for run in reversed(runs) if not _retried(run)}


def _retried(run: dg.DagsterRun) -> bool:
    return run.tags.get("dagster/will_retry") == "true"


def _run_alert(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Alert:
    kinds = {
        dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.RUN_FAILURE,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    }
    why = []
    for entry in instance.all_logs(run.run_id, of_type=kinds):
        event = entry.dagster_event
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if not found.passed:
                why.append(f"check {found.asset_key.to_user_string()}: {found.check_name}: {found.description or ''}")
        elif event.is_step_failure:
            why.append(f"{event.step_key}: {innermost(event.step_failure_data.error)}")
        elif not why:
            why.append(event.message or "")
    shard = run.tags.get("dagster/partition", "")
    assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or run.job_name
    text = "\n".join(line[:DETAIL] for line in why[:5])
    return Alert(
        f"run {run.run_id}", "error", f"run failed: {assets} {shard}".strip(), text, link(f"/runs/{run.run_id}")
    )


def failed_checks(instance: dg.DagsterInstance, graph, since: float, failed_runs: set[str]) -> list[Alert]:
    """Failed checks of runs that went well, and those reported without a run. A failed run's are in its own alert; of
    a run that has not ended it is not known yet."""
    from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

    found = []
    for key in graph.asset_check_keys:
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=100, status={Status.FAILED})
        for record in records:
            late = record.event.timestamp >= since
            if late and record.run_id not in failed_runs and _ended_well(instance, record.run_id):
                found.append(_check_alert(record))
    return found


def _ended_well(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id) if run_id else None
    return run is None or run.status == dg.DagsterRunStatus.SUCCESS


def _check_alert(record) -> Alert:
    data = record.event.dagster_event.event_specific_data
    asset, shard = record.key.asset_key, record.partition or ""
    title = f"check failed: {asset.to_user_string()} {shard}".strip() + f": {record.key.name}"
    page = link(f"/assets/{'/'.join(asset.path)}?view=checks")
    return Alert(f"check {record.id}", SEVERITY[data.severity.value], title, (data.description or "")[:DETAIL], page)


def overdue(instance: dg.DagsterInstance, graph, since: float) -> list[Alert]:
    """Assets whose freshness state (kept by the daemon) became WARN or FAIL."""
    keys = [key for key in graph.get_all_asset_keys() if graph.get(key).freshness_policy is not None]
    found = []
    for key, record in sorted(instance.get_freshness_state_records(keys).items()):
        state, at = record.freshness_state.value, record.updated_at.timestamp()
        if state in ("WARN", "FAIL") and at >= since:
            level = "error" if state == "FAIL" else "warning"
            text = f"{graph.get(key).freshness_policy}"
            title = f"not fresh ({state}): {key.to_user_string()}"
            found.append(
                Alert(f"fresh {key.to_user_string()} {at}", level, title, text, link(f"/assets/{'/'.join(key.path)}"))
            )
    return found


def link(path: str) -> str:
    """Address in the web UI; "" where HAND3D_UI_URL does not say where that is."""
    base = os.environ.get("HAND3D_UI_URL", "").rstrip("/")
    return base + path if base else ""
