"""Miniature examples of every source, and acceptance check 1: what one writes in a source's layout, its reader gives back.

The check runs on the spot with the user's own hand model, so that a MANO file with another mean, other components or
another wrist than the reader takes it for is seen before any label is.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.rejects import Reject
from ops.sources.acceptance import Measured
from ops.sources.base import Clip, HandTrack, read_each
from ops.sources.example import Truth, make_truth
from ops.sources.hand_models import models_of
from ops.sources.manifest import READERS, reader

TOLERANCE = 1e-5  # metres, and entries of rotation matrices; files hold single precision or six decimals
CAMERA = PinholeCamera.from_fov_x(65.0, 640, 360)
NUM_FRAMES = 6


@dataclass(frozen=True, eq=False)
class Example:
    """What was written of a kind, and how its reader is to be called."""

    module: ModuleType
    truth: Truth
    shard: ShardConfig
    config: RawVideosConfig

    def clips(self) -> list[Clip | Reject]:
        return list(read_each(self.module.list_videos, self.module.read_clip, self.shard, self.config))


def kinds_with_examples() -> list[str]:
    return [kind for kind in READERS if hasattr(reader(kind), "write_example")]


def write(kind: str, root: Path, hand_model: Path, seed: int = 0) -> Example:
    """The layout of a source in miniature below root. Raises ValueError for a kind without one."""
    module = reader(kind)
    root.mkdir(parents=True, exist_ok=True)
    if not hasattr(module, "write_example"):
        raise ValueError(f"{kind} has no layout of its own; examples: {', '.join(kinds_with_examples())}")
    given = dict(getattr(module, "EXAMPLE", {}))
    given.setdefault("camera", module.example_camera() if hasattr(module, "example_camera") else CAMERA)
    truth = make_truth(hand_model, **({"num_frames": NUM_FRAMES, "seed": seed} | given))
    module.write_example(root, truth)
    # a source without intrinsics is read with the field of view that the example was made with
    fov_x_deg = float(np.rad2deg(2 * np.arctan(truth.camera.width / 2 / truth.camera.fx)))
    shard = ShardConfig(kind, kind, str(root), hand_model=str(hand_model))
    return Example(module, truth, shard, RawVideosConfig(fov_x_deg))


def write_new(kind: str, out: Path, hand_model: Path) -> Path:
    """An example for a person to look at. Raises FileExistsError for a folder that is not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty: name a new folder")
    write(kind, out, hand_model)
    return out


def round_trip(kind: str, hand_model: Path) -> Measured:
    """1: an example of the source comes back as it was made: hands, or joints, or at least a clip without labels."""
    if not hasattr(reader(kind), "write_example"):
        return Measured("round_trip", None, {}, f"{kind} has no layout of its own")
    with tempfile.TemporaryDirectory() as folder:
        example = write(kind, Path(folder), hand_model)
        clips = example.clips()
        rejects = [f"{clip.reason}: {clip.detail}" for clip in clips if isinstance(clip, Reject)]
        if rejects or not clips:
            return Measured("round_trip", False, {}, "; ".join(rejects) or "the reader finds no clip in its example")
        numbers = errors(clips[0], example.truth, hand_model)
    passed = all(value <= TOLERANCE for value in numbers.values())
    return Measured("round_trip", passed, numbers, f"limit {TOLERANCE}; example made with {hand_model}")


def errors(clip: Clip, truth: Truth, hand_model: Path) -> Mapping[str, float]:
    """Largest differences of the hands of a clip and the truth it was written from, metres and matrix entries.

    A layout may leave out frames at either end: the clip's labelled frames are laid where they fit best.
    """
    found: dict[str, float] = {}
    for side, track in clip.hands.items():
        mine, wanted = np.flatnonzero(track.valid), truth.hands[side]
        at = _best(track.tau[mine], wanted.tau)
        models = models_of(clip, hand_model)
        joints = models[side].joints(track.theta[mine], track.r[mine], track.tau[mine], track.beta)
        _raise(found, "tau_m", np.abs(track.tau[mine] - wanted.tau[at]))
        _raise(found, "rotation", np.abs(_rotations(track, mine) - _rotations(wanted, at)))
        _raise(found, "joints_m", np.abs(joints - truth.joints_cam[side][at]))
    for side, track in clip.joints.items():
        mine = np.flatnonzero(track.valid)
        at = _best(track.joints_cam[mine, 0], truth.joints_cam[side][:, 0])
        _raise(found, "joints_m", np.abs(track.joints_cam[mine] - truth.joints_cam[side][at]))
    return MappingProxyType(found)


def _raise(found: dict[str, float], name: str, off: np.ndarray) -> None:
    found[name] = max(found.get(name, 0.0), float(np.max(off, initial=0.0)))


def _rotations(track: HandTrack, at: np.ndarray) -> np.ndarray:
    """Of wrist and fingers: two axis-angles may stand for one rotation."""
    return transforms.rotvec_to_rotmat(np.concatenate([track.r[at], track.theta[at]], axis=1).reshape(len(at), 16, 3))


def _best(points: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Consecutive frames of the truth that the points fit best."""
    starts = range(max(len(wanted) - len(points), 0) + 1)
    offs = [np.abs(points - wanted[k : k + len(points)]).max(initial=0.0) for k in starts]
    return np.arange(len(points)) + int(np.argmin(offs))
