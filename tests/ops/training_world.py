"""Small videos with known truth for the training tests: coloured balls and two hand-coloured balls before a wall.

Crude on purpose (no shading, no fingers): what is tested is that rows, frames, features and batches belong together,
and that a model can learn from them at all.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ops import tables
from ops.geometry.camera import PinholeCamera
from ops.hand3d import directions, language, motion_tokens
from ops.sources.base import Clip, HandTrack, ObjectTrack
from ops.sources.depth import NpzDepth
from ops.video import write_video

FPS, NUM_FRAMES = 5.0, 10
CAMERA = PinholeCamera(80.0, 80.0, 48.0, 36.0, 96, 72)
WALL_M = 1.2
COLOURS = {
    "left hand": (235, 190, 160),
    "right hand": (200, 140, 110),
    "red ball": (220, 30, 30),
    "blue ball": (30, 60, 220),
}
RADIUS_M = 0.05


@dataclass(frozen=True, eq=False)
class Scene:
    clip: Clip
    centres: dict[str, np.ndarray]  # name -> (T, 3), camera frame


def make_scene(folder: Path, name: str, seed: int, split: str = "train") -> Scene:
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, NUM_FRAMES)[:, None]
    lead = {
        "left hand": [-0.15, 0.05, 0.6],
        "right hand": [0.15, 0.05, 0.6],
        "red ball": [0, 0, 0.7],
        "blue ball": [0, 0, 0.7],
    }
    centres = {}
    for thing, middle in lead.items():
        start = np.array(middle) + rng.uniform(-0.15, 0.15, 3)
        centres[thing] = start + time * rng.uniform(-0.1, 0.1, 3) * ("hand" in thing)
    frames, depths = zip(*(_paint({k: v[t] for k, v in centres.items()}, rng) for t in range(NUM_FRAMES)), strict=True)
    folder.mkdir(parents=True, exist_ok=True)
    video, depth_file = folder / f"{name}.mp4", folder / f"{name}.npz"
    write_video(video, frames, FPS)
    np.savez_compressed(depth_file, depth_frames=np.arange(NUM_FRAMES), depth_tenth_mm=np.stack(depths))
    return Scene(_clip(name, split, centres, video, depth_file), centres)


def _clip(name: str, split: str, centres: dict[str, np.ndarray], video: Path, depth_file: Path) -> Clip:
    zeros, valid = np.zeros((NUM_FRAMES, 3)), np.ones(NUM_FRAMES, bool)
    hands = {
        side: HandTrack(np.zeros((NUM_FRAMES, 45)), zeros, centres[f"{side} hand"], np.zeros(10), valid)
        for side in ("left", "right")
    }
    objects = tuple(
        ObjectTrack(thing, np.stack([_box(centre) for centre in centres[thing]]), valid, centres[thing])
        for thing in centres
        if "hand" not in thing
    )
    return Clip(
        clip_id=f"synthetic/{name}", source="synthetic", kind="synthetic", video=video, fps=FPS, num_frames=NUM_FRAMES,
        times_s=np.arange(NUM_FRAMES) / FPS, camera=CAMERA, intrinsics="given", split=split, licence="CC0", hands=hands,
        objects=objects, depth=NpzDepth(depth_file), T_cam_world=np.tile(np.eye(4), (NUM_FRAMES, 1, 1)),
    )  # fmt: skip


def _paint(centres: dict[str, np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width] + 0.5
    picture = np.stack([120 + 60 * u / CAMERA.width, 120 + 60 * v / CAMERA.height, np.full_like(u, 110)], axis=-1)
    depth = np.full((CAMERA.height, CAMERA.width), WALL_M)
    for thing, centre in sorted(centres.items(), key=lambda item: -item[1][2]):
        x, y = CAMERA.project(centre)
        inside = (u - x) ** 2 + (v - y) ** 2 < (CAMERA.fx * RADIUS_M / centre[2]) ** 2
        picture[inside] = np.array(COLOURS[thing]) * (1.1 - 0.4 * centre[2])
        depth[inside] = centre[2]
    return (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8), (depth * 1e4).astype(np.uint16)


def _box(centre: np.ndarray) -> np.ndarray:
    x, y = CAMERA.project(centre)
    r = CAMERA.fx * RADIUS_M / centre[2]
    return np.array([x - r, y - r, x + r, y + r])


def clips_table(scenes: list[Scene]) -> pl.DataFrame:
    """The clips table of raw_videos."""
    return tables.frame("clips", [_clip_row(scene.clip) for scene in scenes])


def _clip_row(clip: Clip) -> dict[str, object]:
    return {
        "clip_id": clip.clip_id, "source": clip.source, "kind": clip.kind, "video": str(clip.video),
        "root": str(clip.video.parent), "view": None, "hand_model": None, "video_width": CAMERA.width,
        "video_height": CAMERA.height, "subject": "", "noncommercial": False, "redistributable": True,
        "sha256": hashlib.sha256(clip.video.read_bytes()).hexdigest(), "side_sha256": None,
        "num_bytes": clip.video.stat().st_size, "fps": FPS, "num_frames": NUM_FRAMES, "width": CAMERA.width,
        "height": CAMERA.height, "fx": CAMERA.fx, "fy": CAMERA.fy, "cx": CAMERA.cx, "cy": CAMERA.cy, "intrinsics": "given",
        "has_labels": True, "has_depth": True, "split": clip.split, "licence": clip.licence,
    }  # fmt: skip


def visual_rows(scenes: list[Scene], seed: int = 0) -> pl.DataFrame:
    """Where each ball is from each hand, in every frame, with 1 to 4 frames shown."""
    rng, rows = np.random.default_rng(seed), []
    for scene in scenes:
        for frame in range(NUM_FRAMES):
            for side in ("left", "right"):
                for thing in ("red ball", "blue ball"):
                    vector = scene.centres[thing][frame] - scene.centres[f"{side} hand"][frame]
                    first = max(0, frame - int(rng.integers(4)))
                    rows.append({
                        "row_id": f"{scene.clip.clip_id}:{frame}:{side}:{thing}", "clip_id": scene.clip.clip_id, "source": "synthetic",
                        "split": scene.clip.split, "task": "spatial_relation", "frames": list(range(first, frame + 1)), "side": side,
                        "object": thing, "instruction": None, "vector": vector.astype(np.float32), "rotation": None, "contact": None,
                        "scale": 1.0, "licence": "CC0",
                    })  # fmt: skip
    table = pl.DataFrame(
        rows,
        schema_overrides={
            "vector": pl.Array(pl.Float32, 3),
            "contact": pl.Boolean,
            "instruction": pl.String,
            "rotation": pl.Array(pl.Float32, 3),
        },
    )
    distance, direction = directions.measure(table["vector"].to_numpy(), 0.3)
    table = table.with_columns(
        distance_m=pl.Series(distance, dtype=pl.Float32), direction=pl.Series(direction, dtype=pl.Array(pl.Int8, 3))
    )
    question, answer = language.visual_texts(table, seed, 0.3)
    table = table.with_columns(question=question, answer=answer, frames=pl.col("frames").cast(pl.List(pl.Int32)))
    table = table.with_columns(
        wording=pl.lit("grammar"), start=pl.lit(None, dtype=tables.vec(3)), spread=pl.lit(None, dtype=pl.Float32),
        num_omega=pl.lit(None, dtype=pl.Int32), intrinsics=pl.lit("given"), noncommercial=False, redistributable=True,
    )  # fmt: skip
    return tables.validate("visual_rows", table.select(list(tables.SCHEMAS["visual_rows"].columns)))


def action_rows(scenes: list[Scene]) -> pl.DataFrame:
    """One motion of each hand a clip, for each of the three tasks."""
    rows = []
    for scene in scenes:
        for side in ("left", "right"):
            points = scene.centres[f"{side} hand"]
            tokens = motion_tokens.encode(points)[0].reshape(-1).tolist()
            for task, num_context in zip(tables.ACTION_TASKS, (0, NUM_FRAMES // 2, NUM_FRAMES), strict=True):
                rows.append({
                    "row_id": f"{scene.clip.clip_id}:{side}:{task}", "clip_id": scene.clip.clip_id, "source": "synthetic",
                    "split": scene.clip.split, "task": task, "chunk": 0, "frame": 0, "side": side, "instruction": "move",
                    "prompt": f"How does the {side} hand move?", "context_tokens": tokens[: 3 * num_context],
                    "target_tokens": tokens[3 * num_context :], "target_text": None if num_context < NUM_FRAMES else "move",
                    "waypoints": points.reshape(-1).tolist(), "waypoint_hz": FPS, "displacement_m": 0.1, "num_clipped": 0,
                    "licence": "CC0", "level": "chunk", "start_s": 0.0, "intrinsics": "given", "noncommercial": False,
                    "redistributable": True,
                })  # fmt: skip
    return tables.frame("action_rows", rows)
