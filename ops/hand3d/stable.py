"""Choices that depend on a row's id and nothing else: not on order, batch size, process or library version.

CRC-32 of the id, spread by the splitmix64 finaliser. Not for secrets.
"""

import zlib
from collections.abc import Iterable

import numpy as np
import polars as pl
from jaxtyping import UInt64


def stable_hash(ids: Iterable[str], seed: int, purpose: str) -> UInt64[np.ndarray, " rows"]:
    """One 64-bit number an id. Different purposes (as "template", "frames") give unrelated numbers for the same id."""
    start = zlib.crc32(f"{seed}:{purpose}".encode())
    listed = ids.to_list() if isinstance(ids, pl.Series) else ids
    crc = np.array([zlib.crc32(item.encode(), start) for item in listed], np.uint64)
    mixed = (crc << np.uint64(32)) | (crc ^ np.uint64(start))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def choose(ids: Iterable[str], num: int, seed: int, purpose: str) -> np.ndarray:
    """(rows,) int64 in [0, num), uniform over ids."""
    return (stable_hash(ids, seed, purpose) % np.uint64(num)).astype(np.int64)
