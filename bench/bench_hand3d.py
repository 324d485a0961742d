"""Hand3D at the paper's size: motion tokens, and question-answer rows from displacements to a file.

The peers are the ways an ordinary user writes them: one numpy call a trajectory, and one loop of f-strings with JSON
lines. Both sides make the same numbers and the same text, which is asserted.
"""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from bench.measure import cpu_s, row
from ops import tables
from ops.hand3d import action, language, motion_tokens, visual
from ops.hand3d.directions import phrase
from ops.hand3d.relations import CANDIDATE
from ops.hand3d.stable import stable_hash
from ops.tables import vec

NUM_TRAJECTORIES, NUM_ROWS = 100_000, 100_000
GAMMA, SEED = 0.3, 42


def rows() -> list[dict[str, object]]:
    points, offsets = _trajectories()
    return [_ids(points, offsets), _tokens_to_file(points, offsets), _question_rows()]


def _trajectories() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    nums = rng.integers(8, 33, NUM_TRAJECTORIES)
    offsets = np.concatenate([[0], np.cumsum(nums)])
    points = np.array([0.0, 0.0, 0.5]) + np.cumsum(rng.normal(0, 0.004, (offsets[-1], 3)), axis=0) % 0.4 - 0.2
    return points, offsets


def _encode_per_row(trajectories: list[np.ndarray]) -> list[np.ndarray]:
    low, span = np.array([-0.5, -0.5, 0.0]), np.array([1.0, 1.0, 1.0])
    return [np.clip(np.floor((t - low) / span * 1024), 0, 1023).astype(np.uint16).reshape(-1) for t in trajectories]


def _ids(points: np.ndarray, offsets: np.ndarray) -> dict[str, object]:
    trajectories = np.split(points, offsets[1:-1])
    assert (motion_tokens.encode(points)[0].reshape(-1) == np.concatenate(_encode_per_row(trajectories))).all()
    ours_s = cpu_s(lambda: motion_tokens.encode(points), 5)
    peer_s = cpu_s(lambda: _encode_per_row(trajectories), 3)
    return row(
        "motion tokens",
        NUM_TRAJECTORIES,
        ours_s,
        peer_s,
        "trajectories/s",
        "flat over ragged rows vs one numpy call a row",
    )


def _tokens_to_file(points: np.ndarray, offsets: np.ndarray) -> dict[str, object]:
    trajectories = np.split(points, offsets[1:-1])
    with tempfile.TemporaryDirectory() as folder:
        ours_file, peer_file = Path(folder) / "ours.parquet", Path(folder) / "peer.jsonl"

        def ours() -> None:
            tokens, _ = motion_tokens.encode(points)
            pl.DataFrame({"tokens": action.ragged(tokens, offsets)}).write_parquet(ours_file, compression="zstd")

        def peer() -> None:
            with peer_file.open("w", encoding="utf-8") as file:
                for ids in _encode_per_row(trajectories):
                    file.write(json.dumps({"tokens": "".join(f"<motion_{i}>" for i in ids.tolist())}) + "\n")

        ours_s, peer_s = cpu_s(ours, 3), cpu_s(peer, 1)
        size = f"{peer_file.stat().st_size / ours_file.stat().st_size:.1f}x fewer bytes"
    return row(
        "motion tokens to a file",
        NUM_TRAJECTORIES,
        ours_s,
        peer_s,
        "trajectories/s",
        f"uint16 lists in parquet vs token text in JSON lines, {size}",
    )


def _candidates() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    number = np.arange(NUM_ROWS)
    side = pl.Series(np.where(number % 2, "left", "right"))
    made = pl.DataFrame(
        {
            "row_id": [f"bench/clip-{i // 75:04d}:spatial_relation:{i % 75}:{i % 2}:red cube" for i in range(NUM_ROWS)],
            "clip_id": [f"bench/clip-{i // 75:04d}" for i in range(NUM_ROWS)], "side": side,
            "frames": pl.Series([[int(f)] for f in number % 75], dtype=pl.List(pl.Int32)),
            "vector": pl.Series(rng.normal(0, 0.2, (NUM_ROWS, 3)).astype(np.float32), dtype=vec(3)),
        }
    )  # fmt: skip
    fixed = {"source": "bench", "split": "train", "licence": "CC0", "task": "hand_movement", "object": None, "instruction": None, "rotation": None, "contact": None, "scale": 1.0}  # fmt: skip
    filled = made.with_columns(pl.lit(value, dtype=CANDIDATE[name]).alias(name) for name, value in fixed.items())
    return filled.select(CANDIDATE.keys())


def _row_in_a_loop(row: dict, question: str, answer: str) -> dict[str, object]:
    x, y, z = row["vector"]
    distance_m = float(np.float32(math.sqrt(x * x + y * y + z * z)))
    direction = (
        [0, 0, 0]
        if distance_m < 0.005
        else [0 if abs(c) <= GAMMA * distance_m else (1 if c > 0 else -1) for c in (x, y, z)]
    )
    words = {"hand": f"{row['side']} hand", "where": phrase(tuple(direction)), "metres": f"{distance_m:.2f}"}
    return row | {
        "distance_m": distance_m,
        "direction": direction,
        "question": question.format(**words),
        "answer": answer.format(**words),
    }


def _question_rows() -> dict[str, object]:
    candidates = _candidates()
    plain = candidates.drop("instruction").to_dicts()
    questions, answers = language.QUESTIONS["hand_movement"], language.ANSWERS["hand_movement"]
    drawn = stable_hash(candidates["row_id"], SEED, "templates").tolist()
    which = [((h & 0xFFFFFFFF) % len(questions), (h >> 32) % len(answers)) for h in drawn]
    with tempfile.TemporaryDirectory() as folder:
        ours_file, peer_file = Path(folder) / "ours.parquet", Path(folder) / "peer.jsonl"

        def ours() -> None:
            tables.write("visual_rows", visual.label(candidates, GAMMA, SEED), ours_file)

        def peer() -> None:  # is given which template to use, which ours works out from the row's id
            with peer_file.open("w", encoding="utf-8") as file:
                for row, (q, a) in zip(plain, which, strict=True):
                    file.write(json.dumps(_row_in_a_loop(row, questions[q], answers[a])) + "\n")

        ours_s, peer_s = cpu_s(ours, 5), cpu_s(peer, 2)
        made = tables.read("visual_rows", ours_file)
        looped = [json.loads(line) for line in peer_file.open(encoding="utf-8")]
        for name in ("row_id", "direction", "question", "answer"):
            assert made[name].to_list() == [row[name] for row in looped], name
        size = f"{peer_file.stat().st_size / ours_file.stat().st_size:.1f}x fewer bytes"
    return row(
        "question rows to a file",
        NUM_ROWS,
        ours_s,
        peer_s,
        "rows/s",
        f"columns and parquet vs loop and JSON lines, same text, {size}",
    )
