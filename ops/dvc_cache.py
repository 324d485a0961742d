"""What lies in DVC's cache: listings of folders and files by their content hash."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = ".dir"
"""DVC's hash of a folder ends so; the object is the list of its files with their hashes."""


@contextlib.contextmanager
def opened(root: Path) -> Iterator[Any]:
    """The workspace's local cache (a dvc_data HashFileDB)."""
    from dvc.repo import Repo

    with Repo(os.fspath(root.resolve())) as repo:
        yield repo.cache.local


def listing(cache: Any, version: str) -> dict[str, str] | None:
    """Path -> content hash of a folder's files; None where the cache does not hold the listing, or a damaged one."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    try:
        tree = Tree.load(cache, HashInfo("md5", version))
    except (FileNotFoundError, ObjectFormatError):
        return None
    return {"/".join(key): info.value for key, _, info in tree}


def joined(cache: Any, parts: Mapping[str, str]) -> str | None:
    """Content hash of the folder whose subfolders (name -> hash) are these and nothing else; None where a listing is
    missing."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree = Tree()
    for name, version in parts.items():
        files = listing(cache, version)
        if files is None:
            return None
        for path, md5 in files.items():
            tree.add((*name.split("/"), *path.split("/")), None, HashInfo("md5", md5))
    tree.digest()
    return tree.hash_info.value


def file(cache: Any, version: str, name: str) -> Path | None:
    """Where the cache keeps a file of a folder version; None where it does not."""
    md5 = (listing(cache, version) or {}).get(name)
    path = Path(cache.oid_to_path(md5)) if md5 else None
    return path if path and path.is_file() else None
