"""`python -m dagster_project.demo`: materialise the whole graph into Dagster's home, only what is missing or stale.

Shards and robot demonstrations do not wait for each other: each is a lane, one Dagster run, and two worker processes
take lanes until none is left. What reads all shards is one more run after them. A lane that fails stops neither the
other lanes nor what they have finished.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from dagster_project.errors import innermost
from dagster_project.run_process import PROCESS_TAG, killed
from ops import config, data_version
from ops.orphans import leave_with_parent

WORKERS = 2
ROBOT = "robot_demonstrations"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Lane:
    """One Dagster run. job: of dagster_project.jobs. assets: to make, in the graph's order."""

    name: str
    job: str
    shard: str
    assets: tuple[str, ...]
    threads: int = 1


@dataclass
class Outcome:
    """How a lane ended. failed: asset -> what went wrong. notes: for the summary."""

    lane: str
    seconds: float
    failed: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Exit code 0 when everything stands, 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m dagster_project.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("HAND3D_ROOT", ".")), help="workspace")
    root = parser.parse_args().root.resolve()
    start = time.monotonic()
    try:
        settings = config.load(root / "params.yaml")
        outcomes = materialise(root, settings)
    except (ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; what was finished is kept, run again to go on", file=sys.stderr)
        return 130
    return _conclude(root, outcomes, time.monotonic() - start)


def materialise(root: Path, settings: config.Config) -> list[Outcome]:
    """Run every lane that has something due; no outcome means that nothing was stale."""
    from dagster_project import home

    home.prepare(root)
    data_version.prepare(root)
    os.environ.setdefault("MUJOCO_GL", "egl")
    due = _look(root, settings)
    lanes = first_lanes({(item.stage, item.shard) for item in due}, settings)
    outcomes = list(_run_lanes(lanes, root))
    broken = [outcome for outcome in outcomes if outcome.failed]
    if broken:
        print("demo: training needs every shard and the demonstrations, and waits for the failed ones", flush=True)
        return outcomes
    last = last_lane({item.stage for item in (_look(root, settings) if lanes else due)})
    return outcomes + (list(_run_lanes([last], root)) if last else [])


def first_lanes(due: set[tuple[str, str]], settings: config.Config) -> list[Lane]:
    """Robot demonstrations and shards with something due, longest first: the simulator, tracked video, rendered labels."""
    from dagster_project.jobs import LABEL_SHARD, TRAIN_AND_SCORE

    lanes = [Lane(ROBOT, TRAIN_AND_SCORE, "", (ROBOT,))] if (ROBOT, "") in due else []
    kinds = sorted(settings.shards, key=lambda shard: settings.shards[shard].kind == "synthetic")
    for shard in kinds:
        assets = _with_following([stage for stage, key in due if key == shard and stage != ROBOT], partitioned=True)
        if assets:
            lanes.append(Lane(shard, LABEL_SHARD, shard, assets))
    return lanes


def last_lane(due: set[str]) -> Lane | None:
    """Everything that reads all shards, if something of it is due."""
    from dagster_project.jobs import TRAIN_AND_SCORE

    assets = _with_following([name for name in due if name != ROBOT], partitioned=False)
    return Lane("training and scores", TRAIN_AND_SCORE, "", assets, threads=os.cpu_count() or 1) if assets else None


def _with_following(names: Iterable[str], partitioned: bool) -> tuple[str, ...]:
    """These stages and all that reads them, in the graph's order: one that finds equal inputs is only recorded."""
    from ops.stages import STAGES

    chosen = set(names)
    for stage in STAGES:
        if stage.partitioned == partitioned and chosen & set(stage.reads):
            chosen.add(stage.name)
    return tuple(stage.name for stage in STAGES if stage.name in chosen and stage.partitioned == partitioned)


def _look(root: Path, settings: config.Config) -> list:
    """Observe the folders, then list what is due."""
    import dagster as dg

    from assets.clips import content_versions, observation, observed_version
    from dagster_project.staleness import due

    with dg.DagsterInstance.get() as instance:
        close_dead_runs(instance)
        for shard, version in content_versions(settings, root).items():
            if observed_version(instance, shard) != version:
                instance.report_runless_asset_event(observation(shard, version))
        return due(instance, settings, root)


def close_dead_runs(instance) -> int:
    """End runs of ours whose process was killed, which Dagster would show as running for ever; how many there were."""
    import dagster as dg

    started = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    dead = [(run, why) for run in started if (why := killed(run.tags))]
    for run, why in dead:
        instance.report_run_failed(run, why)
    free_pools(instance)
    return len(dead)


def free_pools(instance) -> None:
    """Give back pool slots that ended runs still hold: a killed one leaves its slot taken, and others wait for ever."""
    storage = instance.event_log_storage
    for pool in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(pool)
        for run_id in info.active_run_ids | info.pending_run_ids:
            run = instance.get_run_by_id(run_id)
            if run is None or run.is_finished:
                storage.free_concurrency_slots_for_run(run_id)


def _run_lanes(lanes: list[Lane], root: Path) -> Iterable[Outcome]:
    """In worker processes, started fresh: a stage's libraries do not like to be forked."""
    if not lanes:
        return
    workers = ProcessPoolExecutor(min(WORKERS, len(lanes)), mp_context=get_context("spawn"), initializer=_end_quietly)
    with workers as pool:
        running = {pool.submit(run_lane, lane, str(root)): lane for lane in lanes}
        for future in as_completed(running):
            try:
                outcome = future.result()
            except BrokenProcessPool:  # killed from outside, as by the kernel when memory is short
                killed = {running[future].name: "its process was killed (out of memory?)"}
                outcome = Outcome(running[future].name, 0.0, killed)
            for asset, why in outcome.failed.items():
                print(f"{outcome.lane}: {asset} FAILED: {why}", file=sys.stderr, flush=True)
            yield outcome


def _end_quietly() -> None:
    """Ctrl-C reaches every process of the terminal: a worker leaves without a traceback, cleaning up on its way.
    One whose parent was killed leaves too, instead of working on unseen beside the next demo."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    leave_with_parent()


def run_lane(lane: Lane, root: str) -> Outcome:
    """One Dagster run in this process; a failed asset stops those that read it."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(lane.threads)
    import logging
    import warnings

    warnings.filterwarnings("ignore", module="dagster")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import dagster as dg

    from assets.factory import ONLY_STALE
    from dagster_project.definitions import build

    start = time.monotonic()
    job = build(Path(root)).resolve_job_def(lane.job)
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            run_config=QUIET,
            instance=instance,
            partition_key=lane.shard or None,
            asset_selection=[dg.AssetKey(name) for name in lane.assets],
            tags={ONLY_STALE: "true", PROCESS_TAG: str(os.getpid())},
            raise_on_error=False,
        )
    return Outcome(lane.name, time.monotonic() - start, failures(result))


def failures(result) -> dict[str, str]:
    """Asset -> message of its innermost error; and blocking checks that failed."""
    found, refused = {}, {}
    for event in result.all_events:
        if event.event_type_value == "ASSET_CHECK_EVALUATION" and not event.asset_check_evaluation_data.passed:
            evaluation = event.asset_check_evaluation_data
            if evaluation.severity.value == "ERROR":
                detail = f"check {evaluation.check_name} failed: {evaluation.description}"
                refused.setdefault(event.step_key, []).append(detail)
        if event.is_step_failure:
            said = innermost(event.step_failure_data.error)
            found[event.step_key] = "; ".join(refused.get(event.step_key, [])) or said
    if not result.success and not found:
        found["run"] = "failed outside a step: see the run in Dagster"
    return found


def _conclude(root: Path, outcomes: list[Outcome], seconds: float) -> int:
    from ops.report import write

    failed = {f"{outcome.lane}: {asset}": why for outcome in outcomes for asset, why in outcome.failed.items()}
    report = write(root)
    if failed:
        print(
            f"\ndemo: {len(failed)} failed after {seconds:.0f} s; what was finished is kept, run again to go on",
            file=sys.stderr,
        )
        for where, why in failed.items():
            print(f"  {where}: {why}", file=sys.stderr)
    elif not outcomes:
        print(f"demo: nothing stale ({seconds:.0f} s)")
    else:
        print(f"\ndemo: everything stands after {seconds:.0f} s")
    print(f"  report:         {report}")
    print("  Dagster UI:     make ui  (http://127.0.0.1:3000: assets, lineage, checks)")
    print("  MLflow UI:      make ui  (http://127.0.0.1:5000: runs, curves, registry)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
