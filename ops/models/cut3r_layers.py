"""Transformer blocks of CUT3R: pre-norm attention with two-dimensional rotary positions.

Letters: B batch, N tokens, M memory tokens, D width. Positions are (row, column) and may be -1 (the pose token), so
the rotation is computed from signed numbers, never looked up in a table. Architecture as published (CUT3R, 2025);
every LayerNorm has epsilon 1e-6 and every linear layer a bias. Attribute names are those of the public checkpoint.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-6
ROPE_BASE = 100.0

Rope = tuple[Tensor, Tensor]
"""cos and sin, each (B, 1, N, D/2 or D): see `rope_table`."""


def grid_positions(rows: int, columns: int, device: torch.device) -> Int[Tensor, "N 2"]:
    """(row, column) of every patch, row by row."""
    index = torch.arange(rows * columns, device=device)
    return torch.stack((index // columns, index % columns), dim=-1)


def rope_table(positions: Int[Tensor, "B N 2"], head_dim: int) -> Rope:
    """cos and sin (B, 1, N, head_dim): the first half of a head turns with the row, the second with the column."""
    half = head_dim // 2
    if half % 2:
        raise ValueError(f"head width {head_dim} must be divisible by 4: rows and columns each need pairs of channels")
    frequency = ROPE_BASE ** (-torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half)
    angle = positions[..., None].float() * frequency  # (B, N, 2, half / 2)
    angle = torch.cat((angle, angle), dim=-1).flatten(2)[:, None]
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "B H N D"], rope: Rope | None) -> Float[Tensor, "B H N D"]:
    """Turn queries or keys to their positions."""
    if rope is None:
        return x
    cos, sin = rope
    a, b, c, d = x.chunk(4, dim=-1)
    turned = torch.cat((-b, a, -d, c), dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


def _split(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        q, k, v = (_split(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        out = functional.scaled_dot_product_attention(rotate(q, rope), rotate(k, rope), v)
        return self.proj(out.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, rope: Rope | None, rope_memory: Rope | None) -> Tensor:
        q, k, v = (
            _split(f(t), self.num_heads) for f, t in ((self.projq, x), (self.projk, memory), (self.projv, memory))
        )
        out = functional.scaled_dot_product_attention(rotate(q, rope), rotate(k, rope_memory), v)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out or width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention, then attention to the other stream, then an MLP."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, num_heads)
        self.cross_attn = CrossAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.norm3 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, 4 * width)
        self.norm_y = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor, memory: Tensor, rope: Rope | None = None, rope_memory: Rope | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), rope)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(memory), rope, rope_memory)
        return x + self.mlp(self.norm3(x))


class ModulatedNorm(nn.Module):
    """LayerNorm whose shift and scale (in this order) come from a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Float[Tensor, "B N D"], vector: Float[Tensor, "B D"]) -> Float[Tensor, "B N D"]:
        shift, scale = self.mlp(vector)[:, None].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class ModulatedBlock(nn.Module):
    """Self-attention block steered by the pose token: turns camera-frame tokens into world-frame ones."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = ModulatedNorm(width)
        self.attn = Attention(width, num_heads)
        self.norm2 = ModulatedNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, pose: Tensor, rope: Rope) -> Tensor:
        x = x + self.attn(self.norm1(x, pose), rope)
        return x + self.mlp(self.norm2(x, pose))


class PoseRetriever(nn.Module):
    """A memory of (image, pose) pairs: asks for a frame's pose token, and stores the decoded one.

    A pair is one token of twice the decoder's width: image key first, pose second. No positions.
    """

    def __init__(self, size: int, key_width: int, width: int, num_heads: int, depth: int = 2) -> None:
        super().__init__()
        self.width = width
        self.proj_q = nn.Linear(key_width, width)
        self.masked_token = nn.Parameter(torch.randn(1, 1, width) * 0.2)
        self.mem = nn.Parameter(torch.randn(1, size, 2 * width) * 0.2)
        self.write_blocks = nn.ModuleList(DecoderBlock(2 * width, num_heads) for _ in range(depth))
        self.read_blocks = nn.ModuleList(DecoderBlock(2 * width, num_heads) for _ in range(depth))

    def read(self, image: Float[Tensor, "B 1 K"], memory: Float[Tensor, "B M E"]) -> Float[Tensor, "B 1 D"]:
        key = self.proj_q(image)
        x = torch.cat((key, self.masked_token.expand_as(key)), dim=-1)
        for block in self.read_blocks:
            x = block(x, memory)
        return x[..., -self.width :]

    def write(self, memory: Tensor, image: Tensor, pose: Float[Tensor, "B 1 D"]) -> Tensor:
        pair = torch.cat((self.proj_q(image), pose), dim=-1)
        for block in self.write_blocks:
            memory = block(memory, pair)
        return memory
