"""`hand3d dry-run`: would the sources give the paper's Hand3D, and what does making it cost?

On made-up clips of nine sources (ops.hand3d.full_size). The plan needs metadata alone and takes seconds; with a folder,
all rows are made and written as the stages do, shard by shard on several processes, sampled, and counted.
"""

import contextlib
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import polars as pl

from ops import tables
from ops.hand3d import action, action_rows, facts, full_size, sampling, visual
from ops.hand3d.targets import paper
from ops.orphans import leave_with_parent

VISUAL_SHARD, ACTION_SHARD = 300, 4000  # clips
SEED = 0
TIMES = "cpu_s_a_process", "wall_s_a_process"
Line = dict[str, object]


@dataclass(frozen=True)
class Shard:
    """What one process did. Times: from geometry tables to a written file, the making-up left out."""

    rows: int
    candidates: int
    rejected: int
    cpu_s: float
    wall_s: float
    peak_mb: float


class Watch:
    """CPU and wall time of what is done while it runs."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        yield
        self.cpu_s += time.process_time() - cpu_s
        self.wall_s += time.perf_counter() - wall_s

    def shard(self, rows: int, candidates: int, rejected: int = 0) -> Shard:
        return Shard(rows, candidates, rejected, self.cpu_s, self.wall_s, _peak_mb())


def plan() -> dict[str, pl.DataFrame]:
    """Rows of each source and task for "visual" and "action", from metadata alone."""
    clips = chosen_clips()
    counted = clips.unpivot(tables.VISUAL_TASKS, index="source", variable_name="kind", value_name="available")
    counted = counted.group_by("source", task="kind").agg(pl.col("available").sum().cast(pl.Int64))
    motions = full_size.motions_there_are(full_size.metadata(SEED, "action"), full_size.ACTION)
    return {"visual": sampling.plan_of(counted, paper("visual")), "action": sampling.plan_of(motions, paper("action"))}


def chosen_clips() -> pl.DataFrame:
    """Metadata of the visual clips that sampling takes, with the rows of each task."""
    about = full_size.rows_there_are(full_size.metadata(SEED), full_size.VISUAL)
    chosen = sampling.choose_clips(about, full_size.VISUAL.num_clips, paper("visual"), full_size.VISUAL.seed)
    return about.join(chosen, on="clip_id", how="semi", maintain_order="left")


def make(folder: Path, processes: int) -> tuple[dict[str, pl.DataFrame], list[Line]]:
    """All rows, below folder/hand3d_visual and folder/hand3d_action; the chosen ones, a file a shard, in folder/visual_rows
    and folder/action_rows. -> plans counted from the chosen rows, and what each step cost."""
    plans, costs = {}, []
    clips = {"visual": chosen_clips().sort("clip_id"), "action": full_size.metadata(SEED, "action")}
    # spawned, since forked processes would inherit locks of polars' threads
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=leave_with_parent) as pool:
        for name, job, size in (("visual", visual_shard, VISUAL_SHARD), ("action", action_shard, ACTION_SHARD)):
            rows, stage = f"{name}_rows", folder / f"hand3d_{name}"
            parts = [(stage / f"{i:03d}", part) for i, part in enumerate(clips[name].iter_slices(size))]
            shards = list(pool.map(job, *zip(*parts, strict=True)))
            watch = Watch()
            with watch.running():
                choice = _choose(name, folder, clips["visual"])
                marked = sampling.marked(rows, stage, choice)
            choosing = watch.shard(0, sum(s.rows for s in shards))
            jobs = [(rows, path, kept, folder / rows / f"{path.parent.name}.parquet") for path, kept in marked]
            copied = list(pool.map(chosen_shard, *zip(*jobs, strict=True)))
            plans[name] = _counted(folder / rows, choice.plan)
            costs += [
                _cost(f"{name} rows", shards, processes),
                _cost(f"{name} choosing", [choosing], 1),
                _cost(f"{name} chosen rows to files", copied, processes),
            ]
            sums = {key: round(sum(float(line[key]) for line in costs[-3:]), 1) for key in TIMES}
            costs.append({"step": f"{name} in all", **sums})
    return plans, costs


def _cost(step: str, shards: list[Shard], processes: int) -> Line:
    cpu_s, wall_s = sum(shard.cpu_s for shard in shards), sum(shard.wall_s for shard in shards)
    return {
        "step": step, "rows": sum(s.rows for s in shards), "candidates": sum(s.candidates for s in shards),
        "cpu_s": round(cpu_s, 1), "cpu_s_a_process": round(cpu_s / processes, 1),
        "wall_s_a_process": round(wall_s / processes, 1),
        "peak_mb_a_process": round(max(s.peak_mb for s in shards)),
    }  # fmt: skip


def _choose(name: str, folder: Path, clips: pl.DataFrame) -> sampling.Choice:
    if name == "visual":
        return sampling.choose_visual(folder / "hand3d_visual", clips, full_size.VISUAL)
    return sampling.choose_action(folder / "hand3d_action", full_size.ACTION)


def _counted(folder: Path, plan_: pl.DataFrame) -> pl.DataFrame:
    """The plan with its rows counted again in the files."""
    counted = pl.scan_parquet(folder / "*.parquet").group_by("source", "task").len("rows").collect()
    joined = plan_.drop("rows").join(counted, on=["source", "task"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("rows").fill_null(0).cast(pl.Int64))


def chosen_shard(name: str, path: Path, kept: pl.Series, out: Path) -> Shard:
    """The chosen rows of a shard to a file of their own."""
    out.parent.mkdir(parents=True, exist_ok=True)
    watch = Watch()
    with watch.running(), tables.writer(name, out) as append:
        append(tables.read(name, path).filter(kept))
    return watch.shard(int(kept.sum()), len(kept))


def visual_shard(out: Path, clips: pl.DataFrame) -> Shard:
    """Rows of some visual clips, as stage hand3d_visual makes them."""
    world, config = full_size.visual_world(clips, SEED), full_size.VISUAL
    out.mkdir(parents=True, exist_ok=True)
    watch, geometry = Watch(), (world.clips, world.fits, world.calibrations, world.positions)
    with watch.running():
        known = facts.gather(*geometry, 1.0, full_size.no_video, config.completions_per_moment)
        candidates, rejected = visual.propose(known, config.seed)
        rows = visual.label(candidates, config.gamma, config.seed)
        with tables.writer("visual_rows", out / "visual_rows.parquet") as append:
            append(rows)
    return watch.shard(len(rows), len(rows) + len(rejected), len(rejected))


def action_shard(out: Path, clips: pl.DataFrame) -> Shard:
    """Rows of some action clips, as stage hand3d_action makes them. A candidate is a window and a task."""
    out.mkdir(parents=True, exist_ok=True)
    rows = candidates = rejected = 0
    watch = Watch()
    frames = (clips["seconds"] * clips["fps"]).cum_sum().cast(pl.Int64) // action.BATCH_FRAMES
    with tables.writer("action_rows", out / "action_rows.parquet") as append:
        for batch in clips.with_columns(_batch=frames).partition_by("_batch", maintain_order=True, include_key=False):
            known, fits = full_size.action_world(batch, SEED)
            with watch.running():
                planned, left_out = action.plan(known, full_size.ACTION)
                made = action_rows.build(known, planned, fits, full_size.ACTION)
                append(made.rows)
            rows += len(made.rows)
            candidates += len(tables.ACTION_TASKS) * len(planned)
            rejected += len(left_out) + len(made.rejected)
    return watch.shard(rows, candidates, rejected)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(plans: dict[str, pl.DataFrame], costs: list[Line]) -> str:
    """What the command prints."""
    lines = ["Made-up clips of nine sources; nothing here is data."]
    for name, plan_ in plans.items():
        lines += ["", f"Hand3D-{name}: {plan_['rows'].sum():,} of the paper's {paper(name).num_rows:,} rows"]
        lines += [f"{'':4}{'category':34}{'rows':>10}{'share':>9}{'paper':>11}{'share':>9}{'off by':>9}"]
        lines += [_printed(line) for line in sampling.beside_paper(plan_, name)]
        lines += sampling.explain(plan_, paper(name))[1:]
    for cost in costs:
        lines += [
            "",
            ", ".join(f"{key} {value:,}" if not isinstance(value, str) else value for key, value in cost.items()),
        ]
    return "\n".join(lines)


def _printed(line: Line) -> str:
    off = abs(line["rows"] / line["paper_rows"] - 1) if line["paper_rows"] else float("nan")
    ours, theirs = f"{line['rows']:>10,}{line['share']:>9.1%}", f"{line['paper_rows']:>11,}{line['paper_share']:>9.1%}"
    return f"{'':4}{line['category']:34}{ours}{theirs}{off:>9.2%}"
