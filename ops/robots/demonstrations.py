"""Stage robot_demonstrations: successful runs of the scripted expert, as a LeRobot v3.0 dataset at 20 steps a second.

Every demonstration starts from a new draw of the task's placement regions and of the arm's joints (seed + k), never
from the official initial states, which are kept for evaluation. State and action are recorded at every control step,
images at every `image_every`-th: a camera slower than the control loop, as on real robots; the rows between hold the
last image and say its age. The expert's free motion is disturbed and its undisturbed command is what is recorded, so
that the data show how to come back (DART, arXiv 1703.09327).
"""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from ops.config import RobotDemonstrationsConfig
from ops.lerobot import writer as lerobot_writer
from ops.lerobot.writer import Episode
from ops.pipeline import StageContext
from ops.rejects import Reason, Reject
from ops.robots.expert import Expert
from ops.robots.libero import CONTROL_HZ, LiberoEnv
from ops.store import Report, write_file, write_rejects

MAX_ATTEMPTS = 3
"""Times num_demonstrations: an expert worse than that is a fault, not bad luck."""
NO_OP = 1e-4


@dataclass(frozen=True)
class Attempt:
    """One run of the expert. episode is None where it failed. official_gap: largest coordinate by which the start
    differs from the nearest official initial state (m or rad). cpu_s: process time it took."""

    seed: int
    episode: Episode | None
    steps: int
    official_gap: float
    cpu_s: float


def run(context: StageContext) -> Report:
    """Collect demonstrations until enough succeeded; finished ones survive an interruption in the scratch folder.

    Raises RuntimeError when fewer than a third of the attempts succeed, or when a start is an official initial state.
    """
    config = context.config.robot_demonstrations
    _forget_other_settings(context.scratch, config)
    attempts = list(context.progress(_attempts(context.scratch, config), config.num_demonstrations, "attempt"))
    good = [attempt for attempt in attempts if attempt.episode is not None]
    if len(good) < config.num_demonstrations:
        raise RuntimeError(
            f"the expert succeeded in {len(good)} of {len(attempts)} attempts on {config.suite} task {config.task_id}: choose another task"
        )
    episodes = [attempt.episode for attempt in good]
    lerobot_writer.write(context.out / "lerobot", episodes, CONTROL_HZ, config.storage)
    report = _report(attempts, config)
    _draw(episodes, context.out, report)
    rejects = [
        Reject(f"seed-{a.seed}", Reason.DEMONSTRATION_FAILED, detail=f"no success in {a.steps} steps")
        for a in attempts
        if a.episode is None
    ]
    write_rejects(context.out, rejects, report)
    return report


def record(env: LiberoEnv, seed: int, config: RobotDemonstrationsConfig) -> Attempt:
    """One attempt from a sampled start. Success counts at the end of the script, after the object was let go."""
    import time

    start_cpu = time.process_time()
    gap = official_gap(env, env.reset_sampled(seed))
    if gap < 1e-6:
        raise RuntimeError(
            f"seed {seed} starts in an official initial state of {env.suite} task {env.task_id}: evaluation would see training data"
        )
    expert = Expert(env, config.noise, seed)
    states, actions, images, image_index, ages = [], [], [], [], []
    while len(states) < env.horizon:
        state = env.state()
        step = expert.next()
        if step is None:
            break
        if len(states) % config.image_every == 0:
            images.append(env.images())
        image_index.append(len(images) - 1)
        ages.append(len(states) % config.image_every / CONTROL_HZ)
        states.append(state)
        actions.append(step[0])
        env.step(step[1])
    episode = None
    if env.success():
        stacked = {view: np.stack([image[view] for image in images]) for view in config.views}
        episode = _without_no_ops(
            Episode(
                stacked, np.array(image_index), np.array(ages), np.array(states), np.array(actions), env.instruction
            )
        )
    return Attempt(seed, episode, len(states), gap, time.process_time() - start_cpu)


def official_gap(env: LiberoEnv, state: Float[np.ndarray, " s"]) -> float:
    """Largest difference of any joint coordinate to the nearest official initial state (time and velocities left out)."""
    num_positions = env.num_positions
    official = env.info.init_states[:, 1 : 1 + num_positions]
    return float(np.abs(official - state[1 : 1 + num_positions]).max(1).min())


def no_ops(action: Float[np.ndarray, "t 7"]) -> Bool[np.ndarray, " t"]:
    """Steps that neither move nor turn nor change the gripper (OpenVLA-OFT's rule); never the first."""
    still = np.linalg.norm(action[:, :6], axis=1) < NO_OP
    unchanged = np.concatenate([[False], action[1:, 6] == action[:-1, 6]])
    return still & unchanged


def _without_no_ops(episode: Episode) -> Episode:
    """Drop steps that do nothing, but never one whose image was taken then: later rows hold that image."""
    keep = ~no_ops(episode.action) | (episode.image_age_s == 0)
    return Episode(
        episode.images,
        episode.image_index[keep],
        episode.image_age_s[keep],
        episode.state[keep],
        episode.action[keep],
        episode.task,
    )


def _attempts(scratch: Path, config: RobotDemonstrationsConfig) -> Iterator[Attempt]:
    """Attempts in seed order until enough succeeded; the simulator is only built if one is missing in scratch."""
    env, successes = None, 0
    try:
        for seed in range(config.seed, config.seed + MAX_ATTEMPTS * config.num_demonstrations):
            path = scratch / f"{seed}.npz"
            if path.is_file():
                attempt = _load(path)
            else:
                env = env or LiberoEnv(config.suite, config.task_id, config.image_size, config.views, hard_reset=False)
                attempt = record(env, seed, config)
                _save(path, attempt)
            yield attempt
            successes += attempt.episode is not None
            if successes == config.num_demonstrations:
                return
    finally:
        if env is not None:
            env.close()


def _forget_other_settings(scratch: Path, config: RobotDemonstrationsConfig) -> None:
    """Demonstrations of an interrupted run are only good for the same settings (their number may differ)."""
    settings = {key: value for key, value in asdict(config).items() if key not in ("num_demonstrations", "storage")}
    wanted = json.dumps(settings, sort_keys=True, default=list)
    marker = scratch / "settings.json"
    if not marker.is_file() or marker.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(scratch, ignore_errors=True)
        write_file(marker, wanted.encode())


def _save(path: Path, attempt: Attempt) -> None:
    arrays = {"numbers": np.array([attempt.seed, attempt.steps, attempt.official_gap, attempt.cpu_s])}
    if attempt.episode is not None:
        episode = attempt.episode
        arrays |= {
            "image_index": episode.image_index,
            "image_age_s": episode.image_age_s,
            "state": episode.state,
            "action": episode.action,
        }
        arrays |= {f"images/{view}": images for view, images in episode.images.items()} | {
            "task": np.array(episode.task)
        }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_file(path, buffer.getvalue())


def _load(path: Path) -> Attempt:
    with np.load(path, allow_pickle=False) as arrays:
        seed, steps, gap, cpu_s = arrays["numbers"].tolist()
        episode = None
        if "state" in arrays:
            images = {name.removeprefix("images/"): arrays[name] for name in arrays if name.startswith("images/")}
            columns = [arrays[name] for name in ("image_index", "image_age_s", "state", "action")]
            episode = Episode(images, *columns, str(arrays["task"]))
        return Attempt(int(seed), episode, int(steps), gap, cpu_s)


def _report(attempts: list[Attempt], config: RobotDemonstrationsConfig) -> Report:
    episodes = [attempt.episode for attempt in attempts if attempt.episode is not None]
    steps = [len(episode) for episode in episodes]
    return Report(
        rows={
            "demonstrations": len(episodes),
            "frames": sum(steps),
            "images": sum(len(next(iter(e.images.values()))) for e in episodes),
        },
        metrics={
            "expert_success_rate": len(episodes) / len(attempts),
            "mean_steps": float(np.mean(steps)),
            "cpu_s_per_demonstration": float(np.sum([a.cpu_s for a in attempts])) / len(episodes),
            "min_gap_to_official_states": min(attempt.official_gap for attempt in attempts),
        },
        notes=[
            f"scripted expert on {config.suite} task {config.task_id} ({episodes[0].task}); starts drawn with seeds {config.seed} to {attempts[-1].seed}, none an official initial state",
            f"images at every {config.image_every}. control step of {CONTROL_HZ:.0f} a second; rows between hold the last one (observation.image_age_s)",
        ],
    )


def _draw(episodes: list[Episode], out: Path, report: Report) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    images = next(iter(episodes[0].images.values()))
    shown = np.linspace(0, len(images) - 1, 10).round().astype(int)
    figure, axes = plt.subplots(2, 5, figsize=(9, 4.2), layout="constrained")
    for axis, i in zip(axes.flat, shown, strict=True):
        row = int(np.flatnonzero(episodes[0].image_index == i)[0])
        axis.imshow(images[i])
        axis.set_title(
            f"{row / CONTROL_HZ:.1f} s, {'closed' if episodes[0].action[row, 6] > 0 else 'open'}", fontsize=7
        )
        axis.axis("off")
    figure.suptitle(f"demonstration 0: {episodes[0].task}", fontsize=9)
    _save_picture(figure, out, "film_strip.png", "one demonstration", report)
    figure, (top, side) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=(5, 4))
    for episode in episodes:
        top.plot(-episode.state[:, 1], episode.state[:, 0], lw=0.8, alpha=0.7)
        side.plot(np.arange(len(episode)) / CONTROL_HZ, episode.state[:, 2], lw=0.8, alpha=0.7)
    top.set(xlabel="to the robot's right (m)", ylabel="forward (m)", title="gripper from above", aspect="equal")
    side.set(xlabel="time (s)", ylabel="height (m)", title="gripper's height")
    _save_picture(figure, out, "trajectories.png", "trajectories of all demonstrations", report)


def _save_picture(figure, out: Path, name: str, title: str, report: Report) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(out / name, dpi=80)
    plt.close(figure)
    report.pictures[title] = name
