"""Starting values of the motion tokens' embeddings: neighbouring bins begin near each other.

Paper 3.3 adds the 1,024 tokens to the vocabulary and says nothing on their start. ASSUMED: sinusoids of the bin, with
wavelengths from two scales down to 32 bins (3 cm), so that likeness falls steadily with the distance. Unrelated
rows would have to learn the order of 1,024 tokens from their use; with these, copying a waypoint, continuing a line
and being nearly right is one and the same act for all bins.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ops.models.tokenizer import AXES, NUM_BINS
from ops.models.vipa import VipaVLA

LONGEST, SHORTEST = 2 * NUM_BINS, 32  # wavelengths, bins; the longest does not come round within the range
# ASSUMED: nats between the best bin and an unrelated one at the start. A few nats (the 0.02 of other new rows) cannot
# tell 1,024 bins apart, and the first steps of training would overwrite such small rows.
START_NATS = 20.0


def features(num_bins: int, width: int, num_waves: int, axis: int, seed: int) -> Float[Tensor, "num_bins width"]:
    """Rows of equal length, float32, of two halves: sinusoids of the bin, whose inner product depends on the distance
    alone, and a direction common to all bins of an axis, by which attention finds them.

    The sinusoids are the same for all axes, so that what copies one copies all. A seeded rotation spreads everything
    over the width. Raises ValueError for a width under 2 num_waves + 3.
    """
    if width < 2 * num_waves + len(AXES):
        raise ValueError(f"{num_waves} waves of motion tokens and {len(AXES)} axes do not fit into a width of {width}")
    wavelengths = np.geomspace(LONGEST, SHORTEST, num_waves)
    energies = wavelengths**0.25 / (wavelengths**0.25).sum()  # more in the long ones: no likeness between far bins
    angles = 2 * np.pi * np.arange(num_bins)[:, None] / wavelengths
    waves = np.concatenate((np.sin(angles), np.cos(angles)), axis=1) * np.sqrt(np.tile(energies, 2))
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    return torch.from_numpy((waves @ rotation[: 2 * num_waves] + rotation[-1 - axis]) / np.sqrt(2)).float()


@torch.no_grad()
def start(model: VipaVLA, seed: int) -> None:
    """Overwrite the motion tokens' rows of the embedding and of the output head.

    Output rows are long enough for START_NATS behind the final norm; input rows of an untied model are as long as a
    text piece's.
    """
    embedding, head = model.vlm.get_input_embeddings().weight, model.vlm.lm_head.weight
    state_norm = model.vlm.model.language_model.norm.weight.float().norm()
    num_waves = model.config.text.head_dim // 2  # what one attention head can carry from a waypoint to the next
    for axis in range(model.layout.num_sets):
        first, last = model.layout.motion_range(axis)
        rows = features(NUM_BINS, embedding.shape[1], num_waves, axis, seed).to(embedding.device)
        embedding[first:last] = rows * embedding[: model.layout.num_pieces].float().norm(dim=1).mean()
        head[first:last] = rows * (2 * START_NATS / state_norm)  # last, since a tied model has but these
