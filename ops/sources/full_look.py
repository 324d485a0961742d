"""A full look at the folders of videos: every byte is read, whatever names, sizes and times say.

Finds what a cheap look misses: bytes that changed under the same name, size and time (a bad disk, a tool that keeps
times), and folders that are gone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ops.config import Config
from ops.sources import manifest


@dataclass(frozen=True)
class Folder:
    """One shard's folder. version: content hash, "" where it cannot be read. problem: why, "" where it can."""

    shard: str
    root: str
    num_videos: int
    num_bytes: int
    version: str
    problem: str


def look(root: Path, config: Config, shards: Iterable[str] | None = None) -> list[Folder]:
    """One Folder a shard of params.yaml, in its order. Nothing is taken from an earlier look."""
    manifest._sha256_of_file.cache_clear()
    return [_folder(root, config, shard) for shard in (config.shards if shards is None else shards)]


def _folder(root: Path, config: Config, shard: str) -> Folder:
    described = config.shards[shard]
    try:
        version = manifest.content_version(root, described)
        videos = manifest.list_videos(manifest._resolved(described, root))
        size = sum(path.stat().st_size for video in videos for path in manifest.files_of(video))
    except (OSError, ValueError) as error:
        return Folder(shard, described.root, 0, 0, "", " ".join(str(error).split()))
    return Folder(shard, described.root, len(videos), size, version, "")
