"""The registered champion, loaded from the registry and scored anew, trial by trial against its recorded trials.

Nothing about the policy can have changed, so a change of its score is one of the world around it: simulator, renderer,
libraries, machine, or bytes in the registry. Trials are the benchmark's first ones: same task, initial states, seeds.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from ops import tables, tracking
from ops.config import Config
from ops.data_version import recorded
from ops.evaluation.champion import POLICY, RULE_FILE, Rule, interval, paired, read_rule
from ops.pipeline import output

STAGE = "champion_rescore"
RECORDED = "recorded"
Trials = Callable[[Path, Config, Path], pl.DataFrame]
"""(policy's folder, configuration, scratch folder) -> rows of the trials table for POLICY."""


@dataclass(frozen=True)
class Rescore:
    """What was found. version: of the champion. score: column of the trials. mean, low, high: new, with the rule's
    one-sided bounds. recorded_mean: of the same trials, or of the recorded score where those are not at hand (paired
    says which). difference_low, difference_high: bounds of new minus recorded. changed: trials that ended otherwise.
    problems: empty when all is as recorded.
    """

    model_name: str
    version: int
    score: str
    num_trials: int
    mean: float
    low: float
    high: float
    recorded_mean: float
    paired: bool
    difference_low: float
    difference_high: float
    changed: int
    bytes_as_registered: bool
    problems: list[str]
    mlflow_run_id: str = ""


def champion_version(root: Path, config: Config) -> int | None:
    """Version behind the alias; None where there is no champion yet, or no registry."""
    if not tracking.exists(root):
        return None
    return tracking.get_alias(root, config.champion.model_name, "champion")


def rescore(root: Path, config: Config, num_trials: int | None = None, trials_of: Trials | None = None) -> Rescore:
    """Score the champion again and log it to MLflow against its version.

    num_trials: the first so many of the benchmark's; None for all of them. trials_of: in the place of the simulator's.
    Raises ValueError where there is no champion, or its version does not say how it was scored.
    """
    version, name = champion_version(root, config), config.champion.model_name
    if version is None:
        raise ValueError(f"no version of {name} has the alias champion: materialise champion first")
    rule, tags = read_rule(root / RULE_FILE), tracking.version_tags(root, name, version)
    missing = [tag for tag in ("content", "score_name", "score_mean", "tasks") if tag not in tags]
    if missing:
        raise ValueError(f"version {version} of {name} has no tag {', '.join(missing)}: materialise champion again")
    if num_trials is not None:
        config = replace(config, benchmark=replace(config.benchmark, num_trials=num_trials))
    scratch = root / "data" / ".scratch" / STAGE
    shutil.rmtree(scratch, ignore_errors=True)  # a night's trials are made anew, never taken up from another night's
    scratch.mkdir(parents=True)
    try:
        policy = tracking.download(root, name, version, scratch)
        trials = (trials_of or simulator_trials)(policy, config, scratch)
        same = tracking.folder_version(policy) == tags["content"]
        found = judge(rule, trials, recorded_trials(root, tags), tags, name, version, same)
        return _log(root, config, found, trials, policy, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def judge(
    rule: Rule,
    trials: pl.DataFrame,
    before: pl.DataFrame | None,
    tags: dict[str, str],
    name: str,
    version: int,
    same: bool,
) -> Rescore:
    """Compare new trials with the recorded ones (before), or where those are not at hand with the recorded mean.

    A difference counts where zero lies outside its bounds, in either direction: a world that has become easier has
    changed as well.
    """
    score, num = tags["score_name"], len(trials)
    ours = trials[score].cast(pl.Float64).to_numpy()
    found = interval(ours, rule.confidence)
    differences = paired_with(trials, before, score)
    if differences is not None:
        apart = interval(differences, rule.confidence)
        recorded_mean, low, high = found.mean - apart.mean, apart.low, apart.high
    else:
        recorded_mean = float(tags["score_mean"])
        low, high = found.low - recorded_mean, found.high - recorded_mean
    problems = []
    if not same:
        problems.append(f"the registry's bytes of version {version} are not those that were registered")
    if not low <= 0 <= high:
        against = "the same trials as recorded" if differences is not None else "the recorded score of all trials"
        problems.append(
            f"{score} {found.mean:.3f} over {num} trials, {recorded_mean:.3f} in {against}: the difference lies in "
            f"[{low:+.3f}, {high:+.3f}]; simulator, renderer or libraries have changed"
        )
    changed = int((differences != 0).sum()) if differences is not None else 0
    return Rescore(
        name, version, score, num, found.mean, found.low, found.high, recorded_mean, differences is not None, low, high,
        changed, same, problems,
    )  # fmt: skip


def paired_with(trials: pl.DataFrame, before: pl.DataFrame | None, score: str):
    """New minus recorded score of every new trial, (n,); None where one of them has no recorded counterpart."""
    if before is None:
        return None
    both = pl.concat([trials, before.with_columns(policy=pl.lit(RECORDED))])
    differences = paired(both, RECORDED, score)
    return differences if len(differences) == len(trials) else None


def recorded_trials(root: Path, tags: dict[str, str]) -> pl.DataFrame | None:
    """The benchmark's trials of this very policy; None where benchmark_scores has since been made for another."""
    table, name = output(root, "benchmark_scores") / "trials.parquet", "posttrained_policies"
    deps = recorded(root).get("benchmark_scores", {}).get("deps", [])
    scored = [dep["md5"] for dep in deps if dep["path"] == f"data/{name}"]
    if scored != [tags.get("dvc_md5")] or not table.is_file():
        return None
    return tables.read("trials", table).filter(policy=POLICY)


def simulator_trials(policy: Path, config: Config, scratch: Path) -> pl.DataFrame:
    """As benchmark_scores runs them. Raises DriftError where the simulator does not behave as the published one."""
    from ops.evaluation.benchmarks import trials_of
    from ops.robots import drift, evaluate
    from ops.training.parts import one_thread
    from ops.training.policy import VipaPolicy

    evaluate.require_no_drift(drift.check_drift())
    vipa = VipaPolicy(policy)
    with one_thread():
        return trials_of(config.benchmark, config.robot_demonstrations, vipa.settings.views, scratch, vipa, POLICY)


def _log(root: Path, config: Config, found: Rescore, trials: pl.DataFrame, policy: Path, scratch: Path) -> Rescore:
    """A run with the numbers and the trials, and the verdict as tags of the version."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with tracking.start_run(root, STAGE, config.benchmark, {"policy": policy}) as run:
        run.tag("model_name", found.model_name)
        run.tag("model_version", found.version)
        numbers = {"mean": found.mean, "low": found.low, "high": found.high, "recorded_mean": found.recorded_mean}
        run.metrics({f"rescore/{found.score}_{key}": value for key, value in numbers.items()})
        run.metrics({"rescore/trials": found.num_trials, "rescore/changed_trials": found.changed})
        trials.write_parquet(scratch / "trials.parquet")
        (scratch / "rescore.json").write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")
        run.file(scratch / "trials.parquet")
        run.file(scratch / "rescore.json")
    tags = {"rescore_at": now, "rescore_mean": found.mean, "rescore_trials": found.num_trials}
    tags |= {"rescore": "; ".join(found.problems) or "as recorded", "rescore_run": run.run_id}
    for key, value in tags.items():
        tracking.set_version_tag(root, found.model_name, found.version, key, value)
    return replace(found, mlflow_run_id=run.run_id)
