"""docs/sources.md and its pictures, made from the readers themselves: their records, docstrings and examples."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ops.hands.joints import BONE_RGB, BONES
from ops.rejects import Reject
from ops.sources import acceptance, round_trip
from ops.sources.base import Clip, Source
from ops.sources.licences import MANO, STATED_BY_VIDEO
from ops.sources.manifest import READERS, reader
from ops.store import write_file

PICTURES = "pictures/sources"
WIDTH = 480
HEAD = """# Data sources
One reader a source, under `ops/sources`; whatever a source does differently ends there (CONVENTIONS.md). This page is made
from the readers by `hand3d sources docs docs`; do not edit it.

Before a run, look through your copy, and see what a layout looks like that the reader knows:

```
hand3d sources                                       # all kinds: licence, gated, needs MANO
hand3d sources check /data/h2o --kind h2o --hand-model /data/mano
hand3d sources example h2o /tmp/h2o                  # the layout in miniature
```

`check` reads clips spread over the copy (`--all` reads every one), prints a line for each with its numbers or the reason why it
does not read, and judges nine things that no schema sees; its exit code is 1 if one of them fails. The same checks run as asset
checks on every shard.

| check | what is measured | fails |
|---|---|---|
| round_trip | an example in the source's layout, written with your hand model and read back | above 1e-5 (m, rotation) |
| hand_size | wrist to middle knuckle; distance from the camera | 5% outside 0.07 to 0.12 m; 0.1 to 1.5 m (fixed cameras: 5 m) |
| published_joints | labels projected into the image against the source's own image joints, fingertips apart | 2 px |
| wrist_is_tau | wrist joint against tau, and against the published wrist | 0.1 mm, 10 mm |
| handedness | which side of the palm the fingers bend to; determinants of camera poses | bends back by 15% of the palm |
| camera_direction | wrist speed in the world, and depth carried between frames, under the poses and under their inverse | the inverse explains more |
| depth_scale | sensor depth at wrist and knuckles over the label's | outside 0.8 to 1.3 |
| frame_counts | images against labels; first, middle and last frame decode | any difference |
| licence | the clip's terms against the declared use | forbidden |

A shard takes one of these sources, whole or in part; partitions are the shards, so a big source is cut into several by `include`.
`hand3d sources shards /data/h2o --kind h2o` writes them: a person's folder whole where it can be, each with at least three minutes
of work, so that orchestration stays small beside it (operations.md), at most 99:

```yaml
raw_videos: {use: research}              # or commercial, redistribution, commercial redistribution: licences are checked
shards:
  h2o-train: {source: h2o, kind: h2o, root: /data/h2o, include: ["subject1/*", "subject2/*"], hand_model: /data/mano}
```
"""


@dataclass(frozen=True, eq=False)
class Shown:
    """An example of a kind, read back: its clip and the hands in it."""

    clip: Clip
    hands: list[acceptance.Hand]


def write(docs: Path, hand_model: Path) -> list[Path]:
    """Write the page and a picture a source below a folder; returns the files. hand_model: for the examples' hands."""
    made, parts = [], [HEAD, table()]
    for kind in sorted(READERS):
        shown = example(kind, hand_model)
        parts.append(section(kind, shown))
        if shown is not None:
            made.append(docs / PICTURES / f"{kind}.png")
            _save(picture(shown), made[-1])
    write_file(docs / "sources.md", "\n".join(parts).encode())
    return [docs / "sources.md", *made]


def example(kind: str, hand_model: Path) -> Shown | None:
    """The first clip of a kind's example, with its frames in memory; None for kinds without a layout of their own."""
    if not hasattr(reader(kind), "write_example"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        found = round_trip.write(kind, Path(folder), hand_model).clips()
        clip = found[0]
        if isinstance(clip, Reject):
            raise ValueError(f"the example of {kind} does not read: {clip.reason}: {clip.detail}")
        return Shown(_with_pictures(clip), acceptance.hands_of(clip, hand_model))


def table() -> str:
    lines = [
        "| kind | source | licence | commercial use | passing on | gated | MANO files |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in sorted(READERS):
        one = reader(kind).SOURCE
        terms = (
            ["per video", "per video"]
            if kind in STATED_BY_VIDEO
            else [_yes(not one.noncommercial), _yes(one.redistributable)]
        )
        cells = [
            f"[{kind}](#{kind})",
            one.title,
            one.licence,
            *terms,
            _yes(one.gated),
            "needed" if one.needs_mano else "if you have them",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Hands made with MANO's files add its own terms: {MANO}.", ""])


def section(kind: str, shown: Shown | None) -> str:
    """Everything about one source."""
    module = reader(kind)
    one: Source = module.SOURCE
    link = f" ([{one.url.removeprefix('https://')}]({one.url}))" if one.url else ""
    parts = [f"## {kind}", f"**{one.title}**{link}. {_terms(kind, one)}", f"How to get it: {one.how_to_get}"]
    if shown is not None:
        parts.append(f"![{kind}: a frame of the example with the hands as they were read]({PICTURES}/{kind}.png)")
        parts.append("A clip of the example, as it is read: " + "; ".join(facts(shown.clip)) + ".")
    if one.notes:
        parts.append("Known problems and what to mind:")
        parts.append("\n".join(f"- {note}" for note in one.notes))
    layout = (module.__doc__ or "").strip()
    parts.append(f"<details><summary>Layout and conventions</summary>\n\n```text\n{layout}\n```\n</details>")
    return "\n\n".join(parts) + "\n"


def facts(clip: Clip) -> Iterator[str]:
    """What a clip holds, in words."""
    yield f"{clip.num_frames} frames at {clip.fps:.4g} a second, {clip.camera.width} x {clip.camera.height} pixels"
    yield f"intrinsics {clip.intrinsics}" + (f", undistorted from {type(clip.lens).__name__}" if clip.lens else "")
    poses = "no camera poses" if clip.T_cam_world is None else "a camera pose in every frame"
    yield poses
    for side in ("left", "right"):
        kinds = [("MANO", clip.hands), ("21 joints", clip.joints)]
        told = [f"{name} in {int(tracks[side].valid.sum())} frames" for name, tracks in kinds if side in tracks]
        if told:
            yield f"{side} hand: {' and '.join(told)}"
    if not clip.has_labels:
        yield "no hands: they are tracked"
    if clip.depth is not None:
        yield "sensor depth"
    if clip.objects:
        with_pose = sum(thing.T_cam_obj is not None for thing in clip.objects)
        yield f"objects: {', '.join(thing.name for thing in clip.objects)} ({with_pose} with poses)"
    if clip.instructions:
        first = clip.instructions[0]
        yield f'text: "{first.text}", {first.start_s:.2f} to {first.end_s:.2f} s' + (
            f", {first.side} hand" if first.side else ""
        )
    yield f"subject {clip.subject or 'not named'}" + (f", view {clip.view}" if clip.view else "")
    yield f"split {clip.split or 'by a hash of its name'}"


def picture(shown: Shown) -> np.ndarray:
    """The middle frame with every hand's skeleton; what the reader got wrong would lie beside the hand."""
    clip = shown.clip
    frame = _middle(clip, shown.hands)
    rgb = next(iter(clip.frames([frame]))).rgb.copy()
    scale = WIDTH / clip.camera.width
    rgb = cv2.resize(rgb, (WIDTH, round(clip.camera.height * scale)), interpolation=cv2.INTER_AREA)
    for hand in shown.hands:
        for row in np.flatnonzero(hand.frames == frame):
            _skeleton(rgb, clip.camera.project(hand.joints_cam[row]) * scale - 0.5)
    return rgb


def _middle(clip: Clip, hands: list[acceptance.Hand]) -> int:
    """The labelled frame nearest to the clip's middle."""
    labelled = np.unique(np.concatenate([hand.frames for hand in hands])) if hands else np.arange(clip.num_frames)
    return int(labelled[np.argmin(np.abs(labelled - clip.num_frames / 2))])


def _skeleton(rgb: np.ndarray, points: np.ndarray) -> None:
    for (a, b), colour in zip(BONES, BONE_RGB, strict=True):
        if np.isfinite(points[[a, b]]).all():
            ends = [np.clip(points[k], -1e4, 1e4).round().astype(int).tolist() for k in (a, b)]
            cv2.line(rgb, *ends, colour, 2, cv2.LINE_AA)


def _with_pictures(clip: Clip) -> Clip:
    """The clip with its frames in memory, since the example's files go away."""
    return _InMemory(**{name: getattr(clip, name) for name in clip.__dataclass_fields__}, kept=list(clip.frames()))


@dataclass(frozen=True, eq=False)
class _InMemory(Clip):
    kept: list = ()

    def frames(self, indices=None, size=None):
        return iter([self.kept[i] for i in (range(self.num_frames) if indices is None else indices)])


def _save(rgb: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def _terms(kind: str, one: Source) -> str:
    if kind in STATED_BY_VIDEO:
        return "Each video's side file states its licence."
    use = "non-commercial use only" if one.noncommercial else "commercial use allowed"
    share = "may be passed on" if one.redistributable else "may not be passed on"
    gate = "; one has to register" if one.gated else ""
    return f"Licence: {one.licence} ({use}, {share}{gate})."


def _yes(value: bool) -> str:
    return "yes" if value else "no"
