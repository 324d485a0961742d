"""The paper's starting point: InternVL3.5-2B and CUT3R as their authors publish them, into one VipaVLA.

`internvl_dir` is a download of OpenGVLab/InternVL3_5-2B-HF (transformers' layout, not the custom-code one);
`cut3r_path` is cut3r_512_dpt_4_64.pth. Both are brought by the user: CUT3R's weights are CC BY-NC-SA 4.0.
The vocabulary is cut to the published tokens and grown by the motion tokens, whose rows begin at the mean of the
others. ASSUMED: this initialisation, transformers' default.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import InternVLConfig, InternVLForConditionalGeneration

from ops.models import cut3r, presets
from ops.models.action_head import FlowHead
from ops.models.fusion import CrossAttentionFusion
from ops.models.tokenizer import TokenLayout
from ops.models.vipa import TextConfig, VipaConfig, VipaVLA, VisionConfig, internvl_config, skeleton


def load(
    internvl_dir: Path,
    cut3r_path: Path,
    like: VipaConfig | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 42,
) -> VipaVLA:
    """Both checkpoints, with a fresh fusion layer, action queries and action head.

    like: what no checkpoint tells (CUT3R's sizes, fusion, head, tokenizer); default `presets.paper()`. The
    vision-language sizes are read from the folder. CUT3R stays in float32; the rest takes `dtype`.
    Raises ValueError saying what is missing or does not fit.
    """
    vlm = _read_internvl(internvl_dir, dtype)
    config = _with_sizes_of(vlm, like or presets.paper())
    layout = TokenLayout(config.tokenizer)
    if vlm.config.image_token_id != layout.image:
        raise ValueError(
            f"{internvl_dir}: <IMG_CONTEXT> is {vlm.config.image_token_id}, expected {layout.image}: another tokenizer"
        )
    _check_rebuilt(vlm.config, internvl_config(config, layout), internvl_dir)
    model = skeleton(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _grow_vocabulary(vlm, layout)
        model.fusion = CrossAttentionFusion(config.fusion).to(dtype)
        model.head = FlowHead(config.head).to(dtype)
        model.action_queries = nn.Parameter((torch.randn(config.num_queries, config.text.width) * 0.02).to(dtype))
    model.vlm = vlm
    model.spatial_encoder = cut3r.load(cut3r_path, config.spatial)
    return model.eval()


def _read_internvl(folder: Path, dtype: torch.dtype) -> InternVLForConditionalGeneration:
    path = folder / "config.json"
    kind = json.loads(path.read_text(encoding="utf-8")).get("model_type") if path.is_file() else None
    if kind != "internvl":
        found = f"a model of type {kind!r}" if kind else "no config.json"
        raise ValueError(f"{folder} holds {found}: download OpenGVLab/InternVL3_5-2B-HF (the -HF folder) there")
    vlm, info = InternVLForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, local_files_only=True, output_loading_info=True
    )
    wrong = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])) + sorted(info["unexpected_keys"])
    if wrong:
        raise ValueError(f"{folder}: {len(wrong)} weights are missing, misshapen or unknown, first {wrong[:4]}")
    return vlm


def _with_sizes_of(vlm: InternVLForConditionalGeneration, like: VipaConfig) -> VipaConfig:
    """`like`, with the sizes of the vision-language model given."""
    hf: InternVLConfig = vlm.config
    v, t = hf.vision_config, hf.text_config
    tied = vlm.lm_head.weight is vlm.get_input_embeddings().weight
    vision = VisionConfig(
        v.image_size[0], v.patch_size[0], v.hidden_size, v.num_hidden_layers, v.num_attention_heads, v.intermediate_size
    )
    text = TextConfig(
        t.hidden_size,
        t.num_hidden_layers,
        t.num_attention_heads,
        t.num_key_value_heads,
        t.head_dim,
        t.intermediate_size,
        tied,
    )
    fused = v.hidden_size if like.fusion.place == "before_shuffle" else t.hidden_size
    return replace(
        like,
        vision=vision,
        text=text,
        fusion=replace(like.fusion, semantic_width=fused, spatial_width=like.spatial.width),
        head=replace(like.head, condition_width=t.hidden_size),
        max_positions=t.max_position_embeddings,
    )


# What decides the arithmetic and is not in VipaConfig: it must be what internvl_config writes, or a saved checkpoint
# would come back as another model.
FIXED = {
    "vision_config": ("hidden_act", "norm_type", "layer_norm_eps", "use_qk_norm", "attention_bias", "use_mean_pooling",
                      "use_absolute_position_embeddings", "num_channels"),
    "text_config": ("model_type", "hidden_act", "rms_norm_eps", "rope_parameters", "attention_bias", "use_sliding_window"),
    "": ("downsample_ratio", "projector_hidden_act", "vision_feature_layer", "vision_feature_select_strategy"),
}  # fmt: skip


def _check_rebuilt(given: InternVLConfig, ours: InternVLConfig, folder: Path) -> None:
    for section, names in FIXED.items():
        for name in names:
            a, b = (getattr(getattr(c, section) if section else c, name) for c in (given, ours))
            if a != b:
                raise ValueError(
                    f"{folder}: {section} {name} is {a}, InternVL3.5-2B has {b}: not the model this code rebuilds"
                )


def _grow_vocabulary(vlm: InternVLForConditionalGeneration, layout: TokenLayout) -> None:
    """Drop the untrained spare rows behind the published tokens, then add ours, all alike."""
    published = layout.motion_open
    if vlm.config.text_config.vocab_size < published:
        raise ValueError(
            f"the checkpoint knows {vlm.config.text_config.vocab_size} tokens, the tokenizer {published}: they do not belong together"
        )
    vlm.resize_token_embeddings(published)
    vlm.resize_token_embeddings(layout.vocab_size, mean_resizing=True)
    for config in (vlm.config, vlm.config.text_config, vlm.generation_config):
        config.pad_token_id, config.eos_token_id = layout.pad, layout.end_of_turn
