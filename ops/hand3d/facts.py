"""What is known about the sampled frames of many clips, as plain tables: the input of every visual row.

Points are in the camera frame of their own frame, metres. T_cam_world is world-to-camera, row-major, null where the
camera's pose is unknown. Built once a shard; row generators join these tables and never look at a clip again.
"""

import re
from collections.abc import Iterable
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
_SAMPLES = {
    "clip_id": STR, "sample": I64, "frame": I32, "time_s": F64, "T_cam_world": vec(16, F64), "has_pose": BOOL,
}  # fmt: skip
_CONTACTS = {"clip_id": STR, "frame": I32, "side": STR, "touched": STR}
_TARGETS = {"clip_id": STR, "frame": I32, "side": STR, "instruction": STR, "index": I64, "object": STR, "reached": BOOL}


@dataclass(frozen=True)
class Facts:
    """Tables about the sampled frames of a shard.

    clips: clip_id and CLIP_COLUMNS. samples: a row a sampled frame, `sample` counting 0, 1, ... in its clip, `history`
    the frames up to it (at most 4). hands: clip_id, frame, side, wrist, palm. objects: clip_id, frame, object, position,
    scale, spread, num_omega. calibrated: clip_id, frame. contacts: what each hand touches ("" nothing), only where the
    source says. targets: clip_id, frame, side, instruction, index, object (null: the text names none), reached.
    left_out: rejects of unreadable clips and of what lies behind the camera. completions_per_moment: 1 to 4.
    """

    clips: pl.DataFrame
    samples: pl.DataFrame
    hands: pl.DataFrame
    objects: pl.DataFrame
    calibrated: pl.DataFrame
    contacts: pl.DataFrame
    targets: pl.DataFrame
    left_out: pl.DataFrame
    completions_per_moment: int = 1


def gather(
    clips: Iterable[Clip],
    fits: pl.DataFrame,
    calibrations: pl.DataFrame,
    positions: pl.DataFrame,
    fps: float,
    poses_of: PosesOf = camera_poses,
    completions_per_moment: int = 1,
) -> Facts:
    """Collect the facts of a shard. fits, calibrations, positions: the tables mano_fits, calibrations, object_positions."""
    if not 1 <= completions_per_moment <= MAX_FRAMES:
        raise ValueError(f"hand3d_visual.completions_per_moment is {completions_per_moment}: give 1 to {MAX_FRAMES}")
    about, unreadable = [], []
    samples, contacts, targets = (Stack(schema) for schema in (_SAMPLES, _CONTACTS, _TARGETS))
    for clip in clips:
        frames = np.array(sampled_frames(clip.times_s, fps), np.int32)
        try:
            _add_samples(samples, clip, frames, poses_of(clip))
        except ClipError as error:  # its rows would have no samples to stand on: the whole clip is left out
            unreadable.append((clip.clip_id, str(error.reason), error.frame, error.side, error.detail))
            continue
        about.append((clip.clip_id, *(getattr(clip, name) for name in CLIP_COLUMNS)))
        _add_contacts(contacts, clip, frames)
        _add_targets(targets, clip, frames)
    table = _with_history(samples.table().with_columns(T_cam_world=pl.when("has_pose").then("T_cam_world")))
    hands, hands_behind = _in_front(_hands(fits, table), "palm", pl.col("side"), pl.lit("the hand"))
    objects, objects_behind = _in_front(_objects(positions, calibrations), "position", pl.lit(""), pl.col("object"))
    unread = pl.DataFrame(unreadable, schema=REJECT, orient="row")
    return Facts(
        clips=pl.DataFrame(about, schema=_CLIPS, orient="row"),
        samples=table,
        hands=hands,
        objects=objects,
        calibrated=calibrations.select("clip_id", "frame"),
        contacts=contacts.table(),
        targets=targets.table(),
        left_out=pl.concat([unread, hands_behind, objects_behind]),
        completions_per_moment=completions_per_moment,
    )


class Stack:
    """A table made of many short stretches of rows: numbers of each row, and words that a whole stretch or choice shares."""

    def __init__(self, schema: dict[str, pl.DataType]) -> None:
        self.schema, self.nums = schema, []
        self.columns: dict[str, list] = {name: [] for name in schema}

    def add(self, num: int, **values: object) -> None:
        """values: for each column an array of num, one word or number for all, or (words, places into them)."""
        self.nums.append(num)
        for name, value in values.items():
            self.columns[name].append(value)

    def table(self) -> pl.DataFrame:
        if not self.nums:
            return pl.DataFrame(schema=self.schema)
        of = np.repeat(np.arange(len(self.nums)), self.nums)
        return pl.DataFrame({name: self._column(self.columns[name], kind, of) for name, kind in self.schema.items()})

    @staticmethod
    def _column(parts: list, kind: pl.DataType, of: np.ndarray) -> pl.Series:
        if isinstance(parts[0], np.ndarray):
            return (
                pl.Series(np.concatenate(parts), dtype=kind)
                if parts[0].ndim > 1
                else pl.Series(np.concatenate(parts)).cast(kind)
            )
        if isinstance(parts[0], tuple):
            begin = np.cumsum([0] + [len(words) for words, _ in parts[:-1]])
            words = pl.Series([word for words, _ in parts for word in words], dtype=kind)
            return words.gather(
                np.concatenate([start + places for start, (_, places) in zip(begin, parts, strict=True)])
            )
        return pl.Series(parts, dtype=kind).gather(of)


def _add_samples(samples: Stack, clip: Clip, frames: np.ndarray, poses: np.ndarray | None) -> None:
    pose = np.zeros((len(frames), 16)) if poses is None else np.asarray(poses, np.float64)[frames].reshape(-1, 16)
    numbers = {"sample": np.arange(len(frames)), "frame": frames, "time_s": clip.times_s[frames]}
    samples.add(len(frames), clip_id=clip.clip_id, **numbers, T_cam_world=pose, has_pose=poses is not None)


def _with_history(samples: pl.DataFrame) -> pl.DataFrame:
    earlier = [pl.col("frame").shift(back).over("clip_id") for back in range(MAX_FRAMES - 1, -1, -1)]
    return samples.with_columns(history=pl.concat_list(earlier).list.drop_nulls())


def _add_contacts(contacts: Stack, clip: Clip, frames: np.ndarray) -> None:
    names = ["", *(track.name for track in clip.objects)]
    for side, touched in (clip.contact or {}).items():
        seen = names, np.maximum(np.asarray(touched)[frames], -1) + 1
        contacts.add(len(frames), clip_id=clip.clip_id, frame=frames, side=side, touched=seen)


def _add_targets(targets: Stack, clip: Clip, frames: np.ndarray) -> None:
    """The object a hand should move to next, for every sampled frame inside an instruction."""
    names = tuple(dict.fromkeys([*(track.name for track in clip.objects), *clip.object_names]))
    times_s = clip.times_s[frames]
    for index, instruction in enumerate(clip.instructions):
        named = mentioned(instruction.text, names)
        inside = frames[(instruction.start_s <= times_s) & (times_s < instruction.end_s)]
        for side in (instruction.side,) if instruction.side else SIDES:
            target, reached = next_target(clip, instruction, side, named, inside)
            targets.add(
                len(inside), clip_id=clip.clip_id, frame=inside, side=side, instruction=sentence(instruction.text),
                index=index, object=([*named, None], target), reached=reached,
            )  # fmt: skip


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
