"""CUT3R: frames in, metric points, pose and spatial tokens out, through a state that remembers earlier frames.

An own implementation of the published network (Wang et al., "Continuous 3D Perception Model with Persistent State",
2025), written so that the public checkpoint loads strictly: two decoders of equal depth run side by side, one over
image tokens and a pose token, one over the state's tokens, each attending to the other's previous level.
Images are (B, 3, h, w) in [-1, 1], h and w multiples of the patch. VIPA-VLA uses the last decoder layer's tokens.
The public weights are CC BY-NC-SA 4.0 and are brought by the user.
"""

import logging
import math
import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ops.models.cut3r_heads import DownstreamHead, DptConfig, View
from ops.models.cut3r_layers import EPS, DecoderBlock, EncoderBlock, PoseRetriever, grid_positions, rope_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut3rConfig:
    """Sizes; the defaults are those of cut3r_512_dpt_4_64.pth (793,307,858 parameters)."""

    patch: int = 16
    encoder_width: int = 1024
    encoder_depth: int = 24
    encoder_heads: int = 16
    ray_depth: int = 2
    ray_heads: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    """Of the image decoder."""
    state_heads: int = 16
    """Of the state decoder: NOT the image decoder's number; a wrong one loads without complaint."""
    state_size: int = 768
    memory_size: int = 256
    dpt: DptConfig = field(default_factory=DptConfig)


@dataclass(frozen=True)
class State:
    """What is carried from frame to frame. memory: (image, pose) pairs; first: no frame was seen yet."""

    tokens: Float[Tensor, "B S D"]
    memory: Float[Tensor, "B M E"]
    first: bool


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Cut3r(nn.Module):
    """See the module. The ray-map branch and the masked tokens exist for the checkpoint's sake and are not used."""

    def __init__(self, config: Cut3rConfig) -> None:
        super().__init__()
        self.config = config
        wide, width = config.encoder_width, config.width
        self.patch_embed = PatchEmbed(3, wide, config.patch)
        self.patch_embed_ray_map = PatchEmbed(6, wide, config.patch)
        self.enc_blocks = nn.ModuleList(EncoderBlock(wide, config.encoder_heads) for _ in range(config.encoder_depth))
        self.enc_norm = nn.LayerNorm(wide, eps=EPS)
        self.enc_blocks_ray_map = nn.ModuleList(EncoderBlock(wide, config.ray_heads) for _ in range(config.ray_depth))
        self.enc_norm_ray_map = nn.LayerNorm(wide, eps=EPS)
        self.masked_img_token = nn.Parameter(torch.randn(1, wide) * 0.02)
        self.masked_ray_map_token = nn.Parameter(torch.randn(1, wide) * 0.02)
        self.register_tokens = nn.Embedding(config.state_size, wide)
        self.pose_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pose_retriever = PoseRetriever(config.memory_size, wide, width, config.heads)
        self.decoder_embed = nn.Linear(wide, width)
        self.decoder_embed_state = nn.Linear(wide, width)
        self.dec_blocks = nn.ModuleList(DecoderBlock(width, config.heads) for _ in range(config.depth))
        self.dec_blocks_state = nn.ModuleList(DecoderBlock(width, config.state_heads) for _ in range(config.depth))
        self.dec_norm = nn.LayerNorm(width, eps=EPS)
        self.dec_norm_state = nn.LayerNorm(width, eps=EPS)
        self.downstream_head = DownstreamHead(wide, width, config.heads, config.dpt)

    def initial_state(self, batch: int) -> State:
        tokens = self.decoder_embed_state(self.register_tokens.weight)
        return State(tokens.expand(batch, -1, -1), self.pose_retriever.mem.expand(batch, -1, -1), first=True)

    def encode(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B N E"]:
        """Tokens of single images; independent of the state, so all frames can go at once."""
        rows, columns = self.grid(images)
        rope = rope_table(self._positions(rows, columns), self.config.encoder_width // self.config.encoder_heads)
        x = self.patch_embed(images)
        for block in self.enc_blocks:
            x = block(x, rope)
        return self.enc_norm(x)

    def step(self, tokens: Tensor, state: State, grid: tuple[int, int]) -> tuple[list[Float[Tensor, "B _ D"]], State]:
        """One frame: every decoder level's image tokens (pose token first; level 0 = the encoder's, without it) and
        the next state."""
        summary = tokens.mean(dim=1, keepdim=True)
        pose = self.pose_retriever.read(summary, state.memory)
        if state.first:
            pose = self.pose_token.expand_as(pose)
        ropes = self._decoder_ropes(grid)
        image, memory = torch.cat((pose, self.decoder_embed(tokens)), dim=1), state.tokens
        levels = [tokens]
        for block, block_state in zip(self.dec_blocks, self.dec_blocks_state, strict=True):
            image, memory = (
                block(image, memory, ropes["image"], ropes["state_for_image"]),
                block_state(memory, image, ropes["state"], ropes["image_for_state"]),
            )
            levels.append(image)
        levels[-1] = self.dec_norm(image)
        pairs = self.pose_retriever.write(state.memory, summary, levels[-1][:, :1])
        return levels, State(self.dec_norm_state(memory), pairs, first=False)

    def views(self, images: Float[Tensor, "B F 3 h w"]) -> Iterable[View]:
        """Points, confidences, colour and pose, frame after frame; the state starts afresh."""
        grid = self.grid(images)
        state = self.initial_state(len(images))
        rope = rope_table(self._positions(*grid), self.config.width // self.config.heads)
        depth = self.config.depth
        for frame in images.unbind(1):
            levels, state = self.step(self.encode(frame), state, grid)
            hooks = [levels[0], levels[depth * 2 // 4][:, 1:], levels[depth * 3 // 4][:, 1:], levels[depth][:, 1:]]
            yield self.downstream_head(hooks, levels[depth][:, 0], rope, grid)

    def forward(self, images: Float[Tensor, "B F 3 h w"]) -> list[View]:
        return list(self.views(images))

    def spatial_tokens(self, images: Float[Tensor, "B F 3 h w"]) -> Float[Tensor, "B F S D"]:
        """The last decoder layer's tokens, camera token first: S = 1 + number of patches."""
        grid = self.grid(images)
        batch, frames = images.shape[:2]
        encoded = self.encode(images.flatten(0, 1)).unflatten(0, (batch, frames))
        state, tokens = self.initial_state(batch), []
        for frame in range(frames):
            levels, state = self.step(encoded[:, frame], state, grid)
            tokens.append(levels[-1])
        return torch.stack(tokens, dim=1)

    def grid(self, images: Tensor) -> tuple[int, int]:
        height, width = images.shape[-2:]
        patch = self.config.patch
        if height % patch or width % patch:
            raise ValueError(
                f"image of {height} x {width} pixels: both sides must be multiples of {patch}; resize first"
            )
        return height // patch, width // patch

    def _positions(self, rows: int, columns: int) -> Tensor:
        return grid_positions(rows, columns, self.pose_token.device)[None]

    def _decoder_ropes(self, grid: tuple[int, int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Rotations of both streams for both head widths; a stream's keys turn with the width of whoever reads them."""
        image = nn.functional.pad(self._positions(*grid), (0, 0, 1, 0), value=-1)  # the pose token stands at (-1, -1)
        state = state_positions(self.config.state_size, image.device)[None]
        by_image, by_state = self.config.width // self.config.heads, self.config.width // self.config.state_heads
        return {
            "image": rope_table(image, by_image),
            "state_for_image": rope_table(state, by_image),
            "state": rope_table(state, by_state),
            "image_for_state": rope_table(image, by_state),
        }


def state_positions(size: int, device: torch.device) -> Tensor:
    """State tokens stand on a grid about as wide as high; the width is made even."""
    columns = math.isqrt(size)
    columns += columns % 2
    return grid_positions(-(-size // columns), columns, device)[:size]


def load(path: Path, config: Cut3rConfig) -> Cut3r:
    """Read a public checkpoint ({"args", "model"}) strictly; nothing stored in it is executed.

    Raises ValueError naming missing or misshapen weights, or a number of heads that contradicts the checkpoint's own
    description. Weights the model does not know are logged and left out.
    """
    content = _read(path)
    _check_heads(content, config, path)
    with torch.device("meta"):
        model = Cut3r(config)
    state, extra = public_state_dict(content.get("model", content), model)
    if extra:
        log.warning("%s: %d weights are not CUT3R's and were left out: %s", path.name, len(extra), ", ".join(extra[:8]))
    known = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [name for name, shape in known.items() if name not in state or state[name].shape != shape]
    if wrong:
        advice = "is this cut3r_512_dpt_4_64.pth, and the configuration its own?"
        raise ValueError(f"{path}: {len(wrong)} weights are missing or have another shape, first {wrong[:4]}: {advice}")
    model.load_state_dict(state, strict=True, assign=True)
    return model


def public_state_dict(weights: dict[str, Tensor], model: Cut3r) -> tuple[dict[str, Tensor], list[str]]:
    """Strip `module.`, drop the 12 aliases (`scratch.layer1_rn` is `scratch.layer_rn.0`), split off unknown keys."""
    clean = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    clean = {name: tensor for name, tensor in clean.items() if not _is_alias(name)}
    known = model.state_dict().keys()
    return {k: v for k, v in clean.items() if k in known}, sorted(set(clean) - known)


def _is_alias(name: str) -> bool:
    return any(f".scratch.layer{level}_rn." in name for level in (1, 2, 3, 4))


class _Inert:
    """Takes the place of every class a checkpoint's `args` name (argparse, omegaconf, ...), so that none is run."""

    def __init__(self, *args: object) -> None:
        self.items = list(args)

    def __setitem__(self, key: object, value: object) -> None:
        self.items += [key, value]

    def append(self, value: object) -> None:
        self.items.append(value)


def _read(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"no CUT3R checkpoint at {path}")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_Inert, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a torch checkpoint, or a damaged one: {str(error)[:200]}") from error


def _check_heads(content: dict, config: Cut3rConfig, path: Path) -> None:
    """A wrong number of heads does not show in the weights; the constructor string kept in `args` may tell it."""
    text = " ".join(_strings(content.get("args")))
    ours = {
        "state_dec_num_heads": config.state_heads,
        "dec_num_heads": config.heads,
        "enc_num_heads": config.encoder_heads,
    }
    for name, value in ours.items():
        given = re.search(rf"\b{name}\s*=\s*(\d+)", text)
        if given and int(given[1]) != value:
            raise ValueError(f"{path} has {name}={given[1]}, the configuration {value}: correct Cut3rConfig")


def _strings(value: object) -> list[str]:
    """Every string inside unpickled `args`, which may refer to itself."""
    found, seen, todo = [], set(), [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            found.append(item)
        elif id(item) not in seen and not isinstance(item, Tensor):
            seen.add(id(item))
            inside = item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
            todo += [*inside, *getattr(item, "__dict__", {}).values()]
    return found
