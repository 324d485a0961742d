"""Labels that a source gives in its world frame: checked, and taken to the camera frame of every video frame.

World frames are the sources' own (mocap or calibration origin); T_cam_world world-to-camera, OpenCV axes, metres.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64

from ops.geometry import transforms
from ops.rejects import ClipError, Reason
from ops.sources.base import HandTrack


def finite(values: object, shape: tuple[int, ...], where: str, frame: int = -1, side: str = "") -> np.ndarray:
    """Numbers of a label as float64 of a shape; the file may hold them with other axes of length 1.

    Raises ClipError: BAD_LABEL (no numbers, or not so many), NAN_LABEL.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ClipError(Reason.BAD_LABEL, f"{where} holds no numbers: {error}", frame, side) from error
    if array.size != int(np.prod(shape)):
        raise ClipError(Reason.BAD_LABEL, f"{where} has shape {array.shape}, needs {shape}", frame, side)
    if not np.isfinite(array).all():
        raise ClipError(Reason.NAN_LABEL, f"{where} has {np.sum(~np.isfinite(array))} numbers not finite", frame, side)
    return array.reshape(shape)


def rigid(T: Float[np.ndarray, "n 4 4"], where: str) -> Float64[np.ndarray, "n 4 4"]:
    """Transforms with their rotations made exact; files round them to some digits.

    Raises ClipError BAD_LABEL, with the frame, if one is no rigid transform to 1e-3.
    """
    T = np.asarray(T, dtype=np.float64)
    u, _, vt = np.linalg.svd(T[:, :3, :3])
    R = u @ vt
    off = np.maximum(np.abs(R - T[:, :3, :3]).max(axis=(1, 2)), np.abs(T[:, 3] - [0, 0, 0, 1]).max(axis=1))
    bad = (off > 1e-3) | (np.linalg.det(R) < 0)
    if bad.any():
        frame = int(np.argmax(bad))
        detail = f"{where} is no rigid transform (rotation, then 0 0 0 1) in {bad.sum()} of {len(T)} frames"
        raise ClipError(Reason.BAD_LABEL, f"{detail}: {T[frame].round(4).tolist()}", frame)
    return transforms.make(R, T[:, :3, 3])


def hand_in_camera(
    T_cam_world: Float[np.ndarray, "T 4 4"],
    theta: Float[np.ndarray, "T 45"],
    R_world_wrist: Float[np.ndarray, "T 3 3"],
    wrist_world: Float[np.ndarray, "T 3"],
    beta: Float[np.ndarray, " 10"],
    valid: Bool[np.ndarray, " T"],
) -> HandTrack:
    """A hand known in the world, flat hand mean, by its wrist; zeros where it is not valid."""
    r = transforms.rotmat_to_rotvec(T_cam_world[:, :3, :3] @ R_world_wrist)
    tau = transforms.apply(T_cam_world, wrist_world)
    theta, r, tau = (np.where(valid[:, None], values, 0.0) for values in (theta, r, tau))
    return HandTrack(theta, r, tau, beta, valid)
