"""What readers of raw video share: names, checked side files, and a camera where a source states none."""

import json
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.video import VideoInfo


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
