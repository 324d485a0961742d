"""Constrained decoding: generated text is <mot>, whole waypoints in x, y, z order, </mot>, end of turn."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from ops.models.tokenizer import TokenLayout


class MotionGrammar(LogitsProcessor):
    """Allows at every step only what the grammar allows; the model's scores choose among it.

    num_waypoints: per row of the batch, how many waypoints to write; None lets the model choose, at least one.
    prompt_length: tokens of the prompt in `input_ids`; 0 where generation starts from embeddings (VipaVLA.generate).
    """

    def __init__(self, layout: TokenLayout, num_waypoints: Sequence[int] | None = None, prompt_length: int = 0) -> None:
        self.layout, self.num_waypoints, self.prompt_length = layout, num_waypoints, prompt_length

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        allowed = torch.full_like(scores, -torch.inf)
        for row, written in enumerate(input_ids[:, self.prompt_length :].tolist()):
            for first, last in self._next(row, written):
                allowed[row, first:last] = 0
        return scores + allowed

    def _next(self, row: int, written: list[int]) -> list[tuple[int, int]]:
        """Ranges of ids allowed after `written`."""
        layout = self.layout
        if not written:
            return [(layout.motion_open, layout.motion_open + 1)]
        if layout.motion_close in written:
            end = layout.pad if layout.end_of_turn in written else layout.end_of_turn
            return [(end, end + 1)]
        inside = len(written) - 1
        close, point = (layout.motion_close, layout.motion_close + 1), layout.motion_range(inside % 3)
        if self.num_waypoints is not None:
            return [close] if inside >= 3 * self.num_waypoints[row] else [point]
        return [close, point] if inside and inside % 3 == 0 else [point]


class MedianMotion(MotionGrammar):
    """The same grammar; of a coordinate's bins the median of the model's distribution is taken, not its peak.

    ASSUMED: the paper names no decoding. Bins lie in order, so a distribution over them has a median, which is the
    guess with the least expected distance; the single likeliest of 1,024 bins is not.
    """

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        scores = super().__call__(input_ids, scores)
        finite = scores > -torch.inf
        for first, last in {self.layout.motion_range(axis) for axis in range(3)}:
            rows = finite[:, first:last].any(dim=1) & (finite.sum(dim=1) == finite[:, first:last].sum(dim=1))
            if rows.any():
                share = scores[rows, first:last].double().softmax(dim=-1).cumsum(dim=-1)
                median = first + (share < 0.5).sum(dim=-1)
                scores[rows] = -torch.inf
                scores[rows.nonzero()[:, 0], median] = 0.0
        return scores
