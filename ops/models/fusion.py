"""Fusion of semantic and spatial tokens: one cross-attention layer (paper 3.1).

V_f = V_sem + alpha F_spa: queries are a frame's semantic tokens, keys and values the same frame's spatial tokens.
alpha is learned and begins at 0.5. Letters: N frames, V semantic tokens, S spatial tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ops.models.dropout import Dropout


@dataclass(frozen=True)
class FusionConfig:
    semantic_width: int
    spatial_width: int
    num_heads: int = 16
    dropout: float = 0.1
    """ASSUMED: 0.1, as VLM-3R; the paper gives none."""
    norm: str = "branch"
    """Where "finally, dropout and layer normalisation" stand. "branch": on F_spa, so that the frozen language model
    keeps seeing V_sem's statistics (ASSUMED, as VLM-3R). "post": on V_f, the sentence read literally."""
    alpha: float = 0.5
    """Initial value."""
    place: str = "before_shuffle"
    """"before_shuffle": on the vision encoder's patch tokens (ASSUMED). "after_projector": on the projected ones."""


class CrossAttentionFusion(nn.Module):
    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        if config.norm not in ("branch", "post") or config.place not in ("before_shuffle", "after_projector"):
            raise ValueError(
                f"fusion norm {config.norm!r}, place {config.place!r}: allowed are branch, post; before_shuffle, after_projector"
            )
        width = config.semantic_width
        self.post = config.norm == "post"
        self.norm_semantic = nn.LayerNorm(width)
        self.norm_spatial = nn.LayerNorm(config.spatial_width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(config.spatial_width, width)
        self.value = nn.Linear(config.spatial_width, width)
        self.attention = nn.MultiheadAttention(width, config.num_heads, batch_first=True)
        self.out = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.alpha = nn.Parameter(torch.tensor(config.alpha))

    def branch(self, semantic: Float[Tensor, "N V D"], spatial: Float[Tensor, "N S E"]) -> Float[Tensor, "N V D"]:
        """F_spa before norm and dropout."""
        memory = self.norm_spatial(spatial)
        query = self.query(self.norm_semantic(semantic))
        return self.out(self.attention(query, self.key(memory), self.value(memory), need_weights=False)[0])

    def forward(self, semantic: Float[Tensor, "N V D"], spatial: Float[Tensor, "N S E"]) -> Float[Tensor, "N V D"]:
        branch = self.branch(semantic, spatial)
        if self.post:
            return self.norm_out(self.dropout(semantic + self.alpha * branch))
        return semantic + self.alpha * self.dropout(self.norm_out(branch))
