"""Where things lie on disk, and writes that are whole or absent.

A stage fills a temporary folder; only when it has returned does the folder change places with the output before it, in
one step of the file system. A killed stage leaves the previous output untouched. What a long stage wants to keep across an interruption (finished clips, optimiser
state) goes into its scratch folder, which is removed once the output stands.
"""

import ctypes
import errno
import json
import os
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ops.rejects import Reject

if TYPE_CHECKING:
    import polars as pl


@dataclass
class Report:
    """What a stage says about its output; written as ``report.json`` into it and shown as asset metadata.

    rows: table name -> number of rows. metrics: name -> number (unit in the name, as ``_m``, ``_px``).
    rejects: reason -> count. pictures: title -> PNG path relative to the output folder.
    tables: title -> rows of a small table (at most 50), for the asset page and the HTML report.
    notes: sentences for a reader; facts such as "smoke score: 10 trials of 1 task".
    """

    rows: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        (folder / "report.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Report":
        return cls(**json.loads((folder / "report.json").read_text(encoding="utf-8")))


def write_rejects(folder: Path, rejects: list[Reject], report: Report) -> None:
    """Keep every reject as a row and count it by reason."""
    from ops import tables  # polars and pandera take half a second, which definitions do not need

    tables.write("rejects", tables.frame("rejects", [reject.row() for reject in rejects]), folder / "rejects.parquet")
    report.rejects = dict(sorted(Counter(str(reject.reason) for reject in rejects).items()))


def write_reject_table(folder: Path, rejects: "pl.DataFrame", report: Report) -> None:
    """`write_rejects` for rejects that are a table already."""
    from ops import tables

    tables.write("rejects", rejects, folder / "rejects.parquet")
    report.rejects = dict(rejects.group_by("reason").len().sort("reason").iter_rows())


def write_file(path: Path, data: bytes) -> None:
    """Whole or absent: temp name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk gets its bytes back
        raise


@contextmanager
def whole_folder(target: Path, partial: Path):
    """Yield `partial`, made empty, which takes the place of `target` if, and only if, the block succeeds.

    partial: on the target's file system, and not beside it: whoever lists shards would find half of one.
    """
    _remove(partial)  # left by a killed run
    if _aside(partial).exists() and not target.exists():
        _aside(partial).rename(target)  # killed between the two renames of `replace_folder`
    partial.mkdir(parents=True)
    try:
        yield partial
        replace_folder(partial, target)
    except BaseException:
        _remove(partial)
        raise


def replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder of the same file system in the place of `target`, whose readers see one or the other.

    Where the file system cannot exchange two names at once (NFS), there is neither for an instant.
    """
    _sync(new)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        new.rename(target)
    elif not _exchange(new, target):
        _remove(_aside(new))
        target.rename(_aside(new))
        new.rename(target)
    _remove(new)  # by now the old one, if there was one
    _remove(_aside(new))


@contextmanager
def saying_when_full(root: Path):
    """Turn whatever a full disk makes a library say in the block into an OSError with advice."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        free = shutil.disk_usage(root).free / 1e9
        advice = f"the disk holding {root} is full ({free:.2f} GB left); finished artefacts are intact: free space and run again"
        raise OSError(errno.ENOSPC, advice) from error


def _is_full(error: BaseException | None) -> bool:
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "database or disk is full" in str(error) or _is_full(error.__cause__ or error.__context__)


def _aside(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once; False where the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(one.absolute()), here, os.fsencode(other.absolute()), swap) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
