"""A step's batch cut over threads of one process, for a CPU and a small model.

Torch cuts every single operation over its threads; where operations are small it gains little by that (bench_training).
Here each part of the batch goes through the whole model on one thread, as under `accelerate` on several processes: the
loss is the mean over all labels, and what is random follows from the part's own seed.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ops.models.dropout import drawing_from


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's own operations on one thread for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads(num: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for `backward`; torch's own operations use one each meanwhile."""
    with one_thread(), ThreadPoolExecutor(num, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool


def backward(
    pool: ThreadPoolExecutor, objective: nn.Module, trained: Sequence[Tensor], batches: Sequence, seeds: Sequence[int]
) -> float:
    """Put the gradients of the mean loss over all parts' labels into `trained`; returns that loss.

    Sums are taken in the parts' order, so that the result does not depend on which thread was faster.
    """

    def part(batch: object, seed: int) -> tuple[Tensor, int, tuple[Tensor | None, ...]]:
        with drawing_from(torch.Generator().manual_seed(seed)):
            loss, count = objective(batch)
        return loss.detach(), count, torch.autograd.grad(loss * count, list(trained), allow_unused=True)

    found = list(pool.map(part, batches, seeds))
    total = sum(count for _, count, _ in found)
    for place, parameter in enumerate(trained):
        known = [grads[place] for *_, grads in found if grads[place] is not None]
        parameter.grad = sum(known[1:], known[0]) / total if known else None  # type: ignore[operator]
    return float(torch.stack([loss * count for loss, count, _ in found]).sum() / total)
