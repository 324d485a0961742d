"""One clip of human video, whatever source it came from: what readers make and every later stage uses.

Camera frame = OpenCV axes of that very frame (x right, y down, z forward); metres, seconds, pixels (continuous,
first pixel centre at 0.5, 0.5). T = number of frames of the video. Arrays are not to be written to.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.geometry.lenses import Lens, pinhole_maps
from ops.rejects import ClipError, Reason, Reject
from ops.sources.depth import Depth
from ops.sources.images import read_images
from ops.video import Frame, read_frames

SIDES = ("left", "right")


@dataclass(frozen=True)
class Source:
    """What is to be known about a data source before it is used; one a reader, in its module as SOURCE.

    kind: name of the reader. licence: short name. noncommercial, redistributable: what the licence of the DATA says
    (MANO's own comes on top where needs_mano). gated: whether one must register. needs_mano: whether its labels can
    only be read with the licensed MANO files. url: where it is described. how_to_get: steps. notes: known problems.
    """

    kind: str
    title: str
    licence: str
    noncommercial: bool
    redistributable: bool
    gated: bool
    needs_mano: bool
    url: str
    how_to_get: str
    notes: tuple[str, ...] = ()

    def terms(self) -> dict[str, object]:
        """Fields of a Clip that say what may be done with it."""
        return {
            "licence": self.licence,
            "noncommercial": self.noncommercial,
            "redistributable": self.redistributable,
        }


@dataclass(frozen=True, eq=False)
class HandTrack:
    """MANO labels of one hand through a clip, camera frame, flat hand mean (CONVENTIONS.md)."""

    theta: Float[np.ndarray, "T 45"]
    """Finger axis-angle, radians."""
    r: Float[np.ndarray, "T 3"]
    """Wrist axis-angle, camera frame."""
    tau: Float[np.ndarray, "T 3"]
    """WRIST position, camera frame, metres."""
    beta: Float[np.ndarray, " 10"]
    valid: Bool[np.ndarray, " T"]
    """Whether the frame is labelled; elsewhere the numbers mean nothing (but are finite)."""


@dataclass(frozen=True, eq=False)
class JointTrack:
    """Joint positions of one hand through a clip, from sources without MANO; mano_fits fits the hand to them."""

    joints_cam: Float[np.ndarray, "T 21 3"]
    """OpenPose order, camera frame, metres; NaN for a joint that is not given."""
    valid: Bool[np.ndarray, " T"]
    """Whether the frame is labelled at all."""


@dataclass(frozen=True, eq=False)
class ObjectTrack:
    """One named object through a clip."""

    name: str
    boxes_px: Float[np.ndarray, "T 4"]
    """x0, y0, x1, y1 around the visible part, pixels of the undistorted image; NaN where not visible."""
    visible: Bool[np.ndarray, " T"]
    position_cam: Float[np.ndarray, "T 3"] | None
    """Centre of the object, metres, camera frame; None where the source does not give it."""
    T_cam_obj: Float[np.ndarray, "T 4 4"] | None = None
    """Object-to-camera pose; None where unknown, NaN in frames without one."""


@dataclass(frozen=True)
class Instruction:
    """What is done between two times of the clip. side: the hand that does it, None if not said."""

    start_s: float
    end_s: float
    text: str
    side: str | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """A readable video with everything its source says about it."""

    clip_id: str
    """ "<source>/<name>", unique over all shards."""
    source: str
    kind: str
    """Reader of ops.sources that made it."""
    video: Path
    """Video file, or the folder of a clip that is stored as images."""
    fps: float
    """Mean frames a second; the exact time of each frame is times_s."""
    num_frames: int
    times_s: Float[np.ndarray, " T"]
    """Presentation time of each frame, 0 for the first."""
    camera: PinholeCamera
    """Of the undistorted image, as frames() gives it; the video's own size, unless a lens says otherwise."""
    intrinsics: str
    """ "given" by the source or "assumed" from a field of view."""
    split: str
    """ "train" or "test"."""
    licence: str
    image_files: tuple[Path, ...] = ()
    """One image a frame, in order, where the source has images instead of a video file."""
    frame_numbers: Int[np.ndarray, " T"] | None = None
    """Frames of the video file that make up the clip, ascending, where it is a piece of one; None = all of them."""
    lens: Lens | None = None
    """Of the recorded image; None = it is a pinhole image already."""
    T_cam_world: Float[np.ndarray, "T 4 4"] | None = None
    """World-to-camera a frame; None where unknown."""
    hands: dict[str, HandTrack] = field(default_factory=dict)
    """MANO labels by side; empty where the source has none."""
    joints: dict[str, JointTrack] = field(default_factory=dict)
    """Joint labels by side, of sources without MANO."""
    hand_model: Path | None = None
    """Folder with the MANO files that `hands` belong to; None = the stand-in."""
    hands_route: str = "labels"
    """Where `hands` come from: "labels" of the source, or the hand backend that was run on the video, "hawor"."""
    left_model: str = "own"
    """What `hands["left"]` belongs to: "own", MANO_LEFT as it is; "fixed", MANO_LEFT with its shapes turned round (smplx
    issue 48); "mirrored", MANO_RIGHT in a mirror. ops.sources.hand_models loads it."""
    published_px: dict[str, Float[np.ndarray, "T 21 2"]] = field(default_factory=dict)
    """Joints in the image as the source itself publishes them, by side, pixels of the undistorted image, NaN where it
    gives none. Never a label: ops.sources.acceptance compares the labels' projection with them."""
    objects: tuple[ObjectTrack, ...] = ()
    instructions: tuple[Instruction, ...] = ()
    contact: dict[str, Int[np.ndarray, " T"]] | None = None
    """By side: index into objects of what the hand touches, -1 for nothing; None where the source does not say."""
    depth: Depth | None = None
    """Of a depth sensor, seen by `camera`; None without one."""
    object_names: tuple[str, ...] = ()
    """Names the source says are in the scene, without places."""

    noncommercial: bool = True
    redistributable: bool = False
    """What the licence says of the video and labels; unless it is known to allow more, the strictest."""
    subject: str = ""
    """Who acts, as the source names people; "" = not said."""
    view: str = ""
    """Which camera of several, as the source names it; "" = it has one."""
    task: str = ""
    """What the whole clip is for, where its instructions are steps of it; "" = not said."""

    @property
    def has_depth(self) -> bool:
        return self.depth is not None

    @property
    def has_labels(self) -> bool:
        return bool(self.hands or self.joints)

    def frames(self, indices: Iterable[int] | None = None, size: tuple[int, int] | None = None) -> Iterator[Frame]:
        """Undistorted frames in presentation order. indices: ascending; None = all. size: (width, height).

        A resized frame is seen by ``camera.resized(*size)``. Raises ClipError as read_frames does.
        """
        if self.lens is None:
            yield from self._recorded(indices, size)
            return
        import cv2

        map_x, map_y = pinhole_maps(self.lens, self.camera)
        for frame in self._recorded(indices, None):
            rgb = cv2.remap(frame.rgb, map_x, map_y, cv2.INTER_LINEAR)
            if size is not None:
                rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            yield Frame(frame.index, frame.time_s, rgb)

    def _recorded(self, indices: Iterable[int] | None, size: tuple[int, int] | None) -> Iterator[Frame]:
        if self.image_files:
            return read_images(self.image_files, self.times_s, indices, size)
        if self.frame_numbers is not None:
            return self._cut_out(indices, size)
        return read_frames(self.video, indices, size)

    def _cut_out(self, indices: Iterable[int] | None, size: tuple[int, int] | None) -> Iterator[Frame]:
        wanted = list(range(self.num_frames)) if indices is None else sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.num_frames:
            raise IndexError(f"the clip has frames 0 to {self.num_frames - 1}, asked for {wanted[0]} to {wanted[-1]}")
        frames = read_frames(self.video, self.frame_numbers[wanted].tolist(), size)
        for index, frame in zip(wanted, frames, strict=True):
            yield Frame(index, float(self.times_s[index]), frame.rgb)

    def depth_m(self, frame: int) -> Float[np.ndarray, "H W"] | None:
        """Sensor depth (z, metres, NaN where none) at a frame, or None if the source has none for that frame."""
        depth_m = None if self.depth is None else self.depth.read(frame)
        if depth_m is not None and depth_m.shape != (self.camera.height, self.camera.width):
            raise ClipError(
                Reason.BAD_SIDE_FILE,
                f"depth is {depth_m.shape}, the image {self.camera.height} x {self.camera.width}",
                frame,
            )
        return depth_m


def sampled_frames(times_s: Float[np.ndarray, " T"], fps: float) -> list[int]:
    """Frames of the 1-fps (or other) sampling: the nearest frame to each k / fps, k = 0, 1, ... (paper 3.2.1).

    Every stage that samples uses this one, so that depth, boxes and questions are about the same frames.
    """
    if fps <= 0:
        raise ValueError(f"fps must be > 0, got {fps}")
    wanted = np.arange(0.0, times_s[-1] + 1e-6, 1.0 / fps)
    right = np.clip(np.searchsorted(times_s, wanted), 0, len(times_s) - 1)
    left = np.maximum(right - 1, 0)
    nearer_left = wanted - times_s[left] <= times_s[right] - wanted
    return sorted({int(i) for i in np.where(nearer_left, left, right)})


def read_each(
    list_videos: Callable[..., list[Path]],
    read_clip: Callable[..., Clip],
    shard: ShardConfig,
    config: RawVideosConfig | None = None,
) -> Iterator[Clip | Reject]:
    """Clips of a source one by one; what cannot be read comes as a Reject with its reason and stops nothing."""
    root = Path(shard.root)
    for video in list_videos(root, shard.view):
        try:
            yield read_clip(video, shard, config or RawVideosConfig())
        except ClipError as error:
            yield error.reject(video.relative_to(root).as_posix())
