"""The action head: a diffusion transformer that learns the flow from noise to an action chunk (paper 3.4).

Flow time tau: 0 = noise, 1 = action; a_tau = (1 - tau) eps + tau a; target velocity a - eps; tau ~ U(0, 1). The
sequence is one state token and H action tokens; even layers attend to h_cond, the language model's states at the
action queries, odd layers to the sequence itself. ASSUMED where the paper is silent: GR00T N1.5's block and sizes.
Letters: B batch, H steps of a chunk, A action numbers, P state numbers, Q queries, D width, K flow times.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ops.models.dropout import Dropout


@dataclass(frozen=True)
class HeadConfig:
    condition_width: int
    """Of the language model."""
    action_dim: int = 7
    state_dim: int = 8
    horizon: int = 16
    width: int = 1536
    num_layers: int = 16
    num_heads: int = 32
    output_width: int = 1024
    """Width of the transformer's output, of the state encoder's and of the decoder's hidden layer."""
    dropout: float = 0.2
    num_buckets: int = 1000
    """tau enters as floor(num_buckets * tau)."""


@dataclass(frozen=True)
class Conditioning:
    """All that does not depend on the noisy actions: computed once a chunk and used in every step of the flow."""

    state: Float[Tensor, "B 1 D"]
    keys_values: tuple[tuple[Tensor, Tensor] | None, ...]
    """Per layer, (B, heads, Q, D / heads) each; None for self-attention layers."""


@dataclass(frozen=True)
class Modulation:
    """What depends on the flow time alone: shift and scale of every layer and of the output, (K, 2 D) each."""

    layers: tuple[Tensor, ...]
    output: Tensor
    sinus: Tensor
    """(K, D): position code of the time bucket for the action encoder."""


class FlowBlock(nn.Module):
    """x += attention(AdaLN(x)); x += feed-forward(LN(x)). memory_width None: self-attention."""

    def __init__(self, width: int, num_heads: int, memory_width: int | None, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.cross = num_heads, memory_width is not None
        self.modulation = nn.Linear(width, 2 * width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width or width, width)
        self.value = nn.Linear(memory_width or width, width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.key(memory)), self._split(self.value(memory))

    def forward(
        self, x: Float[Tensor, "B N D"], scale_shift: Float[Tensor, "#B 2*D"], memory: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        scale, shift = scale_shift[:, None].chunk(2, dim=-1)
        y = _norm(x) * (1 + scale) + shift
        key, value = memory if memory is not None else self.keys_values(y)
        attended = functional.scaled_dot_product_attention(self._split(self.query(y)), key, value)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(self.dropout(functional.gelu(self.up(_norm(x)), approximate="tanh"))))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FlowHead(nn.Module):
    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        d, wide = config.width, config.output_width
        self.norm_condition = nn.LayerNorm(config.condition_width)
        self.time = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))
        self.action_in = nn.Linear(config.action_dim, d)
        self.action_time = nn.Sequential(nn.Linear(2 * d, d), nn.SiLU(), nn.Linear(d, d))
        self.positions = nn.Parameter(torch.randn(config.horizon, d) * 0.02)
        self.state_in = nn.Sequential(nn.Linear(config.state_dim, wide), nn.ReLU(), nn.Linear(wide, d))
        memory = [config.condition_width if i % 2 == 0 else None for i in range(config.num_layers)]
        self.blocks = nn.ModuleList(FlowBlock(d, config.num_heads, m, config.dropout) for m in memory)
        self.modulation_out = nn.Linear(d, 2 * d)
        self.project_out = nn.Linear(d, wide)
        self.action_out = nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, config.action_dim))

    def condition(self, h_cond: Float[Tensor, "B Q C"], state: Float[Tensor, "B P"]) -> Conditioning:
        memory = self.norm_condition(h_cond)
        return Conditioning(
            self.state_in(state)[:, None], tuple(b.keys_values(memory) if b.cross else None for b in self.blocks)
        )

    def modulate(self, tau: Float[Tensor, " K"]) -> Modulation:
        bucket = (tau * self.config.num_buckets).long().clamp(max=self.config.num_buckets - 1)
        time = functional.silu(self.time(time_code(bucket).to(self.positions.dtype)))
        sinus = action_code(bucket, self.config.width).to(self.positions.dtype)
        return Modulation(tuple(b.modulation(time) for b in self.blocks), self.modulation_out(time), sinus)

    def velocity(
        self, actions: Float[Tensor, "B H A"], condition: Conditioning, modulation: Modulation, row: int | None = None
    ) -> Float[Tensor, "B H A"]:
        """v(a_tau; h_cond, state, tau). row: which flow time of `modulation` holds for the whole batch; None: one a sample."""
        pick = slice(None) if row is None else slice(row, row + 1)
        sinus = modulation.sinus[pick, None].expand(len(actions), actions.shape[1], -1)
        tokens = self.action_time(torch.cat((self.action_in(actions), sinus), dim=-1)) + self.positions
        # ASSUMED: "concat(a, s)" is read along the channels as well as along the sequence. A sum of two linear maps is
        # one of the concatenation. Head alone on 20 demonstrations, 500 steps, held-out error: 0.34 without, 0.25 with.
        tokens = tokens + condition.state
        x = torch.cat((condition.state, tokens), dim=1)
        for block, memory, table in zip(self.blocks, condition.keys_values, modulation.layers, strict=True):
            x = block(x, table[pick], memory)
        shift, scale = modulation.output[pick, None].chunk(2, dim=-1)
        x = self.project_out(_norm(x, eps=1e-6) * (1 + scale) + shift)
        return self.action_out(x[:, 1:])

    def loss(
        self,
        h_cond: Float[Tensor, "B Q C"],
        state: Float[Tensor, "B P"],
        actions: Float[Tensor, "B H A"],
        mask: Tensor,
        generator: torch.Generator | None = None,
        num_noise: int = 1,
    ) -> Float[Tensor, ""]:
        """Mean squared velocity error over valid numbers.

        mask: (B, H) or (B, H, A), true where an action is real. num_noise: draws of (eps, tau) a sample, which share
        the language model's work. generator: source of both draws, on the CPU.
        """
        self._check(h_cond, state, actions)
        if mask.ndim == 2:
            mask = mask[..., None]
        h_cond, state, actions, mask = (x.repeat_interleave(num_noise, 0) for x in (h_cond, state, actions, mask))
        noise = torch.randn(actions.shape, generator=generator).to(actions)
        tau = spread_times(len(actions) // num_noise, num_noise, generator).to(
            actions.device
        )  # float32: picks a bucket
        t = tau.to(actions)[:, None, None]
        noisy = (1 - t) * noise + t * actions
        error = self.velocity(noisy, self.condition(h_cond, state), self.modulate(tau)) - (actions - noise)
        weight = mask.to(error).expand_as(error)
        return (error.square() * weight).sum() / weight.sum().clamp(min=1)

    @torch.no_grad()
    def sample(
        self,
        h_cond: Float[Tensor, "B Q C"],
        state: Float[Tensor, "B P"],
        generator: torch.Generator | None = None,
        num_steps: int = 4,
    ) -> Float[Tensor, "B H A"]:
        """Follow the flow from noise in `num_steps` Euler steps; conditioning and modulation are computed once."""
        noise = self._noise(h_cond, generator)
        condition = self.condition(h_cond, state)
        modulation = self.modulate(torch.arange(num_steps, device=h_cond.device) / num_steps)
        for step in range(num_steps):
            noise = noise + self.velocity(noise, condition, modulation, step) / num_steps
        return noise

    @torch.no_grad()
    def sample_uncached(
        self, h_cond: Tensor, state: Tensor, generator: torch.Generator | None = None, num_steps: int = 4
    ) -> Float[Tensor, "B H A"]:
        """The same by the plain route, everything computed again in every step: what `sample` is measured against."""
        actions = self._noise(h_cond, generator)
        for step in range(num_steps):
            tau = torch.full((len(h_cond),), step / num_steps, device=h_cond.device)
            actions = actions + self.velocity(actions, self.condition(h_cond, state), self.modulate(tau)) / num_steps
        return actions

    def _noise(self, h_cond: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randn(len(h_cond), self.config.horizon, self.config.action_dim, generator=generator).to(h_cond)

    def _check(self, h_cond: Tensor, state: Tensor, actions: Tensor) -> None:
        c = self.config
        given = tuple(actions.shape[1:]), state.shape[-1], h_cond.shape[-1]
        if given != ((c.horizon, c.action_dim), c.state_dim, c.condition_width):
            raise ValueError(
                f"actions {given[0]}, state {given[1]}, condition {given[2]}: this head takes actions "
                f"({c.horizon}, {c.action_dim}), state {c.state_dim}, condition {c.condition_width}"
            )


def spread_times(
    num_samples: int, num_noise: int, generator: torch.Generator | None = None
) -> Float[Tensor, " num_samples*num_noise"]:
    """Flow times U(0, 1), sample by sample; a sample's draws lie one in each of num_noise equal parts of [0, 1].

    So every sample shows the state's share of the work, which is at small times, in every step of training.
    """
    part = torch.arange(num_noise)
    return ((part + torch.rand(num_samples, num_noise, generator=generator)) / num_noise).flatten()


def time_code(bucket: Int[Tensor, " K"]) -> Float[Tensor, "K 256"]:
    """[cos | sin] of bucket * 10000^(-j / 127), j = 0..127."""
    angle = bucket[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(128, device=bucket.device) / 127)
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def action_code(bucket: Int[Tensor, " K"], width: int) -> Float[Tensor, "K D"]:
    """[sin | cos] of bucket * 10000^(-j / (D / 2))."""
    half = width // 2
    angle = bucket[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(half, device=bucket.device) / half)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def _norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=eps)
