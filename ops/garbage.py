"""Old artefacts in DVC's cache: what nothing refers to any more goes, what a registered version was made from stays.

Kept is what the workspace uses, in a git repository also every branch, tag and experiment (DVC collects these), and what
the record of each registered version names (ops/lineage_record.py), which DVC cannot know. What is kept and what goes
is decided under DVC's lock, and DVC's own collector removes.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops import data_version, dvc_cache, lineage, lineage_record, tracking

OURS = ("content", "dvc_md5", lineage_record.TAG)
"""Tags of versions that this pipeline registered; others of a shared registry have no artefacts here."""


@dataclass
class Kept:
    """What the registry refers to. versions: "model version N", as read. outputs: hashes of artefacts, which the cache
    must hold. inputs: of folders and files that no stage made; they are in the cache only if someone put them there.
    unknown: versions of which it cannot be said what they were made from, with the reason."""

    versions: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a collection would remove, or has removed. place: "cache", or a remote's name. num_bytes: of these objects;
    freed: of those that no file of the workspace shares (a hard link keeps the bytes); 0 for a remote, where it is
    not asked."""

    place: str
    kept: Kept
    num_kept: int
    num_removed: int
    num_bytes: int
    freed: int


def collect(root: Path, remote: str = "", delete: bool = False, give_up: Collection[str] = ()) -> Plan:
    """Find what nothing refers to, and remove it if `delete`. remote: a DVC remote to collect in, "" for the cache.
    give_up: "MODEL/N" of versions without a record, or with lost artefacts: what is known of them is kept.

    Raises OSError when the registry cannot be read, ValueError when a version's inputs are not known or a listing that
    says which files to keep is missing: nothing is removed then.
    """
    with data_version.locked(root) as repo:
        kept = referred(root, give_up)
        if kept.unknown:
            listed = "; ".join(f"{version}: {why}" for version, why in kept.unknown.items())
            raise ValueError(
                f"what these versions were made from is not known, so nothing is removed: {listed}. Delete them in "
                f"MLflow, or give their inputs up with --give-up {next(iter(kept.unknown))}"
            )
        place = repo.cloud.get_remote_odb(remote, "gc") if remote else repo.cache.local
        hashes, incomplete = expanded(_places(repo, place), kept)
        lost = [what for what in incomplete if what.partition(" of ")[2] not in give_up]
        if lost:
            raise ValueError(
                f"neither cache nor remote holds the listing of {'; '.join(lost[:3])}, so which of its files to keep is "
                f"not known, and nothing is removed: fetch it, or give it up with --give-up {lost[0].partition(' of ')[2]}"
            )
        return _sweep(place, remote, hashes | _used_by_workspace(repo), kept, delete)


def referred(root: Path, give_up: Collection[str] = ()) -> Kept:
    """What every version of every registered model refers to. Raises OSError when the registry cannot be read."""
    if not tracking.exists(root) and "champion" not in data_version.recorded(root):
        return Kept()  # nothing was ever registered from here
    kept = Kept()
    with tracking.readable(root):
        for model in tracking.models(root):
            for version in tracking.versions(root, model):
                _add(root, model, version, kept, give_up)
    return kept


def expanded(caches: Iterable[Any], kept: Kept) -> tuple[set[str], list[str]]:
    """Hashes of all objects behind what is kept, folders opened up, and the artefacts of which the listing is in no
    cache. An input that is in no cache was never given to DVC and is not missing."""
    caches, hashes, incomplete = list(caches), set(), []
    for version, what in (kept.outputs | kept.inputs).items():
        hashes.add(version)
        if not version.endswith(dvc_cache.FOLDER):
            continue
        files = next((found for cache in caches if (found := dvc_cache.listing(cache, version)) is not None), None)
        if files is not None:
            hashes |= set(files.values())
        elif version in kept.outputs:
            incomplete.append(what)
    return hashes, incomplete


def _add(root: Path, model: str, version: int, kept: Kept, give_up: Collection[str]) -> None:
    tags, name = tracking.version_tags(root, model, version), f"{model}/{version}"
    if not any(tag in tags for tag in OURS):
        return
    kept.versions.append(name)
    records, why = [], "it was registered without a record of its lineage"
    try:
        records = lineage_record.every(root, model, version)
    except FileNotFoundError as error:
        why = str(error)
    checkpoint = tags.get("dvc_md5", "")
    if checkpoint.endswith(dvc_cache.FOLDER):
        kept.outputs[checkpoint] = f"{lineage_record.POLICY} of {name}"
    if not records and name not in give_up and not _recorded_now(root, checkpoint):
        kept.unknown[name] = why
    for record in records:
        made = lineage.below(record.lock)
        for stage, entry in record.lock.items():
            kept.outputs |= {out["md5"]: f"{stage} of {name}" for out in entry["outs"]}
            others = [dep for dep in lineage.data(entry) if dep["path"] not in made]
            kept.inputs |= {dep["md5"]: f"{dep['path']} of {name}" for dep in others}


def _recorded_now(root: Path, checkpoint: str) -> bool:
    """Whether dvc.lock describes it as it stands: what it was made from is then kept with the workspace."""
    return data_version.recorded_version(root, lineage_record.POLICY) == checkpoint


def _used_by_workspace(repo: Any) -> set[str]:
    """Of the workspace, and of every branch, tag and experiment where there is git. Folders opened up by DVC."""
    from dvc.exceptions import DvcException
    from dvc.scm import NoSCM

    history = not isinstance(repo.scm, NoSCM) and not repo.scm.no_commits
    try:
        found = repo.used_objs(all_branches=history, all_tags=history, all_experiments=history)
    except DvcException as error:
        raise ValueError(f"what the workspace uses is not known, so nothing is removed: {error}") from error
    return {info.value for infos in found.values() for info in infos if info.value}


def _places(repo: Any, place: Any) -> Iterator[Any]:
    """Where to look for listings: the cache, what is collected, the default remote (asked only for what those lack)."""
    yield repo.cache.local
    if place is not repo.cache.local:
        yield place
    if repo.config["core"].get("remote"):
        yield repo.cloud.get_remote_odb(None, "gc")


def _sweep(place: Any, remote: str, hashes: set[str], kept: Kept, delete: bool) -> Plan:
    from dvc_data.hashfile.db import get_index
    from dvc_data.hashfile.gc import gc
    from dvc_data.hashfile.hash_info import HashInfo

    there = list(place.all())
    doomed = [each for each in there if each not in hashes]
    sizes = [] if remote else [Path(place.oid_to_path(each)).stat() for each in doomed]
    if delete and doomed:
        gc(place, [HashInfo("md5", each) for each in hashes])
        if remote:
            get_index(place).clear()
    return Plan(
        remote or "cache",
        kept,
        len(there) - len(doomed),
        len(doomed),
        sum(stat.st_size for stat in sizes),
        sum(stat.st_size for stat in sizes if stat.st_nlink == 1),
    )
