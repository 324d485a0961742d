"""Which second frame gives depth to a sampled frame, and whether a camera stands still (no depth at all).

A camera is taken to stand still at a frame if the picture's corners do not move towards the sampled frames one and
two places away. Else second frames are tried at OFFSETS_S, ahead and then back, until one has parallax enough.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import polars as pl
from jaxtyping import Float

from ops.geometry import transforms
from ops.perception import two_view
from ops.perception.depth_maps import map_size, points_of_depth, shrink_depth
from ops.rejects import Reason, Reject
from ops.sources.base import Clip
from ops.video import Frame

# ASSUMED, all: chosen on rendered clips with known depth and on real moving-camera video.
WORK_EDGE = 480  # pixels of the image that is matched
GLANCE_EDGE = 240  # pixels of the image that tells whether the camera stands still
GLANCE_PX = 0.35  # motion of corners there, as two_view.STATIC_PX at WORK_EDGE
MIN_CORNERS = 30
OFFSETS_S = (0.4, 0.8, 1.2, 2.0)
MIN_COVERAGE = 0.1
MIN_BASELINE_M = 0.01  # where poses are given in metres
HAND_WITHIN_S = 0.2  # hands of a frame that was not tracked are those of the nearest tracked one within this time


@dataclass(frozen=True)
class Hands:
    """Hands of a clip by tracked frame, for masks. joints_cam: (n, 21, 3), m; joints_px: (n, 21, 2); sides."""

    times_s: np.ndarray
    tables: list[pl.DataFrame]

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "Hands":
        """rows: mano_fits of one clip."""
        tables = rows.sort("frame").partition_by("frame", maintain_order=True)
        return cls(np.array([table["time_s"][0] for table in tables]), tables)

    def at(self, time_s: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """side -> (joints_cam, joints_px) at the nearest tracked frame."""
        if not len(self.times_s):
            return {}
        nearest = int(np.abs(self.times_s - time_s).argmin())
        if abs(self.times_s[nearest] - time_s) > HAND_WITHIN_S:
            return {}
        return {
            row["side"]: (np.array(row["joints_cam"]).reshape(21, 3), np.array(row["joints_px"]).reshape(21, 2))
            for row in self.tables[nearest].iter_rows(named=True)
        }


def still_frames(clip: Clip, frames: list[int]) -> set[int]:
    """Of the sampled frames, those at which the camera stands still. One pass over the video."""
    if clip.T_cam_world is not None:
        return {f for f in frames if not any(_posed_apart(clip, f, other) for other in _candidates(clip, f))}
    size = map_size(clip.camera, GLANCE_EDGE)
    kept: list[np.ndarray] = []
    moves = np.zeros(len(frames), bool)
    compared = np.zeros(len(frames), bool)
    for place, frame in enumerate(clip.frames(frames, size)):
        gray = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
        for back, earlier in enumerate(reversed(kept), start=1):
            moved = corners_move(earlier, gray)
            moves[[place, place - back]] |= moved
            compared[[place, place - back]] = True
        kept = [*kept[-1:], gray]
    return {frame for frame, moved, seen in zip(frames, moves, compared, strict=True) if seen and not moved}


def corners_move(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the grey picture's corners move from a to b: three quarters of those that can be followed. True too if
    few can be followed: no claim then."""
    corners = cv2.goodFeaturesToTrack(a, 300, 0.01, 5)
    if corners is None or len(corners) < MIN_CORNERS:
        return True
    there, ok, _ = cv2.calcOpticalFlowPyrLK(a, b, corners, None)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(b, a, there, None)
    followed = (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & (np.linalg.norm(back - corners, axis=-1)[:, 0] < 0.5)
    if followed.sum() < MIN_CORNERS:
        return True
    return bool(np.percentile(np.linalg.norm((there - corners)[followed, 0], axis=1), 25) > GLANCE_PX)


def frame_map(
    clip: Clip, index: int, hands: Hands, size: tuple[int, int]
) -> tuple[Frame, np.ndarray, np.ndarray] | Reject:
    """(frame resized, points (h, w, 3), confidence (h, w)) of one frame, or why not."""
    work = map_size(clip.camera, WORK_EDGE)
    best = Reject(clip.clip_id, Reason.DEPTH_NONE_STATIC_CAMERA, index, detail="no second frame within reach")
    for other in _candidates(clip, index):
        if not _posed_apart(clip, index, other):
            continue
        frames = {frame.index: frame for frame in clip.frames(sorted({index, other}), work)}
        found = _pair_depth(clip, frames[index], frames[other], hands)
        if isinstance(found[0], Reason):
            best = Reject(clip.clip_id, found[0], index, detail=f"against frame {other}: {found[1]}")
            continue
        depth, confidence = (shrink_depth(array, size) for array in found)
        points = points_of_depth(depth, clip.camera.resized(*size))
        rgb = cv2.resize(frames[index].rgb, size, interpolation=cv2.INTER_AREA)
        return Frame(index, frames[index].time_s, rgb), points, confidence
    return best


def _pair_depth(clip: Clip, a: Frame, b: Frame, hands: Hands) -> tuple[np.ndarray, np.ndarray] | tuple[Reason, str]:
    size = (a.rgb.shape[1], a.rgb.shape[0])
    camera = clip.camera.resized(*size)
    seen = [hands.at(frame.time_s) for frame in (a, b)]
    masks = tuple(_mask([px for _, px in there.values()], clip, size) for there in seen)
    metric = clip.T_cam_world is not None
    given = transforms.relative(clip.T_cam_world[b.index], clip.T_cam_world[a.index]) if metric else None
    pair = two_view.relative_pose(a.rgb, b.rgb, camera, masks, given)
    if not isinstance(pair, two_view.Pair):
        return pair
    shrink = np.array(size) / (clip.camera.width, clip.camera.height)
    still = {
        side
        for side in seen[0].keys() & seen[1].keys()
        if two_view.stands_still(seen[0][side][0], seen[1][side][1] * shrink, camera, pair.T_b_a, metric)
    }
    moving = tuple(_mask([px for side, (_, px) in there.items() if side not in still], clip, size) for there in seen)
    depth, confidence = two_view.dense_depth(a.rgb, b.rgb, camera, pair.T_b_a, moving)
    coverage = float(np.isfinite(depth).mean())
    if coverage < MIN_COVERAGE:
        return Reason.TOO_FEW_MATCHES, f"depth for {coverage:.0%} of the pixels only, {MIN_COVERAGE:.0%} needed"
    return depth, confidence


def _mask(hands_px: list[Float[np.ndarray, "21 2"]], clip: Clip, size: tuple[int, int]) -> np.ndarray:
    return two_view.hands_mask(np.array(hands_px).reshape(-1, 21, 2), clip.camera, size)


def _posed_apart(clip: Clip, index: int, other: int) -> bool:
    """False only where given poses say that the two frames have (nearly) one place."""
    if clip.T_cam_world is None:
        return True
    T = transforms.relative(clip.T_cam_world[other], clip.T_cam_world[index])
    return bool(np.linalg.norm(T[:3, 3]) >= MIN_BASELINE_M)


def _candidates(clip: Clip, index: int) -> Iterator[int]:
    """Second frames, nearest in time first; ahead before back."""
    tried = {index}
    for offset in OFFSETS_S:
        for sign in (1, -1):
            when = clip.times_s[index] + sign * offset
            if 0 <= when <= clip.times_s[-1]:
                other = int(np.abs(clip.times_s - when).argmin())
                if other not in tried:
                    tried.add(other)
                    yield other
