"""VIPA-VLA: InternVL3.5 with CUT3R's spatial tokens fused in, motion tokens, and a flow-matching action head.

images -> (vision encoder, CUT3R) -> fusion -> pixel shuffle -> projector -> language model -> text or motion tokens,
or, at learned action queries behind the prompt, the condition of the action head (paper 3.1, 3.3, 3.4).
Letters: B batch, F frames of a sample, V semantic tokens, S spatial tokens, N visual tokens of a frame, D width of
the language model, T sequence length, Q action queries.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LogitsProcessor,
    Qwen3Config,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from ops import config as settings
from ops.models.action_head import FlowHead, HeadConfig
from ops.models.cut3r import Cut3r, Cut3rConfig
from ops.models.fusion import CrossAttentionFusion, FusionConfig
from ops.models.processor import IGNORE, semantic_pixels, spatial_pixels
from ops.models.tokenizer import TokenizerConfig, TokenLayout

LANGUAGE_MODEL = "vlm.model.language_model"
STAGES: dict[str, tuple[str, ...]] = {
    "base": ("vlm",),  # stands in for InternVL's own pretraining, where its weights are not given
    "stage1": ("fusion",),
    "stage2": ("fusion", LANGUAGE_MODEL, "vlm.lm_head"),
    # without lm_head: the flow loss does not reach it
    "stage3": (LANGUAGE_MODEL, "head", "action_queries"),
}
"""Trained parts of each stage (paper 4.1). Encoders and projector are frozen throughout; the motion-token embeddings
are rows of the language model's. The method's text trains the language model alone in stage 2, the details train the
fusion too: the details are followed."""


@dataclass(frozen=True)
class VisionConfig:
    """InternViT; the defaults are InternViT-300M's."""

    image_size: int = 448
    patch: int = 14
    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    mlp_width: int = 4096
    layer_scale: float = 0.1
    """Initial value of the residual branches' gains."""


@dataclass(frozen=True)
class TextConfig:
    """Qwen3; the defaults are Qwen3-1.7B's inside InternVL3.5-2B."""

    width: int = 2048
    num_layers: int = 28
    num_heads: int = 16
    num_kv_heads: int = 8
    head_dim: int = 128
    mlp_width: int = 6144
    tied: bool = False
    """Output head = token embedding."""


@dataclass(frozen=True)
class VipaConfig:
    vision: VisionConfig
    text: TextConfig
    spatial: Cut3rConfig
    fusion: FusionConfig
    head: HeadConfig
    tokenizer: TokenizerConfig
    spatial_size: int = 448
    """Side of CUT3R's input, pixels."""
    state_per_frame: bool = False
    """Start CUT3R's state afresh at every frame, so that a frame's features depend on that frame alone."""
    num_queries: int = 16
    """Action queries. ASSUMED: 16, as Being-H0.5."""
    max_positions: int = 40_960

    @property
    def tokens_per_frame(self) -> int:
        return (self.vision.image_size // self.vision.patch // 2) ** 2


@dataclass(frozen=True)
class FrameFeatures:
    """What the two frozen encoders say about frames; may be kept on disk and reused."""

    semantic: Float[Tensor, "B F V Dv"]
    spatial: Float[Tensor, "B F S Ds"]

    def to(self, device: torch.device | str) -> "FrameFeatures":
        return FrameFeatures(self.semantic.to(device), self.spatial.to(device))


class VipaVLA(nn.Module):
    def __init__(self, config: VipaConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = TokenLayout(config.tokenizer)
        self.vlm = InternVLForConditionalGeneration(internvl_config(config, self.layout))
        self.spatial_encoder = Cut3r(config.spatial)
        self.fusion = CrossAttentionFusion(config.fusion)
        self.action_queries = nn.Parameter(torch.randn(config.num_queries, config.text.width) * 0.02)
        self.head = FlowHead(config.head)
        embeddings = self.vlm.model.vision_tower.embeddings
        for parameter in (embeddings.position_embeddings, embeddings.cls_token):
            nn.init.normal_(parameter, std=0.02)  # transformers leaves them at 0, where patches would have no place

    @property
    def device(self) -> torch.device:
        return self.action_queries.device

    # stages

    def trainable_names(self, stage: str, *, train_fusion: bool = False) -> tuple[str, ...]:
        """Parameters a stage trains. train_fusion: also the fusion in stage 3, which the paper leaves open.

        Raises ValueError naming the stages there are.
        """
        if stage not in STAGES:
            raise ValueError(f"no training stage {stage!r}: there are {', '.join(STAGES)}")
        parts = (*STAGES[stage], *(["fusion"] if train_fusion else []))
        return tuple(name for name, _ in self.named_parameters() if any(_inside(name, part) for part in parts))

    def set_stage(self, stage: str, *, train_fusion: bool = False) -> None:
        """Freeze and thaw; dropout works in trained parts only."""
        trained = set(self.trainable_names(stage, train_fusion=train_fusion))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)
        self.eval()
        for part in (*STAGES[stage], *(["fusion"] if train_fusion else [])):
            if part != "action_queries":
                self.get_submodule(part).train()

    # frames

    def semantic_features(self, images: UInt8[Tensor, "M h w 3"]) -> tuple[Tensor, Tensor]:
        """Patch tokens (M, V, Dv) of the vision encoder, without its class token, and the pixels it saw."""
        pixels = semantic_pixels(images.to(self.device), self.config.vision.image_size)
        tokens = self.vlm.model.vision_tower(pixel_values=pixels.to(self.action_queries.dtype)).last_hidden_state
        return tokens[:, 1:], pixels

    def spatial_features(
        self, pixels: Float[Tensor, "B F 3 a a"], *, state_per_frame: bool
    ) -> Float[Tensor, "B F S Ds"]:
        x = spatial_pixels(pixels.flatten(0, 1), self.config.spatial_size).to(self.spatial_encoder.pose_token.dtype)
        x = x.unflatten(0, pixels.shape[:2])
        if state_per_frame:
            return (
                self.spatial_encoder.spatial_tokens(x.flatten(0, 1)[:, None]).squeeze(1).unflatten(0, pixels.shape[:2])
            )
        return self.spatial_encoder.spatial_tokens(x)

    @torch.no_grad()
    def encode_frames(
        self, images: UInt8[Tensor, "B F h w 3"], *, state_per_frame: bool | None = None
    ) -> FrameFeatures:
        """Both frozen encoders; `frame_features` without gradients."""
        return self.frame_features(images, state_per_frame=state_per_frame)

    def frame_features(
        self, images: UInt8[Tensor, "B F h w 3"], *, state_per_frame: bool | None = None
    ) -> FrameFeatures:
        """Both encoders. Frames of a sample in temporal order; the state starts afresh for every sample.

        state_per_frame: overrides the configuration; True for simultaneous views of a robot, which are no sequence.
        """
        batch, frames = images.shape[:2]
        alone = self.config.state_per_frame if state_per_frame is None else state_per_frame
        tokens, pixels = self.semantic_features(images.flatten(0, 1))
        return FrameFeatures(
            tokens.unflatten(0, (batch, frames)),
            self.spatial_features(pixels.unflatten(0, (batch, frames)), state_per_frame=alone),
        )

    def visual_tokens(self, features: FrameFeatures, *, fuse: bool = True) -> Float[Tensor, "B F N D"]:
        """Fusion, pixel shuffle and projector. fuse=False: the plain vision-language model's tokens."""
        batch = features.semantic.shape[:2]
        semantic, spatial = (
            x.flatten(0, 1).to(self.action_queries.dtype) for x in (features.semantic, features.spatial)
        )
        before = self.config.fusion.place == "before_shuffle"
        if fuse and before:
            semantic = self.fusion(semantic, spatial)
        side = self.config.vision.image_size // self.config.vision.patch
        folded = self.vlm.model.pixel_shuffle(semantic.unflatten(1, (side, side)), scale_factor=0.5).flatten(1, 2)
        tokens = self.vlm.model.multi_modal_projector(folded)
        if fuse and not before:
            tokens = self.fusion(tokens, spatial)
        return tokens.unflatten(0, batch)

    # language

    def embed(
        self, features: FrameFeatures | None, input_ids: Int[Tensor, "B T"], *, fuse: bool = True
    ) -> Float[Tensor, "B T D"]:
        """Token embeddings with the visual tokens in the place of <IMG_CONTEXT>.

        Raises ValueError where a row has not exactly as many places as its frames have tokens.
        """
        num_visual = 0 if features is None else features.semantic.shape[1] * self.config.tokens_per_frame
        places = (input_ids == self.layout.image).sum(dim=1)
        if bool((places != num_visual).any()):
            raise ValueError(
                f"each row needs {num_visual} <IMG_CONTEXT> tokens, got {places.tolist()}: pass the same frames to prompt_ids"
            )
        if features is None:
            return self.vlm.get_input_embeddings()(input_ids)
        return self.place(self.visual_tokens(features, fuse=fuse), input_ids)

    def place(self, visual: Float[Tensor, "*all D"], input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Token embeddings, visual tokens in the place of <IMG_CONTEXT>; there are exactly as many of both."""
        embeds = self.vlm.get_input_embeddings()(input_ids)
        return embeds.masked_scatter((input_ids == self.layout.image)[..., None], visual.to(embeds.dtype))

    def hidden(self, embeds: Float[Tensor, "B T D"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Last hidden states (after the final norm). Positions count real tokens, so padding may stand on either side."""
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        out = self.vlm.model.language_model(
            inputs_embeds=embeds, attention_mask=attention_mask, position_ids=positions, use_cache=False
        )
        return out.last_hidden_state

    def forward(
        self,
        features: FrameFeatures | None,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        labels: Int[Tensor, "B T"],
        *,
        fuse: bool = True,
    ) -> tuple[Float[Tensor, ""], int]:
        """Next-token loss, mean over label tokens, and their number. labels stand at their own token, -100 elsewhere."""
        return self.answer_loss(self.embed(features, input_ids, fuse=fuse), attention_mask, labels)

    def answer_loss(
        self, embeds: Float[Tensor, "B T D"], attention_mask: Int[Tensor, "B T"], labels: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, ""], int]:
        """`forward` from embeddings on.

        Scores are computed at label places only: the vocabulary's layer is most of a small model's work.
        """
        states = self.hidden(embeds, attention_mask)[:, :-1]
        targets = labels[:, 1:]
        asked = targets != IGNORE
        logits = self.vlm.lm_head(states[asked])
        return functional.cross_entropy(logits.float(), targets[asked]), int(asked.sum())

    @torch.no_grad()
    def generate(
        self,
        features: FrameFeatures | None,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
        logits_processor: LogitsProcessor | None = None,
        *,
        fuse: bool = True,
    ) -> Int[Tensor, "B G"]:
        """Greedy answers, new tokens only, ended by the end of turn and padded behind it. Prompts padded on the left."""
        embeds = self.embed(features, input_ids, fuse=fuse)
        return self.go_on(embeds, attention_mask, max_new_tokens, logits_processor)

    @torch.no_grad()
    def go_on(
        self,
        embeds: Float[Tensor, "B T D"],
        attention_mask: Int[Tensor, "B T"],
        max_new_tokens: int,
        logits_processor: LogitsProcessor | None = None,
    ) -> Int[Tensor, "B G"]:
        """`generate` from embeddings on."""
        if bool((attention_mask[:, -1] == 0).any()):
            raise ValueError("generate needs prompts padded on the left: use processor.prompt_batch")
        return self.vlm.generate(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_processor=[logits_processor] if logits_processor else None,
            eos_token_id=self.layout.end_of_turn,
            pad_token_id=self.layout.pad,
        )

    def action_condition(
        self, features: FrameFeatures | None, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B Q D"]:
        """h_cond: last hidden states at the action queries, which stand behind the prompt (padding on either side)."""
        batch = len(input_ids)
        queries = self.action_queries.expand(batch, -1, -1)
        embeds = torch.cat((self.embed(features, input_ids), queries), dim=1)
        mask = torch.cat((attention_mask, attention_mask.new_ones(batch, queries.shape[1])), dim=1)
        return self.hidden(embeds, mask)[:, -queries.shape[1] :]

    # disk

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors (tied weights once)."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items() if not self._is_tied(name)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "VipaVLA":
        """Read what `save` wrote, bit for bit, in evaluation mode.

        Raises ValueError naming the file or the weights that are missing or too many.
        """
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} holds no {name}: it is not a checkpoint of this model")
        model = skeleton(read_config(folder))
        found = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False, assign=True)
        missing = [name for name in found.missing_keys if not model._is_tied(name)]
        if missing or found.unexpected_keys:
            raise ValueError(
                f"{folder}: missing {missing[:4]}, unexpected {found.unexpected_keys[:4]}: made by another architecture"
            )
        model.vlm.tie_weights()
        return model

    @classmethod
    def from_public_weights(cls, internvl_dir: Path, cut3r_path: Path, seed: int = 42) -> "VipaVLA":
        """The paper's starting point; see ops.models.public_weights."""
        from ops.models import public_weights  # it needs this class

        return public_weights.load(internvl_dir, cut3r_path, seed=seed)

    def _is_tied(self, name: str) -> bool:
        return self.config.text.tied and name == "vlm.lm_head.weight"


def internvl_config(config: VipaConfig, layout: TokenLayout) -> InternVLConfig:
    """transformers' configuration of the vision-language part."""
    v, t = config.vision, config.text
    vision = InternVLVisionConfig(
        hidden_size=v.width, num_hidden_layers=v.num_layers, num_attention_heads=v.num_heads, attention_bias=True,
        intermediate_size=v.mlp_width, image_size=v.image_size, patch_size=v.patch, layer_scale_init_value=v.layer_scale,
    )  # fmt: skip
    text = Qwen3Config(
        vocab_size=layout.vocab_size, hidden_size=t.width, intermediate_size=t.mlp_width, num_hidden_layers=t.num_layers,
        num_attention_heads=t.num_heads, num_key_value_heads=t.num_kv_heads, head_dim=t.head_dim,
        max_position_embeddings=config.max_positions, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=t.tied, pad_token_id=layout.pad, eos_token_id=layout.end_of_turn,
    )  # fmt: skip
    return InternVLConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_id=layout.image,
        image_seq_length=config.tokens_per_frame, tie_word_embeddings=t.tied,
    )  # fmt: skip


def _inside(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def build(config: VipaConfig, seed: int) -> VipaVLA:
    """A freshly initialised model; equal seeds give equal weights, and global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VipaVLA(config).eval()


def skeleton(config: VipaConfig) -> VipaVLA:
    """The model on the meta device, but for the rotary frequencies, which no file holds."""
    with torch.device("meta"):
        model = VipaVLA(config)
    language_model = model.vlm.model.language_model
    language_model.rotary_emb = Qwen3RotaryEmbedding(config=language_model.config)
    return model.eval()


def read_config(folder: Path) -> VipaConfig:
    return settings.build(VipaConfig, json.loads((folder / "config.json").read_text(encoding="utf-8")), "config.json")
