"""The two architectures: `paper`, as published, and `tiny`, the same structure for two CPU cores."""

from ops.models.action_head import HeadConfig
from ops.models.cut3r import Cut3rConfig
from ops.models.cut3r_heads import DptConfig
from ops.models.fusion import FusionConfig
from ops.models.tokenizer import TokenizerConfig
from ops.models.vipa import TextConfig, VipaConfig, VisionConfig


def paper() -> VipaConfig:
    """InternVL3.5-2B, CUT3R 512 DPT, one fusion layer on 1,024 patch tokens, GR00T N1.5's head."""
    return VipaConfig(
        vision=VisionConfig(),
        text=TextConfig(),
        spatial=Cut3rConfig(),
        fusion=FusionConfig(semantic_width=1024, spatial_width=768),
        head=HeadConfig(condition_width=2048),
        tokenizer=TokenizerConfig(),
    )


def tiny() -> VipaConfig:
    """Every part of `paper`, small; a frame's features depend on that frame alone, so that they can be kept."""
    return VipaConfig(
        vision=VisionConfig(image_size=168, patch=14, width=128, num_layers=4, num_heads=4, mlp_width=384, layer_scale=1.0),
        text=TextConfig(width=128, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, mlp_width=384, tied=True),
        spatial=Cut3rConfig(
            encoder_width=96, encoder_depth=3, encoder_heads=4, ray_depth=1, ray_heads=4, width=96, depth=2, heads=4,
            state_heads=6, state_size=16, memory_size=16, dpt=DptConfig((16, 24, 32, 48), 32, 32),
        ),
        fusion=FusionConfig(semantic_width=128, spatial_width=96, num_heads=4),
        head=HeadConfig(condition_width=128, width=128, num_layers=4, num_heads=4, output_width=128, dropout=0.0),
        tokenizer=TokenizerConfig(num_merges=2000),
        spatial_size=128,
        state_per_frame=True,
        max_positions=2048,
    )  # fmt: skip


PRESETS = {"tiny": tiny, "paper": paper}


def by_name(name: str) -> VipaConfig:
    """Raises ValueError naming the presets there are."""
    if name not in PRESETS:
        raise ValueError(f"model.preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]()
