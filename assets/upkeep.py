"""What is looked at again though nobody changed anything: the folders of videos, and the champion's score."""

import json
from dataclasses import asdict
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import dagster as dg

from assets.clips import observation, observed_version
from assets.factory import OWNERS, VIDEO_FOLDERS, markdown_table
from ops.config import Config

GROUP = "upkeep"
SURVEY, RESCORE = "source_survey", "champion_rescore"
READABLE, UNTOUCHED, AS_RECORDED = "folders_readable", "bytes_as_observed", "score_as_recorded"
SURVEY_WITHIN = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=9), warn_window=timedelta(days=8))
RESCORE_WITHIN = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=50), warn_window=timedelta(hours=26))


class RescoreConfig(dg.Config):
    """num_trials: the benchmark's first so many; 0 for all."""

    num_trials: int = 0


def upkeep(config: Config, root: Path) -> list[dg.AssetsDefinition]:
    return [source_survey(config, root), champion_rescore(config, root)]


def source_survey(config: Config, root: Path) -> dg.AssetsDefinition:
    """Hash every byte of every shard's folder."""

    @dg.asset(
        name=SURVEY,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"video"},
        deps=[VIDEO_FOLDERS],
        freshness_policy=SURVEY_WITHIN,
        check_specs=[
            dg.AssetCheckSpec(
                READABLE, asset=SURVEY, description="Every folder of params.yaml is there and holds videos."
            ),
            dg.AssetCheckSpec(UNTOUCHED, asset=SURVEY, description="No bytes changed behind the cheap look's back."),
        ],
        description="""A full look at the folders of videos, once a week: every byte is read, so that a change that kept name, size
and time is found too, and a folder that is gone is missed. New content goes to video_folders as an observation.""",
    )
    def survey(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from ops.sources.full_look import look

        folders = look(root, config)
        before = {folder.shard: observed_version(context.instance, folder.shard) for folder in folders}
        new = [folder for folder in folders if folder.version and folder.version != before[folder.shard]]
        for folder in new:
            context.log_event(observation(folder.shard, folder.version))
        problems = [f"{folder.shard}: {folder.problem}" for folder in folders if folder.problem]
        behind = [folder.shard for folder in new if before[folder.shard]]
        content = json.dumps([(folder.shard, folder.version) for folder in folders])
        return dg.MaterializeResult(
            data_version=dg.DataVersion(sha256(content.encode()).hexdigest()),
            metadata={
                "folders": dg.MetadataValue.md(markdown_table([asdict(folder) for folder in folders])),
                "videos": sum(folder.num_videos for folder in folders),
                "gigabytes": sum(folder.num_bytes for folder in folders) / 1e9,
            },
            check_results=[readable(problems), _untouched(behind)],
        )

    return survey


def _untouched(behind: list[str]) -> dg.AssetCheckResult:
    said = f"changed since the last look: {', '.join(behind)}; is source_changes switched on, is the disk sound?"
    return dg.AssetCheckResult(
        check_name=UNTOUCHED,
        passed=not behind,
        severity=dg.AssetCheckSeverity.WARN,
        description=said if behind else "as last observed",
    )


def readable(problems: list[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=READABLE,
        passed=not problems,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(problems) or "every folder can be read",
    )


def folders_check(problems: list[str]) -> dg.AssetCheckEvaluation:
    """The same verdict from a sensor, without a run."""
    result = readable(problems)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(SURVEY),
        check_name=READABLE,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata={},
    )


def champion_rescore(settings: Config, root: Path) -> dg.AssetsDefinition:
    """Score the registered champion again."""

    @dg.asset(
        name=RESCORE,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"mujoco", "mlflow"},
        deps=["champion"],
        freshness_policy=RESCORE_WITHIN,
        pool="gpu",
        check_specs=[
            dg.AssetCheckSpec(AS_RECORDED, asset=RESCORE, description="The champion scores as when it was promoted.")
        ],
        description="""The version behind the alias champion, loaded from the registry and scored anew on the benchmark's trials, every
night. The policy cannot have changed, so a new score means another simulator, renderer or library, or other bytes in
the registry. The numbers go to MLflow, and as tags to the model version.""",
    )
    def rescored(context: dg.AssetExecutionContext, config: RescoreConfig) -> dg.MaterializeResult:
        from ops.evaluation.rescore import rescore

        return _rescored(rescore(root, settings, config.num_trials or None))

    return rescored


def _rescored(found) -> dg.MaterializeResult:
    facts = asdict(found) | {"problems": "; ".join(found.problems) or "none"}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()),
        metadata={name: value for name, value in facts.items() if value != ""},
        check_results=[
            dg.AssetCheckResult(
                check_name=AS_RECORDED,
                passed=not found.problems,
                severity=dg.AssetCheckSeverity.ERROR,
                description="; ".join(found.problems)
                or f"{found.score} {found.mean:.3f}, recorded {found.recorded_mean:.3f}; {found.changed} trials changed",
            )
        ],
    )
