"""A scripted pick-and-place expert: reads the task's goal and MuJoCo's geometry, and moves the gripper there.

It sees what no policy sees (true poses, collision shapes), so it serves to make demonstrations and as an upper bound.
World frame: x forward, y left, z up, metres. An action's position part is the wished displacement / 0.05 m, its
rotation part the wished turn about world axes / 0.5 rad, its gripper -1 open, +1 close; each is clipped to [-1, 1].
Goals it knows: a single On(object, place) or In(object, place); goals of several parts (LIBERO-10) need a sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from ops.robots.libero import CLOSE, OPEN, LiberoEnv

POSITION_SCALE_M, ROTATION_SCALE_RAD = 0.05, 0.5
GAIN = 1.5
"""Of the distance left, asked for in one step: the impedance controller covers about half of what is asked."""
MAX_WIDTH_M = 0.074
"""Widest object taken between the fingers, which open to 0.08 m; a wider one is taken by its rim."""
FINGER_DEPTH_M = 0.035
"""How far below an object's top the finger tips go: the palm would touch at 0.045."""
TIP_CLEARANCE_M = 0.008
"""Lowest height of the gripper's site, which lies at the finger tips, above what the object stands on."""
HOVER_M = 0.07
RIM_CANDIDATES = 16
MAX_GRASPS = 6
CLOSE_STEPS, OPEN_STEPS, RETREAT_STEPS = 10, 6, 6


@dataclass(frozen=True)
class Grasp:
    """point: where the gripper's site goes, m. direction: unit horizontal (x, y, 0) along which the fingers close."""

    point: Float[np.ndarray, " 3"]
    direction: Float[np.ndarray, " 3"]


def plan_grasps(points: Float[np.ndarray, "n 3"], finger_direction: Float[np.ndarray, " 3"]) -> list[Grasp]:
    """Grasps from above for a shape's points (world, m), best first: between the fingers, or else by the rim.

    Between the fingers, the least turn of the gripper that fits comes first. Raises ValueError for an empty shape.
    """
    if len(points) == 0:
        raise ValueError("cannot grasp a shape without points")
    low, high = points.min(0), points.max(0)
    height = max(low[2] + TIP_CLEARANCE_M, high[2] - FINGER_DEPTH_M)
    turns = sorted(np.deg2rad(np.arange(-90, 90, 15)), key=abs)
    around = [_turned(finger_direction, turn) for turn in turns]
    widths = np.array([np.ptp(points @ direction) for direction in around])
    fitting = [i for i in range(len(turns)) if widths[i] < MAX_WIDTH_M]
    if fitting:
        return [Grasp(_middle(points, around[i], height), around[i]) for i in fitting][:MAX_GRASPS]
    return _rim_grasps(points, finger_direction, height)


def _turned(direction: Float[np.ndarray, " 3"], angle: float) -> Float[np.ndarray, " 3"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * direction[0] - s * direction[1], s * direction[0] + c * direction[1], 0.0])


def _middle(
    points: Float[np.ndarray, "n 3"], direction: Float[np.ndarray, " 3"], height: float
) -> Float[np.ndarray, " 3"]:
    """Mid-range of the points along and across `direction`, at a height."""
    across = _turned(direction, np.pi / 2)
    along_mid, across_mid = ((p.min() + p.max()) / 2 for p in (points @ direction, points @ across))
    middle = along_mid * direction + across_mid * across
    return np.array([middle[0], middle[1], height])


def _rim_grasps(
    points: Float[np.ndarray, "n 3"], finger_direction: Float[np.ndarray, " 3"], height: float
) -> list[Grasp]:
    """One finger inside, one outside the wall of a bowl or box, least turn of the gripper first."""
    upper = points[points[:, 2] > points[:, 2].max() - FINGER_DEPTH_M]
    centre = (upper.min(0) + upper.max(0)) / 2
    angles = np.arange(RIM_CANDIDATES) * 2 * np.pi / RIM_CANDIDATES
    directions = [np.array([np.cos(a), np.sin(a), 0.0]) for a in angles]
    directions.sort(key=lambda direction: -abs(direction @ finger_direction))
    grasps = []
    for direction in directions:
        reach = ((upper - centre) @ direction).max()
        point = centre + direction * (reach - 0.005)
        grasps.append(Grasp(np.array([point[0], point[1], height]), direction))
    return grasps[:MAX_GRASPS]


class Expert:
    """Closed-loop script over one episode of `env`; a new one after every reset.

    noise: standard deviation of the disturbance (in action units) added to the position part while moving freely; it
    is held for four steps, so that the arm really strays, and the script corrects it. `next()` gives the intended and
    the disturbed action; demonstrations execute the second and record the first (DART, arXiv 1703.09327).
    """

    def __init__(self, env: LiberoEnv, noise: float = 0.0, seed: int = 0):
        if env.goal.predicate not in ("on", "in") or env.num_goals > 1 or not env.is_movable(env.goal.object):
            raise ValueError(
                f"the expert knows a single On or In goal of a movable object; {env.suite} task {env.task_id} "
                f"({env.instruction}) has {env.num_goals} goals, first {env.goal}"
            )
        self.env, self.noise = env, noise
        self._rng = np.random.default_rng(seed)
        self._bias, self._age = np.zeros(3), 0
        self.phase = "start"
        self._actions = self._script()

    def next(self) -> tuple[Float[np.ndarray, " 7"], Float[np.ndarray, " 7"]] | None:
        """(intended, disturbed) action for the present state of the simulation; None when the script has ended."""
        action = next(self._actions, None)
        if action is None:
            return None
        disturbed = action.copy()
        if self.noise and self.phase in ("above", "transit"):
            disturbed[:3] = np.clip(disturbed[:3] + self._disturbance(), -1, 1)
        return action, disturbed

    def _disturbance(self) -> Float[np.ndarray, " 3"]:
        if self._age % 4 == 0:
            self._bias = self.noise * self._rng.standard_normal(3)
        self._age += 1
        return self._bias

    def _script(self) -> Iterator[Float[np.ndarray, " 7"]]:
        name = self.env.goal.object
        fingers = _horizontal(self.env.eef_rotmat()[:, 0])
        for grasp in plan_grasps(self.env.body_points(name), fingers):
            yield from self._pick(grasp)
            if self.env.object_position(name)[2] > self._start_height + 0.02:
                yield from self._place(grasp)
                return
            yield from self._hold(grasp, _raised(grasp.point), OPEN, 8, "retry")

    def _pick(self, grasp: Grasp) -> Iterator[Float[np.ndarray, " 7"]]:
        points = self.env.body_points(self.env.goal.object)
        self._start_height = self.env.object_position(self.env.goal.object)[2]
        self._hang = grasp.point[2] - points[:, 2].min()
        above = np.array([*grasp.point[:2], points[:, 2].max() + HOVER_M])
        yield from self._move(grasp, above, OPEN, 0.015, 70, "above")
        yield from self._move(grasp, grasp.point, OPEN, 0.006, 40, "descend")
        yield from self._hold(grasp, grasp.point, CLOSE, CLOSE_STEPS, "close")
        lifted = np.array([*grasp.point[:2], max(above[2], self._carry_height())])
        yield from self._move(grasp, lifted, CLOSE, 0.03, 50, "lift")

    def _place(self, grasp: Grasp) -> Iterator[Float[np.ndarray, " 7"]]:
        target, surface = self._target()
        in_hand = self._object_centre() - self.env.eef_position()
        xy = target[:2] - in_hand[:2]
        yield from self._move(grasp, np.array([*xy, self._carry_height()]), CLOSE, 0.015, 90, "transit")
        yield from self._move(grasp, np.array([*xy, surface + self._hang]), CLOSE, 0.012, 40, "lower")
        release = self.env.eef_position()
        yield from self._hold(grasp, release, OPEN, OPEN_STEPS, "open")
        yield from self._hold(grasp, _raised(release), OPEN, RETREAT_STEPS, "retreat")

    def _object_centre(self) -> Float[np.ndarray, " 3"]:
        points = self.env.body_points(self.env.goal.object)
        return (points.min(0) + points.max(0)) / 2

    def _target(self) -> tuple[Float[np.ndarray, " 3"], float]:
        """Where the object's centre goes (x, y count), and the height its underside is let go at."""
        goal = self.env.goal
        site = self.env.site_position(goal.target)
        if site is None:  # on an object
            points = self.env.body_points(goal.target)
            return (points.min(0) + points.max(0)) / 2, points[:, 2].max() + 0.01
        if goal.predicate == "in":  # the palm must not touch the walls: the object drops the rest
            return site, max(float(site[2]), self._wall_top() - self._hang - 0.01)
        return site, float(site[2]) + 0.01

    def _carry_height(self) -> float:
        """Of the gripper, so that what hangs from it clears the place's walls."""
        return self._wall_top() + self._hang + 0.03

    def _wall_top(self) -> float:
        site = self.env.site_position(self.env.goal.target)
        owner = self.env.goal.target if site is None else self.env.site_parent(self.env.goal.target)
        if not self.env.has_body(owner):  # a region of the table or the floor
            return float(site[2])
        return float(self.env.body_points(owner)[:, 2].max())

    def _move(
        self,
        grasp: Grasp,
        goal: Float[np.ndarray, " 3"],
        gripper: float,
        close_enough_m: float,
        max_steps: int,
        phase: str,
    ) -> Iterator[Float[np.ndarray, " 7"]]:
        self.phase = phase
        for _ in range(max_steps):
            if np.linalg.norm(goal - self.env.eef_position()) < close_enough_m and self._turn_left(grasp) < 0.1:
                return
            yield self._towards(grasp, goal, gripper)

    def _hold(
        self, grasp: Grasp, goal: Float[np.ndarray, " 3"], gripper: float, steps: int, phase: str
    ) -> Iterator[Float[np.ndarray, " 7"]]:
        self.phase = phase
        for _ in range(steps):
            yield self._towards(grasp, goal, gripper)

    def _towards(self, grasp: Grasp, goal: Float[np.ndarray, " 3"], gripper: float) -> Float[np.ndarray, " 7"]:
        shift = GAIN * (goal - self.env.eef_position()) / POSITION_SCALE_M
        turn = self._turn(grasp) / ROTATION_SCALE_RAD
        return np.concatenate([np.clip(shift, -1, 1), np.clip(turn, -1, 1), [gripper]])

    def _turn(self, grasp: Grasp) -> Float[np.ndarray, " 3"]:
        """Rotation vector about world axes from the gripper's orientation to pointing down along the grasp."""
        current = self.env.eef_rotmat()
        x = (
            grasp.direction if current[:, 0] @ grasp.direction >= 0 else -grasp.direction
        )  # a half turn is the same grasp
        down = np.array([0.0, 0.0, -1.0])
        wished = np.stack([x, np.cross(down, x), down], axis=1)
        return Rotation.from_matrix(wished @ current.T).as_rotvec()

    def _turn_left(self, grasp: Grasp) -> float:
        return float(np.linalg.norm(self._turn(grasp)))


def _horizontal(vector: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    flat = np.array([vector[0], vector[1], 0.0])
    return flat / np.linalg.norm(flat)


def _raised(point: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    return point + np.array([0.0, 0.0, HOVER_M])
