"""Stage base_model: what stands where the paper starts from InternVL3.5 and CUT3R.

With ``model.weights`` the public weights are read and nothing is trained. Without, tiny stand-ins of the same classes
are trained here, on the training clips of the synthetic source alone (docs/decisions/0003): the 3D encoder on CUT3R's
objective (point map and confidence), the vision-language model on talk about the picture plane, and its language model
on saying what its visual tokens say and on going on with what was said.
"""

import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from ops import tables, tracking
from ops.hand3d import parsing
from ops.models import presets, vipa
from ops.models.processor import (
    IGNORE,
    MAX_WORDS,
    TokenBatch,
    prompt_batch,
    prompt_ids,
    semantic_pixels,
    spatial_pixels,
)
from ops.models.tokenizer import VipaTokenizer
from ops.models.tokenizer import load as load_tokenizer
from ops.models.vipa import FrameFeatures, VipaVLA
from ops.pipeline import StageContext
from ops.rejects import ClipError, Reject
from ops.sources.manifest import read_clips
from ops.store import Report, write_rejects
from ops.training import base_data, loop
from ops.training.base_data import LabelledFrame

SYNTHETIC = "synthetic"
EVERY_S = 0.2
CONFIDENCE_WEIGHT = 0.2  # of -log(confidence); CUT3R's and DUSt3R's alpha
POINT_STEPS, TALK_STEPS, COPY_STEPS = 0.2, 0.2, 1.0  # as shares of base_model.num_steps, which is that of reading
WITH_MUON = ("naming", "reading")
NAMING_BATCH, NAMING_PLACES = 2, 12  # batches of naming, as multiples; visual tokens of its pages
PERIODS, COPY_LENGTH = (3, 6, 12), 36  # tokens until a sequence to copy comes again, and of all its copies together
READ_WEIGHT = 2.0  # of reading's loss in the lesson of copying
MAX_PLACE = 32  # tokens of an answer that says where something is
DRAWS = 8  # answers drawn for every question
INK = (0.4, 1.0)  # strength of a page's words, so that faint ones are read as well
MIXED_SHARE = 0.6  # of pages with all subjects at every place
IMAGE_ONLY_NOTE = "Base model: tiny stand-in trained here on the synthetic training clips; not InternVL3.5, not CUT3R."


def run(context: StageContext) -> Report:
    """Write a checkpoint (model.safetensors, config.json, training.json) and what the base model knows."""
    if context.config.model.weights is not None:
        return _public(context)
    config = context.config.base_model
    model = vipa.build(presets.by_name(context.config.model.preset), config.seed)
    tokenizer = tokenizer_of(model, context.root)
    train, test, rejects = _frames(context, model)
    rows = tables.read("visual_rows", context.input("hand3d_visual")).filter(pl.col("source") == SYNTHETIC)
    inputs = {name: context.input(name) for name in context.stage.reads}
    with tracking.start_run(context.root, context.stage.name, context.config, inputs) as run:
        curves = _train(context, model, tokenizer, train, rows, run)
        found = measure(model, tokenizer, test, rows, config.seed)
        run.metrics(found)
        model.save(context.out)
        write_training(context.out, curves, run.run_id, inputs)
        report = Report(rows={"training frames": len(train), "held-out frames": len(test)}, metrics=found)
        loop.draw_curves(curves, context.out / "curves.png")
        draw_points(model, test, context.out / "points.png")
        report.pictures = {"training": "curves.png", "held-out frames, true and predicted depth": "points.png"}
        for path in report.pictures.values():
            run.file(context.out / path)
    report.notes = [
        IMAGE_ONLY_NOTE,
        "The language model saw Hand3D's questions with answers drawn at random: grammar, no facts; of a plain picture it says no displacement.",
    ]
    write_rejects(context.out, rejects, report)
    return report


def _public(context: StageContext) -> Report:
    folder = context.root / str(context.config.model.weights)
    model = VipaVLA.from_public_weights(folder / "internvl", folder / "cut3r.pth", context.config.base_model.seed)
    model.save(context.out)
    (context.out / "training.json").write_text(json.dumps({"weights": str(folder), "curves": {}}), encoding="utf-8")
    notes = [f"Public weights from {folder}; nothing was trained here.", "CUT3R's weights are CC BY-NC-SA 4.0."]
    return Report(metrics={"parameters": float(sum(p.numel() for p in model.parameters()))}, notes=notes)


def tokenizer_of(model: VipaVLA, root: Path) -> VipaTokenizer:
    """The tokenizer that fits a model's vocabulary."""
    from ops.bootstrap import weights_dir

    config = model.config.tokenizer
    return load_tokenizer(weights_dir(root) / "tokenizer", config.num_merges, config.axis_vocab)


def write_training(out: Path, curves: dict[str, list[loop.Step]], run_id: str, inputs: dict[str, Path]) -> None:
    """training.json: what was trained on what, for whoever holds the checkpoint alone."""
    content = {
        "mlflow_run_id": run_id,
        "data_versions": {name: tracking.folder_version(folder) for name, folder in inputs.items()},
        "steps": {name: len(curve) for name, curve in curves.items()},
        "losses": {name: [round(record.loss, 5) for record in curve] for name, curve in curves.items()},
    }
    (out / "training.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _frames(context: StageContext, model: VipaVLA) -> tuple[list[LabelledFrame], list[LabelledFrame], list[Reject]]:
    """Labelled frames of both splits, and clips that could not be read.

    Raises ValueError where no synthetic training clip exists: there is nothing else with depth, boxes and hands.
    """
    frames: dict[str, list[LabelledFrame]] = {"train": [], "test": []}
    rejects = []
    sizes = model.config.vision.image_size, model.config.spatial_size
    clips = [clip for clip in read_clips(context.input("raw_videos"), context.root) if clip.kind == SYNTHETIC]
    for clip in context.progress(clips, unit="clip"):
        try:
            frames[clip.split] += base_data.labelled_frames(clip, *sizes, EVERY_S)
        except ClipError as error:
            rejects.append(error.reject(clip.clip_id))
    if not frames["train"] or not frames["test"]:
        raise ValueError(
            f"base_model needs training and held-out clips of kind {SYNTHETIC!r}, found "
            f"{len(frames['train'])} and {len(frames['test'])} frames: add a synthetic shard, or set model.weights"
        )
    return frames["train"], frames["test"], rejects


def _train(context, model, tokenizer, frames, rows, run) -> dict[str, list[loop.Step]]:
    config = context.config.base_model
    version = tracking.folder_version(context.input("raw_videos"))
    with_points = [frame for frame in frames if frame.points_cam is not None]
    pictured = [frame for frame in frames if frame.places]
    curves = {}

    def lesson(name: str, task: loop.Task, share: float, batch: int = 1) -> None:
        set_base_part(model, name)
        settings = replace(config, num_steps=round(config.num_steps * share), batch_size=config.batch_size * batch)
        if name not in WITH_MUON:
            settings = replace(settings, muon_lr=None)
        curves[name] = loop.train(task, settings, context.scratch, name.replace(" ", "_"), context.progress, run)

    lesson("point maps", point_task(model, with_points, version), POINT_STEPS)
    lesson("picture talk", talk_task(model, tokenizer, pictured, version), TALK_STEPS)
    pages = Pages(model, tokenizer, frames, rows, config.seed)
    reading = reading_task(pages, version)
    lesson("naming", naming_task(pages, version), 1.0, NAMING_BATCH)
    lesson("reading", reading, 1.0)
    lesson("copying", copy_task(model, reading), COPY_STEPS)
    start_fusion(model, frames)
    model.eval()
    return curves


def set_base_part(model: VipaVLA, part: str) -> None:
    """Train the 3D encoder alone, the vision-language model alone, or the language model alone."""
    model.set_stage("base")
    if part in ("copying", "naming", "reading"):
        model.requires_grad_(False)
        model.vlm.model.language_model.requires_grad_(True)
    if part == "point maps":
        model.requires_grad_(False)
        used = (model.spatial_encoder.patch_embed, model.spatial_encoder.enc_blocks, model.spatial_encoder.enc_norm,
                model.spatial_encoder.decoder_embed, model.spatial_encoder.decoder_embed_state, model.spatial_encoder.register_tokens,
                model.spatial_encoder.dec_blocks, model.spatial_encoder.dec_norm, model.spatial_encoder.downstream_head.dpt_self)  # fmt: skip
        for module in used:
            module.requires_grad_(True)
        model.spatial_encoder.pose_token.requires_grad_(True)


# CUT3R's objective


class PointObjective(nn.Module):
    """Confidence-weighted point regression of single frames (DUSt3R eq. 4), metric, on `pts3d_in_self_view`."""

    def __init__(self, model: VipaVLA) -> None:
        super().__init__()
        self.encoder, self.size = model.spatial_encoder, model.config.spatial_size

    def forward(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        images, points = batch
        predicted, confidence = predict_points(self.encoder, images)
        valid = points.isfinite().all(dim=-1)
        error = (predicted[valid] - points[valid]).norm(dim=-1)
        sure = confidence[valid]
        return (sure * error - CONFIDENCE_WEIGHT * sure.log()).mean(), int(valid.sum())


def predict_points(encoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Points (B, h, w, 3) in the camera frame and confidences (B, h, w) of single frames; the self-view head alone."""
    from ops.models.cut3r_heads import points_and_confidence

    grid = encoder.grid(images)
    levels, _ = encoder.step(encoder.encode(images), encoder.initial_state(len(images)), grid)
    depth = encoder.config.depth
    hooks = [levels[0], *(levels[depth * share // 4][:, 1:] for share in (2, 3, 4))]
    return points_and_confidence(encoder.downstream_head.dpt_self(hooks, grid))


def point_task(model: VipaVLA, frames: Sequence[LabelledFrame], version: str) -> loop.Task:
    images = torch.stack([encoder_image(model, frame) for frame in frames])
    points = torch.from_numpy(np.stack([frame.points_cam for frame in frames]))

    def batch(items: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        chosen, found = images[items].float() / 127.5 - 1, points[items]
        flip = torch.rand(len(items), generator=torch.Generator().manual_seed(seed)) < 0.5
        return mirrored(chosen, found, flip)

    return loop.Task(PointObjective(model), batch, len(frames), version)


def mirrored(images: Tensor, points: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror chosen pictures left to right, points with them: true geometry of a mirrored scene (cx in the middle)."""
    turn = torch.tensor([-1.0, 1.0, 1.0])
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    return images, torch.where(flip[:, None, None, None], points.flip(-2) * turn, points)


def encoder_image(model: VipaVLA, frame: LabelledFrame) -> Tensor:
    """(3, s, s) bytes: the frame as CUT3R sees it."""
    pixels = semantic_pixels(torch.from_numpy(frame.rgb)[None], model.config.vision.image_size)
    return ((spatial_pixels(pixels, model.config.spatial_size)[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


# the vision-language model


@dataclass(frozen=True)
class Talk:
    """images: (B, h, w, 3) bytes, or kept visual tokens of all rows, one behind the other, (P, D), with the words written
    over them, (P, subjects), -1 for none, and how strongly, (P, 1)."""

    images: Tensor
    tokens: TokenBatch
    written: Tensor | None = None
    ink: Tensor | None = None


class TalkObjective(nn.Module):
    """Next-token loss of answers about one picture, fusion left out."""

    def __init__(self, model: VipaVLA) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Talk) -> tuple[Tensor, int]:
        model, tokens = self.model, batch.tokens.to(self.model.device)
        if batch.written is None or batch.ink is None:
            features = picture_features(model, batch.images)
            return model(features, tokens.input_ids, tokens.attention_mask, tokens.labels, fuse=False)
        written, ink = (part.to(model.device) for part in (batch.written, batch.ink))
        visual = written_over(model, batch.images.to(model.device), written, ink)
        return model.answer_loss(model.place(visual, tokens.input_ids), tokens.attention_mask, tokens.labels)


def written_over(model: VipaVLA, visual: Tensor, written: Tensor, ink: Tensor) -> Tensor:
    """Words (P, subjects) over visual tokens (P, D), of at most their length, those of one place added up; half of the
    visual tokens shines through."""
    words = nn.functional.normalize(model.vlm.get_input_embeddings()(written.clamp(min=0)), dim=-1)
    there = (written >= 0)[..., None]
    said = nn.functional.normalize((words * there).sum(dim=-2), dim=-1)
    return torch.where(there.any(dim=-2), 0.5 * visual + ink * said * visual.norm(dim=-1, keepdim=True), visual)


def picture_features(model: VipaVLA, images: Tensor) -> FrameFeatures:
    """Semantic features of single pictures (B, h, w, 3); the spatial ones are not asked for and left empty."""
    semantic, _ = model.semantic_features(images)
    return FrameFeatures(semantic[:, None], semantic.new_zeros(len(images), 1, 0, model.config.spatial.width))


@torch.no_grad()
def visual_tokens(model: VipaVLA, images: Tensor, size: int = 32) -> Tensor:
    """(N, V, D): what the language model is shown of each picture."""
    found = [model.visual_tokens(picture_features(model, part), fuse=False)[:, 0] for part in images.split(size)]
    return torch.cat(found)


def talk_task(model, tokenizer, frames: Sequence[LabelledFrame], version: str) -> loop.Task:
    """Talk about the picture plane: captions, places, relations."""
    images = torch.from_numpy(np.stack([frame.rgb for frame in frames]))

    def batch(items: Sequence[int], seed: int) -> Talk:
        rng = np.random.default_rng(seed)
        turns = [base_data.conversation(frames[item], rng) for item in items]
        chats = [base_data.conversation_ids(chat, tokenizer, model.config.tokens_per_frame) for chat in turns]
        return Talk(images[items], base_data.conversation_batch(chats, tokenizer.layout.pad))

    return loop.Task(TalkObjective(model), batch, len(frames), version)


class Pages:
    """Training pictures over whose visual tokens drawn answers are written.

    All but the language model is frozen by now, so a picture's visual tokens are computed once.
    """

    def __init__(
        self, model: VipaVLA, tokenizer: VipaTokenizer, frames: Sequence[LabelledFrame], rows: pl.DataFrame, seed: int
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.shown = visual_tokens(model, torch.from_numpy(np.stack([frame.rgb for frame in frames])))
        self.drawn = [one for k in range(DRAWS) for one in base_data.drawn_answers(rows, seed + k)]
        self.marks = base_data.marks(tokenizer.layout)
        self.by_subject = {
            subject: [one for one in self.drawn if one.subject == subject] for subject in base_data.SUBJECTS
        }

    def page(self, asked: base_data.Drawn, num_places: int, rng: np.random.Generator) -> np.ndarray:
        """What is said of the subject asked about, beside or mixed with what is said of others."""
        said = {asked.subject: asked.read}
        if asked.read.distance_m:
            others = [one for one in base_data.companions(asked.subject, rng) if self.by_subject[one]]
            said |= {one: self.by_subject[one][rng.integers(len(self.by_subject[one]))].read for one in others}
        return base_data.page(said, self.marks, num_places, rng, mixed=rng.random() < MIXED_SHARE)

    def talk(
        self,
        items: Sequence[int],
        num_places: int,
        seed: int,
        chat: Callable[[base_data.Drawn], tuple[list[int], list[int]]],
    ) -> Talk:
        """Drawn answers, each about a page over some of a picture's visual tokens; chat: ids and labels of one."""
        rng = np.random.default_rng(seed)
        asked = [self.drawn[i] for i in rng.integers(len(self.drawn), size=len(items)).tolist()]
        written = np.concatenate([self.page(one, num_places, rng) for one in asked])
        places = [rng.permutation(self.shown.shape[1])[:num_places] for _ in items]
        visual = torch.cat([self.shown[item][np.sort(some)] for item, some in zip(items, places, strict=True)])
        ink = np.repeat(rng.uniform(*INK, len(items)), num_places).astype(np.float32)
        tokens = base_data.conversation_batch(map(chat, asked), self.tokenizer.layout.pad)
        return Talk(visual, tokens, torch.from_numpy(written), torch.from_numpy(ink)[:, None])


def naming_task(pages: Pages, version: str) -> loop.Task:
    """A subject is named, and what the page says of it is said: to look up one of several, without questions, which makes
    sequences short. Learned with questions from the start, it takes more than twice as long."""
    places = min(NAMING_PLACES, pages.model.config.tokens_per_frame)
    chat = partial(base_data.naming_ids, tokenizer=pages.tokenizer, num_places=places)

    def batch(items: Sequence[int], seed: int) -> Talk:
        return pages.talk(items, places, seed, chat)

    return loop.Task(TalkObjective(pages.model), batch, len(pages.shown), version)


def reading_task(pages: Pages, version: str) -> loop.Task:
    """Hand3D questions with drawn answers, whose words are written over the picture: to say what visual tokens say."""
    places = pages.model.config.tokens_per_frame

    def chat(asked: base_data.Drawn) -> tuple[list[int], list[int]]:
        return base_data.conversation_ids([(asked.question, asked.answer)], pages.tokenizer, places)

    def batch(items: Sequence[int], seed: int) -> Talk:
        return pages.talk(items, places, seed, chat)

    return loop.Task(TalkObjective(pages.model), batch, len(pages.shown), version)


@torch.no_grad()
def start_fusion(model: VipaVLA, frames: Sequence[LabelledFrame], num: int = 64) -> None:
    """Give F_spa the scale of V_sem, whose numbers it is added to.

    ASSUMED: the paper says how alpha starts (0.5), not the layer norm before it. With a norm of ones and V_sem of 6 the
    fusion changed the visual tokens by 1 %, and most of stage 1 went by until it was heard.
    """
    semantic, _ = model.semantic_features(torch.from_numpy(np.stack([frame.rgb for frame in frames[:num]])))
    model.fusion.norm_out.weight.fill_(float(semantic.square().mean().sqrt()))


class CopyObjective(nn.Module):
    """Next-token loss of text alone, and of pages read beside it."""

    def __init__(self, model: VipaVLA, reading: nn.Module) -> None:
        super().__init__()
        self.model, self.reading = model, reading

    def forward(self, batch: tuple[TokenBatch, Talk]) -> tuple[Tensor, int]:
        tokens, pages = batch[0].to(self.model.device), batch[1]
        embeds = self.model.vlm.get_input_embeddings()(tokens.input_ids)
        loss, count = self.model.answer_loss(embeds, tokens.attention_mask, tokens.labels)
        return loss + READ_WEIGHT * self.reading(pages)[0], count


def copy_task(model: VipaVLA, reading: loop.Task) -> loop.Task:
    """To go on with what stands before: arbitrary words, said again and again, after 3, 6 or 12. Any public language model
    can; one that cannot does not go on with a motion either. A few pages are read beside it, so that reading is not forgotten."""

    def batch(items: Sequence[int], seed: int) -> tuple[TokenBatch, Talk]:
        rng = np.random.default_rng(seed)
        periods = rng.choice(PERIODS, len(items))[:, None]
        said = rng.integers(model.layout.num_pieces, size=(len(items), COPY_LENGTH))
        place = np.arange(COPY_LENGTH)
        ids = torch.from_numpy(np.take_along_axis(said, place % periods, axis=1))
        labels = torch.where(torch.from_numpy(place < periods), IGNORE, ids)
        return TokenBatch(ids, torch.ones_like(ids), labels), reading.batch(items[: -(-len(items) // 3)], seed)

    return replace(reading, objective=CopyObjective(model, reading.objective), batch=batch)


# what it knows


def measure(
    model: VipaVLA,
    tokenizer: VipaTokenizer,
    frames: Sequence[LabelledFrame],
    rows: pl.DataFrame,
    seed: int,
    num: int = 64,
) -> dict[str, float]:
    """On held-out clips: point error, how far said places are from true ones, beside a constant answer's error; and
    what is read of new pages."""
    rng = np.random.default_rng(seed)
    frames = [frames[i] for i in rng.permutation(len(frames))[:num]]
    found = point_error(model, frames) | grounding_error(model, tokenizer, frames)
    return found | reading_error(model, tokenizer, frames, rows, seed)


@torch.no_grad()
def reading_error(
    model: VipaVLA, tokenizer: VipaTokenizer, frames: Sequence[LabelledFrame], rows: pl.DataFrame, seed: int
) -> dict[str, float]:
    """Of new pages over held-out pictures: directions read rightly, of 3, and mean error of the distances read; an
    answer without a direction has none right, one without a distance says 0 m (as in Hand3D-test)."""
    if rows.is_empty():
        return {}
    rng = np.random.default_rng(seed)
    asked = rows.sample(len(frames), with_replacement=True, seed=seed)
    pages = Pages(model, tokenizer, frames, asked, seed + DRAWS)  # as none of the lesson
    drawn = pages.drawn[: len(frames)]
    places = model.config.tokens_per_frame
    written = torch.from_numpy(np.concatenate([pages.page(one, places, rng) for one in drawn]))
    visual = written_over(model, pages.shown.flatten(0, 1), written.to(model.device), torch.tensor(float(np.mean(INK))))
    texts = answers_to(model, tokenizer, [one.question for one in drawn], visual, MAX_WORDS)
    names = [(name,) if name else () for name in asked["object"]]
    said = [parsing.parse(text, name) for text, name in zip(texts, names, strict=True)]
    truth = [one.read for one in drawn]
    right = [
        sum(map(operator.eq, one.direction or (), other.direction)) for one, other in zip(said, truth, strict=True)
    ]
    off_m = [abs((one.distance_m or 0.0) - other.distance_m) for one, other in zip(said, truth, strict=True)]
    return {
        "held_out/read_directions_of_3": float(np.mean(right)),
        "held_out/read_distance_error_m": float(np.mean(off_m)),
    }


@torch.no_grad()
def point_error(model: VipaVLA, frames: Sequence[LabelledFrame]) -> dict[str, float]:
    """Median distance of predicted to true points, and that of the mean point map of these very frames."""
    known = [frame for frame in frames if frame.points_cam is not None]
    if not known:
        return {}
    images = torch.stack([encoder_image(model, frame) for frame in known]).float() / 127.5 - 1
    truth = torch.from_numpy(np.stack([frame.points_cam for frame in known]))
    found = torch.cat([predict_points(model.spatial_encoder, part)[0] for part in images.split(16)])
    constant = truth.nanmedian(dim=0).values.expand_as(truth)
    valid = truth.isfinite().all(dim=-1)
    errors = [float((guess[valid] - truth[valid]).norm(dim=-1).median()) for guess in (found, constant)]
    return {"held_out/point_error_m": errors[0], "held_out/point_error_of_constant_map_m": errors[1]}


def grounding_error(model: VipaVLA, tokenizer: VipaTokenizer, frames: Sequence[LabelledFrame]) -> dict[str, float]:
    """Mean distance of said places, in shares of the picture; answers without two numbers are counted apart."""
    asked = [(frame, name, frame.places[name]) for frame in frames for name in frame.places]
    texts = answer_pictures(
        model, tokenizer, [(frame, base_data.where(name, place)[0]) for frame, name, place in asked]
    )
    said = [read_place(text) for text in texts]
    truth = np.array([place for _, _, place in asked])
    middle = np.median(truth, axis=0)
    errors = [np.hypot(*(np.array(place) - true)) for place, true in zip(said, truth, strict=True) if place is not None]
    known = {"held_out/grounding_error_share": float(np.mean(errors))} if errors else {}
    return known | {
        "held_out/grounding_error_of_constant_share": float(np.hypot(*(truth - middle).T).mean()),
        "held_out/grounding_unread": float(sum(place is None for place in said)),
    }


def answer_pictures(
    model: VipaVLA, tokenizer: VipaTokenizer, asked: Sequence[tuple[LabelledFrame, str]], size: int = 32
) -> list[str]:
    """Greedy answers of the plain vision-language model to questions about single pictures."""
    out = []
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        visual = visual_tokens(model, torch.from_numpy(np.stack([frame.rgb for frame, _ in part])))
        out += answers_to(model, tokenizer, [question for _, question in part], visual, MAX_PLACE)
    return out


def answers_to(
    model: VipaVLA, tokenizer: VipaTokenizer, questions: Sequence[str], visual: Tensor, max_tokens: int
) -> list[str]:
    """Greedy answers to questions, each about one picture's visual tokens, which stand one behind the other."""
    prompts = [prompt_ids(tokenizer, question, 1, model.config.tokens_per_frame) for question in questions]
    tokens = prompt_batch(prompts, tokenizer.layout.pad).to(model.device)
    ids = model.go_on(model.place(visual, tokens.input_ids), tokens.attention_mask, max_tokens)
    return [tokenizer.decode(row).strip() for row in ids.tolist()]


def read_place(text: str) -> tuple[float, float] | None:
    """ "... at 0.31, 0.62." -> (0.31, 0.62)."""
    import re

    found = re.search(r"at (\d\.\d+), (\d\.\d+)", text)
    return (float(found[1]), float(found[2])) if found else None


def draw_points(model: VipaVLA, frames: Sequence[LabelledFrame], path: Path, num: int = 4) -> None:
    """Held-out pictures, true depth, predicted depth and confidence."""
    from matplotlib.figure import Figure

    known = [frame for frame in frames if frame.points_cam is not None]
    known = known[:: max(1, len(known) // num)][:num]
    images = torch.stack([encoder_image(model, frame) for frame in known]).float() / 127.5 - 1
    with torch.no_grad():
        points, confidence = predict_points(model.spatial_encoder, images)
    figure = Figure(figsize=(8, 2 * len(known)), layout="constrained")
    axes = figure.subplots(len(known), 4, squeeze=False)
    for row, frame in enumerate(known):
        depth = frame.points_cam[..., 2]
        low, high = np.nanpercentile(depth, [2, 98])
        shown = (frame.rgb, depth, points[row, ..., 2].numpy(), confidence[row].numpy())
        for place, (axis, picture) in enumerate(zip(axes[row], shown, strict=True)):
            limits = {"vmin": low, "vmax": high} if place in (1, 2) else {}
            axis.imshow(picture, cmap="viridis", **limits)
            axis.axis("off")
    for axis, title in zip(axes[0], ("frame", "true depth", "predicted depth", "confidence"), strict=True):
        axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=70)
