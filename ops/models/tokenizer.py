"""The Qwen3 tokenizer with InternVL's image tokens and the motion vocabulary.

`TokenLayout` is pure arithmetic: it says which id is what, so that a model can be built without the tokenizer's file.
At full size the ids are the public ones (<img> 151669, </img> 151670, <IMG_CONTEXT> 151671, ...). A tiny model keeps
only the first `num_merges` merges: those pieces keep their ids, everything added moves down behind them, and any text
can still be written, in more pieces. Motion tokens (paper 3.3): 1,024 bins, read x, y, z in turn between <mot> and
</mot>.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from tokenizers import Tokenizer

NUM_BINS = 1024
NUM_BYTES = 256
ALL_MERGES = 151_387

# The additions of Qwen3 and InternVL3.5, in the order of their public ids, which begin at 151643.
QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
    "<think>", "</think>",
)  # fmt: skip
INTERNVL_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
AXES = ("x", "y", "z")


@dataclass(frozen=True)
class TokenizerConfig:
    num_merges: int | None = None
    """Merges kept; null keeps all 151,387."""
    axis_vocab: str = "shared"
    """"shared": one set of 1,024 motion tokens, the axis is told by the place. "per_axis": 3,072 tokens.
    ASSUMED: shared; the paper names one index set for all axes."""


class TokenLayout:
    """Which id is which token; follows from the configuration alone."""

    def __init__(self, config: TokenizerConfig) -> None:
        if config.axis_vocab not in ("shared", "per_axis"):
            raise ValueError(f"axis_vocab {config.axis_vocab!r}: allowed are 'shared' and 'per_axis'")
        merges = ALL_MERGES if config.num_merges is None else config.num_merges
        if not 0 <= merges <= ALL_MERGES:
            raise ValueError(f"num_merges {merges}: allowed are 0 to {ALL_MERGES}, or null for all")
        self.num_pieces = NUM_BYTES + merges
        self.is_full = merges == ALL_MERGES
        shared = config.axis_vocab == "shared"
        self.num_sets = 1 if shared else 3
        stems = ("motion",) if shared else tuple(f"motion_{axis}" for axis in AXES)
        motion = tuple(f"<{stem}_{i}>" for stem in stems for i in range(NUM_BINS))
        self.added = (*QWEN_TOKENS, *INTERNVL_TOKENS, "<mot>", "</mot>", *motion)
        self._ids = {token: self.num_pieces + i for i, token in enumerate(self.added)}
        self.vocab_size = self.num_pieces + len(self.added)
        self.pad = self._ids["<|endoftext|>"]
        self.end_of_turn = self._ids["<|im_end|>"]
        self.image = self._ids["<IMG_CONTEXT>"]
        self.motion_open, self.motion_close = self._ids["<mot>"], self._ids["</mot>"]
        self.first_motion = self.motion_close + 1

    def id(self, token: str) -> int:
        return self._ids[token]

    def motion_range(self, axis: int) -> tuple[int, int]:
        """Ids [first, last) allowed for axis 0, 1, 2 = x, y, z."""
        first = self.first_motion + (axis % self.num_sets) * NUM_BINS
        return first, first + NUM_BINS

    def motion_ids(self, tokens: UInt16[np.ndarray, "n 3"] | Sequence[int]) -> list[int]:
        """Bins (n, 3), or the same flat, in x, y, z order -> ids with <mot> before and </mot> after.

        Raises ValueError for a bin outside 0..1023 or a number that is no multiple of 3.
        """
        bins = np.asarray(tokens, dtype=np.int64).reshape(-1)
        if len(bins) % 3 or (len(bins) and not (bins.min() >= 0 and bins.max() < NUM_BINS)):
            raise ValueError(
                f"{len(bins)} motion bins: expected a multiple of 3, each 0 to {NUM_BINS - 1}, got {bins[:6].tolist()}..."
            )
        starts = np.array([self.motion_range(axis)[0] for axis in range(3)])
        inner = (bins.reshape(-1, 3) + starts).reshape(-1)
        return [self.motion_open, *inner.tolist(), self.motion_close]

    def motion_tokens(self, ids: Iterable[int]) -> UInt16[np.ndarray, "n 3"]:
        """Bins of the first <mot> ... </mot> in generated ids; the inverse of `motion_ids`.

        Raises ValueError if there is no whole block of waypoints.
        """
        ids = [int(i) for i in ids]
        if self.motion_open not in ids:
            raise ValueError("no <mot> among the generated tokens")
        block = ids[ids.index(self.motion_open) + 1 :]
        if self.motion_close not in block:
            raise ValueError("<mot> is never closed: raise max_new_tokens to 3 a waypoint + 3")
        inner = np.array(block[: block.index(self.motion_close)], dtype=np.int64)
        if len(inner) % 3:
            raise ValueError(f"{len(inner)} tokens inside <mot>: not a multiple of 3")
        bins = inner.reshape(-1, 3) - np.array([self.motion_range(axis)[0] for axis in range(3)])
        if bins.size and not (bins.min() >= 0 and bins.max() < NUM_BINS):
            raise ValueError("a token inside <mot> is not one of its axis")
        return bins.astype(np.uint16)


@dataclass(frozen=True)
class VipaTokenizer:
    """Text <-> ids. Added tokens are recognised in text; `encode_plain` refuses them."""

    backend: Tokenizer
    layout: TokenLayout

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text from data, in which no control token may hide. Raises ValueError naming it."""
        ids = self.encode(text)
        hidden = [i for i in ids if i >= self.layout.num_pieces]
        if hidden:
            raise ValueError(
                f"text {text[:60]!r} holds the control token {self.backend.id_to_token(hidden[0])}: clean the row"
            )
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """`skip_special` leaves out chat, image and <mot> tokens; motion tokens are shown."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)


def load(folder: Path, num_merges: int | None = None, axis_vocab: str = "shared") -> VipaTokenizer:
    """Read `tokenizer.json` of Qwen3 or InternVL3.5 and bring it to the layout.

    Raises ValueError if the file is missing or not a Qwen3 tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"no Qwen3 tokenizer at {path}: run `hand3d bootstrap`")
    layout = TokenLayout(TokenizerConfig(num_merges, axis_vocab))
    data = json.loads(path.read_text(encoding="utf-8"))
    _check_is_qwen3(data, path)
    _keep_pieces(data["model"], layout.num_pieces)
    data["added_tokens"] = [_added(layout.num_pieces + i, token) for i, token in enumerate(layout.added)]
    backend = Tokenizer.from_str(json.dumps(data))
    for token in layout.added:
        assert backend.token_to_id(token) == layout.id(token), token
    return VipaTokenizer(backend, layout)


def _check_is_qwen3(data: dict, path: Path) -> None:
    model = data["model"]
    sizes = len(model["vocab"]), len(model["merges"])
    added = {entry["content"]: entry["id"] for entry in data["added_tokens"]}
    right = {token: NUM_BYTES + ALL_MERGES + i for i, token in enumerate((*QWEN_TOKENS, *INTERNVL_TOKENS))}
    wrong = [token for token, id_ in added.items() if right.get(token, id_) != id_]
    if sizes != (NUM_BYTES + ALL_MERGES, ALL_MERGES) or wrong:
        raise ValueError(
            f"{path} has {sizes[0]} pieces and {sizes[1]} merges, other ids for {wrong}: not Qwen3's tokenizer"
        )


def _keep_pieces(model: dict, num_pieces: int) -> None:
    """Keep the bytes and the first merges; merge i makes piece 256 + i, so ids do not change."""
    model["vocab"] = {piece: id_ for piece, id_ in model["vocab"].items() if id_ < num_pieces}
    model["merges"] = model["merges"][: num_pieces - NUM_BYTES]
    for i, (left, right) in enumerate(pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]):
        assert model["vocab"][left + right] == NUM_BYTES + i, (left, right)


def _added(id_: int, token: str) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": token, **flags, "special": not token.startswith("<motion_")}
