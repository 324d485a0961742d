"""Hand3D as an ordinary user writes it: a loop over rows with dictionaries and JSON lines, in plain Python or with one
numpy call after another for each row. Same rules, same ids, same words as ops.hand3d; what is left out is not recorded."""

import bisect
import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from ops.hand3d import language
from ops.hand3d.directions import phrase

MASK = (1 << 64) - 1
PALM = (0, 5, 9, 13, 17)


def hash64(text: str, seed: int, purpose: str) -> int:
    """ops.hand3d.stable in Python integers."""
    start = zlib.crc32(f"{seed}:{purpose}".encode())
    crc = zlib.crc32(text.encode(), start)
    mixed = (crc << 32) | (crc ^ start)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return mixed ^ (mixed >> 31)


def write(rows: Iterator[dict], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Maths:
    """How a row's numbers are worked out. Points are lists or arrays of three."""

    difference: Callable
    mean: Callable
    move: Callable  # (T 4x4, point) -> T p
    back: Callable  # (T 4x4, point) -> T^-1 p
    length: Callable
    read: Callable  # polars column of points -> rows


def _move(T, p):
    return [T[i][0] * p[0] + T[i][1] * p[1] + T[i][2] * p[2] + T[i][3] for i in range(3)]


def _back(T, p):
    q = [p[i] - T[i][3] for i in range(3)]
    return [T[0][i] * q[0] + T[1][i] * q[1] + T[2][i] * q[2] for i in range(3)]


PLAIN = Maths(
    difference=lambda a, b: [x - y for x, y in zip(a, b, strict=True)],
    mean=lambda points: [sum(p[i] for p in points) / len(points) for i in range(3)],
    move=_move,
    back=_back,
    length=lambda v: math.sqrt(sum(c * c for c in v)),
    read=lambda column: column.to_list(),
)
NUMPY = Maths(
    difference=lambda a, b: np.asarray(a, np.float64) - b,
    mean=lambda points: np.mean(np.asarray(points, np.float64), axis=0),
    move=lambda T, p: T[:3, :3] @ p + T[:3, 3],
    back=lambda T, p: T[:3, :3].T @ (p - T[:3, 3]),
    length=lambda v: float(np.linalg.norm(v)),
    read=lambda column: column.to_numpy().astype(np.float64),
)


def visual_rows(world, gamma: float, seed: int, per_moment: int, maths: Maths) -> Iterator[dict]:
    """Rows of still cameras: relations, completions, hand movements. world: ops.hand3d.full_size.VisualWorld."""
    fits = {}
    for clip_id, frame, side, tau, joints in zip(*(world.fits[n] for n in ("clip_id", "frame", "side")), *(maths.read(world.fits[n]) for n in ("tau", "joints_cam")), strict=True):  # fmt: skip
        fits[clip_id, frame, side] = tau, maths.mean([joints[3 * j : 3 * j + 3] for j in PALM])
    places = {}
    for clip_id, frame, name, place in zip(*(world.positions[n] for n in ("clip_id", "frame", "name")), maths.read(world.positions["position_cam"]), strict=True):  # fmt: skip
        places.setdefault((clip_id, frame), []).append((name, place))
    for clip in world.clips:
        times_s = clip.times_s.tolist()
        frames = list(range(0, clip.num_frames, round(clip.fps)))
        poses = clip.T_cam_world if maths is NUMPY else clip.T_cam_world.tolist()
        text = clip.instructions[0]
        for n, frame in enumerate(frames):
            shown = frames[max(0, n - 3) : n + 1]
            palms = {side: fits[clip.clip_id, frame, side][1] for side in ("left", "right")}
            for side, palm in palms.items():
                for name, place in places[clip.clip_id, frame]:
                    key = f"{clip.clip_id}:spatial_relation:{frame}:{side}:{name}"
                    yield _visual(
                        "spatial_relation", key, shown, side, name, maths.difference(place, palm), gamma, seed, maths
                    )
                target, place = places[clip.clip_id, frame][0]
                if times_s[frame] < text.end_s:
                    key = f"{clip.clip_id}:task_completion:{frame}:{side}:0"
                    yield from _completions(key, shown, side, target, maths.difference(place, palm), text.text, gamma, seed, per_moment, maths)  # fmt: skip
            side = ("left", "right")[hash64(f"{clip.clip_id}:{frame}", seed, "reference hand") % 2]
            other = "right" if side == "left" else "left"
            key = f"{clip.clip_id}:spatial_relation:{frame}:{side}:{other} hand"
            yield _visual("spatial_relation", key, shown, side, f"{other} hand", maths.difference(palms[other], palms[side]), gamma, seed, maths)  # fmt: skip
            for side in palms if n else ():
                key = f"{clip.clip_id}:hand_movement:{frame}:{side}"
                first = frames[n - 1 - hash64(key, seed, "gap") % min(n, 3)]
                start = maths.move(poses[frame], maths.back(poses[first], fits[clip.clip_id, first, side][0]))
                moved = maths.difference(fits[clip.clip_id, frame, side][0], start)
                yield _visual("hand_movement", key, [first, frame], side, None, moved, gamma, seed, maths)


def _completions(key, shown, side, target, vector, text, gamma, seed, per_moment, maths):
    first = min(1 + hash64(key, seed, "number of frames") % 4, len(shown))
    for number in range(min(per_moment, len(shown))):
        frames = shown[-((first - 1 + number) % len(shown) + 1) :]
        name = f"{key}:{number + 1}" if number else key
        yield _visual(
            "task_completion", name, frames, side, target, vector, gamma, seed, maths, language.sentence(text)
        )


def _visual(task, key, shown, side, name, vector, gamma, seed, maths, text="") -> dict:
    if task == "spatial_relation":
        shown = shown[-min(1 + hash64(key, seed, "number of frames") % 4, len(shown)) :]
    vector = [float(np.float32(c)) for c in vector]
    exact_m = maths.length(vector)
    distance_m = float(np.float32(exact_m))
    still = distance_m < float(np.float32(0.005))
    direction = [0 if still or abs(c) <= gamma * exact_m else (1 if c > 0 else -1) for c in vector]
    drawn = hash64(key, seed, "templates")
    questions, answers = language.QUESTIONS[task], language.ANSWERS[task]
    words = {
        "hand": f"{side} hand", "object": name, "where": phrase(tuple(direction), language.STILL_WORDS[task]),
        "metres": f"{distance_m:.2f}", "task": text,
    }  # fmt: skip
    question = questions[(drawn & 0xFFFFFFFF) % len(questions)].format(**words)
    answer = answers[(drawn >> 32) % len(answers)].format(**words)
    return {
        "row_id": key, "task": task, "frames": shown, "side": side, "object": name, "vector": vector,
        "distance_m": distance_m, "direction": direction, "question": question, "answer": answer,
    }  # fmt: skip


def action_rows(known, fits: pl.DataFrame, config, maths: Maths) -> Iterator[dict]:
    """Rows of clips with one text for one hand. known, fits: as ops.hand3d.full_size.action_world gives them."""
    starts = known.first.tolist()
    wrists = fits.partition_by("clip_id", as_dict=True)
    for clip, (clip_id, start_s, end_s, side, text) in enumerate(
        zip(known.about["clip_id"], *(known.instructions[n] for n in ("start_s", "end_s", "side", "text")), strict=True)
    ):
        here = slice(starts[clip], starts[clip + 1])
        times_s = known.times_s[here].tolist()
        poses = known.T_cam_world[here] if maths is NUMPY else known.T_cam_world[here].tolist()
        seen = wrists[(clip_id,)]
        world = [maths.back(poses[f], p) for f, p in zip(seen["frame"].to_list(), maths.read(seen["tau"]), strict=True)]
        seen_s = [times_s[f] for f in seen["frame"].to_list()]
        said = language.sentence(text)
        for chunk, level, index, from_s, to_s in _windows(start_s, min(end_s, times_s[-1]), times_s[-1], config):
            hz = min(config.waypoint_hz, config.max_waypoints / (to_s - from_s))
            num = int((to_s - from_s) * hz + 1e-6)
            if num < 4 or to_s - from_s < 0.5 * config.window_s - 1e-9:
                continue
            points = [_between(seen_s, world, from_s + i / hz) for i in range(num)]
            path_m = sum(maths.length(maths.difference(b, a)) for a, b in pairwise(points))
            if path_m < config.min_displacement_m:
                continue
            key = f"{chunk}:{level}:{index}:{side}"
            for task, seen_num, image in (("instructional_motion_generation", 0, 0), ("contextual_motion_prediction", num // 2, num // 2 - 1), ("motion_translation", num, 0)):  # fmt: skip
                frame = bisect.bisect_right(times_s, from_s + image / hz + 1e-6) - 1
                row = _action(
                    f"{clip_id}:{task}:{key}", task, said, side, points, poses[frame], seen_num, hz, config, maths
                )
                if row is not None:
                    yield row | {"frame": frame, "displacement_m": float(np.float32(path_m))}


def _windows(start_s, end_s, duration_s, config):
    for chunk in range(math.ceil(duration_s / config.chunk_s - 1e-9)):
        first_s, last_s = max(start_s, chunk * config.chunk_s), min(end_s, (chunk + 1) * config.chunk_s)
        if last_s <= first_s:
            continue
        yield chunk, "chunk", 0, first_s, last_s
        length_s, index = min(config.window_s, last_s - first_s), 0
        for piece in range(1 + max(0, int((last_s - first_s - config.window_s) / config.window_s + 1e-9))):
            from_s = first_s + piece * config.window_s
            if not (math.isclose(from_s, first_s) and math.isclose(from_s + length_s, last_s, rel_tol=1e-5)):
                yield chunk, "second", index, from_s, from_s + length_s
                index += 1


def _between(seen_s, world, time_s):
    after = bisect.bisect_left(seen_s, time_s - 5e-7)
    if abs(seen_s[after] - time_s) <= 5e-7:
        return world[after]
    weight = (time_s - seen_s[after - 1]) / (seen_s[after] - seen_s[after - 1])
    return [a + weight * (b - a) for a, b in zip(world[after - 1], world[after], strict=True)]


def _action(key, task, said, side, points, pose, seen_num, hz, config, maths) -> dict | None:
    share = {"contextual_motion_prediction": config.prediction_share, "motion_translation": config.translation_share}.get(task, 1.0)  # fmt: skip
    if hash64(key, config.seed, "share") >= int(share * 2**53) << 11:
        return None
    cam = [maths.move(pose, p) for p in points]
    outside = sum(any(not low <= c <= low + 1 for c, low in zip(p, (-0.5, -0.5, 0.0), strict=True)) for p in cam)
    if outside > config.max_clipped_share * len(cam):
        return None
    if maths is NUMPY:
        bins = np.clip(np.floor((np.array(cam) - [-0.5, -0.5, 0.0]) * 1024), 0, 1023).astype(int).reshape(-1).tolist()
    else:
        bins = [
            min(max(math.floor((c - low) * 1024), 0), 1023)
            for p in cam
            for c, low in zip(p, (-0.5, -0.5, 0.0), strict=True)
        ]
    steps = len(cam) if task == "motion_translation" else len(cam) - seen_num
    templates = language.PROMPTS[task]
    words = {
        "task": said,
        "hand": f"{side} hand",
        "steps": steps,
        "seconds": f"{round(steps / float(np.float32(hz)) * 10) / 10:.1f}",
    }
    prompt = templates[hash64(key, config.seed, "prompt") % len(templates)].format(**words)
    return {
        "row_id": key, "context_tokens": bins[: 3 * seen_num], "target_tokens": bins[3 * seen_num :], "prompt": prompt,
        "waypoints": [float(np.float32(c)) for p in cam for c in p], "num_clipped": outside,
    }  # fmt: skip
