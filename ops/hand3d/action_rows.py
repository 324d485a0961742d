"""Planned windows -> rows of the action_rows table, as columns (paper 3.2.1, suppl. C and D.1).

Waypoints are in the camera frame of the row's conditioning image `frame`, metres, at waypoint_hz; of one hand, or of both
in turns (left first). Three tasks a window: instructional motion generation (text -> motion, image at its start),
contextual motion prediction (text and the first half -> the rest, image where the first half ends), motion translation
(motion -> text).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from ops import tables
from ops.config import Hand3DActionConfig
from ops.hand3d import directions, language, motions, recordings, trajectories, windows
from ops.hand3d.facts import REJECT
from ops.hand3d.motions import Paths, Views
from ops.hand3d.recordings import Recordings
from ops.hand3d.stable import choose, stable_hash
from ops.rejects import Reason
from ops.tables import BOTH

GENERATION, PREDICTION, TRANSLATION = tables.ACTION_TASKS
COLUMNS = list(tables.SCHEMAS["action_rows"].columns)


@dataclass(frozen=True, eq=False)
class Built:
    """rows: of the action_rows table, in order of row id. rejected: of the rejects table. lengths_m: path lengths of all
    windows whose hand was seen throughout: what the displacement filter chooses from."""

    rows: pl.DataFrame
    rejected: pl.DataFrame
    lengths_m: Float[np.ndarray, " windows"]


def build(known: Recordings, planned: pl.DataFrame, fits: pl.DataFrame, config: Hand3DActionConfig) -> Built:
    """Rows of planned windows: from arrays to a table. planned: windows.WINDOW; fits: clip_id, frame, side, tau."""
    seen = recordings.sightings(known, fits)
    found = motions.paths(seen, planned, config.max_gap_s, config.min_displacement_m)
    rejected = [named(known, part) for part in _unseen_or_still(planned, found, config.min_displacement_m)]
    parts = []
    for image, tasks in (("start", (GENERATION, TRANSLATION)), ("half", (PREDICTION,))):
        frame = _image_frames(known, planned, image)
        seen_from = motions.views(known, found, known.first[planned["clip"].to_numpy()] + frame)
        for task in tasks:
            rows, left_out = _task_rows(known, planned, frame, found, seen_from, task, config)
            parts.append(rows)
            rejected += left_out
    return Built(pl.concat(parts).sort("row_id"), pl.concat(rejected), found.length_m[found.num_gaps == 0])


def _image_frames(known: Recordings, planned: pl.DataFrame, image: str) -> np.ndarray:
    """Conditioning frame of each window: on screen at its start, or at the last waypoint of its first half."""
    steps = 0 if image == "start" else planned["num"].to_numpy() // 2 - 1
    times_s = planned["start_s"].to_numpy() + steps / planned["hz"].to_numpy()
    return trajectories.frames_at(known, planned["clip"].to_numpy(), times_s)


def _task_rows(
    known: Recordings, planned: pl.DataFrame, frame: np.ndarray, found: Paths, seen: Views, task: str, config: Hand3DActionConfig
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:  # fmt: skip
    """Rows of one task, and what was left out. ASSUMED: every window gives a row of each task (but for the shares in
    params.yaml), and prediction has seen the first half."""
    nums = np.diff(seen.offsets)
    about = _about(known, planned[seen.windows], task, frame[seen.windows], found.length_m[seen.windows])
    too_far = seen.num_clipped > config.max_clipped_share * nums
    wanted = _wanted(about["row_id"], task, config)
    rejected = [
        _left_out(about, too_far, Reason.OUTSIDE_TOKEN_RANGE, _range_detail(seen.num_clipped, nums)),
        _left_out(about, ~too_far & ~wanted, Reason.SAMPLED_OUT, pl.format("more motions than hand3d_action.*_share asks for: {}", "row_id")),
    ]  # fmt: skip
    kept = ~too_far & wanted
    about, seen = about.filter(pl.Series(kept)), motions.select(seen, kept)
    hands = about["_hands"].to_numpy()
    nums = np.diff(seen.offsets)
    head = {GENERATION: 0 * nums, PREDICTION: nums // hands // 2 * hands, TRANSLATION: nums}[task]
    context, target = motions.split_lists(seen.tokens, seen.offsets, head)
    table = about.with_columns(
        num_clipped=pl.Series(seen.num_clipped, dtype=pl.Int32),
        waypoints=motions.ragged(seen.waypoints, seen.offsets),
        context_tokens=context,
        target_tokens=target,
        target_text=pl.col("instruction") if task == TRANSLATION else pl.lit(None, dtype=pl.String),
    )
    return table.with_columns(prompt=_prompts(table, task, config.seed)).select(COLUMNS), rejected


def _about(
    known: Recordings, planned: pl.DataFrame, task: str, frame: np.ndarray, length_m: np.ndarray
) -> pl.DataFrame:
    """Columns of rows that need no waypoint."""
    table = known.about[planned["clip"]].hstack(planned.drop("clip"))
    parts = ["clip_id", pl.lit(task), "chunk", "level", "index", "side"]
    return table.with_columns(
        task=pl.lit(task),
        row_id=pl.concat_str(parts, separator=":"),
        chunk=pl.col("chunk").cast(pl.Int32),
        frame=pl.Series(frame, dtype=pl.Int32),
        instruction="text",
        waypoint_hz=pl.col("hz").cast(pl.Float32),
        displacement_m=pl.Series(length_m.astype(np.float32)),
        _hands=pl.when(pl.col("side") == BOTH).then(2).otherwise(1),
    )


def _wanted(row_id: pl.Series, task: str, config: Hand3DActionConfig) -> np.ndarray:
    """Whether a row is among the share of motions that its task gets, by a hash of its id."""
    share = {PREDICTION: config.prediction_share, TRANSLATION: config.translation_share}.get(task, 1.0)
    if not 0 <= share <= 1:
        raise ValueError(f"hand3d_action: a share of motions is {share}; give 0 to 1")
    if share == 1:
        return np.ones(len(row_id), bool)
    return stable_hash(row_id, config.seed, "share") < np.uint64(int(share * 2**53) << 11)


def _prompts(table: pl.DataFrame, task: str, seed: int) -> pl.Series:
    """Prompt of each row. It asks for, or shows, `steps` waypoints a hand."""
    shown = "context_tokens" if task == TRANSLATION else "target_tokens"
    steps = table[shown].list.len().to_numpy() // 3 // table["_hands"].to_numpy()
    tenths = np.rint(steps / table["waypoint_hz"].to_numpy().astype(np.float64) * 10).astype(np.int64)
    fields = table.select(
        task="instruction",
        hand=pl.when(pl.col("side") == BOTH).then(pl.lit("two hands")).otherwise(pl.col("side") + " hand"),
        steps=pl.Series(steps).cast(pl.String),
        seconds=pl.Series(tenths // 10).cast(pl.String) + "." + pl.Series(tenths % 10).cast(pl.String),
    )
    templates = language.PROMPTS[task]
    return language.fill(templates, choose(table["row_id"], len(templates), seed, "prompt"), fields)


def _unseen_or_still(planned: pl.DataFrame, found: Paths, min_length_m: float) -> list[pl.DataFrame]:
    hands = pl.when(pl.col("side") == BOTH).then(2).otherwise(1)
    table = planned.with_columns(
        _gaps=pl.Series(found.num_gaps), _length=directions.decimals(found.length_m, 3), _all=pl.col("num") * hands
    )
    gap = found.num_gaps > 0
    return [
        _window_reject(table.filter(gap), Reason.HAND_GAP, pl.format("{} of {} waypoints unseen", "_gaps", "_all")),
        _window_reject(table.filter(~gap & (found.length_m < min_length_m)), Reason.INSIGNIFICANT_MOTION, pl.format("path of {} m", "_length")),
    ]  # fmt: skip


def _window_reject(table: pl.DataFrame, reason: Reason, detail: pl.Expr) -> pl.DataFrame:
    where = pl.format("chunk {}, {} {}: {}", "chunk", "level", "index", detail)
    chosen = table.select("clip", reason=pl.lit(str(reason)), time_s="start_s", side="side", detail=where)
    return chosen.cast(windows.LEFT_OUT)


def _range_detail(num_clipped: np.ndarray, nums: np.ndarray) -> pl.Expr:
    counted = pl.format(
        "{} of {} waypoints outside the token range", pl.lit(pl.Series(num_clipped)), pl.lit(pl.Series(nums))
    )
    return pl.format("{}, chunk {}, {} {}: {}", "task", "chunk", "level", "index", counted)


def _left_out(about: pl.DataFrame, which: np.ndarray, reason: Reason, detail: pl.Expr) -> pl.DataFrame:
    table = about.with_columns(_detail=detail).filter(pl.Series(which))
    return table.select(item="clip_id", reason=pl.lit(str(reason)), frame="frame", side="side", detail="_detail").cast(
        REJECT
    )


def named(known: Recordings, left_out: pl.DataFrame) -> pl.DataFrame:
    """Rejects by place and time -> by clip id and the frame on screen then."""
    clip = left_out["clip"].to_numpy()
    frame = trajectories.frames_at(known, clip, left_out["time_s"].to_numpy())
    named = left_out.with_columns(item=known.about["clip_id"].gather(clip), frame=pl.Series(frame, dtype=pl.Int32))
    return named.select(REJECT.keys()).cast(REJECT)
