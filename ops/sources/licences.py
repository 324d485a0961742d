"""Whether what a user declares to do with the result (raw_videos.use) is allowed by the licences of what goes into it.

One rule for every place: a non-commercial source forbids commercial use, a source that may not be passed on forbids
redistribution. Labels or fits made with MANO's files are non-commercial whatever the videos' licence says; the rows hold
MANO's parameters, not MANO itself, so it adds nothing to what the source says of redistribution.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl

from ops.config import ShardConfig
from ops.sources.base import Clip, Source

MANO = "MANO (non-commercial research; register at mano.is.tue.mpg.de)"
STATED_BY_VIDEO = ("folder",)  # kinds whose side files give each video its own terms


@dataclass(frozen=True)
class Terms:
    """What may be done with one ingredient. name: of the source, or of MANO."""

    name: str
    licence: str
    noncommercial: bool
    redistributable: bool

    def forbids(self, use: str) -> bool:
        """use: as raw_videos.use."""
        return ("commercial" in use and self.noncommercial) or ("redistribution" in use and not self.redistributable)


def refusal(terms: Iterable[Terms], use: str) -> str:
    """Why a build for a use is refused, "" if it is not: each licence that forbids it once, and what to do."""
    wrong = sorted({f"{one.name}: {one.licence}" for one in terms if one.forbids(use)})
    if not wrong:
        return ""
    remedy = "take these shards out of params.yaml, ask the owners for another licence, or declare another use"
    more = f"; {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return f"raw_videos.use = {use!r} is forbidden by {'; '.join(wrong[:5])}{more}: {remedy}"


def require(shard: ShardConfig, source: Source, use: str) -> None:
    """Before any work on a shard whose root is absolute. Raises ValueError if its source or MANO forbids the use."""
    known = [] if shard.kind in STATED_BY_VIDEO else [of_source(source)]
    text = refusal([*known, *of_hand_model(shard.hand_model)], use)
    if text:
        raise ValueError(text)


def of_source(source: Source) -> Terms:
    return Terms(source.title, source.licence, source.noncommercial, source.redistributable)


def of_hand_model(folder: str | Path | None) -> list[Terms]:
    """MANO's terms, if a folder holds MANO rather than the stand-in. Raises FileNotFoundError if it holds neither."""
    return [_mano()] if folder is not None and _holds_mano(Path(folder)) else []


def row_terms(clip: Clip, hand_model: str | None) -> dict[str, object]:
    """The columns of the clips table that say what may be done with a clip and with the hands made from it."""
    more = of_hand_model(hand_model)
    return {
        "licence": "; hands: ".join([clip.licence, *(terms.licence for terms in more)]),
        "noncommercial": clip.noncommercial or bool(more),
        "redistributable": clip.redistributable,
    }


def of_tables(clips: pl.DataFrame, hand_models: Iterable[str]) -> list[Terms]:
    """Terms of the rows of the clips table and of the hand models that their hands were made with."""
    columns = ["source", "licence", "noncommercial", "redistributable"]
    rows = [Terms(*row) for row in clips.select(columns).unique().iter_rows()]
    return rows + [_mano()] * any(name.startswith("mano") for name in hand_models)


def hand_models_of(mano_fits: Path) -> set[str]:
    """Names of hand models in the mano_fits of one shard's folder or of all shards; none where there is no table."""
    files = [
        path for path in (mano_fits / "mano_fits.parquet", *mano_fits.glob("*/mano_fits.parquet")) if path.is_file()
    ]
    return set(pl.scan_parquet(files).select("hand_model").unique().collect()["hand_model"]) if files else set()


@lru_cache(maxsize=16)
def _holds_mano(folder: Path) -> bool:
    from ops.hands.mano import load_models

    return load_models(folder)["right"].name.startswith("mano")


def _mano() -> Terms:
    return Terms("hand model", MANO, noncommercial=True, redistributable=True)
