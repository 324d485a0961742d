"""Rows of Hand3D as batches: a chat of question and answer, labels on the answer only (paper 3.3).

A batch is a list of groups of equal frame count and similar length, since a visual row shows 1 to 4 frames and the visual tokens of a
group stand in one tensor; the objective takes the mean over all groups' labels.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from ops.hand3d import motion_tokens
from ops.models.processor import TokenBatch, answer_ids, prompt_batch, prompt_ids, training_batch
from ops.models.tokenizer import VipaTokenizer
from ops.models.vipa import FrameFeatures, VipaVLA
from ops.training.features import FeatureStore, Window

LENGTH_STEP = 192  # tokens; samples of one group differ by less


@dataclass(frozen=True)
class Example:
    """One row, tokenised. num_waypoints: of the motion to write, 0 for text."""

    row_id: str
    window: Window
    prompt: list[int]
    answer: list[int]
    num_waypoints: int = 0


@dataclass(frozen=True)
class Group:
    """Samples that show equally many frames."""

    features: FrameFeatures
    tokens: TokenBatch


def question_example(
    row_id: str, window: Window, question: str, answer: str, tokenizer: VipaTokenizer, tokens_per_frame: int
) -> Example:
    """A question about frames and its answer in words."""
    prompt = prompt_ids(tokenizer, question, len(window.frames), tokens_per_frame)
    return Example(row_id, window, prompt, answer_ids(tokenizer, answer))


def visual_examples(rows: pl.DataFrame, tokenizer: VipaTokenizer, tokens_per_frame: int) -> list[Example]:
    """Rows of the visual_rows table -> examples."""
    columns = rows.select("row_id", "clip_id", "frames", "question", "answer")
    return [
        question_example(row_id, Window(clip_id, tuple(frames)), question, answer, tokenizer, tokens_per_frame)
        for row_id, clip_id, frames, question, answer in columns.iter_rows()
    ]


def shifted(rows: pl.DataFrame, copies: int, max_bins: int, seed: int) -> pl.DataFrame:
    """Rows and, for rows that continue a motion, copies moved as a whole by up to max_bins an axis.

    ASSUMED: not in the paper. A shift is the motion seen from a camera a few centimetres away; with few clips it is
    what teaches to go on from the motion given instead of remembering places. Copies that leave the grid are left out.
    """
    rng = np.random.default_rng(seed)
    parts = [rows]
    moving = rows.filter(task="contextual_motion_prediction")
    for copy in range(copies):
        moved = []
        for row in moving.iter_rows(named=True):
            step = rng.integers(-max_bins, max_bins + 1, 3)
            tokens = {
                k: (np.array(row[k], int).reshape(-1, 3) + step).ravel() for k in ("context_tokens", "target_tokens")
            }
            inside = all((t >= 0).all() and (t < motion_tokens.NUM_BINS).all() for t in tokens.values())
            if inside:
                moved.append(row | {k: t.tolist() for k, t in tokens.items()} | {"row_id": f"{row['row_id']}+{copy}"})
        parts.append(pl.DataFrame(moved, schema=rows.schema))
    return pl.concat(parts)


def action_examples(rows: pl.DataFrame, tokenizer: VipaTokenizer, tokens_per_frame: int) -> list[Example]:
    """Rows of the action_rows table -> examples: motion tokens or, for translation, text to produce."""
    return [_action_example(row, tokenizer, tokens_per_frame) for row in rows.iter_rows(named=True)]


def _action_example(row: dict[str, object], tokenizer: VipaTokenizer, tokens_per_frame: int) -> Example:
    context, target = row["context_tokens"], row["target_tokens"]
    prompt = prompt_ids(tokenizer, row["prompt"], 1, tokens_per_frame, context=context)
    answer = answer_ids(tokenizer, motion=target) if target else answer_ids(tokenizer, text=row["target_text"])
    window = Window(row["clip_id"], (row["frame"],))
    return Example(row["row_id"], window, prompt, answer, len(target) // 3)


def grouped(examples: Sequence[Example]) -> list[list[int]]:
    """Places of examples with equal frame count and similar length, so that little is padding."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        length = len(example.prompt) + len(example.answer)
        groups[len(example.window.frames), length // LENGTH_STEP].append(place)
    return [groups[key] for key in sorted(groups)]


def training_groups(examples: Sequence[Example], store: FeatureStore, pad: int) -> list[Group]:
    """Samples of one step."""
    out = []
    for places in grouped(examples):
        some = [examples[place] for place in places]
        tokens = training_batch([e.prompt for e in some], [e.answer for e in some], pad)
        out.append(Group(store.features([e.window for e in some]), tokens))
    return out


def prompt_group(examples: Sequence[Example], store: FeatureStore, pad: int) -> Group:
    """Prompts of equal frame count, to be answered."""
    return Group(store.features([e.window for e in examples]), prompt_batch([e.prompt for e in examples], pad))


class AnswerObjective(nn.Module):
    """Next-token loss of the answers, mean over all label tokens of the step."""

    def __init__(self, model: VipaVLA, *, fuse: bool = True) -> None:
        super().__init__()
        self.model, self.fuse = model, fuse

    def forward(self, groups: list[Group]) -> tuple[Tensor, int]:
        losses, counts = [], []
        for group in groups:
            tokens = group.tokens.to(self.model.device)
            features = group.features.to(self.model.device)
            loss, count = self.model(features, tokens.input_ids, tokens.attention_mask, tokens.labels, fuse=self.fuse)
            losses.append(loss * count)
            counts.append(count)
        return torch.stack(losses).sum() / sum(counts), sum(counts)
