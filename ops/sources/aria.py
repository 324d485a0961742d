"""Cameras of Ego-Exo4D: Aria's turned fisheye from its calibration file, GoPros from gopro_calibs.csv.

An Aria calibration lists `CameraCalibrations`, each with Label and Projection {Name, Params}; that of "camera-rgb" is for
the full sensor (2880 x 2880) unless somebody has halved it, as the hand benchmark and VITRA-1M do for the videos:
(c - 0.5 - 32) / 2. Pixels count centres from 0.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.geometry.lenses import Fisheye624, KannalaBrandt, Lens, Turned
from ops.rejects import ClipError, Reason
from ops.sources.raw_video import find_up, per_file, read_json
from ops.sources.world_labels import finite
from ops.video import VideoInfo

SENSOR_PX, VIDEO_PX, CROP_PX = 2880, 1408, 32
PINHOLE_FOCAL = 412.5 / VIDEO_PX
"""Focal length of VITRA's undistorted Ego-Exo4D videos, in image widths."""
UPRIGHT_TURNS = 1
"""The videos are the sensor's image turned clockwise once (the hand benchmark turns frames back by np.rot90)."""


def calibration_file(video: Path) -> Path | None:
    """Of the take's glasses: the halved file, else the online calibration."""
    take = video.parents[1].name
    names = (
        f"aria_calib_json/{take}.json",
        f"intrinsics/egoexo4d/{take}.json",
        f"camera_intrinsics/egoexo4d/{take}.json",
    )
    return find_up(video, *names) or find_up(video, "trajectory/online_calibration.jsonl", levels=2)


def aria_camera(video: Path, info: VideoInfo) -> tuple[PinholeCamera, Lens]:
    """Upright pinhole camera to undistort to, at the video's size, and the recorded image's lens.

    Raises ClipError: UNSUPPORTED_CAMERA (no calibration file, no square image), BAD_LABEL, BAD_SIDE_FILE.
    """
    file = calibration_file(video)
    if file is None:
        detail = f"no calibration of {video.parents[1].name}: add intrinsics/egoexo4d (from VITRA-1M), or trajectory/online_calibration.jsonl"
        raise ClipError(Reason.UNSUPPORTED_CAMERA, detail)
    if info.width != info.height:
        raise ClipError(Reason.UNSUPPORTED_CAMERA, f"Aria's image is square, the video is {info.width} x {info.height}")
    params = _rgb_params(file)
    if params[1] > VIDEO_PX * 0.75:  # a principal point near the middle of the full sensor
        params = halved(params)
    size = info.width
    try:
        lens = resized(Fisheye624.from_aria(np.array(params), VIDEO_PX, VIDEO_PX), size)
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"{file.name}: {error}") from error
    focal = PINHOLE_FOCAL * size
    return PinholeCamera(focal, focal, size / 2, size / 2, size, size), Turned(lens, UPRIGHT_TURNS, size, size)


def halved(params: Sequence[float]) -> list[float]:
    """Parameters of the full sensor for the videos: 32 pixels cut off at each side, then half the size."""
    return [params[0] / 2, *((c - 0.5 - CROP_PX) / 2 for c in params[1:3]), *params[3:]]


def resized(lens: Fisheye624, size: int) -> Fisheye624:
    """The lens of a square image of another size."""
    return Fisheye624(lens.camera.resized(size, size), lens.radial, lens.tangential, lens.thin_prism)


@per_file
def _rgb_params(file: Path) -> list[float]:
    """The 15 numbers of camera-rgb; of an online calibration those of its first line."""
    if file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as lines:
            try:
                content = json.loads(next(lines, "{}"))
            except ValueError as error:
                raise ClipError(Reason.BAD_SIDE_FILE, f"{file.name}: first line is no JSON: {error}") from error
    else:
        content = read_json(file)
    cameras = content.get("CameraCalibrations", []) if isinstance(content, dict) else []
    rgb = next((camera for camera in cameras if camera.get("Label") == "camera-rgb"), None)
    if rgb is None:
        raise ClipError(Reason.BAD_LABEL, f"{file.name} has no CameraCalibrations entry with Label camera-rgb")
    name = rgb.get("Projection", {}).get("Name")
    if name != "FisheyeRadTanThinPrism":
        raise ClipError(
            Reason.UNSUPPORTED_CAMERA, f"{file.name}: camera-rgb is a {name}, Aria's is FisheyeRadTanThinPrism"
        )
    return finite(rgb["Projection"]["Params"], (15,), f"{file.name}: Params").tolist()


def gopro_camera(video: Path, info: VideoInfo) -> tuple[PinholeCamera, Lens, np.ndarray]:
    """Pinhole of the GoPro's own focal length, its lens, and its T_cam_world, at the video's size.

    Raises ClipError: UNSUPPORTED_CAMERA (not in gopro_calibs.csv, or not localised), BAD_LABEL, BAD_SIDE_FILE.
    """
    file = find_up(video, "trajectory/gopro_calibs.csv", levels=2)
    rows = _gopro_rows(file) if file else {}
    if video.stem not in rows:
        detail = (
            f"trajectory/gopro_calibs.csv has no {video.stem}; it has {', '.join(rows) or 'no camera, or is not there'}"
        )
        raise ClipError(Reason.UNSUPPORTED_CAMERA, detail)
    row = rows[video.stem]
    if float(row["quality"]) < 1.0:
        raise ClipError(Reason.UNSUPPORTED_CAMERA, f"{video.stem} was not localised (quality {row['quality']})")
    if row["intrinsics_type"].strip() != "KANNALABRANDTK3":
        raise ClipError(Reason.UNSUPPORTED_CAMERA, f"{video.stem}: intrinsics_type {row['intrinsics_type']}")
    size = int(row["image_width"]), int(row["image_height"])
    if abs(size[0] * info.height / (size[1] * info.width) - 1) > 0.01:
        detail = f"{video.stem} is calibrated at {size[0]} x {size[1]}, the video is {info.width} x {info.height}"
        raise ClipError(Reason.UNSUPPORTED_CAMERA, detail)
    fx, fy, cx, cy, *k = finite([float(row[f"intrinsics_{n}"]) for n in range(8)], (8,), f"{video.stem}: intrinsics")
    camera = PinholeCamera(fx, fy, cx + 0.5, cy + 0.5, *size).resized(info.width, info.height)
    lens = KannalaBrandt(camera, tuple(float(value) for value in k))
    return camera, lens, _pose(row, video.stem)


@per_file
def _gopro_rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as content:
        reader = csv.DictReader(content)
        needed = {
            "cam_uid",
            "quality",
            "intrinsics_type",
            "image_width",
            "image_height",
            "tx_world_cam",
            "qw_world_cam",
        }
        missing = needed - set(reader.fieldnames or ())
        if missing:
            raise ClipError(Reason.BAD_SIDE_FILE, f"{file.name} lacks the columns {', '.join(sorted(missing))}")
        return {row["cam_uid"].strip(): row for row in reader}


def _pose(row: dict[str, str], name: str) -> np.ndarray:
    """World-to-camera from the camera's pose in the world, quaternion xyzw."""
    from scipy.spatial.transform import Rotation

    t = finite([float(row[f"t{axis}_world_cam"]) for axis in "xyz"], (3,), f"{name}: t_world_cam")
    q = finite([float(row[f"q{axis}_world_cam"]) for axis in "xyzw"], (4,), f"{name}: q_world_cam")
    if abs(np.linalg.norm(q) - 1) > 1e-3:
        raise ClipError(Reason.BAD_LABEL, f"{name}: q_world_cam has length {np.linalg.norm(q):.4f}, should be 1")
    return transforms.invert(transforms.make(Rotation.from_quat(q).as_matrix(), t))
