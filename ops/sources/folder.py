"""Any folder of videos, described by side files: `<stem>.json` beside a video, or `_folder.json` for all in a folder.

Keys of a side file (all optional, no others allowed; `<stem>.json` wins over `_folder.json` key by key):

    fx, fy, cx, cy   pixels of the displayed image, principal point as OpenCV counts (first pixel's centre = 0, 0)
    image_size       [width, height] the intrinsics were calibrated at, if not the video's own
    fov_x_deg        horizontal field of view instead of fx, fy, cx, cy
    intrinsics       "given" (default) or "assumed": whether fov_x_deg is known or guessed
    distortion       OpenCV k1, k2, p1, p2[, k3[, k4, k5, k6]]; frames are then undistorted
    T_cam_world      world-to-camera 4 x 4, metres, OpenCV axes; one for the clip or a list of one a frame
    text             what is done through the whole clip, or instead
    instructions     [{"start_s": 0.0, "end_s": 2.5, "text": "...", "side": "left" | "right" | null}, ...]
    objects          names of objects in the scene
    split            "train" or "test"
    licence          of the video
    noncommercial    true if the licence forbids commercial use (default false)
    redistributable  true if the licence allows to pass the video on (default false)
"""

import json
import math
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.geometry.lenses import RadialTangential
from ops.rejects import ClipError, Reason
from ops.sources.base import SIDES, Clip, Instruction, Source
from ops.video import VideoInfo, probe

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv")
FOLDER_FILE = "_folder.json"
FOCAL_KEYS = ("fx", "fy", "cx", "cy")
KEYS = (*FOCAL_KEYS, "image_size", "fov_x_deg", "intrinsics", "distortion", "T_cam_world", "text", "instructions", "objects", "split", "licence", "noncommercial", "redistributable")  # fmt: skip
SOURCE = Source(
    kind="folder",
    title="Any folder of videos",
    licence="not stated",
    noncommercial=False,
    redistributable=False,
    gated=False,
    needs_mano=False,
    url="",
    how_to_get="Your own .mp4, .mov, .avi or .mkv files, with side files that describe them.",
    notes=("A video without intrinsics needs a stated field of view; its metric scale is as good as that.",),
)


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """Videos below a folder, sorted; hidden files and folders are left out."""
    paths = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts))


def side_files(video: Path) -> list[Path]:
    """The side files that describe a video, weakest first; those that exist."""
    return [path for path in (video.parent / FOLDER_FILE, video.with_suffix(".json")) if path.is_file()]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """A video with its side files. info: if the video was probed before. The clip's split is "" if no file names one.

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, MISSING_SIDE_FILE, BAD_SIDE_FILE, NAN_LABEL.
    """
    info = info or probe(video)
    side = _read_side_files(video)
    camera, intrinsics = _camera(side, info, config, video)
    duration_s = float(info.times_s[-1]) + 1 / info.fps
    return Clip(
        clip_id=f"{shard.source}/{clip_name(video, shard)}",
        source=shard.source,
        kind=shard.kind,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=camera,
        intrinsics=intrinsics,
        split=_choice(side, "split", ("train", "test"), ""),
        licence=_text(side, "licence", SOURCE.licence),
        noncommercial=_flag(side, "noncommercial", SOURCE.noncommercial),
        redistributable=_flag(side, "redistributable", SOURCE.redistributable),
        lens=_lens(side, camera),
        T_cam_world=_T_cam_world(side, info.num_frames),
        instructions=_instructions(side, duration_s),
        object_names=tuple(_texts(side, "objects")),
    )


def clip_name(video: Path, shard: ShardConfig) -> str:
    """Path below the shard's folder, without suffix."""
    root = Path(shard.root)
    path = video.relative_to(root) if video.is_relative_to(root) else Path(video.name)
    return path.with_suffix("").as_posix()


def _read_side_files(video: Path) -> dict[str, object]:
    merged: dict[str, object] = {}
    for path in side_files(video):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise ClipError(
                Reason.BAD_SIDE_FILE, f"{path.name} must hold an object {{...}}, holds {type(value).__name__}"
            )
        unknown = sorted(set(value) - set(KEYS))
        if unknown:
            raise ClipError(
                Reason.BAD_SIDE_FILE, f"{path.name}: unknown key {unknown[0]!r}; allowed: {', '.join(KEYS)}"
            )
        if "fov_x_deg" in value or set(value) & set(FOCAL_KEYS):  # intrinsics are taken from one file, whole
            merged = {
                key: kept
                for key, kept in merged.items()
                if key not in (*FOCAL_KEYS, "image_size", "fov_x_deg", "intrinsics")
            }
        merged |= value
    return merged


def _camera(side: dict, info: VideoInfo, config: RawVideosConfig, video: Path) -> tuple[PinholeCamera, str]:
    focal = [key for key in FOCAL_KEYS if key in side]
    if focal and len(focal) < 4:
        raise ClipError(Reason.BAD_SIDE_FILE, f"fx, fy, cx, cy belong together, got only {', '.join(focal)}")
    if focal and "fov_x_deg" in side:
        raise ClipError(Reason.BAD_SIDE_FILE, "give fx, fy, cx, cy or fov_x_deg, not both")
    stated = _choice(side, "intrinsics", ("given", "assumed"), "given")
    if focal:
        return _calibrated(side, info), stated
    if "fov_x_deg" in side:
        return PinholeCamera.from_fov_x(_fov(side["fov_x_deg"]), info.width, info.height), stated
    if config.assumed_fov_x_deg is not None:
        return PinholeCamera.from_fov_x(config.assumed_fov_x_deg, info.width, info.height), "assumed"
    files = side_files(video)
    remedy = "or state raw_videos.assumed_fov_x_deg in params.yaml"
    if not files:
        raise ClipError(
            Reason.MISSING_SIDE_FILE,
            f"write {video.with_suffix('.json').name} with fx, fy, cx, cy or fov_x_deg, {remedy}",
        )
    names = " and ".join(path.name for path in files)
    raise ClipError(Reason.BAD_SIDE_FILE, f"{names}: neither fx, fy, cx, cy nor fov_x_deg; give one of them, {remedy}")


def _calibrated(side: dict, info: VideoInfo) -> PinholeCamera:
    fx, fy, cx, cy = (_number(side[key], key) for key in FOCAL_KEYS)
    if fx <= 0 or fy <= 0:
        raise ClipError(Reason.BAD_SIDE_FILE, f"fx and fy must be > 0 px, got {fx} and {fy}")
    size = _numbers(side.get("image_size", [info.width, info.height]), "image_size")
    if size.shape != (2,) or (size <= 0).any() or abs(size[0] / size[1] / (info.width / info.height) - 1) > 0.01:
        raise ClipError(
            Reason.BAD_SIDE_FILE,
            f"image_size must be [width, height] of the video's shape {info.width} x {info.height}, got {size.tolist()}",
        )
    camera = PinholeCamera(fx, fy, cx + 0.5, cy + 0.5, int(size[0]), int(size[1]))
    if not (0 < camera.cx < camera.width and 0 < camera.cy < camera.height):
        raise ClipError(
            Reason.BAD_SIDE_FILE,
            f"principal point {cx}, {cy} lies outside the {camera.width} x {camera.height} image; another size? give image_size",
        )
    return camera.resized(info.width, info.height)


def _fov(value: object) -> float:
    fov_x_deg = _number(value, "fov_x_deg")
    if not 1 < fov_x_deg < 179:
        raise ClipError(Reason.BAD_SIDE_FILE, f"fov_x_deg must be between 1 and 179 degrees, got {fov_x_deg}")
    return fov_x_deg


def _lens(side: dict, camera: PinholeCamera) -> RadialTangential | None:
    values = _numbers(side.get("distortion", []), "distortion")
    if values.ndim != 1 or len(values) not in (0, 4, 5, 8):
        raise ClipError(
            Reason.BAD_SIDE_FILE,
            f"distortion takes 4, 5 or 8 numbers (k1, k2, p1, p2[, k3[, k4, k5, k6]]), got shape {values.shape}",
        )
    return RadialTangential(camera, tuple(values.tolist())) if values.any() else None


def _T_cam_world(side: dict, num_frames: int) -> np.ndarray | None:  # noqa: N802 - the name of the transform
    if side.get("T_cam_world") is None:
        return None
    T = _numbers(side["T_cam_world"], "T_cam_world")
    if T.shape not in ((4, 4), (num_frames, 4, 4)):
        raise ClipError(Reason.BAD_SIDE_FILE, f"T_cam_world must be 4 x 4 or {num_frames} x 4 x 4, got {T.shape}")
    R = T[..., :3, :3]
    off = float(np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max())
    if off > 1e-3 or (np.linalg.det(R) < 0).any() or not np.allclose(T[..., 3, :], [0, 0, 0, 1]):
        raise ClipError(
            Reason.BAD_SIDE_FILE,
            f"T_cam_world is no rigid transform [R t; 0 0 0 1] (R R^T differs from I by {off:.2g})",
        )
    return np.broadcast_to(T, (num_frames, 4, 4)).copy()


def _instructions(side: dict, duration_s: float) -> tuple[Instruction, ...]:
    if "text" in side and "instructions" in side:
        raise ClipError(Reason.BAD_SIDE_FILE, "give text (whole clip) or instructions, not both")
    if "text" in side:
        return (Instruction(0.0, duration_s, _text(side, "text", "")),)
    entries = side.get("instructions", [])
    if not isinstance(entries, list):
        raise ClipError(Reason.BAD_SIDE_FILE, f"instructions must be a list, got {type(entries).__name__}")
    return tuple(_instruction(entry, f"instructions[{i}]", duration_s) for i, entry in enumerate(entries))


def _instruction(entry: object, where: str, duration_s: float) -> Instruction:
    allowed = {"start_s", "end_s", "text", "side"}
    if not isinstance(entry, dict) or not {"start_s", "end_s", "text"} <= set(entry) <= allowed:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{where} takes start_s, end_s, text and optionally side, got {entry!r}")
    start_s, end_s = _number(entry["start_s"], f"{where}.start_s"), _number(entry["end_s"], f"{where}.end_s")
    if not 0 <= start_s < end_s <= duration_s + 0.5:
        raise ClipError(
            Reason.BAD_SIDE_FILE,
            f"{where}: need 0 <= start_s < end_s <= {duration_s:.2f} (the video's end), got {start_s} and {end_s}",
        )
    side = entry.get("side")
    if side not in (None, *SIDES):
        raise ClipError(Reason.BAD_SIDE_FILE, f"{where}.side must be left, right or null, got {side!r}")
    return Instruction(start_s, min(end_s, duration_s), _text(entry, "text", ""), side)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ClipError(Reason.BAD_SIDE_FILE, f"{where} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ClipError(Reason.NAN_LABEL, f"{where} is {value}")
    return float(value)


def _numbers(value: object, where: str) -> np.ndarray:
    """A nested list of finite numbers as an array; says where a bad one is."""
    if not isinstance(value, list):
        raise ClipError(Reason.BAD_SIDE_FILE, f"{where} must be a list of numbers, got {type(value).__name__}")
    items = [
        _numbers(item, f"{where}[{i}]") if isinstance(item, list) else _number(item, f"{where}[{i}]")
        for i, item in enumerate(value)
    ]
    if len({np.shape(item) for item in items}) > 1:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{where}: rows differ in length")
    return np.array(items, dtype=np.float64)


def _text(side: dict, key: str, default: str) -> str:
    value = side.get(key, default)
    if not isinstance(value, str) or (key in side and not value.strip()):
        raise ClipError(Reason.BAD_SIDE_FILE, f"{key} must be a text, got {value!r}")
    return value.strip()


def _flag(side: dict, key: str, default: bool) -> bool:
    value = side.get(key, default)
    if not isinstance(value, bool):
        raise ClipError(Reason.BAD_SIDE_FILE, f"{key} must be true or false, got {value!r}")
    return value


def _texts(side: dict, key: str) -> list[str]:
    value = side.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ClipError(Reason.BAD_SIDE_FILE, f"{key} must be a list of texts, got {value!r}")
    return [item.strip() for item in value]


def _choice(side: dict, key: str, allowed: tuple[str, ...], default: str) -> str:
    value = side.get(key, default)
    if key in side and value not in allowed:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{key} must be one of {', '.join(allowed)}, got {value!r}")
    return value
