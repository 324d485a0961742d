"""Which stretches of a clip become motion rows: 10 s chunks and second-level windows (paper supplementary D.1).

A chunk-level window is the part of a chunk that the clip's instructions cover, under all of their texts; second-level
windows cut each single instruction into pieces of `window_s`, which in training clips may overlap (`window_stride_s`).
Times are seconds of the clip, one hand a window.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ops.config import Hand3DActionConfig
from ops.hand3d.language import sentence
from ops.rejects import Reason, Reject
from ops.sources.base import SIDES, Clip, Instruction

# ASSUMED: two waypoints seen and two to predict are the least that makes a motion, and half a second-level window the
# least that still shows what a text says (a chunk's end may cut an instruction anywhere).
MIN_WAYPOINTS = 4
MIN_SHARE_OF_WINDOW = 0.5


@dataclass(frozen=True)
class Window:
    """num waypoints of one hand at start_s + i / hz. level: "chunk" or "second"; index: its place among its level."""

    clip_id: str
    side: str
    chunk: int
    level: str
    index: int
    start_s: float
    hz: float
    num: int
    text: str


def plan(clip: Clip, config: Hand3DActionConfig) -> tuple[list[Window], list[Reject]]:
    """Windows of one clip, and rejects for chunks without instruction and stretches too short to be a motion.

    Raises ValueError for a stride that is not positive.
    """
    stride_s = stride(clip, config)
    windows: list[Window] = []
    rejected: list[Reject] = []
    duration_s = float(clip.times_s[-1])  # a hand is not known after the last frame
    for chunk in range(int(np.ceil(duration_s / config.chunk_s - 1e-9))):
        chunk_start_s, chunk_end_s = chunk * config.chunk_s, min((chunk + 1) * config.chunk_s, duration_s)
        for side in SIDES:
            inside = [
                i for i in clip.instructions if i.side in (None, side) and _overlap_s(i, chunk_start_s, chunk_end_s) > 0
            ]
            if not inside:
                frame = int(np.searchsorted(clip.times_s, chunk_start_s))
                rejected.append(
                    Reject(clip.clip_id, Reason.NO_INSTRUCTION, frame, side, f"chunk {chunk}: no text for this hand")
                )
                continue
            for level, index, start_s, end_s, text in _spans(
                inside, chunk_start_s, chunk_end_s, config.window_s, stride_s
            ):
                hz = min(config.waypoint_hz, config.max_waypoints / (end_s - start_s))
                num = int((end_s - start_s) * hz + 1e-6)
                window = Window(clip.clip_id, side, chunk, level, index, start_s, hz, num, text)
                long_enough = end_s - start_s >= MIN_SHARE_OF_WINDOW * config.window_s - 1e-9
                if num >= MIN_WAYPOINTS and long_enough:
                    windows.append(window)
                else:
                    rejected.append(_too_short(clip, window))
    return windows, rejected


def stride(clip: Clip, config: Hand3DActionConfig) -> float:
    """Seconds between the starts of second-level windows; held-out clips are cut side by side."""
    if config.window_stride_s is None or clip.split != "train":
        return config.window_s
    if config.window_stride_s <= 0:
        raise ValueError(f"hand3d_action.window_stride_s {config.window_stride_s}: give more than 0, or null")
    return config.window_stride_s


def _overlap_s(instruction: Instruction, start_s: float, end_s: float) -> float:
    return min(instruction.end_s, end_s) - max(instruction.start_s, start_s)


def _spans(
    inside: list[Instruction], start_s: float, end_s: float, window_s: float, stride_s: float
) -> Iterator[tuple[str, int, float, float, str]]:
    """(level, index, start_s, end_s, text) within one chunk."""
    ordered = sorted(inside, key=lambda i: (i.start_s, i.end_s, i.text))
    texts = list(dict.fromkeys(sentence(i.text) for i in ordered))
    whole = max(start_s, ordered[0].start_s), min(end_s, max(i.end_s for i in ordered))
    yield ("chunk", 0, *whole, ", then ".join(texts))
    index = 0
    for instruction in ordered:
        first_s, last_s = max(start_s, instruction.start_s), min(end_s, instruction.end_s)
        length_s = min(window_s, last_s - first_s)
        for piece in range(1 + max(0, int((last_s - first_s - window_s) / stride_s + 1e-9))):
            span = first_s + piece * stride_s, first_s + piece * stride_s + length_s
            if not np.allclose(span, whole):  # the chunk-level row already has this very motion and text
                yield ("second", index, *span, sentence(instruction.text))
                index += 1


def _too_short(clip: Clip, window: Window) -> Reject:
    frame = int(np.searchsorted(clip.times_s, window.start_s))
    length = f"{window.num} waypoints in {window.num / window.hz:.1f} s"
    detail = f"chunk {window.chunk}, {window.level} {window.index}: {length}"
    return Reject(clip.clip_id, Reason.CHUNK_TOO_SHORT, min(frame, clip.num_frames - 1), window.side, detail)
