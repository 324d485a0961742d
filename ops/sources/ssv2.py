"""Something-Something V2: 220,847 short clips of one action each, from many people's cameras; no hands, no intrinsics.

    20bn-something-something-v2/<id>.webm          height 240, 12 frames a second
    labels/{train,validation,test}.json             [{id, label, template, placeholders}], test: [{id}]

The label is the instruction, placeholders are the objects' names. Intrinsics are unknown: state an assumed field of
view. HaWoR's results beside a video (folder <id>/cam_space) are read as its hands.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from ops.config import RawVideosConfig, ShardConfig
from ops.rejects import ClipError, Reason, Reject
from ops.sources import hawor
from ops.sources.base import Clip, Instruction, Source, read_each
from ops.sources.example import Truth
from ops.sources.raw_video import assumed_camera, clip_id, duration_s, find_up, per_file, read_json, side_of
from ops.video import VideoInfo, probe

KIND = "ssv2"
SOURCE = Source(
    kind=KIND,
    title="Something-Something V2",
    licence="Qualcomm research licence",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=False,
    url="https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
    how_to_get="Register; join and unpack the 20 parts (`cat 20bn-something-something-v2-?? | tar xz`); put the labels in labels/.",
    notes=("Every clip has another, unknown camera: state raw_videos.assumed_fov_x_deg.", "Third-person clips occur."),
)
SPLITS = {"train": "train", "validation": "test", "test": "test"}


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """All clips, sorted by path."""
    return sorted(root.rglob("*.webm"))


def side_files(video: Path) -> list[Path]:
    """The label files, and HaWoR's results."""
    return [*(path for path in (_labels_file(video, split) for split in SPLITS) if path), *hawor.files_of(video)]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """A clip with its label. Split: validation and test are "test"; a test clip has no label.

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, UNSUPPORTED_CAMERA (no field of view stated), MISSING_LABELS (in no
    label file), BAD_SIDE_FILE.
    """
    info = info or probe(video)
    split, entry = _entry(video)
    text = str(entry.get("label", "")).strip()
    found = hawor.read(video, info, shard.hand_model)
    why = "Something-Something gives no intrinsics"
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
        split=split,
        instructions=(Instruction(0.0, duration_s(info), text, side_of(text)),) if text else (),
        object_names=tuple(str(name) for name in entry.get("placeholders", ())),
        **(found.labels() if found else {}),
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Clips one by one; unreadable ones as Reject."""
    model = hand_model and str(hand_model)
    return read_each(list_videos, read_clip, ShardConfig(KIND, KIND, str(root), view=view, hand_model=model))


def _labels_file(video: Path, split: str) -> Path | None:
    return find_up(video, f"labels/{split}.json", f"something-something-v2-{split}.json")


def _entry(video: Path) -> tuple[str, dict]:
    files = {split: path for split in SPLITS if (path := _labels_file(video, split))}
    for split, path in files.items():
        entry = _entries(path).get(video.stem)
        if entry is not None:
            return SPLITS[split], entry
    names = ", ".join(path.name for path in files.values()) or "none of labels/{train,validation,test}.json is there"
    raise ClipError(Reason.MISSING_LABELS, f"clip {video.stem} is in no label file ({names})")


@per_file
def _entries(path: Path) -> dict[str, dict]:
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) and "id" in entry for entry in content):
        raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} should be a list of {{id, label, template, placeholders}}")
    return {str(entry["id"]): entry for entry in content}


# -- example


def write_example(root: Path, truth: Truth) -> None:
    """A clip of VP9 in WebM, in the train labels."""
    number = len(list_videos(root)) + 1
    _write_webm(root / "20bn-something-something-v2" / f"{number}.webm", truth)
    labels = root / "labels" / "train.json"
    labels.parent.mkdir(parents=True, exist_ok=True)
    entries = json.loads(labels.read_text()) if labels.is_file() else []
    names = [thing.name for thing in truth.objects]
    text = truth.instructions[0].text
    template = text.replace(names[0], "[something]") if names else text
    entries.append({"id": str(number), "label": text, "template": template, "placeholders": names})
    labels.write_text(json.dumps(entries))


def _write_webm(path: Path, truth: Truth) -> None:
    from fractions import Fraction

    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=Fraction(truth.fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = truth.camera.width, truth.camera.height, "yuv420p"
        stream.options = {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0", "lag-in-frames": "0"}
        for picture in truth.rgb:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
