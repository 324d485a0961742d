"""Small tables about many Hand3D rows, for asset pages and reports."""

import polars as pl


def by_task(rows: pl.DataFrame, length: str) -> list[dict[str, object]]:
    """The paper's Tables 1 and 2, of the rows given. length: column of metres whose median is said."""
    counts = rows.group_by("source", "task", "split").agg(
        pl.len().alias("rows"),
        pl.col("clip_id").n_unique().alias("clips"),
        pl.col(length).median().cast(pl.Float64).round(3).alias(f"median_{length}"),
    )
    return counts.sort("source", "task", "split").to_dicts()
