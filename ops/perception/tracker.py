"""Hands in a video by the MediaPipe landmarker (CPU, Apache-2.0 weights): the embedded stand-in for HaWoR.

Detection gives 21 pixels and 21 "world" points (metres, about the hand's centre, its size guessed anew each frame).
Here the size is fixed to the track's median and the points are placed in the camera frame by PnP. Accuracy on real
video: 7-12 cm in the wrist's depth at half a metre; the relative pose is far better. That is what one camera gives
without a trained depth: good for plumbing and drift gates, not for labels of the paper's grade.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from ops.geometry.camera import PinholeCamera, opencv_K
from ops.rejects import Reason, Reject
from ops.video import Frame

MIDDLE_KNUCKLE = 9
MAX_JUMP = 0.25  # of the image width, that a wrist moves between two frames of a track. ASSUMED
SAME_HAND = 0.03  # of the image width: two detections this near are one hand. ASSUMED
TILE_FROM_PX = 900  # frames with a longer edge are searched in tiles when the whole frame shows no hand
TILES = (4, 3)  # along the longer and the shorter edge
TILE_SCORE = 0.6  # a tile shows less context, so a detection in it has to be surer. ASSUMED


@dataclass(frozen=True)
class Detection:
    """One hand in one frame. world: metres about the hand's centre, axes of the camera."""

    frame: int
    time_s: float
    side: str
    score: float
    px: Float[np.ndarray, "21 2"]
    world: Float[np.ndarray, "21 3"]


@dataclass(frozen=True)
class TrackedHand:
    """One hand of a clip: n frames. joints_cam: metres, from PnP with one hand size for the track."""

    side: str
    frames: np.ndarray
    times_s: np.ndarray
    scores: np.ndarray
    px: Float[np.ndarray, "n 21 2"]
    joints_cam: Float[np.ndarray, "n 21 3"]
    reprojection_px: Float[np.ndarray, " n"]


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
        return _distinct(found, width)

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


def track(
    frames: Iterable[Frame], camera: PinholeCamera, landmarker: Landmarker, item: str
) -> tuple[list[TrackedHand], list[Reject]]:
    """Hands of a clip, at most one a side and frame, and the rejects of frames without one."""
    detections, rejects = [], []
    for frame in frames:
        found = landmarker.detect(frame)
        if not found:
            rejects.append(Reject(item, Reason.NO_HAND_DETECTED, frame.index))
        detections.append(found)
    sided, ambiguous = one_per_side(detections, camera.width)
    rejects += [
        Reject(item, Reason.HAND_IDENTITY_AMBIGUOUS, d.frame, d.side, "a second hand of this side") for d in ambiguous
    ]
    return [place(side, hand, camera) for side, hand in sided.items()], rejects


def one_per_side(detections: list[list[Detection]], width: int) -> tuple[dict[str, list[Detection]], list[Detection]]:
    """Link detections to tracks by the wrist, give each track the side most of its score says, one hand a side.

    The landmarker's left/right flips from frame to frame on turned views; a track's vote is steadier.
    """
    tracks: list[list[Detection]] = []
    for found in detections:
        open_tracks = {i: t[-1].px[0] for i, t in enumerate(tracks) if found and found[0].time_s - t[-1].time_s < 0.7}
        for detection in sorted(found, key=lambda d: -d.score):
            near = {i: float(np.linalg.norm(at - detection.px[0])) for i, at in open_tracks.items()}
            best = min(near, key=near.get, default=None)
            if best is not None and near[best] < MAX_JUMP * width:
                tracks[best].append(detection)
                del open_tracks[best]
            else:
                tracks.append([detection])
    kept: dict[str, dict[int, Detection]] = {"left": {}, "right": {}}
    dropped = []
    for hand in sorted(tracks, key=lambda t: -sum(d.score for d in t)):
        side = "left" if sum(d.score * (1 if d.side == "left" else -1) for d in hand) > 0 else "right"
        for detection in hand:
            if detection.frame in kept[side]:
                dropped.append(detection)
            else:
                kept[side][detection.frame] = detection
    return {side: [found[f] for f in sorted(found)] for side, found in kept.items() if found}, dropped


def place(side: str, hand: list[Detection], camera: PinholeCamera) -> TrackedHand:
    """Camera-frame joints of one side's detections."""
    world = np.stack([d.world for d in hand])
    size = np.linalg.norm(world[:, MIDDLE_KNUCKLE] - world[:, 0], axis=1)
    world *= (np.median(size) / size)[:, None, None]
    px = np.stack([d.px for d in hand])
    joints = np.stack([_pnp(w, p, camera) for w, p in zip(world, px, strict=True)])
    error = np.linalg.norm(camera.project(joints) - px, axis=-1).mean(axis=1)
    return TrackedHand(
        side,
        np.array([d.frame for d in hand]),
        np.array([d.time_s for d in hand]),
        np.array([d.score for d in hand]),
        px,
        joints,
        error,
    )


def _pnp(world: np.ndarray, px: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    """The rigid body `world` placed so that it projects to px; NaN where no pose does."""
    K, pixels = opencv_K(camera), px - 0.5
    ok, rvec, tvec = cv2.solvePnP(world, pixels, K, None, flags=cv2.SOLVEPNP_SQPNP)
    if not ok:
        return np.full((21, 3), np.nan)
    rvec, tvec = cv2.solvePnPRefineLM(world, pixels, K, None, rvec, tvec)
    return world @ cv2.Rodrigues(rvec)[0].T + tvec[:, 0]


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


def _distinct(found: list[Detection], width: int) -> list[Detection]:
    """At most two hands, the surest first; of two at one place the surer."""
    kept: list[Detection] = []
    for detection in sorted(found, key=lambda d: -d.score):
        if all(np.linalg.norm(d.px.mean(0) - detection.px.mean(0)) > SAME_HAND * width for d in kept):
            kept.append(detection)
    return kept[:2]
