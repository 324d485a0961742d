"""Stage champion: registers the post-trained policy and moves the alias `champion` to it if the written rule is met.

The rule is mlflow/promotion.yaml. A refused policy stays registered, tagged gate=refused, and the reasons are written
to decision.json: refusal is an outcome, not an error. The alias `challenger` points to the candidate while it is judged.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from ops import config, tables, tracking
from ops.code_version import git_commit
from ops.data_version import recorded_version
from ops.evaluation import registry
from ops.pipeline import StageContext
from ops.store import Report

RULE_FILE = "mlflow/promotion.yaml"
POLICY = "policy"
BASELINES = ("random", "mean_action")
SCORES = ("success", "progress")
PAIR = ["suite", "task_id", "init_index", "seed"]
NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Rule:
    """mlflow/promotion.yaml.

    score: column of the trials table. confidence: of one-sided bounds. min_trials: fewer decide nothing.
    margins: baseline -> what the lower bound of the mean paired difference must exceed.
    max_regression: how far below the present champion's mean a candidate may score.
    """

    score: str
    confidence: float
    min_trials: int
    margin_over_random: float
    margin_over_mean_action: float
    max_regression: float

    @property
    def margins(self) -> dict[str, float]:
        return {"random": self.margin_over_random, "mean_action": self.margin_over_mean_action}


@dataclass(frozen=True)
class Interval:
    """A mean with its one-sided bounds over trials."""

    mean: float
    low: float
    high: float
    num: int


@dataclass(frozen=True)
class Decision:
    """decision.json. version: of this candidate; champion_before, champion_after: versions, None for none."""

    promoted: bool
    reasons: list[str]
    model_name: str
    version: int
    champion_before: int | None
    champion_after: int | None
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    rule: dict[str, object] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        (folder / "decision.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Decision":
        return cls(**json.loads((folder / "decision.json").read_text(encoding="utf-8")))


def run(context: StageContext) -> Report:
    """Register, judge, move the alias; write decision.json and a picture of the scores."""
    rule = read_rule(context.root / RULE_FILE)
    trials = tables.read("trials", context.input("benchmark_scores") / "trials.parquet")
    scores = {name: interval(_values(trials, name, rule.score), rule.confidence) for name in _policies(trials)}
    decision = _register_and_judge(context, rule, trials, scores)
    decision.save(context.out)
    _draw(scores, rule, decision, context.out / "scores.png")
    return _report(decision, scores, rule)


def read_rule(path: Path) -> Rule:
    """Raises ValueError naming the key and what is allowed, FileNotFoundError with advice."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the promotion rule belongs into the workspace's mlflow folder")
    rule = config.build(Rule, yaml.safe_load(path.read_text(encoding="utf-8")) or {}, path.name)
    if rule.score not in SCORES:
        raise ValueError(f"{path.name}: score is one of {', '.join(SCORES)}, got {rule.score!r}")
    if not 0.5 < rule.confidence < 1 or rule.min_trials < 1:
        raise ValueError(f"{path.name}: confidence lies between 0.5 and 1, min_trials is at least 1")
    return rule


def judge(rule: Rule, trials: pl.DataFrame) -> list[str]:
    """Reasons against the candidate from its trials alone; empty when it passes."""
    reasons = []
    for baseline, margin in rule.margins.items():
        pairs = paired(trials, baseline, rule.score)
        if len(pairs) < rule.min_trials:
            reasons.append(f"{len(pairs)} trials shared with {baseline}, the rule needs {rule.min_trials}")
            continue
        low = interval(pairs, rule.confidence).low
        if not low > margin:
            found = f"{rule.score} over {baseline}: {pairs.mean():+.3f}, lower {rule.confidence:.0%} bound {low:+.3f}"
            reasons.append(f"{found}, must exceed {margin:+.3f}")
    return reasons


def paired(trials: pl.DataFrame, baseline: str, score: str) -> np.ndarray:
    """Score of the policy minus the baseline's, trial by trial (same task, initial state and seed)."""
    ours, theirs = (
        trials.filter(policy=name).select(*PAIR, pl.col(score).cast(pl.Float64)) for name in (POLICY, baseline)
    )
    joined = ours.join(theirs, on=PAIR, suffix="_baseline").sort(PAIR)
    return (joined[score] - joined[f"{score}_baseline"]).to_numpy()


def interval(values: np.ndarray, confidence: float, seed: int = 0) -> Interval:
    """Mean with one-sided bootstrap bounds. Raises ValueError for no values."""
    if not len(values):
        raise ValueError("no trials: the trials table of benchmark_scores is empty for a policy")
    draws = np.random.default_rng(seed).integers(0, len(values), (NUM_RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [1 - confidence, confidence])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def against_champion(rule: Rule, score: Interval, tasks: str, champion: int, tags: dict[str, str]) -> list[str]:
    """Reasons against the candidate from the present champion's version tags."""
    if tags.get("tasks") != tasks or tags.get("score_name") != rule.score:
        kept = f"champion version {champion} was scored by {tags.get('score_name')} on {tags.get('tasks')}"
        return [f"{kept}, this one by {rule.score} on {tasks}: not comparable; use another champion.model_name"]
    champion_mean = float(tags["score_mean"])
    if score.mean < champion_mean - rule.max_regression:
        allowed = f"at most {rule.max_regression:.3f} below"
        return [f"{rule.score} {score.mean:.3f}, the champion (version {champion}) has {champion_mean:.3f}; {allowed}"]
    return []


def _register_and_judge(
    context: StageContext, rule: Rule, trials: pl.DataFrame, scores: dict[str, Interval]
) -> Decision:
    root, name = context.root, context.config.champion.model_name
    tasks, score = _tasks(trials), scores[POLICY]
    version = _candidate(context, name)
    before = tracking.get_alias(root, name, "champion")
    tracking.set_alias(root, name, "challenger", version)
    try:
        reasons = judge(rule, trials)
        if before is not None and before != version:
            reasons += against_champion(rule, score, tasks, before, tracking.version_tags(root, name, before))
        reasons += _rolled_back(root, name, version)
        promoted = not reasons
        tags = {"gate": "passed" if promoted else "refused", "score_name": rule.score, "tasks": tasks}
        tags |= {"score_mean": score.mean, "score_low": score.low, "num_trials": score.num}
        for key, value in tags.items():
            tracking.set_version_tag(root, name, version, key, value)
        if promoted:
            if tracking.get_alias(root, name, "champion") != before:
                raise ValueError(
                    f"the champion of {name} was changed while version {version} was judged: run this again"
                )
            tracking.set_alias(root, name, "champion", version)
            reasons = [f"met every rule of {RULE_FILE}"]
        elif before == version:  # scored again, and no longer good enough
            tracking.delete_alias(root, name, "champion")
            reasons.append(f"version {version} was the champion and is none any more")
        if not (promoted and before == version):  # the champion, judged again and found good: nothing happened
            kind = registry.PROMOTED if promoted else registry.FELL if before == version else registry.REFUSED
            registry.note(root, name, kind, version, before, "; ".join(reasons))
    finally:
        tracking.delete_alias(root, name, "challenger")
    after = tracking.get_alias(root, name, "champion")
    values = {key: asdict(value) for key, value in scores.items()}
    return Decision(promoted, reasons, name, version, before, after, values, asdict(rule))


def _rolled_back(root: Path, name: str, version: int) -> list[str]:
    """A person took this version out; the rule alone does not bring it back."""
    why = tracking.version_tags(root, name, version).get(registry.WITHDRAWN)
    return [f"version {version} was rolled back ({why}); `hand3d rollback --to {version}` lifts that"] if why else []


def _candidate(context: StageContext, name: str) -> int:
    """Version of the policy: the one it has if it was registered before, else a new one."""
    root, folder = context.root, context.input("posttrained_policies")
    content = tracking.folder_version(folder)
    if tracking.get_alias(root, name, "champion") is not None or _known_model(root, name):
        for version in tracking.versions(root, name):
            if tracking.version_tags(root, name, version).get("content") == content:
                return version
    run_id = json.loads((folder / "training.json").read_text(encoding="utf-8"))["mlflow_run_id"]
    tags = {"content": content, "dvc_md5": recorded_version(root, "posttrained_policies") or "not recorded"}
    return tracking.register(root, name, run_id, folder, tags | {"git_commit": git_commit() or "unknown"})


def _known_model(root: Path, name: str) -> bool:
    return bool(tracking.versions(root, name))


def _policies(trials: pl.DataFrame) -> list[str]:
    found = trials["policy"].unique(maintain_order=True).to_list()
    if POLICY not in found:
        raise ValueError(f"benchmark_scores holds trials of {found}, none of {POLICY!r}: run benchmark_scores again")
    return found


def _values(trials: pl.DataFrame, policy: str, score: str) -> np.ndarray:
    return trials.filter(policy=policy)[score].cast(pl.Float64).to_numpy()


def _tasks(trials: pl.DataFrame) -> str:
    rows = trials.filter(policy=POLICY).select("suite", "task_id").unique().sort("suite", "task_id")
    return ", ".join(f"{suite}/{task}" for suite, task in rows.iter_rows())


def _draw(scores: dict[str, Interval], rule: Rule, decision: Decision, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.6 + 0.5 * len(scores)), layout="constrained")
    axes = figure.add_subplot()
    for row, score in enumerate(scores.values()):
        axes.plot([score.low, score.high], [row, row], color="#1f6feb", linewidth=3, solid_capstyle="round")
        axes.plot(score.mean, row, "o", color="#1c2430")
    axes.set_yticks(range(len(scores)), [f"{name} (n = {score.num})" for name, score in scores.items()])
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(len(scores) - 0.5, -0.5),
        xlabel=f"{rule.score}, one-sided {rule.confidence:.0%} bounds",
    )
    axes.set_title("promoted" if decision.promoted else "refused", fontsize=10)
    figure.savefig(path, dpi=110)


def _report(decision: Decision, scores: dict[str, Interval], rule: Rule) -> Report:
    metrics = {f"{rule.score}/{name}": score.mean for name, score in scores.items()}
    metrics |= {"promoted": float(decision.promoted), "version": float(decision.version)}
    verdict = "promoted to champion" if decision.promoted else "refused"
    notes = [f"Version {decision.version} of {decision.model_name}: {verdict}.", *decision.reasons]
    trials = scores[POLICY].num
    if trials < 500:
        notes.append(f"Smoke score: {trials} trials; the paper uses 500 a suite.")
    table = [{"policy": name, **{k: round(v, 4) for k, v in asdict(score).items()}} for name, score in scores.items()]
    pictures = {f"{rule.score} by policy": "scores.png"}
    return Report(metrics=metrics, pictures=pictures, tables={"scores": table}, notes=notes)
