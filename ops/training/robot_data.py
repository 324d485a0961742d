"""Robot demonstrations as action chunks (paper 3.4): one frame a view, state, H actions, all scaled to [-1, 1].

A chunk begins at every step of an episode; behind the episode's end the last action is repeated and masked out.
Scaling is min-max a number over the training data; its statistics travel with the checkpoint (policy.json).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ops.config import build as build_config
from ops.lerobot.reader import RobotDataset
from ops.models.processor import TokenBatch, prompt_batch, prompt_ids
from ops.models.tokenizer import VipaTokenizer
from ops.models.vipa import FrameFeatures, VipaVLA
from ops.store import write_file
from ops.training.features import encoder_version

QUESTION = "What should the robot do to {task}?"
LEAST_ACTION_HALF = 0.25
"""Of the robot's [-1, 1]. ASSUMED: turns of 0.03 that only correct the arm's sway would else weigh as much as reaching."""
MAX_CACHED_BYTES = 20_000_000_000
ENCODE_BATCH = 16


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of each number; maps [low, high] to [-1, 1]. A number that never changes maps to 0."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, values: Float[np.ndarray, "N D"], least_half: float = 0.0) -> "Range":
        """Smallest and largest value; a range narrower than 2 * least_half is widened to it about its middle."""
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(
                f"statistics need finite values, got {values.shape} with {np.sum(~np.isfinite(values))} not finite"
            )
        low, high = values.min(axis=0).astype(float), values.max(axis=0).astype(float)
        missing = np.where(high > low, np.maximum(0, least_half - (high - low) / 2), 0)
        return cls(tuple((low - missing).tolist()), tuple((high + missing).tolist()))

    def _half(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.array(self.low), np.array(self.high)
        return (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)

    def scale(self, values: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n D"]:
        middle, half = self._half()
        return ((values - middle) / half).astype(np.float32)

    def unscale(self, values: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n D"]:
        middle, half = self._half()
        return (values * half + middle).astype(np.float32)


@dataclass(frozen=True)
class PolicySettings:
    """What a policy needs beside its weights."""

    action: Range
    state: Range
    views: tuple[str, ...]
    question: str = QUESTION
    num_flow_steps: int = 4

    def save(self, folder: Path) -> None:
        (folder / "policy.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "PolicySettings":
        content = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
        return build_config(cls, content, "policy.json")


def settings_of(data: RobotDataset) -> PolicySettings:
    return PolicySettings(Range.of(data.action, LEAST_ACTION_HALF), Range.of(data.state), tuple(sorted(data.images)))


def chunk_indices(
    episode_index: Int[np.ndarray, " N"], horizon: int
) -> tuple[Int[np.ndarray, "N H"], Bool[np.ndarray, "N H"]]:
    """For every step the steps of its chunk, the episode's last one repeated behind its end, and which are real."""
    episode_index = np.asarray(episode_index)
    ends = np.searchsorted(episode_index, episode_index, side="right") - 1
    if (np.diff(episode_index) < 0).any():
        raise ValueError("episode_index must be ascending: sort the dataset by episode and frame")
    wanted = np.arange(len(episode_index))[:, None] + np.arange(horizon)
    return np.minimum(wanted, ends[:, None]), wanted <= ends[:, None]


@dataclass(frozen=True)
class ChunkBatch:
    features: FrameFeatures
    tokens: TokenBatch
    state: Float[Tensor, "B P"]
    actions: Float[Tensor, "B H A"]
    mask: Bool[Tensor, "B H"]
    seed: int


class FlowObjective(nn.Module):
    """Flow-matching loss of the action head, conditioned by the language model; both are trained."""

    def __init__(self, model: VipaVLA, num_noise: int = 4) -> None:
        super().__init__()
        self.model, self.num_noise = model, num_noise

    def forward(self, batch: ChunkBatch) -> tuple[Tensor, int]:
        model, device = self.model, self.model.device
        tokens = batch.tokens.to(device)
        h_cond = model.action_condition(batch.features.to(device), tokens.input_ids, tokens.attention_mask)
        generator = torch.Generator().manual_seed(batch.seed)
        state, actions, mask = (x.to(device) for x in (batch.state, batch.actions, batch.mask))
        return model.head.loss(h_cond, state, actions, mask, generator, self.num_noise), int(batch.mask.sum())


class ChunkSource:
    """Chunks that begin where an image was taken; item i is row `rows[i]` of the data set. Frames are encoded once."""

    def __init__(self, model: VipaVLA, tokenizer: VipaTokenizer, data: RobotDataset, settings: PolicySettings) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.rows = data.conditioning_rows()
        self.steps, self.mask = chunk_indices(data.episode_index, model.config.head.horizon)
        self.actions, self.states = settings.action.scale(data.action), settings.state.scale(data.state)
        self.pad = tokenizer.layout.pad
        self.prompts = [robot_prompt(tokenizer, settings, task, model.config.tokens_per_frame) for task in data.tasks]
        self.cached: FrameFeatures | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def fill(self, root: Path, version: str, progress: Callable[..., Iterator] | None = None) -> None:
        """Encode all frames once and keep them on disk; left out where they would take more than MAX_CACHED_BYTES."""
        probe = self._encode([0])
        size = (probe.semantic.numel() + probe.spatial.numel()) * 2 * len(self)
        if size > MAX_CACHED_BYTES:
            return
        key = hashlib.sha256(f"{version}{self.settings.views}".encode()).hexdigest()[:24]
        path = root / "data" / ".cache" / "features" / encoder_version(self.model) / f"robot-{key}.safetensors"
        if not path.is_file():
            starts = range(0, len(self), ENCODE_BATCH)
            shown = progress(starts, total=len(starts), unit="frame group") if progress else starts
            parts = [self._encode(range(start, min(start + ENCODE_BATCH, len(self)))) for start in shown]
            tensors = {
                name: torch.cat([getattr(part, name).half().cpu() for part in parts])
                for name in ("semantic", "spatial")
            }
            write_file(path, save(tensors))
        self.cached = FrameFeatures(**load_file(path))

    def _encode(self, items: Sequence[int]) -> FrameFeatures:
        rows = self.rows[list(items)]
        views = torch.stack([torch.from_numpy(self.data.images[view][rows]) for view in self.settings.views], dim=1)
        return self.model.encode_frames(views, state_per_frame=True)

    def features(self, items: Sequence[int]) -> FrameFeatures:
        if self.cached is None:
            return self._encode(items)
        return FrameFeatures(self.cached.semantic[list(items)].float(), self.cached.spatial[list(items)].float())

    def batch(self, items: Sequence[int], seed: int) -> ChunkBatch:
        rows = self.rows[list(items)]
        tokens = prompt_batch([self.prompts[self.data.task_index[row]] for row in rows], self.pad)
        actions, mask = torch.from_numpy(self.actions[self.steps[rows]]), torch.from_numpy(self.mask[rows])
        return ChunkBatch(self.features(items), tokens, torch.from_numpy(self.states[rows]), actions, mask, seed)


def robot_prompt(tokenizer: VipaTokenizer, settings: PolicySettings, task: str, tokens_per_frame: int) -> list[int]:
    return prompt_ids(tokenizer, settings.question.format(task=task.strip(" .")), len(settings.views), tokens_per_frame)
