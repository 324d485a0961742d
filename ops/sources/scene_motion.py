"""What happens in a synthetic clip: hands reach for, touch, push, lift and put down objects; a head camera watches.

World frame as in scene_objects (z up, table top at 0). Every clip is drawn from its own seed; draws in which a hand
goes through something, or leaves the view, are thrown away and drawn again, so that labels stay physically sensible.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp

from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.mano import HandModel
from ops.sources.base import Instruction
from ops.sources.scene_hands import (
    Hand,
    Wrist,
    advance,
    close_fingers,
    directions,
    even,
    orientation,
    pose,
)
from ops.sources.scene_objects import SceneObject, pick_objects, place_objects

CONTACT_M = 0.004  # a hand touches what is nearer than this
MAX_PENETRATION_M = 0.008
RELATIONS = {
    "to the left of": (-1.0, 0.0),
    "to the right of": (1.0, 0.0),
    "behind": (0.0, 1.0),
    "in front of": (0.0, -1.0),
}
UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Key:
    """A hand at a time: wrist pose and finger angles."""

    time_s: float
    wrist: Wrist
    theta: Float[np.ndarray, " 45"]


@dataclass(frozen=True)
class Carry:
    """An object held between two times: it moves with the wrist as one body."""

    index: int
    side: str
    start_s: float
    end_s: float
    rigid: bool = True
    """False for pushing: the object only slides with the wrist's horizontal way."""


@dataclass(eq=False)
class Plan:
    """A clip being planned: hands' keys, what is carried when, where objects stand by now."""

    objects: list[SceneObject]
    spots: Float[np.ndarray, "n 2"]
    yaws: Float[np.ndarray, " n"]
    keys: dict[str, list[Key]]
    carries: list[Carry] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything true about a clip; T frames, world frame.

    wrists_R, wrists: by side. contact: by side, object index or -1. T_world_obj: (T, n, 4, 4).
    """

    fps: float
    camera: PinholeCamera
    moving_camera: bool
    objects: tuple[SceneObject, ...]
    T_world_obj: Float[np.ndarray, "T n 4 4"]
    hands: dict[str, Hand]
    theta: dict[str, Float[np.ndarray, "T 45"]]
    R_world_wrist: dict[str, Float[np.ndarray, "T 3 3"]]
    wrist_world: dict[str, Float[np.ndarray, "T 3"]]
    vertices_world: dict[str, Float[np.ndarray, "T 778 3"]]
    contact: dict[str, Float[np.ndarray, " T"]]
    T_cam_world: Float[np.ndarray, "T 4 4"]
    instructions: tuple[Instruction, ...]

    @property
    def num_frames(self) -> int:
        return len(self.T_cam_world)


class RejectedError(Exception):
    """This draw is not sensible; draw again."""


def plan_scene(
    models: dict[str, HandModel],
    camera_size: tuple[int, int],
    fps: float,
    num_frames: int,
    moving_camera: bool,
    seed: tuple[int, ...],
) -> Scene:
    """A sensible clip for a seed. Raises RuntimeError if 300 draws give none."""
    reasons: dict[str, int] = {}
    for attempt in range(300):
        rng = np.random.default_rng([*seed, attempt])
        try:
            return _draw(models, camera_size, fps, num_frames, moving_camera, rng)
        except RejectedError as reason:
            reasons[str(reason)] = reasons.get(str(reason), 0) + 1
    raise RuntimeError(f"no sensible scene for seed {seed} in 300 draws: {reasons}")


def _draw(models, camera_size, fps, num_frames, moving_camera, rng) -> Scene:
    plan, hands = _new_plan(models, rng)
    duration = num_frames / fps
    _plan_actions(plan, hands, duration, rng)
    times = np.arange(num_frames) / fps
    wrists = {side: _interpolate(plan.keys[side], times) for side in hands}
    T_world_obj = _object_poses(plan, wrists, times)
    sparse = slice(None, None, 7)  # most bad draws show in a few frames
    _contacts(
        plan.objects, T_world_obj[sparse], {s: _all_vertices(hands[s], *(a[sparse] for a in wrists[s])) for s in hands}
    )
    vertices = {side: _all_vertices(hands[side], *wrists[side]) for side in hands}
    contact = _contacts(plan.objects, T_world_obj, vertices)
    camera, T_cam_world = _head_camera(camera_size, times, wrists, moving_camera, rng)
    _check_view(camera, T_cam_world, T_world_obj, hands, wrists)
    return Scene(
        fps, camera, moving_camera, tuple(plan.objects), T_world_obj, hands,
        {s: w[2] for s, w in wrists.items()}, {s: w[0] for s, w in wrists.items()}, {s: w[1] for s, w in wrists.items()},
        vertices, contact, T_cam_world, tuple(sorted(plan.instructions, key=lambda i: i.start_s)),
    )  # fmt: skip


def _new_plan(models: dict[str, HandModel], rng: np.random.Generator) -> tuple[Plan, dict[str, Hand]]:
    objects = pick_objects(rng, int(rng.integers(3, 5)), must_grip=2)
    try:
        spots = place_objects(rng, [o.radius for o in objects])
    except LookupError as error:
        raise RejectedError("crowded table") from error
    sides = ("left", "right") if rng.random() < 0.5 else (str(rng.choice(["right", "right", "left"])),)
    beta = np.clip(rng.normal(0, 0.8, 10), -1.6, 1.6)
    hands = {side: Hand(models[side], beta) for side in sides}
    plan = Plan(objects, spots, rng.uniform(-0.4, 0.4, len(objects)), {})
    for side, hand in hands.items():
        plan.keys[side] = [Key(0.0, _rest_wrist(side, rng), _relaxed(hand, rng))]
    return plan, hands


def _rest_wrist(side: str, rng: np.random.Generator) -> Wrist:
    sign = 1.0 if side == "right" else -1.0
    fingers = np.array([-sign * rng.uniform(0.1, 0.5), 1.0, rng.uniform(-0.35, 0.0)])
    palm = np.array([-sign * rng.uniform(0.0, 0.6), 0.0, -1.0])
    position = np.array([sign * rng.uniform(0.12, 0.22), rng.uniform(-0.20, -0.12), rng.uniform(0.09, 0.14)])
    return Wrist(orientation(side, fingers, palm), position)


def _relaxed(hand: Hand, rng: np.random.Generator) -> np.ndarray:
    base = rng.uniform(0.12, 0.3)
    curls = {f: float(np.clip(base + rng.uniform(-0.06, 0.06), 0, 1)) for f in even(0.0)}
    return pose(hand, curls, rng.uniform(0.2, 0.6))


def _plan_actions(plan: Plan, hands: dict[str, Hand], duration: float, rng: np.random.Generator) -> None:
    num_actions = max(1, round(duration / 5.2))
    idle = duration * rng.uniform(0.01, 0.05, 2)
    edges = np.linspace(idle[0], duration - idle[1], num_actions + 1)
    edges[1:-1] += rng.uniform(-0.4, 0.4, num_actions - 1)
    order = list(rng.permutation(list(hands)))
    for i, (start, end) in enumerate(pairwise(edges)):
        _plan_action(plan, hands[str(order[i % len(order)])], float(start), float(end), rng)
    for side, hand in hands.items():
        plan.keys[side].append(Key(duration + 0.5, _rest_wrist(side, rng), _relaxed(hand, rng)))


def _plan_action(plan: Plan, hand: Hand, start: float, end: float, rng: np.random.Generator) -> None:
    """One action drawn by weight; another draw where it does not work out (an action changes the plan last)."""
    action = rng.choice([_place, _lift, _touch, _push], p=[0.5, 0.15, 0.15, 0.2])
    for _ in range(12):
        try:
            return action(plan, hand, start, end, rng)
        except RejectedError:
            continue
    raise RejectedError("action does not work out")


def _distance_to(plan: Plan, index: int):
    obj, T = plan.objects[index], _standing(plan, index)
    return lambda points: obj.distance(transforms.apply(transforms.invert(T), points))


def _standing(plan: Plan, index: int) -> np.ndarray:
    return transforms.make(Rotation.from_euler("z", plan.yaws[index]).as_matrix(), [*plan.spots[index], 0.0])


def _choose(plan: Plan, hand: Hand, rng: np.random.Generator, grips: tuple[str, ...]) -> int:
    """An object of one of the grips, not far on the other hand's side."""
    sign = 1.0 if hand.side == "right" else -1.0
    able = [i for i, o in enumerate(plan.objects) if o.grip in grips and sign * plan.spots[i][0] > -0.10]
    if not able:
        raise RejectedError("nothing to take")
    return int(rng.choice(able))


def _grasp(plan: Plan, hand: Hand, index: int, rng: np.random.Generator) -> tuple[Wrist, np.ndarray, np.ndarray]:
    """Wrist at the object, open fingers, closed fingers."""
    obj, distance = plan.objects[index], _distance_to(plan, index)
    sign = 1.0 if hand.side == "right" else -1.0
    if obj.grip == "side":
        yaw, roll, pitch = rng.uniform(0.1, 0.8), rng.uniform(0.15, 0.8), rng.uniform(0.0, 0.35)
        fingers = np.array([-sign * np.sin(yaw), np.cos(yaw), -np.tan(pitch)])
        palm = np.array([-sign * np.cos(yaw), -np.sin(yaw), -np.tan(roll)])
        height = max(0.055, obj.height * rng.uniform(0.5, 0.62)) if obj.height < 0.12 else rng.uniform(0.06, 0.08)
        ahead = 0.085
    else:
        pitch, yaw = rng.uniform(0.35, 0.75), rng.uniform(0.0, 0.5)
        fingers = np.array([-sign * np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
        palm = np.array([-sign * 0.3, -np.sin(pitch), -np.cos(pitch)])
        height, ahead = obj.height * 0.62, 0.105
    R = orientation(hand.side, fingers, palm)
    f, n = directions(hand.side, R)
    centre = np.array([*plan.spots[index], height])
    open_theta = pose(hand, even(rng.uniform(0.10, 0.2), thumb=0.0), 1.0)
    wrist = Wrist(R, centre - f * ahead - n * (obj.radius + 0.09))
    wrist = advance(hand, open_theta, wrist, n, distance, gap=0.002)
    low = hand.vertices(open_theta[None], wrist)[0][:, 2].min()
    wrist = wrist.moved(UP * max(0.0, 0.004 - low))
    curls, gap = close_fingers(hand, wrist, even(0.2, thumb=0.0), 1.0, distance)
    if gap > CONTACT_M / 2 or min(curls["index"], curls["middle"]) > 0.9:
        raise RejectedError("grasp does not hold")
    return wrist, open_theta, pose(hand, curls, 1.0)


def _before(hand: Hand, wrist: Wrist, rng: np.random.Generator) -> Wrist:
    """Where a hand waits before it takes something: back, up, and a little away from the palm."""
    f, n = directions(hand.side, wrist.R)
    return wrist.moved(-f * rng.uniform(0.01, 0.04) - n * rng.uniform(0.05, 0.07) + UP * rng.uniform(0.02, 0.05))


def _reach(plan: Plan, side: str, start: float, until: float, to: Wrist, theta: np.ndarray) -> None:
    """Keys from where the hand is, in an arc over what stands between, to a wrist pose."""
    wrist, before = _last(plan, side)
    way = Slerp([0, 1], Rotation.from_matrix(np.stack([wrist.R, to.R])))(0.5).as_matrix()
    over = Wrist(way, (wrist.position + to.position) / 2 + UP * 0.05)
    plan.keys[side] += [
        Key(start, wrist, before),
        Key((start + until) / 2, over, (before + theta) / 2),
        Key(until, to, theta),
    ]


def _carry_action(
    plan: Plan, hand: Hand, index: int, target: np.ndarray, text: str, start: float, end: float, rng
) -> None:
    wrist, open_theta, closed_theta = _grasp(plan, hand, index, rng)
    offset = np.array([*(target - plan.spots[index]), 0.0])
    turn = Rotation.from_euler("z", rng.uniform(-0.25, 0.25)).as_matrix()
    pivot = np.array([*plan.spots[index], 0.0])
    placed = Wrist(turn @ wrist.R, turn @ (wrist.position - pivot) + pivot + offset)
    rise = UP * rng.uniform(0.07, 0.13)
    at = (
        start
        + (end - start)
        * np.cumsum([0.0, *(np.array([0.22, 0.06, 0.10, 0.12, 0.14, 0.12, 0.09, 0.15]) * rng.uniform(0.85, 1.15, 8))])
        / 1.15
    )
    poses = [
        (_before(hand, wrist, rng), open_theta), (wrist, open_theta), (wrist, closed_theta), (wrist.moved(rise), closed_theta),
        (placed.moved(rise), closed_theta), (placed, closed_theta), (placed, open_theta), (_before(hand, placed, rng), open_theta),
    ]  # fmt: skip
    _reach(plan, hand.side, start, float(at[1]), *poses[0])
    plan.keys[hand.side] += [Key(float(t), w, theta) for t, (w, theta) in zip(at[2:], poses[1:], strict=True)]
    plan.carries.append(Carry(index, hand.side, float(at[3]), float(at[6])))
    plan.instructions.append(Instruction(start, end, text, hand.side))
    plan.spots[index] = target
    plan.yaws[index] += Rotation.from_matrix(turn).as_euler("zyx")[0]


def _last(plan: Plan, side: str) -> tuple[Wrist, np.ndarray]:
    key = plan.keys[side][-1]
    return key.wrist, key.theta


def _place(plan: Plan, hand: Hand, start: float, end: float, rng: np.random.Generator) -> None:
    index = _choose(plan, hand, rng, ("side", "top"))
    others = [i for i in range(len(plan.objects)) if i != index]
    for other in rng.permutation(others):
        for relation in rng.permutation(list(RELATIONS)):
            reach = plan.objects[index].radius + plan.objects[other].radius + rng.uniform(0.04, 0.08)
            across = rng.uniform(-0.015, 0.015) * np.array(RELATIONS[str(relation)])[::-1]
            target = plan.spots[other] + np.array(RELATIONS[str(relation)]) * reach + across
            if _is_free(plan, index, target) and np.linalg.norm(target - plan.spots[index]) > 0.08:
                text = f"pick up the {plan.objects[index].name} and put it {relation} the {plan.objects[other].name}"
                _carry_action(plan, hand, index, target, text, start, end, rng)
                return
    raise RejectedError("no free place")


def _is_free(plan: Plan, index: int, target: np.ndarray) -> bool:
    inside = -0.22 <= target[0] <= 0.22 and -0.03 <= target[1] <= 0.21
    apart = [
        np.linalg.norm(target - plan.spots[i]) - plan.objects[index].radius - o.radius
        for i, o in enumerate(plan.objects)
        if i != index
    ]
    return bool(inside and min(apart) > 0.03)


def _lift(plan: Plan, hand: Hand, start: float, end: float, rng: np.random.Generator) -> None:
    index = _choose(plan, hand, rng, ("side", "top"))
    text = f"lift the {plan.objects[index].name} and put it back down"
    _carry_action(plan, hand, index, plan.spots[index].copy(), text, start, end, rng)


def _touch(plan: Plan, hand: Hand, start: float, end: float, rng: np.random.Generator) -> None:
    index = _choose(plan, hand, rng, ("side", "top", ""))
    obj, sign = plan.objects[index], 1.0 if hand.side == "right" else -1.0
    fingers = np.array(
        [-sign * rng.uniform(0.0, 0.5), 1.0, -rng.uniform(0.6, 1.1) - (0.4 if obj.height < 0.05 else 0.0)]
    )
    R = orientation(hand.side, fingers, np.array([-sign * rng.uniform(0.0, 0.4), -0.3, -1.0]))
    theta = pose(
        hand, even(rng.uniform(0.55, 0.75), thumb=0.5) | {"index": rng.uniform(0.02, 0.12)}, rng.uniform(0.6, 1.0)
    )
    tip = hand.model.joints(theta[None], transforms.rotmat_to_rotvec(R)[None], np.zeros((1, 3)), hand.beta)[0, 8]
    f, _ = directions(hand.side, R)
    top = np.array([*plan.spots[index], obj.height])
    away = Wrist(R, top - tip - f * 0.08)
    touching = advance(hand, theta, away, f, _distance_to(plan, index), gap=0.0005)
    distance = _distance_to(plan, index)
    if distance(hand.vertices(theta[None], touching)[0]).min() > CONTACT_M / 2:
        raise RejectedError("touch misses")
    at = start + (end - start) * np.array([0.0, 0.35, 0.5, 0.5 + rng.uniform(0.1, 0.25), 0.9])
    _reach(plan, hand.side, start, float(at[1]), away, theta)
    plan.keys[hand.side] += [Key(float(t), w, theta) for t, w in zip(at[2:], (touching, touching, away), strict=True)]
    plan.instructions.append(Instruction(start, end, f"touch the {obj.name}", hand.side))


def _push(plan: Plan, hand: Hand, start: float, end: float, rng: np.random.Generator) -> None:
    """The palm pushes an object sideways: the right hand to the left, the left hand to the right."""
    index = _choose(plan, hand, rng, ("side", ""))
    obj, sign = plan.objects[index], 1.0 if hand.side == "right" else -1.0
    way = np.array([-sign, 0.0, 0.0])
    target = plan.spots[index] + way[:2] * rng.uniform(0.08, 0.14)
    if not _is_free(plan, index, target):
        raise RejectedError("no way to push")
    R = orientation(hand.side, np.array([-sign * 0.15, 1.0, -rng.uniform(0.1, 0.3)]), way - 0.15 * UP)
    theta = pose(hand, even(rng.uniform(0.08, 0.2), thumb=0.2), 0.1)
    f, _ = directions(hand.side, R)
    away = Wrist(R, np.array([*plan.spots[index], max(0.05, obj.height * 0.4)]) - f * 0.10 - way * (obj.radius + 0.06))
    low = hand.vertices(theta[None], away)[0][:, 2].min()
    away = away.moved(UP * (0.004 - low) if low < 0.004 or obj.height < 0.05 else np.zeros(3))
    touching = advance(hand, theta, away, way, _distance_to(plan, index), gap=0.0008)
    if _distance_to(plan, index)(hand.vertices(theta[None], touching)[0]).min() > CONTACT_M / 2:
        raise RejectedError("push misses")
    pushed = touching.moved(np.array([*(target - plan.spots[index]), 0.0]))
    at = start + (end - start) * np.array([0.0, 0.32, 0.42, 0.70, 0.85])
    _reach(plan, hand.side, start, float(at[1]), away, theta)
    stops = (touching, pushed, pushed.moved(-way * 0.05 + UP * 0.03))
    plan.keys[hand.side] += [Key(float(t), w, theta) for t, w in zip(at[2:], stops, strict=True)]
    plan.carries.append(Carry(index, hand.side, float(at[2]), float(at[3]), rigid=False))
    plan.instructions.append(
        Instruction(start, end, f"push the {obj.name} to the {'left' if sign > 0 else 'right'}", hand.side)
    )
    plan.spots[index] = target


def _interpolate(keys: list[Key], times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wrist rotation (T, 3, 3), position (T, 3) and theta (T, 45): minimum jerk from key to key."""
    at = np.array([key.time_s for key in keys])
    if (np.diff(at) < 0).any():
        raise RejectedError("actions overlap")
    keep = np.flatnonzero(np.diff(at, prepend=-1.0) > 1e-6)
    keys, at = [keys[i] for i in keep], at[keep]
    k = np.clip(np.searchsorted(at, times, side="right") - 1, 0, len(keys) - 2)
    u = np.clip((times - at[k]) / (at[k + 1] - at[k]), 0, 1)
    s = u**3 * (10 - 15 * u + 6 * u**2)
    position, theta = np.stack([key.wrist.position for key in keys]), np.stack([key.theta for key in keys])
    slerp = Slerp(np.arange(len(keys)), Rotation.from_matrix(np.stack([key.wrist.R for key in keys])))
    mix = s[:, None]
    return (
        slerp(k + s).as_matrix(),
        position[k] * (1 - mix) + position[k + 1] * mix,
        theta[k] * (1 - mix) + theta[k + 1] * mix,
    )


def _object_poses(plan: Plan, wrists: dict, times: np.ndarray) -> np.ndarray:
    """Objects stand where they end; walking back through the carries gives where they stood before each."""
    num = len(plan.objects)
    final = np.stack([_standing(plan, i) for i in range(num)])
    poses = np.repeat(final[None], len(times), 0)
    for carry in reversed(plan.carries):
        keys = plan.keys[carry.side]
        R, position, _ = _interpolate(keys, np.array([*times, carry.start_s, carry.end_s]))
        T_world_wrist = transforms.make(R, position)
        held = (times >= carry.start_s) & (times <= carry.end_s)
        after = final[carry.index].copy()
        if carry.rigid:
            T_wrist_obj = transforms.invert(T_world_wrist[-1]) @ after
            way = T_world_wrist[:-1] @ T_wrist_obj
        else:
            way = np.repeat(after[None], len(times) + 1, 0)
            way[:, :2, 3] += (position[:-1] - position[-1])[:, :2]
        poses[held, carry.index] = way[:-1][held]
        poses[times < carry.start_s, carry.index] = way[-1]
        final[carry.index] = way[-1]
    return poses


def _all_vertices(hand: Hand, R: np.ndarray, position: np.ndarray, theta: np.ndarray) -> np.ndarray:
    return hand.model.vertices(theta, transforms.rotmat_to_rotvec(R), position, hand.beta)


def _contacts(objects: list[SceneObject], T_world_obj: np.ndarray, vertices: dict) -> dict[str, np.ndarray]:
    """Nearest object within CONTACT_M by side and frame, else -1. Raises RejectedError where a hand goes through something."""
    contact = {}
    for side, points in vertices.items():
        if points[..., 2].min() < -MAX_PENETRATION_M:
            raise RejectedError("hand in the table")
        near = np.stack([o.distance(_local(T_world_obj[:, i], points)).min(axis=1) for i, o in enumerate(objects)], 1)
        if near.min() < -MAX_PENETRATION_M:
            raise RejectedError("hand in an object")
        contact[side] = np.where(near.min(axis=1) < CONTACT_M, near.argmin(axis=1), -1)
    if len(vertices) == 2:
        centres = [points.mean(axis=1) for points in vertices.values()]
        if np.linalg.norm(centres[0] - centres[1], axis=1).min() < 0.11:
            raise RejectedError("hands meet")
    return contact


def _local(T_world_obj: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (T, n, 3) in the frames of T poses; one matrix product a frame."""
    return (points - T_world_obj[:, None, :3, 3]) @ T_world_obj[:, :3, :3]


def _head_camera(size: tuple[int, int], times: np.ndarray, wrists: dict, moving: bool, rng: np.random.Generator):
    """A camera at the wearer's forehead; swaying, and looking a little after the hand, if it moves."""
    camera = PinholeCamera.from_fov_x(float(rng.uniform(56, 68)), *size)
    eye = np.array([rng.uniform(-0.06, 0.06), rng.uniform(-0.36, -0.28), rng.uniform(0.38, 0.47)]) + np.zeros(
        (len(times), 3)
    )
    target = np.array([rng.uniform(-0.03, 0.03), rng.uniform(0.02, 0.06), 0.02]) + np.zeros((len(times), 3))
    roll = np.full(len(times), rng.uniform(-0.04, 0.04))
    if moving:
        eye += _sway(times, rng, (0.07, 0.035, 0.03))
        hand = np.mean([w[1] for w in wrists.values()], axis=0)
        target = target + _sway(times, rng, (0.035, 0.025, 0.01)) + 0.15 * (hand - target) * [1, 1, 0]
        roll = roll + _sway(times, rng, (0.04, 0, 0))[:, 0]
    z = (target - eye) / np.linalg.norm(target - eye, axis=1, keepdims=True)
    x = np.cross(z, UP)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x = Rotation.from_rotvec(z * roll[:, None]).apply(x)
    R_cam_world = np.stack([x, np.cross(z, x), z], 1)
    return camera, transforms.make(R_cam_world, -(R_cam_world @ eye[..., None])[..., 0])


def _sway(times: np.ndarray, rng: np.random.Generator, size: tuple[float, float, float]) -> np.ndarray:
    out = np.zeros((len(times), 3))
    for period in (rng.uniform(4.5, 8.0), rng.uniform(2.0, 3.5)):
        amplitude = np.array(size) * rng.uniform(0.7, 1.1, 3) * (1.0 if period > 4 else 0.15)
        out += amplitude * np.sin(2 * np.pi * times[:, None] / period + rng.uniform(0, 2 * np.pi, 3))
    return out


def _check_view(camera: PinholeCamera, T_cam_world, T_world_obj, hands: dict, wrists: dict) -> None:
    px = camera.project(transforms.apply(T_cam_world[:, None], T_world_obj[..., :3, 3]))
    if camera.contains(px).mean() < 0.97:
        raise RejectedError("objects out of view")
    for side, hand in hands.items():
        R, position, theta = wrists[side]
        joints = hand.model.joints(theta, transforms.rotmat_to_rotvec(R), position, hand.beta)
        inside = camera.contains(camera.project(transforms.apply(T_cam_world[:, None], joints))).mean(axis=1)
        if (inside > 0.9).mean() < 0.75:
            raise RejectedError("hand out of view")
