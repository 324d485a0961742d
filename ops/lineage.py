"""From an artefact back to what it was made from: content, code, parameters, folders of videos and labels (dvc.lock).

dvc.lock names, for each artefact, the content it was made from. An artefact further up may have been made again since;
a link counts only if the content recorded for the maker is the content that the reader read, so that nothing is listed
that an artefact was not made from.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops import dvc_cache
from ops.data_version import address, recorded
from ops.stages import BY_NAME

SUFFIX_CODE = ".py"
SCORES = "benchmark_scores"

Lock = Mapping[str, dict]
"""Stages of a dvc.lock: address -> its entry (cmd, deps, params, outs)."""


@dataclass(frozen=True)
class Link:
    """`reader` was made from `maker`'s output. exact: from the content that the lock records for it; else from an
    earlier state of it."""

    reader: str
    maker: str
    exact: bool


def links(root: Path, lock: Lock, shards: Collection[str] = ()) -> list[Link]:
    """Every edge between artefacts of a lock, each checked by content. shards: of params.yaml; entries of a shard that
    was taken out stay in dvc.lock, and do not count where the reader's input holds exactly the others."""
    inside = below(lock)
    found: list[Link] = []
    if not lock:
        return found
    with dvc_cache.opened(root) as cache:
        known: dict[tuple, str | None] = {}
        for reader, entry in lock.items():
            for dep in data(entry):
                makers, exact = _makers(cache, dep, inside.get(dep["path"], {}), shards, known)
                found += [Link(reader, maker, exact) for maker in makers]
    return found


def below(lock: Lock) -> dict[str, dict[str, tuple[str, str]]]:
    """Folder -> the outputs at or below it: path -> (stage, content hash)."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for stage, entry in lock.items():
        for out in entry["outs"]:
            for folder in (out["path"], *(parent.as_posix() for parent in Path(out["path"]).parents)):
                found.setdefault(folder, {})[out["path"]] = (stage, out["md5"])
    return found


def behind(lock: Lock, found: Iterable[Link], starts: Sequence[str]) -> list[str]:
    """`starts` and every artefact that they were made from, nearest first, over exact links."""
    return reachable(
        [start for start in starts if start in lock], ((link.reader, link.maker) for link in found if link.exact)
    )


def reachable(starts: Sequence[str], edges: Iterable[tuple[str, str]]) -> list[str]:
    """`starts` and everything that edges (from, to) lead to, nearest first."""
    following: dict[str, list[str]] = {}
    for here, there in edges:
        following.setdefault(here, []).append(there)
    queue, seen = list(starts), []
    while queue:
        address = queue.pop(0)
        if address not in seen:
            seen.append(address)
            queue += following.get(address, [])
    return seen


def broken(found: Iterable[Link], stages: Collection[str]) -> list[str]:
    """What some of `stages` were made from and the lock no longer describes, in words."""
    pairs = sorted({(link.reader, link.maker) for link in found if link.reader in stages and not link.exact})
    return [f"{reader} was made from an earlier state of {maker}" for reader, maker in pairs]


def unrecorded(lock: Lock, found: Iterable[Link], stages: Collection[str]) -> list[str]:
    """Artefacts that some of `stages` read and of which the lock has no entry, in words."""
    read = {(link.reader, link.maker.partition("@")[0]) for link in found}
    return [
        f"{stage} was made from {dep['path']}, of which dvc.lock records nothing"
        for stage in stages
        for dep in data(lock[stage])
        for name in Path(dep["path"]).parts[1:2]
        if dep["path"].startswith("data/") and name in BY_NAME and (stage, name) not in read
    ]


def champion_lineage(root: Path, name: str = "champion") -> list[dict[str, object]]:
    """One row an artefact behind `name` as dvc.lock has it now, nearest first; empty where nothing was recorded.

    Columns: artefact, content (DVC's hash), made_from (artefacts and folders of videos with their hashes), code (one
    hash over its code files), params (as used), and earlier: inputs that were made again since, "" for none.
    """
    lock = dict(recorded(root))
    if address(name) not in lock:
        return []
    return rows(lock, found := links(root, lock, shards_of(root)), behind(lock, found, [address(name)]))


def rows(lock: Lock, found: Sequence[Link], stages: Sequence[str]) -> list[dict[str, object]]:
    """As `champion_lineage`, for these stages of any lock."""
    return [_row(stage, lock[stage], found) for stage in stages]


def data(entry: dict) -> list[dict]:
    """What a stage read beside its code: {"path", "md5"}."""
    return [dep for dep in entry.get("deps", []) if not dep["path"].endswith(SUFFIX_CODE)]


def shards_of(root: Path) -> list[str]:
    """Shards that params.yaml names now."""
    from ops import config

    return list(config.load(root / "params.yaml").shards)


def _makers(
    cache: Any, dep: dict, inside: dict[str, tuple[str, str]], shards: Collection[str], known: dict
) -> tuple[list[str], bool]:
    """Stages whose outputs (path -> stage, hash) a dependency is made of, and whether its hash proves it."""
    everything = [stage for stage, _ in inside.values()]
    if dep["path"] in inside:
        return everything, inside[dep["path"]][1] == dep["md5"]
    present = {path: made for path, made in inside.items() if made[0].partition("@")[2] in shards}
    for chosen in (present, inside):
        parts = {Path(path).relative_to(dep["path"]).as_posix(): md5 for path, (_, md5) in chosen.items()}
        key = tuple(sorted(parts.items()))
        if key not in known:
            known[key] = dvc_cache.joined(cache, parts) if parts else None
        if known[key] == dep["md5"]:
            return [stage for stage, _ in chosen.values()], True
    return everything, False


def _row(stage: str, entry: dict, found: Sequence[Link]) -> dict[str, object]:
    code = sorted((dep["path"], dep["md5"]) for dep in entry.get("deps", []) if dep["path"].endswith(SUFFIX_CODE))
    params = {key: value for file in entry.get("params", {}).values() for key, value in file.items()}
    read = data(entry)
    return {
        "artefact": stage,
        "content": _short(entry["outs"][0]["md5"]),
        "made_from": ", ".join(f"{dep['path']} {_short(dep['md5'])}" for dep in read) or "nothing recorded",
        "code": f"{hashlib.sha256(json.dumps(code).encode()).hexdigest()[:10]} ({len(code)} files)",
        "params": json.dumps(params, sort_keys=True),
        "earlier": "; ".join(broken(found, [stage])),
    }


def _short(md5: str) -> str:
    return md5.removesuffix(".dir")[:10]
