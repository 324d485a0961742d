"""Ego4D: raw head-camera video with narrations; no hands. Camera intrinsics are VITRA's estimates, a file a video.

    v2/full_scale/<uid>.mp4        also v2/video_540ss/ and v2/clips/, as views of these names
    v2/annotations/narration.json   {<uid>: {narration_pass_1: {narrations: [{timestamp_sec, narration_text}]}, ...}}
    ego4d.json                      metadata of every video
    intrinsics/ego4d/<uid>.npy      VITRA-1M: {intrinsics_ori: {K, D, xi}, intrinsics_new: {K}}

Most cameras are wide; xi > 0 is the unified sphere model (cv2.omnidir), undistorted to the pinhole of intrinsics_new.
Narrations of the wearer ("#C C picks up a cup") become instructions around their moment.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera, opencv_K
from ops.geometry.lenses import Lens, Omnidirectional, RadialTangential
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import Clip, Instruction, Source, read_each
from ops.sources.example import Truth
from ops.sources.example_lens import record
from ops.sources.raw_video import (
    assumed_camera,
    clip_id,
    duration_s,
    find_up,
    json_entry,
    narrated,
    per_file,
    read_json,
)
from ops.sources.safe_load import load_npy_object
from ops.sources.world_labels import finite
from ops.video import VideoInfo, probe, write_video

KIND = "ego4d"
SOURCE = Source(
    kind=KIND,
    title="Ego4D",
    licence="Ego4D licence agreement",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=False,
    url="https://ego4d-data.org",
    how_to_get="Sign the agreement; `ego4d --output_directory D --datasets full_scale annotations`; intrinsics/ego4d from VITRA-VLA/VITRA-1M.",
    notes=(
        "Videos without an intrinsics file are wide-angle more often than not: an assumed field of view is a rough guess.",
        "Resolutions and rates are mixed; audio and video differ in length; decoded frames are counted.",
        "A narration marks one moment; the time around it is EgoVLP's rule.",
    ),
)
VIEWS = ("full_scale", "video_540ss", "clips")
WEARER = re.compile(r"^\s*#\s*[cC]\s+C\s+")
MARKS = re.compile(r"#unsure|#\w+")


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """Videos of a folder of that name (full_scale by default) below root, or else all in root itself."""
    view = view or VIEWS[0]
    if view not in VIEWS:
        raise ValueError(f"Ego4D has the views {', '.join(VIEWS)}, got {view!r}")
    folders = [root] if root.name == view else sorted(path for path in root.rglob(view) if path.is_dir())
    return sorted(path for folder in folders or [root] for path in folder.glob("*.mp4"))


def side_files(video: Path) -> list[Path]:
    """Intrinsics, narrations and metadata; those that exist."""
    return [path for path in (_intrinsics_file(video), _narrations_file(video), find_up(video, "ego4d.json")) if path]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """A video without hands. subject: Ego4D's participant number.

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, UNSUPPORTED_CAMERA (no intrinsics and none assumed), BAD_LABEL
    (intrinsics), BAD_SIDE_FILE (narrations, metadata).
    """
    info = info or probe(video)
    file = _intrinsics_file(video)
    if file is None:
        camera, lens = assumed_camera(info, config, f"no intrinsics/ego4d/{video.stem}.npy (from VITRA-1M)"), None
    else:
        camera, lens = _camera(file, info)
    participants = find_up(video, "ego4d.json")
    return Clip(
        clip_id=clip_id(video, shard),
        source=shard.source,
        kind=KIND,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=camera,
        intrinsics="given" if file else "assumed",
        split="",
        lens=lens,
        instructions=_instructions(video, duration_s(info)),
        subject=_participants(participants).get(video.stem, "") if participants else "",
        view=shard.view or "",
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Videos one by one; unreadable ones as Reject."""
    return read_each(list_videos, read_clip, ShardConfig(KIND, KIND, str(root), view=view))


def _intrinsics_file(video: Path) -> Path | None:
    name = f"{video.stem}.npy"
    return find_up(video, f"intrinsics/ego4d/{name}", f"camera_intrinsics/ego4d/{name}", f"intrinsics/{name}")


def _narrations_file(video: Path) -> Path | None:
    names = ("narration.json", "all_narrations_redacted.json")
    return find_up(video, *(f"{folder}{name}" for name in names for folder in ("annotations/", "v2/annotations/", "")))


def _camera(file: Path, info: VideoInfo) -> tuple[PinholeCamera, Lens | None]:
    """The pinhole camera of the undistorted video and the lens of the recorded one, at the video's size."""
    stored = load_npy_object(file)
    try:
        recorded, straight = stored["intrinsics_ori"], stored["intrinsics_new"]
        K_new, K = finite(straight["K"], (3, 3), "intrinsics_new.K"), finite(recorded["K"], (3, 3), "intrinsics_ori.K")
        xi = float(np.asarray(recorded["xi"]).ravel()[0])
        D = np.asarray(recorded["D"], np.float64).ravel() if np.size(recorded["D"]) else np.zeros(4)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        detail = f"{file.name}: should hold intrinsics_ori (K, D, xi) and intrinsics_new (K), lacks {error}"
        raise ClipError(Reason.BAD_LABEL, detail) from error
    # the pinhole's principal point is the middle, (W / 2, H / 2) or, as OpenCV counts, ((W - 1) / 2, (H - 1) / 2)
    size = (2 * math.ceil(round(2 * K_new[0, 2]) / 2), 2 * math.ceil(round(2 * K_new[1, 2]) / 2))
    if abs(size[0] * info.height / (size[1] * info.width) - 1) > 0.01:
        detail = f"{file.name} is for {size[0]} x {size[1]}, the video is {info.width} x {info.height}"
        raise ClipError(Reason.UNSUPPORTED_CAMERA, detail)
    try:
        camera = PinholeCamera.from_opencv(K_new, *size).resized(info.width, info.height)
        sensor = PinholeCamera.from_opencv(K, *size).resized(info.width, info.height)
        if xi > 0:
            skew = float(K[0, 1] * info.width / size[0])
            return camera, Omnidirectional(sensor, xi, tuple(D.tolist()), skew)
        return camera, RadialTangential(sensor, tuple(D)) if D.any() else None
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"{file.name}: {error}") from error


def _instructions(video: Path, end_s: float) -> tuple[Instruction, ...]:
    file = _narrations_file(video)
    entry = json_entry(file, video.stem) if file else None
    moments = []
    try:
        for number in (1, 2):
            found = (entry or {}).get(f"narration_pass_{number}", {}).get("narrations", [])
            moments = moments or [(float(item["timestamp_sec"]), str(item["narration_text"])) for item in found]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ClipError(
            Reason.BAD_LABEL, f"{file.name}: narrations of {video.stem} are laid out otherwise: {error!r}"
        ) from error
    texts = [
        (time_s, MARKS.sub("", WEARER.sub("", text)).strip(" .")) for time_s, text in moments if WEARER.match(text)
    ]
    return narrated([(time_s, " ".join(text.split())) for time_s, text in texts if text], end_s)


@per_file
def _participants(file: Path) -> dict[str, str]:
    videos = read_json(file)
    videos = videos.get("videos", []) if isinstance(videos, dict) else videos
    people = {item["video_uid"]: item.get("fb_participant_id") for item in videos if "video_uid" in item}
    return {uid: str(person) for uid, person in people.items() if person is not None}


# -- example


def write_example(root: Path, truth: Truth) -> None:
    """A video recorded by an omnidirectional lens, with VITRA's intrinsics, narrations and metadata."""
    uid = example_uid(truth.name)
    K_new = opencv_K(truth.camera)
    lens = Omnidirectional(truth.camera, 0.6, (-0.05, 0.01, 0.0, 0.0))
    size = (truth.camera.width, truth.camera.height)
    write_video(root / "v2" / "full_scale" / f"{uid}.mp4", record(truth.rgb, truth.camera, lens, *size), truth.fps)
    folder = root / "intrinsics" / "ego4d"
    folder.mkdir(parents=True, exist_ok=True)
    D, xi = np.array([lens.coefficients]), np.array([lens.xi])
    stored = {"intrinsics_ori": {"K": K_new, "D": D, "xi": xi}, "intrinsics_new": {"K": K_new}}
    np.save(folder / f"{uid}.npy", np.array(stored, dtype=object), allow_pickle=True)
    said = [
        {"timestamp_sec": (item.start_s + item.end_s) / 2, "timestamp_frame": 0, "annotation_uid": uid, "narration_text": f"#C C {item.text}."}
        for item in truth.instructions
    ]  # fmt: skip
    said.append(
        {"timestamp_sec": 0.0, "timestamp_frame": 0, "annotation_uid": uid, "narration_text": "#O man X waits."}
    )
    _add(root / "v2" / "annotations" / "narration.json", uid, {"status": "complete", "narration_pass_1": {"narrations": said, "summaries": []}})  # fmt: skip
    metadata = root / "ego4d.json"
    listed = json.loads(metadata.read_text())["videos"] if metadata.is_file() else []
    listed.append({"video_uid": uid, "fb_participant_id": int(re.sub(r"\D", "", truth.subject) or 0), "duration_sec": truth.num_frames / truth.fps})  # fmt: skip
    metadata.write_text(json.dumps({"videos": listed}))


def example_uid(name: str) -> str:
    """A UUID as Ego4D's, of a name."""
    import uuid

    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _add(file: Path, uid: str, entry: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | {uid: entry}))
