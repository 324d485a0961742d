"""A training step from kept features against encoding the frames in every step, and three smaller savings."""

import statistics
import time
from collections.abc import Callable

import torch

from ops.models import presets, vipa
from ops.models.processor import IGNORE
from ops.training import parts

BATCH, FRAMES, QUESTION, ANSWER = 8, 2, 40, 25
REPEATS = 5


def rows() -> list[dict[str, object]]:
    model = vipa.build(presets.tiny(), 0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, FRAMES, 336, 448, 3), dtype=torch.uint8, generator=generator)
    ids, labels = _chat(model, generator)
    kept = model.encode_frames(images)
    kept = vipa.FrameFeatures(kept.semantic.half(), kept.spatial.half())
    model.set_stage("stage1")

    def step(features: vipa.FrameFeatures) -> None:
        model(features, ids, torch.ones_like(ids), labels)[0].backward()

    def from_kept() -> None:
        step(vipa.FrameFeatures(kept.semantic.float(), kept.spatial.float()))

    def from_frames() -> None:
        step(model.encode_frames(images))

    def all_logits() -> None:
        embeds = model.embed(vipa.FrameFeatures(kept.semantic.float(), kept.spatial.float()), ids)
        logits = model.vlm.lm_head(model.hidden(embeds, torch.ones_like(ids)))[:, :-1].float()
        torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORE).backward()

    ours, plain, every = (_samples_per_s(work) for work in (from_kept, from_frames, all_logits))
    return [
        _row("stage-1 step, features kept", ours, plain, "frames encoded in every step, no gradient through them"),
        _row("stage-1 step, scores at answers only", ours, every, "scores of the whole vocabulary at every token"),
        _noise(model),
        _parts(model),
    ]


def _chat(model: vipa.VipaVLA, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.full((BATCH, FRAMES * model.config.tokens_per_frame), model.layout.image)
    words = torch.randint(0, 256, (BATCH, QUESTION + ANSWER), generator=generator)
    ids = torch.cat((places, words), dim=1)
    labels = torch.full_like(ids, IGNORE)
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    return ids, labels


def _noise(model: vipa.VipaVLA) -> dict[str, object]:
    """Stage 3: four draws of noise share one pass of the language model, against one pass a draw."""
    config = model.config.head
    ids, _ = _chat(model, torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    generator = torch.Generator().manual_seed(2)
    state = torch.randn(BATCH, config.state_dim, generator=generator)
    actions = torch.randn(BATCH, config.horizon, config.action_dim, generator=generator)
    valid = torch.ones(BATCH, config.horizon, dtype=torch.bool)
    side = model.config.vision.image_size // model.config.vision.patch
    features = vipa.FrameFeatures(
        torch.randn(BATCH, FRAMES, side * side, model.config.vision.width, generator=generator),
        torch.randn(BATCH, FRAMES, 65, model.config.spatial.width, generator=generator),
    )
    model.set_stage("stage3")

    def shared() -> None:
        model.head.loss(model.action_condition(features, ids, mask), state, actions, valid, generator, 4).backward()

    def apart() -> None:
        for _ in range(4):
            model.head.loss(model.action_condition(features, ids, mask), state, actions, valid, generator, 1).backward()

    note = "one pass of the language model a draw of noise; counted in draws"
    return _row(
        "stage-3 step, four draws of noise a sample", 4 * _samples_per_s(shared), 4 * _samples_per_s(apart), note
    )


def _parts(model: vipa.VipaVLA) -> dict[str, object]:
    """Wall-clock time, the one number here that needs a quiet machine: two threads a step on both sides."""
    ids, labels = _chat(model, torch.Generator().manual_seed(3))
    side = model.config.vision.image_size // model.config.vision.patch
    features = vipa.FrameFeatures(
        torch.randn(BATCH, FRAMES, side * side, model.config.vision.width),
        torch.randn(BATCH, FRAMES, 65, model.config.spatial.width),
    )
    model.set_stage("stage1")
    objective = _Answers(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    halves = [
        (vipa.FrameFeatures(features.semantic[part], features.spatial[part]), ids[part], labels[part])
        for part in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH))
    ]
    torch.set_num_threads(2)
    peer = _samples_per_s(lambda: objective((features, ids, labels))[0].backward(), time.perf_counter)
    with parts.threads(2) as pool:
        ours = _samples_per_s(lambda: parts.backward(pool, objective, trained, halves, (0, 1)), time.perf_counter)
    torch.set_num_threads(1)
    return _row("stage-1 step, batch cut over two threads", ours, peer, "torch's own two threads; wall-clock time")


class _Answers(torch.nn.Module):
    def __init__(self, model: vipa.VipaVLA) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: tuple) -> tuple[torch.Tensor, int]:
        features, ids, labels = batch
        return self.model(features, ids, torch.ones_like(ids), labels)


def _samples_per_s(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Median of a few repeats, process CPU time."""
    work()
    times = []
    for _ in range(REPEATS):
        start = clock()
        work()
        times.append(clock() - start)
    return BATCH / statistics.median(times)


def _row(name: str, ours: float, peer: float, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "peer": peer, "unit": "samples/s", "ratio": ours / peer, "note": note}
