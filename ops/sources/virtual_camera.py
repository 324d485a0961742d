"""One virtual pinhole for all videos (optional): every image as the same camera would have seen it.

The authors' earlier work (Being-H0) warps its videos to EgoDex's intrinsics before training; the paper does not say
whether Hand3D does. Only the intrinsics change: the camera frame, and so hands, poses, vectors and motion tokens in
metres, stay what they are; images, boxes, depth maps and whatever is projected later follow the new camera.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64

from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.sources.base import Clip, ObjectTrack
from ops.sources.depth import Depth

# EgoDex's intrinsics. ASSUMED: its principal point is the middle of the image, in continuous coordinates.
VIRTUAL = PinholeCamera(736.6339, 736.6339, 960.0, 540.0, 1920, 1080)


@dataclass(frozen=True)
class Pinhole:
    """A lens that bends nothing: the recorded image of a pinhole camera; NaN outside it, so that nothing is smeared."""

    camera: PinholeCamera

    def project(self, points_cam: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        px = self.camera.project(points_cam)
        return np.where(self.camera.contains(px)[..., None], px, np.nan)


@dataclass(frozen=True, eq=False)
class WarpedDepth:
    """Depth as the new camera sees it: z does not change with the intrinsics; nearest pixel, so that edges stay sharp."""

    depth: Depth
    recorded: PinholeCamera
    camera: PinholeCamera

    @property
    def frames(self) -> Collection[int]:
        return self.depth.frames

    def read(self, frame: int) -> Float32[np.ndarray, "H W"] | None:
        recorded_m = self.depth.read(frame)
        if recorded_m is None:
            return None
        u, v = np.arange(self.camera.width) + 0.5, np.arange(self.camera.height) + 0.5
        column = np.floor((u - self.camera.cx) / self.camera.fx * self.recorded.fx + self.recorded.cx).astype(int)
        row = np.floor((v - self.camera.cy) / self.camera.fy * self.recorded.fy + self.recorded.cy).astype(int)
        seen = ((row >= 0) & (row < recorded_m.shape[0]))[:, None] & ((column >= 0) & (column < recorded_m.shape[1]))
        found = recorded_m[np.clip(row, 0, recorded_m.shape[0] - 1)][:, np.clip(column, 0, recorded_m.shape[1] - 1)]
        return np.where(seen, found, np.nan).astype(np.float32)


def to_virtual(clip: Clip, camera: PinholeCamera = VIRTUAL) -> Clip:
    """The clip as `camera` would have recorded it from the same places.

    Raises ClipError for assumed intrinsics: warping a guess to a known camera would pass it off as known.
    """
    if clip.intrinsics != "given":
        raise ClipError(Reason.MISSING_SIDE_FILE, "a video without intrinsics cannot be warped to the virtual camera: give its fx, fy, cx, cy, or set raw_videos.virtual_camera to false")  # fmt: skip
    depth = None if clip.depth is None else WarpedDepth(clip.depth, clip.camera, camera)
    objects = tuple(_warped(track, clip.camera, camera) for track in clip.objects)
    return replace(clip, camera=camera, lens=clip.lens or Pinhole(clip.camera), depth=depth, objects=objects)


def _warped(track: ObjectTrack, old: PinholeCamera, new: PinholeCamera) -> ObjectTrack:
    """Boxes stay boxes: between pinhole cameras of one place each axis is scaled and shifted. Cut at the image's edge."""
    boxes = np.asarray(track.boxes_px, np.float64).copy()
    boxes[:, 0::2] = np.clip((boxes[:, 0::2] - old.cx) / old.fx * new.fx + new.cx, 0, new.width)
    boxes[:, 1::2] = np.clip((boxes[:, 1::2] - old.cy) / old.fy * new.fy + new.cy, 0, new.height)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes[~inside] = np.nan
    return replace(track, boxes_px=boxes, visible=track.visible & inside)
