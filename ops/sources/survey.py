"""A user's copy of a data set, looked through before any run: what is there, what does not read, what the checks find."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.rejects import ClipError, Reason, Reject
from ops.sources import acceptance, round_trip
from ops.sources.acceptance import MAX_BAD_SHARE, Measured
from ops.sources.manifest import READERS, list_videos, reader

EXPECTED = (Reason.KNOWN_BAD_CLIP, Reason.MISSING_LABELS)  # gaps of the data set itself, not of the copy
SHORT = {
    "palm_m": "palm m", "wrist_z_m": "z m", "apart_px": "published px", "tau_to_joint_m": "tau-joint m", "curl": "curl",
    "wrist_speed_ratio": "w2c/c2w", "depth_error": "depth err", "depth_to_palm": "depth/z",
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One clip looked at: its own numbers, or why it does not read. labelled: frames with a label by side, in words."""

    item: str
    reject: Reject | None
    num_frames: int = 0
    labelled: str = ""
    measured: tuple[Measured, ...] = ()


@dataclass(frozen=True)
class Survey:
    """num_clips: that the copy lists; seen: those that were looked at. verdicts: a check over all of them."""

    num_clips: int
    seen: tuple[Seen, ...]
    verdicts: tuple[Measured, ...]

    @property
    def unexpected(self) -> int:
        """Clips that do not read for a reason that the copy, not the data set, is to blame for."""
        return sum(one.reject is not None and one.reject.reason not in EXPECTED for one in self.seen)

    @property
    def passed(self) -> bool:
        readable = any(one.reject is None for one in self.seen)
        good = all(verdict.passed is not False for verdict in self.verdicts)
        return readable and good and self.unexpected <= MAX_BAD_SHARE * len(self.seen)


def survey(shard: ShardConfig, config: RawVideosConfig, standin: Path | None, max_clips: int | None = None) -> Survey:
    """Look through a copy whose root is absolute. max_clips: spread evenly; None = every clip.

    standin: hand model of clips that name none. Raises FileNotFoundError or ValueError where there is nothing to read.
    """
    videos = list_videos(shard)
    seen = tuple(_look(video, shard, config, standin) for video in spread(videos, max_clips))
    folder = Path(shard.hand_model) if shard.hand_model else standin
    first = [round_trip.round_trip(shard.kind, folder)] if folder else []
    judged = acceptance.judge(one for clip in seen for one in clip.measured)
    return Survey(len(videos), seen, (*first, *judged))


def spread(items: list, count: int | None) -> list:
    """So many of a list, evenly, first and last among them."""
    if count is None or len(items) <= count:
        return items
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).astype(int))]


def _look(video: Path, shard: ShardConfig, config: RawVideosConfig, standin: Path | None) -> Seen:
    item = video.relative_to(shard.root).as_posix()
    try:
        clip = reader(shard.kind).read_clip(video, shard, config)
        measured = acceptance.measure(clip, acceptance.hands_of(clip, standin), config.use)
    except ClipError as error:
        return Seen(item, error.reject(item))
    tracks = clip.hands | {side: track for side, track in clip.joints.items() if side not in clip.hands}
    labelled = ", ".join(f"{side} {int(track.valid.sum())}" for side, track in tracks.items())
    return Seen(item, None, clip.num_frames, labelled or "none", tuple(measured))


# -- words for the console


def lines(found: Survey, config: RawVideosConfig) -> Iterator[str]:
    """The table: a line a clip, then reasons, then a line a check."""
    width = max((len(one.item) for one in found.seen), default=4)
    yield f"{'clip':<{width}}  frames  labelled              numbers"
    for one in found.seen:
        yield f"{one.item:<{width}}  {_clip_line(one)}"
    reasons = Counter(str(one.reject.reason) for one in found.seen if one.reject)
    readable = sum(one.reject is None for one in found.seen)
    yield ""
    yield f"{readable} of {len(found.seen)} clips read (the copy lists {found.num_clips}); use: {config.use}"
    yield from (f"  {count} x {reason}" for reason, count in reasons.items())
    yield ""
    for verdict in found.verdicts:
        mark = {True: "ok", False: "FAILED", None: "-"}[verdict.passed]
        yield f"{mark:<7} {verdict.name:<18} {_numbers(verdict.numbers)}{'; ' * bool(verdict.numbers)}{verdict.detail}"


def _clip_line(one: Seen) -> str:
    if one.reject is not None:
        frame = f" (frame {one.reject.frame})" if one.reject.frame >= 0 else ""
        return f"{one.reject.reason}: {one.reject.detail}{frame}"
    numbers = {name: value for measured in one.measured for name, value in measured.numbers.items() if name in SHORT}
    failed = "".join(f"  FAILED {check.name}: {check.detail}" for check in one.measured if check.passed is False)
    shown = ", ".join(f"{SHORT[name]} {value:.3g}" for name, value in numbers.items())
    return f"{one.num_frames:>6}  {one.labelled:<20}  {shown}{failed}"


def _numbers(numbers) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())


def catalogue() -> Iterator[str]:
    """A line a kind: licence, who may have it, what it needs."""
    sources = {kind: reader(kind).SOURCE for kind in sorted(READERS)}
    wide = max(len(source.title) for source in sources.values())
    yield f"{'kind':<15} {'title':<{wide}} MANO gated licence"
    for kind, one in sources.items():
        yield f"{kind:<15} {one.title:<{wide}} {_yes(one.needs_mano):<4} {_yes(one.gated):<5} {one.licence}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
