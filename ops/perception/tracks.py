"""Detections of hands -> tracks -> at most one left and one right hand, placed in the camera frame.

One image does not tell a hand's size or distance. The size is fixed to the track's median over its frames and the
points are placed by PnP; camera frame of each frame, OpenCV axes, metres. The side is the tracker's weakest claim: on
rendered clips about a quarter of the detections (69 of 290) is of tracks called by the wrong side.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from ops.geometry.camera import PinholeCamera, opencv_K
from ops.perception.tracker import Detection, Landmarker
from ops.rejects import Reason, Reject
from ops.video import Frame

MIDDLE_KNUCKLE = 9
MAX_GAP_S = 0.7  # a hand unseen for longer starts a new track. ASSUMED
SPEED = 10.0  # extents a second that a wrist moves at most, beside one extent of slack (2 m/s at 0.2 m). ASSUMED
OTHER_SIDE = 0.3  # cost of a detection of the other side, as a share of the longest step: keeps crossing hands apart
# ASSUMED, by eye on eight real videos: hands of 30 pixels or around cups come to 0.27, torsos and most feet to infinity
# or beyond 0.3, some feet to 0.12
MAX_MOVED = 0.3  # median of a track's Detection.moved


@dataclass(frozen=True)
class TrackedHand:
    """One hand of a clip: n frames. joints_cam: metres, from PnP with one hand size for the clip."""

    side: str
    frames: np.ndarray
    times_s: np.ndarray
    scores: np.ndarray
    px: Float[np.ndarray, "n 21 2"]
    joints_cam: Float[np.ndarray, "n 21 3"]
    reprojection_px: Float[np.ndarray, " n"]


def track(
    frames: Iterable[Frame], camera: PinholeCamera, landmarker: Landmarker, item: str
) -> tuple[list[TrackedHand], list[Reject]]:
    """Hands of a clip, at most one a side and frame, and the rejects: frames without one, doubtful and spare ones."""
    detections, rejects = [], []
    for frame in frames:
        found = landmarker.detect(frame)
        if not found:
            rejects.append(Reject(item, Reason.NO_HAND_DETECTED, frame.index))
        detections.append(found)
    sure = []
    for hand in link(detections):
        moved = float(np.median([d.moved for d in hand]))
        if moved <= MAX_MOVED:
            sure.append(hand)
            continue
        detail = f"second looks put its joints {moved:.2f} of its size away, at most {MAX_MOVED} allowed"
        rejects += [Reject(item, Reason.HAND_NOT_CONFIRMED, d.frame, d.side, detail) for d in hand]
    sided, spare = one_per_side(sure)
    detail = "another hand of this side is surer in this frame"
    rejects += [Reject(item, Reason.HAND_IDENTITY_AMBIGUOUS, d.frame, d.side, detail) for d in spare]
    return [place(side, hand, camera) for side, hand in sided.items()], rejects


def link(detections: list[list[Detection]]) -> list[list[Detection]]:
    """Tracks: frame by frame, the assignment of detections to open tracks with the least movement of the wrists."""
    tracks: list[list[Detection]] = []
    for found in detections:
        if not found:
            continue
        still_open = [t for t in tracks if found[0].time_s - t[-1].time_s <= MAX_GAP_S]
        cost = np.array([[_cost(hand, d) for d in found] for hand in still_open]).reshape(len(still_open), len(found))
        taken = set()
        for row, column in zip(*linear_sum_assignment(np.minimum(cost, 1e3)), strict=True):
            if np.isfinite(cost[row, column]):
                still_open[row].append(found[column])
                taken.add(column)
        tracks += [[d] for i, d in enumerate(found) if i not in taken]
    return tracks


def _cost(hand: list[Detection], detection: Detection) -> float:
    """Movement of the wrist as a share of the longest step allowed; inf beyond it."""
    last = hand[-1]
    reach = max(last.extent_px, detection.extent_px) * (1 + SPEED * (detection.time_s - last.time_s))
    step = float(np.linalg.norm(last.px[0] - detection.px[0])) / max(reach, 1e-9)
    return step + OTHER_SIDE * (side_of(hand) != detection.side) if step <= 1 else np.inf


def side_of(hand: list[Detection]) -> str:
    """What most of the track's score says: the landmarker flips left and right from frame to frame on turned views."""
    return "left" if sum(d.score * (1 if d.side == "left" else -1) for d in hand) > 0 else "right"


def one_per_side(tracks: list[list[Detection]]) -> tuple[dict[str, list[Detection]], list[Detection]]:
    """Each track gets one side; where two tracks claim one side in a frame the one with more evidence has it."""
    kept: dict[str, dict[int, Detection]] = {"left": {}, "right": {}}
    spare = []
    for hand in sorted(tracks, key=lambda t: -sum(d.score for d in t)):
        side = side_of(hand)
        for detection in hand:
            if detection.frame in kept[side]:
                spare.append(detection)
            else:
                kept[side][detection.frame] = detection
    return {side: [found[f] for f in sorted(found)] for side, found in kept.items() if found}, spare


def place(side: str, hand: list[Detection], camera: PinholeCamera) -> TrackedHand:
    """Camera-frame joints of one side's detections."""
    world = np.stack([d.world for d in hand])
    size = np.linalg.norm(world[:, MIDDLE_KNUCKLE] - world[:, 0], axis=1)
    world *= (np.median(size) / size)[:, None, None]
    px = np.stack([d.px for d in hand])
    joints = np.stack([pnp(w, p, camera) for w, p in zip(world, px, strict=True)])
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


def pnp(world: np.ndarray, px: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    """The rigid body `world` (21, 3) placed so that it projects to px (21, 2); NaN where no pose does."""
    K, pixels = opencv_K(camera), px - 0.5
    if not np.isfinite(world).all() or np.linalg.matrix_rank(world - world.mean(0), tol=1e-4) < 2:  # or on a line
        return np.full((21, 3), np.nan)
    world = world - world.mean(0)
    ok, rvec, tvec = cv2.solvePnP(world, pixels, K, None, flags=cv2.SOLVEPNP_SQPNP)
    if not ok:
        return np.full((21, 3), np.nan)
    rvec, tvec = cv2.solvePnPRefineLM(world, pixels, K, None, rvec, tvec)
    return world @ cv2.Rodrigues(rvec)[0].T + tvec[:, 0]
