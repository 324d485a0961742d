"""What the embedded base model learns from: labelled frames of the synthetic source's training clips.

Two things stand in for public pretraining: point maps for the 3D encoder (CUT3R's own objective), and talk about the
image plane for the vision-language model: captions, where things are, how they stand to one another in the picture.
Of Hand3D it sees questions and the grammar of answers, filled with numbers drawn at random: no depth, no distance.
What a drawn answer says is written over the visual tokens, in no order, beside what is said of other subjects (the other
hand, the camera), so that the language model learns to say what these say of the one it is asked about; else it learns to
ignore them, and nothing that a fusion layer adds to them can reach an answer. Where nothing is written the answer is no
displacement ("at the same place, 0.00 m"): so the base model answers of plain pictures.
Image coordinates here are shares of width and height, 0 to 1, x right and y down.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int, UInt8

from ops import tables
from ops.geometry.camera import PinholeCamera
from ops.hand3d import directions, language, parsing
from ops.models.processor import IGNORE, TokenBatch, answer_ids, prompt_ids
from ops.models.tokenizer import TokenLayout, VipaTokenizer
from ops.sources.base import SIDES, Clip

DRAWN_GAMMA = 0.3  # of the directions in answers drawn at random
DRAWN_M = (0.01, 1.0)  # distances drawn, uniform
STILL_SHARE = 0.1  # of drawn answers: no displacement
PLACE_NOISE = 0.15  # of log distance, of each place of a page
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (*(word for pair in directions.AXIS_WORDS for word in pair), "yes", "no", *NUMBERS, *"123456789")
CAMERA = "camera"
SUBJECTS = (*SIDES, CAMERA)
CAMERA_SHARE = 0.3  # of pages about a hand on which something is said of the camera as well
TURNS = 4  # questions about one image in one conversation
CENTRE_SHARE = 0.05  # of the image: closer than this on an axis, no direction word is said


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """One frame of a clip with what its source says about the picture."""

    clip_id: str
    frame: int
    rgb: UInt8[np.ndarray, "s s 3"]
    """Squashed to a square, as the encoders see it."""
    places: dict[str, tuple[float, float]]
    """Name ("left hand", "red cube") -> place in the picture; only what is inside it."""
    points_cam: Float[np.ndarray, "p p 3"] | None
    """Camera frame, metres, NaN where no depth; None where the source has none for this frame."""


def labelled_frames(clip: Clip, image_size: int, point_size: int, every_s: float) -> list[LabelledFrame]:
    """Frames of a clip, one each `every_s` seconds. Raises ClipError as the clip's reader does."""
    step = max(1, round(every_s * clip.fps))
    out = []
    for frame in clip.frames(range(0, clip.num_frames, step), size=(image_size, image_size)):
        depth_m = clip.depth_m(frame.index)
        points = None if depth_m is None else squashed_points(depth_m, clip.camera, point_size)
        out.append(LabelledFrame(clip.clip_id, frame.index, frame.rgb, places(clip, frame.index), points))
    return out


def squashed_points(depth_m: Float[np.ndarray, "H W"], camera: PinholeCamera, size: int) -> Float[np.ndarray, "p p 3"]:
    """Depth -> points on a square grid of the squashed image: nearest depth at each cell's centre."""
    height, width = depth_m.shape
    small = camera.resized(size, size)
    centres = np.arange(size) + 0.5
    rows, columns = (centres * height / size).astype(int), (centres * width / size).astype(int)
    u, v = np.meshgrid(centres, centres)
    return small.unproject(np.stack((u, v), axis=-1), depth_m[np.ix_(rows, columns)]).astype(np.float32)


def places(clip: Clip, frame: int) -> dict[str, tuple[float, float]]:
    """Where hands (wrist) and visible objects (centre of the box) stand in the picture."""
    found: dict[str, tuple[float, float]] = {}
    for side in SIDES:
        track = clip.hands.get(side)
        if track is not None and track.valid[frame]:
            u, v = clip.camera.project(track.tau[frame])
            found[f"{side} hand"] = float(u / clip.camera.width), float(v / clip.camera.height)
    for item in clip.objects:
        if item.visible[frame]:
            x0, y0, x1, y1 = item.boxes_px[frame]
            found[item.name] = float((x0 + x1) / 2 / clip.camera.width), float((y0 + y1) / 2 / clip.camera.height)
    return {name: (x, y) for name, (x, y) in found.items() if 0 <= x <= 1 and 0 <= y <= 1}


def caption(found: dict[str, tuple[float, float]]) -> tuple[str, str]:
    """Everything in the picture, with places."""
    parts = [f"{name} at {x:.2f}, {y:.2f}" for name, (x, y) in found.items()]
    return "What is in the image and where?", "; ".join(parts) + "."


def where(name: str, place: tuple[float, float]) -> tuple[str, str]:
    """Place of one thing, in words and coordinates."""
    x, y = place
    row = "upper" if y < 1 / 3 else "lower" if y > 2 / 3 else "middle"
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else "centre"
    return f"Where is the {name} in the image?", f"{row} {column}, at {x:.2f}, {y:.2f}."


def relation(name: str, other: str, found: dict[str, tuple[float, float]]) -> tuple[str, str]:
    """How one thing stands to another in the picture, in words and shares of its width."""
    (x0, y0), (x1, y1) = found[other], found[name]
    words = [("right" if x1 > x0 else "left")] if abs(x1 - x0) > CENTRE_SHARE else []
    words += [("down" if y1 > y0 else "up")] if abs(y1 - y0) > CENTRE_SHARE else []
    direction = " and ".join(words) or "at the same place"
    distance = float(np.hypot(x1 - x0, y1 - y0))
    question = f"In the picture, where is the {name} from the {other}?"
    return question, f"The {name} is {direction}, {distance:.2f} of the picture."


def conversation(frame: LabelledFrame, rng: np.random.Generator) -> list[tuple[str, str]]:
    """TURNS - 1 questions and answers about one picture, in random order."""
    names = list(frame.places)
    turns = [caption(frame.places)] if names else []
    for _ in range(TURNS):
        if len(names) > 1 and rng.random() < 0.6:
            name, other = rng.choice(names, 2, replace=False)
            turns.append(relation(str(name), str(other), frame.places))
        elif names:
            name = str(rng.choice(names))
            turns.append(where(name, frame.places[name]))
    return [turns[i] for i in rng.permutation(len(turns))[: TURNS - 1]]


def marks(layout: TokenLayout) -> dict[tuple[str, str], int]:
    """(subject, word) -> the token by which a page says it: each subject has words of its own, the last pieces of the
    vocabulary, which are the rarest.

    So what is said of one subject stays apart from what is said of another even where both are written over each other,
    as by a fusion layer, which does not know what will be asked.
    """
    said = [(subject, word) for subject in SUBJECTS for word in WORDS]
    return dict(zip(said, range(layout.num_pieces - len(said), layout.num_pieces), strict=True))


def page(
    said: Mapping[str, parsing.Answer],
    ids: Mapping[tuple[str, str], int],
    num_places: int,
    rng: np.random.Generator,
    *,
    mixed: bool,
) -> Int[np.ndarray, "num_places subjects"]:
    """What answers say, each of a subject, over all visual tokens in no order, as token ids (`marks`); -1 for nothing.

    Each place says one thing of a subject: the direction on one axis, whether hand and thing touch, or, nearly, the
    distance to one significant figure ("3" for 0.03 m, "three" for 0.3 m). mixed: of every subject; else of one of them.
    """
    columns = np.full((len(SUBJECTS), num_places), -1)
    for subject, answer in said.items():
        columns[SUBJECTS.index(subject)] = [
            ids[subject, word] for word in words_in_no_order(answer, num_places, rng)
        ] or -1
    if not mixed:
        told = np.flatnonzero(columns[:, 0] >= 0)
        whose = rng.permutation(np.resize(told, num_places)) if len(told) else np.zeros(num_places)
        columns[whose != np.arange(len(SUBJECTS))[:, None]] = -1
    return columns.T


def words_in_no_order(answer: parsing.Answer, num_places: int, rng: np.random.Generator) -> list[str]:
    """A word a place; none for an answer without displacement: it is what is said where nothing can be read."""
    if not answer.distance_m:
        return []
    words = direction_words(answer)
    words += [] if answer.contact is None else ["yes" if answer.contact else "no"]
    lengths_m = answer.distance_m * np.exp(rng.normal(0, PLACE_NOISE, num_places))
    whose = rng.permutation(np.resize(np.arange(len(words) + 1), num_places)).tolist()
    return [[*words, length_word(lengths_m[place])][k] for place, k in enumerate(whose)]


def direction_words(answer: parsing.Answer) -> list[str]:
    return [directions.AXIS_WORDS[axis][(sign + 1) // 2] for axis, sign in enumerate(answer.direction or ()) if sign]


def length_word(length_m: float) -> str:
    """One significant figure: "1" to "9" centimetres, then "one" to "nine" tenths of a metre."""
    if length_m < 0.095:
        return str(max(1, round(length_m * 100)))
    return NUMBERS[min(9, max(1, round(length_m * 10))) - 1]


@dataclass(frozen=True)
class Drawn:
    """A question with an answer drawn at random. subject: what the answer gives the displacement of, or from."""

    question: str
    answer: str
    subject: str
    read: parsing.Answer


def drawn_answers(rows: pl.DataFrame, seed: int) -> list[Drawn]:
    """Hand3D questions, each answered about a displacement and rotation drawn at random: grammar, not facts.

    Directions are isotropic, distances uniform over DRAWN_M, so that not even the usual answer is given away: a
    public vision-language model has not seen it either. A few have no displacement, no rotation and no contact.
    """
    rng = np.random.default_rng(seed)
    vectors, turns = (axis / np.linalg.norm(axis, axis=1, keepdims=True) for axis in rng.normal(size=(2, len(rows), 3)))
    moving = (rng.random((len(rows), 1)) >= STILL_SHARE).astype(float)
    distance, direction = directions.measure(vectors * moving * rng.uniform(*DRAWN_M, (len(rows), 1)), DRAWN_GAMMA)
    turns *= moving * rng.uniform(0, 1.0, (len(rows), 1))
    touching = pl.Series((rng.random(len(rows)) < 0.5) & (moving[:, 0] > 0))
    drawn = rows.select("row_id", "task", "side", "object", "question", "contact").with_columns(
        pl.Series("direction", direction, dtype=tables.vec(3, pl.Int8)),
        pl.Series("distance_m", distance),
        pl.Series("rotation", turns.astype(np.float32), dtype=tables.vec(3)),
        pl.when(pl.col("contact").is_not_null()).then(touching).alias("contact"),
        pl.lit("").alias("instruction"),  # only questions name it
    )
    _, answers = language.visual_texts(drawn, seed, DRAWN_GAMMA)
    names = [(name,) if name else () for name in rows["object"]]
    read = [parsing.parse(answer, name) for answer, name in zip(answers, names, strict=True)]
    return list(map(Drawn, rows["question"], answers, rows["side"].fill_null(CAMERA), read))


def companions(subject: str, rng: np.random.Generator) -> list[str]:
    """Whom a page tells of beside the one asked about: hands always, the camera in some pages."""
    return [one for one in SUBJECTS if one != subject and (one != CAMERA or rng.random() < CAMERA_SHARE)]


def naming_ids(drawn: Drawn, tokenizer: VipaTokenizer, num_places: int) -> tuple[list[int], list[int]]:
    """Ids and labels of the shortest thing to say about a page: a subject, then where and how far.

    "right and down and forward", unlike in an answer, where a comma tells beforehand how many words are still to come.
    """
    words = direction_words(drawn.read)
    shown = [tokenizer.layout.image] * num_places + tokenizer.encode_plain(f" {drawn.subject}")
    said = tokenizer.encode_plain(f" {' and '.join(words) or 'nowhere'}, {drawn.read.distance_m or 0:.2f} m")
    return shown + said, [IGNORE] * len(shown) + said


def conversation_ids(
    turns: Sequence[tuple[str, str]], tokenizer: VipaTokenizer, tokens_per_frame: int, num_frames: int = 1
) -> tuple[list[int], list[int]]:
    """Ids and labels of a chat about one frame or several; every answer is a label."""
    ids: list[int] = []
    labels: list[int] = []
    for place, (question, answer) in enumerate(turns):
        if place == 0:
            asked = prompt_ids(tokenizer, question, num_frames, tokens_per_frame)
        else:
            asked = tokenizer.encode("\n<|im_start|>user\n") + tokenizer.encode_plain(question)
            asked += tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")
        said = answer_ids(tokenizer, answer)
        ids += asked + said
        labels += [IGNORE] * len(asked) + said
    return ids, labels


def conversation_batch(chats: Iterable[tuple[list[int], list[int]]], pad: int) -> TokenBatch:
    """Chats padded on the right."""
    chats = list(chats)
    longest = max(len(ids) for ids, _ in chats)
    return TokenBatch(
        torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in chats]),
        torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in chats]),
        torch.tensor([labels + [IGNORE] * (longest - len(labels)) for _, labels in chats]),
    )
