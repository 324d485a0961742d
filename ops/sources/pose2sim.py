"""Side files for the four-camera demonstration in the pose2sim wheel (BSD-3): a person keeping balance, arms moving.

Its Calib.qca.txt (Qualisys) is camera-to-world with camera axes x right, y up, z backward, millimetres, pixels x 64;
side files want world-to-camera, OpenCV axes, metres, pixels (ops.sources.folder).
"""

import xml.etree.ElementTree as ElementTree

import numpy as np

from ops.geometry import transforms

DEMO = "Pose2Sim/Demo_SinglePerson"
CAMERAS = ("cam01", "cam02", "cam03", "cam04")
SUBPIXELS = 64
FOLDER_SIDE_FILE = {
    "text": "keep balance with both arms",
    "licence": "BSD-3-Clause",
    "redistributable": True,
    "split": "train",  # four views of one performance: never in two splits
}


def side_file(calibration_xml: str, camera: str, width: int, height: int) -> dict[str, object]:
    """Side file of one camera for a video of width x height. Raises ValueError if the calibration lacks the camera.

    Two of the four videos were shrunk from the calibrated 1088 x 1920 to 1080 wide and padded to 1920 high. (The
    wheel's own calibration pictures register to the video frames with scale 0.992 and a shift of 7 px; the other two
    with 1.000 and 0 px.) The intrinsics follow.
    """
    # ElementTree: the XML comes out of a checksummed archive
    root = ElementTree.fromstring(calibration_xml)
    found = next((tag for tag in root.iter("camera") if tag.get("serial") == camera), None)
    if found is None:
        raise ValueError(f"the calibration has no camera {camera!r}")
    view, lens = found.find("fov_video"), found.find("intrinsic")
    calibrated_width = int(view.get("right")) - int(view.get("left")) + 1
    calibrated_height = int(view.get("bottom")) - int(view.get("top")) + 1
    scale = width / calibrated_width
    padding = (height - calibrated_height * scale) / 2
    fx, fy, cx, cy = (
        float(lens.get(name)) / SUBPIXELS for name in ("focalLengthU", "focalLengthV", "centerPointU", "centerPointV")
    )
    # scaling is about the image corner, half a pixel outside the first pixel's centre
    cx, cy = (cx - int(view.get("left")) + 0.5) * scale - 0.5, (cy - int(view.get("top")) + 0.5) * scale + padding - 0.5
    radial = [float(lens.get(f"radialDistortion{i}")) for i in (1, 2, 3)]
    tangential = [float(lens.get(f"tangentalDistortion{i}")) for i in (1, 2)]
    return {
        "fx": fx * scale,
        "fy": fy * scale,
        "cx": cx,
        "cy": cy,
        "distortion": [*radial[:2], *tangential, radial[2]],
        "T_cam_world": _T_cam_world(found.find("transform")).tolist(),
    }


def _T_cam_world(tag: ElementTree.Element) -> np.ndarray:  # noqa: N802 - the name of the transform
    # rij are stored column by column, so that reading them row by row gives the inverse rotation
    R_qca_world = np.array([[float(tag.get(f"r{i}{j}")) for j in (1, 2, 3)] for i in (1, 2, 3)])
    position_world = np.array([float(tag.get(axis)) for axis in "xyz"]) / 1000
    R_cam_world = np.diag([1.0, -1.0, -1.0]) @ R_qca_world
    return transforms.make(R_cam_world, -R_cam_world @ position_world)
