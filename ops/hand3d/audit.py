"""A sample of released rows, recomputed from the labels by a plain second way (ops.hand3d.verify): the blocking check.

The rows are read back from the release's own Parquet files, the truth from the sources' labels, hand fits and calibrated
object positions; nothing of the code that made the rows is called. Metres, camera frame of a row's last frame.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from jaxtyping import Float

from ops import tables
from ops.hand3d import verify
from ops.hand3d.release.frames import read_clips_table
from ops.hand3d.stable import stable_hash
from ops.sources.base import Clip
from ops.sources.manifest import read_clip

PATH_TOLERANCE_M = 1e-4
LABEL_TOLERANCE_M = 1e-3
MIN_PER_TASK = 30  # over all files, and 2 a file
SHOWN_PROBLEMS = 50


@dataclass(frozen=True)
class Inputs:
    """Where truth lies: artefact folders of all shards, and the workspace."""

    root: Path
    raw_videos: Path
    mano_fits: Path
    calibrated: Path
    shards: list[str]


@dataclass
class Audit:
    """checked: task -> rows. problems: a sentence each. labels: task -> distance of each row from the source's own label, m;
    positions of objects are measured, so those differ (reported), while hands and cameras must not (a problem)."""

    checked: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    labels: dict[str, list[float]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        num = sum(self.checked.values())
        if self.problems:
            return f"{len(self.problems)} of {num} rows or their numbers disagree: {'; '.join(self.problems[:3])}"
        return f"{num} released rows recomputed from the labels, all agree ({', '.join(f'{n} {t}' for t, n in sorted(self.checked.items()))})"


def audit(release: Path, inputs: Inputs, gamma: float, num: int, seed: int) -> Audit:
    """Recompute about `num` rows of a release, and some of each task in each file however rare it is."""
    files = sorted(p for kind in ("visual", "action") for p in (release / "parquet" / kind).glob("*.parquet"))
    total = sum(pq.ParquetFile(path).metadata.num_rows for path in files)
    clips = read_clips_table(inputs.raw_videos, inputs.shards)
    found = Audit()
    for path in files:
        share = pq.ParquetFile(path).metadata.num_rows / total
        rows = sample(path, round(num * share), max(2, MIN_PER_TASK // len(files)), seed)
        where = rows.join(clips.select("clip_id", "shard"), on="clip_id", how="left", maintain_order="left")
        lost = where.filter(pl.col("shard").is_null())["row_id"].to_list()
        found.problems += [f"{row_id}: its clip is not in raw_videos" for row_id in lost]
        for (shard,), part in where.filter(pl.col("shard").is_not_null()).group_by("shard", maintain_order=True):
            known = clips.filter(shard=shard).filter(pl.col("clip_id").is_in(part["clip_id"].unique().implode()))
            check = _visual if path.parent.name == "visual" else _action
            check(part.drop("shard"), known, inputs, str(shard), gamma, found)
    found.problems = found.problems[:SHOWN_PROBLEMS]
    return found


def sample(path: Path, num: int, least: int, seed: int) -> pl.DataFrame:
    """About `num` rows of a table, those with the smallest hashes; at least `least` of each task where there are so many."""
    best: dict[str, list[tuple[int, str]]] = {}
    counts: Counter = Counter()
    for batch in pq.ParquetFile(path).iter_batches(columns=["row_id", "task"]):
        for (task,), part in pl.DataFrame(batch).group_by("task"):
            counts[task] += len(part)
            hashes = stable_hash(part["row_id"], seed, "audit").tolist()
            best[task] = sorted([*best.get(task, []), *zip(hashes, part["row_id"], strict=True)])[: num + least]
    total = counts.total()
    wanted = {task: max(least, round(num * count / total)) for task, count in counts.items()}
    ids = [row_id for task, ranked in best.items() for _, row_id in ranked[: wanted[task]]]
    return pl.scan_parquet(path).filter(pl.col("row_id").is_in(ids)).collect()


def _visual(rows: pl.DataFrame, clips: pl.DataFrame, inputs: Inputs, shard: str, gamma: float, found: Audit) -> None:
    keys = rows.select("clip_id", frame="frames").explode("frame").unique()
    fits = _at(inputs.mano_fits / shard / "mano_fits.parquet", keys)
    positions = _at(inputs.calibrated / shard / "object_positions.parquet", keys)
    known = verify.truth(_clips(clips, inputs.root), fits, positions)
    found.checked.update(dict(rows["task"].value_counts().iter_rows()))
    found.problems += verify.disagreements(rows, known, gamma)
    for row in rows.iter_rows(named=True):
        _compare_with_labels(row, known.clips[row["clip_id"]], found)


def _at(path: Path, keys: pl.DataFrame) -> pl.DataFrame:
    """Rows of an upstream table at some (clip_id, frame)."""
    return pl.scan_parquet(path).join(keys.lazy(), on=["clip_id", "frame"], how="semi").collect()


def _clips(clips: pl.DataFrame, root: Path) -> Iterator[Clip]:
    return (read_clip(row, root) for row in clips.iter_rows(named=True))


def _compare_with_labels(row: dict, clip: Clip, found: Audit) -> None:
    """The row's vector against the source's own wrist, camera and object labels, where it has them; an object's is
    taken from where the row's begins, which the second route confirms."""
    expected = _from_labels(row, clip)
    if expected is None:
        return
    error_m = float(np.linalg.norm(np.array(row["vector"], float) - expected))
    found.labels.setdefault(row["task"], []).append(error_m)
    if row["task"] in ("hand_movement", "camera_movement") and error_m > LABEL_TOLERANCE_M:
        found.problems.append(f"{row['row_id']}: {error_m * 1000:.1f} mm from what the source's labels say")


def _from_labels(row: dict, clip: Clip) -> np.ndarray | None:
    first, last, pose = row["frames"][0], row["frames"][-1], clip.T_cam_world
    if row["task"] == "camera_movement":
        return -(pose[last] @ np.linalg.inv(pose[first]))[:3, 3]
    if row["task"] == "hand_movement":
        hand = clip.hands.get(row["side"])
        if hand is None or not (hand.valid[first] and hand.valid[last]):
            return None
        change = np.eye(4) if pose is None else pose[last] @ np.linalg.inv(pose[first])
        return hand.tau[last] - (change[:3, :3] @ hand.tau[first] + change[:3, 3])
    other = next((o for o in clip.objects if o.name == row["object"] and o.position_cam is not None), None)
    if other is None or not np.isfinite(other.position_cam[last]).all():
        return None
    return other.position_cam[last] - np.array(row["start"], float)


def _action(rows: pl.DataFrame, clips: pl.DataFrame, inputs: Inputs, shard: str, gamma: float, found: Audit) -> None:
    seen = (
        pl.scan_parquet(inputs.mano_fits / shard / "mano_fits.parquet")
        .filter(pl.col("clip_id").is_in(rows["clip_id"].unique().implode()))
        .select("clip_id", "frame", "side", "tau", "route")
        .sort("frame")
        .collect()
    )
    known = {clip.clip_id: clip for clip in _clips(clips, inputs.root)}
    found.checked.update(dict(rows["task"].value_counts().iter_rows()))
    found.problems += _motions(rows)
    for row in rows.iter_rows(named=True):
        error_m = off_path_m(row, known[row["clip_id"]], seen.filter(clip_id=row["clip_id"]))
        found.labels.setdefault(row["task"], []).append(error_m)
        if error_m > PATH_TOLERANCE_M:
            found.problems.append(f"{row['row_id']}: a waypoint lies {error_m * 1000:.2f} mm off the wrist's own path")


def _motions(rows: pl.DataFrame) -> list[str]:
    """Tokens, clipped points and path lengths against the waypoints; a row of both hands is looked at hand by hand."""
    single = rows.filter(pl.col("side") != tables.BOTH)
    problems = verify.motion_disagreements(single)
    for row in rows.filter(side=tables.BOTH).iter_rows(named=True):
        hands = [_one_hand(row, number) for number in range(2)]
        problems += verify.motion_disagreements(pl.DataFrame(hands, rows.schema))
        longest_m, clipped = max(hand["displacement_m"] for hand in hands), sum(hand["num_clipped"] for hand in hands)
        if abs(longest_m - row["displacement_m"]) > PATH_TOLERANCE_M:
            problems.append(
                f"{row['row_id']}: path is {row['displacement_m']:.4f} m, the longer hand's {longest_m:.4f} m"
            )
        if clipped != row["num_clipped"]:
            problems.append(
                f"{row['row_id']}: {row['num_clipped']} waypoints said to be clipped, {clipped} lie outside"
            )
    return problems


def _one_hand(row: dict, number: int) -> dict:
    """The left (0) or right (1) hand of a row of both, as a row of its own with its own path and clipped points."""
    own = {name: [row[name][i + k] for i in range(3 * number, len(row[name]), 6) for k in range(3)] for name in ("waypoints", "context_tokens", "target_tokens")}  # fmt: skip
    points = np.array(own["waypoints"], float).reshape(-1, 3)
    outside = (np.abs(points[:, :2]) > 0.5).any(1) | (points[:, 2] < 0) | (points[:, 2] > 1)
    path_m = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    return row | own | {"side": ("left", "right")[number], "num_clipped": int(outside.sum()), "displacement_m": path_m}


def off_path_m(row: dict, clip: Clip, seen: pl.DataFrame) -> float:
    """Largest distance of a row's waypoints from the polyline through its wrist's sightings, in the world.

    seen: frame, side, tau, route of the row's clip. Where the source labels the hand, its label takes the fit's place.
    """
    pose = np.tile(np.eye(4), (clip.num_frames, 1, 1)) if clip.T_cam_world is None else clip.T_cam_world
    at = pose[row["frame"]]
    points = [
        at[:3, :3].T @ (np.array(row["waypoints"][i : i + 3]) - at[:3, 3]) for i in range(0, len(row["waypoints"]), 3)
    ]
    sides = ["left", "right"] if row["side"] == tables.BOTH else [row["side"]]
    worst_m = 0.0
    for number, side in enumerate(sides):
        line = _wrist_world(clip, seen.filter(side=side), side, pose)
        worst_m = max([worst_m, *(_distance_m(point, line) for point in points[number :: len(sides)])])
    return worst_m


def _wrist_world(clip: Clip, seen: pl.DataFrame, side: str, pose: np.ndarray) -> Float[np.ndarray, "n 3"]:
    label, places = clip.hands.get(side), []
    for frame, tau, route in seen.select("frame", "tau", "route").iter_rows():
        given = label is not None and route == "labels" and label.valid[frame]
        wrist = label.tau[frame] if given else np.array(tau, float)
        places.append(pose[frame][:3, :3].T @ (wrist - pose[frame][:3, 3]))
    return np.array(places)


def _distance_m(point: Float[np.ndarray, " 3"], line: Float[np.ndarray, "n 3"]) -> float:
    """From a point to the nearest place on a polyline."""
    if len(line) == 1:
        return float(np.linalg.norm(point - line[0]))
    start, step = line[:-1], np.diff(line, axis=0)
    length2 = np.maximum((step**2).sum(1), 1e-18)
    along = np.clip(((point - start) * step).sum(1) / length2, 0, 1)
    return float(np.linalg.norm(start + along[:, None] * step - point, axis=1).min())


def inputs_of(folder_of, root: Path, shards: list[str]) -> Inputs:
    """folder_of: name of an artefact -> its folder (StageContext.input, checks.Made.input)."""
    return Inputs(root, folder_of("raw_videos"), folder_of("mano_fits"), folder_of("calibrated_point_clouds"), shards)


def read_rows(release: Path, kind: str, ids: list[str]) -> pl.DataFrame:
    """Some rows of a release by id, in the order of the ids."""
    files = sorted((release / "parquet" / kind).glob("*.parquet"))
    if not files or not ids:
        return tables.frame(f"{kind}_rows", [])
    found = pl.concat([pl.scan_parquet(path).filter(pl.col("row_id").is_in(ids)).collect() for path in files])
    order = pl.DataFrame({"row_id": ids})
    return order.join(found, on="row_id", how="inner", maintain_order="left").select(found.columns)
