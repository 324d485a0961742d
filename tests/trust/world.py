"""A workspace of fake stages for tests that kill, fill the disk and race: what must hold of it at any moment.

`check` is a reader that comes at a bad time. It reports the first thing that is half-written, or that says something of
an artefact that its bytes do not bear out.
"""

import hashlib
import json
from pathlib import Path

import polars as pl
import yaml

from ops import artefacts, config, data_version, pipeline
from ops.jobs import files_hash
from tests.assets import fakes

SHARD = "one"
CHAIN = ("raw_videos", "mano_fits")
CONTENTS = ("video A", "video B")


def make(root: Path, monkeypatch) -> Path:
    return fakes.ready(root, monkeypatch)


def settings(root: Path) -> config.Config:
    return config.load(root / "params.yaml")


def film(root: Path, content: str) -> None:
    """Another video in the shard's folder."""
    fakes.write(root / "videos" / SHARD / "a.mp4", content)


def run(root: Path, stages: tuple[str, ...] = CHAIN) -> dict[str, str]:
    """Make the chain undisturbed; stage -> hash over the files of its output."""
    for stage in stages:
        artefacts.make(root, settings(root), stage, SHARD)
    return hashes(root, stages)


def hashes(root: Path, stages: tuple[str, ...] = CHAIN) -> dict[str, str]:
    return {stage: files_hash(pipeline.output(root, stage, SHARD)) for stage in stages}


def undisturbed(root: Path) -> dict[str, dict[str, str]]:
    """Content of the video -> the hashes it gives; leaves the first content's outputs standing."""
    found = {}
    for content in reversed(CONTENTS):
        film(root, content)
        found[content] = run(root)
    assert found[CONTENTS[0]] != found[CONTENTS[1]]
    return found


def check(root: Path, known: dict[str, dict[str, str]]) -> list[str]:
    """What is wrong with the workspace as a reader finds it now; empty if nothing. known: see `undisturbed`."""
    wrong = []
    for stage in CHAIN:
        folder = root / "data" / stage
        names = sorted(path.name for path in folder.iterdir())
        if names != [SHARD]:
            wrong.append(f"{folder} shows {names}")
        allowed = {found[stage] for found in known.values()}
        if (folder / SHARD).is_dir() and files_hash(folder / SHARD) not in allowed:
            wrong.append(
                f"{stage} is none of the whole versions: {sorted(path.name for path in (folder / SHARD).iterdir())}"
            )
        for table in folder.rglob("*.parquet"):
            pl.read_parquet(table)
    return wrong + _lock(root, known) + _cache(root)


def _lock(root: Path, known: dict[str, dict[str, str]]) -> list[str]:
    """Of dvc.lock: it is whole, and each output that it names is whole in the cache."""
    path = root / "dvc.lock"
    text = path.read_text(encoding="utf-8")
    entries = (yaml.safe_load(text) or {}).get("stages", {})
    wrong = (
        [] if text.endswith("\n") and set(entries) == {f"{stage}@{SHARD}" for stage in CHAIN} else ["dvc.lock is cut"]
    )
    for address, entry in entries.items():
        stage = address.split("@")[0]
        named = _in_cache(root, entry["outs"][0]["md5"])
        if named is None or named not in {found[stage] for found in known.values()}:
            wrong.append(f"dvc.lock names a version of {address} that the cache does not hold whole")
    return wrong


def _in_cache(root: Path, md5: str) -> str | None:
    """`files_hash` of a folder as the cache holds it."""
    cache = root / ".dvc" / "cache" / "files" / "md5"
    listing = cache / md5[:2] / md5[2:]
    if not listing.is_file():
        return None
    digest = hashlib.sha256()
    for item in sorted(json.loads(listing.read_text(encoding="utf-8")), key=lambda item: Path(item["relpath"])):
        file = cache / item["md5"][:2] / item["md5"][2:]
        if not file.is_file():
            return None
        digest.update(f"{item['relpath']}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _cache(root: Path) -> list[str]:
    """Objects whose bytes are not what their name says."""
    wrong = []
    for path in (root / ".dvc" / "cache" / "files" / "md5").glob("??/*"):
        if len(path.parent.name + path.name.removesuffix(".dir")) != 32:
            continue  # DVC's temporary names
        if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name.removesuffix(".dir"):
            wrong.append(f"cache object {path.parent.name}{path.name} holds other bytes")
    return wrong


def check_healed(root: Path, content: str, known: dict[str, dict[str, str]]) -> list[str]:
    """After one more run: the result is the undisturbed one, recorded, and nothing is left lying about."""
    wrong = check(root, known)
    if hashes(root) != known[content]:
        wrong.append("the next run did not give the undisturbed result")
    stale = data_version.stale(root, [f"{stage}@{SHARD}" for stage in CHAIN])
    wrong += [f"{address} is stale: {why}" for address, why in stale.items()]
    for address, entry in data_version.recorded(root).items():
        if _in_cache(root, entry["outs"][0]["md5"]) != known[content][address.split("@")[0]]:
            wrong.append(f"dvc.lock does not name what was made of {address}")
    left = [path.name for path in (root / "data" / ".scratch" / ".partial").glob("*")]
    return wrong + [f"left lying about: {name}" for name in left]
