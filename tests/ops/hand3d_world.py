"""A small world of known truth for the Hand3D tests: two hands, two objects, a camera, as clips and upstream tables.

No video is rendered: nothing in Hand3D's numbers looks at a pixel. All truth is in the world frame (`World`), so that
tests recompute expected values without the code under test.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.spatial.transform import Rotation

from ops import tables
from ops.geometry.camera import PinholeCamera
from ops.sources.base import Clip, HandTrack, Instruction, ObjectTrack

FPS = 10.0
SCALE = 1.7
PALM = (0, 5, 9, 13, 17)


@dataclass(frozen=True, eq=False)
class World:
    clip: Clip
    wrist_world: dict[str, np.ndarray]  # side -> (T, 3)
    joints_world: dict[str, np.ndarray]  # side -> (T, 21, 3)
    object_world: dict[str, np.ndarray]  # name -> (3,)
    R_world_cam: np.ndarray  # (T, 3, 3)
    centre_world: np.ndarray  # (T, 3)

    def in_camera(self, frame: int, point_world: np.ndarray) -> np.ndarray:
        return self.R_world_cam[frame].T @ (point_world - self.centre_world[frame])

    def palm_cam(self, frame: int, side: str) -> np.ndarray:
        return np.mean([self.in_camera(frame, self.joints_world[side][frame, j]) for j in PALM], axis=0)


def make_world(
    name: str, seed: int, seconds: float = 11.0, moving: bool = True, split: str = "train", posed: bool = True
) -> World:
    rng = np.random.default_rng(seed)
    num = int(seconds * FPS)
    times_s = np.arange(num) / FPS
    phase = rng.uniform(0, 2 * np.pi, (2, 3))
    wrist = {
        side: np.array([x, 0.1, 0.5]) + 0.12 * np.sin(0.9 * times_s[:, None] + phase[i])
        for i, (side, x) in enumerate((("left", -0.15), ("right", 0.15)))
    }
    shape = rng.normal(0, 0.03, (2, 21, 3))
    shape[:, 0] = 0
    joints = {side: wrist[side][:, None] + shape[i] for i, side in enumerate(("left", "right"))}
    sway = np.sin(times_s)[:, None] if moving else np.zeros((num, 1))
    R_world_cam = Rotation.from_rotvec(sway * rng.normal(0, 0.15, 3)).as_matrix()
    centre = sway * rng.normal(0, 0.06, 3)
    objects = {"red cube": np.array([0.05, 0.15, 0.55]), "blue plate": np.array([-0.1, 0.18, 0.6])}
    contact = {side: np.full(num, -1) for side in ("left", "right")}
    contact["right"][35:60] = 0
    T_cam_world = np.tile(np.eye(4), (num, 1, 1))
    T_cam_world[:, :3, :3] = R_world_cam.transpose(0, 2, 1)
    T_cam_world[:, :3, 3] = -np.einsum("tji,tj->ti", R_world_cam, centre)
    clip = Clip(
        clip_id=f"made/{name}", source="made", kind="made", video=Path("none.mp4"), fps=FPS, num_frames=num, times_s=times_s,
        camera=PinholeCamera(400.0, 400.0, 224.0, 168.0, 448, 336), intrinsics="given", split=split, licence="CC0",
        T_cam_world=T_cam_world if posed else None,
        hands={side: HandTrack(np.zeros((num, 45)), np.zeros((num, 3)), np.einsum("tij,tj->ti", T_cam_world[:, :3, :3], wrist[side]) + T_cam_world[:, :3, 3], np.zeros(10), np.ones(num, bool)) for side in wrist},
        objects=tuple(ObjectTrack(n, np.zeros((num, 4)), np.ones(num, bool), None) for n in objects),
        instructions=(
            Instruction(0.0, 7.0, "Put the red cube on the blue plate.", "right"),
            Instruction(7.0, seconds, "Wave.", "right"),
        ),
        contact=contact,
    )  # fmt: skip
    return World(clip, wrist, joints, objects, R_world_cam, centre)


def fits(worlds: list[World], gone: frozenset[tuple[str, int, str]] = frozenset()) -> pl.DataFrame:
    """mano_fits of all frames. gone: (clip_id, frame, side) that were not seen."""
    rows = []
    for world in worlds:
        for frame in range(world.clip.num_frames):
            for side in ("left", "right"):
                if (world.clip.clip_id, frame, side) in gone:
                    continue
                joints = np.array([world.in_camera(frame, p) for p in world.joints_world[side][frame]])
                rows.append({
                    "clip_id": world.clip.clip_id, "frame": frame, "time_s": float(world.clip.times_s[frame]), "side": side,
                    "theta": np.zeros(45), "r": np.zeros(3), "tau": joints[0], "beta": np.zeros(10),
                    "joints_cam": joints.reshape(-1), "joints_px": np.zeros(42), "visibility": np.zeros(21, np.uint8),
                    "residual_mm": 0.0, "reprojection_px": None, "score": 1.0, "route": "labels", "hand_model": "anny-standin",
                })  # fmt: skip
    return tables.frame("mano_fits", rows)


def calibrations(worlds: list[World], every: int = 10) -> pl.DataFrame:
    rows = [
        {"clip_id": w.clip.clip_id, "frame": f, "time_s": float(w.clip.times_s[f]), "scale": SCALE, "num_omega": 21, "spread": 0.01}
        for w in worlds
        for f in range(0, w.clip.num_frames, every)
    ]  # fmt: skip
    return tables.frame("calibrations", rows)


def positions(worlds: list[World], every: int = 10) -> pl.DataFrame:
    rows = [
        {"clip_id": w.clip.clip_id, "frame": f, "time_s": float(w.clip.times_s[f]), "name": name, "box_px": np.zeros(4),
         "position_cam": w.in_camera(f, point), "route": "labels"}
        for w in worlds
        for f in range(0, w.clip.num_frames, every)
        for name, point in w.object_world.items()
    ]  # fmt: skip
    return tables.frame("object_positions", rows)


def poses_of(clip: Clip) -> np.ndarray | None:
    """Poses as given: there is no video that could show a camera standing still."""
    return clip.T_cam_world
