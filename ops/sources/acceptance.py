"""Nine checks of labels that no schema sees: wrong units, wrists, means, mirrors, camera directions, frame counts.

Pure functions of a clip and its hands, which come from a reader or from the mano_fits table; each returns what it
measured. They run as asset checks on every shard and in `hand3d sources check` on a user's copy before any run. Camera
frame, metres, pixels. Limits are of hands and cameras, not of a source.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int

from ops.geometry import transforms
from ops.sources.base import Clip
from ops.sources.licences import Terms, refusal

PALM_M = (0.07, 0.12)  # wrist to the middle finger's knuckle
EGO_Z_M, THIRD_PERSON_Z_M = (0.1, 1.5), (0.1, 5.0)
MAX_PUBLISHED_PX = 2.0
MAX_WRIST_M = 1e-4
MAX_CURL_BACK = -0.15  # ASSUMED: of the palm's length; a flat hand is near 0, a mirrored grasp -0.3 and less
MIN_CAMERA_STEP = 0.02  # metres or radians over the clip, below which a camera counts as standing
MAX_SPEED_RATIO = 1.5  # ASSUMED: of the wrist in the world, as labelled to with the camera's pose inverted
DECISIVE = 1.5  # ASSUMED: how many times better one reading of the poses must explain the depth to decide by it
DEPTH_RATIO = (0.8, 1.3)
DEPTH_FRAMES = 6
MAX_BAD_SHARE = 0.05  # ASSUMED: of frames of a clip, and of clips of a shard
TIPS = (4, 8, 12, 16, 20)  # toolkits take other vertices for them
PALM = (0, 5, 9, 13, 17)  # the wrist alone is often behind a sleeve, or lost at the end of the sensor's hand
NOT_TIPS = tuple(joint for joint in range(21) if joint not in TIPS)


@dataclass(frozen=True, eq=False)
class Hand:
    """One hand of a clip in its n labelled frames. tau: as labelled, None where the source has joints alone."""

    side: str
    frames: Int[np.ndarray, " n"]
    joints_cam: Float[np.ndarray, "n 21 3"]
    tau: Float[np.ndarray, "n 3"] | None


@dataclass(frozen=True)
class Measured:
    """What a check found. passed: None = nothing to judge by. numbers: with the unit in the name."""

    name: str
    passed: bool | None
    numbers: dict[str, float]
    detail: str = ""


def hands_of(clip: Clip, standin: Path | None) -> list[Hand]:
    """Labelled hands of a clip. standin: folder of the model of labels that name none; None = leave those out.

    Raises FileNotFoundError, ValueError for a hand model that is not there or not sound.
    """
    from ops.sources.hand_models import models_of

    found = []
    models = models_of(clip, standin) if clip.hands and (clip.hand_model or standin) else {}
    for side, track in clip.hands.items():
        at = np.flatnonzero(track.valid)
        if side in models and len(at):
            tau = track.tau[at]
            found.append(Hand(side, at, models[side].joints(track.theta[at], track.r[at], tau, track.beta), tau))
    for side, track in clip.joints.items():
        at = np.flatnonzero(track.valid)
        if len(at) and side not in clip.hands:
            found.append(Hand(side, at, track.joints_cam[at], None))
    return found


def measure(clip: Clip, hands: list[Hand], use: str) -> list[Measured]:
    """Checks 2 to 9 of a clip; check 1 is of the reader (ops.sources.round_trip)."""
    return [
        hand_size(clip, hands),
        published_joints(clip, hands),
        wrist_is_tau(hands, clip),
        handedness(clip, hands),
        camera_direction(clip, hands),
        depth_scale(clip, hands),
        frame_counts(clip),
        licence(clip, use),
    ]


# -- 2 to 5: the hand


def hand_size(clip: Clip, hands: list[Hand]) -> Measured:
    """2: palms as long as palms are, hands as near as hands are: millimetres for metres, a wrong frame."""
    if not hands:
        return Measured("hand_size", None, {})
    palm_m = np.concatenate([np.linalg.norm(h.joints_cam[:, 9] - h.joints_cam[:, 0], axis=-1) for h in hands])
    z_m = np.concatenate([h.joints_cam[:, 0, 2] for h in hands])
    limits_m = THIRD_PERSON_Z_M if _third_person(clip) else EGO_Z_M
    palm_m, z_m = palm_m[np.isfinite(palm_m)], z_m[np.isfinite(z_m)]
    bad_share = max(_outside(palm_m, PALM_M), _outside(z_m, limits_m))
    numbers = {"palm_m": _median(palm_m), "wrist_z_m": _median(z_m), "outside_share": bad_share}
    return Measured("hand_size", bad_share <= MAX_BAD_SHARE, numbers, f"palm {PALM_M} m, wrist z {limits_m} m")


def published_joints(clip: Clip, hands: list[Hand]) -> Measured:
    """3: labels projected into the image lie on the source's own image joints; fingertips apart."""
    off_px = [
        np.linalg.norm(clip.camera.project(hand.joints_cam) - clip.published_px[hand.side][hand.frames], axis=-1)
        for hand in hands
        if hand.side in clip.published_px
    ]
    off_px = [_row_means(values[:, NOT_TIPS]) for values in off_px]
    values = np.concatenate(off_px) if off_px else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return Measured("published_joints", None, {})
    numbers = {"apart_px": float(np.median(values)), "apart_px_95": float(np.quantile(values, 0.95))}
    return Measured("published_joints", numbers["apart_px"] < MAX_PUBLISHED_PX, numbers, f"limit {MAX_PUBLISHED_PX} px")


def wrist_is_tau(hands: list[Hand], clip: Clip | None = None) -> Measured:
    """4: tau is the wrist joint; where the source publishes image joints, its wrist lies on them too (J_wrist: 96 mm)."""
    with_tau = [hand for hand in hands if hand.tau is not None and len(hand.frames)]
    if not with_tau:
        return Measured("wrist_is_tau", None, {})
    apart_m = max(float(np.abs(hand.joints_cam[:, 0] - hand.tau).max()) for hand in with_tau)
    numbers, passed = {"tau_to_joint_m": apart_m}, apart_m < MAX_WRIST_M
    sideways_m = np.concatenate([_wrist_sideways_m(clip, hand) for hand in with_tau] if clip else [np.zeros(0)])
    if len(sideways_m):
        numbers["to_published_wrist_m"] = _median(sideways_m)
        passed &= numbers["to_published_wrist_m"] < 0.01
    return Measured("wrist_is_tau", bool(passed), numbers, f"limits {MAX_WRIST_M} m, published 0.01 m")


def handedness(clip: Clip, hands: list[Hand]) -> Measured:
    """5: fingers bend towards the palm of THAT hand, and camera poses are rotations, no mirrors."""
    det = 1.0 if clip.T_cam_world is None else float(np.linalg.det(clip.T_cam_world[:, :3, :3]).min())
    curls = np.concatenate([curl(hand.joints_cam, hand.side) for hand in hands] or [np.zeros(0)])
    curls = curls[np.isfinite(curls)]
    if not len(curls):
        return Measured("handedness", None if det > 0.99 else False, {"det": det})
    numbers = {"det": det, "curl": _median(curls)}
    wrong = det < 0.99 or numbers["curl"] < MAX_CURL_BACK
    undecided = numbers["curl"] < -MAX_CURL_BACK  # as flat as either hand may be
    return Measured(
        "handedness", False if wrong else None if undecided else True, numbers, "a mirrored hand bends back"
    )


def curl(joints_cam: Float[np.ndarray, "n 21 3"], side: str) -> Float64[np.ndarray, " n"]:
    """How far the fingertips lie on the palm's side of the hand, in palm lengths; negative = on the back of it."""
    to_index, to_little = joints_cam[:, 5] - joints_cam[:, 0], joints_cam[:, 17] - joints_cam[:, 0]
    normal = np.cross(to_index, to_little) * (1.0 if side == "right" else -1.0)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    fingers = joints_cam[:, [8, 12, 16, 20]] - joints_cam[:, [5, 9, 13, 17]]
    palm_m = np.linalg.norm(joints_cam[:, 9] - joints_cam[:, 0], axis=-1)
    return np.einsum("nfi,ni->nf", fingers, normal).mean(axis=1) / np.maximum(palm_m, 1e-6)


# -- 6 and 7: camera and depth


def camera_direction(clip: Clip, hands: list[Hand]) -> Measured:
    """6: the world stands still under T_cam_world, and would not under its inverse (camera-to-world taken for it)."""
    T = clip.T_cam_world
    if T is None or not _moves(T):
        return Measured("camera_direction", None, {})
    inverse = transforms.invert(T)
    numbers: dict[str, float] = {}
    ratios = [_speed(hand, inverse) / max(_speed(hand, T), 1e-9) for hand in hands if len(hand.frames) > 1]
    if ratios:
        numbers["wrist_speed_ratio"] = float(np.median(ratios))
    errors = _depth_errors(clip, T, inverse)
    if errors is not None:
        numbers |= {"depth_error": errors[0], "depth_error_inverted": errors[1]}
        if max(errors) > DECISIVE * min(errors):
            detail = "depth of one frame carried to another by the camera's poses"
            return Measured("camera_direction", errors[0] < errors[1], numbers, detail)
    passed = numbers["wrist_speed_ratio"] < MAX_SPEED_RATIO if ratios else None
    return Measured("camera_direction", passed, numbers, f"limit of the speed ratio {MAX_SPEED_RATIO}")


def depth_scale(clip: Clip, hands: list[Hand]) -> Measured:
    """7: the depth sensor sees wrist and knuckles about where the label has them; another unit is off by 4 or 1000."""
    ratios: list[float] = []
    for hand in hands if clip.has_depth else ():
        for row in np.unique(np.linspace(0, len(hand.frames) - 1, DEPTH_FRAMES).astype(int)):
            depth_m = clip.depth_m(int(hand.frames[row]))
            palm = hand.joints_cam[row, PALM]
            seen_m = [None if depth_m is None else _around(depth_m, px) for px in clip.camera.project(palm)]
            ratios += [m / float(point[2]) for m, point in zip(seen_m, palm, strict=True) if m is not None]
    if not ratios:
        return Measured("depth_scale", None, {})
    ratio = float(np.median(ratios))
    low, high = DEPTH_RATIO
    return Measured("depth_scale", low <= ratio <= high, {"depth_to_palm": ratio}, f"limits {low} to {high}")


# -- 8 and 9


def frame_counts(clip: Clip) -> Measured:
    """8: every track has one entry a frame, frames come one after the other, and first, middle and last decode."""
    tracks = [*clip.hands.values(), *clip.joints.values()]
    lengths = {len(track.valid) for track in tracks} | {len(thing.boxes_px) for thing in clip.objects}
    lengths |= {len(clip.times_s)} | ({len(clip.T_cam_world)} if clip.T_cam_world is not None else set())
    lengths |= {len(clip.image_files)} if clip.image_files else set()
    wanted = sorted({0, clip.num_frames // 2, clip.num_frames - 1})
    sizes = [frame.rgb.shape[:2] for frame in clip.frames(wanted)]
    same = lengths == {clip.num_frames} and bool((np.diff(clip.times_s) > 0).all())
    seen = sizes == [(clip.camera.height, clip.camera.width)] * len(wanted)
    detail = f"{clip.num_frames} frames, tracks of {sorted(lengths)}, images of {sorted(set(sizes))} (rows, columns)"
    return Measured("frame_counts", same and seen, {"num_frames": float(clip.num_frames)}, detail)


def licence(clip: Clip, use: str) -> Measured:
    """9: the clip says what may be done with it, and that allows the declared use."""
    terms = Terms(clip.source, clip.licence, clip.noncommercial, clip.redistributable)
    refused = refusal([terms], use)
    stated = bool(clip.licence.strip())
    return Measured("licence", stated and not refused, {}, refused or clip.licence or "no licence is stated")


# -- over clips


def judge(found: Iterable[Measured]) -> list[Measured]:
    """One verdict a check over the clips: fails if more than MAX_BAD_SHARE of the judged clips do; median numbers."""
    by_name: dict[str, list[Measured]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one)
    return [_verdict(name, measured) for name, measured in by_name.items()]


def _verdict(name: str, measured: list[Measured]) -> Measured:
    judged = [one for one in measured if one.passed is not None]
    failed = [one for one in judged if not one.passed]
    keys = dict.fromkeys(key for one in measured for key in one.numbers)
    numbers = {key: _median(np.array([one.numbers[key] for one in measured if key in one.numbers])) for key in keys}
    count = f"{len(judged)} of {len(measured)} clips judged, {len(failed)} fail"
    detail = f"{count}: {failed[0].detail}" if failed else count
    return Measured(name, len(failed) <= MAX_BAD_SHARE * len(judged) if judged else None, numbers, detail)


# -- helpers


def _third_person(clip: Clip) -> bool:
    """A fixed camera that the source names; head cameras move."""
    return bool(clip.view) and clip.T_cam_world is not None and not _moves(clip.T_cam_world)


def _moves(T: np.ndarray) -> bool:
    from_first = transforms.relative(T, T[:1])
    turned = np.linalg.norm(transforms.rotmat_to_rotvec(from_first[:, :3, :3]), axis=-1).max()
    return bool(max(turned, np.linalg.norm(from_first[:, :3, 3], axis=-1).max()) > MIN_CAMERA_STEP)


def _speed(hand: Hand, T_world_cam: np.ndarray) -> float:
    """Mean step of the wrist between neighbouring labelled frames, metres."""
    wrist = transforms.apply(T_world_cam[hand.frames], hand.joints_cam[:, 0])
    steps = np.linalg.norm(np.diff(wrist, axis=0), axis=-1)[np.diff(hand.frames) == 1]
    return float(np.nanmean(steps)) if np.isfinite(steps).any() else 0.0


def _depth_errors(clip: Clip, T: np.ndarray, inverse: np.ndarray) -> tuple[float, float] | None:
    """Median relative error of depth carried from the first frame to the one whose camera is farthest from it."""
    frames = [f for f in clip.depth.frames if f < clip.num_frames] if clip.depth is not None else []
    if len(frames) < 2:
        return None
    away = np.linalg.norm(transforms.invert(T[frames])[:, :3, 3] - transforms.invert(T[frames[0]])[:3, 3], axis=-1)
    first, last = frames[0], frames[int(np.argmax(away))]
    here, there = clip.depth_m(first), clip.depth_m(last)
    if here is None or there is None or first == last:
        return None
    v, u = (axis.ravel() for axis in np.mgrid[4 : here.shape[0] : 16, 4 : here.shape[1] : 16])
    points = clip.camera.unproject(np.stack([u, v], axis=-1) + 0.5, here[v, u])
    found = [_carried(clip, points, a[last] @ b[first], there) for a, b in ((T, inverse), (inverse, T))]
    return (found[0], found[1]) if np.isfinite(found[0]) else None


def _carried(clip: Clip, points: np.ndarray, T_there_here: np.ndarray, there: np.ndarray) -> float:
    moved = transforms.apply(T_there_here, points)
    px = clip.camera.project(moved)
    inside = clip.camera.contains(px)
    if inside.sum() < 20:
        return float("inf")
    at = np.floor(px[inside]).astype(int)
    seen = there[at[:, 1], at[:, 0]]
    error = np.abs(seen - moved[inside, 2]) / moved[inside, 2]
    return float(np.nanmedian(error)) if np.isfinite(error).sum() > 20 else float("inf")


def _around(depth_m: np.ndarray, px: np.ndarray) -> float | None:
    """Median of the valid depths within two pixels."""
    if not np.isfinite(px).all():
        return None
    u, v = (int(np.floor(value)) for value in px)
    patch = depth_m[max(v - 2, 0) : max(v + 3, 0), max(u - 2, 0) : max(u + 3, 0)]
    patch = patch[np.isfinite(patch)]
    return float(np.median(patch)) if len(patch) else None


def _wrist_sideways_m(clip: Clip, hand: Hand) -> np.ndarray:
    if hand.side not in clip.published_px:
        return np.zeros(0)
    off_px = clip.camera.project(hand.tau) - clip.published_px[hand.side][hand.frames, 0]
    off_m = np.linalg.norm(off_px / [clip.camera.fx, clip.camera.fy], axis=-1) * hand.tau[:, 2]
    return off_m[np.isfinite(off_m)]


def _row_means(values: np.ndarray) -> np.ndarray:
    """Mean of the finite numbers of each row; NaN where there is none."""
    finite = np.isfinite(values)
    return np.where(
        finite.any(axis=1), np.where(finite, values, 0.0).sum(axis=1) / np.maximum(finite.sum(axis=1), 1), np.nan
    )


def _outside(values: np.ndarray, limits: tuple[float, float]) -> float:
    return float(((values < limits[0]) | (values > limits[1])).mean()) if len(values) else 1.0


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
