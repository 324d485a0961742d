"""Dropout that can draw from a generator of its own, so that passes on several threads are repeatable."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_GENERATOR: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """In this thread, dropout draws from `generator` (on the CPU) instead of torch's global one."""
    token = _GENERATOR.set(generator)
    try:
        yield
    finally:
        _GENERATOR.reset(token)


class Dropout(nn.Dropout):
    """nn.Dropout; inside `drawing_from` its masks follow from that generator alone."""

    def forward(self, x: Tensor) -> Tensor:
        generator = _GENERATOR.get()
        if generator is None or not self.training or self.p == 0:
            return super().forward(x)
        return x * torch.empty_like(x).bernoulli_(1 - self.p, generator=generator).div_(1 - self.p)
