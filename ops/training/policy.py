"""A post-trained checkpoint as a policy: observation in, chunk of actions out (paper 3.4; ops.robots.policies.Policy)."""

import shutil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from ops.models.processor import prompt_batch
from ops.models.tokenizer import load as load_tokenizer
from ops.models.vipa import VipaVLA
from ops.robots.policies import Observation
from ops.training.robot_data import PolicySettings, robot_prompt


class VipaPolicy:
    """Loads a folder of stage 3: weights, policy.json (scaling, views) and tokenizer. Needs nothing beside it."""

    needs_images = True

    def __init__(self, folder: Path) -> None:
        self.model = VipaVLA.load(folder).eval()
        self.settings = PolicySettings.load(folder)
        config = self.model.config.tokenizer
        self.tokenizer = load_tokenizer(folder / "tokenizer", config.num_merges, config.axis_vocab)
        self.generator = torch.Generator().manual_seed(0)

    def reset(self, seed: int) -> None:
        """Begin an episode; its noise follows from the seed."""
        self.generator.manual_seed(seed)

    @torch.no_grad()
    def act(self, observation: Observation) -> Float[np.ndarray, "H 7"]:
        """A chunk of actions in the robot's own range; the gripper is a decision, -1 open or +1 close.

        Raises ValueError for an observation without a view the policy was trained with.
        """
        model, settings = self.model, self.settings
        missing = [view for view in settings.views if view not in observation.images]
        if missing:
            raise ValueError(f"the policy was trained with views {settings.views}, the observation lacks {missing}")
        images = torch.from_numpy(np.stack([observation.images[view] for view in settings.views])[None])
        prompt = robot_prompt(self.tokenizer, settings, observation.instruction, model.config.tokens_per_frame)
        tokens = prompt_batch([prompt], self.tokenizer.layout.pad).to(model.device)
        features = model.encode_frames(images, state_per_frame=True)
        h_cond = model.action_condition(features, tokens.input_ids, tokens.attention_mask)
        state = torch.from_numpy(settings.state.scale(observation.state[None])).to(model.device)
        sampled = model.head.sample(h_cond, state, self.generator, settings.num_flow_steps)[0]
        return robot_actions(settings.action.unscale(sampled.float().cpu().numpy()))


def robot_actions(actions: Float[np.ndarray, "H 7"]) -> Float[np.ndarray, "H 7"]:
    """Cut to the robot's [-1, 1]; gripper to its sign (ASSUMED: as OpenVLA; the flow gives values in between)."""
    out = np.clip(actions, -1, 1).astype(np.float32)
    out[:, -1] = np.where(actions[:, -1] > 0, 1, -1)
    return out


def keep_tokenizer(weights: Path, folder: Path) -> None:
    """Copy the tokenizer into a checkpoint, so that a registered policy can be run from its own folder."""
    (folder / "tokenizer").mkdir()
    for path in sorted((weights / "tokenizer").glob("*.json")):
        shutil.copyfile(path, folder / "tokenizer" / path.name)
