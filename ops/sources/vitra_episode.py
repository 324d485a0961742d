"""VITRA-1M episodes: one atomic hand action of some video, an .npy that holds a dict (microsoft/VITRA, data/data.md).

World and camera OpenCV axes, metres, world-to-camera extrinsics. Both hands are in MANO_RIGHT's convention with no hand
mean: the left is MANO_RIGHT mirrored in x, so its finger rotations are the right hand's, while the wrist's rotation
is the real one. `transl_worldspace` is the WRIST; `transl_camspace` (deprecated) is not. T frames, 25 to some hundred.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from ops.geometry import transforms
from ops.rejects import ClipError, Reason
from ops.sources.base import SIDES
from ops.sources.safe_load import load_npy_object
from ops.sources.world_labels import finite, rigid

ARRAYS = ("beta", "global_orient_worldspace", "hand_pose", "transl_worldspace", "kept_frames", "joints_worldspace")


@dataclass(frozen=True, eq=False)
class EpisodeHand:
    """One hand of an episode; where it is not kept, rotations are the identity and positions zero."""

    beta: Float[np.ndarray, " 10"]
    R_world_wrist: Float[np.ndarray, "T 3 3"]
    """Real wrist orientation, also of the left hand."""
    hand_pose: Float[np.ndarray, "T 15 3 3"]
    """Finger rotations in MANO_RIGHT's convention."""
    wrist_world: Float[np.ndarray, "T 3"]
    joints_world: Float[np.ndarray, "T 21 3"]
    """OpenPose order."""
    kept: Bool[np.ndarray, " T"]
    rest_wrist: Float[np.ndarray, " 3"]
    """J_wrist(beta) of MANO_RIGHT."""


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode as it is stored. Text spans count the episode's frames, half open."""

    video_name: str
    anno_type: str
    """The hand the episode was cut by: "left" or "right"."""
    frames: Int[np.ndarray, " T"]
    """Of the source video, from 0."""
    T_cam_world: Float[np.ndarray, "T 4 4"]
    K: Float[np.ndarray, "3 3"]
    """Of the undistorted video; the principal point is its middle."""
    text: dict[str, tuple[tuple[str, int, int], ...]]
    rephrased: dict[str, tuple[tuple[tuple[str, ...], int, int], ...]]
    hands: dict[str, EpisodeHand]

    @property
    def num_frames(self) -> int:
        return len(self.frames)


def read_episode(path: Path) -> Episode:
    """Raises ClipError: MISSING_LABELS, BAD_LABEL (no episode, wrong shapes, pickled code), NAN_LABEL."""
    stored = load_npy_object(path)
    needed = {"extrinsics", "intrinsics", "video_decode_frame", "video_name", "anno_type", "text", *SIDES}
    _has(stored, needed, path.name)
    frames = np.asarray(stored["video_decode_frame"])
    if frames.ndim != 1 or not len(frames) or not np.issubdtype(frames.dtype, np.integer):
        raise ClipError(
            Reason.BAD_LABEL,
            f"{path.name}: video_decode_frame should be frame numbers, is {frames.dtype} {frames.shape}",
        )
    if frames[0] < 0 or (np.diff(frames) <= 0).any():
        raise ClipError(Reason.BAD_LABEL, f"{path.name}: video_decode_frame does not ascend from 0 or later")
    T = len(frames)
    return Episode(
        video_name=str(stored["video_name"]),
        anno_type=str(stored["anno_type"]),
        frames=frames.astype(np.int64),
        T_cam_world=rigid(finite(stored["extrinsics"], (T, 4, 4), "extrinsics"), "extrinsics"),
        K=finite(stored["intrinsics"], (3, 3), "intrinsics"),
        text={side: _spans(stored["text"], side, str, T) for side in SIDES},
        rephrased={side: _spans(stored.get("text_rephrase") or {}, side, _texts, T) for side in SIDES},
        hands={side: _hand(stored[side], side, T) for side in SIDES},
    )


def _has(stored: object, needed: set[str], where: str) -> None:
    if not isinstance(stored, dict):
        raise ClipError(Reason.BAD_LABEL, f"{where} holds a {type(stored).__name__}, an episode is a dict")
    missing = sorted(needed - set(stored))
    if missing:
        raise ClipError(Reason.BAD_LABEL, f"{where} lacks {', '.join(missing)}; it has {', '.join(map(str, stored))}")


def _hand(stored: object, side: str, T: int) -> EpisodeHand:
    _has(stored, set(ARRAYS), side)
    kept = finite(stored["kept_frames"], (T,), f"{side}.kept_frames", side=side) > 0

    def of_frames(key: str, *shape: int) -> np.ndarray:
        """Numbers of the kept frames; zeros elsewhere, where the file may hold anything."""
        values = np.asarray(stored[key], dtype=np.float64)
        if values.shape != (T, *shape):
            raise ClipError(Reason.BAD_LABEL, f"{side}.{key} has shape {values.shape}, needs {(T, *shape)}", side=side)
        finite(values[kept], values[kept].shape, f"{side}.{key}", side=side)
        return np.where(kept.reshape(T, *[1] * len(shape)), values, 0.0)

    wrist = stored.get("wrist")
    has_wrist = wrist is not None and np.size(wrist) == 3 * T and kept.any()
    return EpisodeHand(
        beta=finite(stored["beta"], (10,), f"{side}.beta", side=side) if kept.any() else np.zeros(10),
        R_world_wrist=_rotations(of_frames("global_orient_worldspace", 3, 3), kept, f"{side}.global_orient_worldspace"),
        hand_pose=_rotations(of_frames("hand_pose", 15, 3, 3), kept, f"{side}.hand_pose"),
        wrist_world=of_frames("transl_worldspace", 3),
        joints_world=of_frames("joints_worldspace", 21, 3),
        kept=kept,
        rest_wrist=np.asarray(wrist, np.float64).reshape(T, 3)[np.argmax(kept)] if has_wrist else np.zeros(3),
    )


def _rotations(R: np.ndarray, kept: np.ndarray, where: str) -> np.ndarray:
    """Rotations made exact, the identity where not kept."""
    R = np.where(kept.reshape(len(R), *[1] * (R.ndim - 1)), R, np.eye(3))
    flat = transforms.make(R.reshape(-1, 3, 3), np.zeros(3))
    return rigid(flat, where)[:, :3, :3].reshape(R.shape)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in ([value] if isinstance(value, str) else value))


def _spans(stored: object, side: str, convert, T: int) -> tuple:
    """(text, start, end) of one hand, cut to the episode; spans outside it or empty are left out."""
    spans = stored.get(side, []) if isinstance(stored, dict) else None
    try:
        found = [(convert(text), max(int(start), 0), min(int(end), T)) for text, (start, end) in spans or []]
    except (TypeError, ValueError) as error:
        raise ClipError(
            Reason.BAD_LABEL, f"text of the {side} hand is no list of (text, (start, end)): {error}"
        ) from error
    if spans is None:
        raise ClipError(Reason.BAD_LABEL, f"text should be a dict of both hands, is {type(stored).__name__}")
    return tuple(span for span in found if span[1] < span[2])


# -- writing


def write_episode(path: Path, episode: Episode) -> None:
    """The episode's .npy: keys, shapes and dtypes as VITRA-1M has them, deprecated ones included. Whole or absent."""
    kept = episode.hands[episode.anno_type]
    turn_deg, travel_m = _camera_motion(episode.T_cam_world)
    stored = {
        "video_clip_id_segment": np.zeros(episode.num_frames, np.int64),
        "extrinsics": np.asarray(episode.T_cam_world, np.float64),
        "intrinsics": np.asarray(episode.K, np.float64),
        "video_decode_frame": np.asarray(episode.frames, np.int64),
        "video_name": episode.video_name,
        "avg_speed": _mean_step(kept.wrist_world, kept.kept),
        "total_rotvec_degree": turn_deg,
        "total_transl_dist": travel_m,
        "anno_type": episode.anno_type,
        "text": {side: [(text, (start, end)) for text, start, end in episode.text[side]] for side in SIDES},
        "text_rephrase": {
            side: [(list(texts), (start, end)) for texts, start, end in episode.rephrased[side]] for side in SIDES
        },
    } | {side: _stored_hand(episode.hands[side], episode.T_cam_world) for side in SIDES}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, np.array(stored, dtype=object), allow_pickle=True)
    partial.replace(path)


def _stored_hand(hand: EpisodeHand, T_cam_world: np.ndarray) -> dict[str, object]:
    kept = hand.kept
    R_world = np.where(kept[:, None, None], hand.R_world_wrist, np.eye(3))
    wrist_world = np.where(kept[:, None], hand.wrist_world, 0.0)
    joints_world = np.where(kept[:, None, None], hand.joints_world, 0.0)
    R_cam = np.where(kept[:, None, None], T_cam_world[:, :3, :3] @ hand.R_world_wrist, np.eye(3))
    wrist_cam = np.where(kept[:, None], transforms.apply(T_cam_world, hand.wrist_world), 0.0)
    joints_cam = np.where(kept[:, None, None], transforms.apply(T_cam_world[:, None], hand.joints_world), 0.0)
    return {
        "beta": np.asarray(hand.beta, np.float64),
        "global_orient_camspace": R_cam,
        "global_orient_worldspace": R_world,
        "hand_pose": np.where(kept[:, None, None, None], hand.hand_pose, np.eye(3)),
        "transl_camspace": np.where(kept[:, None], wrist_cam - hand.rest_wrist, 0.0),
        "transl_worldspace": wrist_world,
        "kept_frames": kept.astype(np.int64),
        "joints_camspace": joints_cam.astype(np.float32),
        "joints_worldspace": joints_world,
        "wrist": np.broadcast_to(hand.rest_wrist, (len(kept), 1, 3)).astype(np.float32),
        "max_translation_movement": None,
        "max_wrist_rotation_movement": None,
        "max_finger_joint_angle_movement": None,
    }


def _mean_step(wrist_world: np.ndarray, kept: np.ndarray) -> float:
    """Mean movement of the wrist a frame, metres, between neighbouring kept frames."""
    both = kept[1:] & kept[:-1]
    steps = np.linalg.norm(np.diff(wrist_world, axis=0), axis=1)[both]
    return float(steps.mean()) if len(steps) else 0.0


def _camera_motion(T_cam_world: np.ndarray) -> tuple[float, float]:
    """How far the camera turned (degrees) and travelled (metres), summed over the frames."""
    T_world_cam = transforms.invert(T_cam_world)
    R = T_world_cam[:, :3, :3]
    turns = transforms.rotmat_to_rotvec(np.swapaxes(R[:-1], 1, 2) @ R[1:])
    steps = np.linalg.norm(np.diff(T_world_cam[:, :3, 3], axis=0), axis=1)
    return float(np.rad2deg(np.linalg.norm(turns, axis=1).sum())), float(steps.sum())


def write_frame_index(folder: Path, num_frames: dict[str, int]) -> None:
    """`episode_frame_index.npz` of a data set's folder. num_frames: of every episode by its id, in the order of rows."""
    pairs = [(row, frame) for row, count in enumerate(num_frames.values()) for frame in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "episode_frame_index.npz",
        index_frame_pair=np.array(pairs, np.int64).reshape(-1, 2),
        index_to_episode_id=np.array(list(num_frames)),
    )
