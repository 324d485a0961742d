"""Tables that several checks look at, read and validated once while their file stays as it is.

Of validating a small table nearly all is pandera's cost a column, 20 ms whatever its length, and the clips of a shard
are read by five checks of two stages. Large tables are not kept: there the rows are the cost, and memory is.
"""

from functools import lru_cache
from pathlib import Path

import polars as pl

from ops import tables

MAX_BYTES = 2_000_000  # of a file


def read(name: str, path: Path) -> pl.DataFrame:
    """`tables.read`, remembered by the file's identity, size and time of change. Do not change the table in place."""
    status = path.stat() if path.is_file() else None
    if status is None or status.st_size > MAX_BYTES:
        return tables.read(name, path)
    return _read(name, path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(name: str, path: Path, *_version: int) -> pl.DataFrame:
    return tables.read(name, path)
