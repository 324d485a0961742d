"""Stage hand3d_visual: question-answer rows from calibrated frames (paper 3.2.1, Figures 2 and 3, Table 1).

Every row states in numbers what its answer says in words, so anyone can recompute it (ops.hand3d.verify does).
Train clips go to visual_rows.parquet, test clips to held_out_rows.parquet, what could not become a row to
rejects.parquet. The same inputs and seed give the same bytes.
"""

from pathlib import Path

import polars as pl

from ops import tables
from ops.hand3d import directions, facts, language, movements, paraphrase, pictures, relations
from ops.hand3d.facts import Facts
from ops.hand3d.summary import by_task
from ops.pipeline import StageContext
from ops.sources.manifest import read_clips
from ops.store import Report, write_reject_table
from ops.tables import F32, vec

GRAMMAR = "grammar"  # a row's wording by templates
COLUMNS = list(tables.SCHEMAS["visual_rows"].columns)


def run(context: StageContext) -> Report:
    """Write visual_rows, held_out_rows and rejects of one shard."""
    config = context.config.hand3d_visual
    directions.check_gamma(config.gamma)
    known = read_facts(context)
    candidates, rejected = propose(known, config.seed)
    rows = label(candidates, config.gamma, config.seed)
    rows, said_by = _worded(context, rows)
    train, test = (rows.filter(split=split) for split in tables.SPLITS)
    tables.write("visual_rows", train, context.out / "visual_rows.parquet")
    tables.write("visual_rows", test, context.out / "held_out_rows.parquet")
    report = Report(rows={"visual_rows": len(train), "held_out_rows": len(test)}, metrics=metrics(rows))
    write_reject_table(context.out, rejected, report)
    report.tables = {"rows by task": by_task(rows, "distance_m"), "examples": examples(rows)}
    report.pictures = _pictures(context, rows)
    report.notes = [
        said_by,
        f"A direction is said where its share of the unit vector exceeds gamma = {config.gamma} (ASSUMED).",
    ]
    return report


def _worded(context: StageContext, rows: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Rows in a model's words where one is set, and a sentence on who worded them."""
    config = context.config.hand3d_visual
    if config.wording_url is None:
        return rows, "Questions and answers come from grammar templates, not from a language model."
    model = paraphrase.OpenAICompatible(config.wording_url, config.wording_model, config.wording_key_variable)
    found = paraphrase.word(rows, model, context.root / "data" / ".answers")
    return found.rows, (
        f"Worded by {model.name}: {found.calls} calls, {found.cached} answers from the cache; {found.kept} of {len(rows)} rows "
        "keep their templates, since the model's words did not say the row's numbers."
    )


def read_facts(context: StageContext) -> Facts:
    """Everything upstream says about the sampled frames of this shard."""
    calibrated = context.input("calibrated_point_clouds")
    return facts.gather(
        read_clips(context.input("raw_videos"), context.root),
        tables.read("mano_fits", context.input("mano_fits") / "mano_fits.parquet"),
        tables.read("calibrations", calibrated / "calibrations.parquet"),
        tables.read("object_positions", calibrated / "object_positions.parquet"),
        context.config.point_clouds.fps,
        completions_per_moment=context.config.hand3d_visual.completions_per_moment,
    )


def propose(known: Facts, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Facts -> candidates of all four tasks in order of row id, and rejects."""
    objects, no_object = relations.hand_object(known, seed)
    pairs, far_apart = relations.hand_hand(known, seed)
    tasks, no_task = relations.task_completion(known, seed)
    hands, no_hand = movements.hand_movement(known, seed)
    cameras, no_camera = movements.camera_movement(known, seed)
    candidates = pl.concat([objects, pairs, tasks, hands, cameras]).sort("row_id")
    return candidates, pl.concat([known.left_out, no_object, far_apart, no_task, no_hand, no_camera])


def label(candidates: pl.DataFrame, gamma: float, seed: int) -> pl.DataFrame:
    """Candidates -> rows of the visual_rows table: distance, direction, question, answer."""
    distance_m, direction = directions.measure(candidates["vector"].to_numpy(), gamma)
    measured = candidates.with_columns(
        distance_m=pl.Series(distance_m, dtype=F32), direction=pl.Series(direction, dtype=vec(3, pl.Int8))
    )
    question, answer = language.visual_texts(measured, seed, gamma)
    return measured.with_columns(question=question, answer=answer, wording=pl.lit(GRAMMAR)).select(COLUMNS)


def metrics(rows: pl.DataFrame) -> dict[str, float]:
    """Means an alert can watch; empty for no rows, so that nothing is said of nothing."""
    if rows.is_empty():
        return {}
    found = {"mean_distance_m": float(rows["distance_m"].mean()), "num_clips": float(rows["clip_id"].n_unique())}
    found |= {f"share_{task}": float((rows["task"] == task).mean()) for task in tables.VISUAL_TASKS}
    touching = rows["contact"].drop_nulls()
    return found | ({"share_touching": float(touching.mean())} if len(touching) else {})


def examples(rows: pl.DataFrame) -> list[dict[str, object]]:
    """The first two rows of each task."""
    first = rows.group_by("task", maintain_order=True).head(2)
    return first.select("task", "clip_id", "frames", "question", "answer").to_dicts()


def _pictures(context: StageContext, rows: pl.DataFrame) -> dict[str, str]:
    if rows.is_empty():
        return {}
    made: dict[str, Path] = {
        "questions on frames": context.out / "questions.png",
        "distances and directions": context.out / "distances.png",
    }
    clips = {clip.clip_id: clip for clip in read_clips(context.input("raw_videos"), context.root)}
    fits = tables.read("mano_fits", context.input("mano_fits") / "mano_fits.parquet")
    pictures.questions(rows, clips, fits, made["questions on frames"])
    pictures.histograms(rows, made["distances and directions"])
    return {title: path.name for title, path in made.items()}
