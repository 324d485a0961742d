"""A folder of videos cut into shards: each with so much work that orchestration stays below 3 % of it, and no more of them
than the graph takes.

What a run adds is a sum of its own, whatever the shard's size (docs/operations.md, "How large a shard should be"): a shard
for every little folder would spend more on being a shard than on its videos.
"""

import glob
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path, PurePath

import yaml

from ops.config import SHARD_NAME, RawVideosConfig, ShardConfig
from ops.rejects import ClipError
from ops.sources.base import Clip
from ops.sources.manifest import list_videos, reader
from ops.sources.survey import spread

LABELLED_S, TRACKED_S = 0.004, 0.05
"""CPU seconds through all stages of a shard, a frame whose hands are labelled and a frame in which they are tracked. As
measured with the demo's rendered clips (448 x 336) and its tracked video (640 x 480), without a GPU; larger images take longer."""
LEAST_S = 180.0
"""Work of the smallest shard: somewhat more than keeps what is added below 3 %, since the estimate is rough."""
EVEN = 16
"""A folder with more than this part of all work is cut up, so that shards can be made side by side."""


@dataclass(frozen=True)
class Planned:
    """A shard. include: patterns, () = all. work_s: estimate."""

    include: tuple[str, ...]
    num_clips: int
    work_s: float


@dataclass(frozen=True)
class Cut:
    """A source in shards. num_read of num_looked clips told frames_a_clip and labelled, a share of their frames."""

    shards: tuple[Planned, ...]
    num_looked: int
    num_read: int
    frames_a_clip: float
    labelled: float


def cut(shard: ShardConfig, config: RawVideosConfig, sample_fps: float | None, max_clips: int, max_shards: int) -> Cut:
    """Cut a source whose root is absolute; max_clips are read, spread evenly, to learn how long clips are.

    sample_fps: as mano_fits.sample_fps. Raises FileNotFoundError or ValueError where there is nothing to read, or the
    source's name cannot be a shard's.
    """
    if max_clips < 1 or max_shards < 1:
        raise ValueError(f"at least 1 clip to look at and 1 shard, got {max_clips} and {max_shards}")
    if not SHARD_NAME.fullmatch(shard.source):
        raise ValueError(f"{shard.source!r} is no name of a shard: letters, digits, '_', '-' and '.' make one")
    videos = list_videos(shard)
    looked = spread(videos, max_clips)
    read = [clip for video in looked if (clip := _read(video, shard, config)) is not None]
    if not read:
        raise ValueError(
            f"none of the clips looked at in {shard.root} reads: `hand3d sources check {shard.root} --kind {shard.kind}` "
            "says why"
        )
    frames = sum(clip.num_frames for clip in read)
    labelled = sum(clip.num_frames for clip in read if clip.has_labels)
    clip_s = sum(_work_s(clip, sample_fps) for clip in read) / len(read)
    paths = [video.relative_to(shard.root) for video in videos]
    shards = tuple(packed(paths, clip_s, max_shards))
    return Cut(shards, len(looked), len(read), frames / len(read), labelled / max(1, frames))


def _read(video: Path, shard: ShardConfig, config: RawVideosConfig) -> Clip | None:
    """None where it does not read, which raw_videos will give a reason for."""
    try:
        return reader(shard.kind).read_clip(video, shard, config)
    except ClipError:
        return None


def _work_s(clip: Clip, sample_fps: float | None) -> float:
    if clip.has_labels:
        return clip.num_frames * LABELLED_S
    return clip.num_frames * TRACKED_S * min(1.0, (sample_fps or math.inf) / clip.fps)


def packed(paths: Sequence[PurePath], clip_s: float, max_shards: int) -> list[Planned]:
    """Clips, by their paths below the root, in shards: neighbours together, a folder whole unless it is large.

    Each has LEAST_S of work, or all has less; the last takes what is left over.
    """
    total_s = clip_s * len(paths)
    enough_s = max(LEAST_S, total_s / max_shards)
    units = _units(sorted(paths), 1, lambda group: clip_s * len(group) > max(2 * LEAST_S, total_s / EVEN))
    shards, pending = [], []
    for unit in units:
        pending.append(unit)
        if clip_s * sum(num for _, num in pending) >= enough_s:
            shards.append(pending)
            pending = []
    if pending:
        shards[-1:] = [[*shards[-1], *pending]] if shards else [pending]
    if len(shards) == 1:
        return [Planned((), len(paths), total_s)]
    return [Planned(tuple(name for name, _ in one), n := sum(num for _, num in one), clip_s * n) for one in shards]


def _units(paths: Sequence[PurePath], depth: int, large: Callable[[list], bool]) -> Iterator[tuple[str, int]]:
    """(pattern, clips) of each folder at this depth, of a large one of what it holds."""
    for parts, found in groupby(paths, lambda path: path.parts[:depth]):
        group = list(found)
        if large(group) and any(len(path.parts) > depth for path in group):
            yield from _units(group, depth + 1, large)
        else:
            yield glob.escape("/".join(parts)), len(group)


def lines(found: Cut, shard: ShardConfig) -> Iterator[str]:
    """For params.yaml, with what was estimated as comments."""
    least = min(found.shards, key=lambda one: one.work_s)
    yield (
        f"# {sum(one.num_clips for one in found.shards)} clips; {found.num_read} of {found.num_looked} looked at read: "
        f"{found.frames_a_clip:.0f} frames a clip, {found.labelled:.0%} labelled. Work of the smallest shard: about {least.work_s / 60:.1f} min of one core"
    )
    if least.work_s < LEAST_S:
        yield f"# less than {LEAST_S / 60:.0f} min in all: orchestration may be more than 3 % of it, until the folder holds more videos"
    yield "shards:"
    for number, one in enumerate(found.shards):
        key = shard.source if len(found.shards) == 1 else f"{shard.source}-{number:02d}"
        entry = _entry(replace(shard, include=one.include))
        yield f"  {key}: {yaml.safe_dump(entry, sort_keys=False, default_flow_style=True, width=math.inf).strip()}"


def _entry(shard: ShardConfig) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(shard).items() if value}
