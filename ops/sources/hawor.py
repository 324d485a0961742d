"""HaWoR's saved results beside a video, as the hand backend's output: MANO of both hands in the camera frame.

    <video stem>/cam_space/{0 left, 1 right}/<first>_<last>.json   init_root_orient (1, T, 3, 3), init_hand_pose (1, T, 15, 3, 3),
                                                                  init_trans (1, T, 3) m, init_betas (1, T, 10)
    <video stem>/est_focal.txt, SLAM/hawor_slam_w_scale_<s>_<e>.npz  focal length, px; camera path

HaWoR looks at the video resampled to 30 frames a second: frame k is what ffmpeg shows at k / 30 s. Hands are MANO of
their own side (the left with its shapes fixed, smplx issue 48), flat hand mean, wrist = J0(beta) + trans. Only what it
saw is read, not what its infiller adds in the world. The focal length is an estimate, so intrinsics are "assumed".
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.conventions import fix_left_shape, tau_from_transl, theta_from_rotmats
from ops.hands.mano import HandModel, load_models
from ops.rejects import ClipError, Reason
from ops.sources.base import SIDES, HandTrack
from ops.sources.raw_video import read_json
from ops.sources.world_labels import finite, rigid
from ops.video import VideoInfo

RATE = 30.0
DEFAULT_FOCAL_PX = 600.0
"""What HaWoR's demo takes when nobody gives or estimates one."""
SHAPES = {"init_root_orient": (3, 3), "init_hand_pose": (15, 3, 3), "init_trans": (3,), "init_betas": (10,)}


@dataclass(frozen=True, eq=False)
class HaworResult:
    """What HaWoR says of a video, frame by frame of the video itself."""

    camera: PinholeCamera
    hands: dict[str, HandTrack]
    hand_model: Path
    T_cam_world: Float[np.ndarray, "T 4 4"] | None
    """From its SLAM, metres; None where the whole video has not been tracked."""

    def labels(self) -> dict[str, object]:
        """Fields of a Clip."""
        fields = {"hands": self.hands, "hand_model": self.hand_model, "left_model": "fixed", "hands_route": "hawor"}
        return fields | ({} if self.T_cam_world is None else {"T_cam_world": self.T_cam_world})


def files_of(video: Path) -> list[Path]:
    """The results' files that are read; none if HaWoR has not seen the video."""
    folder = video.with_suffix("")
    found = [
        *folder.glob("cam_space/[01]/*.json"),
        *folder.glob("SLAM/hawor_slam_w_scale_*.npz"),
        *folder.glob("est_focal.txt"),
    ]
    return sorted(found) if (folder / "cam_space").is_dir() else []


def read(video: Path, info: VideoInfo, hand_model: str | None) -> HaworResult | None:
    """None if there are no results. hand_model: folder of the MANO files HaWoR used.

    Raises ClipError: MISSING_HAND_MODEL, BAD_LABEL, NAN_LABEL, BAD_SIDE_FILE.
    """
    if not files_of(video):
        return None
    if hand_model is None:
        raise ClipError(
            Reason.MISSING_HAND_MODEL,
            f"HaWoR's results of {video.name} need the MANO files they were made with: give the shard a hand_model",
        )
    models = load_models(Path(hand_model))
    models |= {"left": fix_left_shape(models["left"], models["right"])}
    folder = video.with_suffix("")
    shown = _shown_at(info.times_s)
    hands = {side: _hand(folder, side, number, models[side], shown, info) for number, side in enumerate(SIDES)}
    slam = _slam(folder)
    return HaworResult(_camera(folder, slam, info), hands, Path(hand_model), _cameras(slam, info.times_s))


def _shown_at(times_s: Float[np.ndarray, " T"]) -> Int[np.ndarray, " K"]:
    """Frame of the video behind each frame of the 30-fps copy: the nearest in time."""
    wanted = np.arange(round(float(times_s[-1]) * RATE) + 1) / RATE
    right = np.clip(np.searchsorted(times_s, wanted), 0, len(times_s) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - times_s[left] <= times_s[right] - wanted, left, right)


def _hand(folder: Path, side: str, number: int, model: HandModel, shown: np.ndarray, info: VideoInfo) -> HandTrack:
    """One hand; of several 30-fps frames that show the same frame the nearest in time is taken."""
    T = info.num_frames
    theta, r, tau, valid = np.zeros((T, 45)), np.zeros((T, 3)), np.zeros((T, 3)), np.zeros(T, bool)
    betas, off_s = [], np.full(T, np.inf)
    for file in sorted((folder / "cam_space" / str(number)).glob("*.json")):
        first, chunk = _chunk(file)
        for row in range(len(chunk["init_trans"])):
            if first + row >= len(shown):
                break  # ffmpeg may add a frame at the end
            frame = shown[first + row]
            away_s = abs(info.times_s[frame] - (first + row) / RATE)
            if away_s >= off_s[frame]:
                continue
            beta = chunk["init_betas"][row]
            theta[frame] = theta_from_rotmats(chunk["init_hand_pose"][row : row + 1])[0]
            r[frame] = transforms.rotmat_to_rotvec(chunk["init_root_orient"][row])
            tau[frame] = tau_from_transl(model, chunk["init_trans"][row : row + 1], beta)[0]
            valid[frame], off_s[frame] = True, away_s
            betas.append(beta)
    # a hand has one shape; the wrist was placed with each frame's own
    return HandTrack(theta, r, tau, np.median(betas, axis=0) if betas else np.zeros(10), valid)


def _chunk(file: Path) -> tuple[int, dict[str, np.ndarray]]:
    """First frame of a chunk, and its arrays without the leading axis."""
    name = re.fullmatch(r"(\d+)_(\d+)", file.stem)
    content = read_json(file)
    if name is None or not isinstance(content, dict) or not set(SHAPES) <= set(content):
        raise ClipError(
            Reason.BAD_LABEL, f"{file.name} is no result of HaWoR (<first>_<last>.json with {', '.join(SHAPES)})"
        )
    first, last = int(name[1]), int(name[2])
    T = last - first + 1
    arrays = {key: finite(content[key], (T, *shape), f"{file.name}: {key}", first) for key, shape in SHAPES.items()}
    for key in ("init_root_orient", "init_hand_pose"):
        flat = arrays[key].reshape(-1, 3, 3)
        exact = rigid(transforms.make(flat, np.zeros(3)), f"{file.name}: {key}")[:, :3, :3]
        arrays[key] = exact.reshape(arrays[key].shape)
    return first, arrays


def _slam(folder: Path) -> dict[str, np.ndarray]:
    """Content of the longest SLAM result; empty where there is none."""
    files = sorted(folder.glob("SLAM/hawor_slam_w_scale_*.npz"), key=lambda path: path.stat().st_size)
    if not files:
        return {}
    try:
        with np.load(files[-1], allow_pickle=False) as stored:
            return {key: stored[key] for key in ("img_focal", "img_center", "traj", "scale") if key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{files[-1].name} is no readable .npz: {error}") from error


def _camera(folder: Path, slam: dict[str, np.ndarray], info: VideoInfo) -> PinholeCamera:
    focal = float(np.asarray(slam["img_focal"]).ravel()[0]) if "img_focal" in slam else _stated_focal(folder)
    try:
        return PinholeCamera(focal, focal, info.width / 2, info.height / 2, info.width, info.height)
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"HaWoR's focal length: {error}") from error


def _stated_focal(folder: Path) -> float:
    file = folder / "est_focal.txt"
    if not file.is_file():
        return DEFAULT_FOCAL_PX
    try:
        return float(file.read_text().strip())
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"{file.name} should hold one number: {error}") from error


def _cameras(slam: dict[str, np.ndarray], times_s: np.ndarray) -> np.ndarray | None:
    """World-to-camera a frame from the tracked camera path (t, quaternion xyzw, camera-to-world, to be scaled)."""
    from scipy.spatial.transform import Rotation

    if not {"traj", "scale"} <= set(slam):
        return None
    path = finite(slam["traj"], (len(slam["traj"]), 7), "traj")
    number = np.rint(times_s * RATE).astype(int)
    if number[-1] >= len(path) + 1:
        return None
    path = path[np.minimum(number, len(path) - 1)]
    scale = float(np.asarray(slam["scale"]).ravel()[0])
    return transforms.invert(transforms.make(Rotation.from_quat(path[:, 3:]).as_matrix(), path[:, :3] * scale))


# -- example


def write_example(
    video: Path,
    camera: PinholeCamera,
    hands: dict[str, HandTrack],
    models: dict[str, HandModel],
    folder_focal: bool = True,
) -> None:
    """Results for a video of 30 frames a second: a chunk a run of valid frames, the left hand's shapes fixed."""
    import json

    fixed = models | {"left": fix_left_shape(models["left"], models["right"])}
    folder = video.with_suffix("")
    for side, hand in hands.items():
        place = folder / "cam_space" / str(SIDES.index(side))
        place.mkdir(parents=True, exist_ok=True)
        for first, last in _runs(hand.valid):
            part = slice(first, last + 1)
            content = {
                "init_root_orient": transforms.rotvec_to_rotmat(hand.r[part])[None],
                "init_hand_pose": transforms.rotvec_to_rotmat(hand.theta[part].reshape(-1, 15, 3))[None],
                "init_trans": (hand.tau[part] - fixed[side].wrist(hand.beta))[None],
                "init_betas": np.broadcast_to(hand.beta, (1, last - first + 1, 10)),
            }
            (place / f"{first}_{last}.json").write_text(json.dumps({key: v.tolist() for key, v in content.items()}))
    if folder_focal:
        (folder / "est_focal.txt").write_text(f"{camera.fx}\n")


def _runs(valid: np.ndarray) -> list[tuple[int, int]]:
    """First and last frame of each run of valid frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]]).astype(int)))
    return [(int(start), int(end) - 1) for start, end in edges.reshape(-1, 2)]
