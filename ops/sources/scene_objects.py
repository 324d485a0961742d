"""Objects of the synthetic source: named, made of primitives, with exact distances to their surface.

World frame: z up, the table's top is z = 0, x to the wearer's right, y away from the wearer; metres. An object's own
frame has its origin in the middle of its foot (on the table) and z up.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

COLOURS = {
    "red": (0.75, 0.08, 0.08), "blue": (0.10, 0.22, 0.75), "green": (0.08, 0.52, 0.16), "yellow": (0.92, 0.78, 0.08),
    "orange": (0.93, 0.42, 0.05), "purple": (0.42, 0.14, 0.58), "white": (0.92, 0.92, 0.90), "black": (0.07, 0.07, 0.08),
    "pink": (0.93, 0.45, 0.62), "grey": (0.45, 0.47, 0.50),
}  # fmt: skip
SHAPES = ("mug", "can", "bottle", "jar", "ball", "box", "cube", "book", "plate")


@dataclass(frozen=True)
class Part:
    """A primitive. kind: "box" (half sizes), "cylinder" (radius, half height, -), "sphere" (radius, -, -),
    "capsule" (radius, half length, -; along its own z). solid: counts for contact and distance."""

    kind: str
    size: tuple[float, float, float]
    position: tuple[float, float, float]
    rgb: tuple[float, float, float]
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)
    solid: bool = True


@dataclass(frozen=True)
class SceneObject:
    """grip: how a hand takes it: "side", "top", or "" (only touched or pushed). radius: half width where it is taken."""

    name: str
    parts: tuple[Part, ...]
    height: float
    radius: float
    grip: str

    def distance(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
        """Signed distance of points in the object's frame to its surface, negative inside (a lower bound outside
        where solid parts overlap)."""
        solid = [_part_distance(part, points) for part in self.parts if part.solid]
        return np.minimum.reduce(solid)

    @property
    def centre(self) -> np.ndarray:
        """The object's position in labels: half way up."""
        return np.array([0.0, 0.0, self.height / 2])


def make_object(shape: str, colour: str, rng: np.random.Generator) -> SceneObject:
    """An object of a shape and colour with random size."""
    rgb = tuple(np.clip(np.array(COLOURS[colour]) + rng.uniform(-0.05, 0.05, 3), 0, 1).tolist())
    parts, height, radius, grip = _BUILDERS[shape](rgb, rng)
    return SceneObject(f"{colour} {shape}", tuple(parts), height, radius, grip)


def pick_objects(rng: np.random.Generator, count: int, must_grip: int) -> list[SceneObject]:
    """Distinct shapes and colours, so that every name means one thing; at least `must_grip` that can be taken."""
    while True:
        shapes = rng.choice(SHAPES, count, replace=False)
        colours = rng.choice(list(COLOURS), count, replace=False)
        objects = [make_object(str(s), str(c), rng) for s, c in zip(shapes, colours, strict=True)]
        if sum(bool(o.grip) for o in objects) >= must_grip:
            return objects


def place_objects(
    rng: np.random.Generator,
    radii: list[float],
    gap: float = 0.055,
    limits: tuple[float, float, float, float] = (-0.21, 0.21, 0.0, 0.19),
) -> Float[np.ndarray, "n 2"]:
    """Foot positions (x, y) that keep `gap` between the objects' circles. limits: x min, x max, y min, y max.

    Raises LookupError if none were found in 1000 draws.
    """
    placed: list[np.ndarray] = []
    low, high = np.array(limits[::2]), np.array(limits[1::2])
    for _ in range(1000):
        spot = rng.uniform(low, high)
        i = len(placed)
        if all(np.linalg.norm(spot - other) > radii[i] + radii[j] + gap for j, other in enumerate(placed)):
            placed.append(spot)
            if len(placed) == len(radii):
                return np.array(placed)
    raise LookupError(f"{len(radii)} objects do not fit on the table: make limits wider or gap smaller")


def _part_distance(part: Part, points: np.ndarray) -> np.ndarray:
    local = points - np.array(part.position)
    if part.kind == "sphere":
        return np.linalg.norm(local, axis=-1) - part.size[0]
    if part.kind == "box":
        q = np.abs(local) - np.array(part.size)
        return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0)
    if part.kind != "cylinder" or part.axis != (0.0, 0.0, 1.0):
        raise ValueError(f"no distance for a solid {part.kind}")
    radial = np.linalg.norm(local[..., :2], axis=-1) - part.size[0]
    axial = np.abs(local[..., 2]) - part.size[1]
    outside = np.hypot(np.maximum(radial, 0), np.maximum(axial, 0))
    return outside + np.minimum(np.maximum(radial, axial), 0)


def _cylinder(radius: float, bottom: float, top: float, rgb, solid: bool = True) -> Part:
    return Part("cylinder", (radius, (top - bottom) / 2, 0.0), (0.0, 0.0, (top + bottom) / 2), rgb, solid=solid)


def _shade(rgb, factor: float) -> tuple[float, float, float]:
    return tuple(float(np.clip(c * factor, 0, 1)) for c in rgb)


def _mug(rgb, rng):
    radius, height = rng.uniform(0.034, 0.042), rng.uniform(0.080, 0.100)
    parts = [
        _cylinder(radius, 0, height, rgb),
        _cylinder(radius * 0.86, height, height + 0.0008, _shade(rgb, 0.35), solid=False),
    ]
    angles = np.linspace(-1.2, 1.2, 6)
    yaw = rng.uniform(0.9, 2.2)  # handle at the far side, clear of the fingers
    ring = np.stack([radius + 0.022 * np.cos(angles) - 0.006, 0 * angles, height / 2 + 0.028 * np.sin(angles)], -1)
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    ring = ring @ turn.T
    for a, b in pairwise(ring):
        axis = (b - a) / np.linalg.norm(b - a)
        size = (0.0055, float(np.linalg.norm(b - a)) / 2, 0.0)
        parts.append(Part("capsule", size, tuple((a + b) / 2), rgb, tuple(axis.tolist()), solid=False))
    return parts, height, radius, "side"


def _can(rgb, rng):
    radius, height = rng.uniform(0.030, 0.036), rng.uniform(0.095, 0.125)
    metal = (0.70, 0.71, 0.73)
    parts = [_cylinder(radius, 0.006, height - 0.006, rgb), _cylinder(radius * 0.93, 0, height, metal)]
    parts.append(_cylinder(radius * 1.003, height * 0.35, height * 0.60, _shade((0.9, 0.9, 0.9), 1.0), solid=False))
    return parts, height, radius, "side"


def _bottle(rgb, rng):
    radius, body = rng.uniform(0.028, 0.035), rng.uniform(0.11, 0.14)
    neck = body + rng.uniform(0.03, 0.05)
    parts = [_cylinder(radius, 0, body, rgb), _cylinder(radius * 0.42, body, neck, rgb)]
    parts += [
        _cylinder(radius * 0.72, body, body + 0.010, rgb),
        _cylinder(radius * 0.5, neck, neck + 0.014, _shade(rgb, 0.4)),
    ]
    parts.append(_cylinder(radius * 1.004, body * 0.3, body * 0.7, (0.88, 0.86, 0.80), solid=False))
    return parts, neck + 0.014, radius, "side"


def _jar(rgb, rng):
    radius, height = rng.uniform(0.034, 0.043), rng.uniform(0.075, 0.100)
    parts = [
        _cylinder(radius, 0, height - 0.018, rgb),
        _cylinder(radius * 0.9, height - 0.018, height, _shade(rgb, 0.45)),
    ]
    return parts, height, radius, "side"


def _ball(rgb, rng):
    radius = rng.uniform(0.028, 0.038)
    return [Part("sphere", (radius, 0.0, 0.0), (0.0, 0.0, radius), rgb)], 2 * radius, radius, "top"


def _box(rgb, rng):
    half = np.array([rng.uniform(0.030, 0.040), rng.uniform(0.025, 0.055), rng.uniform(0.045, 0.070)])
    parts = [Part("box", tuple(half.tolist()), (0.0, 0.0, float(half[2])), rgb)]
    strip = (float(half[0] * 1.004), float(half[1] * 1.004), 0.012)
    parts.append(Part("box", strip, (0.0, 0.0, float(half[2])), _shade(rgb, 1.6), solid=False))
    return parts, float(2 * half[2]), float(half[0]), "side"


def _cube(rgb, rng):
    half = rng.uniform(0.024, 0.032)
    return [Part("box", (half, half, half), (0.0, 0.0, half), rgb)], 2 * half, half, "top"


def _book(rgb, rng):
    half = np.array([rng.uniform(0.050, 0.075), rng.uniform(0.070, 0.100), rng.uniform(0.009, 0.016)])
    pages = (float(half[0] * 0.97), float(half[1] * 1.003), float(half[2] * 0.8))
    parts = [Part("box", tuple(half.tolist()), (0.0, 0.0, float(half[2])), rgb)]
    parts.append(Part("box", pages, (0.004, 0.0, float(half[2])), (0.93, 0.91, 0.84), solid=False))
    return parts, float(2 * half[2]), float(np.hypot(half[0], half[1]) * 0.9), ""


def _plate(rgb, rng):
    radius, height = rng.uniform(0.065, 0.090), rng.uniform(0.012, 0.018)
    parts = [_cylinder(radius, height * 0.4, height, rgb), _cylinder(radius * 0.6, 0, height * 0.4, rgb)]
    parts.append(_cylinder(radius * 0.7, height, height + 0.0008, _shade(rgb, 0.8), solid=False))
    return parts, height, radius, ""


_BUILDERS = {
    "mug": _mug, "can": _can, "bottle": _bottle, "jar": _jar, "ball": _ball, "box": _box, "cube": _cube, "book": _book, "plate": _plate,
}  # fmt: skip
