"""Pixels and prompts: what the two encoders and the language model are fed.

Frames are squashed to a square (paper 4.1: 448 x 448), one tile. A prompt is Qwen's ChatML as InternVL3.5 writes it:
an optional system turn, then per frame <img>, N times <IMG_CONTEXT>, </img> and a line break, then the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from ops.models.tokenizer import VipaTokenizer

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IGNORE = -100
MAX_WORDS = 48  # tokens of an answer in words; the longest template takes about 40 in the tiny vocabulary
INTERNVL_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


def semantic_pixels(images: UInt8[Tensor, "*batch h w 3"], size: int) -> Float[Tensor, "*batch 3 size size"]:
    """Bicubic with antialiasing, rounded to bytes as PIL does, then ImageNet's mean and deviation."""
    lead = images.shape[:-3]
    x = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2)
    if x.shape[-2:] != (size, size):
        x = functional.interpolate(x.float(), (size, size), mode="bicubic", antialias=True).round().clamp(0, 255)
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((x / 255 - mean) / std).reshape(*lead, 3, size, size)


def spatial_pixels(semantic: Float[Tensor, "N 3 a a"], size: int) -> Float[Tensor, "N 3 size size"]:
    """InternViT's input to CUT3R's: undo ImageNet's statistics, scale to [-1, 1]; bilinear where the size differs."""
    mean, std = (torch.tensor(v, device=semantic.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    x = 2 * (semantic * std + mean) - 1
    if x.shape[-1] == size:
        return x
    return functional.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)


@dataclass(frozen=True)
class TokenBatch:
    """Rows of equal length T. attention_mask: 1 real, 0 padding; labels: id to predict, or -100."""

    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]

    def to(self, device: torch.device | str) -> "TokenBatch":
        return TokenBatch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def prompt_ids(
    tokenizer: VipaTokenizer,
    question: str,
    num_frames: int,
    tokens_per_frame: int,
    context: np.ndarray | Sequence[int] | None = None,
    system: str | None = None,
) -> list[int]:
    """Ids up to the point where the assistant answers.

    system: the system turn; None takes InternVL3.5's own with its full vocabulary, and no such turn with a small one,
        whose model never learned to expect it; "" leaves it out.
    context: motion bins the prompt shows after the question (contextual prediction, translation), or nothing.
    Raises ValueError if the question holds a control token.
    """
    frame = [tokenizer.layout.id("<img>"), *[tokenizer.layout.image] * tokens_per_frame, tokenizer.layout.id("</img>")]
    line = tokenizer.encode("\n")
    if system is None:
        system = INTERNVL_SYSTEM if tokenizer.layout.is_full else ""
    ids = tokenizer.encode(f"<|im_start|>system\n{system}<|im_end|>\n") if system else []
    ids += tokenizer.encode("<|im_start|>user\n")
    for _ in range(num_frames):
        ids += [*frame, *line]
    ids += tokenizer.encode_plain(question)
    if context is not None and len(context):
        ids += tokenizer.layout.motion_ids(context)
    return ids + tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")


def answer_ids(
    tokenizer: VipaTokenizer, text: str | None = None, motion: np.ndarray | Sequence[int] | None = None
) -> list[int]:
    """Ids the assistant answers: a text or motion bins, then the end of its turn. Exactly one of the two."""
    if (text is None) == (motion is None):
        raise ValueError("an answer is either a text or motion bins")
    body = tokenizer.encode_plain(text) if text is not None else tokenizer.layout.motion_ids(motion)
    return [*body, tokenizer.layout.end_of_turn]


def training_batch(prompts: Sequence[list[int]], answers: Sequence[list[int]], pad: int) -> TokenBatch:
    """Prompt and answer in a row, padded on the right; only answers are labels."""
    rows = [p + a for p, a in zip(prompts, answers, strict=True)]
    labels = [[IGNORE] * len(p) + a for p, a in zip(prompts, answers, strict=True)]
    longest = max(map(len, rows))
    return TokenBatch(
        torch.tensor([row + [pad] * (longest - len(row)) for row in rows]),
        torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        torch.tensor([label + [IGNORE] * (longest - len(label)) for label in labels]),
    )


def prompt_batch(prompts: Sequence[list[int]], pad: int) -> TokenBatch:
    """Prompts padded on the left, for `generate` and `action_condition`; no labels."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    return TokenBatch(ids, mask, torch.full_like(ids, IGNORE))
