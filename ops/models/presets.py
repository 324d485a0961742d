"""The two architectures: `paper`, as published, and `tiny`, the same structure for two CPU cores."""

from ops.models.action_head import HeadConfig
from ops.models.cut3r import Cut3rConfig
from ops.models.cut3r_heads import DptConfig
from ops.models.fusion import FusionConfig
from ops.models.tokenizer import TokenizerConfig
from ops.models.vipa import STAGES, TextConfig, VipaConfig, VipaVLA, VisionConfig, skeleton


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
    """Every part of `paper`, small; a frame's features depend on that frame alone, so that they can be kept.

    Motion tokens tell their axis: a model trained for minutes does not learn to count places by threes.
    """
    return VipaConfig(
        vision=VisionConfig(image_size=168, patch=14, width=128, num_layers=4, num_heads=4, mlp_width=384, layer_scale=1.0),
        text=TextConfig(width=128, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, mlp_width=256, tied=True),
        spatial=Cut3rConfig(
            encoder_width=96, encoder_depth=3, encoder_heads=4, ray_depth=1, ray_heads=4, width=96, depth=2, heads=4,
            state_heads=6, state_size=16, memory_size=16, dpt=DptConfig((16, 24, 32, 48), 32, 32),
        ),
        fusion=FusionConfig(semantic_width=128, spatial_width=96, num_heads=4),
        head=HeadConfig(condition_width=128, width=128, num_layers=4, num_heads=4, output_width=128, dropout=0.0),
        tokenizer=TokenizerConfig(num_merges=2000, axis_vocab="per_axis"),
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


PARTS = {
    "vision encoder": "vlm.model.vision_tower",
    "projector": "vlm.model.multi_modal_projector",
    "token embeddings": "vlm.model.language_model.embed_tokens",
    "language model": "vlm.model.language_model",
    "output head": "vlm.lm_head",
    "spatial encoder": "spatial_encoder",
    "fusion": "fusion",
    "action queries": "action_queries",
    "action head": "head",
}
"""Part -> prefix of its parameters. A parameter belongs to the first part that fits."""


def describe(preset: str) -> list[dict[str, object]]:
    """Parts of an architecture: `part`, `parameters`, `trained_in`; built without weights. The last row is the sum.

    Tied output heads count once, with the embeddings. Raises ValueError for an unknown preset.
    """
    model = skeleton(by_name(preset))
    trained = {stage: set(model.trainable_names(stage)) for stage in STAGES if stage != "base"}
    rows = []
    for part, names in _names_by_part(model).items():
        sizes = sum(model.get_parameter(name).numel() for name in names)
        stages = [stage for stage, inside in trained.items() if names and set(names) <= inside]
        rows.append({"part": part, "parameters": sizes, "trained_in": ", ".join(stages)})
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == sum(int(row["parameters"]) for row in rows), "every parameter belongs to one part"
    return [*rows, {"part": "all", "parameters": total, "trained_in": ""}]


def count_parameters(preset: str) -> dict[str, int]:
    """Part -> number of parameters."""
    return {str(row["part"]): int(row["parameters"]) for row in describe(preset)}


def _names_by_part(model: VipaVLA) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {part: [] for part in PARTS}
    for name, _ in model.named_parameters():
        part = next(part for part, prefix in PARTS.items() if name == prefix or name.startswith(prefix + "."))
        names[part].append(name)
    return names
