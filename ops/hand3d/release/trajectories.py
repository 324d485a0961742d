"""Hand trajectories as LeRobot v3 episodes: what each labelled frame says about one hand, where an action row was made.

An episode is one hand in one chunk of a clip, without gaps. Its state is in the camera frame of the episode's FIRST step
(OpenCV axes), so a moving camera is taken out; T_cam_first maps it to each step's own camera. Nothing is interpolated: a
step takes the labelled frame nearest to its time, and where there is none the episode ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int, UInt8

from ops.geometry import transforms
from ops.lerobot.reader import ACTION_KEY, STATE_KEY
from ops.lerobot.writer import Layout
from ops.sources.base import SIDES, Clip
from ops.tables import BOTH

MIN_STEPS = 4
VIEW = "egocentric"
_XYZ = ("x", "y", "z")
STATE_NAMES = [
    *(f"wrist_{a}" for a in _XYZ),
    *(f"wrist_axis_angle_{a}" for a in _XYZ),
    *(f"finger_{joint:02d}_axis_angle_{a}" for joint in range(15) for a in _XYZ),
]
LAYOUT = Layout(
    names={
        STATE_KEY: STATE_NAMES,  # m and rad, camera frame of the episode's first step; fingers as MANO theta, flat hand mean
        ACTION_KEY: STATE_NAMES,  # the state of the next step; the last step's own
        "observation.T_cam_first": [f"T_{i}{j}" for i in range(4) for j in range(4)],
        "observation.intrinsics": ["fx", "fy", "cx", "cy"],  # pixels, of the stored image
        "observation.betas": [f"beta_{i}" for i in range(10)],
        "observation.side": None,  # 0 left, 1 right
        "observation.source_frame": None,  # frame of the clip's video
    },
    view_keys={VIEW: f"observation.images.{VIEW}"},
    robot_type="human_hand",
)


@dataclass(frozen=True, eq=False)
class HandEpisode:
    """T steps of one hand. frames (T,): of the clip. values: features of LAYOUT. images: by view, none or one a step."""

    clip_id: str
    side: str
    frames: Int[np.ndarray, " T"]
    values: dict[str, np.ndarray]
    task: str
    split: str
    images: dict[str, UInt8[np.ndarray, "T h w 3"]] = field(default_factory=dict)

    @property
    def image_index(self) -> np.ndarray:
        return np.arange(len(self.frames))

    def numbers(self) -> dict[str, np.ndarray]:
        return self.values


@dataclass(frozen=True)
class Span:
    """Where action rows were made from a hand: seconds of the clip. text: the longest row's instruction."""

    clip_id: str
    side: str
    chunk: int
    start_s: float
    end_s: float
    text: str
    split: str


def spans(path: Path) -> list[Span]:
    """One span a clip, chunk and hand of an action_rows file, train first; a row of both hands counts for each."""
    num = pl.col("waypoints").list.len() // (3 * pl.col("_hands").list.len())
    rows = (
        pl.scan_parquet(path)
        .filter(task="instructional_motion_generation")
        .with_columns(
            _hands=pl.when(pl.col("side") == BOTH).then(pl.lit(list(SIDES))).otherwise(pl.concat_list("side"))
        )
        .with_columns(_end_s=pl.col("start_s") + (num - 1) / pl.col("waypoint_hz"))
        .select("split", "clip_id", "chunk", "start_s", "_end_s", "instruction", side="_hands")
        .explode("side")
        .collect()
        .sort(pl.col("_end_s") - pl.col("start_s"), "start_s", "instruction", descending=[True, False, False])
    )
    found = rows.group_by("split", "clip_id", "chunk", "side").agg(
        pl.col("start_s").min(), pl.col("_end_s").max(), pl.col("instruction").first()
    )
    ordered = found.sort(pl.col("split") != "train", "clip_id", "chunk", "side")
    return [Span(clip, side, chunk, a, b, text, split) for split, clip, chunk, side, a, b, text in ordered.iter_rows()]


def episodes(
    clip: Clip, span: Span, fits: pl.DataFrame, fps: float, max_gap_s: float, edge: int, with_images: bool
) -> Iterator[HandEpisode]:
    """Episodes of one span; several where the hand was lost for longer than max_gap_s. fits: the clip's mano_fits."""
    seen = fits.filter(side=span.side).sort("frame")
    for rows in _runs(clip.times_s[seen["frame"].to_numpy()], span.start_s, span.end_s, fps, max_gap_s):
        yield _episode(clip, span, seen[rows.tolist()], edge, with_images)


def _runs(
    times_s: Float[np.ndarray, " n"], start_s: float, end_s: float, fps: float, max_gap_s: float
) -> Iterator[Int[np.ndarray, " T"]]:
    """Rows of the sightings for each run of steps k / fps that have one within half the gap."""
    if not len(times_s):
        return
    steps_s = np.arange(start_s, end_s + 1e-6, 1 / fps)
    right = np.clip(np.searchsorted(times_s, steps_s), 0, len(times_s) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(times_s[left] - steps_s) <= np.abs(times_s[right] - steps_s), left, right)
    there = np.abs(times_s[nearest] - steps_s) <= max(max_gap_s, 1 / fps) / 2 + 1e-9
    for run in np.split(np.arange(len(steps_s)), np.flatnonzero(np.diff(there.astype(int))) + 1):
        if there[run[0]] and len(run) >= MIN_STEPS:
            yield nearest[run]


def _episode(clip: Clip, span: Span, seen: pl.DataFrame, edge: int, with_images: bool) -> HandEpisode:
    frames = seen["frame"].to_numpy().astype(np.int64)
    num = len(frames)
    # without poses an action row was made only because the camera was seen to stand still
    poses = np.tile(np.eye(4), (num, 1, 1)) if clip.T_cam_world is None else clip.T_cam_world[frames]
    T_first_cam = poses[0] @ transforms.invert(poses)
    position = transforms.apply(T_first_cam, seen["tau"].to_numpy().astype(np.float64).reshape(-1, 3))
    turn = T_first_cam[:, :3, :3] @ transforms.rotvec_to_rotmat(seen["r"].to_numpy().reshape(-1, 3))
    theta = seen["theta"].to_numpy().reshape(-1, 45)
    state = np.concatenate([position, transforms.rotmat_to_rotvec(turn), theta], axis=1).astype(np.float32)
    camera = clip.camera.resized(edge, edge) if with_images else clip.camera
    values = {
        STATE_KEY: state,
        ACTION_KEY: np.concatenate([state[1:], state[-1:]]),
        "observation.T_cam_first": transforms.invert(T_first_cam).reshape(num, 16).astype(np.float32),
        "observation.intrinsics": np.tile(np.float32([camera.fx, camera.fy, camera.cx, camera.cy]), (num, 1)),
        "observation.betas": seen["beta"].to_numpy().reshape(-1, 10).astype(np.float32),
        "observation.side": np.full(num, SIDES.index(span.side), np.int64),
        "observation.source_frame": frames,
    }
    images = {}
    if with_images:
        read = {f.index: f.rgb for f in clip.frames(sorted(set(frames.tolist())), (edge, edge))}
        images[VIEW] = np.stack([read[int(frame)] for frame in frames])
    return HandEpisode(clip.clip_id, span.side, frames, values, f"{span.side} hand: {span.text}", span.split, images)


def write_sources(rows: list[tuple], clips: pl.DataFrame, path: Path) -> None:
    """What LeRobot's own files do not say: clip, hand, chunk, first frame and licence of each episode, in their order."""
    names = ["clip_id", "side", "chunk", "first_frame", "images"]
    table = pl.DataFrame(rows, names, orient="row").with_row_index("episode_index")
    terms = clips.select("clip_id", "sha256", "split", "licence", "noncommercial", "redistributable")
    table.join(terms, on="clip_id", how="left", maintain_order="left").write_parquet(path, compression="zstd")
