from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ops.models.action_head import FlowHead, HeadConfig, action_code, spread_times, time_code
from ops.models.presets import paper

SMALL = HeadConfig(
    condition_width=12,
    action_dim=3,
    state_dim=2,
    horizon=4,
    width=32,
    num_layers=4,
    num_heads=4,
    output_width=32,
    dropout=0.0,
)


def head(config: HeadConfig = SMALL, seed: int = 0) -> FlowHead:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FlowHead(config)


def data(seed: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Actions that depend on the condition (one of six tasks, with noise) and on the state."""
    fixed, generator = torch.Generator().manual_seed(123), torch.Generator().manual_seed(seed)
    tasks, chunks = torch.randn(6, 5, 12, generator=fixed), 0.6 * torch.randn(6, 4, 3, generator=fixed)
    task = torch.randint(0, 6, (num,), generator=generator)
    cond = tasks[task] + 0.1 * torch.randn(num, 5, 12, generator=generator)
    state = torch.randn(num, 2, generator=generator)
    return cond, state, chunks[task] + 0.3 * state[:, :1, None] * torch.arange(4)[None, :, None] / 4


def test_learns_a_conditional_action_distribution_in_four_steps() -> None:
    model, steps = head().train(), 200
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        cond, state, actions = data(step, 64)
        loss = model.loss(cond, state, actions, torch.ones(64, 4, dtype=torch.bool), generator, num_noise=2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    cond, state, actions = data(10_001, 256)
    sampled = model.eval().sample(cond, state, torch.Generator().manual_seed(2), num_steps=4)
    assert (sampled - actions).square().mean() < 0.05 * actions.var()


def test_cached_sampling_equals_the_plain_route() -> None:
    for layers in (1, 4, 5):
        model = head(replace(SMALL, num_layers=layers, dropout=0.3)).eval()
        cond, state, _ = data(3, 6)
        for steps in (1, 4, 7):
            cached = model.sample(cond, state, torch.Generator().manual_seed(5), num_steps=steps)
            plain = model.sample_uncached(cond, state, torch.Generator().manual_seed(5), num_steps=steps)
            assert (cached - plain).abs().max() < 1e-5


def test_flow_runs_from_noise_at_zero_to_the_action_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the true velocity a - eps, any number of Euler steps ends at the action, and the loss is 0."""
    model, (cond, state, actions) = head().eval(), data(4, 6)
    noise = torch.randn(actions.shape, generator=torch.Generator().manual_seed(6))
    monkeypatch.setattr(model, "velocity", lambda *_: actions - noise)
    for steps in (1, 4):
        assert torch.allclose(model.sample(cond, state, torch.Generator().manual_seed(6), steps), actions, atol=1e-6)
    seen = {}

    def oracle(noisy: Tensor, condition: object, modulation: object, row: None = None) -> Tensor:
        seen["noisy"] = noisy
        return actions - noise

    monkeypatch.setattr(model, "velocity", oracle)
    generator = torch.Generator().manual_seed(6)
    assert model.loss(cond, state, actions, torch.ones(6, 4), generator).item() == 0
    tau = ((seen["noisy"] - noise) / (actions - noise)).flatten(1)
    assert (tau - tau[:, :1]).abs().max() < 1e-3
    assert 0 <= tau.min() <= tau.max() <= 1


def test_masked_steps_do_not_count() -> None:
    model, (cond, state, actions) = head().eval(), data(5, 8)
    mask = torch.ones(8, 4, dtype=torch.bool)
    mask[:, 2:] = False
    full = model.loss(cond, state, actions, torch.ones(8, 4), torch.Generator().manual_seed(0))
    half = model.loss(cond, state, actions, mask, torch.Generator().manual_seed(0))
    assert not torch.isclose(full, half)
    dims = mask[..., None].expand(8, 4, 3)
    assert torch.equal(half, model.loss(cond, state, actions, dims, torch.Generator().manual_seed(0)))
    rest = model.loss(cond, state, actions, ~mask, torch.Generator().manual_seed(0))
    assert torch.isclose(full, (half + rest) / 2, rtol=1e-5)
    assert model.loss(cond, state, actions, torch.zeros(8, 4), torch.Generator().manual_seed(0)) == 0


def test_equal_seeds_give_equal_draws() -> None:
    model, (cond, state, actions) = head().eval(), data(6, 4)
    first, second, other = (
        model.loss(cond, state, actions, torch.ones(4, 4), torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(
        model.sample(cond, state, torch.Generator().manual_seed(1)),
        model.sample(cond, state, torch.Generator().manual_seed(1)),
    )


def test_everything_given_matters() -> None:
    model, (cond, state, _) = head().eval(), data(7, 2)
    base = model.sample(cond, state, torch.Generator().manual_seed(1))
    assert (model.sample(cond.flip(-1), state, torch.Generator().manual_seed(1)) - base).abs().max() > 1e-4
    assert (model.sample(cond, state + 1, torch.Generator().manual_seed(1)) - base).abs().max() > 1e-4
    shuffled = cond[:, torch.tensor([4, 2, 0, 1, 3])]
    same = model.sample(shuffled, state, torch.Generator().manual_seed(1))
    assert torch.allclose(same, base, atol=1e-5), "attention to the queries does not depend on their order"


def test_wrong_shapes_are_refused() -> None:
    model, (cond, state, actions) = head(), data(8, 2)
    with pytest.raises(ValueError, match=r"takes actions \(4, 3\)"):
        model.loss(cond, state, actions[:, :3], torch.ones(2, 3))


def test_time_codes_by_hand() -> None:
    code = time_code(torch.tensor([0, 500]))
    assert code[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert code[1, 127].item() == pytest.approx(0.998750, abs=1e-5)  # cos(500 * 1e-4)
    assert action_code(torch.tensor([2]), 8)[0, [0, 4]].tolist() == pytest.approx([0.909297, -0.416147], abs=1e-5)


def test_paper_size() -> None:
    with torch.device("meta"):
        model = FlowHead(paper().head)
    assert sum(p.numel() for p in model.blocks.parameters()) == 8 * (
        34_619_904 + 33_047_040
    )  # cross-attention, self-attention
    assert sum(p.numel() for p in model.parameters()) == 560_148_999


def test_flow_times_of_a_sample_are_spread_and_stay_uniform() -> None:
    times = spread_times(4000, 4, torch.Generator().manual_seed(8)).view(4000, 4)
    assert ((times * 4).long() == torch.arange(4)).all()
    flat = times.flatten().sort().values
    assert (flat - torch.linspace(0, 1, 16_000)).abs().max() < 0.01  # Kolmogorov-Smirnov distance from U(0, 1)
    assert torch.equal(
        spread_times(5, 1, torch.Generator().manual_seed(8)), torch.rand(5, generator=torch.Generator().manual_seed(8))
    )
