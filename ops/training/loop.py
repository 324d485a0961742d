"""The training loop of every stage: AdamW (Muon beside it where asked for), warm-up and cosine, clipping, resume at the
exact step, curves.

What is random follows from (seed, step) alone: the order of the data, dropout, the noise of flow matching. So a step
needs no remembered generator state, and a run that was killed and resumed ends with the losses of one that was not.
Works under ``accelerate launch`` as well: a batch is cut over the processes, the loss is the mean over all labels.
"""

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ops.config import TrainConfig
from ops.store import write_file
from ops.tracking import Run
from ops.training import parts

MAX_GRAD_NORM = 1.0  # ASSUMED: as Being-H0.5; the paper gives none
BETAS, EPS = (0.9, 0.999), 1e-8
EMBEDDINGS = "embed_tokens"  # a matrix by its shape only: its rows are learned one by one


@dataclass(frozen=True)
class Step:
    """One line of the curve. grad_norm is before clipping."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    samples_per_s: float


@dataclass(frozen=True)
class Task:
    """What to learn.

    objective: module whose forward takes a batch and gives (mean loss, number of labels it is the mean of).
    batch: item indices and a seed -> batch. num_items: size of the data set.
    data_version: changes with the data; a checkpoint of other data is not resumed.
    """

    objective: nn.Module
    batch: Callable[[Sequence[int], int], object]
    num_items: int
    data_version: str


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up over warmup_ratio of the steps, then a cosine to 0. `step` counts from 0."""
    warmup = math.ceil(config.warmup_ratio * config.num_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, config.num_steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def batch_indices(step: int, num_items: int, batch_size: int, seed: int) -> list[int]:
    """Items of a step: epochs of seeded permutations, one behind the other, cut into batches."""
    wanted = np.arange(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(num_items)
        for epoch in set((wanted // num_items).tolist())
    }
    return [int(orders[i // num_items][i % num_items]) for i in wanted.tolist()]


def train(
    task: Task,
    config: TrainConfig,
    scratch: Path,
    name: str,
    progress: Callable[..., Iterator] = lambda items, **_: iter(items),
    run: Run | None = None,
) -> list[Step]:
    """Train the objective's parameters that require a gradient; returns the whole curve, resumed steps included.

    scratch: holds ``<name>.pt`` (weights, optimiser, curve) every save_every steps; a run with the same
    configuration, data and parameters goes on from there.
    Raises FloatingPointError naming step and items where the loss is not finite, ValueError where nothing is to be
    trained, the data is empty, or the batch cannot be cut over the processes.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    trained = {key: value for key, value in task.objective.named_parameters() if value.requires_grad}
    on_threads = config.cpu_parts > 1 and accelerator.device.type == "cpu" and accelerator.num_processes == 1
    _check(task, config, trained, config.cpu_parts if on_threads else accelerator.num_processes)
    if config.num_steps == 0:
        return []
    objective, *optimizers = accelerator.prepare(task.objective, *optimizers_of(trained, config))
    state = Checkpoint(scratch / f"{name}.pt", fingerprint(task, config, trained))
    curve = state.load(trained, optimizers)
    if curve and run is not None:
        run.tag("resumed_at_step", len(curve))
    objective.train()
    steps = range(len(curve), config.num_steps)
    with parts.threads(config.cpu_parts) if on_threads else nullcontext() as pool:
        for step in progress(steps, total=len(steps), unit="step"):
            curve.append(_step(accelerator, objective, optimizers, trained, task, config, step, pool))
            _log(run if accelerator.is_main_process else None, name, curve[-1], config)
            if (step + 1) % config.save_every == 0 and step + 1 < config.num_steps and accelerator.is_main_process:
                state.save(trained, optimizers, curve)
    objective.eval()
    return curve


def optimizers_of(trained: Mapping[str, Tensor], config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything; with muon_lr Muon for the weight matrices, but those that are tables of embeddings."""
    by_muon = [
        name for name, p in trained.items() if config.muon_lr is not None and p.ndim == 2 and EMBEDDINGS not in name
    ]
    matrices, others = ([p for name, p in trained.items() if (name in by_muon) == chosen] for chosen in (True, False))
    found: list[torch.optim.Optimizer] = []
    if others:
        found.append(torch.optim.AdamW(others, lr=config.lr, betas=BETAS, eps=EPS, weight_decay=config.weight_decay))
    if matrices:
        found.append(torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
    for group in (group for optimizer in found for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return found


def _check(task: Task, config: TrainConfig, trained: dict[str, Tensor], num_processes: int) -> None:
    if not trained:
        raise ValueError("no parameter requires a gradient: call set_stage before training")
    if task.num_items < 1:
        raise ValueError("no training rows: the stage before made none; see the counts in its report.json")
    if config.batch_size % num_processes:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be cut over {num_processes} processes or parts: choose a multiple"
        )


def _step(
    accelerator, objective: nn.Module, optimizers, trained, task: Task, config: TrainConfig, step: int, pool: ThreadPoolExecutor | None
) -> Step:  # fmt: skip
    start = time.perf_counter()
    lr = learning_rate(step, config)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["initial_lr"] * lr / config.lr
    items = batch_indices(step, task.num_items, config.batch_size, config.seed)
    backward = _on_processes if pool is None else partial(_on_threads, pool)
    loss = backward(accelerator, objective, trained, task, config, step, items)
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"loss is {loss} at step {step}, items {items[:8]}...: look at these rows, or lower lr ({lr:.2g})"
        )
    grad_norm = float(accelerator.clip_grad_norm_(trained.values(), MAX_GRAD_NORM))
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return Step(step, loss, lr, grad_norm, config.batch_size / (time.perf_counter() - start))


def _on_processes(
    accelerator, objective: nn.Module, trained, task: Task, config: TrainConfig, step: int, items: list[int]
) -> float:
    """Gradients of this process' share of a batch, averaged by accelerate over all; the mean loss over all labels."""
    rank, world = accelerator.process_index, accelerator.num_processes
    seed = step_seed(config.seed, step, rank)
    torch.manual_seed(seed)  # dropout; a function of the step, so nothing has to be remembered
    loss, num_labels = objective(task.batch(_cut(items, world)[rank], seed))
    total = accelerator.reduce(torch.tensor([float(loss.detach()) * num_labels, num_labels], device=loss.device), "sum")
    # gradients are averaged over processes: weigh each process by its share of the labels
    accelerator.backward(loss * (num_labels * world / float(total[1])))
    return float(total[0] / total[1])


def _on_threads(
    pool: ThreadPoolExecutor, _, objective: nn.Module, trained, task: Task, config: TrainConfig, step: int, items: list[int]
) -> float:  # fmt: skip
    """The same on threads of one process, each with the seed of the process that it stands for."""
    seeds = [step_seed(config.seed, step, rank) for rank in range(config.cpu_parts)]
    batches = [task.batch(share, seed) for share, seed in zip(_cut(items, len(seeds)), seeds, strict=True)]
    return parts.backward(pool, objective, list(trained.values()), batches, seeds)


def _cut(items: list[int], num: int) -> list[list[int]]:
    size = len(items) // num
    return [items[k * size : (k + 1) * size] for k in range(num)]


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


def _log(run: Run | None, name: str, record: Step, config: TrainConfig) -> None:
    if run is None:
        return
    values = {f"{name}/{key}": value for key, value in asdict(record).items() if key != "step"}
    if record.step % config.log_every == 0 or record.step + 1 == config.num_steps:
        run.metrics(values, record.step)
    if (record.step + 1) % config.save_every == 0:
        run.flush()


def fingerprint(task: Task, config: TrainConfig, trained: dict[str, Tensor]) -> str:
    """What must be equal for a resumed run to be the same run."""
    shapes = {key: list(value.shape) for key, value in trained.items()}
    text = json.dumps([asdict(config), task.num_items, task.data_version, shapes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """State of an unfinished run: trained weights, optimiser moments, curve so far."""

    path: Path
    fingerprint: str

    def save(self, trained: dict[str, Tensor], optimizers: Sequence, curve: list[Step]) -> None:
        weights = {key: value.detach().cpu() for key, value in trained.items()}
        content = {
            "fingerprint": self.fingerprint,
            "weights": weights,
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "curve": [asdict(record) for record in curve],
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_file(self.path, buffer.getvalue())

    def load(self, trained: dict[str, Tensor], optimizers: Sequence) -> list[Step]:
        """Put the state back; an empty curve where there is none of this very run."""
        if not self.path.is_file():
            return []
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        if content["fingerprint"] != self.fingerprint:
            return []
        with torch.no_grad():
            for key, value in trained.items():
                value.copy_(content["weights"][key])
        for optimizer, held in zip(optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        return [Step(**record) for record in content["curve"]]


def smoothed(values: Iterable[float], keep: float = 0.9) -> list[float]:
    """Exponential mean without the start's bias; for curves and for "last loss" numbers."""
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + 1 - keep
        out.append(mean / weight)
    return out


def draw_curves(curves: dict[str, list[Step]], path: Path) -> None:
    """Loss (thin: every step, thick: smoothed), gradient norm and learning rate of one or several trainings, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = {name: curve for name, curve in curves.items() if curve}
    figure, axes = plt.subplots(1, max(1, len(shown)), figsize=(4.6 * max(1, len(shown)), 3.2), squeeze=False)
    for axis, (name, curve) in zip(axes[0], shown.items(), strict=False):
        steps, losses = [record.step for record in curve], [record.loss for record in curve]
        axis.plot(steps, losses, color="#b9c4d2", linewidth=0.6)
        axis.plot(steps, smoothed(losses), color="#1f6feb", label="loss")
        axis.set(xlabel="step", ylabel="loss", title=name)
        right = axis.twinx()
        right.plot(steps, smoothed(record.grad_norm for record in curve), color="#9a6700", linewidth=0.8)
        right.set_ylabel("gradient norm", color="#9a6700")
        right.set_yscale("log")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
