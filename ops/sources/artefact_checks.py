"""The acceptance checks of ops.sources.acceptance on the artefacts raw_videos and mano_fits of a shard.

raw_videos is judged by its clips as the reader gives them, mano_fits by its rows, which later stages use; both on clips
spread over the shard, so that a check costs the same for ten clips and ten million.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from ops import seen_tables
from ops.sources import acceptance
from ops.sources.acceptance import Hand, Measured
from ops.sources.base import Clip
from ops.sources.manifest import files_of, read_clip, reader
from ops.sources.survey import spread

NUM_CLIPS = 12
KEPT_FRAMES = 1000  # of a clip that is kept: its labels are a megabyte then
TRACKED = ("mediapipe",)  # measured in the image by us: the tracker's own limits judge it


def of_clips(root: Path, raw_videos: Path, use: str) -> dict[str, Measured]:
    """Checks 6, 8 and 9 of a shard's clips, by name; 1 is ops.sources.round_trip. Raises ClipError for a changed file."""
    path = raw_videos / "clips.parquet"
    return {one.name: one for one in _of_clips(root, path, path.stat().st_mtime_ns, use)}


def of_fits(root: Path, raw_videos: Path, mano_fits: Path) -> dict[str, Measured]:
    """Checks 2 to 5 and 7 of a shard's labelled hands, by name; empty where it has none."""
    path = mano_fits / "mano_fits.parquet"
    return {one.name: one for one in _of_fits(root, raw_videos / "clips.parquet", path, path.stat().st_mtime_ns)}


@lru_cache(maxsize=8)
def _of_clips(root: Path, path: Path, _version: int, use: str) -> tuple[Measured, ...]:
    found = []
    for row in spread(list(seen_tables.read("clips", path).iter_rows(named=True)), NUM_CLIPS):
        clip = kept_clip(row, root)
        found += [
            acceptance.camera_direction(clip, _wrists(clip)),
            acceptance.frame_counts(clip),
            acceptance.licence(clip, use),
        ]
    return tuple(acceptance.judge(found))


@lru_cache(maxsize=8)
def _of_fits(root: Path, clips: Path, path: Path, _version: int) -> tuple[Measured, ...]:
    known = {row["clip_id"]: row for row in seen_tables.read("clips", clips).iter_rows(named=True)}
    labelled = pl.scan_parquet(path).filter(~pl.col("route").is_in(TRACKED))
    names = labelled.select("clip_id").unique().sort("clip_id").collect()["clip_id"].to_list()
    looked_at = labelled.filter(
        pl.col("clip_id").is_in(spread(names, NUM_CLIPS))
    )  # the file is read once for all clips
    columns = looked_at.select("clip_id", "side", "frame", "joints_cam", "tau").collect()
    found = []
    for (name,), rows in sorted(columns.partition_by("clip_id", as_dict=True).items()):
        clip = kept_clip(known[name], root)
        hands = [_hand(side, rows.filter(side=side)) for side in rows["side"].unique(maintain_order=True)]
        found += [
            acceptance.hand_size(clip, hands),
            acceptance.published_joints(clip, hands),
            acceptance.wrist_is_tau(hands, clip),
            acceptance.handedness(clip, hands),
            acceptance.depth_scale(clip, hands),
        ]
    return tuple(acceptance.judge(found))


def kept_clip(row: dict, root: Path) -> Clip:
    """`read_clip`, remembered while the row and the sizes and times of its files stay: the checks of several stages of a
    shard look at the same few clips."""
    if row["num_frames"] > KEPT_FRAMES:
        return read_clip(row, root)
    video = (root / row["video"]).absolute()
    files = [*files_of(video), *reader(row["kind"]).side_files(video)]
    if not all(file.is_file() for file in files):
        return read_clip(row, root)  # which says what is missing
    stamp = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _kept_clip(tuple(row.items()), root, stamp)


@lru_cache(maxsize=NUM_CLIPS)
def _kept_clip(row: tuple, root: Path, _files: tuple) -> Clip:
    return read_clip(dict(row), root)


def _hand(side: str, rows: pl.DataFrame) -> Hand:
    joints_cam = rows["joints_cam"].to_numpy().reshape(-1, 21, 3).astype(np.float64)
    return Hand(side, rows["frame"].to_numpy(), joints_cam, rows["tau"].to_numpy().astype(np.float64))


def _wrists(clip: Clip) -> list[Hand]:
    """Hands of which only the wrist is known: no hand model is needed for that."""
    tracks = {side: (track.tau, track.valid) for side, track in clip.hands.items()}
    tracks |= {s: (track.joints_cam[:, 0], track.valid) for s, track in clip.joints.items() if s not in tracks}
    return [
        Hand(side, np.flatnonzero(valid), np.repeat(wrist[valid][:, None], 21, axis=1), None)
        for side, (wrist, valid) in tracks.items()
    ]
