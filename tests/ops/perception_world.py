"""Two textured planes of known place, seen by a camera of known pose: truth for the perception tests.

Ray casting in a few lines of numpy, independent of the code under test: a floor and a wall, metres, OpenCV axes.
"""

from pathlib import Path

import cv2
import numpy as np

from ops.geometry.camera import PinholeCamera
from ops.sources.base import Clip, HandTrack
from ops.video import write_video

CAMERA = PinholeCamera(300.0, 300.0, 160.0, 120.0, 320, 240)
FPS = 5.0
# plane: normal . X = offset, in world axes (= camera 0's axes): a wall 1.5 m ahead, a floor 0.35 m below
PLANES = ((np.array([0.15, 0.0, 1.0]), 1.5), (np.array([0.0, 1.0, 0.0]), 0.35))


def texture(seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(
        rng.uniform(0, 255, (64, 64, 3)).astype(np.float32), (1024, 1024), interpolation=cv2.INTER_CUBIC
    )
    fine = cv2.resize(
        rng.uniform(0, 255, (256, 256, 3)).astype(np.float32), (1024, 1024), interpolation=cv2.INTER_CUBIC
    )
    return np.clip(0.5 * coarse + 0.5 * fine, 0, 255).astype(np.uint8)


def pose(shift: tuple[float, float, float], turn: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """T_cam_world of a camera at `shift` (m, world) turned by the rotation vector `turn`."""
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.array(turn, np.float64))[0].T
    T[:3, 3] = -T[:3, :3] @ np.array(shift)
    return T


def view(T_cam_world: np.ndarray, camera: PinholeCamera = CAMERA) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, depth z) as the camera sees the world."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
    R, centre = T_cam_world[:3, :3], -T_cam_world[:3, :3].T @ T_cam_world[:3, 3]
    world_rays = rays @ R
    depth, rgb = np.full(u.shape, np.inf), np.zeros((*u.shape, 3), np.uint8)
    for index, (normal, offset) in enumerate(PLANES):
        z = (offset - centre @ normal) / (world_rays @ normal)
        hit = centre + z[..., None] * world_rays
        across, along = (hit[..., 0], hit[..., 1]) if index == 0 else (hit[..., 0], hit[..., 2])
        place = [((a * 300) % 1024).astype(np.float32) for a in (across + 5, along + 5)]
        colour = cv2.remap(texture(index), *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        nearer = (z > 0) & (z < depth)
        depth[nearer], rgb[nearer] = z[nearer], colour[nearer]
    return rgb, depth


def make_clip(
    folder: Path, poses: list[np.ndarray], hands: dict[str, HandTrack] | None = None, given: bool = False
) -> Clip:
    """A video of the world along the poses, as a Clip."""
    path = folder / "world.mp4"
    write_video(path, (view(T)[0] for T in poses), FPS)
    times_s = np.arange(len(poses)) / FPS
    posed = np.stack(poses) if given else None
    return Clip(
        "test/world", "test", "folder", path, FPS, len(poses), times_s, CAMERA, "given", "train", "none",
        T_cam_world=posed, hands=hands or {},
    )  # fmt: skip
