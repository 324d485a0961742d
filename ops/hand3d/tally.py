"""Counts of a stream of Hand3D rows that fit on a page however many rows there are: what the quality report shows.

Filled a batch at a time and merged over shards. Distances are metres, on fixed bins, so that shards add up. Keeps the rows
with the smallest hashes as a sample that does not depend on order or batch size.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from jaxtyping import Float, Int, UInt64

from ops.hand3d.stable import stable_hash

DISTANCE_EDGES_M = np.concatenate([np.linspace(0, 1, 51), [1.25, 1.5, 2.0, 3.0, 5.0, np.inf]])
LENGTH_EDGES_M = np.concatenate([np.linspace(0, 2, 41), [3.0, 5.0, np.inf]])
WORDS = ("left", "right", "up", "down", "backward", "forward")
REPEATS = ("exact", "near", "recurring")
"""exact: same clip, frames, texts. near: same clip, frames and relation, numbers in the same cell. recurring: the same
relation and numbers in other frames of the same clip, as where nothing moves. Each contains the ones before it."""
_KEY = ("source", "task", "split")


@dataclass
class Tally:
    """near_m: side of the cells that near duplicates share. keep: rows of each task in the sample."""

    near_m: float
    seed: int
    keep: int
    rows: Counter = field(default_factory=Counter)  # (source, task, split)
    clips: dict = field(default_factory=dict)  # (source, task, split) -> set of ids
    distances: dict = field(default_factory=dict)  # task -> histogram over DISTANCE_EDGES_M or LENGTH_EDGES_M
    directions: dict = field(default_factory=dict)  # task -> counts of WORDS and of none
    contacts: Counter = field(default_factory=Counter)  # "touching", "apart", "not said"
    sides: Counter = field(default_factory=Counter)  # (task, side)
    waypoints: Counter = field(default_factory=Counter)  # "all", "clipped"
    sample: dict = field(default_factory=dict)  # task -> [(hash, row id)], the smallest hashes
    _keys: dict = field(default_factory=dict)  # one of REPEATS -> list of arrays

    def add(self, kind: str, rows: pl.DataFrame) -> None:
        """rows: a batch of visual_rows or action_rows, by kind."""
        for *key, count, ids in rows.group_by(*_KEY).agg(pl.len(), pl.col("clip_id").unique()).iter_rows():
            self.rows[tuple(key)] += count
            self.clips.setdefault(tuple(key), set()).update(ids)
        for task, side, count in rows.group_by("task", "side").len().iter_rows():
            self.sides[task, side or "camera"] += count
        for (task,), part in rows.group_by("task"):
            self._task(kind, str(task), part)
        keys = _visual_keys(rows, self.near_m) if kind == "visual" else _action_keys(rows, self.near_m)
        for name, values in zip(REPEATS, keys, strict=True):
            self._keys.setdefault(name, []).append(values)

    def _task(self, kind: str, task: str, rows: pl.DataFrame) -> None:
        hashes = stable_hash(rows["row_id"], self.seed, "gallery").tolist()
        ranked = [*self.sample.get(task, []), *zip(hashes, rows["row_id"], strict=True)]
        self.sample[task] = sorted(ranked)[: self.keep]
        edges, column = (DISTANCE_EDGES_M, "distance_m") if kind == "visual" else (LENGTH_EDGES_M, "displacement_m")
        counts = np.histogram(rows[column].to_numpy(), edges)[0]
        self.distances[task] = self.distances.get(task, 0) + counts
        if kind == "visual":
            signs = rows["direction"].to_numpy()
            found = [int((signs[:, axis] == sign).sum()) for axis in range(3) for sign in (-1, 1)]
            found.append(int((signs == 0).all(axis=1).sum()))
            self.directions[task] = self.directions.get(task, 0) + np.array(found)
            said = {True: "touching", False: "apart", None: "not said"}
            self.contacts.update({said[value]: n for value, n in rows["contact"].value_counts().iter_rows()})
        else:
            self.waypoints["all"] += int(rows["waypoints"].list.len().sum()) // 3
            self.waypoints["clipped"] += int(rows["num_clipped"].sum())

    def facts(self) -> dict:
        """As JSON, for a finished part; duplicates are counted here, since a clip's rows are all in one part."""
        keys = {name: np.concatenate(self._keys.get(name, [np.zeros(0, np.uint64)])) for name in REPEATS}
        return {
            "rows": [[*key, count] for key, count in sorted(self.rows.items())],
            "clips": [[*key, sorted(ids)] for key, ids in sorted(self.clips.items())],
            "distances": {task: counts.tolist() for task, counts in sorted(self.distances.items())},
            "directions": {task: counts.tolist() for task, counts in sorted(self.directions.items())},
            "contacts": dict(sorted(self.contacts.items())),
            "sides": [[*key, count] for key, count in sorted(self.sides.items())],
            "waypoints": dict(self.waypoints),
            "sample": dict(sorted(self.sample.items())),
            "repeats": {name: len(values) - len(np.unique(values)) for name, values in keys.items()},
        }


@dataclass
class Totals:
    """Tallies of many parts, added up. kinds: part kind -> rows. repeats: kind -> REPEATS -> rows that say what an
    earlier row says already. samples: task -> [(hash, row id)]."""

    rows: Counter = field(default_factory=Counter)
    clips: dict = field(default_factory=dict)
    distances: dict = field(default_factory=dict)
    directions: dict = field(default_factory=dict)
    contacts: Counter = field(default_factory=Counter)
    sides: Counter = field(default_factory=Counter)
    waypoints: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    repeats: dict = field(default_factory=dict)
    samples: dict = field(default_factory=dict)

    def add(self, kind: str, facts: dict) -> None:
        """facts: of Tally, read back from JSON."""
        self.rows.update({tuple(key): count for *key, count in facts["rows"]})
        for *key, ids in facts["clips"]:
            self.clips.setdefault(tuple(key), set()).update(ids)
        for ours, theirs in ((self.distances, facts["distances"]), (self.directions, facts["directions"])):
            for task, counts in theirs.items():
                ours[task] = ours.get(task, 0) + np.array(counts)
        self.contacts.update(facts["contacts"])
        self.sides.update({tuple(key): count for *key, count in facts["sides"]})
        self.waypoints.update(facts["waypoints"])
        self.kinds[kind] += sum(count for *_, count in facts["rows"])
        self.repeats.setdefault(kind, Counter()).update(facts["repeats"])
        for task, ranked in facts["sample"].items():
            self.samples.setdefault(task, []).extend(ranked)

    def count(self, **fixed: str) -> int:
        """Rows with the given source, task or split."""
        return sum(n for key, n in self.rows.items() if all(key[_KEY.index(k)] == v for k, v in fixed.items()))

    def values(self, name: str) -> list[str]:
        """Sources, tasks or splits there are."""
        return sorted({key[_KEY.index(name)] for key in self.rows})


def _visual_keys(rows: pl.DataFrame, near_m: float) -> list[UInt64[np.ndarray, " r"]]:
    """For each of REPEATS a number a row, equal for rows that repeat each other."""
    same = ["clip_id", "task", "side", "object"]
    cells = np.floor(rows["vector"].to_numpy().reshape(-1, 3) / near_m + 0.5).astype(np.int64).reshape(-1)
    offsets = np.arange(len(rows) + 1) * 3
    near = _mixed(_hashes(rows, [*same, "frames"]), cells, offsets)
    return [_hashes(rows, [*same, "frames", "question", "answer"]), near, _mixed(_hashes(rows, same), cells, offsets)]


def _action_keys(rows: pl.DataFrame, near_m: float) -> list[UInt64[np.ndarray, " r"]]:
    same = ["clip_id", "task", "side", "instruction"]
    cells = np.floor(rows["waypoints"].explode(empty_as_null=False).to_numpy() / near_m + 0.5).astype(np.int64)
    offsets = np.concatenate([[0], rows["waypoints"].list.len().to_numpy().cumsum()]).astype(np.int64)
    texts = [*same, "frame", "prompt", "target_text", "context_tokens", "target_tokens"]
    near = _mixed(_hashes(rows, [*same, "frame"]), cells, offsets)
    return [_hashes(rows, texts), near, _mixed(_hashes(rows, same), cells, offsets)]


def _hashes(rows: pl.DataFrame, columns: list[str]) -> UInt64[np.ndarray, " r"]:
    return rows.select(pl.struct(*columns).hash(0)).to_series().to_numpy()


def _mixed(
    about: UInt64[np.ndarray, " r"], cells: Int[np.ndarray, " n"], offsets: Int[np.ndarray, " rows_1"]
) -> UInt64[np.ndarray, " r"]:
    """Hash of each row's whole numbers and what they are about; order counts. Row i: cells[offsets[i]:offsets[i + 1]]."""
    place = (np.arange(len(cells)) - np.repeat(offsets[:-1], np.diff(offsets))).astype(np.uint64)
    terms = (cells.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) * (2 * place + 1) * np.uint64(0xD6E8FEB86659FD93)
    terms ^= terms >> np.uint64(29)
    total = np.concatenate([[np.uint64(0)], np.cumsum(terms, dtype=np.uint64)])  # wraps, and differences still hold
    return (total[offsets[1:]] - total[offsets[:-1]]) ^ about


def quantile_m(counts: Iterable[int], edges: Float[np.ndarray, " e"], q: float) -> float:
    """Quantile of a histogram, linear within its bin; NaN for no counts. The last, open bin gives its lower edge."""
    counts = np.asarray(list(counts), float)
    if not counts.sum():
        return float("nan")
    below = np.concatenate([[0], counts.cumsum()])
    at = int(np.searchsorted(below[1:], q * counts.sum()))
    if not np.isfinite(edges[at + 1]):
        return float(edges[at])
    share = (q * counts.sum() - below[at]) / max(counts[at], 1)
    return float(edges[at] + share * (edges[at + 1] - edges[at]))
