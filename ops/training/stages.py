"""Stages stage1_checkpoint, stage2_checkpoint and posttrained_policies (paper 3.2.3, 3.3, 3.4, 4.1).

1 trains the fusion on Hand3D-visual; 2 the fusion and the language model on Hand3D-action; 3 the language model and
the action head on robot demonstrations. Which parameters that is, is `VipaVLA.trainable_names`; both encoders are
frozen throughout, so all three learn from kept features.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch

from ops import tables, tracking
from ops.config import TrainConfig
from ops.hand3d import sampling
from ops.models import motion_embedding
from ops.models.vipa import VipaVLA
from ops.pipeline import StageContext
from ops.rejects import Reject
from ops.sources.manifest import read_clips
from ops.store import Report, write_rejects
from ops.training import data, loop
from ops.training.base import tokenizer_of, write_training
from ops.training.data import AnswerObjective, Example
from ops.training.features import FeatureStore

NUM_VALIDATION = 64
SHIFTED_COPIES, SHIFT_BINS = 6, 60  # of rows that continue a motion; 60 bins are 6 cm


def run_stage1(context: StageContext) -> Report:
    """Fusion alone, on question-answer rows."""
    model = VipaVLA.load(context.input("base_model"))
    tokenizer = tokenizer_of(model, context.root)
    visual, clips = context.input("hand3d_visual"), tables.read("clips", context.input("raw_videos"))
    held_out = pl.concat([tables.read("visual_rows", path) for path in sorted(visual.glob("*/held_out_rows.parquet"))])
    train, test = (
        data.visual_examples(rows, tokenizer, model.config.tokens_per_frame)
        for rows in (sampling.visual_rows(visual, clips, context.config.hand3d_visual), held_out)
    )
    return _pretrain(context, model, "stage1", context.config.stage1, train, test)


def run_stage2(context: StageContext) -> Report:
    """Fusion and language model, on motion rows."""
    model = VipaVLA.load(context.input("stage1_checkpoint"))
    motion_embedding.start(model, context.config.stage2.seed)  # no stage before has used the motion tokens
    tokenizer = tokenizer_of(model, context.root)
    rows = sampling.action_rows(context.input("hand3d_action"), context.config.hand3d_action)
    seen = data.shifted(rows.filter(split="train"), SHIFTED_COPIES, SHIFT_BINS, context.config.stage2.seed)
    train, test = (
        data.action_examples(part, tokenizer, model.config.tokens_per_frame)
        for part in (seen, rows.filter(split="test"))
    )
    return _pretrain(context, model, "stage2", context.config.stage2, train, test)


def _pretrain(
    context: StageContext,
    model: VipaVLA,
    stage: str,
    config: TrainConfig,
    train: Sequence[Example],
    test: Sequence[Example],
) -> Report:
    """Train one of the two human-video stages and write its checkpoint."""
    start = time.monotonic()
    pad = model.layout.pad
    test = test[:: max(1, len(test) // NUM_VALIDATION)][:NUM_VALIDATION]
    store, rejects = open_store(context, model, [*train, *test])
    train, test = ([e for e in part if e.window in store] for part in (train, test))
    model.set_stage(stage)
    objective = AnswerObjective(model)
    inputs = {name: context.input(name) for name in context.stage.reads}
    task = loop.Task(
        objective,
        lambda items, _: data.training_groups([train[i] for i in items], store, pad),
        len(train),
        _version(inputs),
    )
    before = _held_out("before", objective, test, store, pad)
    encoded_s = time.monotonic() - start
    with tracking.start_run(context.root, context.stage.name, context.config, inputs) as run:
        curve = loop.train(task, config, context.scratch, stage, context.progress, run)
        model.eval()
        report = Report(rows={"training rows": len(train), "held-out rows measured": len(test)})
        report.metrics = _numbers(curve, config) | {
            **before,
            **_held_out("after", objective, test, store, pad),
            "seconds/features": encoded_s,
            "seconds/all": time.monotonic() - start,
            "fusion_alpha": model.fusion.alpha.item(),
        }
        _finish(context, model, stage, curve, inputs, run, report)
    write_rejects(context.out, rejects, report)
    return report


def open_store(context: StageContext, model: VipaVLA, examples: Sequence[Example]) -> tuple[FeatureStore, list[Reject]]:
    """Features of all frames the examples show; clips that cannot be read any more are rejected."""
    raw_videos = context.input("raw_videos")
    store = FeatureStore(model, context.root, tables.read("clips", raw_videos))
    clips = read_clips(raw_videos, context.root)
    return store, store.fill((e.window for e in examples), clips, context.progress)


@torch.no_grad()
def mean_loss(
    objective: AnswerObjective, examples: Sequence[Example], store: FeatureStore, pad: int, size: int = 32
) -> float:
    """Loss over all label tokens of some examples, at least one, without dropout."""
    training = objective.training
    objective.eval()
    parts = [objective(data.training_groups(examples[i : i + size], store, pad)) for i in range(0, len(examples), size)]
    objective.train(training)
    return sum(float(loss) * count for loss, count in parts) / sum(count for _, count in parts)


def _held_out(
    when: str, objective: AnswerObjective, examples: Sequence[Example], store: FeatureStore, pad: int
) -> dict[str, float]:
    """Nothing where no clip is held out."""
    return {f"held_out/loss_{when}": mean_loss(objective, examples, store, pad)} if examples else {}


def run_stage3(context: StageContext) -> Report:
    """Language model and action head, on robot demonstrations."""
    from ops.bootstrap import weights_dir
    from ops.lerobot import reader as lerobot
    from ops.training import policy
    from ops.training.robot_data import ChunkSource, FlowObjective, settings_of

    start = time.monotonic()
    config = context.config.stage3
    model = VipaVLA.load(context.input("stage2_checkpoint"))
    demonstrations = lerobot.read(context.input("robot_demonstrations") / "lerobot")
    settings = settings_of(demonstrations)
    source = ChunkSource(model, tokenizer_of(model, context.root), demonstrations, settings)
    inputs = {name: context.input(name) for name in context.stage.reads}
    source.fill(context.root, tracking.folder_version(inputs["robot_demonstrations"]), context.progress)
    encoded_s = time.monotonic() - start
    model.set_stage("stage3")
    task = loop.Task(FlowObjective(model), source.batch, len(source), _version(inputs))
    with tracking.start_run(context.root, context.stage.name, context.config, inputs) as run:
        curve = loop.train(task, config, context.scratch, "stage3", context.progress, run)
        model.eval()
        settings.save(context.out)
        policy.keep_tokenizer(weights_dir(context.root), context.out)
        report = Report(rows={"steps": len(source), "episodes": len(set(demonstrations.episode_index.tolist()))})
        report.metrics = _numbers(curve, config) | {
            "seconds/features": encoded_s,
            "seconds/all": time.monotonic() - start,
            **action_error(model, source),
        }
        _finish(context, model, "stage3", curve, inputs, run, report)
    report.notes.append("Trained on scripted demonstrations in simulation, views: " + ", ".join(settings.views) + ".")
    return report


@torch.no_grad()
def action_error(model: VipaVLA, source, num: int = 64) -> dict[str, float]:
    """On training steps: root mean square error of sampled chunks in scaled units, beside the mean action's."""
    items = list(range(0, len(source), max(1, len(source) // num)))[:num]
    batch = source.batch(items, 0)
    tokens = batch.tokens.to(model.device)
    h_cond = model.action_condition(batch.features.to(model.device), tokens.input_ids, tokens.attention_mask)
    found = model.head.sample(h_cond, batch.state.to(model.device), torch.Generator().manual_seed(0)).cpu()
    mean = torch.from_numpy(source.actions.mean(axis=0))
    errors = [(guess - batch.actions)[batch.mask].square().mean().sqrt() for guess in (found, mean)]
    return {"train/action_rmse_scaled": float(errors[0]), "train/action_rmse_of_mean_action_scaled": float(errors[1])}


def _version(inputs: dict[str, Path]) -> str:
    return " ".join(tracking.folder_version(folder) for folder in inputs.values())


def _numbers(curve: list[loop.Step], config: TrainConfig) -> dict[str, float]:
    """What the end of a curve says."""
    if not curve:
        return {"steps": 0.0}
    rates = sorted(record.samples_per_s for record in curve)
    return {
        "steps": float(len(curve)),
        "train/loss_first": curve[0].loss,
        "train/loss_last": loop.smoothed(record.loss for record in curve)[-1],
        "samples_per_s": rates[len(rates) // 2],
        "lr": config.lr,
    }


def _finish(
    context: StageContext, model: VipaVLA, stage: str, curve, inputs, run: tracking.Run, report: Report
) -> None:
    """Weights, curves and what was trained, on disk and in the tracking run."""
    model.save(context.out)
    write_training(context.out, {stage: curve}, run.run_id, inputs)
    trained, total = (sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (False, True))
    report.metrics |= {"trained_parameters": float(trained), "parameters": float(total)}
    report.notes.append(f"{stage}: {trained:,} of {total:,} parameters trained, {len(curve)} steps.")
    loop.draw_curves({stage: curve}, context.out / "curves.png")
    report.pictures = {"training": "curves.png"}
    run.metrics(report.metrics)
    run.file(context.out / "curves.png")
