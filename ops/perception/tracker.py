"""Hands in the frames of a video by the MediaPipe landmarker (CPU, Apache-2.0 weights): the stand-in for HaWoR.

A detection is 21 pixels and 21 "world" points: metres about the hand's centre, camera axes, the size guessed anew in
each frame. ops.perception.tracks links detections and places them in the camera frame.

The landmarker takes feet and elbows for hands. A hand is found again at the same place when its crop is looked at in
another size and mirrored; such things mostly are not. So each hand gets second looks when it appears and then every two
seconds, and what they do not confirm is rejected, track by track.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from ops.video import Frame

SAME_HAND = 0.03  # of the image width: two detections this near are one hand. ASSUMED
TILE_FROM_PX = 900  # frames with a longer edge are searched in tiles when the whole frame shows no hand
TILES = (4, 3)  # along the longer and the shorter edge
TILE_SCORE = 0.6  # a tile shows less context, so a detection in it has to be surer. ASSUMED
LOOK_EVERY_S = 2.0
LOOKS = ((2.0, False), (3.0, False), (2.5, True))  # crop's edge as a multiple of the hand's extent; mirrored or not
LOOK_PIXELS = 256
SMALL_HAND_PX = 72.0  # the joints of smaller hands wander by as many pixels as those of a hand of this size


@dataclass(frozen=True)
class Detection:
    """One hand in one frame.

    px: continuous pixels. world: metres about the hand's centre, axes of the camera. score: of its side, 0.5 to 1.
    moved: how far its joints lay from here at the second looks (median look), as a share of `extent_px`; inf where
    most looks found no hand. Between second looks: that of the last one nearby.
    """

    frame: int
    time_s: float
    side: str
    score: float
    px: Float[np.ndarray, "21 2"]
    world: Float[np.ndarray, "21 3"]
    moved: float = np.inf

    @property
    def extent_px(self) -> float:
        """Longer edge of its box."""
        return float(np.ptp(self.px, axis=0).max())


class Landmarker:
    """The detector over one clip's frames; a context manager, since MediaPipe has to be closed."""

    def __init__(self, model: Path, min_confidence: float) -> None:
        import os

        os.environ.setdefault("GLOG_minloglevel", "2")  # its chatter, not its errors
        from mediapipe.tasks.python import BaseOptions, vision

        if not model.is_file():
            raise FileNotFoundError(f"hand landmarker weights are missing at {model}: run `hand3d bootstrap`")

        def make(mode):
            return vision.HandLandmarker.create_from_options(
                vision.HandLandmarkerOptions(
                    base_options=BaseOptions(model_asset_path=str(model)),
                    running_mode=mode,
                    num_hands=2,
                    min_hand_detection_confidence=min_confidence,
                    min_hand_presence_confidence=min_confidence,
                    min_tracking_confidence=min_confidence,
                )
            )

        self._video, self._image = make(vision.RunningMode.VIDEO), make(vision.RunningMode.IMAGE)
        self._last_ms = -1
        self._looked: list[Detection] = []

    def __enter__(self) -> "Landmarker":
        return self

    def __exit__(self, *_: object) -> None:
        self._video.close()
        self._image.close()

    def detect(self, frame: Frame) -> list[Detection]:
        """Hands of a frame; frames in order of time."""
        self._last_ms = max(self._last_ms + 1, round(frame.time_s * 1000))
        height, width = frame.rgb.shape[:2]
        found = _detections(
            self._video.detect_for_video(_image(frame.rgb), self._last_ms), frame, (0, 0, width, height)
        )
        if not found and max(height, width) >= TILE_FROM_PX:
            found = self._in_tiles(frame)
        return [self._looked_at_again(frame, detection) for detection in _distinct(found, width)]

    def _looked_at_again(self, frame: Frame, detection: Detection) -> Detection:
        """With `moved`: from second looks, or from a hand nearby that had them a moment ago."""
        self._looked = [d for d in self._looked if frame.time_s - d.time_s < LOOK_EVERY_S]
        near = [d for d in self._looked if np.linalg.norm(d.px[0] - detection.px[0]) < detection.extent_px]
        if near:
            return replace(detection, moved=near[-1].moved)
        looks = [self._moved(frame, detection, size, mirror) for size, mirror in LOOKS]
        again = replace(detection, moved=float(np.median(looks)))
        self._looked.append(again)
        return again

    def _moved(self, frame: Frame, detection: Detection, size: float, mirror: bool) -> float:
        edge = max(round(size * detection.extent_px), 32)
        corner = (detection.px.min(0) + detection.px.max(0)) / 2 - edge / 2
        crop = _square(frame.rgb, corner, edge, mirror)
        found = _detections(self._image.detect(_image(crop)), frame, (0, 0, edge, edge))
        places = [np.c_[edge - d.px[:, 0], d.px[:, 1]] if mirror else d.px for d in found]
        apart = [np.linalg.norm(px + corner - detection.px, axis=1).mean() for px in places]
        return float(min(apart, default=np.inf)) / max(detection.extent_px, SMALL_HAND_PX)

    def _in_tiles(self, frame: Frame) -> list[Detection]:
        """Hands too small for the detector's 192 pixels on the whole frame: look through half-overlapping tiles."""
        found = []
        for x, y, w, h in tiles(frame.rgb.shape[1], frame.rgb.shape[0]):
            crop = np.ascontiguousarray(frame.rgb[y : y + h, x : x + w])
            found += [
                d for d in _detections(self._image.detect(_image(crop)), frame, (x, y, w, h)) if d.score >= TILE_SCORE
            ]
        return found


def tiles(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """(x, y, width, height) of half-overlapping tiles that cover a frame."""
    across, down = TILES if width >= height else TILES[::-1]
    w, h = round(2 * width / (across + 1)), round(2 * height / (down + 1))
    xs = np.linspace(0, width - w, across).round().astype(int)
    ys = np.linspace(0, height - h, down).round().astype(int)
    return [(int(x), int(y), w, h) for y in ys for x in xs]


def _image(rgb: np.ndarray):
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))


def _detections(result, frame: Frame, window: tuple[int, int, int, int]) -> list[Detection]:
    """MediaPipe's result in our types; its landmarks are shares of the window (x, y, width, height)."""
    x, y, width, height = window
    return [
        Detection(
            frame.index,
            frame.time_s,
            handedness[0].category_name.lower(),
            float(handedness[0].score),
            np.array([[x + p.x * width, y + p.y * height] for p in landmarks]),
            np.array([[p.x, p.y, p.z] for p in world]),
        )
        for landmarks, world, handedness in zip(
            result.hand_landmarks, result.hand_world_landmarks, result.handedness, strict=True
        )
    ]


def _square(rgb: np.ndarray, corner: np.ndarray, edge: int, mirror: bool) -> np.ndarray:
    """LOOK_PIXELS square of the picture from a corner on; what lies outside repeats the border."""
    scale = LOOK_PIXELS / edge
    flip = np.array([[-1.0, 0, LOOK_PIXELS - 1], [0, 1, 0], [0, 0, 1]]) if mirror else np.eye(3)
    # integer-centred pixels: continuous u -> (u - corner) * scale
    offset = scale * (0.5 - np.asarray(corner)) - 0.5
    place = flip @ np.array([[scale, 0, offset[0]], [0, scale, offset[1]], [0, 0, 1]])
    size = (LOOK_PIXELS, LOOK_PIXELS)
    return cv2.warpAffine(rgb, place[:2], size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _distinct(found: list[Detection], width: int) -> list[Detection]:
    """At most two hands, the surest first; of two at one place the surer."""
    kept: list[Detection] = []
    for detection in sorted(found, key=lambda d: -d.score):
        if all(np.linalg.norm(d.px.mean(0) - detection.px.mean(0)) > SAME_HAND * width for d in kept):
            kept.append(detection)
    return kept[:2]
