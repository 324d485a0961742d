"""How many rows the paper has of each source and of each task (VIPA-VLA, Tables 1 and 2; supplementary Tables 6 and 7).

Both tables give sums over the other side only; how many rows of a task each source has is not published.
"""

from collections.abc import Mapping
from dataclasses import dataclass

VISUAL_BY_SOURCE = {
    "Arctic": 100_772, "OakInk2": 45_926, "TACO": 39_087, "H2O": 32_390, "HOI4D": 28_977, "EgoDex": 28_200, "FPHA": 12_918,
    "Taste-Rob": 7_181, "Dex-YCB": 4_917,
}  # fmt: skip
VISUAL_BY_TASK = {
    "spatial_relation": 74_887, "task_completion": 206_409, "hand_movement": 18_867, "camera_movement": 205,
}  # fmt: skip
ACTION_BY_SOURCE = {
    "EgoDex": 758_050, "Arctic": 104_032, "TACO": 77_100, "OakInk2": 54_470, "HOI4D": 19_812, "H2O": 17_386,
}  # fmt: skip
ACTION_BY_TASK = {
    "instructional_motion_generation": 610_192, "contextual_motion_prediction": 280_545, "motion_translation": 140_113,
}  # fmt: skip


@dataclass(frozen=True)
class Targets:
    """Rows wanted of each source (by `source_key`) and of each task; both add up to the same number."""

    by_source: Mapping[str, int]
    by_task: Mapping[str, int]

    @property
    def num_rows(self) -> int:
        return sum(self.by_task.values())


def source_key(source: str) -> str:
    """Spelling does not matter: "Dex-YCB", "dexycb" and "dex_ycb" are one source."""
    return "".join(letter for letter in source.lower() if letter.isalnum())


def paper(dataset: str, num_rows: int | None = None) -> Targets:
    """The paper's targets of "visual" or "action"; num_rows: the same proportions for another total."""
    tables = {"visual": (VISUAL_BY_SOURCE, VISUAL_BY_TASK), "action": (ACTION_BY_SOURCE, ACTION_BY_TASK)}
    sources, tasks = tables[dataset]
    by_source = {source_key(name): rows for name, rows in sources.items()}
    if num_rows is None:
        return Targets(by_source, dict(tasks))
    return Targets(_scaled(by_source, num_rows), _scaled(tasks, num_rows))


def _scaled(rows: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole numbers in the same proportions (largest remainders)."""
    if total < 1:
        raise ValueError(f"num_rows is {total}: give at least 1, or null for the paper's own number")
    exact = {name: count * total / sum(rows.values()) for name, count in rows.items()}
    out = {name: int(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda name: out[name] - exact[name])[: total - sum(out.values())]:
        out[name] += 1
    return out
