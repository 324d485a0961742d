"""Which rows make up Hand3D: about 4K clips for coverage, then target counts per source and task (paper 3.2.1, Tables 1, 2).

Quotas span shards, so they are not applied where rows are made, shard by shard, but where all shards' rows come
together: whoever trains on, exports or counts Hand3D reads it through `visual_rows` and `action_rows` here. Nothing has to
be counted before rows can be made, shards stay independent, and another target re-makes no row. The order in which rows
of a stratum are taken is a hash of their ids, first one of every clip, then a second of every clip, and so on: even over
clips, the same whatever the shards' order, and nearly the same when videos are added.

Where sources are missing or short (`allocate`): task counts are ceilings that hold always; what a source cannot give is
given by the others in proportion to the rows they have left, also by sources the paper does not know; when all are
exhausted the set is smaller, and no row is left out to keep proportions. `explain` says what was done, in words.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from ops import tables
from ops.config import Hand3DActionConfig, Hand3DVisualConfig
from ops.hand3d import targets
from ops.hand3d.stable import stable_hash
from ops.hand3d.targets import Targets

ITERATIONS = 300  # of proportional fitting; what is left to do then is a few rows, done exactly


@dataclass(frozen=True)
class Choice:
    """row_id: a table of the ids chosen. plan: a row a source and task: available (in the chosen clips), wanted (the
    source's target for all tasks; 0 where the paper has no such source), rows. notes: sentences for a reader."""

    row_id: pl.DataFrame
    plan: pl.DataFrame
    notes: list[str]


_IDS = ("row_id", "source", "task", "clip_id", "split")


def choose_visual(folder: Path, clips: pl.DataFrame, config: Hand3DVisualConfig) -> Choice:
    """Training rows of Hand3D-visual. folder: of hand3d_visual, all shards; clips: the clips table of all shards."""
    target = wanted("visual", config.targets, config.num_rows)
    rows = _scan("visual_rows", folder).select(*_IDS, "instruction").collect()
    if config.num_clips is not None:
        chosen = choose_clips(describe_clips(rows, clips), config.num_clips, target, config.seed)
        rows = rows.join(chosen, on="clip_id", how="semi", maintain_order="left")
    return choose(rows, target, config.seed)


def choose_action(folder: Path, config: Hand3DActionConfig) -> Choice:
    """Rows of Hand3D-action: of the training split by the targets, held-out rows all. folder: of hand3d_action."""
    rows = _scan("action_rows", folder).select(_IDS).collect()
    held_out = rows.filter(split="test").select("row_id")
    chosen = choose(rows.filter(split="train"), wanted("action", config.targets, config.num_rows), config.seed)
    return replace(chosen, row_id=pl.concat([chosen.row_id, held_out]).sort("row_id"))


def visual_rows(folder: Path, clips: pl.DataFrame, config: Hand3DVisualConfig) -> pl.DataFrame:
    """Hand3D-visual itself: the chosen training rows, shard by shard."""
    return pl.concat(parts("visual_rows", folder, choose_visual(folder, clips, config)))


def action_rows(folder: Path, config: Hand3DActionConfig) -> pl.DataFrame:
    """Hand3D-action itself, both splits, shard by shard."""
    return pl.concat(parts("action_rows", folder, choose_action(folder, config)))


def parts(name: str, folder: Path, choice: Choice) -> Iterator[pl.DataFrame]:
    """The chosen rows shard by shard, for whoever does not want all in memory."""
    for path, kept in marked(name, folder, choice):
        yield tables.read(name, path).filter(kept)


def marked(name: str, folder: Path, choice: Choice) -> list[tuple[Path, pl.Series]]:
    """Each shard's file of the table `name`, and which of its rows were chosen: all are looked up at once, so that more
    shards make it no slower."""
    ids = [pl.read_parquet(path, columns=["row_id"]) for path in _paths(name, folder)]
    kept = pl.concat(ids).select(pl.col("row_id").is_in(choice.row_id["row_id"].implode())).to_series()
    starts = np.cumsum([0, *map(len, ids)]).tolist()
    return [(path, kept[start:end]) for path, (start, end) in zip(_paths(name, folder), pairwise(starts), strict=True)]


def _scan(name: str, folder: Path) -> pl.LazyFrame:
    return pl.scan_parquet(_paths(name, folder))


def _paths(name: str, folder: Path) -> list[Path]:
    paths = sorted(folder.glob(f"*/{name}.parquet"))
    if not paths:
        raise FileNotFoundError(f"no {name}.parquet in a shard folder of {folder}: run its stage first")
    return paths


def wanted(dataset: str, name: str | None, num_rows: int | None) -> Targets | None:
    """Targets by their name in params.yaml. Raises ValueError for a name there is not."""
    if name is None:
        return None
    if name != "paper":
        raise ValueError(f"hand3d_{dataset}.targets is {name!r}: give 'paper', or null to keep every row")
    return targets.paper(dataset, num_rows)


def choose(rows: pl.DataFrame, target: Targets | None, seed: int) -> Choice:
    """rows: row_id, source, task, clip_id of every row there is."""
    if target is None:
        plan = rows.group_by("source", "task").len("available").sort("source", "task")
        plan = plan.with_columns(pl.col("available").cast(pl.Int64), wanted=pl.lit(0, dtype=pl.Int64))
        everything = rows.select("row_id").sort("row_id")
        return Choice(
            everything, plan.with_columns(rows="available"), [f"No targets are set: all {len(rows):,} rows are kept."]
        )
    plan = make_plan(rows.select("source", "task"), target)
    return Choice(choose_rows(rows, plan, seed), plan, explain(plan, target))


def make_plan(rows: pl.DataFrame, target: Targets) -> pl.DataFrame:
    """Rows to take of each source and task. rows: source and task of every row there is."""
    return plan_of(rows.group_by("source", "task").len("available"), target)


def plan_of(counted: pl.DataFrame, target: Targets) -> pl.DataFrame:
    """The plan from counts. counted: source, task, available."""
    tasks = list(target.by_task)
    sources = sorted(counted["source"].unique().to_list())
    available = np.zeros((len(sources), len(tasks)), np.int64)
    for source, task, num in counted.select("source", "task", "available").iter_rows():
        available[sources.index(source), tasks.index(task)] = num
    by_source = np.array([target.by_source.get(targets.source_key(name), 0) for name in sources], np.int64)
    by_task = np.array([target.by_task[task] for task in tasks], np.int64)
    quota = allocate(available, by_source, by_task)
    table = {
        "source": [name for name in sources for _ in tasks], "task": tasks * len(sources),
        "available": available.reshape(-1), "wanted": np.repeat(by_source, len(tasks)), "rows": quota.reshape(-1),
    }  # fmt: skip
    schema = {"source": pl.String, "task": pl.String, "available": pl.Int64, "wanted": pl.Int64, "rows": pl.Int64}
    return pl.DataFrame(table, schema=schema)


def allocate(
    available: Int[np.ndarray, "sources tasks"],
    by_source: Int[np.ndarray, " sources"],
    by_task: Int[np.ndarray, " tasks"],
) -> Int[np.ndarray, "sources tasks"]:
    """Rows of each source and task: never more than there are, never more of a task than wanted.

    First as many as fit under both the sources' and the tasks' targets, in proportion (iterative proportional fitting
    from what is available, made whole and complete by maximum flow): both tables are met exactly if that is possible
    at all. Then what tasks still lack, from all sources in proportion to the rows they have left.
    """
    quota = np.floor(_fitted(available, by_source, by_task)).astype(np.int64)
    _complete(quota, available, by_source - quota.sum(axis=1), by_task - quota.sum(axis=0))
    for task, lacking in enumerate(by_task - quota.sum(axis=0)):
        left = available[:, task] - quota[:, task]
        quota[:, task] += shares(left, min(int(lacking), int(left.sum())))
    return quota


def shares(available: Int[np.ndarray, " n"], num: int) -> Int[np.ndarray, " n"]:
    """Whole numbers that add up to num, in proportion to `available`, none larger than it (num <= sum)."""
    if num == 0:
        return np.zeros(len(available), np.int64)
    exact = available * num / available.sum()
    quota = np.floor(exact).astype(np.int64)
    missing = num - quota.sum()
    quota[np.argsort(quota - exact, kind="stable")[:missing]] += 1
    return quota


def _fitted(available: np.ndarray, by_source: np.ndarray, by_task: np.ndarray) -> np.ndarray:
    """Real numbers in [0, available] whose sums stay within the targets, and meet them where there are rows enough."""
    x = available.astype(np.float64)
    for _ in range(ITERATIONS):
        x = _scaled_to(x, available, by_source)
        x = _scaled_to(x.T, available.T, by_task).T
    over = x.sum(axis=1) / np.maximum(by_source, 1e-9)
    return np.maximum(x / np.maximum(over, 1.0)[:, None] * (1 - 1e-12) - 1e-6, 0.0)  # flooring never exceeds a target


def _scaled_to(x: np.ndarray, most: np.ndarray, sums: np.ndarray) -> np.ndarray:
    total = x.sum(axis=1)
    factor = np.where(total > 0, sums / np.maximum(total, 1e-12), 0.0)
    return np.minimum(x * factor[:, None], most)


def _complete(quota: np.ndarray, available: np.ndarray, source_left: np.ndarray, task_left: np.ndarray) -> None:
    """Add rows until no target has room for more, moving rows between sources and tasks where that makes room (augmenting
    paths of the transportation problem). Changes its arguments."""
    while path := _augmenting_path(quota, available, source_left, task_left):
        cells = list(pairwise(path))  # source, task, source, task ...
        room = min(available[a, b] - quota[a, b] if forward else quota[b, a] for (a, b), forward in _directed(cells))
        room = min(room, source_left[path[0]], task_left[path[-1]])
        for (a, b), forward in _directed(cells):
            quota[(a, b) if forward else (b, a)] += room if forward else -room
        source_left[path[0]] -= room
        task_left[path[-1]] -= room


def _directed(cells: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], bool]]:
    """Every second step goes back from a task to a source."""
    return [(cell, place % 2 == 0) for place, cell in enumerate(cells)]


def _augmenting_path(
    quota: np.ndarray, available: np.ndarray, source_left: np.ndarray, task_left: np.ndarray
) -> list[int]:
    """Shortest way from a source to a task that both have room, alternating source, task, ...; [] if there is none."""
    queue = deque([int(source)] for source in np.flatnonzero(source_left > 0))
    seen_sources, seen_tasks = {path[0] for path in queue}, set()
    while queue:
        path = queue.popleft()
        at_source = len(path) % 2 == 1
        if not at_source and task_left[path[-1]] > 0:
            return path
        steps = (available > quota)[path[-1]] if at_source else quota[:, path[-1]] > 0
        seen = seen_tasks if at_source else seen_sources
        for step in np.flatnonzero(steps):
            if int(step) not in seen:
                seen.add(int(step))
                queue.append([*path, int(step)])
    return []


def choose_rows(rows: pl.DataFrame, plan: pl.DataFrame, seed: int) -> pl.DataFrame:
    """row_id of the plan's number of rows of each source and task, even over clips, in order of row id."""
    ordered = spread(
        rows.select("row_id", "source", "task", "clip_id"), "row_id", ["source", "task"], ["clip_id"], seed
    )
    kept = ordered.join(plan.select("source", "task", _quota="rows"), on=["source", "task"])
    return kept.filter(pl.col("place") <= pl.col("_quota")).select("row_id").sort("row_id")


def spread(items: pl.DataFrame, key: str, strata: Sequence[str], groups: Sequence[str], seed: int) -> pl.DataFrame:
    """Items with their `place` (1, 2, ...) in each stratum: the first of every group, then the second of every group, ..."""
    hashed = items.with_columns(_hash=pl.Series(stable_hash(items[key], seed, "sample")))
    ordered = hashed.sort("_hash", key)  # the key decides between equal hashes
    ordered = ordered.with_columns(_round=pl.int_range(pl.len()).over([*strata, *groups]))
    ordered = ordered.sort("_round", maintain_order=True)
    return ordered.with_columns(place=pl.int_range(1, pl.len() + 1).over(strata)).drop("_round", "_hash")


def describe_clips(rows: pl.DataFrame, clips: pl.DataFrame) -> pl.DataFrame:
    """What `choose_clips` asks of clips that have rows: clip_id, source, subject, task (the first word of its first
    text; "" where it has none) and the number of rows of each task. clips: the clips table."""
    text = pl.col("instruction").drop_nulls().sort().first().str.split(" ").list.first().fill_null("")
    about = rows.group_by("clip_id", "source").agg(text.alias("task"))
    counted = rows.group_by("clip_id").agg((pl.col("task") == task).sum().alias(task) for task in tables.VISUAL_TASKS)
    return about.join(counted, on="clip_id").join(clips.select("clip_id", "subject"), on="clip_id", how="left")


def choose_clips(about: pl.DataFrame, num: int, target: Targets | None, seed: int) -> pl.DataFrame:
    """clip_id of about `num` clips: equally many of each source as far as it has them, evenly over scenes (the person
    acting stands for the scene) and task texts. A source gets more where its share of clips has not rows enough for its
    target: for each task as many rows as its share of the source's target, or as the source has.

    about: clip_id, source, subject, task and a column of rows for each visual task.
    """
    ordered = spread(about, "clip_id", ["source"], ["subject", "task"], seed).sort("source", "place")
    of_source = ordered.group_by("source", maintain_order=True).agg(pl.len(), pl.col(tables.VISUAL_TASKS).sum())
    quota = level(of_source["len"].to_numpy(), num)
    lacking = pl.lit(False)
    limits = {"source": of_source["source"], "_quota": quota}
    for task in tables.VISUAL_TASKS if target else ():
        share = target.by_task[task] / target.num_rows
        need = [share * target.by_source.get(targets.source_key(name), 0) for name in of_source["source"]]
        limits[f"_{task}"] = np.minimum(need, of_source[task].to_numpy())
        before = pl.col(task).cum_sum().over("source") - pl.col(task)
        lacking = lacking | (before < pl.col(f"_{task}"))
    kept = ordered.join(pl.DataFrame(limits), on="source", maintain_order="left")
    return kept.filter((pl.col("place") <= pl.col("_quota")) | lacking).select("clip_id")


def level(available: Int[np.ndarray, " n"], num: int) -> Int[np.ndarray, " n"]:
    """Shares of num as equal as `available` allows; all of it where there are no more than num."""
    quota = np.zeros(len(available), np.int64)
    while (left := min(num, int(available.sum())) - int(quota.sum())) > 0:
        open_ = np.flatnonzero(quota < available)
        step = max(1, left // len(open_))
        for place in open_[: left if step == 1 else None]:
            quota[place] += min(step, available[place] - quota[place])
    return quota


def explain(plan: pl.DataFrame, target: Targets) -> list[str]:
    """What was done where the targets could not be met as they stand."""
    got_source = dict(plan.group_by("source").agg(pl.col("rows").sum()).iter_rows())
    got_task = dict(plan.group_by("task").agg(pl.col("rows").sum()).iter_rows())
    by_key = {targets.source_key(source): rows for source, rows in got_source.items()}
    num = sum(got_source.values())
    notes = [f"{num:,} of {target.num_rows:,} rows wanted."]
    missing = [name for name, rows in target.by_source.items() if rows and not by_key.get(name)]
    short = [name for name, rows in target.by_source.items() if 0 < by_key.get(name, 0) < rows]
    extra = [
        name for name, rows in sorted(got_source.items()) if rows > target.by_source.get(targets.source_key(name), 0)
    ]
    if missing or short:
        notes.append(
            f"Missing: {', '.join(missing) or 'none'}; with fewer rows than wanted: {', '.join(short) or 'none'}. "
            f"In their place, in proportion to the rows they have: {', '.join(extra) or 'nothing'}."
        )
    lacking = [f"{task} {got_task.get(task, 0):,} of {rows:,}" for task, rows in target.by_task.items() if got_task.get(task, 0) < rows]  # fmt: skip
    if lacking:
        notes.append(f"All rows there are were taken, and these tasks stay short: {'; '.join(lacking)}.")
    return notes


def beside_paper(plan: pl.DataFrame, dataset: str) -> list[dict[str, object]]:
    """The paper's Table 1 or 2 with our counts beside: category, rows, share, paper_rows, paper_share."""
    paper = targets.paper(dataset)
    got = dict(plan.group_by("task").agg(pl.col("rows").sum()).iter_rows())
    ours: dict[str, int] = {}
    for source, rows in plan.group_by("source").agg(pl.col("rows").sum()).sort("source").iter_rows():
        ours[targets.source_key(source)] = ours.get(targets.source_key(source), 0) + rows
    total, paper_total = max(1, sum(ours.values())), paper.num_rows
    lines = []
    for kind, mine, theirs in (("source", ours, paper.by_source), ("task", got, paper.by_task)):
        for name in [*theirs, *sorted(set(mine) - set(theirs))]:
            rows, expected = mine.get(name, 0), theirs.get(name, 0)
            lines.append({
                "kind": kind, "category": name, "rows": rows, "share": round(rows / total, 4),
                "paper_rows": expected, "paper_share": round(expected / paper_total, 4),
            })  # fmt: skip
    return lines
