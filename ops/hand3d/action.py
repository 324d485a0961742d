"""Stage hand3d_action: text and wrist motion of 10 s chunks and second-level windows (paper 3.2.1, suppl. C and D.1).

Many clips are worked on at once, as columns (ops.hand3d.action_rows), and rows are written batch by batch, so that memory
stays bounded whatever the size of a shard. Here: batches of clips, what stops a clip, and what the report says.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl

from ops import tables
from ops.config import Hand3DActionConfig
from ops.hand3d import action_rows, pictures, recordings, windows
from ops.hand3d.action_rows import GENERATION, Built
from ops.hand3d.camera_poses import PosesOf, camera_poses
from ops.hand3d.facts import REJECT
from ops.hand3d.recordings import Recordings
from ops.hand3d.summary import by_task
from ops.pipeline import StageContext
from ops.rejects import ClipError, Reason
from ops.sources.base import Clip
from ops.sources.manifest import read_clips
from ops.store import Report, write_reject_table

BATCH_FRAMES = 500_000  # four hours and a half of video at 30 frames a second; about 0.5 GB at work
THRESHOLDS_M = (0.0, 0.02, 0.05, 0.1, 0.2)  # that the report says the effect of


def run(context: StageContext) -> Report:
    """Write action_rows (both splits) and rejects of one shard."""
    config = context.config.hand3d_action
    clips = list(read_clips(context.input("raw_videos"), context.root))
    fits = tables.read("mano_fits", context.input("mano_fits") / "mano_fits.parquet")
    with tables.writer("action_rows", context.out / "action_rows.parquet") as append:
        parts = [_written(made, append) for made in build_all(context.progress(clips, unit="clip"), fits, config)]
    rows = tables.read("action_rows", context.out / "action_rows.parquet")
    rejected = pl.concat([part.rejected for part in parts]) if parts else pl.DataFrame(schema=REJECT)
    lengths_m = np.concatenate([part.lengths_m for part in parts]) if parts else np.zeros(0)
    report = Report(rows={"action_rows": len(rows)}, metrics=metrics(rows, lengths_m, config))
    write_reject_table(context.out, rejected, report)
    report.tables = {
        "rows by task": by_task(rows, "displacement_m"),
        "displacement filter": filter_effect(lengths_m, config),
    }
    report.tables["examples"] = _examples(rows)
    report.notes = [
        f"Motions with a path under {config.min_displacement_m} m are left out as insignificant (ASSUMED threshold).",
        "Instructions are the source's own labels; a clip without them gives no row.",
    ]
    return _with_pictures(context, rows, report)


def _written(made: Built, append) -> Built:
    append(made.rows)
    return Built(made.rows.clear(), made.rejected, made.lengths_m)


def build_all(
    clips: Iterable[Clip], fits: pl.DataFrame, config: Hand3DActionConfig, poses_of: PosesOf = camera_poses
) -> Iterator[Built]:
    """Rows of clips, batch by batch in their order."""
    fits = fits.select("clip_id", "frame", "side", "tau")
    for batch in batches(clips):
        yield build(batch, fits, config, poses_of)


def batches(clips: Iterable[Clip], num_frames: int = BATCH_FRAMES) -> Iterator[list[Clip]]:
    """Consecutive clips of at least num_frames together (but for the last batch)."""
    batch, frames = [], 0
    for clip in clips:
        batch.append(clip)
        frames += clip.num_frames
        if frames >= num_frames:
            yield batch
            batch, frames = [], 0
    if batch:
        yield batch


def build(clips: list[Clip], fits: pl.DataFrame, config: Hand3DActionConfig, poses_of: PosesOf = camera_poses) -> Built:
    """Rows of a batch. fits: clip_id, frame, side, tau of the mano_fits table."""
    has_hand = set(fits["clip_id"].unique())
    rejected = [
        _of_clip(clip, Reason.NO_HAND_DETECTED, "no hand was fitted in any frame") for clip in clips if clip.clip_id not in has_hand
    ]  # fmt: skip
    clips = [clip for clip in clips if clip.clip_id in has_hand]
    if not clips:
        return Built(tables.frame("action_rows", []), _rejects(rejected), np.zeros(0))
    known = recordings.gather(clips)
    planned, left_out = plan(known, config)
    poses = {}
    for place in planned["clip"].unique().sort():
        try:
            poses[place] = poses_of(clips[place])
        except ClipError as error:
            rejected.append((clips[place].clip_id, str(error.reason), error.frame, error.side, error.detail))
            continue
        if poses[place] is None:
            detail = "waypoints need the camera's pose in every frame, or a camera that stands still"
            rejected.append(_of_clip(clips[place], Reason.NO_CAMERA_POSE, detail))
            del poses[place]
    planned = planned.filter(pl.col("clip").is_in(list(poses)))
    made = action_rows.build(recordings.with_poses(known, poses), planned, fits, config)
    return Built(
        made.rows, pl.concat([_rejects(rejected), action_rows.named(known, left_out), made.rejected]), made.lengths_m
    )


def _of_clip(clip: Clip, reason: Reason, detail: str) -> tuple:
    return clip.clip_id, str(reason), -1, "", detail


def _rejects(rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=REJECT, orient="row")


def plan(known: Recordings, config: Hand3DActionConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """windows.plan of a batch."""
    stride_s = windows.strides(known.about["split"], config)
    return windows.plan(known.duration_s, stride_s, known.instructions, config)


def filter_effect(lengths_m: np.ndarray, config: Hand3DActionConfig) -> list[dict[str, object]]:
    """What the displacement filter keeps at the threshold in force and at others (the paper keeps 1.03M of 4M)."""
    thresholds = sorted({*THRESHOLDS_M, config.min_displacement_m})
    return [
        {"threshold_m": t, "in_force": t == config.min_displacement_m, "windows": len(lengths_m),
         "kept": int((lengths_m >= t).sum()), "share": round(float((lengths_m >= t).mean()), 4) if len(lengths_m) else None}
        for t in thresholds
    ]  # fmt: skip


def metrics(rows: pl.DataFrame, lengths_m: np.ndarray, config: Hand3DActionConfig) -> dict[str, float]:
    """What the displacement filter and the token range did, and the shares of the tasks."""
    dropped = float((lengths_m < config.min_displacement_m).sum())
    found: dict[str, float] = {"windows_dropped_as_insignificant": dropped}
    if len(lengths_m):
        found["share_dropped_as_insignificant"] = dropped / len(lengths_m)
    if rows.is_empty():
        return found
    num_waypoints = rows["waypoints"].list.len().sum() / 3
    found |= {"share_waypoints_clipped": float(rows["num_clipped"].sum()) / num_waypoints}
    found |= {"mean_waypoints": num_waypoints / len(rows), "mean_displacement_m": float(rows["displacement_m"].mean())}
    return found | {f"share_{task}": float((rows["task"] == task).mean()) for task in tables.ACTION_TASKS}


def _with_pictures(context: StageContext, rows: pl.DataFrame, report: Report) -> Report:
    if rows.is_empty():
        return report
    shown = rows.filter(task=GENERATION).sort("displacement_m", "row_id", descending=[True, False]).head(6)
    paths = [np.array(points).reshape(-1, 3) for points in shown["waypoints"].to_list()]
    pictures.trajectories(paths, shown["instruction"].to_list(), context.out / "trajectories.png")
    pictures.motion_lengths(rows, context.config.hand3d_action.min_displacement_m, context.out / "displacements.png")
    report.pictures = {"wrist trajectories": "trajectories.png", "displacements": "displacements.png"}
    return report


def _examples(rows: pl.DataFrame) -> list[dict[str, object]]:
    shown = rows.group_by("task", maintain_order=True).head(2)
    return shown.select(
        "task", "clip_id", "frame", "prompt", "target_text", context=pl.col("context_tokens").list.len(), target=pl.col("target_tokens").list.len()
    ).to_dicts()  # fmt: skip
