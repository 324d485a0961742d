"""Ego-Exo4D: takes seen by Aria glasses and standing GoPros, with atomic descriptions and, for some, 3-D hand joints.

    takes.json
    takes/<take>/frame_aligned_videos/<aria>_214-1.mp4 (1408 x 1408, the ego view), cam0N.mp4 (views by these names)
    takes/<take>/trajectory/{online_calibration.jsonl, gopro_calibs.csv}
    aria_calib_json/<take>.json or intrinsics/egoexo4d/<take>.json   as the hand benchmark and VITRA-1M make them
    annotations/atomic_descriptions_{train,val}.json, splits.json
    annotations/ego_pose/<split>/{hand/{annotation,automatic},camera_pose}/<take_uid>.json

Aria's lens is a Fisheye624; its sensor lies on its side and the videos are turned a quarter clockwise to stand upright,
so calibration and camera poses (world-to-camera) belong to the image turned back. Here frames are undistorted to the
upright pinhole of VITRA's focal length and the camera frame is the upright one. GoPros are Kannala-Brandt.
"""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.lenses import Fisheye624, KannalaBrandt, Turned, turned_from_sensor
from ops.rejects import ClipError, Reason, Reject
from ops.sources.aria import (
    UPRIGHT_TURNS,
    VIDEO_PX,
    aria_camera,
    calibration_file,
    gopro_camera,
    halved,
    resized,
)
from ops.sources.base import SIDES, Clip, Instruction, JointTrack, Source, read_each
from ops.sources.example import Truth, seen_by
from ops.sources.example_lens import record
from ops.sources.raw_video import clip_id, duration_s, find_up, narrated, per_file, read_shared_json
from ops.sources.world_labels import finite, rigid
from ops.video import VideoInfo, probe, write_video

KIND = "egoexo4d"
SOURCE = Source(
    kind=KIND,
    title="Ego-Exo4D",
    licence="Ego-Exo4D licence agreement",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=False,
    url="https://ego-exo4d-data.org",
    how_to_get="Sign the agreement; `egoexo -o D --parts takes annotations metadata take_trajectory --benchmarks hand_pose`; Aria calibrations from VITRA-VLA/VITRA-1M (intrinsics/egoexo4d) or from the takes' VRS files.",
    notes=(
        "VITRA's own undistortion applies the calibration without turning the image back: up to some pixels off its labels.",
        "Hand joints seen by fewer than three cameras are left out, as the official loader does.",
        "GoPros that could not be localised (quality below 1) are rejected.",
    ),
)
EGO = "ego"
MIN_VIEWS = 3
JOINT_NAMES = ("wrist", *(f"{finger}_{k}" for finger in ("thumb", "index", "middle", "ring", "pinky") for k in (1, 2, 3, 4)))  # fmt: skip
SPLITS = {"train": "train", "val": "test", "test": "test"}
HANDS = ("annotation", "automatic")
EXAMPLE_ARIA = (1221.8, 1463.4, 1451.2, 0.408, -0.4894, 0.1737, 1.1332, -1.7036, 0.651, 0.00075, -0.00031, -0.00058, 0.00023, -0.0002, -0.00012)  # fmt: skip
GOPRO_HEADER = "cam_uid,graph_uid,tx_world_cam,ty_world_cam,tz_world_cam,qx_world_cam,qy_world_cam,qz_world_cam,qw_world_cam,image_width,image_height,intrinsics_type,intrinsics_0,intrinsics_1,intrinsics_2,intrinsics_3,intrinsics_4,intrinsics_5,intrinsics_6,intrinsics_7,start_frame_idx,end_frame_idx,quality"


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """The ego video of every take (<aria>_214-1.mp4), or those of a standing camera, e.g. view "cam01"."""
    name = "*_214-1.mp4" if view in (None, EGO) else f"{view}.mp4"
    return sorted(root.glob(f"**/frame_aligned_videos/{name}"))


def side_files(video: Path) -> list[Path]:
    """Calibration, takes, texts, splits, poses and joints; those that exist."""
    take = _take_of(video)
    names = ("takes.json", "annotations/splits.json", *(f"annotations/atomic_descriptions_{s}.json" for s in SPLITS))
    shared = [path for name in names if (path := find_up(video, name))]
    uid = take.get("take_uid")
    poses = [
        path
        for part in ("camera_pose", *(f"hand/{kind}" for kind in HANDS))
        if uid and (path := _pose_file(video, part, uid))
    ]
    calibration = calibration_file(video) if _is_ego(video) else find_up(video, "trajectory/gopro_calibs.csv")
    return [*shared, *poses, *([calibration] if calibration else [])]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """One view of a take. T_cam_world only if every frame has a pose. Split: val and test are "test".

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, UNSUPPORTED_CAMERA (no calibration), BAD_LABEL, BAD_SIDE_FILE, NAN_LABEL.
    """
    try:
        return _read_clip(video, shard, info or probe(video))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of another shape
        raise ClipError(
            Reason.BAD_LABEL, f"annotations of {video.parents[1].name} are not laid out as expected: {error!r}"
        ) from error


def _read_clip(video: Path, shard: ShardConfig, info: VideoInfo) -> Clip:
    take = _take_of(video)
    uid = str(take.get("take_uid", ""))
    if _is_ego(video):
        camera, lens = aria_camera(video, info)
        poses = _ego_poses(video, uid, info.num_frames)
    else:
        camera, lens, T = gopro_camera(video, info)
        poses = dict.fromkeys(range(info.num_frames), T)
    whole = len(poses) == info.num_frames
    return Clip(
        clip_id=clip_id(video, shard),
        source=shard.source,
        kind=KIND,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=camera,
        intrinsics="given",
        split=_split(video, uid),
        lens=lens,
        T_cam_world=np.stack([poses[frame] for frame in range(info.num_frames)]) if whole else None,
        joints=_joints(video, uid, poses, info.num_frames),
        hand_model=shard.hand_model and Path(shard.hand_model),
        instructions=_instructions(video, uid, duration_s(info)),
        subject=str(take.get("participant_uid") or ""),
        view=shard.view or EGO,
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Takes one by one; unreadable ones as Reject. hand_model: MANO files to fit the joints with."""
    model = hand_model and str(hand_model)
    return read_each(list_videos, read_clip, ShardConfig(KIND, KIND, str(root), view=view, hand_model=model))


def _is_ego(video: Path) -> bool:
    return video.stem.endswith("_214-1")


def _take_of(video: Path) -> dict:
    """The take's entry of takes.json; {} if the file is not there or does not name the folder."""
    file = find_up(video, "takes.json")
    return _takes(file).get(video.parents[1].name, {}) if file else {}


@per_file
def _takes(file: Path) -> dict[str, dict]:
    """By name of the take's folder."""
    content = read_shared_json(file)
    if not isinstance(content, list) or not all(isinstance(take, dict) for take in content):
        raise ClipError(Reason.BAD_SIDE_FILE, "takes.json should be a list of takes")
    return {Path(str(take.get("root_dir") or take.get("take_name", ""))).name: take for take in content}


def _split(video: Path, uid: str) -> str:
    file = find_up(video, "annotations/splits.json")
    stated = read_shared_json(file).get("take_uid_to_split", {}).get(uid, "") if file else ""
    if file and not stated:
        lists = read_shared_json(file).get("split_to_take_uids", {})
        stated = next((name for name, uids in lists.items() if uid in uids), "")
    return SPLITS.get(stated, "")


def _instructions(video: Path, uid: str, end_s: float) -> tuple[Instruction, ...]:
    """What the wearer ("C") does, around each moment."""
    moments = []
    for split in SPLITS:
        file = find_up(video, f"annotations/atomic_descriptions_{split}.json")
        passes = read_shared_json(file).get("annotations", {}).get(uid, []) if file else []
        kept = next((one for one in passes if not one.get("rejected")), None)
        for item in (kept or {}).get("descriptions", []):
            text = " ".join(str(item["text"]).split()).strip(" .")
            if str(item.get("subject", "C")).upper() == "C" and not item.get("unsure") and text:
                moments.append((float(item["timestamp"]), text.removeprefix("C ")))
    return narrated(moments, end_s)


def _pose_file(video: Path, part: str, uid: str) -> Path | None:
    """Older releases have no folder of the split in between, or the camera poses below hand/."""
    names = [f"annotations/ego_pose/{split}/{part}/{uid}.json" for split in SPLITS]
    return find_up(
        video, *names, f"annotations/ego_pose/{part}/{uid}.json", f"annotations/ego_pose/hand/{part}/{uid}.json"
    )


def _ego_poses(video: Path, uid: str, num_frames: int) -> dict[int, np.ndarray]:
    """World-to-camera of the upright camera by frame."""
    file = _pose_file(video, "camera_pose", uid) if uid else None
    if file is None:
        return {}
    name = video.stem.removesuffix("_214-1")
    stored = read_shared_json(file).get(name, {}).get("camera_extrinsics", {})
    if not isinstance(stored, dict):
        raise ClipError(Reason.BAD_LABEL, f"{file.name}: camera_extrinsics of {name} should be matrices by frame")
    frames = sorted(int(frame) for frame in stored if 0 <= int(frame) < num_frames)
    if not frames:
        return {}
    E = finite([stored[str(frame)] for frame in frames], (len(frames), 3, 4), "camera_extrinsics")
    T_sensor_world = rigid(np.concatenate([E, np.broadcast_to([[[0.0, 0, 0, 1]]], (len(E), 1, 4))], axis=1), file.name)
    turn = transforms.make(turned_from_sensor(UPRIGHT_TURNS), np.zeros(3))
    return dict(zip(frames, turn @ T_sensor_world, strict=True))


def _joints(video: Path, uid: str, poses: dict[int, np.ndarray], num_frames: int) -> dict[str, JointTrack]:
    """Both hands where a frame is annotated by hand, else automatically; {} for a take without joints."""
    world = np.full((2, num_frames, 21, 3), np.nan)
    found = False
    for kind in HANDS:
        file = _pose_file(video, f"hand/{kind}", uid) if uid else None
        for key, frames in (read_shared_json(file) if file else {}).items():
            frame = int(key)
            if not 0 <= frame < num_frames or not frames or np.isfinite(world[:, frame]).any():
                continue
            found = True
            for number, side in enumerate(SIDES):
                world[number, frame] = _positions(frames[0].get("annotation3D") or {}, side, frame)
    if not found:
        return {}
    T = np.full((num_frames, 4, 4), np.nan)
    for frame, pose in poses.items():
        T[frame] = pose
    joints_cam = [transforms.apply(T[:, None], positions) for positions in world]
    return {
        side: JointTrack(j, np.isfinite(j).all(axis=-1).any(axis=-1)) for side, j in zip(SIDES, joints_cam, strict=True)
    }


def _positions(joints: dict[str, dict], side: str, frame: int) -> np.ndarray:
    out = np.full((21, 3), np.nan)
    for number, name in enumerate(JOINT_NAMES):
        joint = joints.get(f"{side}_{name}")
        if joint is None or joint.get("num_views_for_3d", MIN_VIEWS) < MIN_VIEWS:
            continue
        out[number] = finite([joint["x"], joint["y"], joint["z"]], (3,), f"{side}_{name}", frame, side)
    return out


# -- example


def write_example(root: Path, truth: Truth) -> None:
    """A take with its ego view and one GoPro, "cam01", that stands 20 cm to the left of where the take begins."""
    take, uid = truth.name, str(uuid.uuid5(uuid.NAMESPACE_URL, truth.name))
    folder = root / "takes" / take
    size = truth.camera.width
    lens = Turned(
        Fisheye624.from_aria(np.array(halved(EXAMPLE_ARIA)), VIDEO_PX, VIDEO_PX), UPRIGHT_TURNS, VIDEO_PX, VIDEO_PX
    )
    small = Turned(resized(lens.lens, size), UPRIGHT_TURNS, size, size)
    videos = folder / "frame_aligned_videos"
    write_video(videos / "aria01_214-1.mp4", record(truth.rgb, truth.camera, small, size, size), truth.fps)
    T_exo = transforms.make(np.eye(3), np.array([0.2, 0.0, 0.0])) @ truth.T_cam_world[0]
    exo = seen_by(truth, truth.camera, np.broadcast_to(T_exo, truth.T_cam_world.shape))
    gopro = KannalaBrandt(exo.camera, (0.0369, 0.0571, -0.0571, 0.0184))
    write_video(videos / "cam01.mp4", record(exo.rgb, exo.camera, gopro, size, size), truth.fps)
    _write_calibrations(folder / "trajectory", gopro, T_exo)
    cameras = [{"cam_id": "aria01", "is_ego": True, "device_type": "aria"}, {"cam_id": "cam01", "is_ego": False, "device_type": "hero10"}]  # fmt: skip
    entry = {"take_name": take, "take_uid": uid, "root_dir": f"takes/{take}", "participant_uid": truth.subject, "capture": {"cameras": cameras}}  # fmt: skip
    _update(root / "takes.json", lambda takes: [*(takes or []), entry])
    annotations = root / "annotations"
    _update(
        annotations / "splits.json",
        lambda old: {"take_uid_to_split": (old or {}).get("take_uid_to_split", {}) | {uid: "train"}},
    )
    said = [{"text": f"C {item.text}.", "timestamp": (item.start_s + item.end_s) / 2, "subject": "C", "ego_visible": True, "unsure": False} for item in truth.instructions]  # fmt: skip
    one = {uid: [{"annotation_uid": uid, "rejected": False, "descriptions": said}]}
    _update(
        annotations / "atomic_descriptions_train.json",
        lambda old: {"annotations": (old or {}).get("annotations", {}) | one},
    )
    turn = transforms.make(turned_from_sensor(UPRIGHT_TURNS).T, np.zeros(3))
    K = [[150.0, 0.0, 255.5], [0.0, 150.0, 255.5], [0.0, 0.0, 1.0]]
    poses = {str(frame): T[:3].tolist() for frame, T in enumerate(turn @ truth.T_cam_world)}
    pose = {"metadata": {"take_uid": uid}, "aria01": {"camera_intrinsics": K, "camera_extrinsics": poses}}
    _update(annotations / "ego_pose/train/camera_pose" / f"{uid}.json", lambda _: pose)
    _update(annotations / "ego_pose/train/hand/annotation" / f"{uid}.json", lambda _: _example_joints(truth))


def _write_calibrations(folder: Path, gopro: KannalaBrandt, T_exo: np.ndarray) -> None:
    from scipy.spatial.transform import Rotation

    folder.mkdir(parents=True, exist_ok=True)
    rgb = {"Label": "camera-rgb", "Projection": {"Name": "FisheyeRadTanThinPrism", "Params": list(EXAMPLE_ARIA)}}
    slam = {"Label": "camera-slam-left", "Projection": {"Name": "FisheyeRadTanThinPrism", "Params": [240.0] * 15}}
    line = json.dumps({"tracking_timestamp_us": 0, "ImuCalibrations": [], "CameraCalibrations": [slam, rgb]})
    (folder / "online_calibration.jsonl").write_text(f"{line}\n{line}\n")
    T_world_cam = transforms.invert(T_exo)
    camera = gopro.camera
    q = Rotation.from_matrix(T_world_cam[:3, :3]).as_quat()
    row = ["cam01", "40084458-f219-16ca-0c3c-8bd94ee06e6c", *T_world_cam[:3, 3], *q, camera.width, camera.height, "KANNALABRANDTK3",
           camera.fx, camera.fy, camera.cx - 0.5, camera.cy - 0.5, *gopro.coefficients, -1, -1, 1]  # fmt: skip
    (folder / "gopro_calibs.csv").write_text(f"{GOPRO_HEADER}\n{','.join(str(value) for value in row)}\n")


def _example_joints(truth: Truth) -> dict[str, list[dict]]:
    """Every frame's joints in the world, seen by four cameras; those of an invalid frame are not there."""
    T_world_cam = transforms.invert(truth.T_cam_world)
    frames = {}
    for frame in range(truth.num_frames):
        joints = {}
        for side in truth.hands:
            world = transforms.apply(T_world_cam[frame], truth.joints_cam[side][frame])
            for name, position in zip(JOINT_NAMES, world if truth.hands[side].valid[frame] else (), strict=False):
                xyz = dict(zip("xyz", position.tolist(), strict=True))
                joints[f"{side}_{name}"] = xyz | {"num_views_for_3d": 4}
        frames[str(frame)] = [{"metadata": {}, "annotation2D": {}, "annotation3D": joints}]
    return frames


def _update(file: Path, change) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(change(json.loads(file.read_text()) if file.is_file() else None)))
