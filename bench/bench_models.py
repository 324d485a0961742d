"""Models: what caching and leaving out needless scores are worth, on the tiny architecture (one thread, CPU time)."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional

from ops.models import presets
from ops.models.action_head import FlowHead, HeadConfig
from ops.models.processor import IGNORE, TokenBatch, training_batch
from ops.models.vipa import FrameFeatures, VipaVLA, build

BATCH = 16
REPEATS = 5


def rows() -> list[dict[str, object]]:
    torch.set_num_threads(1)
    return [_head(16), _head(320), _logits(), _features()]


def _row(
    name: str, ours: Callable[[], object], peer: Callable[[], object], count: float, unit: str, note: str
) -> dict[str, object]:
    """Rates (higher is better) from alternating runs, so that both see the same machine."""
    ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for seconds, job in zip(times, (ours, peer), strict=True):
            start = time.process_time()
            job()
            seconds.append(time.process_time() - start)
    a, b = (count / statistics.median(seconds) for seconds in times)
    return {"name": name, "ours": a, "peer": b, "unit": unit, "ratio": a / b, "note": note}


def _head(num_queries: int) -> dict[str, object]:
    """The paper's head at a quarter of its width. 16 action queries are VIPA's; 320 tokens are what a head that looks at
    the whole prompt would see."""
    config = HeadConfig(condition_width=512, width=384, num_layers=16, num_heads=8, output_width=256)
    torch.manual_seed(0)
    head = FlowHead(config).eval()
    h_cond, state = torch.randn(1, num_queries, 512), torch.randn(1, 8)

    def sample(route: Callable[..., torch.Tensor]) -> torch.Tensor:
        return route(h_cond, state, torch.Generator().manual_seed(0), num_steps=4)

    difference = (sample(head.sample) - sample(head.sample_uncached)).abs().max().item()
    note = f"4 Euler steps, {num_queries} condition tokens, 16 layers x 384, batch 1; equal to {difference:.0e}"
    name = f"action chunk ({num_queries} queries), keys, values and AdaLN once a chunk vs in every step"
    return _row(name, lambda: sample(head.sample), lambda: sample(head.sample_uncached), 1, "chunks/s", note)


def _batch(model: VipaVLA) -> TokenBatch:
    layout = model.layout
    prompt = [layout.image] * model.config.tokens_per_frame + list(range(300, 345))
    return training_batch([prompt] * BATCH, [[*range(400, 414), layout.end_of_turn]] * BATCH, layout.pad)


def _step(model: VipaVLA, loss: torch.Tensor) -> None:
    loss.backward()
    model.zero_grad(set_to_none=True)


def _logits() -> dict[str, object]:
    """Vocabulary as large against the width as in the paper's model (152,704 / 2,048), which the tiny preset avoids."""
    config = presets.tiny()
    model = build(replace(config, tokenizer=replace(config.tokenizer, num_merges=8_000)), seed=0)
    model.set_stage("stage2")
    model.fusion.eval()  # no dropout: the two losses must be equal
    batch, features = _batch(model), _encode(model)

    def full() -> torch.Tensor:
        states = model.hidden(model.embed(features, batch.input_ids), batch.attention_mask)
        logits = model.vlm.lm_head(states)[:, :-1].flatten(0, 1)
        return functional.cross_entropy(logits, batch.labels[:, 1:].flatten(), ignore_index=IGNORE)

    def ours() -> torch.Tensor:
        return model(features, batch.input_ids, batch.attention_mask, batch.labels)[0]

    difference = abs(full().item() - ours().item())
    note = f"stage-2 forward + backward, batch {BATCH} x {batch.input_ids.shape[1]} tokens, 15 labels each; loss equal to {difference:.0e}"
    return _row(
        "training step, scores at labels vs everywhere",
        lambda: _step(model, ours()),
        lambda: _step(model, full()),
        BATCH,
        "samples/s",
        note,
    )


def _encode(model: VipaVLA) -> FrameFeatures:
    images = torch.randint(
        0, 256, (BATCH, 1, 168, 168, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return model.encode_frames(images)


def _features() -> dict[str, object]:
    model = build(presets.tiny(), seed=0)
    model.set_stage("stage1")
    batch, features = _batch(model), _encode(model)

    def step(features: FrameFeatures) -> None:
        _step(model, model(features, batch.input_ids, batch.attention_mask, batch.labels)[0])

    note = f"stage-1 forward + backward, batch {BATCH}, one frame a sample; both encoders are frozen, so features are the same"
    return _row(
        "training step, kept frame features vs encoding again",
        lambda: step(features),
        lambda: step(_encode(model)),
        BATCH,
        "samples/s",
        note,
    )
