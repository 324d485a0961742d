"""What a release is made of: the row tables of each shard, read in batches, and work that is done once a shard.

A part is the rows of one kind and split from one shard; all its files carry its name, so an interrupted release goes on
at the first part that was not finished, and no step holds more than one batch of rows.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from ops.config import Config
from ops.hand3d import sampling
from ops.store import write_file

BATCH_ROWS = 10_000
DONE = "done.json"


@dataclass(frozen=True)
class Part:
    """kind: "visual" or "action". shard: a key of params.yaml, or "all" for the one test set of all shards.

    chosen: a Parquet table of the file's row ids that belong to Hand3D, named by its content; None = all of them.
    """

    kind: str
    split: str
    shard: str
    path: Path
    chosen: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.split}-{self.shard}"

    def rows(self) -> pl.LazyFrame:
        rows = pl.scan_parquet(self.path).filter(split=self.split)
        if self.chosen is None:
            return rows
        return rows.join(pl.scan_parquet(self.chosen), on="row_id", how="semi", maintain_order="left")

    def count(self) -> int:
        return self.rows().select(pl.len()).collect().item()

    def stamp(self) -> list[object]:
        """What says that the part is the same."""
        return [*stamp(self.path), self.chosen and self.chosen.name]

    def batches(self, num_rows: int = BATCH_ROWS) -> Iterator[pl.DataFrame]:
        """The part's rows in their order, num_rows at a time (the last batch has fewer); read as they are needed."""
        rows = self.rows()
        held: list[pl.DataFrame] = []
        for batch in rows.collect_batches(chunk_size=num_rows, maintain_order=True):
            held.append(batch)
            while sum(map(len, held)) >= num_rows:
                together = pl.concat(held)
                yield together.head(num_rows)
                held = [together.slice(num_rows)]
        left = pl.concat(held) if held else pl.DataFrame()
        if len(left):
            yield left


def released(folder: Path, part: Part) -> Path:
    """The Parquet file of a part in a release; it is not there for no rows."""
    return folder / "parquet" / part.kind / f"{part.split}-{part.shard}.parquet"


def num_released(folder: Path, part: Part) -> int:
    path = released(folder, part)
    return pq.ParquetFile(path).metadata.num_rows if path.is_file() else 0


def list_parts(visual: Path, action: Path, test: Path, shards: list[str]) -> list[Part]:
    """All parts, in a fixed order. Raises FileNotFoundError naming the stage whose output is missing."""
    parts = [Part("visual", "train", shard, visual / shard / "visual_rows.parquet") for shard in shards]
    parts.append(Part("visual", "test", "all", test / "visual_rows.parquet"))
    parts += [
        Part("action", split, shard, action / shard / "action_rows.parquet")
        for split in ("train", "test")
        for shard in shards
    ]
    missing = [part.path for part in parts if not part.path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing: run hand3d_visual, hand3d_action and hand3d_test first")
    return parts


def choose(
    parts: list[Part], visual: Path, action: Path, clips: pl.DataFrame, config: Config, folder: Path
) -> tuple[list[Part], list[str]]:
    """The same parts with the rows that the targets of params.yaml choose (ops.hand3d.sampling), and what was done, in
    words. Ids are kept in `folder`. Without targets nothing is chosen, and nothing written."""
    made, files = {}, {}
    if config.hand3d_visual.targets is not None or config.hand3d_visual.num_clips is not None:
        made["visual"] = visual, sampling.choose_visual(visual, clips, config.hand3d_visual)
    if config.hand3d_action.targets is not None:
        made["action"] = action, sampling.choose_action(action, config.hand3d_action)
    for kind, (stage, choice) in made.items():
        for path, kept in sampling.marked(f"{kind}_rows", stage, choice):
            files[path] = _keep_ids(pl.read_parquet(path, columns=["row_id"]).filter(kept), folder, kind)
    notes = [f"Hand3D-{kind}: {note}" for kind, (_, choice) in made.items() for note in choice.notes]
    return [replace(part, chosen=files.get(part.path)) for part in parts], notes


def _keep_ids(row_id: pl.DataFrame, folder: Path, kind: str) -> Path:
    digest = hashlib.sha256("\n".join(row_id["row_id"]).encode()).hexdigest()[:16]
    path = folder / f"chosen-{kind}-{digest}.parquet"
    row_id.write_parquet(path)
    return path


def once(scratch: Path, name: str, key: object, make: Callable[[Path], dict]) -> tuple[Path, dict]:
    """Folder and facts of a piece of work; made anew unless an interrupted run finished it from the same inputs.

    key: whatever the result follows from (JSON or its text). make(folder) fills the folder and returns JSON facts.
    """
    folder = scratch / name
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    done = folder / DONE
    if done.is_file():
        kept = json.loads(done.read_text(encoding="utf-8"))
        if kept["key"] == digest:
            return folder, kept["facts"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = make(folder)
    write_file(done, json.dumps({"key": digest, "facts": facts}).encode())
    return folder, facts


def stamp(*paths: Path) -> list[list[object]]:
    """Size and time of change of input files: the part of a key that says they are the same."""
    return [[os.fspath(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def link_tree(source: Path, target: Path) -> None:
    """Every file of a finished piece into the release, without copying bytes; the piece stays for a re-run."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.name != DONE:
            there = target / path.relative_to(source)
            there.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, there)
