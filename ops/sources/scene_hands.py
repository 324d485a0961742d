"""Hand poses of the synthetic source: open, pointing, and fingers closed until they touch an object.

Wrist frame of a flat hand (CONVENTIONS.md): the right hand's fingers along -x, the left's along +x; both palms face -y
and thumbs +z. World frame as in scene_objects. `curl` is 0 for a straight finger, 1 for a closed one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ops.geometry import transforms
from ops.hands.mano import HandModel

FINGER_JOINTS = {
    "index": (1, 2, 3),
    "middle": (4, 5, 6),
    "little": (7, 8, 9),
    "ring": (10, 11, 12),
    "thumb": (13, 14, 15),
}
FINGERS = tuple(FINGER_JOINTS)
FLEXION = np.deg2rad([75.0, 95.0, 55.0])  # of the three joints at curl 1
THUMB_FLEXION = np.deg2rad([35.0, 40.0, 50.0])
OPPOSED = np.array([-0.25, -0.85, 0.45])  # where the right thumb points to meet the fingers
MAX_CURL = 0.92

Distance = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Wrist:
    """Pose of a hand in the world: R maps the flat hand's axes to the world's, position is the wrist's."""

    R: Float[np.ndarray, "3 3"]
    position: Float[np.ndarray, " 3"]

    def moved(self, offset: Float[np.ndarray, " 3"]) -> "Wrist":
        return Wrist(self.R, self.position + offset)


@dataclass(frozen=True, eq=False)
class Hand:
    """A hand model with one shape, and which vertices follow which finger."""

    model: HandModel
    beta: Float[np.ndarray, " 10"]

    @property
    def side(self) -> str:
        return self.model.side

    def vertices(self, theta: np.ndarray, wrist: Wrist) -> Float[np.ndarray, "n 778 3"]:
        n = len(theta)
        r = np.repeat(transforms.rotmat_to_rotvec(wrist.R)[None], n, 0)
        return self.model.vertices(theta, r, np.repeat(wrist.position[None], n, 0), self.beta)

    def finger_vertices(self, finger: str) -> Float[np.ndarray, " n"]:
        owner = self.model.weights.argmax(axis=1)
        return np.flatnonzero(np.isin(owner, FINGER_JOINTS[finger]))


def orientation(side: str, fingers: np.ndarray, palm: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Wrist rotation whose fingers point along `fingers` and whose palm faces `palm` (made perpendicular), world."""
    f = fingers / np.linalg.norm(fingers)
    n = palm - f * (palm @ f)
    n /= np.linalg.norm(n)
    local_f = np.array([-1.0 if side == "right" else 1.0, 0.0, 0.0])
    local_n = np.array([0.0, -1.0, 0.0])
    local = np.stack([local_f, local_n, np.cross(local_f, local_n)], 1)
    return np.stack([f, n, np.cross(f, n)], 1) @ local.T


def directions(side: str, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finger and palm directions in the world of a wrist rotation."""
    return R @ np.array([-1.0 if side == "right" else 1.0, 0.0, 0.0]), R @ np.array([0.0, -1.0, 0.0])


def pose(hand: Hand, curls: dict[str, float], opposition: float) -> Float[np.ndarray, " 45"]:
    """theta of finger curls. opposition: 0 thumb beside the palm, 1 facing the fingers."""
    theta = np.zeros((15, 3))
    for finger, joints in FINGER_JOINTS.items():
        if finger != "thumb":
            for joint, full in zip(joints, FLEXION, strict=True):
                theta[joint - 1] = [0.0, 0.0, full * curls[finger]]
    theta[12:15] = _thumb(hand, curls["thumb"], opposition)
    if hand.side == "left":
        theta *= [1.0, -1.0, -1.0]
    return theta.ravel()


def _thumb(hand: Hand, curl: float, opposition: float) -> np.ndarray:
    """The right thumb's three rotations: turned from its rest towards OPPOSED, then bent towards the fingers."""
    rest = hand.model.keypoints.rest(hand.beta[None])[0]
    along = (rest[16] - rest[13]) * [1.0 if hand.side == "right" else -1.0, 1.0, 1.0]
    along = along / np.linalg.norm(along)
    want = OPPOSED / np.linalg.norm(OPPOSED)
    axis = np.cross(along, want)
    angle = np.arctan2(np.linalg.norm(axis), along @ want)
    turn = transforms.rotvec_to_rotmat(axis / np.linalg.norm(axis) * angle * opposition)
    bend = np.array([0.0, 0.0, -1.0])
    first = transforms.rotvec_to_rotmat(bend * THUMB_FLEXION[0] * curl) @ turn
    inner = turn.T @ bend
    return np.stack(
        [transforms.rotmat_to_rotvec(first), inner * THUMB_FLEXION[1] * curl, inner * THUMB_FLEXION[2] * curl]
    )


def even(curl: float, thumb: float | None = None) -> dict[str, float]:
    return dict.fromkeys(FINGERS, curl) | {"thumb": curl if thumb is None else thumb}


def advance(hand: Hand, theta: np.ndarray, wrist: Wrist, along: np.ndarray, distance: Distance, gap: float) -> Wrist:
    """Move the hand along a direction until its nearest vertex is `gap` from the object (or 12 cm on)."""
    vertices = hand.vertices(theta[None], wrist)[0]
    low, high = 0.0, 0.12
    steps = np.linspace(low, high, 49)
    near = np.array([distance(vertices + step * along).min() for step in steps])
    first = int(np.argmax(near < gap)) if (near < gap).any() else len(steps) - 1
    low, high = steps[max(first - 1, 0)], steps[first]
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if distance(vertices + middle * along).min() < gap else (middle, high)
    return wrist.moved(low * along)


def close_fingers(
    hand: Hand, wrist: Wrist, start: dict[str, float], opposition: float, distance: Distance
) -> tuple[dict[str, float], float]:
    """Curl every finger from `start` until it touches. Returns curls and the smallest distance of any finger, metres."""
    low = dict(start)
    high = dict.fromkeys(FINGERS, MAX_CURL)
    for steps in (20, 12):
        grid = {f: np.linspace(low[f], high[f], steps) for f in FINGERS}
        thetas = np.stack([pose(hand, {f: grid[f][i] for f in FINGERS}, opposition) for i in range(steps)])
        near = distance(hand.vertices(thetas, wrist))
        for finger in FINGERS:
            hit = near[:, hand.finger_vertices(finger)].min(axis=1) < 0.0005
            first = int(np.argmax(hit)) if hit.any() else steps - 1
            low[finger], high[finger] = grid[finger][max(first - 1, 0)], grid[finger][first]
    closed = pose(hand, low, opposition)
    return low, float(distance(hand.vertices(closed[None], wrist)[0]).min())
