"""Content versions of artefacts as DVC computes them, and dvc.lock kept in step with whoever made the artefact.

After the console or Dagster has made an artefact, `commit` records it, so that `dvc status` is clean and `dvc repro`
skips it; `stale` asks DVC what is not up to date, so that Dagster skips what `dvc repro` made. The repository's lock is
held for the commit only (0.1 to 0.3 s), never while a stage computes.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ops import dvc_file, dvc_lock
from ops.store import write_file

CONFIG = """[core]
    analytics = false
    check_update = false
    autostage = false
[cache]
    # not reflink: where the disk cannot, DVC copies, and every artefact lies there twice
    # not symlink: a container that mounts the workspace does not see the cache
    type = "hardlink,copy"
"""
IGNORE = """# left by killed runs, and what a running stage keeps for itself
/data/.scratch
/data/**/.*.partial
/data/**/.*.old
"""
LOCK_WAIT_S = 120.0
WHOLE_LOCK = "dvc.lock.whole"


def address(name: str, shard: str = "") -> str:
    """DVC's name of a stage: "mano_fits@pose2sim", "champion"."""
    return f"{name}@{shard}" if shard else name


def prepare(root: Path) -> None:
    """Make a workspace a DVC repository, with or without git, whose dvc.yaml is up to date. Idempotent."""
    if not (root / ".dvc" / "config").is_file():
        write_file(root / ".dvc" / "config", CONFIG.encode())
    if not (root / ".dvcignore").is_file():
        write_file(root / ".dvcignore", IGNORE.encode())
    local = root / ".dvc" / "config.local"
    said = "no_scm" in (local.read_text(encoding="utf-8") if local.is_file() else "")
    if not said and not _has_git(root):  # asking git is a process
        _add_no_scm(local)
    weights = os.environ.get("HAND3D_WEIGHTS")
    if weights and not (root / "data" / "weights").exists():
        (root / "data").mkdir(exist_ok=True)
        (root / "data" / "weights").symlink_to(Path(weights).absolute(), target_is_directory=True)
    mend(root)
    verify_remotes(root)
    dvc_file.write(root)


def verify_remotes(root: Path) -> None:
    """Have DVC check the bytes of whatever it pulls: it trusts a remote unless told not to, and takes damaged ones in.

    A remote that says `verify = false` itself is left at that.
    """
    path = root / ".dvc" / "config"
    parts = re.split(r"(?m)^(?=\[)", path.read_text(encoding="utf-8"))
    told = [
        part.rstrip("\n") + "\n    verify = true\n" if part.startswith("['remote ") and "verify" not in part else part
        for part in parts
    ]
    if told != parts:
        write_file(path, "".join(told).encode())


def mend(root: Path) -> list[str]:
    """Undo what a `dvc` command leaves that is killed while it writes its files in place; returns what was mended.

    dvc.lock: the last whole one comes back, and what was recorded since then counts as stale; the damaged one is kept in
    .dvc/tmp. DVC's list of running commands: it is begun anew, without which every command would be refused.
    """
    mended, tmp = [], root / ".dvc" / "tmp"
    lock = root / "dvc.lock"
    if lock.is_file() and not _whole(root, lock.read_text("utf-8", "replace")) and _parsed(lock) is None:
        with _queue(root):
            shutil.copyfile(root / "dvc.lock", tmp / "dvc.lock.damaged")
            kept = tmp / WHOLE_LOCK
            write_file(root / "dvc.lock", kept.read_bytes() if kept.is_file() else dvc_lock.EMPTY.encode())
        mended.append("dvc.lock: the last whole one is back")
    if (tmp / "rwlock").is_file() and _parsed(tmp / "rwlock", end="}") is None:
        (tmp / "rwlock").unlink()
        mended.append("list of running dvc commands: begun anew")
    for what in mended:
        print(f"damaged by a dvc command that was killed, and mended: {what}", file=sys.stderr, flush=True)
    return mended


def _parsed(path: Path, end: str = "\n") -> dict | None:
    """Content of a YAML or JSON file of DVC's; None where it was not written to its end, and nobody is writing it."""
    for _ in range(20):
        try:
            text = path.read_text(encoding="utf-8")
            content = dvc_lock.parsed(text)
            if text.endswith(end) and isinstance(content, dict):
                return content
        except (OSError, ValueError, yaml.YAMLError):
            pass  # looked at again
        time.sleep(0.1)
    return None


def content_hash(root: Path, name: str, shard: str = "") -> str:
    """DVC's md5 of an artefact's folder as it lies on disk ("<md5>.dir"). Raises FileNotFoundError if not made."""
    from dvc_data.hashfile.build import build

    with _repo(root) as repo:
        (stage,) = repo.stage.collect(_target(root, address(name, shard)))
        (out,) = stage.outs
        if not out.exists:
            raise FileNotFoundError(f"{out.fs_path} is missing: run `hand3d run {name}` first")
        _, _, built = build(out.cache, out.fs_path, out.fs, "md5", dry_run=True, ignore=out.dvcignore)
        return built.hash_info.value


def commit(root: Path, name: str, shard: str = "") -> str:
    """Record an artefact, its inputs, code and parameters in dvc.lock and the cache; returns its content hash.

    Raises TimeoutError when another process holds the repository for two minutes.
    """
    target = _target(root, address(name, shard))
    deadline = time.monotonic() + LOCK_WAIT_S
    with _queue(root):
        while True:
            try:
                with _repo(root) as repo:
                    (stage,) = repo.commit(target, force=True)
                    _keep(root)
                    return stage.outs[0].hash_info.value
            except _lock_error() as error:
                _wait(deadline, f"dvc.lock could not be written for {address(name, shard)}", error)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[Any]:
    """The DVC repository, with its lock held: nothing is committed meanwhile, by whomever.

    Raises TimeoutError when another process holds it for two minutes.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    with _queue(root), _repo(root) as repo, contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(repo.lock)
                break
            except _lock_error() as error:
                _wait(deadline, f"{root} is in use by DVC", error)
        yield repo


def _lock_error() -> type[Exception]:
    from dvc.lock import LockError

    return LockError


def _wait(deadline: float, what: str, error: Exception) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{what}: {error}") from error
    time.sleep(0.2)


def recorded(root: Path) -> Mapping[str, dict]:
    """Stages of dvc.lock: address -> its entry (cmd, deps, params, outs); empty where nothing was made."""
    path = root / "dvc.lock"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    if not _whole(root, text) and _parsed(path) is None:
        raise ValueError(f"{path} is damaged (a dvc command was killed?): `hand3d status` puts the last whole one back")
    return dvc_lock.Stages(text)


def _whole(root: Path, text: str) -> bool:
    """Whether it is what our last commit wrote, to the byte; else somebody else did, and it has to be parsed to know."""
    kept = root / ".dvc" / "tmp" / WHOLE_LOCK
    return kept.is_file() and kept.read_text(encoding="utf-8") == text


def recorded_version(root: Path, name: str, shard: str = "") -> str | None:
    """Content hash of an artefact as of the last commit, by whomever."""
    entry = recorded(root).get(address(name, shard))
    return entry["outs"][0]["md5"] if entry else None


def stale(root: Path, targets: list[str] | None = None) -> dict[str, str]:
    """Addresses that are missing or out of date -> why. Does not propagate: a stage is judged by what lies on disk."""
    return {target: _why(entries) for target, entries in differences(root, targets).items()}


def differences(root: Path, targets: list[str] | None = None) -> dict[str, list]:
    """What DVC's status says, by address: what is missing or out of date and how, in DVC's own words."""
    with _repo(root) as repo:
        changed = repo.status(targets=targets and [_target(root, target) for target in targets])
    # DVC names stages relative to the working directory: "../workspace/dvc.yaml:mano_fits@pose2sim"
    return {target.rsplit(":", 1)[-1]: entries for target, entries in changed.items()}


def _target(root: Path, address: str) -> str:
    """Wherever the working directory is."""
    return f"{root.resolve() / 'dvc.yaml'}:{address}"


def _why(entries: list) -> str:
    reasons = []
    for entry in entries:
        if isinstance(entry, str):
            reasons.append(entry)
            continue
        for kind, items in entry.items():
            for path, state in items.items():
                reasons.append(_reason(kind, path, state))
    return "; ".join(reasons[:3]) + (f"; {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _reason(kind: str, path: str, state: object) -> str:
    if isinstance(state, dict):  # a parameters file: {section.key: state}
        return f"{', '.join(state)} changed in {path}"
    return f"{path} {state}" if kind != "changed outs" else f"output {state}"


@contextlib.contextmanager
def _repo(root: Path) -> Iterator:
    """Import late: DVC takes half a second, and the console's start-up must not."""
    import logging

    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    dvc_lock.install()
    with Repo(os.fspath(root.resolve())) as repo:
        yield repo


def _keep(root: Path) -> None:
    """A copy of dvc.lock as it is now, for `mend`."""
    new = root / ".dvc" / "tmp" / f"{WHOLE_LOCK}.new"
    new.unlink(missing_ok=True)
    shutil.copyfile(root / "dvc.lock", new)
    new.replace(root / ".dvc" / "tmp" / WHOLE_LOCK)


@contextlib.contextmanager
def _queue(root: Path) -> Iterator[None]:
    """Our own processes wait in line for DVC's lock, which gives up after three seconds."""
    path = root / ".dvc" / "tmp" / "hand3d.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _has_git(root: Path) -> bool:
    if shutil.which("git") is None:
        return False
    run = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=root, capture_output=True, text=True)
    return run.returncode == 0


def _add_no_scm(local: Path) -> None:
    text = local.read_text(encoding="utf-8") if local.is_file() else ""
    write_file(local, (text + "[core]\n    no_scm = true\n").encode())
