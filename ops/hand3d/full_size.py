"""A made-up Hand3D of the paper's size: metadata and geometry of nine sources, for dry runs and benches.

No source is read and nothing here is data: clip counts, lengths, hands and objects are of the sources' order of magnitude,
motions are sums of sines. What it is for: to see whether the targets can be met, that counts come out exactly, and what
making all rows costs, before there is a single licensed video. EgoDex has as many action clips as give the paper's 4M
video-instruction-motion pairs in all. Metres, seconds, camera frame (OpenCV axes).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ops import tables
from ops.config import Hand3DActionConfig, Hand3DVisualConfig
from ops.geometry.camera import PinholeCamera
from ops.hand3d import recordings, windows
from ops.hand3d.recordings import Recordings
from ops.hand3d.windows import INSTRUCTION
from ops.sources.base import SIDES, Clip, Instruction, ObjectTrack
from ops.tables import vec

VERBS = ("put", "move", "hang", "lay", "lift", "turn", "push", "pour")
THINGS = ("cup", "box", "bottle", "plate", "spoon", "knife", "bowl", "lid")
SAY_CONTACT = ("OakInk2", "Dex-YCB")
# the configuration of such a run; the same values stand in ops/configs/paper.yaml (a test compares them)
VISUAL = Hand3DVisualConfig(targets="paper", num_clips=4000, completions_per_moment=4)
ACTION = Hand3DActionConfig(targets="paper", prediction_share=0.5, translation_share=0.25)


@dataclass(frozen=True)
class Size:
    """Of one source. clips: recordings times views; seconds: mean length; action_clips: those used for motion rows."""

    source: str
    clips: int
    seconds: float
    fps: float
    hands: int
    objects: int
    moving: bool
    subjects: int
    action_clips: int = 0
    told: int = 1
    """Hands with a text in the action clips."""
    least_motion_m: float = 0.008
    """Hands go to and fro by this to 12 cm: with 0.8 cm most windows move more than 5 cm, with 0.13 cm half of them."""


SIZES = (
    Size("Arctic", 3_051, 23.0, 30.0, 2, 1, True, 10, 3_051, 2),
    Size("OakInk2", 2_508, 53.0, 30.0, 2, 3, True, 9, 1_200, 2),
    Size("TACO", 9_268, 5.8, 30.0, 2, 2, True, 14, 9_268, 2),
    Size("H2O", 920, 20.0, 30.0, 2, 2, True, 4, 920, 2),
    Size("HOI4D", 4_000, 20.0, 15.0, 1, 2, True, 9, 3_000),
    Size("EgoDex", 338_000, 8.8, 30.0, 2, 2, True, 100, 205_000, 1, 0.0013),
    Size("FPHA", 1_175, 4.0, 30.0, 1, 1, False, 6),
    Size("Taste-Rob", 100_856, 8.0, 30.0, 1, 2, False, 50),
    Size("Dex-YCB", 8_000, 3.0, 30.0, 1, 4, False, 10),
)


def metadata(seed: int, dataset: str = "visual") -> pl.DataFrame:
    """A row a clip of "visual" or "action": clip_id, source, subject, task, seconds, fps, motion_m (how far its
    hands go to and fro), told (hands with a text), hands, objects, moving (the camera)."""
    rng = np.random.default_rng(seed)
    parts = []
    for size in SIZES:
        num = size.clips if dataset == "visual" else size.action_clips
        seconds = np.clip(size.seconds * rng.gamma(4.0, 0.25, num), 2.5, 4 * size.seconds)
        name = "".join(letter for letter in size.source.lower() if letter.isalnum())
        parts.append(pl.DataFrame({"number": np.arange(num)}).select(
            clip_id=pl.format(f"{name}/{{}}", pl.col("number").cast(pl.String).str.zfill(6)), source=pl.lit(size.source),
            subject=pl.Series(rng.integers(0, size.subjects, num)).cast(pl.String),
            task=pl.Series(VERBS).gather(rng.integers(0, len(VERBS), num)), seconds=pl.Series(np.round(seconds, 1)),
            fps=pl.lit(size.fps), motion_m=pl.Series(10 ** rng.uniform(np.log10(size.least_motion_m), -0.9, num)), told=pl.lit(size.told), hands=pl.lit(size.hands), objects=pl.lit(size.objects), moving=pl.lit(size.moving),
        ))  # fmt: skip
    return pl.concat(parts)


def rows_there_are(clips: pl.DataFrame, config: Hand3DVisualConfig) -> pl.DataFrame:
    """The metadata and, for each visual task, the rows its rules give of such a clip (`visual_world`'s: hands always
    seen; where contact is said, one object is touched in the middle third)."""
    samples = (pl.col("seconds") - 1 / pl.col("fps") + 1e-6).floor() + 1
    completions = sum((samples - shown).clip(0) for shown in range(config.completions_per_moment))
    pairs = pl.col("hands") * pl.col("objects") + (pl.col("hands") == 2).cast(pl.Int64)
    touched = pl.col("source").is_in(SAY_CONTACT)
    open_share = pl.when(~touched).then(1.0).when(pl.col("objects") > 1).then(0.66).otherwise(0.33)
    return clips.with_columns(
        spatial_relation=pairs * samples,
        task_completion=(pl.col("hands") * completions * open_share).floor(),
        hand_movement=pl.col("hands") * (samples - 1),
        camera_movement=pl.when("moving").then(samples - 1).otherwise(0),
    )


def motions_there_are(clips: pl.DataFrame, config: Hand3DActionConfig) -> pl.DataFrame:
    """source, task, available: action rows such clips give, judging from lengths, texts and how far hands go."""
    seconds = clips["seconds"].to_numpy() - 1 / clips["fps"].to_numpy()
    stride_s = np.full(len(clips), config.window_s)
    planned, _ = windows.plan(
        seconds, stride_s, _texts(clips, np.ones(len(clips), int), np.random.default_rng(0)), config
    )
    path_m = 1.9 * pl.Series(clips["motion_m"]).gather(planned["clip"]) * planned["num"] / planned["hz"]  # about
    moving = planned.with_columns(source=clips["source"].gather(planned["clip"])).filter(
        path_m >= config.min_displacement_m
    )
    counted = moving.group_by("source").len("windows")
    shares = zip(tables.ACTION_TASKS, (1.0, config.prediction_share, config.translation_share), strict=True)
    return pl.concat(
        counted.select("source", task=pl.lit(task), available=(pl.col("windows") * share).floor().cast(pl.Int64))
        for task, share in shares
    )


@dataclass(frozen=True, eq=False)
class VisualWorld:
    """What stage hand3d_visual reads: clips and upstream tables (the columns it uses)."""

    clips: list[Clip]
    fits: pl.DataFrame
    calibrations: pl.DataFrame
    positions: pl.DataFrame


def visual_world(clips: pl.DataFrame, seed: int) -> VisualWorld:
    """Geometry of the given clips (rows of `metadata`), at one frame a second."""
    made, fits, positions, frames = [], [], [], []
    for row in clips.iter_rows(named=True):
        rng = np.random.default_rng([seed, int(row["clip_id"].split("/")[1])])
        clip = _clip(row, rng)
        sampled = np.arange(0, clip.num_frames, round(row["fps"]), dtype=np.int32)
        times_s = clip.times_s[sampled]
        for hand in range(row["hands"]):
            joints = _wave(rng, times_s)[:, None] + rng.normal(0, 0.03, (1, 21, 3)) * (np.arange(21) > 0)[:, None]
            fits.append(
                _columns(row, sampled, side=SIDES[1 - hand], tau=joints[:, 0], joints_cam=joints.reshape(-1, 63))
            )
        positions += [
            _columns(row, sampled, name=track.name, position_cam=_wave(rng, times_s, 0.02)) for track in clip.objects
        ]
        frames.append(_columns(row, sampled, scale=1.7, spread=0.01, num_omega=21))
        made.append(clip)
    types = {"frame": pl.Int32, "spread": pl.Float32, "num_omega": pl.Int32}
    tau = pl.col("tau", "joints_cam")
    return VisualWorld(made, pl.concat(fits).with_columns(tau), pl.concat(frames).cast(types), pl.concat(positions))


def _columns(row: dict, frames: np.ndarray, **values: object) -> pl.DataFrame:
    """clip_id, frame and the given columns; points are stored as float32 arrays."""
    given = {"frame": frames}
    fixed = [pl.lit(row["clip_id"]).alias("clip_id")]
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            given[name] = pl.Series(value.astype(np.float32), dtype=vec(value.shape[1]))
        else:
            fixed.append(pl.lit(value).alias(name))
    return pl.DataFrame(given).with_columns(fixed)


def _wave(rng: np.random.Generator, times_s: np.ndarray, size_m: float = 0.12) -> np.ndarray:
    """(T, 3) smooth path in front of the camera."""
    rate, phase = rng.uniform(0.3, 1.5, 3), rng.uniform(0, 6.3, 3)
    return rng.uniform([-0.25, -0.2, 0.35], [0.25, 0.2, 0.7]) + size_m * np.sin(times_s[:, None] * rate + phase)


def _clip(row: dict, rng: np.random.Generator) -> Clip:
    num = round(row["seconds"] * row["fps"])
    times_s = np.arange(num) / row["fps"]
    names = [str(name) for name in rng.choice(THINGS, row["objects"], replace=False)]
    sides = SIDES[1:] if row["hands"] == 1 else SIDES
    text = f"{row['task']} the {names[0]}" + (f" on the {names[1]}" if len(names) > 1 else "")
    touched = np.full(num, -1)
    touched[num // 3 : 2 * num // 3] = 0
    return Clip(
        clip_id=row["clip_id"], source=row["source"], kind="made up", video=Path("none.mp4"), fps=row["fps"], num_frames=num,
        times_s=times_s, camera=PinholeCamera(736.6, 736.6, 960.0, 540.0, 1920, 1080), intrinsics="given", split="train",
        licence="made up", T_cam_world=_poses(times_s, rng.normal(0, 0.1, 2) if row["moving"] else np.zeros(2)),
        objects=tuple(ObjectTrack(name, np.zeros((0, 4)), np.zeros(0, bool), None) for name in names),
        instructions=(Instruction(0.0, row["seconds"], text, sides[0] if len(sides) == 1 else None),),
        contact=dict.fromkeys(sides, touched) if row["source"] in SAY_CONTACT else None, subject=row["subject"], noncommercial=True, redistributable=False,
    )  # fmt: skip


def _poses(times_s: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(T, 4, 4) world-to-camera: turning about y by size[0] rad, moving along x by size[1] m, back and forth."""
    angle, T = size[0] * np.sin(times_s), np.tile(np.eye(4), (len(times_s), 1, 1))
    T[:, 0, 0] = T[:, 2, 2] = np.cos(angle)
    T[:, 0, 2] = np.sin(angle)
    T[:, 2, 0] = -T[:, 0, 2]
    T[:, 0, 3] = size[1] * np.sin(times_s)
    return T


def action_world(clips: pl.DataFrame, seed: int) -> tuple[Recordings, pl.DataFrame]:
    """Recordings of the given clips, and clip_id, frame, side, tau of each hand that has a text, in every frame."""
    rng = np.random.default_rng(seed)
    num = np.rint(clips["seconds"].to_numpy() * clips["fps"].to_numpy()).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(num)])
    frame = np.arange(first[-1]) - np.repeat(first[:-1], num)
    of = np.repeat(np.arange(len(clips)), num)
    times_s = frame / clips["fps"].to_numpy()[of]
    side = rng.integers(0, 2, len(clips))
    side[clips["hands"].to_numpy() == 1] = 1
    moved = _poses(times_s, np.array([0.08, 0.05]))
    fixed = {
        "split": "train",
        "licence": "made up",
        "intrinsics": "given",
        "noncommercial": True,
        "redistributable": False,
    }
    about = clips.select("clip_id", "source").with_columns(pl.lit(value).alias(name) for name, value in fixed.items())
    known = Recordings(about.select(recordings.ABOUT.keys()), first, times_s, moved, _texts(clips, side, rng))
    both = clips["told"].to_numpy() == 2
    hands = [(np.ones(len(clips), bool), side), (both, 1 - side)]
    fits = [
        _fits(clips, of[told[of]], frame[told[of]], times_s[told[of]], moved[told[of]], which, rng)
        for told, which in hands
    ]
    return known, pl.concat(fits)


def _fits(
    clips: pl.DataFrame, of: np.ndarray, frame: np.ndarray, times_s: np.ndarray, poses: np.ndarray, side: np.ndarray,
    rng: np.random.Generator,
) -> pl.DataFrame:  # fmt: skip
    """One hand of each clip, a row a frame. of: which clip; poses: T_cam_world."""
    wrist = rng.uniform([-0.2, -0.2, 0.35], [0.2, 0.2, 0.65], (len(clips), 3))[of]
    size_m = clips["motion_m"].to_numpy()[of]
    for axis, (rate, phase) in enumerate(zip((1.1, 1.7, 0.9), rng.uniform(0, 6.3, (3, len(clips))), strict=True)):
        wrist[:, axis] += size_m * np.sin(rate * times_s + phase[of])
    wrist_cam = recordings.to_camera(poses, np.arange(len(wrist)), wrist)
    return pl.DataFrame({
        "clip_id": clips["clip_id"].gather(of), "frame": frame.astype(np.int32), "side": pl.Series(list(SIDES)).gather(side[of]),
        "tau": pl.Series(wrist_cam.astype(np.float32), dtype=vec(3)),
    })  # fmt: skip


def _texts(clips: pl.DataFrame, side: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """One text a clip; for no hand in particular where both are told."""
    things = pl.Series(THINGS).gather(rng.integers(0, len(THINGS), len(clips)))
    hand = pl.when(pl.col("told") == 1).then(pl.Series(list(SIDES)).gather(side))
    return clips.select(
        clip=pl.int_range(pl.len()), start_s=pl.lit(0.0), end_s="seconds", side=hand, text=pl.format("{} the {}", "task", things)
    ).cast(INSTRUCTION)  # fmt: skip


def no_video(clip: Clip) -> np.ndarray | None:
    """Poses as made up: there is no video that could show a camera standing still."""
    return clip.T_cam_world
