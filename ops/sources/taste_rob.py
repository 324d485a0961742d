"""TASTE-Rob: ego-view video from a camera that stands still, one sentence each; no hands, no intrinsics.

    TASTE_Rob/{SingleHand,DoubleHand}/<Scene>/<id>.mp4     unpacked from <Scene>.zip ("Dinning" is how it is written)
    captions.xlsx      sheets Single-Hand, Double-Hand; columns id, scene, caption
    test.txt           ids that are held out

Resolution and rate differ: each file is probed. Hands come from HaWoR's results beside a video (<id>/cam_space) if it has
seen it, else from the hand tracker. The world is the camera's own frame, since the camera stands still.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.rejects import ClipError, Reason, Reject
from ops.sources import hawor
from ops.sources.base import Clip, Instruction, Source, read_each
from ops.sources.example import Truth
from ops.sources.raw_video import assumed_camera, clip_id, duration_s, find_up, per_file, side_of
from ops.sources.xlsx import read_sheets, write_sheets
from ops.video import VideoInfo, probe, write_video

KIND = "taste_rob"
SOURCE = Source(
    kind=KIND,
    title="TASTE-Rob",
    licence="TASTE-Rob Terms of Use (research)",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=False,
    url="https://github.com/GAP-LAB-CUHK-SZ/TASTE-Rob",
    how_to_get="Fill in the form; download and unpack the scenes' archives, captions.xlsx and test.txt into one folder; run HaWoR for labels.",
    notes=("No intrinsics: state raw_videos.assumed_fov_x_deg, or HaWoR's focal length is taken.",),
)
SHEETS = {"SingleHand": "Single-Hand", "DoubleHand": "Double-Hand"}


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """All videos, sorted by path."""
    return sorted(root.rglob("*.mp4"))


def side_files(video: Path) -> list[Path]:
    """Captions, list of held-out clips, HaWoR's results; those that exist."""
    shared = [path for name in ("captions.xlsx", "test.txt") if (path := find_up(video, name))]
    return [*shared, *hawor.files_of(video)]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """A video with its caption. Split: "test" if listed in test.txt, else "train".

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, MISSING_LABELS (no captions.xlsx, or it lacks the clip),
    BAD_SIDE_FILE, UNSUPPORTED_CAMERA (no field of view), MISSING_HAND_MODEL and BAD_LABEL (HaWoR's results).
    """
    info = info or probe(video)
    _, caption = _caption(video)
    held_out = find_up(video, "test.txt")
    found = hawor.read(video, info, shard.hand_model)
    why = "TASTE-Rob gives no intrinsics"
    labels = found.labels() if found else {}
    return Clip(
        clip_id=clip_id(video, shard),
        source=shard.source,
        kind=KIND,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=found.camera if found else assumed_camera(info, config, why),
        intrinsics="assumed",
        split="test" if held_out and video.stem in _held_out(held_out) else "train",
        instructions=(Instruction(0.0, duration_s(info), caption, side_of(caption)),) if caption else (),
        **labels | {"T_cam_world": np.broadcast_to(np.eye(4), (info.num_frames, 4, 4))},
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Clips one by one; unreadable ones as Reject. hand_model: MANO files of HaWoR's results."""
    model = hand_model and str(hand_model)
    return read_each(list_videos, read_clip, ShardConfig(KIND, KIND, str(root), view=view, hand_model=model))


def _caption(video: Path) -> tuple[str, str]:
    """Scene and sentence of a clip, from the sheet of its kind (one hand or two), else from either."""
    file = find_up(video, "captions.xlsx")
    if file is None:
        raise ClipError(
            Reason.MISSING_LABELS, "captions.xlsx is not there: put it into the folder of SingleHand and DoubleHand"
        )
    kind = next((sheet for folder, sheet in SHEETS.items() if folder in video.parts), None)
    captions = _captions(file)
    for sheet in (kind,) if kind else SHEETS.values():
        if (sheet, video.stem) in captions:
            return captions[sheet, video.stem]
    raise ClipError(
        Reason.MISSING_LABELS, f"captions.xlsx has no clip {video.stem} in {kind or 'either of its sheets'}"
    )


@per_file
def _captions(file: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """(scene, caption) by (sheet, id)."""
    sheets = read_sheets(file)
    found = {}
    for sheet in SHEETS.values():
        rows = sheets.get(sheet)
        header = [cell.strip().lower() for cell in rows[0]] if rows else []
        if not {"id", "scene", "caption"} <= set(header):
            raise ClipError(
                Reason.BAD_SIDE_FILE, f"{file.name}: sheet {sheet} should have columns id, scene, caption, has {header}"
            )
        at = [header.index(name) for name in ("id", "scene", "caption")]
        for row in rows[1:]:
            number, scene, caption = (row[i].strip() if i < len(row) else "" for i in at)
            if number:
                found[sheet, Path(number).stem if number.endswith(".mp4") else number] = (scene, caption)
    return found


@per_file
def _held_out(file: Path) -> frozenset[str]:
    return frozenset(file.read_text(encoding="utf-8").split())


# -- example


def write_example(root: Path, truth: Truth) -> None:
    """A clip of two hands (or one) with its caption; the second clip of a folder is held out. Camera stands still."""
    folder = "SingleHand" if len(truth.hands) == 1 else "DoubleHand"
    number = str(1000 + len(list_videos(root)))
    write_video(root / folder / "Kitchen" / f"{number}.mp4", truth.rgb, truth.fps)
    file = root / "captions.xlsx"
    sheets = read_sheets(file) if file.is_file() else {sheet: [["id", "scene", "caption"]] for sheet in SHEETS.values()}
    sheets[SHEETS[folder]].append([number, "Kitchen", truth.instructions[0].text])
    write_sheets(file, sheets)
    with (root / "test.txt").open("a") as held_out:
        held_out.write(f"{number}\n" if number == "1001" else "")


def write_example_hawor(root: Path, truth: Truth) -> None:
    """`write_example`, and HaWoR's results beside the video."""
    write_example(root, truth)
    video = max(list_videos(root), key=lambda path: int(path.stem))
    hawor.write_example(video, truth.camera, truth.hands, truth.models)
