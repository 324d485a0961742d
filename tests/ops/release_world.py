"""A small Hand3D workspace of known truth with real videos: four clips in two shards, one shard not redistributable.

Rows are written here from the world's truth, not by the generators, so that a release can be compared with them. A frame
of a video is a flat colour that says which clip and which frame it is.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from scipy.spatial.transform import Rotation

from ops import config, tables, video
from ops.hand3d import directions, motion_tokens
from ops.pipeline import output
from tests.assets.fakes import valid_row
from tests.ops import hand3d_world
from tests.ops.hand3d_world import World

GAMMA, HZ, NUM = 0.3, 5.0, 10
SHARDS = {"open": ("a", "b"), "closed": ("c", "d")}
WORLDS: dict[str, World] = {}
"""By clip id; filled by `make`, read by the reader below."""


def read_clip(path: Path, shard, settings, info=None):
    """ops.sources reader of kind "made"."""
    return WORLDS[f"made/{path.stem}"].clip


def colour(name: str, frame: int) -> tuple[int, int, int]:
    """Of a frame of clip "made/<name>"; any two differ by more than JPEG and H.264 change."""
    return (30 + 60 * "abcd".index(name), 30 + 20 * (frame % 10), 30 + 30 * (frame // 10))


def settings(**values) -> config.Config:
    train = {"num_steps": 1, "batch_size": 1, "lr": 0.1, "weight_decay": 0.0, "warmup_ratio": 0.0}
    section = {"frame_long_edge": 64, "samples_per_tar": 40, "trajectory_image_edge": 32, "trajectory_fps": 5.0, "num_verified": 100, "gallery_rows": 1}  # fmt: skip
    shards = {name: {"source": "made", "kind": "made", "root": name} for name in SHARDS}
    params = {"shards": shards, **{name: train for name in ("base_model", "stage1", "stage2", "stage3")}}
    return config.build(config.Config, params | {"hand3d_dataset": section | values}, "params.yaml")


def make(root: Path) -> Path:
    """Write the videos and everything upstream of hand3d_dataset. The reader must be known to ops.sources.manifest."""
    test_rows = []
    for shard, names in SHARDS.items():
        worlds = [_world(root, name, seed) for seed, name in enumerate(names, 3 + len(shard))]
        rows = pl.concat([_visual(world) for world in worlds]).sort("row_id")
        test_rows.append(rows.filter(split="test"))
        _write(root, "raw_videos", shard, clips=_clips(root, worlds, shard))
        _write(root, "mano_fits", shard, mano_fits=hand3d_world.fits(worlds))
        _write(root, "calibrated_point_clouds", shard, object_positions=hand3d_world.positions(worlds))
        _write(root, "hand3d_visual", shard, visual_rows=rows.filter(split="train"))
        _write(root, "hand3d_action", shard, action_rows=pl.concat([_action(world) for world in worlds]).sort("row_id"))
        for name in ("point_clouds", "objects"):
            _write(root, name, shard)
    _write(root, "hand3d_test", "", visual_rows=pl.concat(test_rows).sort("row_id"))
    return root


def _write(root: Path, name: str, shard: str, **written: pl.DataFrame) -> None:
    folder = output(root, name, shard)
    folder.mkdir(parents=True)
    for file, table in written.items():
        tables.write({"clips": "clips"}.get(file, file), table, folder / f"{file}.parquet")
    left_out = [{"item": "made/x", "reason": "no_object", "frame": 1, "side": "", "detail": name}] * (name == "objects")
    tables.write("rejects", tables.frame("rejects", left_out), folder / "rejects.parquet")


def _world(root: Path, name: str, seed: int) -> World:
    world = hand3d_world.make_world(name, seed, seconds=6.0, split="test" if name in "bd" else "train")
    path = root / f"{name}.mp4"
    frames = (np.full((336, 448, 3), colour(name, i), np.uint8) for i in range(world.clip.num_frames))
    video.write_video(path, frames, hand3d_world.FPS, gop=10)
    world = replace(world, clip=replace(world.clip, video=path))
    WORLDS[world.clip.clip_id] = world
    return world


def _clips(root: Path, worlds: list[World], shard: str) -> pl.DataFrame:
    rows = []
    for world in worlds:
        clip, camera = world.clip, world.clip.camera
        rows.append(valid_row("clips") | {
            "clip_id": clip.clip_id, "source": "made", "kind": "made", "video": clip.video.name, "root": ".", "view": None,
            "hand_model": None, "sha256": clip.clip_id[-1] * 64, "num_bytes": clip.video.stat().st_size, "fps": clip.fps,
            "num_frames": clip.num_frames, "video_width": 448, "video_height": 336, "width": 448, "height": 336,
            "fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy, "split": clip.split,
            "licence": "CC0-1.0" if shard == "open" else "own; do not pass on", "noncommercial": shard != "open",
            "redistributable": shard == "open",
        })  # fmt: skip
    return tables.frame("clips", rows)


def _visual(world: World) -> pl.DataFrame:
    """Relations of both hands to both objects, hand and camera movements, at every tenth frame, from the truth."""
    rows = []
    for last in range(10, world.clip.num_frames, 10):
        for side in ("left", "right"):
            for name, place in world.object_world.items():
                palm = world.palm_cam(last, side)
                touched = bool(world.clip.contact[side][last] == list(world.object_world).index(name))
                rows.append(_row(world, "spatial_relation", [last - 10, last], side, name, palm, world.in_camera(last, place) - palm, contact=touched))  # fmt: skip
            before, now = (world.in_camera(last, world.wrist_world[side][f]) for f in (last - 10, last))
            rows.append(_row(world, "hand_movement", [last - 10, last], side, None, before, now - before))
        centres = [world.in_camera(last, world.centre_world[f]) for f in (last - 10, last)]
        turn = world.R_world_cam[last - 10].T @ world.R_world_cam[last]
        rows.append(_row(world, "camera_movement", [last - 10, last], None, None, None, centres[1] - centres[0], rotation=Rotation.from_matrix(turn).as_rotvec()))  # fmt: skip
    # a row of one frame
    rows.append(_row(world, "spatial_relation", [0], "left", "red cube", world.palm_cam(0, "left"), world.in_camera(0, world.object_world["red cube"]) - world.palm_cam(0, "left"), contact=False))  # fmt: skip
    return tables.frame("visual_rows", rows)


def _row(world: World, task, frames, side, name, start, vector, contact=None, rotation=None) -> dict:
    vector = np.float32(vector)
    length = float(np.linalg.norm(vector.astype(float)))
    direction = (
        [0] * 3 if length < 0.005 else [int(np.sign(c)) * int(abs(c) > GAMMA * length) for c in vector.astype(float)]
    )
    answer = f"{directions.phrase(tuple(direction))}, {length:.2f} m."
    if contact is not None:
        answer = f"Touching: {'yes' if contact else 'no'}. {answer}"
    if rotation is not None:
        answer = f"The camera rotates {np.degrees(np.linalg.norm(rotation)):.0f} degrees; it moves {answer}"
    return valid_row("visual_rows") | {
        "row_id": f"{world.clip.clip_id}:{task}:{frames[-1]}:{side}:{name}", "clip_id": world.clip.clip_id, "source": "made",
        "split": world.clip.split, "task": task, "frames": frames, "side": side, "object": name, "instruction": None,
        "question": f'Where "is" it, in {len(frames)} frames?', "answer": answer, "start": None if start is None else np.float32(start),
        "vector": vector, "distance_m": np.float32(length), "direction": direction, "contact": contact,
        "rotation": None if rotation is None else np.float32(rotation),
    }  # fmt: skip


def _action(world: World) -> pl.DataFrame:
    """Each task for both hands from 1 s on, and motion generation for the two together; waypoints on labelled frames."""
    rows = []
    for task in tables.ACTION_TASKS:
        for side in ("left", "right", *((tables.BOTH,) if task == tables.ACTION_TASKS[0] else ())):
            context = {"contextual_motion_prediction": NUM // 2, "motion_translation": NUM}.get(task, 0)
            first = 10 + (2 * (context - 1) if task == "contextual_motion_prediction" else 0)
            hands = ["left", "right"] if side == tables.BOTH else [side]
            points = [world.in_camera(first, world.wrist_world[hand][10 + 2 * i]) for i in range(NUM) for hand in hands]
            points = np.float32(points)
            tokens = motion_tokens.encode(points)[0].reshape(-1).tolist()
            paths = [np.linalg.norm(np.diff(points[k :: len(hands)].astype(float), axis=0), axis=1).sum() for k in range(len(hands))]  # fmt: skip
            rows.append(valid_row("action_rows") | {
                "row_id": f"{world.clip.clip_id}:{task}:{side}", "clip_id": world.clip.clip_id, "source": "made",
                "split": world.clip.split, "task": task, "chunk": 0, "frame": first, "level": "second", "start_s": 1.0, "side": side,
                "instruction": "put the red cube on the blue plate", "prompt": "How does the hand move?",
                "context_tokens": tokens[: 3 * context], "target_tokens": tokens[3 * context :],
                "target_text": "put the red cube on the blue plate" if task == "motion_translation" else None,
                "waypoints": points.reshape(-1).tolist(), "waypoint_hz": HZ, "displacement_m": max(paths),
                "num_clipped": int(motion_tokens.clipped(points).sum()),
            })  # fmt: skip
    return tables.frame("action_rows", rows)
