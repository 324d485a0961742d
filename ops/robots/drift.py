"""Guard against simulator drift: a newer MuJoCo silently moves objects and darkens floors, and scores fall.

Two cheap measurements with known answers. In libero_spatial task 5 a bowl rests on a ramekin: after the steps of rest
it sits within 1.5 cm of its centre with mujoco 3.3.2, but slides 6 cm off the rim from 3.4 on. And LIBERO-Object's
floor renders at a mean brightness of 139 of 255, but at 102 from 3.3.3 on. A score must not be published when either
fails (ops.robots.evaluate.publishable).
"""

from dataclasses import dataclass

import numpy as np

from ops.robots.libero import LiberoEnv, versions

MAX_BOWL_OFFSET_M = 0.03
BRIGHTNESS = (130.0, 150.0)
"""Allowed mean of libero_object task 0's first image; measured 139 at mujoco 3.3.2 and 102 at 3.17.0."""


@dataclass(frozen=True)
class DriftReport:
    """bowl_offset_m: horizontal, between bowl and ramekin at rest. brightness: mean of all pixels, 0 to 255.

    versions: package -> version, with the GL backend.
    """

    bowl_offset_m: float
    brightness: float
    versions: dict[str, str]

    @property
    def problems(self) -> list[str]:
        """Empty when scores may be compared with published ones."""
        found = []
        if not self.bowl_offset_m < MAX_BOWL_OFFSET_M:
            found.append(
                f"libero_spatial task 5: the bowl rests {100 * self.bowl_offset_m:.1f} cm off the ramekin (below 3 wanted)"
            )
        if not BRIGHTNESS[0] <= self.brightness <= BRIGHTNESS[1]:
            found.append(
                f"libero_object task 0: mean brightness {self.brightness:.0f} ({BRIGHTNESS[0]:.0f} to {BRIGHTNESS[1]:.0f} wanted)"
            )
        return found

    @property
    def ok(self) -> bool:
        return not self.problems


def check_drift() -> DriftReport:
    """Measure both (about 20 CPU s: two scenes are built)."""
    return DriftReport(bowl_offset_m(), brightness(), versions())


def bowl_offset_m(index: int = 0) -> float:
    with LiberoEnv("libero_spatial", 5, image_size=64, hard_reset=False) as env:
        env.reset_official(index)
        bowl, ramekin = env.object_position(env.goal.object), env.object_position("glazed_rim_porcelain_ramekin_1")
        return float(np.linalg.norm((bowl - ramekin)[:2]))


def brightness(index: int = 0) -> float:
    with LiberoEnv("libero_object", 0, image_size=128, hard_reset=False) as env:
        env.reset_official(index)
        return float(env.images()["agentview"].mean())
