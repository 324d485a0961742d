"""Which stretches of clips become motion rows: 10 s chunks and second-level windows (paper supplementary D.1).

A chunk-level window is the part of a chunk that the clip's instructions cover, under all of their texts; second-level
windows cut each single instruction into pieces of `window_s`, which in training clips may overlap (`window_stride_s`).
Times are seconds of the clip, one hand a window, or both at once where a text is for both (`both_hands`). All clips of a
batch are planned together, as columns.
"""

import numpy as np
import polars as pl
from jaxtyping import Float

from ops.config import Hand3DActionConfig
from ops.hand3d.language import sentence
from ops.rejects import Reason
from ops.tables import BOTH, SIDES

# ASSUMED: two waypoints seen and two to predict are the least that makes a motion, and half a second-level window the
# least that still shows what a text says (a chunk's end may cut an instruction anywhere).
MIN_WAYPOINTS = 4
MIN_SHARE_OF_WINDOW = 0.5

INSTRUCTION = {"clip": pl.Int64, "start_s": pl.Float64, "end_s": pl.Float64, "side": pl.String, "text": pl.String}
# num waypoints of one hand (of each, for both) at start_s + i / hz; clip: place in the batch; index: place in its level
WINDOW = {
    "clip": pl.Int64, "side": pl.String, "chunk": pl.Int64, "level": pl.String, "index": pl.Int64, "start_s": pl.Float64,
    "hz": pl.Float64, "num": pl.Int64, "text": pl.String,
}  # fmt: skip
LEFT_OUT = {"clip": pl.Int64, "reason": pl.String, "time_s": pl.Float64, "side": pl.String, "detail": pl.String}
_GROUP = ["clip", "chunk", "side"]
_HAND_ORDER = [*SIDES, BOTH]


def plan(
    duration_s: Float[np.ndarray, " clips"], stride_s: Float[np.ndarray, " clips"], instructions: pl.DataFrame,
    config: Hand3DActionConfig,
) -> tuple[pl.DataFrame, pl.DataFrame]:  # fmt: skip
    """Windows of a batch of clips, and what was left out: chunks without a text, and stretches too short to be a motion.

    duration_s: time of the last frame, after which no hand is known. stride_s: see `strides`. instructions: INSTRUCTION.
    """
    pieces = _pieces(duration_s, instructions, config)
    chunks = _chunks(pieces)
    seconds = _seconds(pieces, chunks, stride_s, config.window_s)
    planned = pl.concat([chunks.select(_SPAN), seconds.select(_SPAN)]).sort(
        "clip", "chunk", pl.col("side").replace_strict(_HAND_ORDER, [0, 1, 2]), "level", "index"
    )
    length_s = pl.col("end_s") - pl.col("start_s")
    planned = planned.with_columns(hz=pl.min_horizontal(config.waypoint_hz, config.max_waypoints / length_s))
    planned = planned.with_columns(num=(length_s * pl.col("hz") + 1e-6).floor().cast(pl.Int64))
    long_enough = length_s >= MIN_SHARE_OF_WINDOW * config.window_s - 1e-9
    kept = (pl.col("num") >= MIN_WAYPOINTS) & long_enough
    return planned.filter(kept).select(WINDOW.keys()).cast(WINDOW), pl.concat(
        [_no_text(duration_s, pieces, config.chunk_s), _too_short(planned.filter(~kept))]
    )


_SPAN = ["clip", "chunk", "side", "level", "index", "start_s", "end_s", "text"]


def strides(split: pl.Series, config: Hand3DActionConfig) -> Float[np.ndarray, " clips"]:
    """Seconds between the starts of second-level windows; held-out clips are cut side by side.

    Raises ValueError for a stride that is not positive.
    """
    stride_s = config.window_s if config.window_stride_s is None else config.window_stride_s
    if stride_s <= 0:
        raise ValueError(f"hand3d_action.window_stride_s {stride_s}: give more than 0, or null")
    return np.where((split == "train").to_numpy(), stride_s, config.window_s)


def _pieces(duration_s: np.ndarray, instructions: pl.DataFrame, config: Hand3DActionConfig) -> pl.DataFrame:
    """The part of each instruction in each chunk, a row for every hand it is for, in order of time and text."""
    texts = instructions["text"].unique().to_list()
    known = instructions.with_columns(
        text=pl.col("text").replace_strict(texts, [sentence(t) for t in texts], return_dtype=pl.String),
        duration_s=pl.Series(duration_s).gather(instructions["clip"]),
        side=_hands(config.both_hands),
        order=pl.col("text").rank("dense"),
    ).explode("side")
    first = (pl.col("start_s") / config.chunk_s).floor().clip(0).cast(pl.Int64)
    last = (pl.min_horizontal("end_s", "duration_s") / config.chunk_s).ceil().cast(pl.Int64)
    cut = known.with_columns(chunk=pl.int_ranges(first, last)).explode("chunk").drop_nulls("chunk")
    cut = cut.filter(pl.col("chunk") < num_chunks(pl.col("duration_s"), config.chunk_s))
    begin = (pl.col("chunk") * config.chunk_s).cast(pl.Float64)
    cut = cut.with_columns(
        from_s=pl.max_horizontal(begin, "start_s"),
        chunk_end_s=pl.min_horizontal((pl.col("chunk") + 1) * config.chunk_s, "duration_s"),
    )
    cut = cut.with_columns(to_s=pl.min_horizontal("chunk_end_s", "end_s")).filter(pl.col("to_s") > pl.col("from_s"))
    return cut.sort(*_GROUP, "start_s", "end_s", "order", maintain_order=True)


def num_chunks(duration_s: pl.Expr, chunk_s: float) -> pl.Expr:
    return (duration_s / chunk_s - 1e-9).ceil().cast(pl.Int64)


def _hands(both: bool) -> pl.Expr:
    """Hands that a text is for; none named: each, and both together where that is wanted."""
    each = pl.lit(pl.Series([_HAND_ORDER if both else SIDES], dtype=pl.List(pl.String)))
    return pl.when(pl.col("side").is_null()).then(each).otherwise(pl.concat_list("side"))


def _chunks(pieces: pl.DataFrame) -> pl.DataFrame:
    """Chunk-level spans: all that a hand is told in a chunk."""
    grouped = pieces.group_by(_GROUP, maintain_order=True)
    spans = grouped.agg(
        start_s=pl.col("from_s").first(), end_s=pl.col("to_s").max(), num=pl.len(), text=pl.col("text").first()
    )
    several = pieces.join(spans.filter(pl.col("num") > 1).select(_GROUP), on=_GROUP, how="semi", maintain_order="left")
    joined = several.group_by(_GROUP, maintain_order=True).agg(
        all=pl.col("text").unique(maintain_order=True).str.join(", then ")
    )
    spans = spans.join(joined, on=_GROUP, how="left", maintain_order="left")
    return spans.with_columns(text=pl.coalesce("all", "text"), level=pl.lit("chunk"), index=pl.lit(0, dtype=pl.Int64))


def _seconds(pieces: pl.DataFrame, chunks: pl.DataFrame, stride_s: np.ndarray, window_s: float) -> pl.DataFrame:
    """Second-level spans, but for those that are the chunk-level one again."""
    length_s = pl.col("to_s") - pl.col("from_s")
    cut = pieces.with_columns(stride_s=pl.Series(stride_s).gather(pieces["clip"]))
    more = ((length_s - window_s) / pl.col("stride_s") + 1e-9).floor().clip(0).cast(pl.Int64)
    cut = cut.with_columns(piece=pl.int_ranges(0, 1 + more), length_s=pl.min_horizontal(pl.lit(window_s), length_s))
    cut = cut.explode("piece").with_columns(start_s=pl.col("from_s") + pl.col("piece") * pl.col("stride_s"))
    cut = cut.with_columns(end_s=pl.col("start_s") + pl.col("length_s"))
    whole = chunks.select(*_GROUP, whole_start_s="start_s", whole_end_s="end_s")
    cut = cut.join(whole, on=_GROUP, maintain_order="left")
    same = _close("start_s", "whole_start_s") & _close("end_s", "whole_end_s")
    cut = cut.filter(~same)
    return cut.with_columns(level=pl.lit("second"), index=pl.int_range(pl.len()).over(_GROUP))


def _close(a: str, b: str) -> pl.Expr:
    return (pl.col(a) - pl.col(b)).abs() <= 1e-8 + 1e-5 * pl.col(b).abs()


def _no_text(duration_s: np.ndarray, pieces: pl.DataFrame, chunk_s: float) -> pl.DataFrame:
    clips = pl.DataFrame({"clip": np.arange(len(duration_s)), "duration_s": duration_s})
    chunks = clips.with_columns(chunk=pl.int_ranges(0, num_chunks(pl.col("duration_s"), chunk_s)), side=SIDES)
    chunks = chunks.explode("chunk").drop_nulls("chunk").explode("side")
    silent = chunks.join(pieces.select(_GROUP), on=_GROUP, how="anti", maintain_order="left")
    detail = pl.format("chunk {}: no text for this hand", "chunk")
    return silent.select(
        "clip", reason=pl.lit(str(Reason.NO_INSTRUCTION)), time_s=(pl.col("chunk") * chunk_s).cast(pl.Float64), side="side", detail=detail
    ).cast(LEFT_OUT)  # fmt: skip


def _too_short(spans: pl.DataFrame) -> pl.DataFrame:
    seconds = (pl.col("num") / pl.col("hz")).round(1)
    detail = pl.format("chunk {}, {} {}: {} waypoints in {} s", "chunk", "level", "index", "num", seconds)
    return spans.select(
        "clip", reason=pl.lit(str(Reason.CHUNK_TOO_SHORT)), time_s="start_s", side="side", detail=detail
    ).cast(LEFT_OUT)  # fmt: skip
