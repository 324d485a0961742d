"""Questions and answers of Hand3D in words: grammar templates filled for many rows at once (paper 3.2.1, Figure 3).

ASSUMED: templates stand in for the paper's Gemini. Which template a row gets follows from its id and the seed alone.
Every visual answer ends in a canonical form, "right and down, 0.23 m", which ops.hand3d.parsing reads back.
Direction words are camera axes (+x right, +y down, +z forward); distances metres with two decimals; rotations degrees.
"""

import string

import numpy as np
import polars as pl
from jaxtyping import Float, Int8

from ops.hand3d import directions
from ops.hand3d.stable import stable_hash

# Fields of a template: {hand} "left hand", {object} "red cube" or "right hand", {where} "right and down",
# {metres} "0.23", {task} an instruction, {degrees} "12", {turn} "turning right", {touch} "yes" or "no".
_RELATION = "spatial_relation"
_RELATION_CONTACT = "spatial_relation_contact"  # where the source says what touches what
QUESTIONS: dict[str, tuple[str, ...]] = {
    _RELATION: (
        "Where is the {object} from the {hand} in the last frame?",
        "In the last frame, in which direction and how far is the {object} from the {hand}?",
        "Seen from the {hand}, where is the {object} now?",
        "What is the direction and distance from the {hand} to the {object}?",
    ),
    _RELATION_CONTACT: (
        "Does the {hand} touch the {object} in the last frame, and where is it from the hand?",
        "In the last frame, do the {hand} and the {object} touch? Give direction and distance.",
        "Is the {object} touched by the {hand} now, and in which direction and how far is it?",
        "Describe contact, direction and distance from the {hand} to the {object}.",
    ),
    "task_completion": (
        "Task: {task}. How should the {hand} move to reach the {object}?",
        "The task is: {task}. In which direction and how far must the {hand} go to the {object}?",
        "To {task}, where should the {hand} move to get to the {object}?",
    ),
    "hand_movement": (
        "How does the {hand} move from the first to the second frame?",
        "In which direction and how far does the {hand} go between the two frames?",
        "Describe the movement of the {hand} between the frames.",
    ),
    "camera_movement": (
        "How does the camera move from the first to the second frame?",
        "Describe the rotation and translation of the camera between the frames.",
        "How does the viewpoint change between the two frames?",
    ),
}
ANSWERS: dict[str, tuple[str, ...]] = {
    _RELATION: (
        "The {object} is {where}, {metres} m.",
        "It is {where}, {metres} m.",
        "From the {hand}: {where}, {metres} m.",
    ),
    _RELATION_CONTACT: (
        "Touching: {touch}. The {object} is {where}, {metres} m.",
        "Touching: {touch}. It is {where}, {metres} m.",
    ),
    "task_completion": (
        "Move the {hand} {where}, {metres} m.",
        "The {hand} should go {where}, {metres} m.",
        "Move {where}, {metres} m.",
    ),
    "hand_movement": (
        "The {hand} moves {where}, {metres} m.",
        "It moves {where}, {metres} m.",
    ),
    "camera_movement": (
        "The camera rotates {degrees} degrees {turn}; it moves {where}, {metres} m.",
        "Rotation: {degrees} degrees {turn}; movement: {where}, {metres} m.",
    ),
}
# Being-H0's question template, with the number of steps; the processor puts image and motion tokens in their places.
PROMPTS: dict[str, tuple[str, ...]] = {
    "instructional_motion_generation": (
        "In the image, {task}, what is the {steps}-step motion sequence for the {hand} over {seconds} seconds?",
        "To {task}, how does the {hand} move in {steps} steps over {seconds} seconds?",
    ),
    "contextual_motion_prediction": (
        "In the image, {task}, the {hand} has moved so, what is the next {steps}-step motion sequence over {seconds} seconds?",
        "Task: {task}. Continue this motion of the {hand} for {steps} steps over {seconds} seconds.",
    ),
    "motion_translation": (
        "In the image, the {hand} makes this {steps}-step motion over {seconds} seconds, what is it doing?",
        "Which task does this {steps}-step motion of the {hand} over {seconds} seconds carry out?",
    ),
}
# Signs of a camera's rotation vector, read from its own axes: about +x the view tilts up, about +y it turns right,
# about +z it rolls clockwise.
TURN_WORDS = (("tilting down", "tilting up"), ("turning left", "turning right"), ("rolling left", "rolling right"))
STILL_DEG = 0.5  # prints as 0 degrees
STILL_WORDS = {_RELATION: "at the same place", "task_completion": "nowhere", "hand_movement": "nowhere", "camera_movement": "nowhere"}  # fmt: skip


def visual_texts(rows: pl.DataFrame, seed: int, gamma: float) -> tuple[pl.Series, pl.Series]:
    """Questions and answers of visual rows of any tasks, in row order.

    rows: row_id, task, side, object, instruction (null but for task_completion), direction, distance_m, rotation,
    contact: as in the visual_rows table.
    """
    texts = []
    for (task,), part in rows.with_row_index("_row").group_by(["task"], maintain_order=True):
        fields = _visual_fields(part, str(task), gamma)
        with_contact = (
            part["contact"].is_not_null() if task == _RELATION else pl.Series([False]).new_from_index(0, len(part))
        )
        for kind, mask in ((str(task), ~with_contact), (_RELATION_CONTACT, with_contact)):
            if mask.any():
                texts.append(_both(part.filter(mask), kind, fields.filter(mask), seed))
    if not texts:
        return pl.Series([], dtype=pl.String), pl.Series([], dtype=pl.String)
    ordered = pl.concat(texts).sort("_row")
    return ordered["question"], ordered["answer"]


def _both(part: pl.DataFrame, kind: str, fields: pl.DataFrame, seed: int) -> pl.DataFrame:
    drawn = stable_hash(part["row_id"], seed, "templates")
    low, high = drawn & np.uint64(0xFFFFFFFF), drawn >> np.uint64(32)  # two unrelated choices from one hash
    question = fill(QUESTIONS[kind], low % np.uint64(len(QUESTIONS[kind])), fields)
    answer = fill(ANSWERS[kind], high % np.uint64(len(ANSWERS[kind])), fields)
    return pl.DataFrame({"_row": part["_row"], "question": question, "answer": answer})


def _visual_fields(part: pl.DataFrame, task: str, gamma: float) -> pl.DataFrame:
    where = directions.phrases(part["direction"].to_numpy(), STILL_WORDS[task])
    fields = [where.alias("where"), directions.metres(part["distance_m"].to_numpy()).alias("metres")]
    if task == "camera_movement":
        degrees, turn = rotation_words(part["rotation"].to_numpy(), gamma)
        return pl.DataFrame([*fields, degrees.alias("degrees"), turn.alias("turn")])
    touch = part.select(pl.when("contact").then(pl.lit("yes")).otherwise(pl.lit("no")).alias("touch"))["touch"]
    fields += [part["object"], hand_words(part["side"]), touch]
    if task == "task_completion":
        fields.append(part["instruction"].alias("task"))
    return pl.DataFrame(fields)


def sentence(text: str) -> str:
    """An instruction as part of a sentence: "Pick up the cup." -> "pick up the cup"."""
    plain = " ".join(text.split()).rstrip(".")
    return plain[:1].lower() + plain[1:]


def hand_words(side: pl.Series) -> pl.Series:
    return (side + " hand").alias("hand")


def rotation_words(rotation: Float[np.ndarray, "rows 3"], gamma: float) -> tuple[pl.Series, pl.Series]:
    """Rotation vectors -> whole degrees and words such as "turning right and tilting up"."""
    exact = np.asarray(rotation, np.float32).astype(np.float64).reshape(-1, 3)
    angle_rad = np.sqrt((exact**2).sum(axis=1))
    signs = (np.sign(exact) * (np.abs(exact) > gamma * angle_rad[:, None])).astype(np.int8)
    signs[np.degrees(angle_rad) < STILL_DEG] = 0
    table = [_turn_phrase((x, y, z)) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    code = (signs.astype(np.int64) + 1) @ np.array([9, 3, 1])
    degrees = np.rint(np.degrees(angle_rad)).astype(np.int64)
    return pl.Series(degrees).cast(pl.String), pl.Series(table).gather(code)


def _turn_phrase(signs: Int8[np.ndarray, " 3"] | tuple[int, int, int]) -> str:
    words = [TURN_WORDS[axis][(sign + 1) // 2] for axis, sign in enumerate(signs) if sign]
    return " and ".join(words) or "about no axis"


def fill(templates: tuple[str, ...], choice: np.ndarray, fields: pl.DataFrame) -> pl.Series:
    """Row i gets templates[choice[i]] with its own fields. Raises ValueError if a field it names is null."""
    table = fields.with_row_index("_fill_row")
    picked = [table.filter(choice == k).select("_fill_row", text=_expression(t)) for k, t in enumerate(templates)]
    text = pl.concat(picked).sort("_fill_row")["text"]
    if text.null_count():
        raise ValueError(f"{text.null_count()} of {len(text)} texts lack a field that their template names")
    return text


def _expression(template: str) -> pl.Expr:
    pieces: list[pl.Expr] = []
    for literal, field, _, _ in string.Formatter().parse(template):
        pieces += [pl.lit(literal)] if literal else []
        pieces += [pl.col(field)] if field else []
    return pl.concat_str(pieces)
