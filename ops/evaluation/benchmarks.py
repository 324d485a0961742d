"""Stage benchmark_scores: the numbers behind the pipeline, each beside answers that need no model.

Hand3D-test (paper 4.4) for the base model, stage 1 and stage 2; wrist motions of stage 2; trials of the policy in the
simulator, with a 95 % Wilson interval, beside random actions and the mean action. A demo's trials are few: it is a
smoke score, and says so.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from ops import tables, tracking
from ops.config import BenchmarkConfig, RobotDemonstrationsConfig
from ops.evaluation import motion, spatial
from ops.lerobot import reader as lerobot
from ops.models.vipa import VipaVLA
from ops.orphans import leave_with_parent
from ops.pipeline import StageContext
from ops.robots import drift, evaluate, policies
from ops.robots.evaluate import Interval
from ops.store import Report
from ops.training import answers, data
from ops.training.base import tokenizer_of
from ops.training.parts import one_thread
from ops.training.robot_data import PolicySettings
from ops.training.stages import open_store

PAPER_TRIALS = 500  # a suite
PAPER_TEST_ROWS = 2000
CONSTANT = "constant"


def run(context: StageContext) -> Report:
    """Write trials.parquet, scores.json, answers.parquet, motions.parquet and their pictures."""
    report = Report()
    inputs = {name: context.input(name) for name in context.stage.reads}
    # torch's threads wait for each other when a core is taken: trials then took thrice as long
    with tracking.start_run(context.root, context.stage.name, context.config, inputs) as run_, one_thread(), baseline_trials(context) as baselines:  # fmt: skip
        hand3d_test(context, report)
        motion_prediction(context, report)
        simulator(context, report, baselines)
        run_.metrics(report.metrics)
        for path in report.pictures.values():
            run_.file(context.out / path)
        scores = {"mlflow_run_id": run_.run_id, "metrics": report.metrics, "notes": report.notes}
    (context.out / "scores.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
    return report


# Hand3D-test


def hand3d_test(context: StageContext, report: Report) -> None:
    """Distance error and direction score of three checkpoints and of the best constant answer."""
    rows = tables.read("visual_rows", context.input("hand3d_test") / "visual_rows.parquet")
    rows = (
        rows.head(0)
        if rows.is_empty()
        else rows.sample(min(len(rows), context.config.benchmark.num_hand3d_rows), seed=context.config.benchmark.seed)
    )
    if rows.is_empty():
        report.notes.append("Hand3D-test has no rows: no spatial score. See the rejects of hand3d_visual.")
        return
    train = tables.read("visual_rows", context.input("hand3d_visual"))
    said = {CONSTANT: spatial.constant_answers(train, rows)}
    for name, stage, fuse in (
        ("base_model", "base_model", False),
        ("stage1", "stage1_checkpoint", True),
        ("stage2", "stage2_checkpoint", True),
    ):
        said[name] = hand3d_answers(context, VipaVLA.load(context.input(stage)), rows, fuse)
    scores = {name: spatial.score(rows, texts, context.config.benchmark.seed) for name, texts in said.items()}
    for name, found in scores.items():
        report.metrics |= found.metrics(f"hand3d_test/{name}/")
    report.metrics |= spatial.gain(scores["base_model"], scores["stage1"], context.config.benchmark.seed)
    report.rows["hand3d_test rows"] = len(rows)
    rows.select("row_id", "task", "question", "answer").with_columns(
        pl.Series(f"said_{name}", texts) for name, texts in said.items()
    ).write_parquet(context.out / "answers.parquet")
    report.tables["Hand3D-test"] = [{"answers of": name} | _spatial_row(found) for name, found in scores.items()]
    report.tables["Hand3D-test, stage 1 against the base model"] = _gain_rows(report.metrics)
    report.tables["Hand3D-test by task"] = [
        {"answers of": name} | row for name, found in scores.items() for row in found.by_task
    ]
    report.tables["Hand3D-test, first answers"] = _first_answers(rows, said)
    spatial.plot(scores, context.out / "hand3d_test.png")
    report.pictures["Hand3D-test (the paper's Figure 8)"] = "hand3d_test.png"
    report.notes.append(
        f"Hand3D-test here has {len(rows)} rows of {rows['clip_id'].n_unique()} held-out clips of this workspace (the paper: {PAPER_TEST_ROWS} rows); intervals are over rows, and its "
        f"scores cannot be compared with the paper's Table 8. '{CONSTANT}' says each task's median distance and commonest direction of the training rows."
    )


def hand3d_answers(context: StageContext, model: VipaVLA, rows: pl.DataFrame, fuse: bool) -> list[str]:
    tokenizer = tokenizer_of(model, context.root)
    examples = data.visual_examples(rows, tokenizer, model.config.tokens_per_frame)
    store, unreadable = open_store(context, model, examples)
    _refuse(unreadable)
    return answers.texts(model, tokenizer, examples, store, fuse=fuse, progress=context.progress)


def _refuse(unreadable: Sequence) -> None:
    """A score over fewer rows than asked would be another score."""
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} clips of the test cannot be read any more, first {unreadable[0]}: make raw_videos again"
        )


def _spatial_row(found: spatial.SpatialScore) -> dict[str, object]:
    return {
        "distance error, m": round(found.distance_error_m, 4),
        "95 %": "{:.3f} to {:.3f}".format(*found.distance_error_ci_m),
        "direction score of 3": round(found.direction_score, 3),
        "95 % ": "{:.2f} to {:.2f}".format(*found.direction_score_ci),
        "unread": found.num_unread_distances + found.num_unread_directions,
    }


def _gain_rows(metrics: dict[str, float]) -> list[dict[str, object]]:
    """Of `spatial.gain`, with the sign's meaning."""
    return [
        {"row by row": text, "mean": round(metrics[key], 4), "95 %": f"{metrics[key + '_low']:.4f} to {metrics[key + '_high']:.4f}"}
        for text, key in (("distance error, m (below 0 is better)", "hand3d_test/gain/distance_error_m"), ("direction score (above 0 is better)", "hand3d_test/gain/direction_score"))
    ]  # fmt: skip


def _first_answers(rows: pl.DataFrame, said: dict[str, list[str]], num: int = 6) -> list[dict[str, object]]:
    shown = rows.head(num).select("task", "question", "answer").to_dicts()
    return [row | {name: texts[i] for name, texts in said.items() if name != CONSTANT} for i, row in enumerate(shown)]


# motions


def motion_prediction(context: StageContext, report: Report) -> None:
    """Generated wrist motions of held-out rows against staying, going on, and the mean motion."""
    rows = tables.read("action_rows", context.input("hand3d_action"))
    train, test = rows.filter(split="train"), rows.filter(split="test")
    model = VipaVLA.load(context.input("stage2_checkpoint"))
    found: list[tuple[str, motion.MotionScore]] = []
    for task in (motion.GENERATION, motion.PREDICTION):
        part = test.filter(task=task)
        if part.is_empty():
            report.notes.append(f"No held-out row of {task}: no motion score.")
            continue
        part = part.sample(
            min(len(part), context.config.benchmark.num_motion_rows // 2), seed=context.config.benchmark.seed
        )
        found += motion_scores(context, model, train, part, task, report)
    for name, result in found:
        report.metrics |= result.metrics(f"motion/{result.task}/{name}/")
    report.tables["Wrist motion, held-out rows"] = [_motion_row(name, result) for name, result in found]


def motion_scores(
    context: StageContext, model: VipaVLA, train: pl.DataFrame, rows: pl.DataFrame, task: str, report: Report
) -> list[tuple[str, motion.MotionScore]]:
    tokenizer = tokenizer_of(model, context.root)
    examples = data.action_examples(rows, tokenizer, model.config.tokens_per_frame)
    store, unreadable = open_store(context, model, examples)
    _refuse(unreadable)
    seen, wanted = motion.truth(rows)
    said = {"stage2": answers.motions(model, tokenizer, examples, store, context.progress)}
    said["constant_position"] = motion.constant_position(seen, wanted)
    if task == motion.PREDICTION:
        said["constant_velocity"] = motion.constant_velocity(seen, wanted)
    if not train.filter(task=task).is_empty():
        said["mean_motion"] = motion.mean_motion(train, task, wanted)
        said["mean_position"] = motion.mean_position(train, task, wanted)
    path = f"motion_{task}.png"
    order = np.argsort([-len(w) for w in wanted], kind="stable")[:: max(1, len(wanted) // 4)][:4]
    pick: Callable[[Sequence], list] = lambda items: [items[i] for i in order]  # noqa: E731
    motion.draw(pick(said["stage2"]), pick(wanted), pick(rows["instruction"].to_list()), context.out / path)
    report.pictures[f"{task.replace('_', ' ')}: predicted over true"] = path
    report.rows[f"motion rows, {task}"] = len(rows)
    return [(name, motion.score(task, points, wanted)) for name, points in said.items()]


def _motion_row(name: str, found: motion.MotionScore) -> dict[str, object]:
    return {
        "task": found.task, "motion of": name, "rows": found.num_rows, "mean error, m": round(found.mean_error_m, 4),
        "95 %": "{:.3f} to {:.3f}".format(*found.mean_error_ci_m), "final error, m": round(found.final_error_m, 4),
        "shape error, m": round(found.shape_error_m, 4),
    }  # fmt: skip


# simulator


@contextmanager
def baseline_trials(context: StageContext) -> Iterator[list[Future[pl.DataFrame]]]:
    """Trials of two policies that look at nothing, in a process of their own beside everything else; spawned, since
    torch's threads do not survive a fork."""
    views = PolicySettings.load(context.input("posttrained_policies")).views
    demonstrations = lerobot.read(context.input("robot_demonstrations") / "lerobot")
    baselines = {"random": policies.RandomPolicy(), "mean_action": policies.MeanActionPolicy(demonstrations)}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=leave_with_parent) as pool:
        futures = [pool.submit(_trials_here(context, views), policy, name) for name, policy in baselines.items()]
        try:
            yield futures
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _trials_here(context: StageContext, views: tuple[str, ...]) -> Callable[..., pl.DataFrame]:
    return partial(trials_of, context.config.benchmark, context.config.robot_demonstrations, views, context.scratch)


def simulator(context: StageContext, report: Report, baselines: Sequence[Future[pl.DataFrame]]) -> None:
    """Trials of the policy, beside those of the baselines from the same initial states."""
    from ops.training.policy import VipaPolicy

    config, robots = context.config.benchmark, context.config.robot_demonstrations
    vipa = VipaPolicy(context.input("posttrained_policies"))
    simulator_state = drift.check_drift()
    evaluate.require_no_drift(simulator_state)
    shown = lambda items, total: context.progress(items, total, "trial")  # noqa: E731
    own = _trials_here(context, vipa.settings.views)(vipa, "policy", shown)
    trials = pl.concat([own, *(other.result() for other in baselines)])
    tables.write("trials", trials, context.out / "trials.parquet")
    rates = trial_rates(trials)
    report.rows["trials"] = len(trials)
    report.metrics |= trial_metrics(trials, rates)
    report.tables["Simulator"] = _trial_rows(trials, rates)
    draw_rates(trials, rates, context.out / "trials.png")
    report.pictures["success and progress in the simulator"] = "trials.png"
    versions = ", ".join(f"{name} {version}" for name, version in simulator_state.versions.items())
    report.notes.append(
        f"Smoke score: {config.num_trials} trials of one task ({robots.suite}, task {robots.task_id}) a policy; the paper's "
        f"are {PAPER_TRIALS} trials a suite of 10 tasks, which these cannot be compared with. "
        f"{protocol(config, robots.suite)} Simulator: {versions}."
    )


def trials_of(
    config: BenchmarkConfig,
    robots: RobotDemonstrationsConfig,
    views: tuple[str, ...],
    scratch: Path,
    policy: policies.Policy,
    name: str,
    progress: Callable | None = None,
) -> pl.DataFrame:
    return evaluate.run_trials(
        policy, name, robots.suite, robots.task_id, config.num_trials, seed=config.seed, image_size=robots.image_size,
        views=views, hard_reset=config.hard_reset, horizon=config.horizon, finished=scratch / f"trials-{name}.jsonl",
        progress=progress,
    )  # fmt: skip


def protocol(config: BenchmarkConfig, suite: str) -> str:
    """Which of a trial's settings are the published ones, in words."""
    published = evaluate.HORIZONS[suite]
    steps = published if config.horizon is None else config.horizon
    resets = "rebuilds" if config.hard_reset else "keeps (published: rebuilds)"
    return f"A trial has at most {steps} steps (published: {published}) and {resets} the simulation between trials."


def trial_rates(trials: pl.DataFrame) -> dict[str, Interval]:
    """Policy -> success rate with its interval. Raises ValueError where trials ended in an error."""
    names = trials["policy"].unique(maintain_order=True)
    return {name: evaluate.score(trials.filter(policy=name)) for name in names}


def trial_metrics(trials: pl.DataFrame, rates: dict[str, Interval]) -> dict[str, float]:
    """libero/<policy>/success and its interval, n, and mean progress with a bootstrap interval."""
    found: dict[str, float] = {}
    for name, rate in rates.items():
        progress = trials.filter(policy=name)["progress"].to_numpy()
        low, high = spatial.bootstrap_ci(progress, 0)
        found |= {
            f"libero/{name}/success": rate.rate, f"libero/{name}/success_low": rate.low, f"libero/{name}/success_high": rate.high,
            f"libero/{name}/num_trials": float(rate.trials), f"libero/{name}/num_successes": float(rate.successes),
            f"libero/{name}/progress": float(progress.mean()), f"libero/{name}/progress_low": low, f"libero/{name}/progress_high": high,
        }  # fmt: skip
    return found


def _trial_rows(trials: pl.DataFrame, rates: dict[str, Interval]) -> list[dict[str, object]]:
    means = dict(trials.group_by("policy").agg(pl.col("progress").mean()).iter_rows())
    return [
        {
            "policy": name,
            "successes": f"{r.successes} of {r.trials}",
            "rate": round(r.rate, 3),
            "95 % Wilson": f"{r.low:.2f} to {r.high:.2f}",
            "progress": round(means[name], 3),
        }
        for name, r in rates.items()
    ]


def draw_rates(trials: pl.DataFrame, rates: dict[str, Interval], path: Path) -> None:
    """Success with its Wilson interval, and mean progress, a bar a policy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(rates)
    success = np.array([rates[name].rate for name in names])
    spread = np.array([[rates[name].rate - rates[name].low, rates[name].high - rates[name].rate] for name in names]).T
    left.bar(names, success, yerr=spread.clip(min=0), color="#1f6feb", capsize=4)
    left.set(ylim=(0, 1), ylabel="success rate, 95 % Wilson")
    progress = [trials.filter(policy=name)["progress"].to_numpy() for name in names]
    right.bar(names, [values.mean() for values in progress], color="#b9c4d2")
    for place, values in enumerate(progress):
        right.plot(
            np.full(len(values), place) + np.linspace(-0.2, 0.2, len(values)),
            values,
            ".",
            color="#1c2430",
            markersize=4,
        )
    right.set(ylim=(0, 1.02), ylabel="progress (reached, lifted, placed)")
    figure.savefig(path, dpi=80)
