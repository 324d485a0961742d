"""UniHand_Preview: VIPA-VLA's nine sources as LeRobot v3 files, a video file a clip with episodes as spans of text.

    data/chunk-XXX/file-XXX.parquet        one row a frame of videos/ego-view/chunk-XXX/file-XXX.mp4 of the same number
    meta/info.json                         layout "file-centric-...", base_dataset, dataset_variants, features, fps
    meta/episodes/{instruction,description}/chunk-*/*.parquet, meta/tasks_{instruction,description}.jsonl

The columns are not documented in public, so they are found by name and size in info.json, and a file that lacks one is refused
with the list of what it has. Hands are the 200 numbers of Being-H's unified vector (`HAND_SLOTS`).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import SIDES, Clip, HandTrack, Instruction, Source, read_each
from ops.sources.example import Truth
from ops.sources.raw_video import centred_camera, clip_id, duration_s, find_up, per_file, read_shared_json, side_of
from ops.sources.world_labels import finite
from ops.video import VideoInfo, probe, write_video

KIND = "unihand"
SOURCE = Source(
    kind=KIND,
    title="UniHand_Preview, human data",
    licence="none stated; the terms of its nine sources apply",
    noncommercial=True,
    redistributable=False,
    gated=False,
    needs_mano=True,
    url="https://huggingface.co/datasets/BeingBeyond/UniHand_Preview",
    how_to_get="Download human_data/*_lerobot_v3.tar and unpack each into a folder; add your MANO files (hand_model).",
    notes=(
        "No real file has been seen: columns are found by name, meanings are those of Being-H's published unified vector.",
        "Its frame is taken for the camera's and its position for the wrist's, as in the group's earlier code.",
        "Mirrored variants (split-mirror) are other videos of the same scenes: keep them in one split.",
    ),
)
VIEW = "ego-view"
WIDTH = 200
STATE_NAMES = ("observation.state", "state", "action")
"""Where the unified vector may stand; the first that has 200 numbers is taken."""
# ASSUMED: wrist position (m) and axis-angle in the camera frame, OpenCV axes, flat hand mean, as in Being-H0's code
HAND_SLOTS = {
    "right": {"tau": (0, 3), "r": (3, 6), "beta": (90, 100), "theta": (110, 155)},
    "left": {"tau": (9, 12), "r": (12, 15), "beta": (100, 110), "theta": (155, 200)},
}
# ASSUMED: every video was warped to EgoDex's camera, the one K of the group's training configuration
K_UNIHAND = np.array([[736.6339, 0, 960], [0, 736.6339, 540], [0, 0, 1]])
EXAMPLE = {"camera": PinholeCamera.from_opencv(K_UNIHAND, 1920, 1080).resized(640, 360)}
SPANS = (("from_frame", "to_frame"), ("start_frame", "end_frame"), ("dataset_from_index", "dataset_to_index"))
TEXTS = ("instruction", "task", "tasks", "task_index")


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """Video files of all unpacked archives at or below root, sorted."""
    return sorted(root.glob(f"**/videos/{view or VIEW}/chunk-*/file-*.mp4"))


def side_files(video: Path) -> list[Path]:
    """The rows of the video, and the tables of text; those that exist."""
    meta = find_up(video, "meta/info.json", levels=6)
    if meta is None:
        return []
    texts = [*meta.parent.glob("episodes/instruction/chunk-*/*.parquet"), meta.parent / "tasks_instruction.jsonl"]
    rows = _rows_file(meta, video)
    return [meta, *([rows] if rows.is_file() else []), *sorted(path for path in texts if path.is_file())]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """A file's video with both hands. A hand whose numbers are all zero in a frame is not labelled there.

    Raises ClipError: MISSING_HAND_MODEL, MISSING_LABELS (no rows), BAD_LABEL (columns not found; it lists what there is),
    FRAME_COUNT_MISMATCH, NAN_LABEL, UNSUPPORTED_CAMERA, and what probing the video raises.
    """
    info = info or probe(video)
    if shard.hand_model is None:
        raise ClipError(Reason.MISSING_HAND_MODEL, "UniHand's hands are MANO parameters: give the shard a hand_model")
    meta = find_up(video, "meta/info.json", levels=6)
    if meta is None:
        raise ClipError(Reason.MISSING_LABELS, f"no meta/info.json above {video.name}")
    description = read_shared_json(meta)
    rows = _rows(meta, video, description, info.num_frames)
    return Clip(
        clip_id=clip_id(video, shard),
        source=shard.source,
        kind=KIND,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=_camera(info),
        intrinsics="assumed",
        split="",
        hands={side: _hand(rows, side) for side in SIDES},
        hand_model=Path(shard.hand_model),
        instructions=_instructions(meta, video, info),
        view=shard.view or VIEW,
        **SOURCE.terms()
        | {"licence": f"none stated (UniHand of {description.get('base_dataset', 'no named source')})"},
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Files one by one; unreadable ones as Reject. hand_model: folder of the MANO files."""
    model = hand_model and str(hand_model)
    return read_each(list_videos, read_clip, ShardConfig(KIND, KIND, str(root), view=view, hand_model=model))


def _camera(info: VideoInfo) -> PinholeCamera:
    return centred_camera(K_UNIHAND, info, "UniHand's one camera")


def _rows_file(meta: Path, video: Path) -> Path:
    return meta.parents[1] / "data" / video.parent.name / f"{video.stem}.parquet"


def _rows(meta: Path, video: Path, description: dict, num_frames: int) -> np.ndarray:
    """The unified vector of every frame, (T, 200)."""
    features = description.get("features")
    if not isinstance(features, dict):
        raise ClipError(Reason.BAD_LABEL, f"meta/info.json has no features; it has {', '.join(description)}")
    sizes = {key: list(spec.get("shape", [])) for key, spec in features.items() if isinstance(spec, dict)}
    name = next((key for key in STATE_NAMES if sizes.get(key) == [WIDTH]), None)
    if name is None:
        listed = ", ".join(f"{key} {shape}" for key, shape in sizes.items())
        raise ClipError(
            Reason.BAD_LABEL,
            f"needs one of {', '.join(STATE_NAMES)} with {WIDTH} numbers (Being-H's unified vector); meta/info.json lists {listed}",
        )
    file = _rows_file(meta, video)
    if not file.is_file():
        raise ClipError(
            Reason.MISSING_LABELS, f"data/{video.parent.name}/{file.name} is not there: unpack the whole archive"
        )
    try:
        table = pq.read_table(file, columns=[name])
    except (OSError, ValueError, KeyError) as error:
        raise ClipError(Reason.BAD_LABEL, f"{file.name}: column {name} does not read: {error}") from error
    if len(table) != num_frames:
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"{len(table)} rows for {num_frames} frames")
    return finite(table[name].to_pylist(), (num_frames, WIDTH), name)


def _hand(rows: np.ndarray, side: str) -> HandTrack:
    part = {key: rows[:, slice(*span)] for key, span in HAND_SLOTS[side].items()}
    valid = np.concatenate([part["tau"], part["r"], part["theta"]], axis=1).any(axis=1)
    beta = np.median(part["beta"][valid], axis=0) if valid.any() else np.zeros(10)
    return HandTrack(part["theta"], part["r"], part["tau"], beta, valid)


def _instructions(meta: Path, video: Path, info: VideoInfo) -> tuple[Instruction, ...]:
    """Spans of the file's episodes; () if the archive has no table of instructions."""
    chunk, number = int(video.parent.name.removeprefix("chunk-")), int(video.stem.removeprefix("file-"))
    ends_s = np.append(info.times_s[1:], duration_s(info))
    found = []
    for path in sorted(meta.parent.glob("episodes/instruction/chunk-*/*.parquet")):
        for row in _spans(path):
            if (row["chunk"], row["file"]) != (chunk, number):
                continue
            first, last = max(row["start"], 0), min(row["end"], info.num_frames)
            text = row["text"] if isinstance(row["text"], str) else _tasks(meta).get(row["text"], "")
            if first < last and text:
                found.append(Instruction(float(info.times_s[first]), float(ends_s[last - 1]), text, side_of(text)))
    return tuple(sorted(found, key=lambda one: one.start_s))


@per_file
def _spans(path: Path) -> list[dict]:
    """File number, first frame, end (exclusive) and text or task number of each episode. Raises ClipError BAD_LABEL."""
    names = set(pq.read_schema(path).names)
    file = next(((f"{p}chunk_index", f"{p}file_index") for p in ("data/", "") if f"{p}file_index" in names), None)
    span = next((pair for pair in SPANS if set(pair) <= names), None)
    text = next((name for name in TEXTS if name in names), None)
    if file is None or span is None or text is None:
        raise ClipError(
            Reason.BAD_LABEL,
            f"{path.name} needs (data/)chunk_index and file_index, one of {SPANS} and one of {TEXTS}; it has {', '.join(sorted(names))}",
        )
    table = pq.read_table(path, columns=[*file, *span, text]).to_pydict()
    texts = [item[0] if isinstance(item, list) and item else item for item in table[text]]
    columns = zip(table[file[0]], table[file[1]], table[span[0]], table[span[1]], texts, strict=True)
    rows = [dict(zip(("chunk", "file", "start", "end", "text"), row, strict=True)) for row in columns]
    if span == SPANS[-1]:  # rows of the whole data set: frames of a file count from its first episode
        firsts: dict[tuple, int] = {}
        for row in rows:
            key = row["chunk"], row["file"]
            firsts[key] = min(firsts.get(key, row["start"]), row["start"])
        rows = [row | {k: row[k] - firsts[row["chunk"], row["file"]] for k in ("start", "end")} for row in rows]
    return rows


def _tasks(meta: Path) -> dict[int, str]:
    file = meta.parent / "tasks_instruction.jsonl"
    return _task_texts(file) if file.is_file() else {}


@per_file
def _task_texts(file: Path) -> dict[int, str]:
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {int(line["task_index"]): str(line.get("task") or line.get("instruction") or "") for line in lines}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClipError(Reason.BAD_LABEL, f"{file.name} should hold {{task_index, task}} a line: {error!r}") from error


# -- example


def write_example(root: Path, truth: Truth) -> None:
    """One file more in the archive <truth.name>_lerobot_v3: video, rows, and one episode of instruction."""
    folder = root / f"{truth.name}_lerobot_v3"
    number = len(list(folder.glob(f"videos/{VIEW}/chunk-000/*.mp4")))
    write_video(folder / f"videos/{VIEW}/chunk-000/file-{number:03d}.mp4", truth.rgb, truth.fps)
    rows = np.zeros((truth.num_frames, WIDTH), np.float32)
    for side, hand in truth.hands.items():
        values = {
            "tau": hand.tau,
            "r": hand.r,
            "theta": hand.theta,
            "beta": np.broadcast_to(hand.beta, (truth.num_frames, 10)),
        }
        for key, span in HAND_SLOTS[side].items():
            rows[:, slice(*span)] = np.where(hand.valid[:, None], values[key], 0)
    _write(folder / f"data/chunk-000/file-{number:03d}.parquet", {"observation.state": list(rows)})
    _write(
        folder / f"meta/episodes/instruction/chunk-000/file-{number:03d}.parquet",
        {"episode_index": [number], "data/chunk_index": [0], "data/file_index": [number], "from_frame": [0], "to_frame": [truth.num_frames], "task_index": [number]},
    )  # fmt: skip
    with (folder / "meta" / "tasks_instruction.jsonl").open("a", encoding="utf-8") as tasks:
        tasks.write(json.dumps({"task_index": number, "task": truth.instructions[0].text}) + "\n")
    features = {
        "observation.state": {"dtype": "float32", "shape": [WIDTH], "names": None},
        VIEW: {"dtype": "video", "shape": [truth.camera.height, truth.camera.width, 3]},
    }
    info = {"codebase_version": "v3.0", "base_dataset": truth.name, "dataset_variants": ["instruction", "description"], "fps": truth.fps, "action_stride": 1, "robot_type": "human hand", "layout": "file-centric-split-mirror-v4", "num_files": number + 1, "num_episodes": number + 1, "features": features}  # fmt: skip
    (folder / "meta" / "info.json").write_text(json.dumps(info))


def _write(path: Path, columns: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
