"""What is looked at by the clock: sources every week, the champion's score every night. Off unless HAND3D_AUTOMATION=on."""

import os
from pathlib import Path

import dagster as dg

from assets.upkeep import RESCORE
from dagster_project.jobs import LOOK_AT_SOURCES, RESCORE_CHAMPION
from dagster_project.sensors import switched_on
from ops.config import Config

SUNDAY_NIGHT, EVERY_NIGHT = "0 2 * * 0", "0 3 * * *"


def schedules(config: Config, root: Path) -> list[dg.ScheduleDefinition]:
    """HAND3D_TIMEZONE (default UTC) is theirs; HAND3D_RESCORE_TRIALS how many trials the champion gets (default all)."""
    common = {"execution_timezone": os.environ.get("HAND3D_TIMEZONE", "UTC"), "default_status": status()}
    return [
        dg.ScheduleDefinition(
            name="weekly_source_survey",
            job_name=LOOK_AT_SOURCES,
            cron_schedule=SUNDAY_NIGHT,
            description="Reads every byte of the sources; fails a check where a folder is gone.",
            **common,
        ),
        nightly_rescore(config, root, rescore_trials(), common),
    ]


def nightly_rescore(config: Config, root: Path, trials: int, common: dict) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="nightly_champion_rescore",
        job_name=RESCORE_CHAMPION,
        cron_schedule=EVERY_NIGHT,
        description="Scores the registered champion again; fails a check where the score is another.",
        **common,
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from ops.evaluation.rescore import champion_version

        if champion_version(root, config) is None:
            return dg.SkipReason(f"no version of {config.champion.model_name} has the alias champion")
        return dg.RunRequest(run_config={"ops": {RESCORE: {"config": {"num_trials": trials}}}})

    return schedule


def rescore_trials() -> int:
    text = os.environ.get("HAND3D_RESCORE_TRIALS", "0")
    if not text.isdigit():
        raise ValueError(f"HAND3D_RESCORE_TRIALS is a number, 0 for all of the benchmark's, got {text!r}")
    return int(text)


def status() -> dg.DefaultScheduleStatus:
    return dg.DefaultScheduleStatus.RUNNING if switched_on() else dg.DefaultScheduleStatus.STOPPED
