"""Hand3D release: rows from a shard's table to Parquet, conversations and tallies, and the memory that takes.

The peer is the usual way: read the whole table, one dictionary and one json.dumps a row, then write all of it. Both make the
same conversation lines, which is asserted. Memory is the peak of a fresh process over that of its imports.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from bench.measure import cpu_s, row
from ops import tables
from ops.hand3d import motion_tokens
from ops.hand3d.release import conversations, parts, write

NUM_ROWS, FULL_SIZE, NUM_WAYPOINTS = 20_000, 1_030_850, 30
# VmHWM, since getrusage's peak is inherited from the process that started this one
PEAK = """
import sys
from pathlib import Path
import bench.bench_hand3d_dataset as bench
import ops.hand3d.audit, pyarrow.parquet
def peak_kb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak_kb()
bench.{way}(Path(sys.argv[1]), Path(sys.argv[2]))
print("PEAK", (peak_kb() - before) / 1024)
"""


def rows() -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = made_rows(folder / "rows.parquet", NUM_ROWS)
        assert _lines(table) == _plain_lines(table)
        ours_s = cpu_s(lambda: ours(folder / "rows.parquet", folder / "ours"), 3)
        peer_s = cpu_s(lambda: plain(folder / "rows.parquet", folder / "plain"), 3)
        text = "streamed expressions with tallies vs read all, json.dumps a row"
        speed = row("release, motion rows to Parquet and conversations", NUM_ROWS, ours_s, peer_s, "rows/s", text)
        return [speed, _memory(folder)]


def _memory(folder: Path) -> dict[str, object]:
    """Ours at the paper's size, the peer at a fifth of it, as it would not fit here otherwise."""
    made_rows(folder / "full.parquet", FULL_SIZE)
    made_rows(folder / "fifth.parquet", FULL_SIZE // 5)
    ours_mb, peer_mb = (
        peak_mb("ours", folder / "full.parquet", folder / "a"),
        5 * peak_mb("plain", folder / "fifth.parquet", folder / "b"),
    )
    note = f"peak of {FULL_SIZE:,} rows; lower is better; peer measured at a fifth and scaled"
    return {"name": "release, memory (lower is better)", "ours": ours_mb, "peer": peer_mb, "unit": "MB", "ratio": peer_mb / ours_mb, "note": note}  # fmt: skip


def peak_mb(way: str, path: Path, folder: Path) -> float:
    """Peak memory of `ours` or `plain` in a process of its own, over its imports."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "POLARS_MAX_THREADS": "1"}
    command = [sys.executable, "-c", PEAK.format(way=way), path, folder]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    return float(done.stdout.split("PEAK")[1])


def made_rows(path: Path, num: int, per_file: int = 50_000) -> pl.DataFrame:
    """Motion rows of NUM_WAYPOINTS waypoints, 100 a clip, in row groups; returns the first of them."""
    rng = np.random.default_rng(0)
    first = None
    with tables.writer("action_rows", path) as append:
        for start in range(0, num, per_file):
            table = _rows(start, min(per_file, num - start), rng)
            append(table)
            first = table if first is None else first
    return first


def _rows(start: int, num: int, rng: np.random.Generator) -> pl.DataFrame:
    steps = rng.normal(0, 0.004, (num, NUM_WAYPOINTS, 3)).cumsum(axis=1)
    points = (np.array([0.0, 0.0, 0.5]) + steps).astype(np.float32)
    tokens = motion_tokens.encode(points)[0].reshape(num, -1)
    number = pl.int_range(start, start + num, eager=True)
    clip = "egodex/clip-" + (number // 100).cast(pl.String).str.zfill(7)
    path_m = np.linalg.norm(np.diff(points, axis=1), axis=2).sum(1)
    values = {
        "row_id": clip + ":" + number.cast(pl.String), "clip_id": clip, "source": "EgoDex", "split": "train",
        "task": tables.ACTION_TASKS[0], "chunk": 0, "frame": number % 300, "level": "second", "start_s": number % 300 / 30,
        "side": "right", "instruction": "pick up the cup", "prompt": "To pick up the cup, how does the right hand move?",
        "context_tokens": pl.Series([[]] * num, dtype=pl.List(pl.UInt16)), "target_tokens": pl.Series(tokens).cast(pl.List(pl.UInt16)),
        "target_text": None, "waypoints": pl.Series(points.reshape(num, -1)).cast(pl.List(pl.Float32)), "waypoint_hz": 15.0,
        "displacement_m": path_m, "num_clipped": motion_tokens.clipped(points.reshape(-1, 3)).reshape(num, -1).sum(1),
        "intrinsics": "given", "licence": "CC BY-NC-ND 4.0", "noncommercial": True, "redistributable": False,
    }  # fmt: skip
    named = [
        pl.Series(k, v) if isinstance(v, pl.Series | np.ndarray) else pl.lit(v).alias(k) for k, v in values.items()
    ]
    return pl.select(*named).select(pl.col(name).cast(kind) for name, kind in tables.dtypes("action_rows").items())


def _clips(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("clip_id").unique()).with_columns(frame_width=448, frame_height=252)


def ours(path: Path, folder: Path) -> None:
    """As the stage does it, but for the frames: every batch to Parquet, InternVL's lines, tallies."""
    part = parts.Part("action", "train", "full", path)
    counted = write.Tally(0.01, 42, 48)
    folder.mkdir(exist_ok=True)
    with write._Parquet(folder / "rows.parquet") as table, (folder / "rows.jsonl").open("w", encoding="utf-8") as lines:
        for batch in part.batches():
            table.add(batch)
            counted.add("action", batch)
            lines.write("\n".join(conversations.records(batch, _clips(batch), "internvl")) + "\n")
    counted.facts()


def plain(path: Path, folder: Path) -> None:
    """Read, loop, dump, write."""
    folder.mkdir(exist_ok=True)
    table = pl.read_parquet(path)
    (folder / "rows.jsonl").write_text("\n".join(_plain_lines(table)), encoding="utf-8")
    table.write_parquet(folder / "rows.parquet", compression="zstd")


def _lines(table: pl.DataFrame) -> list[str]:
    return conversations.records(table, _clips(table), "internvl").to_list()


def _plain_lines(table: pl.DataFrame) -> list[str]:
    return [json.dumps(_plain_record(item), separators=(",", ":")) for item in table.iter_rows(named=True)]


def _plain_record(item: dict) -> dict:
    motion = "<mot>" + "".join(f"<motion_{t}>" for t in item["target_tokens"]) + "</mot>"
    turns = [{"from": "human", "value": "<image>\n" + item["prompt"]}, {"from": "gpt", "value": motion}]
    return {"id": item["row_id"], "image": f"{item['clip_id']}/{item['frame']:06d}.jpg", "width": 448, "height": 252, "conversations": turns}  # fmt: skip
