"""Stage hand3d_test: question-answer rows from videos that are in no training split (paper 4.4: 2K pairs).

Drawn from all shards' held-out rows, in proportion to task and source, even over clips. The stage refuses to finish if a video is on
both sides, by its name or by its bytes.
"""

from pathlib import Path

import polars as pl

from ops import tables
from ops.hand3d import pictures, sampling
from ops.hand3d.summary import by_task
from ops.hand3d.visual import metrics
from ops.pipeline import StageContext
from ops.rejects import Reason, Reject
from ops.store import Report, write_rejects


def run(context: StageContext) -> Report:
    """Write visual_rows (the test set) and rejects."""
    config = context.config.hand3d_test
    visual = context.input("hand3d_visual")
    clips = tables.read("clips", context.input("raw_videos"))
    held_out = read_held_out(visual)
    check_unseen(tables.read("visual_rows", visual), held_out, clips)
    rows = sample(held_out, config.num_rows, config.seed)
    tables.write("visual_rows", rows, context.out / "visual_rows.parquet")
    report = Report(rows={"visual_rows": len(rows)}, metrics=metrics(rows))
    left_out = held_out.join(rows, on="row_id", how="anti", maintain_order="left")["row_id"]
    write_rejects(context.out, [Reject(item, Reason.SAMPLED_OUT) for item in left_out], report)
    report.tables = {"rows by task": by_task(rows, "distance_m")}
    report.notes = [f"{rows['clip_id'].n_unique()} held-out clips; none is in a training split, by name or by bytes."]
    if len(rows):
        pictures.histograms(rows, context.out / "distances.png")
        report.pictures = {"distances and directions": "distances.png"}
    return report


def read_held_out(visual: Path) -> pl.DataFrame:
    """All shards' held_out_rows, in shard order."""
    paths = sorted(visual.glob("*/held_out_rows.parquet"))
    if not paths:
        raise FileNotFoundError(f"no held_out_rows.parquet in a shard folder of {visual}: run hand3d_visual first")
    return pl.concat([tables.read("visual_rows", path) for path in paths])


def check_unseen(train: pl.DataFrame, test: pl.DataFrame, clips: pl.DataFrame) -> None:
    """Raise ValueError naming the videos if any is in both splits. clips: the clips table of all shards."""
    shared = shared_videos(with_bytes(train, clips), with_bytes(test, clips))
    if shared:
        raise ValueError(
            f"{len(shared)} videos are in train and test: {', '.join(shared[:5])}. Remove the copy, or give both the same "
            "split in their side files, and run raw_videos and hand3d_visual again"
        )


def with_bytes(rows: pl.DataFrame, clips: pl.DataFrame) -> pl.DataFrame:
    """clip_id and sha256 of the videos that rows come from. Raises ValueError for a clip that the clips table lacks."""
    used = rows.select("clip_id").unique().join(clips.select("clip_id", "sha256"), on="clip_id", how="left")
    unknown = used.filter(pl.col("sha256").is_null())["clip_id"].sort().to_list()
    if unknown:
        raise ValueError(
            f"rows name clips that raw_videos does not list: {', '.join(unknown[:5])}; run hand3d_visual again"
        )
    return used


def shared_videos(train: pl.DataFrame, test: pl.DataFrame) -> list[str]:
    """Sorted clip ids of `test` that are in `train` too, under the same name or as the same bytes.

    Both: clip_id, sha256 (`with_bytes` adds it to rows).
    """
    same = pl.col("clip_id").is_in(train["clip_id"].implode()) | pl.col("sha256").is_in(train["sha256"].implode())
    return test.filter(same)["clip_id"].unique().sort().to_list()


def sample(rows: pl.DataFrame, num: int, seed: int) -> pl.DataFrame:
    """At most `num` rows, each (task, source) in proportion to its share (largest remainders), even over clips, in order
    of row id. Which rows are taken follows from their ids and the seed, so new videos change as little as possible.
    """
    if num < 1:
        raise ValueError(f"hand3d_test.num_rows is {num}: give at least 1")
    if len(rows) <= num:
        return rows.sort("row_id")
    strata = rows.group_by("task", "source").len("available").sort("task", "source")
    strata = strata.with_columns(rows=pl.Series(sampling.shares(strata["available"].to_numpy(), num)))
    return rows.join(sampling.choose_rows(rows, strata, seed), on="row_id", how="semi").sort("row_id")
