"""What is known about the sampled frames of many clips, as plain tables: the input of every visual row.

Points are in the camera frame of their own frame, metres. T_cam_world is world-to-camera, row-major, null where the
camera's pose is unknown. Built once a shard; row generators join these tables and never look at a clip again.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from ops.hand3d.camera_poses import PosesOf, camera_poses
from ops.hand3d.language import sentence
from ops.rejects import ClipError, Reason
from ops.sources.base import SIDES, Clip, Instruction, sampled_frames
from ops.tables import BOOL, F32, F64, I32, I64, STR, vec

# ASSUMED: a hand's place is the centre of its palm, the mean of the wrist and the four finger roots (OpenPose order),
# for relations and tasks; its movement is the wrist's, as in the action rows.
PALM_JOINTS = (0, 5, 9, 13, 17)
MAX_FRAMES = 4  # paper 3.2.3: one to four frames a question

CLIP_COLUMNS = ("source", "split", "licence", "intrinsics", "noncommercial", "redistributable")
_CLIPS = {
    "clip_id": STR, "source": STR, "split": STR, "licence": STR, "intrinsics": STR, "noncommercial": BOOL, "redistributable": BOOL,
}  # fmt: skip
REJECT = {"item": STR, "reason": STR, "frame": I32, "side": STR, "detail": STR}
_SAMPLES = {"clip_id": STR, "sample": I64, "frame": I32, "time_s": F64, "T_cam_world": vec(16, F64)}
_CONTACTS = {"clip_id": STR, "frame": I32, "side": STR, "touched": STR}
_TARGETS = {"clip_id": STR, "frame": I32, "side": STR, "instruction": STR, "index": I64, "object": STR, "reached": BOOL}


@dataclass(frozen=True)
class Facts:
    """Tables about the sampled frames of a shard.

    clips: clip_id and CLIP_COLUMNS. samples: a row a sampled frame, `sample` counting 0, 1, ... in its clip, `history`
    the frames up to it (at most 4). hands: clip_id, frame, side, wrist, palm. objects: clip_id, frame, object, position,
    scale, spread, num_omega. calibrated: clip_id, frame. contacts: what each hand touches ("" nothing), only where the
    source says. targets: clip_id, frame, side, instruction, index, object (null: the text names none), reached.
    left_out: rejects of unreadable clips and of what lies behind the camera. questions_per_moment: 1 to 4.
    """

    clips: pl.DataFrame
    samples: pl.DataFrame
    hands: pl.DataFrame
    objects: pl.DataFrame
    calibrated: pl.DataFrame
    contacts: pl.DataFrame
    targets: pl.DataFrame
    left_out: pl.DataFrame
    questions_per_moment: int = 1


def gather(
    clips: Iterable[Clip],
    fits: pl.DataFrame,
    calibrations: pl.DataFrame,
    positions: pl.DataFrame,
    fps: float,
    poses_of: PosesOf = camera_poses,
    questions_per_moment: int = 1,
) -> Facts:
    """Collect the facts of a shard. fits, calibrations, positions: the tables mano_fits, calibrations, object_positions."""
    if not 1 <= questions_per_moment <= MAX_FRAMES:
        raise ValueError(f"hand3d_visual.questions_per_moment is {questions_per_moment}: give 1 to {MAX_FRAMES}")
    about, samples, contacts, targets, unreadable = [], [], [], [], []
    for clip in clips:
        frames = np.array(sampled_frames(clip.times_s, fps), np.int32)
        try:
            samples.append(_samples(clip, frames, poses_of(clip)))
        except ClipError as error:  # its rows would have no samples to stand on: the whole clip is left out
            unreadable.append((clip.clip_id, str(error.reason), error.frame, error.side, error.detail))
            continue
        about.append((clip.clip_id, *(getattr(clip, name) for name in CLIP_COLUMNS)))
        contacts += _contacts(clip, frames)
        targets += _targets(clip, frames)
    table = _with_history(_concat(samples, _SAMPLES))
    hands, hands_behind = _in_front(_hands(fits, table), "palm", pl.col("side"), pl.lit("the hand"))
    objects, objects_behind = _in_front(_objects(positions, calibrations), "position", pl.lit(""), pl.col("object"))
    unread = pl.DataFrame(unreadable, schema=REJECT, orient="row")
    return Facts(
        clips=pl.DataFrame(about, schema=_CLIPS, orient="row"),
        samples=table,
        hands=hands,
        objects=objects,
        calibrated=calibrations.select("clip_id", "frame"),
        contacts=_concat(contacts, _CONTACTS),
        targets=_concat(targets, _TARGETS),
        left_out=pl.concat([unread, hands_behind, objects_behind]),
        questions_per_moment=questions_per_moment,
    )


def _concat(parts: list[pl.DataFrame], schema: dict) -> pl.DataFrame:
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


def _samples(clip: Clip, frames: np.ndarray, poses: np.ndarray | None) -> pl.DataFrame:
    columns = {
        "clip_id": clip.clip_id,
        "sample": np.arange(len(frames)),
        "frame": frames,
        "time_s": clip.times_s[frames],
    }
    kind = _SAMPLES["T_cam_world"]
    if poses is None:
        pose = pl.Series([None], dtype=kind).new_from_index(0, len(frames))
    else:
        pose = pl.Series(np.asarray(poses, np.float64)[frames].reshape(-1, 16), dtype=kind)
    return _table(columns | {"T_cam_world": pose}, _SAMPLES)


def _with_history(samples: pl.DataFrame) -> pl.DataFrame:
    earlier = [pl.col("frame").shift(back).over("clip_id") for back in range(MAX_FRAMES - 1, -1, -1)]
    return samples.with_columns(history=pl.concat_list(earlier).list.drop_nulls())


def _contacts(clip: Clip, frames: np.ndarray) -> Iterator[pl.DataFrame]:
    names = pl.Series(["", *(track.name for track in clip.objects)], dtype=STR)
    for side, touched in (clip.contact or {}).items():
        seen = names.gather(np.maximum(np.asarray(touched)[frames], -1) + 1)
        yield _table({"clip_id": clip.clip_id, "frame": frames, "side": side, "touched": seen}, _CONTACTS)


def _targets(clip: Clip, frames: np.ndarray) -> Iterator[pl.DataFrame]:
    """The object a hand should move to next, for every sampled frame inside an instruction."""
    names = tuple(dict.fromkeys([*(track.name for track in clip.objects), *clip.object_names]))
    times_s = clip.times_s[frames]
    for index, instruction in enumerate(clip.instructions):
        named = mentioned(instruction.text, names)
        inside = frames[(instruction.start_s <= times_s) & (times_s < instruction.end_s)]
        for side in (instruction.side,) if instruction.side else SIDES:
            target, reached = next_target(clip, instruction, side, named, inside)
            columns = {
                "clip_id": clip.clip_id, "frame": inside, "side": side, "instruction": sentence(instruction.text),
                "index": index, "object": pl.Series([*named, None], dtype=STR).gather(target), "reached": reached,
            }  # fmt: skip
            yield _table(columns, _TARGETS)


def _table(columns: dict[str, object], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """Columns of numbers and, for what is the same in every row, of one string or integer."""
    fixed = [
        pl.lit(value, dtype=schema[name]).alias(name) for name, value in columns.items() if isinstance(value, str | int)
    ]
    given = {name: value for name, value in columns.items() if not isinstance(value, str | int)}
    return pl.DataFrame(given).with_columns(fixed).select(schema.keys()).cast(schema)


def next_target(
    clip: Clip, instruction: Instruction, side: str, named: list[str], frames: Int[np.ndarray, " frames"]
) -> tuple[Int[np.ndarray, " frames"], Bool[np.ndarray, " frames"]]:
    """For each frame the place in `named` of the object to reach (len(named) where none is named), and whether the hand
    has nothing left to reach.

    ASSUMED: the hand goes to the first object the text names; while it touches that one, to the next one named ("put
    the cup on the plate"); when it has let go, the instruction is done. Where the source does not say what touches
    what, always the first.
    """
    first_named, nothing = np.zeros(len(frames), np.int64), np.zeros(len(frames), bool)
    if not named or not len(frames) or clip.contact is None or side not in clip.contact:
        return first_named, nothing  # [] named: place 0 is len(named)
    place = np.array([-1, *(named.index(t.name) if t.name in named else -1 for t in clip.objects)])
    begin = int(np.searchsorted(clip.times_s, instruction.start_s))
    touching = place[np.maximum(np.asarray(clip.contact[side])[begin : frames[-1] + 1], -1) + 1]
    touched = np.array([np.logical_or.accumulate(touching == k) for k in range(len(named))])[:, frames - begin]
    begun = touched.any(axis=0)
    goes_on = ~touched.all(axis=0) & (touching[frames - begin] >= 0)
    target = np.where(goes_on, (~touched).argmax(axis=0), len(named) - 1)
    return np.where(begun, target, 0), begun & ~goes_on


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
    scales = calibrations.select("clip_id", "frame", "scale", "spread", "num_omega")
    scaled = positions.join(scales, on=["clip_id", "frame"])
    return scaled.select("clip_id", "frame", "scale", "spread", "num_omega", object="name", position="position_cam")


def _in_front(things: pl.DataFrame, point: str, side: pl.Expr, name: pl.Expr) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Things the camera can see, and rejects for those behind it (or beside its centre), which no image shows."""
    seen = pl.Series(things[point].to_numpy().reshape(-1, 3)[:, 2] > 0)
    behind = things.filter(~seen)
    detail = pl.format("{} lies behind the camera", name)
    rejected = behind.select(
        item="clip_id", reason=pl.lit(str(Reason.BEHIND_CAMERA)), frame="frame", side=side, detail=detail
    )
    return things.filter(seen), rejected.cast(REJECT)
