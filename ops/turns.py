"""One maker of an artefact at a time, out of inputs that hold still.

Two runs of the same partition, whoever started them (console, demo, Dagster, `dvc repro`), take turns: a lock file for
each artefact is held while it is made, checked and recorded, and those of its inputs are shared meanwhile, so that
nobody replaces what another reads. The kernel drops the locks of a killed process. Whoever waited finds what the other
made. Parameters, code and videos cannot be locked: where they changed meanwhile, the output is not recorded.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from ops import code_version, config
from ops.config import Config
from ops.data_version import address
from ops.dvc_file import parameters
from ops.stages import BY_NAME, STAGES, Stage

POLL_S = 0.2
SAY_EVERY_S = 60.0
WAIT_INSIDE_DVC_S = 10.0
"""`dvc repro` holds DVC's own lock on the output while our command runs, and the maker needs that to record: waiting
longer would make both wait for ever."""


class BusyError(OSError):
    """Another process makes the artefact, or what it is made from; the message says which, and what to do."""


@contextlib.contextmanager
def alone(root: Path, settings: Config, name: str, shard: str = "") -> Iterator[bool]:
    """Hold an artefact for oneself and its inputs as they are; yields whether that had to be waited for.

    Raises BusyError where waiting took longer than HAND3D_WAIT_S (default: for ever; inside `dvc repro` 10 s).
    """
    own = address(name, shard)
    with contextlib.ExitStack() as held:
        waited = [
            held.enter_context(_lock(root, lock, lock == own))
            for lock in _in_order(own, _inputs(BY_NAME[name], shard, settings))
        ]
        yield any(waited)


def _inputs(stage: Stage, shard: str, settings: Config) -> set[str]:
    """Addresses of what a stage reads."""
    shards = [shard] if shard else list(settings.shards)
    return {address(read, key) for read in stage.reads for key in (shards if BY_NAME[read].partitioned else [""])}


def _in_order(own: str, inputs: set[str]) -> list[str]:
    """In the graph's order, the same for all, so that no two wait for each other."""
    order = [stage.name for stage in STAGES]
    return sorted({own, *inputs}, key=lambda lock: (order.index(lock.split("@")[0]), lock))


@contextlib.contextmanager
def _lock(root: Path, address: str, ours: bool) -> Iterator[bool]:
    """ours: for oneself, not shared."""
    path = root / "data" / ".scratch" / ".locks" / address.replace("/", "%2F")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        waited = _wait(root, file, address, ours)
        if ours:
            file.truncate(0)
            file.write(json.dumps({"process": os.getpid(), "since": time.time(), "command": _command()}))
            file.flush()
        yield waited


def _wait(root: Path, file: IO[str], address: str, ours: bool) -> bool:
    """Until the lock is ours; returns whether it was another's. The lock ends with the file."""
    start, said, limit = time.monotonic(), -SAY_EVERY_S, _limit()
    while True:
        if ours and (other := _dvc_writes(root, address)):
            who = other
        elif _try(file, fcntl.LOCK_EX if ours else fcntl.LOCK_SH):
            if not (ours and _dvc_writes(root, address)):  # it may have begun just now
                return said >= 0
            fcntl.flock(file, fcntl.LOCK_UN)
            continue
        else:
            who = _holder(file)
        spent = time.monotonic() - start
        if spent > limit:
            raise BusyError(f"{address} is in use by {who}: run again when it has ended, or end it")
        if spent - said >= SAY_EVERY_S:
            print(f"{address} is in use by {who}: waiting (Ctrl-C gives up)", file=sys.stderr, flush=True)
            said = spent
        time.sleep(POLL_S)


def _try(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _limit() -> float:
    if "DVC_STAGE" in os.environ:
        return WAIT_INSIDE_DVC_S
    text = os.environ.get("HAND3D_WAIT_S", "inf")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"HAND3D_WAIT_S is a number of seconds, got {text!r}") from None


def _holder(file: IO[str]) -> str:
    """Who wrote the lock file last; of those that share a lock nothing is written."""
    file.seek(0)
    try:
        known = json.loads(file.read())
        since = datetime.fromtimestamp(known["since"]).astimezone().isoformat(timespec="seconds")
        return (
            f"a run that makes or reads it (last made by process {known['process']}, {known['command']}, since {since})"
        )
    except (ValueError, KeyError, TypeError):
        return "a run that makes or reads it"


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:120]


def _dvc_writes(root: Path, address: str) -> str:
    """A `dvc` command, other than the one that started us, that is making this artefact: DVC lists those in a file."""
    if "DVC_STAGE" in os.environ:
        return ""
    import psutil

    listed = root / ".dvc" / "tmp" / "rwlock"
    try:
        writers = json.loads(listed.read_text(encoding="utf-8")).get("write", {})
    except (OSError, ValueError):  # none yet, or being written
        return ""
    output = os.fspath(root.resolve() / "data" / Path(*address.split("@", 1)))
    writer = writers.get(output)
    if writer and writer["pid"] != os.getpid() and psutil.pid_exists(writer["pid"]):
        return f"`{writer['cmd']}` (process {writer['pid']})"
    return ""


def inputs_now(root: Path, settings: Config, name: str, shard: str = "") -> dict[str, str]:
    """What of an artefact's inputs cannot be locked: kind -> fingerprint. settings: those that the run uses."""
    stage = BY_NAME[name]
    videos = [root / settings.shards[shard].root] if shard and not stage.reads else []
    return {
        "parameters": parameters(stage, settings),
        "code": listing(code_version.code_files(stage)),
        "files": listing([root / file for file in stage.files]),
        "videos": listing(videos),
    }


def changed(root: Path, before: dict[str, str], name: str, shard: str = "") -> list[str]:
    """Kinds of inputs that are not what they were."""
    settings = config.load(root / "params.yaml")
    if shard and shard not in settings.shards:
        return ["parameters"]
    now = inputs_now(root, settings, name, shard)
    return [kind for kind, mark in before.items() if now[kind] != mark]


def listing(paths: list[Path]) -> str:
    """Names, sizes and times of files and of all files below folders."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            stat = file.stat() if file.exists() else None
            digest.update(f"{file}\0{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()
