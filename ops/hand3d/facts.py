"""What is known about the sampled frames of many clips, as plain tables: the input of every visual row.

Points are in the camera frame of their own frame, metres. T_cam_world is world-to-camera, row-major, null where the
camera's pose is unknown. Built once a shard; row generators join these tables and never look at a clip again.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from ops.hand3d.camera_poses import PosesOf, camera_poses
from ops.hand3d.language import sentence
from ops.rejects import ClipError
from ops.sources.base import Clip, Instruction, sampled_frames
from ops.tables import BOOL, F32, F64, I32, I64, STR, vec

# ASSUMED: a hand's place is the centre of its palm, the mean of the wrist and the four finger roots (OpenPose order),
# for relations and tasks; its movement is the wrist's, as in the action rows.
PALM_JOINTS = (0, 5, 9, 13, 17)
MAX_FRAMES = 4  # paper 3.2.3: one to four frames a question

_SAMPLES = {"clip_id": STR, "source": STR, "split": STR, "licence": STR, "sample": I64, "frame": I32, "time_s": F64, "T_cam_world": vec(16, F64)}  # fmt: skip
REJECT = {"item": STR, "reason": STR, "frame": I32, "side": STR, "detail": STR}
_CONTACTS = {"clip_id": STR, "frame": I32, "side": STR, "touched": STR}
_TARGETS = {"clip_id": STR, "frame": I32, "side": STR, "instruction": STR, "index": I64, "object": STR, "reached": BOOL}


@dataclass(frozen=True)
class Facts:
    """Tables about the sampled frames of a shard.

    samples: a row a sampled frame, `sample` counting 0, 1, ... in its clip, `history` the frames up to it (at most 4).
    hands: clip_id, frame, side, wrist, palm. objects: clip_id, frame, object, position, scale.
    calibrated: clip_id, frame, scale. contacts: what each hand touches ("" nothing), only where the source says.
    targets: clip_id, frame, side, instruction, index, object (null: the text names none), reached.
    unreadable: rejects of clips whose video could not be read.
    """

    samples: pl.DataFrame
    hands: pl.DataFrame
    objects: pl.DataFrame
    calibrated: pl.DataFrame
    contacts: pl.DataFrame
    targets: pl.DataFrame
    unreadable: pl.DataFrame


def gather(
    clips: Iterable[Clip],
    fits: pl.DataFrame,
    calibrations: pl.DataFrame,
    positions: pl.DataFrame,
    fps: float,
    poses_of: PosesOf = camera_poses,
) -> Facts:
    """Collect the facts of a shard. fits, calibrations, positions: the tables mano_fits, calibrations, object_positions."""
    samples, contacts, targets, unreadable = [], [], [], []
    for clip in clips:
        frames = sampled_frames(clip.times_s, fps)
        try:
            samples += _samples(clip, frames, poses_of(clip))
        except ClipError as error:  # its rows would have no samples to stand on: the whole clip is left out
            unreadable.append((clip.clip_id, str(error.reason), error.frame, error.side, error.detail))
            continue
        contacts += _contacts(clip, frames)
        targets += _targets(clip, frames)
    table = _with_history(_rows(samples, _SAMPLES))
    return Facts(
        samples=table,
        hands=_hands(fits, table),
        objects=_objects(positions, calibrations),
        calibrated=calibrations.select("clip_id", "frame", "scale"),
        contacts=_rows(contacts, _CONTACTS),
        targets=_rows(targets, _TARGETS),
        unreadable=_rows(unreadable, REJECT),
    )


def _rows(rows: list[tuple], schema: dict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")


def _samples(clip: Clip, frames: list[int], poses: np.ndarray | None) -> Iterator[tuple]:
    for sample, frame in enumerate(frames):
        pose = None if poses is None else poses[frame].reshape(16).tolist()
        yield (clip.clip_id, clip.source, clip.split, clip.licence, sample, frame, float(clip.times_s[frame]), pose)


def _with_history(samples: pl.DataFrame) -> pl.DataFrame:
    earlier = [pl.col("frame").shift(back).over("clip_id") for back in range(MAX_FRAMES - 1, -1, -1)]
    return samples.with_columns(history=pl.concat_list(earlier).list.drop_nulls())


def _contacts(clip: Clip, frames: list[int]) -> Iterator[tuple]:
    for side, touched in (clip.contact or {}).items():
        for frame in frames:
            yield (clip.clip_id, frame, side, _touched_name(clip, int(touched[frame])))


def _touched_name(clip: Clip, index: int) -> str:
    return "" if index < 0 else clip.objects[index].name


def _targets(clip: Clip, frames: list[int]) -> Iterator[tuple]:
    """The object a hand should move to next, for every sampled frame inside an instruction."""
    names = tuple(dict.fromkeys([*(track.name for track in clip.objects), *clip.object_names]))
    for index, instruction in enumerate(clip.instructions):
        named = mentioned(instruction.text, names)
        inside = [f for f in frames if instruction.start_s <= clip.times_s[f] < instruction.end_s]
        for side in (instruction.side,) if instruction.side else ("left", "right"):
            for frame in inside:
                target, reached = _target(clip, instruction, side, named, frame)
                yield (clip.clip_id, frame, side, sentence(instruction.text), index, target, reached)


def _target(clip: Clip, instruction: Instruction, side: str, named: list[str], frame: int) -> tuple[str | None, bool]:
    """(object, whether the hand has nothing left to reach).

    ASSUMED: the hand goes to the first object the text names; while it touches that one, to the next one named ("put
    the cup on the plate"); when it has let go, the instruction is done. Where the source does not say what touches
    what, always the first.
    """
    if not named:
        return None, False
    if clip.contact is None or side not in clip.contact:
        return named[0], False
    first = int(np.searchsorted(clip.times_s, instruction.start_s))
    touched = [_touched_name(clip, int(i)) for i in clip.contact[side][first : frame + 1]]
    if not set(touched) & set(named):
        return named[0], False
    left = [name for name in named if name not in touched]
    return (left[0], False) if left and touched[-1] in named else (named[-1], True)


def mentioned(text: str, names: Iterable[str]) -> list[str]:
    """Names that occur in a text as whole words, in the order of their first mention; a longer name wins over its part."""
    found: list[tuple[int, str]] = []
    rest = text
    for name in sorted(set(names), key=lambda name: (-len(name), name)):
        pattern = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
        if match := pattern.search(rest):
            found.append((match.start(), name))
            rest = pattern.sub(lambda hit: "\0" * len(hit.group()), rest)
    return [name for _, name in sorted(found)]


def _hands(fits: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    chosen = fits.join(samples.select("clip_id", "frame"), on=["clip_id", "frame"], how="semi")
    joints = chosen["joints_cam"].to_numpy().reshape(-1, 21, 3)
    palm = joints[:, PALM_JOINTS].mean(axis=1, dtype=np.float64).astype(np.float32)
    return chosen.select("clip_id", "frame", "side", wrist="tau").with_columns(palm=pl.Series(palm, dtype=vec(3, F32)))


def _objects(positions: pl.DataFrame, calibrations: pl.DataFrame) -> pl.DataFrame:
    scaled = positions.join(calibrations.select("clip_id", "frame", "scale"), on=["clip_id", "frame"])
    return scaled.select("clip_id", "frame", "scale", object="name", position="position_cam")
