"""What readers of raw video share: names, checked side files, and a camera where a source states none."""

import json
import mmap
import re
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.sources.base import Instruction
from ops.video import VideoInfo

EGOVLP_MEAN_GAP_S = 4.9
MIN_NARRATION_S = 0.5  # ASSUMED: shortest time that a narration of one moment is about


def clip_id(video: Path, shard: ShardConfig, view: str = "") -> str:
    """ "<source>/<path below the shard's folder, no suffix>[, view]"."""
    root = Path(shard.root)
    path = video.relative_to(root) if video.is_relative_to(root) else Path(video.name)
    name = f"{shard.source}/{path.with_suffix('').as_posix()}"
    return f"{name}, {view}" if view else name


def find_up(video: Path, *names: str, levels: int = 6) -> Path | None:
    """The nearest of the named files or folders in the folders that hold a video, the nearest folder first."""
    for folder in list(video.parents)[:levels]:
        for name in names:
            if (folder / name).exists():
                return folder / name
    return None


def duration_s(info: VideoInfo) -> float:
    """To the end of the last frame."""
    return float(info.times_s[-1]) + 1 / info.fps


def assumed_camera(info: VideoInfo, config: RawVideosConfig, why: str) -> PinholeCamera:
    """Camera of the field of view stated in params.yaml. Raises ClipError UNSUPPORTED_CAMERA if none is stated."""
    if config.assumed_fov_x_deg is None:
        raise ClipError(
            Reason.UNSUPPORTED_CAMERA,
            f"{why}; state raw_videos.assumed_fov_x_deg in params.yaml to go on with an assumed field of view",
        )
    return PinholeCamera.from_fov_x(config.assumed_fov_x_deg, info.width, info.height)


def centred_camera(K: np.ndarray, info: VideoInfo, where: str) -> PinholeCamera:
    """Camera of a K whose principal point is the middle of the image it was made for (W = 2 cx, H = 2 cy), at the
    video's size. Raises ClipError BAD_LABEL for no such K, UNSUPPORTED_CAMERA for another shape of image."""
    K = np.asarray(K, dtype=np.float64)
    if K.shape != (3, 3) or not np.isfinite(K).all() or min(K[0, 0], K[1, 1], K[0, 2], K[1, 2]) <= 0:
        raise ClipError(
            Reason.BAD_LABEL, f"{where}: no calibration matrix (3 x 3, finite, fx fy cx cy > 0): {K.tolist()}"
        )
    width, height = 2 * K[0, 2], 2 * K[1, 2]
    if abs(width * info.height / (height * info.width) - 1) > 0.01:
        raise ClipError(
            Reason.UNSUPPORTED_CAMERA,
            f"{where}: made for {width:.0f} x {height:.0f}, the video is {info.width} x {info.height}: it was cropped",
        )
    x, y = info.width / width, info.height / height
    return PinholeCamera(K[0, 0] * x, K[1, 1] * y, info.width / 2, info.height / 2, info.width, info.height)


def read_json(path: Path) -> dict | list:
    """Raises ClipError BAD_SIDE_FILE for a file that is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} is no readable JSON: {error}") from error


def per_file(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """The function of a file that many clips share, its results kept while the file's size and time stay the same."""

    @lru_cache(maxsize=8)
    def kept(path: Path, *_version: int) -> Any:
        return function(path)

    @wraps(function)
    def of_file(path: Path) -> Any:
        status = path.stat()
        return kept(path, status.st_size, status.st_mtime_ns)

    return of_file


@per_file
def read_shared_json(path: Path) -> dict | list:
    """A file that many clips share, kept. Not to be changed by the caller."""
    return read_json(path)


def json_entry(path: Path, key: str) -> dict | None:
    """The object of one id in a JSON file of gigabytes, `{..., "<id>": {...}, ...}` at any depth; None if not there.

    The file is searched once and never held: ids are 36 characters (UUIDs), as Ego4D's.
    """
    start = _objects_by_id(path).get(key.encode())
    if start is None:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        depth = 0
        for found in _BRACES.finditer(content, start):
            depth += {b"{": 1, b"}": -1}.get(found.group(), 0)
            if depth == 0:
                try:
                    return json.loads(content[start : found.end()])
                except ValueError as error:
                    raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name}: entry {key} is no JSON: {error}") from error
    raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} breaks off in entry {key}: download it again")


_OBJECT_OF_ID = re.compile(rb'"([0-9a-fA-F-]{36})"\s*:\s*(?=\{)')
_BRACES = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]')


@per_file
def _objects_by_id(path: Path) -> dict[bytes, int]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {found.group(1): found.end() for found in _OBJECT_OF_ID.finditer(content)}


def narrated(
    moments: list[tuple[float, str]], end_s: float, mean_gap_s: float = EGOVLP_MEAN_GAP_S
) -> tuple[Instruction, ...]:
    """Narrations at single moments (seconds, text) as instructions with a beginning and an end.

    EgoVLP's rule (Lin et al. 2022): a window around the moment, as long as the video's mean distance of narrations
    over `mean_gap_s`, the mean of that over Ego4D, times one second.
    """
    moments = sorted(moment for moment in moments if 0 <= moment[0] <= end_s)
    if not moments:
        return ()
    gap_s = (moments[-1][0] - moments[0][0]) / (len(moments) - 1) if len(moments) > 1 else mean_gap_s
    half_s = max(gap_s / (2 * mean_gap_s), MIN_NARRATION_S / 2)
    return tuple(
        Instruction(max(time_s - half_s, 0.0), min(time_s + half_s, end_s), text, side_of(text))
        for time_s, text in moments
    )


def side_of(text: str) -> str | None:
    """The hand that a sentence names, if it names one."""
    said = {side for side in ("left", "right") if re.search(rf"\b{side} hand\b", text, re.IGNORECASE)}
    return said.pop() if len(said) == 1 and not re.search(r"\bboth hands\b", text, re.IGNORECASE) else None
