"""How good a Hand3D release is: the paper's tables beside ours, distributions, rejects, repeats, pictures, second route.

Fills the stage's report (asset metadata) and writes quality.html. What it says follows from the tallies of the release, from
upstream rejects and from rows recomputed by ops.hand3d.audit; percentages are of the rows of one table.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from ops.hand3d import audit, charts, gallery, quality_page, targets
from ops.hand3d.audit import Audit
from ops.hand3d.gallery import Drawn
from ops.hand3d.release.card import Release
from ops.hand3d.release.frames import DECODERS
from ops.hand3d.tally import DISTANCE_EDGES_M, LENGTH_EDGES_M, REPEATS, quantile_m
from ops.pipeline import StageContext
from ops.sources.manifest import read_clip
from ops.stages import BY_NAME
from ops.store import Report
from ops.tables import ACTION_TASKS, VISUAL_TASKS

Rows = list[dict[str, object]]


def write(context: StageContext, release: Release, report: Report) -> None:
    """Add tables, metrics, pictures and notes to the report, and write quality.html beside the release."""
    rejects = rejected(context)
    inputs = audit.inputs_of(context.input, context.root, list(context.config.shards))
    config = release.config
    found = audit.audit(context.out, inputs, context.config.hand3d_visual.gamma, config.num_verified, config.seed)
    report.tables |= tables_of(release, rejects, found)
    report.metrics |= metrics(release, rejects, found)
    report.notes += notes(release, found)
    drawn = draw_gallery(context, release)
    charts.distances(release.totals, context.out / "distances.png")
    charts.directions(release.totals, context.out / "directions.png")
    charts.sheet(drawn, context.out / "gallery.png")
    report.pictures = {"distances and lengths": "distances.png", "directions": "directions.png"}
    if (context.out / "gallery.png").is_file():
        report.pictures["rows on frames"] = "gallery.png"
    quality_page.write(context.out / "quality.html", report, found, rejects, drawn, context.out)


def tables_of(release: Release, rejects: pl.DataFrame, found: Audit) -> dict[str, Rows]:
    """The small tables of the report, by title."""
    return {
        "Hand3D-visual by source, beside the paper's Table 1": by_source(release, "visual"),
        "Hand3D-visual by task, beside the paper's Table 1": by_task(release, "visual"),
        "Hand3D-action by source, beside the paper's Table 2": by_source(release, "action"),
        "Hand3D-action by task, beside the paper's Table 2": by_task(release, "action"),
        "distances and path lengths": spreads(release),
        "repeats": repeats(release),
        "rejected candidates by stage and reason": rejects.drop("example", "shards").head(50).to_dicts(),
        "second route": [
            {
                "task": task,
                "rows recomputed": count,
                "median distance from the source's labels, mm": _median_mm(found, task),
            }
            for task, count in sorted(found.checked.items())
        ],
    }


def by_source(release: Release, kind: str) -> Rows:
    """Training rows of each source: the paper's, then ours, with shares of all rows."""
    paper = targets.VISUAL_BY_SOURCE if kind == "visual" else targets.ACTION_BY_SOURCE
    tasks = VISUAL_TASKS if kind == "visual" else ACTION_TASKS
    ours: dict[str, int] = {}
    names = {targets.source_key(name): name for name in paper}
    for (source, task, split), count in sorted(release.totals.rows.items()):
        if task in tasks and split == "train":
            name = names.get(targets.source_key(source), source)
            ours[name] = ours.get(name, 0) + count
    return beside(paper, ours)


def by_task(release: Release, kind: str) -> Rows:
    """Training rows of each task, beside the paper's."""
    paper = targets.VISUAL_BY_TASK if kind == "visual" else targets.ACTION_BY_TASK
    return beside(paper, {task: release.totals.count(task=task, split="train") for task in paper})


def beside(paper: Mapping[str, int], ours: Mapping[str, int]) -> Rows:
    """One row a name, the paper's largest first, then names that only we have, then totals."""
    names = sorted(paper, key=lambda name: -paper[name]) + [name for name in ours if name not in paper]
    total_paper, total_ours = sum(paper.values()), sum(ours.values())
    rows = [(name, paper.get(name), ours.get(name, 0)) for name in names] + [("total", total_paper, total_ours)]
    return [
        {
            "": name, "paper": theirs if theirs is not None else "-", "paper %": _percent(theirs, total_paper),
            "ours": count, "ours %": _percent(count, total_ours),
        }
        for name, theirs, count in rows
    ]  # fmt: skip


def _percent(count: int | None, total: int) -> str:
    return "-" if count is None or not total else f"{100 * count / total:.1f}"


def spreads(release: Release) -> Rows:
    """Quantiles of what each task's rows are about."""
    known = release.totals.distances
    return [_spread(task, known[task]) for task in (*VISUAL_TASKS, *ACTION_TASKS) if task in known]


def _spread(task: str, counts: np.ndarray) -> dict[str, object]:
    edges = DISTANCE_EDGES_M if task in VISUAL_TASKS else LENGTH_EDGES_M
    row: dict[str, object] = {"task": task, "what": "distance" if task in VISUAL_TASKS else "path of the wrist"}
    row |= {f"{q:.0%} below, m": round(quantile_m(counts, edges, q), 3) for q in (0.1, 0.5, 0.9)}
    return row | {"rows": int(np.sum(counts))}


def repeats(release: Release) -> Rows:
    """Rows that say what an earlier row says, by how alike they are (ops.hand3d.tally.REPEATS)."""
    return [
        {
            "rows of": kind,
            "repeat": name,
            "rows": found[name],
            "share": found[name] / max(release.totals.kinds[kind], 1),
        }
        for kind, found in sorted(release.totals.repeats.items())
        for name in REPEATS
    ]


def _median_mm(found: Audit, task: str) -> object:
    errors = found.labels.get(task)
    return "no labels" if not errors else round(1000 * float(np.median(errors)), 2)


def rejected(context: StageContext) -> pl.DataFrame:
    """Every candidate that was left out on the way: stage, reason, count, shards, and one example with its detail.

    Counted from the rejects of all stages the release was made from; no reject is left out of the count.
    """
    found = []
    for name in context.stage.reads:
        folder = context.input(name)
        paths = sorted(folder.glob("*/rejects.parquet")) if BY_NAME[name].partitioned else [folder / "rejects.parquet"]
        for path in paths:
            shard = path.parent.name if BY_NAME[name].partitioned else "all"
            counted = (
                pl.scan_parquet(path)
                .group_by("reason")
                .agg(count=pl.len(), example=(pl.col("item") + ": " + pl.col("detail")).str.strip_suffix(": ").min())
                .collect()
            )
            found.append(counted.select(stage=pl.lit(name), shard=pl.lit(shard), reason="reason", count=pl.col("count").cast(pl.Int64), example="example"))  # fmt: skip
    order = {name: place for place, name in enumerate(context.stage.reads)}
    together = pl.concat(found).group_by("stage", "reason").agg(
        pl.col("count").sum(), shards=pl.col("shard").sort().str.join(", "), example=pl.col("example").min()
    )  # fmt: skip
    place = pl.col("stage").replace_strict(list(order), list(order.values()), return_dtype=pl.Int64)
    return together.sort(place, -pl.col("count"), "reason")


def metrics(release: Release, rejects: pl.DataFrame, found: Audit) -> dict[str, float]:
    """Numbers that an alert can watch."""
    numbers = {
        "rejected_candidates": float(rejects["count"].sum()),
        "rows_recomputed": float(found.checked.total()),
        "rows_that_disagree": float(len(found.problems)),
    }
    for kind, counts in release.totals.repeats.items():
        total = release.totals.kinds[kind]
        numbers |= {f"{kind}_{name}_repeat_share": counts[name] / total for name in REPEATS if total}
    if release.totals.waypoints["all"]:
        numbers["share_waypoints_clipped"] = release.totals.waypoints["clipped"] / release.totals.waypoints["all"]
    return numbers


def notes(release: Release, found: Audit) -> list[str]:
    clips = release.used_clips
    closed = clips.filter(~pl.col("frames_allowed"))["source"].unique().sort().to_list()
    said = [
        "quality.html, beside the data, is this report with a gallery of rows.",
        found.text,
        f"A near repeat agrees to {release.config.near_duplicate_mm:g} mm a coordinate (our choice).",
    ]
    if closed:
        said.append(f"Frames of {', '.join(closed)} are left out: their licence is not known to allow passing them on.")
    if release.config.internal_use:
        said.append("For internal use only: frames were written whatever their licence says.")
    missing = [name for name in targets.VISUAL_BY_SOURCE if targets.source_key(name) not in {targets.source_key(s) for s in clips["source"]}]  # fmt: skip
    if missing:
        said.append(f"Of the paper's nine sources these are not here: {', '.join(missing)}.")
    return said


def draw_gallery(context: StageContext, release: Release) -> list[Drawn]:
    """Some rows of each task with their pictures, the same ones for the same rows."""
    chosen: list[dict[str, object]] = []
    clips = {row["clip_id"]: row for row in release.clips.iter_rows(named=True)}
    for task in (*VISUAL_TASKS, *ACTION_TASKS):
        ids = [row_id for _, row_id in sorted(map(tuple, release.totals.samples.get(task, [])))]
        rows = audit.read_rows(context.out, "visual" if task in VISUAL_TASKS else "action", ids)
        chosen += gallery.choose(rows, release.clips, release.config.gallery_rows)

    def drawn(row: dict[str, object]) -> Drawn:
        clip = clips[row["clip_id"]]
        if not clip["frames_allowed"]:
            return Drawn(row, None, "its licence is not known to allow showing the frames")
        return gallery.draw(row, read_clip(clip, context.root), _boxes(context, clip, row))

    with ThreadPoolExecutor(DECODERS) as pool:
        return list(pool.map(drawn, chosen))


def _boxes(context: StageContext, clip: dict, row: dict) -> dict[str, np.ndarray]:
    """Boxes of the objects in a row's last frame, in pixels of the drawn picture."""
    if not row.get("object"):
        return {}
    path: Path = context.input("calibrated_point_clouds") / clip["shard"] / "object_positions.parquet"
    found = pl.scan_parquet(path).filter(clip_id=clip["clip_id"], frame=row["frames"][-1]).collect()
    scale = gallery.HEIGHT * 2 / clip["height"]
    return {name: np.array(box, float) * scale for name, box in found.select("name", "box_px").iter_rows()}
