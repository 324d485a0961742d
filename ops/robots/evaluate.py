"""Run a policy in the simulator, one row a trial, and say how sure the success rate is.

Protocol (benchmarks of the paper, 4.2): trial i starts in official initial state i, rests 10 steps, then the policy is
asked every `execute_steps` steps until success or `horizon`. Images are rendered at those moments only; the policy
sees what it would see anyway. Progress counts thirds: the gripper's site came within REACH_M of the goal object's
bounding box; the object rose LIFT_M above its start; the goal holds. Each counts from the first moment it was true,
and a later one includes the earlier.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ops import tables
from ops.robots.drift import DriftReport
from ops.robots.libero import HORIZONS, NUM_INIT_STATES, LiberoEnv
from ops.robots.policies import ExpertPolicy, Observation, Policy

REACH_M, LIFT_M = 0.03, 0.04


class DriftError(RuntimeError):
    """The simulator does not behave as the one published scores come from; the message says how and what to pin."""


@dataclass(frozen=True)
class Interval:
    """A success rate with its 95% Wilson interval. successes of trials; rate, low, high in [0, 1]."""

    successes: int
    trials: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two policies on the same trials. only_a, only_b: trials one of them solved; p_value: McNemar's exact test."""

    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float


def wilson(successes: int, trials: int) -> Interval:
    """95% interval. Raises ValueError without trials or with more successes than trials."""
    from scipy.stats import binomtest

    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"need 0 <= successes <= trials and a trial, got {successes} of {trials}")
    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return Interval(successes, trials, successes / trials, float(interval.low), float(interval.high))


def score(trials: pl.DataFrame) -> Interval:
    """Success rate of one policy. Raises ValueError when a trial ended in an error: that is no failure of the policy."""
    errors = trials.filter(pl.col("terminated_by") == "error")
    if len(errors):
        raise ValueError(
            f"{len(errors)} of {len(trials)} trials ended in an error (initial states {errors['init_index'].to_list()}): run them again before scoring"
        )
    return wilson(int(trials["success"].sum()), len(trials))


def compare(a: pl.DataFrame, b: pl.DataFrame) -> Paired:
    """Paired comparison on the trials both have (suite, task, initial state, seed). Raises ValueError if they differ."""
    from scipy.stats import binomtest

    key = ["suite", "task_id", "init_index", "seed"]
    joined = a.join(b, on=key, suffix="_b")
    if len(joined) != len(a) or len(joined) != len(b):
        raise ValueError(f"paired comparison needs the same trials: {len(a)} and {len(b)} trials share {len(joined)}")
    won_a, won_b = joined["success"].to_numpy(), joined["success_b"].to_numpy()
    only_a, only_b = int((won_a & ~won_b).sum()), int((won_b & ~won_a).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return Paired(int((won_a & won_b).sum()), only_a, only_b, int((~won_a & ~won_b).sum()), p_value)


def require_no_drift(report: DriftReport) -> None:
    """Refuse to publish a score from a drifted simulator. Raises DriftError."""
    if not report.ok:
        found = ", ".join(f"{name} {number}" for name, number in report.versions.items())
        raise DriftError(
            f"no score is published: {'; '.join(report.problems)}. Found {found}; pip install mujoco==3.3.2"
        )


def run_trials(
    policy: Policy,
    name: str,
    suite: str,
    task_id: int,
    num_trials: int,
    execute_steps: int = 8,
    horizon: int | None = None,
    seed: int = 7,
    progress: Callable[[Iterable[int], int], Iterable[int]] | None = None,
    image_size: int = 256,
    views: tuple[str, ...] = ("agentview",),
    hard_reset: bool = True,
    finished: Path | None = None,
    film: list[np.ndarray] | None = None,
) -> pl.DataFrame:
    """Trials of one policy on one task as a 'trials' table.

    name: as it appears in the table. execute_steps: actions executed of each chunk. horizon: most steps, None for the
    suite's. seed: trial i uses seed + 1000 * task_id + i. progress: wraps the trial numbers, as
    ``lambda items, total: context.progress(items, total, "trial")``. hard_reset: False only for smoke scores.
    finished: a .jsonl file that keeps finished trials, so that an interrupted call goes on; rows of another protocol
    in it are ignored. film: filled with what the policy saw in the first trial run (first view), for a picture.

    An exception inside an episode is recorded as terminated_by "error" and printed, never as a failure of the policy.
    Raises ValueError for bad arguments, SimulatorMissingError without LIBERO.
    """
    if execute_steps < 1 or not 1 <= num_trials <= NUM_INIT_STATES:
        raise ValueError(
            f"need execute_steps >= 1 and 1 to {NUM_INIT_STATES} trials, got {execute_steps} and {num_trials}"
        )
    horizon = HORIZONS[suite] if horizon is None and suite in HORIZONS else horizon
    protocol = {
        "policy": name,
        "suite": suite,
        "task_id": task_id,
        "execute_steps": execute_steps,
        "horizon": horizon,
        "hard_reset": hard_reset,
        "base_seed": seed,
        "image_size": image_size,
        "views": list(views),
    }
    rows = _finished_rows(finished, protocol)
    missing = [index for index in range(num_trials) if index not in rows]
    if missing:
        with LiberoEnv(suite, task_id, image_size, views, hard_reset) as env:
            for index in progress(missing, len(missing)) if progress else missing:
                row = _run_trial(
                    env,
                    policy,
                    name,
                    index,
                    execute_steps,
                    horizon,
                    seed + 1000 * task_id + index,
                    film if index == missing[0] else None,
                )
                rows[index] = row
                _keep(finished, protocol, row)
    return tables.frame("trials", [rows[index] for index in range(num_trials)])


def _run_trial(
    env: LiberoEnv,
    policy: Policy,
    name: str,
    index: int,
    execute_steps: int,
    horizon: int,
    seed: int,
    film: list | None,
) -> dict[str, object]:
    start, episode = time.perf_counter(), _Episode(env, film)
    try:
        env.reset_official(index)
        episode.begin(policy, seed)
        ended = episode.roll(policy, execute_steps, horizon)
    except Exception:  # whatever a policy or the simulator raises is one trial's error; KeyboardInterrupt goes through
        print(f"trial {index} of {name} on {env.suite} task {env.task_id} ended in an error:", file=sys.stderr)
        traceback.print_exc()
        ended = "error"
    return {
        "policy": name, "suite": env.suite, "task_id": env.task_id, "task": env.instruction, "init_index": index,
        "seed": seed, "success": ended == "success", "progress": episode.progress(ended == "success"),
        "steps": episode.steps, "terminated_by": ended, "policy_calls": episode.calls,
        "wall_s": time.perf_counter() - start,
    }  # fmt: skip


class _Episode:
    """Counts and progress of one trial."""

    def __init__(self, env: LiberoEnv, film: list | None):
        self._env, self._film = env, film
        self.steps = self.calls = 0
        self._reached = self._lifted = False
        self._start_height = 0.0

    def begin(self, policy: Policy, seed: int) -> None:
        if isinstance(policy, ExpertPolicy):
            policy.attach(self._env)
        policy.reset(seed)
        self._object = self._env.goal.object if self._env.is_movable(self._env.goal.object) else None
        if self._object:
            self._start_height = self._env.object_position(self._object)[2]

    def roll(self, policy: Policy, execute_steps: int, horizon: int) -> str:
        while self.steps < horizon:
            chunk = self._ask(policy)
            for action in chunk[: min(execute_steps, horizon - self.steps)]:
                self.steps += 1
                won = self._env.step(action)
                self._watch()
                if won:
                    return "success"
        return "horizon"

    def _ask(self, policy: Policy) -> np.ndarray:
        images = self._env.images() if getattr(policy, "needs_images", True) or self._film is not None else {}
        if self._film is not None:
            self._film.append(next(iter(images.values())))
        self.calls += 1
        chunk = np.asarray(policy.act(Observation(images, self._env.state(), self._env.instruction)))
        if chunk.ndim != 2 or chunk.shape[1] != 7 or not len(chunk):
            raise ValueError(f"a policy returns (H, 7) actions with H >= 1, got shape {chunk.shape}")
        return chunk

    def _watch(self) -> None:
        if self._object is None or self._lifted:
            return
        self._lifted = bool(self._env.object_position(self._object)[2] > self._start_height + LIFT_M)
        if not self._reached:
            points = self._env.body_points(self._object)
            position = self._env.eef_position()
            outside = np.maximum(0, np.maximum(points.min(0) - position, position - points.max(0)))
            self._reached = bool(np.linalg.norm(outside) < REACH_M)

    def progress(self, success: bool) -> float:
        return 1.0 if success else 2 / 3 if self._lifted else 1 / 3 if self._reached else 0.0


def _finished_rows(path: Path | None, protocol: dict[str, object]) -> dict[int, dict[str, object]]:
    """Trials kept by an interrupted call with the same protocol; errors are run again, a cut last line is ignored."""
    rows = {}
    if path is None or not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            kept = json.loads(line)
        except json.JSONDecodeError:  # the write that was interrupted
            continue
        if kept["protocol"] == protocol and kept["row"]["terminated_by"] != "error":
            rows[kept["row"]["init_index"]] = kept["row"]
    return rows


def _keep(path: Path | None, protocol: dict[str, object], row: dict[str, object]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut else "") + json.dumps({"protocol": protocol, "row": row}) + "\n")
