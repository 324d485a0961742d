"""Stage hand3d_action: text and wrist motion of 10 s chunks and second-level windows (paper 3.2.1, suppl. C and D.1).

One hand a row. Waypoints are in the camera frame of the row's conditioning image `frame`, metres, at waypoint_hz.
Three tasks a window: instructional motion generation (text -> motion, image at its start), contextual motion
prediction (text and the first half -> the rest, image where the first half ends), motion translation (motion -> text).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Float

from ops import tables
from ops.config import Hand3DActionConfig
from ops.geometry import transforms
from ops.hand3d import language, motion_tokens, pictures, trajectories, windows
from ops.hand3d.camera_poses import PosesOf, camera_poses
from ops.hand3d.stable import choose
from ops.hand3d.windows import Window
from ops.pipeline import StageContext
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import SIDES, Clip
from ops.sources.manifest import read_clips
from ops.store import Report, write_rejects

GENERATION, PREDICTION, TRANSLATION = tables.ACTION_TASKS
COLUMNS = list(tables.SCHEMAS["action_rows"].columns)


@dataclass(frozen=True, eq=False)
class Motion:
    """One window's waypoints in the camera frame of `frame`, for one task. num_context: waypoints already seen."""

    window: Window
    task: str
    frame: int
    waypoints_cam: Float[np.ndarray, "n 3"]
    num_context: int
    displacement_m: float


def run(context: StageContext) -> Report:
    """Write action_rows (both splits) and rejects of one shard."""
    config = context.config.hand3d_action
    clips = list(read_clips(context.input("raw_videos"), context.root))
    fits = tables.read("mano_fits", context.input("mano_fits") / "mano_fits.parquet")
    motions, rejected = collect(context.progress(clips, unit="clip"), fits, config)
    rows, out_of_range = to_rows(motions, {clip.clip_id: clip for clip in clips}, config)
    rejected += out_of_range
    tables.write("action_rows", rows, context.out / "action_rows.parquet")
    report = Report(rows={"action_rows": len(rows)}, metrics=metrics(rows, rejected))
    write_rejects(context.out, rejected, report)
    report.tables = {"rows by task": by_task(rows), "examples": _examples(rows)}
    report.notes = [
        f"Motions with a path under {config.min_displacement_m} m are left out as insignificant (ASSUMED threshold).",
        "Instructions are the source's own labels; a clip without them gives no row.",
    ]
    if len(rows):
        shown = rows.filter(task=GENERATION).sort("displacement_m", "row_id", descending=[True, False]).head(6)
        paths = [np.array(points).reshape(-1, 3) for points in shown["waypoints"].to_list()]
        pictures.trajectories(paths, shown["instruction"].to_list(), context.out / "trajectories.png")
        pictures.motion_lengths(rows, config.min_displacement_m, context.out / "displacements.png")
        report.pictures = {"wrist trajectories": "trajectories.png", "displacements": "displacements.png"}
    return report


def collect(
    clips: Iterable[Clip], fits: pl.DataFrame, config: Hand3DActionConfig, poses_of: PosesOf = camera_poses
) -> tuple[list[Motion], list[Reject]]:
    """Motions of all clips, in clip order, and what was left out."""
    by_clip = fits.select("clip_id", "frame", "side", "tau").partition_by("clip_id", as_dict=True)
    motions: list[Motion] = []
    rejected: list[Reject] = []
    for clip in clips:
        made, left_out = clip_motions(clip, by_clip.get((clip.clip_id,)), config, poses_of)
        motions += made
        rejected += left_out
    return motions, rejected


def clip_motions(
    clip: Clip, fits: pl.DataFrame | None, config: Hand3DActionConfig, poses_of: PosesOf = camera_poses
) -> tuple[list[Motion], list[Reject]]:
    """Motions of one clip. fits: its rows of mano_fits, None for a clip without a hand."""
    if fits is None:
        return [], [Reject(clip.clip_id, Reason.NO_HAND_DETECTED, detail="no hand was fitted in any frame")]
    planned, rejected = windows.plan(clip, config)
    try:
        poses = poses_of(clip) if planned else None
    except ClipError as error:
        return [], [*rejected, Reject(clip.clip_id, error.reason, error.frame, error.side, error.detail)]
    if poses is None:
        detail = "waypoints need the camera's pose in every frame, or a camera that stands still"
        return [], rejected + [Reject(clip.clip_id, Reason.NO_CAMERA_POSE, detail=detail)] * bool(planned)
    motions: list[Motion] = []
    for side in SIDES:
        chosen = [window for window in planned if window.side == side]
        if chosen:
            seen = trajectories.track(clip, poses, fits, side)
            made, left_out = _side_motions(clip, poses, seen, chosen, config)
            motions += made
            rejected += left_out
    return motions, rejected


def _side_motions(
    clip: Clip, poses: np.ndarray, seen: trajectories.Track, chosen: list[Window], config: Hand3DActionConfig
) -> tuple[list[Motion], list[Reject]]:
    times_s = np.concatenate([w.start_s + np.arange(w.num) / w.hz for w in chosen])
    offsets = np.concatenate([[0], np.cumsum([w.num for w in chosen])])
    world, supported = trajectories.resample(seen, times_s, config.max_gap_s)
    num_gaps = np.add.reduceat(~supported, offsets[:-1])
    lengths_m = trajectories.path_length_m(np.nan_to_num(world), offsets)
    motions: list[Motion] = []
    rejected: list[Reject] = []
    for i, window in enumerate(chosen):
        where = f"chunk {window.chunk}, {window.level} {window.index}"
        frame = trajectories.frame_at(clip, window.start_s)
        if num_gaps[i]:
            rejected.append(
                Reject(
                    clip.clip_id,
                    Reason.HAND_GAP,
                    frame,
                    window.side,
                    f"{where}: {num_gaps[i]} of {window.num} waypoints unseen",
                )
            )
        elif lengths_m[i] < config.min_displacement_m:
            rejected.append(
                Reject(
                    clip.clip_id,
                    Reason.INSIGNIFICANT_MOTION,
                    frame,
                    window.side,
                    f"{where}: path of {lengths_m[i]:.3f} m",
                )
            )
        else:
            motions += _three_tasks(clip, poses, window, world[offsets[i] : offsets[i + 1]], float(lengths_m[i]))
    return motions, rejected


def _three_tasks(clip: Clip, poses: np.ndarray, window: Window, world: np.ndarray, length_m: float) -> list[Motion]:
    """ASSUMED: every window gives one row of each task; prediction has seen the first half."""
    half = window.num // 2
    motions = []
    for task, num_context, image_at in ((GENERATION, 0, 0), (PREDICTION, half, half - 1), (TRANSLATION, window.num, 0)):
        frame = trajectories.frame_at(clip, window.start_s + image_at / window.hz)
        motions.append(Motion(window, task, frame, transforms.apply(poses[frame], world), num_context, length_m))
    return motions


def to_rows(
    motions: list[Motion], clips: dict[str, Clip], config: Hand3DActionConfig
) -> tuple[pl.DataFrame, list[Reject]]:
    """Motions -> rows of the action_rows table in order of row id; rejects for motions that leave the token range."""
    if not motions:
        return tables.frame("action_rows", []), []
    nums = np.array([len(motion.waypoints_cam) for motion in motions])
    offsets = np.concatenate([[0], np.cumsum(nums)])
    waypoints = np.concatenate([motion.waypoints_cam for motion in motions])
    outside = motion_tokens.clipped(waypoints)
    num_clipped = np.add.reduceat(outside.astype(np.int64), offsets[:-1])
    tokens, _ = motion_tokens.encode(waypoints)
    table = _facts(motions, clips).with_columns(
        num_clipped=pl.Series(num_clipped, dtype=pl.Int32),
        waypoints=ragged(waypoints.astype(np.float32), offsets),
        _tokens=ragged(tokens, offsets),
    )
    too_far = num_clipped > config.max_clipped_share * nums
    rejected = [_out_of_range(motions[i], int(num_clipped[i])) for i in np.flatnonzero(too_far)]
    return _with_texts(table.filter(pl.Series(~too_far)), config.seed).sort("row_id"), rejected


def _facts(motions: list[Motion], clips: dict[str, Clip]) -> pl.DataFrame:
    schema = {
        "row_id": pl.String, "clip_id": pl.String, "source": pl.String, "split": pl.String, "licence": pl.String, "noncommercial": pl.Boolean, "redistributable": pl.Boolean, "intrinsics": pl.String, "level": pl.String, "start_s": pl.Float64,
        "task": pl.String, "chunk": pl.Int32, "frame": pl.Int32, "side": pl.String, "instruction": pl.String,
        "waypoint_hz": pl.Float32, "displacement_m": pl.Float32, "_num": pl.Int64, "_context": pl.Int64,
    }  # fmt: skip
    rows = []
    for motion in motions:
        window, clip = motion.window, clips[motion.window.clip_id]
        row_id = f"{clip.clip_id}:{motion.task}:{window.chunk}:{window.level}:{window.index}:{window.side}"
        rows.append((
            row_id, clip.clip_id, clip.source, clip.split, clip.licence, clip.noncommercial, clip.redistributable, clip.intrinsics, window.level, window.start_s, motion.task, window.chunk, motion.frame, window.side,
            window.text, window.hz, motion.displacement_m, window.num, motion.num_context,
        ))  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def _with_texts(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Split the tokens into context and target, and write prompts and target texts."""
    split = 3 * pl.col("_context")
    table = table.with_columns(
        context_tokens=pl.col("_tokens").list.head(split),
        target_tokens=pl.col("_tokens").list.slice(split),
        target_text=pl.when(pl.col("task") == TRANSLATION).then("instruction"),
        _steps=pl.when(pl.col("task") == TRANSLATION).then("_num").otherwise(pl.col("_num") - pl.col("_context")),
    )
    tenths = (table["_steps"] / table["waypoint_hz"].cast(pl.Float64) * 10).round().cast(pl.Int64)
    fields = table.select(
        "task", task_text="instruction", hand=pl.col("side") + " hand", steps=pl.col("_steps").cast(pl.String),
        seconds=(tenths // 10).cast(pl.String) + "." + (tenths % 10).cast(pl.String),
    )  # fmt: skip
    prompts = []
    for task, templates in language.PROMPTS.items():
        mask = table["task"] == task
        if mask.any():
            part = fields.filter(mask).drop("task").rename({"task_text": "task"})
            text = language.fill(templates, choose(table["row_id"].filter(mask), len(templates), seed, "prompt"), part)
            prompts.append(pl.DataFrame({"row_id": table["row_id"].filter(mask), "prompt": text}))
    if not prompts:
        return tables.frame("action_rows", [])
    return table.join(pl.concat(prompts), on="row_id", maintain_order="left").select(COLUMNS)


def ragged(values: np.ndarray, offsets: np.ndarray) -> pl.Series:
    """(points, 3) rows of many motions, end to end -> one list of 3 n numbers a motion."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(3 * offsets.astype(np.int64)), flat)))


def _out_of_range(motion: Motion, num: int) -> Reject:
    window = motion.window
    detail = f"{motion.task}, chunk {window.chunk}, {window.level} {window.index}: {num} of {window.num} waypoints outside the token range"
    return Reject(window.clip_id, Reason.OUTSIDE_TOKEN_RANGE, motion.frame, window.side, detail)


def metrics(rows: pl.DataFrame, rejected: list[Reject]) -> dict[str, float]:
    """What the displacement filter and the token range did, and the shares of the tasks."""
    dropped = sum(reject.reason is Reason.INSIGNIFICANT_MOTION for reject in rejected)
    windows_kept = rows.filter(task=GENERATION).height
    found: dict[str, float] = {"windows_dropped_as_insignificant": float(dropped)}
    if windows_kept + dropped:
        found["share_dropped_as_insignificant"] = dropped / (windows_kept + dropped)
    if rows.is_empty():
        return found
    num_waypoints = rows["waypoints"].list.len().sum() / 3
    found |= {"share_waypoints_clipped": float(rows["num_clipped"].sum()) / num_waypoints}
    found |= {"mean_waypoints": num_waypoints / len(rows), "mean_displacement_m": float(rows["displacement_m"].mean())}
    return found | {f"share_{task}": float((rows["task"] == task).mean()) for task in tables.ACTION_TASKS}


def by_task(rows: pl.DataFrame) -> list[dict[str, object]]:
    """The paper's Table 2, of this shard."""
    counts = rows.group_by("source", "task", "split").agg(
        rows=pl.len(),
        clips=pl.col("clip_id").n_unique(),
        median_displacement_m=pl.col("displacement_m").median().cast(pl.Float64).round(3),
    )
    return counts.sort("source", "task", "split").to_dicts()


def _examples(rows: pl.DataFrame) -> list[dict[str, object]]:
    shown = rows.group_by("task", maintain_order=True).head(2)
    return shown.select(
        "task", "clip_id", "frame", "prompt", "target_text", context=pl.col("context_tokens").list.len(), target=pl.col("target_tokens").list.len()
    ).to_dicts()  # fmt: skip
