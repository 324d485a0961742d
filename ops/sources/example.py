"""Known hands, cameras, depth and text in miniature, from which each reader's `write_example` makes its own layout.

A reader is proved by the round trip: what `write_example(root, truth)` writes, `read_clips(root)` gives back. Camera
frame of the very frame, metres; the picture is crude (flat-shaded hands before a wall), its geometry is exact.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.mano import HandModel, load_models
from ops.sources.base import SIDES, HandTrack, Instruction, ObjectTrack

WALL_M = 1.5
SKIN = {"left": (224, 172, 140), "right": (198, 134, 102)}


@dataclass(frozen=True, eq=False)
class Truth:
    """One made-up clip. T frames; hands in the camera frame of each frame; the camera is a pinhole."""

    name: str
    subject: str
    fps: float
    camera: PinholeCamera
    T_cam_world: Float[np.ndarray, "T 4 4"]
    rgb: UInt8[np.ndarray, "T H W 3"]
    depth_m: Float32[np.ndarray, "T H W"]
    hands: dict[str, HandTrack]
    joints_cam: dict[str, Float[np.ndarray, "T 21 3"]]
    objects: tuple[ObjectTrack, ...]
    instructions: tuple[Instruction, ...]
    models: dict[str, HandModel]
    hand_model_folder: Path
    """The MANO files the hands belong to; a reader is given the same."""

    @property
    def num_frames(self) -> int:
        return len(self.rgb)


def make_truth(
    hand_model_folder: Path,
    camera: PinholeCamera,
    num_frames: int = 6,
    fps: float = 30.0,
    sides: tuple[str, ...] = SIDES,
    moving: bool = True,
    seed: int = 0,
    name: str = "clip",
) -> Truth:
    """A clip: hands that stand or drift in the world, one object, one sentence. moving: whether the camera moves."""
    rng = np.random.default_rng(seed)
    models = load_models(hand_model_folder)
    T_cam_world = _camera_path(num_frames, moving, rng)
    hands = {side: _hand(side, T_cam_world, rng) for side in sides}
    thing = _object(T_cam_world, camera)
    T_cam_wall = T_cam_world @ transforms.invert(T_cam_world[0])
    pictures = [_picture(camera, hands, models, thing, T_cam_wall[frame], frame) for frame in range(num_frames)]
    joints = {s: models[s].joints(h.theta, h.r, h.tau, h.beta) for s, h in hands.items()}
    side = sides[0] if len(sides) == 1 else None
    return Truth(
        name, "s01", fps, camera, T_cam_world, np.stack([rgb for rgb, _ in pictures]), np.stack([d for _, d in pictures]),
        hands, joints, (thing,), (Instruction(0.0, num_frames / fps, "pick up the box", side),), models, hand_model_folder,
    )  # fmt: skip


def seen_by(truth: Truth, camera: PinholeCamera, T_cam_world: Float[np.ndarray, "T 4 4"]) -> Truth:
    """The same hands and objects through another camera, with its own pictures; for sources of several views."""
    T_new_old = T_cam_world @ transforms.invert(truth.T_cam_world)
    hands = {side: _moved_hand(hand, T_new_old) for side, hand in truth.hands.items()}
    things = tuple(_moved_object(thing, T_new_old, camera) for thing in truth.objects)
    T_cam_wall = T_cam_world @ transforms.invert(truth.T_cam_world[0])
    pictures = [
        _picture(camera, hands, truth.models, things[0], T_cam_wall[frame], frame) for frame in range(truth.num_frames)
    ]
    rgb, depth_m = (np.stack([picture[k] for picture in pictures]) for k in (0, 1))
    joints = {s: truth.models[s].joints(h.theta, h.r, h.tau, h.beta) for s, h in hands.items()}
    changed = {"camera": camera, "T_cam_world": T_cam_world, "rgb": rgb, "depth_m": depth_m}
    return replace(truth, **changed, hands=hands, joints_cam=joints, objects=things)


def _moved_hand(hand: HandTrack, T: Float[np.ndarray, "T 4 4"]) -> HandTrack:
    r = transforms.rotmat_to_rotvec(T[:, :3, :3] @ transforms.rotvec_to_rotmat(hand.r))
    return replace(hand, r=r, tau=transforms.apply(T, hand.tau))


def _moved_object(thing: ObjectTrack, T: Float[np.ndarray, "T 4 4"], camera: PinholeCamera) -> ObjectTrack:
    T_cam_obj = T @ thing.T_cam_obj
    boxes_px = _boxes(T_cam_obj, camera)
    return replace(thing, boxes_px=boxes_px, position_cam=T_cam_obj[:, :3, 3], T_cam_obj=T_cam_obj)


def _camera_path(num_frames: int, moving: bool, rng: np.random.Generator) -> np.ndarray:
    """World-to-camera; the first frame looks along an oblique axis, so that no rotation is trivial."""
    first = transforms.make(transforms.rotvec_to_rotmat(rng.normal(0, 0.8, 3)), rng.normal(0, 0.5, 3))
    step = np.linspace(0, float(moving), num_frames)[:, None]
    turn = transforms.rotvec_to_rotmat(step * np.array([[0.02, 0.08, -0.03]]))
    return transforms.make(turn, step * np.array([[0.05, -0.02, 0.03]])) @ first


def _hand(side: str, T_cam_world: np.ndarray, rng: np.random.Generator) -> HandTrack:
    """A hand that slowly closes and drifts by 2 cm in the world."""
    num_frames, out = len(T_cam_world), 1 if side == "right" else -1
    time = np.linspace(0, 1, num_frames)[:, None]
    theta = rng.normal(0, 0.15, 45) + time * rng.normal(0, 0.1, 45)
    wrist_first_cam = np.array([0.12 * out, 0.1, 0.5])
    wrist_world = transforms.apply(np.linalg.inv(T_cam_world[0]), wrist_first_cam) + time * 0.02
    R_cam_wrist = transforms.rotvec_to_rotmat(rng.normal(0, 0.3, 3) + np.array([0.0, 0.0, 1.2 * out]))
    R_world_wrist = T_cam_world[0, :3, :3].T @ R_cam_wrist
    r = transforms.rotmat_to_rotvec(T_cam_world[:, :3, :3] @ R_world_wrist)
    tau = np.stack([transforms.apply(T, p) for T, p in zip(T_cam_world, wrist_world, strict=True)])
    return HandTrack(theta, r, tau, rng.normal(0, 0.5, 10), np.ones(num_frames, bool))


def box_corners_m() -> Float[np.ndarray, "8 3"]:
    """Corners of the object of every example, in its own frame: a cube of 8 cm around its origin."""
    return np.stack(np.meshgrid(*[[-0.04, 0.04]] * 3), axis=-1).reshape(-1, 3)


def _object(T_cam_world: np.ndarray, camera: PinholeCamera) -> ObjectTrack:
    """A box of 8 cm that stands in the world, half a metre before the first camera."""
    T_first_obj = transforms.make(transforms.rotvec_to_rotmat(np.array([0.3, -0.2, 0.1])), np.array([0.0, -0.05, 0.6]))
    T_cam_obj = T_cam_world @ np.linalg.inv(T_cam_world[0]) @ T_first_obj
    visible = np.ones(len(T_cam_world), bool)
    return ObjectTrack("box", _boxes(T_cam_obj, camera), visible, T_cam_obj[:, :3, 3], T_cam_obj)


def _boxes(T_cam_obj: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    px = np.stack([camera.project(transforms.apply(T, box_corners_m())) for T in T_cam_obj])
    return np.concatenate([px.min(axis=1), px.max(axis=1)], axis=1)


def _picture(
    camera: PinholeCamera,
    hands: dict[str, HandTrack],
    models: dict[str, HandModel],
    thing: ObjectTrack,
    T_cam_wall: Float[np.ndarray, "4 4"],
    frame: int,
) -> tuple[np.ndarray, np.ndarray]:
    """rgb and depth: a wall, the object's box, the hands' triangles from far to near."""
    shade = np.linspace(90, 170, camera.width).astype(np.uint8)
    rgb = np.repeat(np.repeat(shade[None, :, None], camera.height, axis=0), 3, axis=2).copy()
    depth = _wall(camera, T_cam_wall)
    x0, y0, x1, y1 = (round(float(v)) for v in thing.boxes_px[frame])
    cv2.rectangle(rgb, (x0, y0), (x1, y1), (60, 90, 170), -1)
    cv2.rectangle(depth, (x0, y0), (x1, y1), float(thing.position_cam[frame, 2]), -1)
    for side, hand in hands.items():
        at = slice(frame, frame + 1)
        mesh = models[side].vertices(hand.theta[at], hand.r[at], hand.tau[at], hand.beta)[0]
        _paint_mesh(rgb, depth, camera, mesh.astype(np.float64), models[side].faces, SKIN[side])
    return rgb, depth


def _wall(camera: PinholeCamera, T_cam_wall: Float[np.ndarray, "4 4"]) -> Float32[np.ndarray, "H W"]:
    """Depth of the plane that stands WALL_M before the first camera; it stands still when the camera moves."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = camera.unproject(np.stack([u, v], axis=-1), np.ones(u.shape))
    normal = T_cam_wall[:3, 2]
    towards = rays @ normal
    z = (WALL_M + normal @ T_cam_wall[:3, 3]) / np.where(towards > 1e-3, towards, np.nan)
    return np.where(z > 0, z, np.nan).astype(np.float32)


def _paint_mesh(rgb, depth, camera: PinholeCamera, mesh: np.ndarray, faces: np.ndarray, colour) -> None:
    px = (camera.project(mesh) - 0.5) * 16  # fillConvexPoly takes 1/16 pixels, centres counted from 0
    corners = mesh[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    light = np.abs(normal[:, 2]) / np.maximum(np.linalg.norm(normal, axis=1), 1e-12)
    z = corners[..., 2].mean(axis=1)
    for face in np.argsort(-z):
        polygon = np.round(px[faces[face]]).astype(np.int32)
        shaded = tuple(float(channel * (0.55 + 0.45 * light[face])) for channel in colour)
        cv2.fillConvexPoly(rgb, polygon, shaded, shift=4)
        cv2.fillConvexPoly(depth, polygon, float(z[face]), shift=4)
