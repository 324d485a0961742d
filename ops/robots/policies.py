"""What a robot policy is to the simulator, and the baselines every trained one is compared with.

A policy maps an observation to a chunk of H actions (CONVENTIONS.md, robot action); the evaluation executes the first
few and asks again. It knows nothing of the simulator, except for the expert, which reads its geometry.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8

from ops.lerobot.reader import RobotDataset
from ops.robots.expert import Expert
from ops.robots.libero import REST, LiberoEnv


@dataclass(frozen=True)
class Observation:
    """images: view -> (h, w, 3) upright RGB, empty for a policy that needs none. state (8,): position (m),
    axis-angle (rad), finger positions (m). instruction: the task in words."""

    images: dict[str, UInt8[np.ndarray, "h w 3"]]
    state: Float[np.ndarray, " 8"]
    instruction: str


class Policy(Protocol):
    """needs_images: False saves the rendering (a policy without the attribute is given images)."""

    needs_images: bool

    def reset(self, seed: int) -> None:
        """Start an episode; every random draw of it comes from `seed`."""

    def act(self, observation: Observation) -> Float[np.ndarray, "h 7"]:
        """The next H actions."""


class RandomPolicy:
    """Uniform actions in [-1, 1]: the floor."""

    needs_images = False

    def __init__(self, chunk_length: int = 8):
        self._chunk_length = chunk_length

    def reset(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def act(self, observation: Observation) -> Float[np.ndarray, "h 7"]:
        return self._rng.uniform(-1, 1, (self._chunk_length, 7))


class MeanActionPolicy:
    """The mean action of the demonstrations, always: what a model that ignores its input would learn."""

    needs_images = False

    def __init__(self, dataset: RobotDataset, chunk_length: int = 8):
        self._chunk = np.tile(dataset.action.mean(0), (chunk_length, 1))

    def reset(self, seed: int) -> None:
        pass

    def act(self, observation: Observation) -> Float[np.ndarray, "h 7"]:
        return self._chunk


class ReplayPolicy:
    """Replay one demonstration without looking: the nearest at the start, by state.

    Its success is the share of a task that needs no eyes. LIBERO-Object's targets hardly move between initial states
    (tests/ops/test_robots_simulator.py), so there it is high: 43 of 56 official starts of seven tasks. Only for
    demonstrations recorded with `noise: 0`; disturbed ones hold the intended actions, not the executed ones.
    """

    needs_images = False

    def __init__(self, dataset: RobotDataset, chunk_length: int = 8):
        self._dataset, self._chunk_length = dataset, chunk_length
        self._starts = np.flatnonzero(dataset.frame_index == 0)

    def reset(self, seed: int) -> None:
        self._row: int | None = None

    def act(self, observation: Observation) -> Float[np.ndarray, "h 7"]:
        if self._row is None:
            distance = np.linalg.norm(self._dataset.state[self._starts] - observation.state, axis=1)
            self._row = int(self._starts[distance.argmin()])
            self._last = (
                self._row + int((self._dataset.episode_index == self._dataset.episode_index[self._row]).sum()) - 1
            )
        rows = np.minimum(self._row + np.arange(self._chunk_length), self._last)
        self._row = int(min(self._row + self._chunk_length, self._last))
        return self._dataset.action[rows]


class NearestNeighbourPolicy:
    """Actions that followed the most similar recorded state (no images): closed-loop, but blind to the objects.

    Similarity: states scaled by their spread over the data. The next chunk comes from that row of its episode.
    """

    needs_images = False

    def __init__(self, dataset: RobotDataset, chunk_length: int = 8):
        self._dataset, self._chunk_length = dataset, chunk_length
        self._scale = dataset.state.std(0) + 1e-6

    def reset(self, seed: int) -> None:
        pass

    def act(self, observation: Observation) -> Float[np.ndarray, "h 7"]:
        distance = np.linalg.norm((self._dataset.state - observation.state) / self._scale, axis=1)
        return self._dataset.chunk(int(distance.argmin()), self._chunk_length)[0]


class ExpertPolicy:
    """The scripted expert behind the policy interface, one action a query: the ceiling. Reads the simulation itself."""

    needs_images = False

    def __init__(self) -> None:
        self._env: LiberoEnv | None = None

    def attach(self, env: LiberoEnv) -> None:
        """The episode's environment, already reset; called by run_trials before `reset`."""
        self._env = env

    def reset(self, seed: int) -> None:
        if self._env is None:
            raise ValueError("ExpertPolicy reads the simulation: call attach(env) first, as run_trials does")
        self._expert = Expert(self._env, seed=seed)

    def act(self, observation: Observation) -> Float[np.ndarray, "1 7"]:
        step = self._expert.next()
        return (REST if step is None else step[0])[None]
