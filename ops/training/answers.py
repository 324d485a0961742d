"""What a model says: greedy answers in words, and motions under the motion grammar, each coordinate its median."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from ops.hand3d import motion_tokens
from ops.models.grammar import MedianMotion
from ops.models.processor import MAX_WORDS
from ops.models.tokenizer import VipaTokenizer
from ops.models.vipa import VipaVLA
from ops.training import data
from ops.training.data import Example
from ops.training.features import FeatureStore

BATCH = 64

Progress = Callable[..., Iterator]


def texts(
    model: VipaVLA,
    tokenizer: VipaTokenizer,
    examples: Sequence[Example],
    store: FeatureStore,
    *,
    fuse: bool = True,
    progress: Progress | None = None,
) -> list[str]:
    """One text an example, in order. fuse=False: the plain vision-language model."""
    out = [""] * len(examples)
    for places in _batches(examples, progress):
        group = data.prompt_group([examples[place] for place in places], store, tokenizer.layout.pad)
        tokens = group.tokens.to(model.device)
        ids = model.generate(
            group.features.to(model.device), tokens.input_ids, tokens.attention_mask, MAX_WORDS, fuse=fuse
        )
        for place, row in zip(places, ids.tolist(), strict=True):
            out[place] = tokenizer.decode(row).strip()
    return out


def motions(
    model: VipaVLA,
    tokenizer: VipaTokenizer,
    examples: Sequence[Example],
    store: FeatureStore,
    progress: Progress | None = None,
) -> list[Float[np.ndarray, "n 3"]]:
    """Waypoints an example asks for, in order; camera frame of its image, metres."""
    out: list[np.ndarray] = [np.empty((0, 3))] * len(examples)
    for places in _batches(examples, progress):
        some = [examples[place] for place in places]
        group = data.prompt_group(some, store, tokenizer.layout.pad)
        tokens = group.tokens.to(model.device)
        grammar = MedianMotion(tokenizer.layout, [example.num_waypoints for example in some])
        longest = 3 * max(example.num_waypoints for example in some) + 3
        ids = model.generate(group.features.to(model.device), tokens.input_ids, tokens.attention_mask, longest, grammar)
        for place, row in zip(places, ids.tolist(), strict=True):
            out[place] = motion_tokens.decode(tokenizer.layout.motion_tokens(row))
    return out


def _batches(examples: Sequence[Example], progress: Progress | None) -> Iterator[list[int]]:
    """Places of examples of equal frame count and similar length, at most BATCH at a time."""
    out = []
    for places in data.grouped(examples):
        ordered = sorted(places, key=lambda place: (examples[place].num_waypoints, len(examples[place].prompt)))
        out += [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
    return progress(out, total=len(out), unit="answer group") if progress else iter(out)
