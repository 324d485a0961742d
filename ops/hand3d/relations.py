"""Candidates of the tasks about one moment: where an object or the other hand is (paper 3.2.1, categories 1 and 2).

Displacements are in the camera frame of the last frame shown, metres: object minus palm centre, other palm minus palm.
A candidate has everything of a visual row but its distance, direction and words. What lies behind the camera is left
out (ops.hand3d.facts): no image shows it; so are two hands further apart than arms reach. Touching things keep their distance: it is between palm and object centres.
"""

import numpy as np
import polars as pl

from ops.hand3d import directions
from ops.hand3d.facts import CLIP_COLUMNS, MAX_FRAMES, Facts
from ops.hand3d.stable import choose
from ops.rejects import Reason
from ops.tables import BOOL, F32, F64, I32, STR, vec

# ASSUMED: the palms of one person are at most this far apart (an arm span of 2 m, less the fingers); hands further apart
# are of two people, or one was lifted to a wrong depth.
MAX_PALMS_APART_M = 1.8
CANDIDATE = {
    "row_id": STR, "clip_id": STR, "source": STR, "split": STR, "task": STR, "frames": pl.List(I32), "side": STR,
    "object": STR, "instruction": STR, "start": vec(3), "vector": vec(3), "rotation": vec(3), "contact": BOOL,
    "scale": F64, "spread": F32, "num_omega": I32, "intrinsics": STR, "licence": STR, "noncommercial": BOOL,
    "redistributable": BOOL,
}  # fmt: skip


def hand_object(facts: Facts, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Where every located object is from every hand, in each calibrated frame -> candidates, rejects."""
    objects, ambiguous = unambiguous(facts.objects)
    pairs = facts.hands.join(objects, on=["clip_id", "frame"], how="inner", maintain_order="left_right")
    pairs = pairs.join(facts.contacts, on=["clip_id", "frame", "side"], how="left", maintain_order="left")
    pairs = pairs.with_columns(
        contact=pl.col("touched") == pl.col("object"),  # null where the source does not say
        start=pl.col("palm"),
        vector=difference(pairs["position"], pairs["palm"]),
        row_id=row_id("spatial_relation", "side", "object"),
    )
    rejected = [ambiguous, _frames_without_objects(facts)]
    return finish(pairs, facts, "spatial_relation", seed), pl.concat(rejected)


def hand_hand(facts: Facts, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Where one hand is from the other; which of the two is asked about follows from the frame -> candidates, rejects."""
    left, right = (facts.hands.filter(side=side).select("clip_id", "frame", "palm") for side in ("left", "right"))
    pairs = left.join(right, on=["clip_id", "frame"], suffix="_right", maintain_order="left")
    from_left = choose(_keys(pairs), 2, seed, "reference hand") == 0
    vector = difference(pairs["palm_right"], pairs["palm"])
    signed = vector.to_numpy() * np.where(from_left, 1, -1)[:, None].astype(np.float32)
    pairs = pairs.with_columns(
        side=pl.Series(np.where(from_left, "left", "right"), dtype=STR),
        object=pl.Series(np.where(from_left, "right hand", "left hand"), dtype=STR),
        start=pl.when(pl.Series(from_left)).then("palm").otherwise("palm_right"),
        vector=pl.Series(signed, dtype=vec(3, F32)),
        scale=pl.lit(1.0),  # both hands are metric already
    ).with_columns(row_id=row_id("spatial_relation", "side", "object"))
    apart_m = pl.Series(np.linalg.norm(signed.astype(np.float64), axis=1))
    far = rejects(
        pairs.with_columns(side=pl.lit(""), _apart=directions.metres(apart_m.to_numpy())).filter(apart_m > MAX_PALMS_APART_M),
        Reason.HANDS_TOO_FAR_APART, pl.format("palms {} m apart, at most {} m allowed", "_apart", pl.lit(MAX_PALMS_APART_M)),
    )  # fmt: skip
    return finish(pairs.filter(apart_m <= MAX_PALMS_APART_M), facts, "spatial_relation", seed), far


def task_completion(facts: Facts, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """How a hand should move to the object its task needs next -> candidates, rejects."""
    objects, _ = unambiguous(facts.objects)
    asked = facts.targets.join(facts.hands, on=["clip_id", "frame", "side"], maintain_order="left")
    asked = asked.join(
        facts.calibrated.select("clip_id", "frame"), on=["clip_id", "frame"], how="semi", maintain_order="left"
    )
    open_tasks = asked.filter(pl.col("object").is_not_null(), ~pl.col("reached"))
    rows = open_tasks.join(objects, on=["clip_id", "frame", "object"], maintain_order="left")
    rows = rows.with_columns(
        start=pl.col("palm"),
        vector=difference(rows["position"], rows["palm"]),
        contact=pl.lit(None, dtype=BOOL),
        row_id=row_id("task_completion", "side", "index"),
    )
    missing = open_tasks.join(objects, on=["clip_id", "frame", "object"], how="anti", maintain_order="left")
    rejected = [
        rejects(asked.filter(pl.col("object").is_null()), Reason.NO_OBJECT, pl.format("no known object is named in {}", "instruction")),
        rejects(asked.filter("reached"), Reason.TARGET_REACHED, pl.format("nothing left to reach: {}", "instruction")),
        rejects(missing, Reason.NO_OBJECT, pl.format("{} has no position in this frame", "object")),
    ]  # fmt: skip
    return finish(rows, facts, "task_completion", seed), pl.concat(rejected)


def unambiguous(objects: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Objects whose name says which one is meant -> those, and rejects for names that occur twice in a frame."""
    num = pl.len().over("clip_id", "frame", "object")
    twice = objects.filter(num > 1).unique(["clip_id", "frame", "object"], maintain_order=True)
    return objects.filter(num == 1), rejects(
        twice, Reason.NO_OBJECT, pl.format("several objects are called {}", "object")
    )


def _frames_without_objects(facts: Facts) -> pl.DataFrame:
    frame = ["clip_id", "frame"]
    with_hand = facts.samples.join(facts.hands, on=frame, how="semi", maintain_order="left")
    uncalibrated = with_hand.join(facts.calibrated, on=frame, how="anti", maintain_order="left")
    calibrated = with_hand.join(facts.calibrated, on=frame, how="semi", maintain_order="left")
    empty = calibrated.join(facts.objects, on=frame, how="anti", maintain_order="left")
    return pl.concat(
        [
            rejects(
                uncalibrated, Reason.NOT_CALIBRATED, pl.lit("no metric scale in this frame: hand-object rows need one")
            ),
            rejects(empty, Reason.NO_OBJECT, pl.lit("no object has a position in this frame")),
        ]
    )


def difference(end: pl.Series, start: pl.Series) -> pl.Series:
    """end - start of fixed-size point columns, in float64, stored as float32."""
    vector = end.to_numpy().astype(np.float64) - start.to_numpy().astype(np.float64)
    return pl.Series("vector", vector.astype(np.float32).reshape(-1, 3), dtype=vec(3, F32))


def row_id(task: str, *parts: str) -> pl.Expr:
    """ "<clip>:<task>:<last frame>:<part>...", unique in all of Hand3D-visual."""
    columns = [pl.col("clip_id"), pl.lit(task), pl.col("frame").cast(STR), *(pl.col(part).cast(STR) for part in parts)]
    return pl.concat_str(columns, separator=":")


def _keys(table: pl.DataFrame) -> pl.Series:
    return table.select(pl.concat_str([pl.col("clip_id"), pl.col("frame").cast(STR)], separator=":"))["clip_id"]


def finish(rows: pl.DataFrame, facts: Facts, task: str, seed: int) -> pl.DataFrame:
    """Add what the clip says, and 1 to 4 consecutive sampled frames ending at `frame` where `frames` is not yet given."""
    rows = rows.join(facts.clips.select("clip_id", *CLIP_COLUMNS), on="clip_id", maintain_order="left")
    rows = rows.with_columns(task=pl.lit(task))
    if "frames" not in rows.columns:
        history = facts.samples.select("clip_id", "frame", "history")
        rows = rows.join(history, on=["clip_id", "frame"], maintain_order="left")
        rows = _with_frames(rows, facts.completions_per_moment if task == "task_completion" else 1, seed)
    absent = [pl.lit(None, dtype=kind).alias(name) for name, kind in CANDIDATE.items() if name not in rows.columns]
    return rows.with_columns(absent).select(CANDIDATE.keys()).cast(CANDIDATE)


def _with_frames(rows: pl.DataFrame, per_moment: int, seed: int) -> pl.DataFrame:
    """Rows of each moment: the first shows a number of frames drawn by its id, further ones other numbers, as far as
    there are frames before; no two of a moment show the same frames."""
    longest = rows["history"].list.len().to_numpy().astype(np.int64)
    first = np.minimum(1 + choose(rows["row_id"], MAX_FRAMES, seed, "number of frames"), longest)
    parts = []
    for number in range(per_moment):
        num = pl.Series((first - 1 + number) % np.maximum(longest, 1) + 1)
        suffix = pl.lit(f":{number + 1}" if number else "")
        more = rows.with_columns(frames=pl.col("history").list.tail(num), row_id=pl.col("row_id") + suffix)
        parts.append(more.filter(pl.Series(longest > number)) if number else more)
    return pl.concat(parts)


def rejects(rows: pl.DataFrame, reason: Reason, detail: pl.Expr) -> pl.DataFrame:
    """Rows that cannot become questions -> rows of the rejects table."""
    side = pl.col("side") if "side" in rows.columns else pl.lit("")
    return rows.select(
        item="clip_id", reason=pl.lit(str(reason)), frame=pl.col("frame").cast(I32), side=side, detail=detail
    )
