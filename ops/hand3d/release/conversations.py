"""Rows as conversations: what the trainers of InternVL and LLaVA read (their documented JSON), for many rows at once.

A human turn is one <image> a frame and the question; the answer is the row's text, or its motion tokens between <mot> and
</mot>. InternVL numbers several frames ("Frame-1: <image>") and wants their sizes. Image paths are relative to the folder
the frame tars are unpacked in. Motion tokens become text here only: the canonical tables hold integers.
"""

import polars as pl

from ops.hand3d.motion_tokens import token_string

MAX_FRAMES = 4
STYLES = ("internvl", "llava")
_TOKEN = token_string(0).split("0")


def records(rows: pl.DataFrame, clips: pl.DataFrame, style: str) -> pl.Series:
    """One JSON object a row, as text without a line break, in row order.

    rows: of visual_rows or action_rows. clips: clip_id, frame_width, frame_height. Raises ValueError for another style.
    """
    if style not in STYLES:
        raise ValueError(f"style is one of {', '.join(STYLES)}, got {style!r}")
    table = with_turns(rows).join(
        clips.select("clip_id", "frame_width", "frame_height"), on="clip_id", how="left", maintain_order="left"
    )
    several = table["frames"].list.len() > 1
    texts = [
        _encode(table.with_row_index("_row").filter(mask), style, many)
        for mask, many in ((several, True), (~several, False))
        if mask.any()
    ]
    return pl.concat(texts).sort("_row")["json"]


def with_turns(rows: pl.DataFrame) -> pl.DataFrame:
    """Adds `frames` (a list), `human` and `gpt`: the two turns without the image placeholders."""
    if "question" in rows.columns:
        return rows.with_columns(human="question", gpt="answer")
    return rows.with_columns(
        frames=pl.concat_list("frame"),
        human=pl.col("prompt") + _motion("context_tokens"),
        gpt=pl.coalesce("target_text", _motion("target_tokens")),
    )


def _motion(column: str) -> pl.Expr:
    """<mot><motion_5>...</mot>; nothing for no tokens."""
    token = pl.lit(_TOKEN[0]) + pl.element().cast(pl.String) + pl.lit(_TOKEN[1])
    text = pl.col(column).list.eval(token).list.join("")
    return pl.when(pl.col(column).list.len() > 0).then(pl.lit("<mot>") + text + pl.lit("</mot>")).otherwise(pl.lit(""))


def _encode(table: pl.DataFrame, style: str, several: bool) -> pl.DataFrame:
    """Rows with one frame, or with several: the two have different keys."""
    count = pl.col("frames").list.len()
    paths = pl.concat_list([_path(k) for k in range(MAX_FRAMES if several else 1)]).list.drop_nulls()
    fields = {"id": pl.col("row_id"), "image": paths if several else paths.list.first()}
    if style == "internvl" and several:
        fields |= {"width_list": pl.col("frame_width").repeat_by(count)}
        fields |= {"height_list": pl.col("frame_height").repeat_by(count)}
    elif style == "internvl":
        fields |= {"width": pl.col("frame_width"), "height": pl.col("frame_height")}
    human = _placeholders(style, several) + pl.col("human")
    turns = [
        pl.struct(pl.lit(who).alias("from"), value=text) for who, text in (("human", human), ("gpt", pl.col("gpt")))
    ]
    fields |= {"conversations": pl.concat_list(turns)}
    return table.select("_row", json=pl.struct(**fields).struct.json_encode())


def _path(k: int) -> pl.Expr:
    """Path of a row's k-th frame (ops.hand3d.release.frames.path_of), null where it has fewer."""
    number = pl.col("frames").list.get(k, null_on_oob=True).cast(pl.String).str.zfill(6)
    return pl.col("clip_id") + pl.lit("/") + number + pl.lit(".jpg")


def _placeholders(style: str, several: bool) -> pl.Expr:
    if not several:
        return pl.lit("<image>\n")
    names = [f"Frame-{k + 1}: <image>\n" if style == "internvl" else "<image>\n" for k in range(MAX_FRAMES)]
    texts = ["".join(names[:n]) for n in range(MAX_FRAMES + 1)]
    count = pl.col("frames").list.len().cast(pl.Int64)
    return count.replace_strict(list(range(MAX_FRAMES + 1)), texts, return_dtype=pl.String)
