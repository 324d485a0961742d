"""TACO (Liu et al. 2024): a tool in one hand, its target in the other; an ego RGB-D camera and 12 fixed ones, 30 fps.

    Egocentric_RGB_Videos/<(verb, tool, target)>/<YYYYMMDD_NNN>/color.mp4                 1920 x 1080
    Egocentric_Depth_Videos/<trip>/<id>/egocentric_depth.avi       ffv1 gray16, 1/4000 m (L515), says 15 fps, is 30
    Egocentric_Camera_Parameters/<trip>/<id>/egocentric_intrinsic.txt (3 x 3), egocentric_frame_extrinsic.npy (N, 4, 4)
    [Marker_Removed_]Allocentric_RGB_Videos/<trip>/<id>/<serial>.mp4
    Allocentric_Camera_Parameters/<trip>/<id>/calibration.json     {serial: {imgSize [w, h], K (9), R (9), T (3)}}
    Hand_Poses/<trip>/<id>/{left,right}_hand.pkl         {"00001": {hand_pose (48), hand_trans (3)}} torch tensors
                           {left,right}_hand_shape.pkl   {hand_shape (10)}, none = zeros
                           hand_joints.npy               (N, 2 left right, 21, 3), in later releases
    Object_Poses/<trip>/<id>/{tool,target}_<objid>.npy (N, 4, 4) object-to-world;  Object_Models/<objid>_cm.obj
    data_lists/v1_*.txt                                  its repository's lists: splits, sequences with usable ego data

Extrinsics are WORLD-TO-CAMERA, the world differs from date to date, metres but for the meshes (centimetres). MANO by
manopth: axis-angle, flat mean, center_idx 0, so hand_trans IS the wrist. Depth frame k belongs to RGB frame k: its
file's nominal 15 fps would have the README's `fps=30` filter double every frame. Without MANO files a clip comes with
the joints of hand_joints.npy.
"""

import json
import pickle
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.conventions import joints_of_convention
from ops.hands.mano import load_models
from ops.rejects import ClipError, Reason
from ops.sources.base import SIDES, Clip, HandTrack, Instruction, JointTrack, ObjectTrack, Source, read_each
from ops.sources.depth import VideoDepth
from ops.sources.example import Truth, box_corners_m
from ops.sources.grey_video import write_grey_video
from ops.sources.meshes import names_without_boxes, object_track, read_outline
from ops.sources.safe_load import load_pickle
from ops.sources.world_labels import finite, hand_in_camera, rigid
from ops.video import VideoInfo, probe, write_video

KIND = "taco"
EGO = "ego"
EGO_VIDEOS = "Egocentric_RGB_Videos"
MARKERS_REMOVED = "marker_removed_"
DEPTH_UNITS_PER_M = 4000.0
TRIPLET = re.compile(r"\((.+?), (.+?), (.+)\)")
SEQUENCE = re.compile(r"\d{8}_\d{3}")
MESH_FOLDERS = ("Object_Models", "object_models_released", "Object_Models/object_models_released")
LISTS = ("v1_overall_data_train_test_split.txt", "v1_egocentric_data_available_sequences.txt")
# reported on its tracker: ego extrinsics that do not fit (18, 20), ego video missing (19)
KNOWN_BAD_EGO = {
    "(brush, brush, bowl)/20230919_036": "its ego extrinsics are wrong",
    "(cut, spatula, pan)/20231020_021": "its ego video was never released",
    "(empty, bowl, plate)/20231027_132": "its ego video was never released",
    "(empty, cup, kettle)/20231019_038": "its ego video was never released",
    "(put in, spatula, bowl)/20231024_201": "its ego video was never released",
    "(put out, spatula, bowl)/20231024_202": "its ego video was never released",
    "(skim off, spatula, bowl)/20231024_203": "its ego video was never released",
}
SOURCE = Source(
    kind=KIND,
    title="TACO",
    licence="CC BY 4.0",
    noncommercial=False,
    redistributable=True,
    gated=False,
    needs_mano=True,
    url="https://taco2024.github.io",
    how_to_get="Follow the OneDrive or Dropbox links of github.com/leolyliu/TACO-Instructions; unpack the Egocentric_*, "
    "Hand_Poses, Object_Poses and Object_Models archives into one folder (and Allocentric_* for the fixed cameras) and "
    "copy the repository's data_lists/ there.",
    notes=(
        "MANO itself is non-commercial; without its files the joints of hand_joints.npy are read where they were released.",
        "105 of 2,317 sequences have no usable ego data; the reader knows the reported ones and obeys data_lists/.",
        "Ego extrinsics of some other sequences may be wrong; poses jitter.",
    ),
)


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """Videos of one camera, sorted. view: "ego" (default), a serial, or "marker_removed_" and a serial.

    For the ego camera the hand poses of a sequence without video are listed too, to be rejected with the reason.
    """
    if view in (None, EGO):
        labelled = {path.parent for path in (root / "Hand_Poses").glob("*/*/*_hand.pkl")}
        videos = set((root / EGO_VIDEOS).glob("*/*/color.mp4"))
        seen = {video.parent.relative_to(root / EGO_VIDEOS) for video in videos}
        return sorted(videos | {folder for folder in labelled if folder.relative_to(root / "Hand_Poses") not in seen})
    serial = view.removeprefix(MARKERS_REMOVED)
    folder = "Marker_Removed_Allocentric_RGB_Videos" if view != serial else "Allocentric_RGB_Videos"
    if not serial.isdigit():
        raise ValueError(f"TACO has views {EGO}, a camera's serial, or {MARKERS_REMOVED}<serial>; got {view!r}")
    return sorted((root / folder).glob(f"*/*/{serial}.mp4"))


def side_files(video: Path) -> list[Path]:
    """Poses, calibration, depth and meshes of the sequence, and the lists."""
    root, seq = _place(video)
    tops = ["Hand_Poses", "Object_Poses"]
    ego = ["Egocentric_Camera_Parameters", "Egocentric_Depth_Videos"]
    tops += ego if _view(video) == EGO else ["Allocentric_Camera_Parameters"]
    files = [path for top in tops for path in (root / top / seq).glob("*") if path.is_file()]
    meshes = [_mesh_file(root, path) for path in files if path.parent.parent.parent.name == "Object_Poses"]
    lists = [path for path in (_list_file(root, name) for name in LISTS) if path]
    return sorted({*files, *(mesh for mesh in meshes if mesh), *lists})


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """One sequence as one camera saw it.

    Raises ClipError: KNOWN_BAD_CLIP, EMPTY_VIDEO, CORRUPT_VIDEO, MISSING_SIDE_FILE, MISSING_LABELS,
    MISSING_HAND_MODEL, FRAME_COUNT_MISMATCH, BAD_LABEL, NAN_LABEL, UNSUPPORTED_CAMERA.
    """
    root, seq = _place(video)
    is_ego = _view(video) == EGO
    if is_ego:
        _refuse_known_bad(root, seq)
    if video.is_dir():
        raise ClipError(Reason.EMPTY_VIDEO, f"{EGO_VIDEOS}/{seq.as_posix()}/color.mp4 is missing: unpack its archive")
    info = info or probe(video)
    camera, T_cam_world = _ego_camera(root, seq, info) if is_ego else _fixed_camera(root, seq, video.stem, info)
    objects = _objects(root, seq, T_cam_world, camera)
    return Clip(
        clip_id=f"{shard.source}/{seq.as_posix()}/{_view(video)}",
        source=shard.source,
        kind=KIND,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=camera,
        intrinsics="given",
        split=_split(root, seq),
        T_cam_world=T_cam_world,
        **_hands(root, seq, T_cam_world, camera, shard),
        objects=objects,
        object_names=names_without_boxes(objects),
        instructions=_instructions(seq, float(info.times_s[-1]) + 1 / info.fps),
        depth=_depth(root, seq, info.num_frames) if is_ego else None,
        view=_view(video),
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None):
    """Clips one by one; a Reject for each that cannot be read."""
    shard = ShardConfig(KIND, KIND, str(root), view=view, hand_model=hand_model and str(hand_model))
    return read_each(list_videos, read_clip, shard)


# -- files and lists


def _place(video: Path) -> tuple[Path, Path]:
    """Root, and `<triplet>/<id>`."""
    folder = video if SEQUENCE.fullmatch(video.name) else video.parent
    return folder.parents[2], Path(folder.parent.name) / folder.name


def _view(video: Path) -> str:
    if video.name == "color.mp4" or SEQUENCE.fullmatch(video.name):
        return EGO
    return (MARKERS_REMOVED if video.parents[2].name.startswith("Marker_Removed") else "") + video.stem


def _list_file(root: Path, name: str) -> Path | None:
    return next((path for path in (root / "data_lists" / name, root / name) if path.is_file()), None)


@lru_cache(maxsize=8)
def _list_lines(path: Path, _version: int) -> frozenset[str]:
    return frozenset(line.strip() for line in path.read_text(encoding="utf-8").splitlines())


def _listed(root: Path, name: str) -> frozenset[str] | None:
    path = _list_file(root, name)
    return None if path is None else _list_lines(path, path.stat().st_mtime_ns)


def _refuse_known_bad(root: Path, seq: Path) -> None:
    usable = _listed(root, LISTS[1])
    reason = KNOWN_BAD_EGO.get(seq.as_posix())
    if reason is None and usable is not None and f"{seq.parent.name} {seq.name}" not in usable:
        reason = f"{LISTS[1]} does not name it"
    if reason:
        raise ClipError(Reason.KNOWN_BAD_CLIP, f"{seq.as_posix()}: {reason}; its fixed cameras can be used")


def _split(root: Path, seq: Path) -> str:
    """train, or test for its test_1 to test_4; "" without the list."""
    lines = _listed(root, LISTS[0]) or ()
    splits = ("train", "test_1", "test_2", "test_3", "test_4")
    named = next((split for split in splits if f"{seq.name},{split}" in lines), "")
    return "test" if named.startswith("test") else named


# -- cameras


def _ego_camera(root: Path, seq: Path, info: VideoInfo) -> tuple[PinholeCamera, np.ndarray]:
    folder = root / "Egocentric_Camera_Parameters" / seq
    K = _numbers(folder / "egocentric_intrinsic.txt", (3, 3))
    T_cam_world = _poses(folder / "egocentric_frame_extrinsic.npy", info.num_frames)
    camera = _pinhole(K, info.width, info.height)
    if not 0.25 < camera.cx / info.width < 0.75 or not 0.25 < camera.cy / info.height < 0.75:
        raise ClipError(
            Reason.UNSUPPORTED_CAMERA,
            f"the video is {info.width} x {info.height}, its principal point {camera.cx:.0f}, {camera.cy:.0f}: a resized "
            "copy? Take the original video.",
        )
    return camera, T_cam_world


def _fixed_camera(root: Path, seq: Path, serial: str, info: VideoInfo) -> tuple[PinholeCamera, np.ndarray]:
    """Calibrated at imgSize; the video may be smaller, of the same shape."""
    path = root / "Allocentric_Camera_Parameters" / seq / "calibration.json"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))[serial]
        numbers = [finite(entry[key], shape, f"calibration.json: {key}") for key, shape in _CALIBRATION.items()]
    except FileNotFoundError as error:
        raise ClipError(Reason.MISSING_SIDE_FILE, f"{path.name} of {seq.as_posix()} is missing") from error
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ClipError(Reason.BAD_LABEL, f"calibration.json has no imgSize, K, R, T of camera {serial}") from error
    (width, height), K, R, t = numbers
    if abs(width * info.height - height * info.width) > max(width, height):
        raise ClipError(
            Reason.UNSUPPORTED_CAMERA, f"the video is {info.width} x {info.height}, calibrated was {width} x {height}"
        )
    T_cam_world = rigid(np.tile(transforms.make(R, t), (info.num_frames, 1, 1)), "calibration.json: R")
    return _pinhole(K, int(width), int(height)).resized(info.width, info.height), T_cam_world


_CALIBRATION = {"imgSize": (2,), "K": (3, 3), "R": (3, 3), "T": (3,)}


def _pinhole(K: np.ndarray, width: int, height: int) -> PinholeCamera:
    try:
        return PinholeCamera.from_opencv(K, width, height)
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"intrinsics: {error}") from error


def _numbers(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return finite([float(word) for word in path.read_text(encoding="ascii").split()], shape, path.name)
    except FileNotFoundError as error:
        raise ClipError(Reason.MISSING_SIDE_FILE, f"{path.name} of {path.parent.name} is missing") from error
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"{path.name}: {error}") from error


def _array(path: Path, num_frames: int, shape: tuple[int, ...]) -> np.ndarray:
    """An .npy with one row a frame."""
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise ClipError(Reason.MISSING_LABELS, f"{path.name} of {path.parent.name} is missing") from error
    except (ValueError, OSError, EOFError) as error:
        raise ClipError(Reason.BAD_LABEL, f"{path.name} is no .npy of numbers: {error}") from error
    _same_count(path.name, len(values) if values.ndim else 0, num_frames)
    return finite(values, (num_frames, *shape), path.name)


def _poses(path: Path, num_frames: int) -> np.ndarray:
    return rigid(_array(path, num_frames, (4, 4)), path.name)


def _same_count(name: str, found: int, num_frames: int) -> None:
    """Its authors skip sequences whose video lost frames; so does this."""
    if found != num_frames:
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"{name} has {found} frames, the video {num_frames}")


def _depth(root: Path, seq: Path, num_frames: int) -> VideoDepth | None:
    path = root / "Egocentric_Depth_Videos" / seq / "egocentric_depth.avi"
    if not path.is_file():
        return None
    _same_count("egocentric_depth.avi (move it away to go without depth)", _num_frames(path), num_frames)
    return VideoDepth(path, DEPTH_UNITS_PER_M)


def _num_frames(path: Path) -> int:
    """As the container states, without reading the hundreds of megabytes that VideoDepth indexes when it is used."""
    import av

    from ops.video import LOCAL_ONLY

    try:
        with av.open(str(path), options=LOCAL_ONLY) as container:
            stated = container.streams.video[0].frames
    except (av.FFmpegError, IndexError) as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} is no readable video: {error}") from error
    return stated or len(VideoDepth(path, DEPTH_UNITS_PER_M).frames)


# -- labels


def _hands(
    root: Path, seq: Path, T_cam_world: np.ndarray, camera: PinholeCamera, shard: ShardConfig
) -> dict[str, object]:
    """Fields of the clip: MANO tracks where the MANO files are given (released joints then check them), else joints."""
    folder = root / "Hand_Poses" / seq
    joints_cam = _joints(folder / "hand_joints.npy", T_cam_world)
    if shard.hand_model is not None:
        load_models(Path(shard.hand_model))  # it must be there before hands that belong to it go on
        hands = {side: _hand(folder, side, T_cam_world) for side in SIDES if (folder / f"{side}_hand.pkl").is_file()}
        if not hands:
            raise ClipError(
                Reason.MISSING_LABELS, f"Hand_Poses/{seq.as_posix()} has no left_hand.pkl or right_hand.pkl"
            )
        published_px = {side: camera.project(points) for side, points in joints_cam.items()}
        return {"hands": hands, "hand_model": Path(shard.hand_model), "published_px": published_px}
    if not joints_cam:
        raise ClipError(
            Reason.MISSING_HAND_MODEL,
            "TACO's betas are MANO's: name the folder of MANO_LEFT.pkl and MANO_RIGHT.pkl as hand_model (or get "
            "hand_joints.npy of a later release)",
        )
    everywhere = np.ones(len(T_cam_world), bool)
    return {"joints": {side: JointTrack(points, everywhere) for side, points in joints_cam.items()}}


def _joints(path: Path, T_cam_world: np.ndarray) -> dict[str, np.ndarray]:
    """Released joints by side, camera frame, m; their fingertips are manopth's, millimetres from ours."""
    if not path.is_file():
        return {}
    joints_cam = transforms.apply(T_cam_world[:, None, None], _array(path, len(T_cam_world), (2, 21, 3)))
    return {side: joints_cam[:, k] for k, side in enumerate(SIDES)}


def _hand(folder: Path, side: str, T_cam_world: np.ndarray) -> HandTrack:
    labels = load_pickle(folder / f"{side}_hand.pkl")
    if not isinstance(labels, dict) or not all(str(key).isdigit() for key in labels):
        raise ClipError(Reason.BAD_LABEL, f"{side}_hand.pkl is not keyed by frame numbers", side=side)
    keys = sorted(labels, key=int)  # as texts, unpadded numbers would come in another order
    _same_count(f"{side}_hand.pkl", len(keys), len(T_cam_world))
    first = int(keys[0])
    if [int(key) for key in keys] != list(range(first, first + len(keys))):
        raise ClipError(
            Reason.BAD_LABEL, f"{side}_hand.pkl leaves out frames between {keys[0]} and {keys[-1]}", side=side
        )
    pose, wrist = (np.stack([_entry(labels[key], name, size, frame, side) for frame, key in enumerate(keys)])
                   for name, size in (("hand_pose", 48), ("hand_trans", 3)))  # fmt: skip
    shape_file = folder / f"{side}_hand_shape.pkl"
    beta = _entry(load_pickle(shape_file), "hand_shape", 10, -1, side) if shape_file.is_file() else np.zeros(10)
    R_world_wrist = transforms.rotvec_to_rotmat(pose[:, :3])
    return hand_in_camera(T_cam_world, pose[:, 3:], R_world_wrist, wrist, beta, np.ones(len(keys), bool))


def _entry(label: object, name: str, size: int, frame: int, side: str) -> np.ndarray:
    if not isinstance(label, dict) or name not in label:
        raise ClipError(Reason.BAD_LABEL, f"{side}_hand: an entry has no {name}", frame, side)
    return finite(label[name], (size,), name, frame, side)


def _objects(root: Path, seq: Path, T_cam_world: np.ndarray, camera: PinholeCamera) -> tuple[ObjectTrack, ...]:
    """Tool and target, by the names of the triplet."""
    tracks = []
    for role, name in zip(("tool", "target"), _triplet(seq)[1:], strict=True):
        for path in sorted((root / "Object_Poses" / seq).glob(f"{role}_*.npy"))[:1]:
            mesh = _mesh_file(root, path)
            outline_m = mesh and read_outline(mesh, units_per_m=100.0)
            tracks.append(object_track(name, T_cam_world @ _poses(path, len(T_cam_world)), camera, outline_m))
    return tuple(tracks)


def _mesh_file(root: Path, poses: Path) -> Path | None:
    name = f"{poses.stem.split('_')[-1]}_cm.obj"
    return next((path for path in (root / folder / name for folder in MESH_FOLDERS) if path.is_file()), None)


def _triplet(seq: Path) -> tuple[str, str, str]:
    match = TRIPLET.fullmatch(seq.parent.name)
    if match is None:
        raise ClipError(Reason.BAD_LABEL, f"folder {seq.parent.name!r} is not (verb, tool, target)")
    return match[1], match[2], match[3]


def _instructions(seq: Path, end_s: float) -> tuple[Instruction, ...]:
    """The triplet is all the text there is; this wording holds for each of its verbs, prepositions and all."""
    verb, tool, target = _triplet(seq)
    return (Instruction(0.0, end_s, f"use the {tool} on the {target}: {verb}"),)


# -- example


def write_example(root: Path, truth: Truth, fixed: dict[str, Truth] | None = None) -> None:
    """The layout above in miniature. fixed: the same scene through other cameras, by serial (`seen_by`).

    The text "use the T on the O: V" gives the triplet (V, T, O); another text becomes the verb and truth's object
    both tool and target. A truth named YYYYMMDD_NNN keeps its name.
    """
    said = re.fullmatch(r"use the (.+) on the (.+): (.+)", truth.instructions[0].text if truth.instructions else "")
    verb, tool, target = (said[3], said[1], said[2]) if said else (
        truth.instructions[0].text if truth.instructions else "empty", truth.objects[0].name, truth.objects[-1].name
    )  # fmt: skip
    taken = len(list((root / EGO_VIDEOS).glob("*/*")))
    name = truth.name if SEQUENCE.fullmatch(truth.name) else f"20230917_{taken + 1:03d}"
    seq = Path(f"({verb}, {tool}, {target})") / name
    write_video(root / EGO_VIDEOS / seq / "color.mp4", truth.rgb, truth.fps)
    _write_depth(root / "Egocentric_Depth_Videos" / seq / "egocentric_depth.avi", truth.depth_m)
    parameters = root / "Egocentric_Camera_Parameters" / seq
    parameters.mkdir(parents=True)
    np.savetxt(parameters / "egocentric_intrinsic.txt", _opencv(truth.camera))
    np.save(parameters / "egocentric_frame_extrinsic.npy", truth.T_cam_world)
    T_world_cam = transforms.invert(truth.T_cam_world)
    _write_hands(root / "Hand_Poses" / seq, truth, T_world_cam)
    _write_objects(root, seq, truth, T_world_cam)
    for serial, seen in (fixed or {}).items():
        write_video(root / "Allocentric_RGB_Videos" / seq / f"{serial}.mp4", seen.rgb, seen.fps)
        write_video(root / "Marker_Removed_Allocentric_RGB_Videos" / seq / f"{serial}.mp4", seen.rgb, seen.fps)
    if fixed:
        path = root / "Allocentric_Camera_Parameters" / seq / "calibration.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({serial: _calibration(seen) for serial, seen in fixed.items()}), encoding="utf-8")


def _opencv(camera: PinholeCamera) -> np.ndarray:
    return camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]


def _calibration(seen: Truth) -> dict[str, list]:
    T = seen.T_cam_world[0]
    K = _opencv(seen.camera)
    size = [seen.camera.width, seen.camera.height]
    return {"imgSize": size, "K": K.ravel().tolist(), "R": T[:3, :3].ravel().tolist(), "T": T[:3, 3].tolist()}


def _write_depth(path: Path, depth_m: np.ndarray) -> None:
    """As its authors did: ffv1, 16-bit grey, every frame a key frame, at a nominal 15 fps."""
    write_grey_video(path, np.round(np.nan_to_num(depth_m) * DEPTH_UNITS_PER_M).astype(np.uint16), 15)


def _write_hands(folder: Path, truth: Truth, T_world_cam: np.ndarray) -> None:
    import torch

    folder.mkdir(parents=True)
    for side, hand in truth.hands.items():
        r = transforms.rotmat_to_rotvec(T_world_cam[:, :3, :3] @ transforms.rotvec_to_rotmat(hand.r))
        wrist = transforms.apply(T_world_cam, hand.tau)
        pose, trans, shape = (
            torch.tensor(v, dtype=torch.float32) for v in (np.hstack([r, hand.theta]), wrist, hand.beta)
        )
        labels = {f"{k + 1:05d}": {"hand_pose": pose[k], "hand_trans": trans[k]} for k in range(truth.num_frames)}
        for name, content in ((f"{side}_hand.pkl", labels), (f"{side}_hand_shape.pkl", {"hand_shape": shape})):
            with (folder / name).open("wb") as file:
                pickle.dump(content, file)
    if set(truth.hands) == set(SIDES):
        hands = {side: truth.hands[side] for side in SIDES}
        found = [
            joints_of_convention(truth.models[s], h.theta, h.r, h.tau, h.beta, "manopth") for s, h in hands.items()
        ]
        joints_cam = np.stack(found, axis=1)
        np.save(folder / "hand_joints.npy", transforms.apply(T_world_cam[:, None, None], joints_cam))


def _write_objects(root: Path, seq: Path, truth: Truth, T_world_cam: np.ndarray) -> None:
    folder = root / "Object_Poses" / seq
    folder.mkdir(parents=True)
    (root / "Object_Models").mkdir(exist_ok=True)
    for role, number in (("tool", 0), ("target", len(truth.objects) - 1)):
        np.save(folder / f"{role}_{number + 1:03d}.npy", T_world_cam @ truth.objects[number].T_cam_obj)
        corners = "".join(f"v {x} {y} {z}\n" for x, y, z in 100 * box_corners_m())
        (root / "Object_Models" / f"{number + 1:03d}_cm.obj").write_text(corners, encoding="ascii")
