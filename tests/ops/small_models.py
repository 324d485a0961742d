"""Architectures small enough to run in milliseconds, and prompts made from the token layout alone."""

from dataclasses import replace

import torch
from torch import Tensor

from ops.models.action_head import HeadConfig
from ops.models.cut3r import Cut3rConfig
from ops.models.cut3r_heads import DptConfig
from ops.models.fusion import FusionConfig
from ops.models.tokenizer import TokenizerConfig, TokenLayout
from ops.models.vipa import TextConfig, VipaConfig, VisionConfig

CUT3R = Cut3rConfig(
    encoder_width=16, encoder_depth=1, encoder_heads=2, ray_depth=1, ray_heads=2, width=24, depth=2, heads=3,
    state_heads=2, state_size=7, memory_size=3, dpt=DptConfig((4, 4, 4, 4), 8, 8),
)  # fmt: skip

VIPA = VipaConfig(
    vision=VisionConfig(image_size=56, patch=14, width=16, num_layers=2, num_heads=2, mlp_width=32, layer_scale=1.0),
    text=TextConfig(width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48, tied=True),
    spatial=CUT3R,
    fusion=FusionConfig(semantic_width=16, spatial_width=24, num_heads=2),
    head=HeadConfig(condition_width=32, horizon=4, width=16, num_layers=2, num_heads=2, output_width=16, dropout=0.1),
    tokenizer=TokenizerConfig(num_merges=0),
    spatial_size=32,
    num_queries=3,
    max_positions=256,
)
LAYOUT = TokenLayout(VIPA.tokenizer)


def untied(config: VipaConfig) -> VipaConfig:
    return replace(config, text=replace(config.text, tied=False))


def images(seed: int, *lead: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*lead, 40, 60, 3), dtype=torch.uint8, generator=generator)


def prompt(text: str, num_frames: int = 1) -> list[int]:
    """Image tokens and bytes (ids below 256 are single bytes)."""
    return [LAYOUT.image] * (VIPA.tokens_per_frame * num_frames) + [byte % 256 for byte in text.encode()]
