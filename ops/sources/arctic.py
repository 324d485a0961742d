"""ARCTIC (Fan et al. 2023): two hands and an articulated object, one ego camera and eight around, 30 fps.

    {images,cropped_images}/sXX/<object>_{grab,use}_NN/<view 0-8>/%05d.jpg      0 = ego, distorted; 1-8 = fixed
    raw_seqs/sXX/<seq>.mano.npy          {right, left}: rot (T, 3), pose (T, 45), trans (T, 3) m, shape (10), WORLD
                <seq>.object.npy         (T, 7): angle of the part "top", axis-angle, translation in MILLIMETRES, world
                <seq>.egocam.dist.npy    R_k_cam_np (T, 3, 3), T_k_cam_np (T, 3, 1) world-to-camera, intrinsics, dist8
    meta/misc.json                       by subject: world2cam, intris_mat (8), image_size (9), ioi_offset
    meta/object_vtemplates/<object>/{top,bottom}.obj        millimetres
    splits_json/protocol_{p1,p2}.json    sequences by split: p1 fixed cameras, p2 ego

MANO: smplx, axis-angle, NOT flat (hands_mean is added), wrist = J_wrist(beta) + trans. Row of an image = its number -
ioi_offset. Hands, objects and intrinsics are of the undistorted image: frames are undistorted when they are read. The
left hand's files are used as they are: ARCTIC was fitted without the fix of their shape blend shapes.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera, undistort_pixels
from ops.geometry.lenses import RadialTangential
from ops.hands.mano import from_smplx, load_models
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import SIDES, Clip, HandTrack, Instruction, ObjectTrack, Source, read_each
from ops.sources.example import Truth, box_corners_m
from ops.sources.meshes import boxes, object_track, read_outline
from ops.sources.safe_load import load_npy_object
from ops.sources.world_labels import finite, hand_in_camera, rigid
from ops.video import VideoInfo

KIND = "arctic"
FPS = 30.0
EGO = "0"
VIEWS = tuple("012345678")
IMAGES = ("images", "cropped_images")
EDGE = 10  # the official splits leave out ten images at either end, which may be black
MAX_OFF = 2  # images and motion capture were synchronised to one or two frames (its issue 13)
ARTICULATION_AXIS = np.array([0.0, 0.0, -1.0])
SEQUENCE = re.compile(r"([a-z]+)_(grab|use)_(\d+)")
COMPOUNDS = {"capsulemachine": "capsule machine", "espressomachine": "espresso machine", "waffleiron": "waffle iron"}
TEST_SUBJECTS = ("s03", "s05")  # test and validation of both protocols
SOURCE = Source(
    kind=KIND,
    title="ARCTIC: dexterous bimanual manipulation of articulated objects",
    licence="ARCTIC dataset licence (MPI, non-commercial scientific research)",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=True,
    url="https://arctic.is.tue.mpg.de",
    how_to_get="Register for ARCTIC, SMPL-X and MANO, then run its repository's bash/download_misc.sh (raw_seqs, meta, "
    "splits_json) and download_images.sh, or download_cropped_images.sh for the ego view alone; root is the folder "
    "that holds raw_seqs/, meta/ and images/ or cropped_images/.",
    notes=(
        "No text: the instruction is made of the verb and the object in the sequence's name.",
        "Subject s03 is its hidden test set and has no labels; s05 is its validation set and counts as test here.",
        "Ten images at either end of a sequence are left out, as in its own splits: they may be black.",
        "Cropped images of the fixed cameras follow the object, so they have no constant camera: take the full images.",
        "Its SMPL-X body parameters and fitting errors are not read.",
    ),
)


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """The image folder of every sequence, sorted; full images where there are any, else the cropped ones.

    view: "0" to "8", by default "0", the ego camera.
    """
    if view not in (None, *VIEWS):
        raise ValueError(f"ARCTIC has views {', '.join(VIEWS)} (0 = ego), got {view!r}")
    found: dict[tuple[str, ...], Path] = {}
    for kind in IMAGES:
        for folder in root.glob(f"{kind}/s[0-9][0-9]/*/{view or EGO}"):
            found.setdefault(folder.parts[-3:], folder)
    return sorted(found.values())


def side_files(video: Path) -> list[Path]:
    """Labels of the sequence, the calibration, the split and the object's meshes; those that exist."""
    base, (subject, sequence, view) = video.parents[3], video.parts[-3:]
    labels = [_label(base, subject, sequence, kind) for kind in ("mano", "object", "egocam.dist")]
    files = [*labels, base / "meta" / "misc.json", _protocol(base, view), *_meshes(base, sequence)]
    return [path for path in files if path.is_file()]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """One sequence as one camera saw it.

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, MISSING_LABELS, MISSING_SIDE_FILE, MISSING_HAND_MODEL, BAD_LABEL,
    NAN_LABEL, FRAME_COUNT_MISMATCH, UNSUPPORTED_CAMERA.
    """
    base, (subject, sequence, view) = video.parents[3], video.parts[-3:]
    named = SEQUENCE.fullmatch(sequence)
    if named is None:
        raise ClipError(Reason.BAD_LABEL, f"{sequence!r} is no sequence name <object>_<grab or use>_<number>")
    name, text = COMPOUNDS.get(named[1], named[1]), f"{named[2]} the {COMPOUNDS.get(named[1], named[1])}"
    calibration = _calibration(base, subject)
    hands, poses, ego = _labels(base, subject, sequence, view)
    num_rows = min(len(poses), len(ego["T_cam_world"])) if ego else len(poses)
    numbers, rows = _frames(video, num_rows, int(calibration["ioi_offset"]))
    recorded, lens = _camera(video, view, numbers[0], calibration, ego)
    T_cam_world = ego["T_cam_world"][rows] if ego else _fixed(calibration, view, len(rows))
    times_s = (numbers - numbers[0]) / FPS
    return Clip(
        clip_id=f"{shard.source}/{subject}/{sequence}/{view}",
        source=shard.source,
        kind=KIND,
        video=video,
        fps=(len(rows) - 1) / times_s[-1] if len(rows) > 1 else FPS,
        num_frames=len(rows),
        times_s=times_s,
        camera=recorded,
        intrinsics="given",
        split=_split(base, subject, sequence, view),
        image_files=tuple(video / f"{number:05d}.jpg" for number in numbers),
        lens=lens,
        T_cam_world=T_cam_world,
        hands=_hands(hands, rows, T_cam_world, shard),
        hand_model=shard.hand_model and Path(shard.hand_model),
        objects=_objects(poses[rows], T_cam_world, recorded, name, _meshes(base, sequence)),
        instructions=(Instruction(0.0, float(times_s[-1]) + 1 / FPS, text),),
        subject=subject,
        view=view,
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Clips one by one; a Reject for each that cannot be read."""
    shard = ShardConfig(KIND, KIND, str(root), view=view, hand_model=hand_model and str(hand_model))
    return read_each(list_videos, read_clip, shard)


# -- files


def _label(base: Path, subject: str, sequence: str, kind: str) -> Path:
    return base / "raw_seqs" / subject / f"{sequence}.{kind}.npy"


def _protocol(base: Path, view: str) -> Path:
    return base / "splits_json" / f"protocol_{'p2' if view == EGO else 'p1'}.json"


def _meshes(base: Path, sequence: str) -> list[Path]:
    folder = base / "meta" / "object_vtemplates" / sequence.split("_")[0]
    return [folder / "bottom.obj", folder / "top.obj"]


def _json(path: Path) -> dict:
    if not path.is_file():
        detail = f"{'/'.join(path.parts[-2:])} is missing: run ARCTIC's bash/download_misc.sh and unpack it"
        raise ClipError(Reason.MISSING_SIDE_FILE, detail)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} holds a {type(value).__name__}, not an object")
    return value


def _calibration(base: Path, subject: str) -> dict:
    misc = _json(base / "meta" / "misc.json")
    wanted = ("world2cam", "intris_mat", "image_size", "ioi_offset")
    if subject not in misc or not set(wanted) <= set(misc[subject]):
        raise ClipError(Reason.BAD_SIDE_FILE, f"misc.json says no {', '.join(wanted)} of subject {subject}")
    return misc[subject]


def _dict(path: Path, keys: tuple[str, ...], subject: str) -> dict:
    """A dict label with the keys it must have."""
    if not path.is_file():
        hidden = "s03 is ARCTIC's hidden test set" if subject == "s03" else "run ARCTIC's bash/download_misc.sh"
        raise ClipError(Reason.MISSING_LABELS, f"raw_seqs/{subject}/{path.name} is missing: {hidden}")
    value = load_npy_object(path)
    if not isinstance(value, dict) or not set(keys) <= set(value):
        found = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise ClipError(Reason.BAD_LABEL, f"{path.name} has {found}, needs {', '.join(keys)}")
    return value


def _split(base: Path, subject: str, sequence: str, view: str) -> str:
    path = _protocol(base, view)
    if not path.is_file():
        return "test" if subject in TEST_SUBJECTS else "train"
    lists = _json(path)
    held_out = {name for split in ("val", "test") for name in lists.get(split, [])}
    return "test" if f"{subject}/{sequence}" in held_out else "train"


# -- labels


def _labels(base: Path, subject: str, sequence: str, view: str) -> tuple[dict, np.ndarray, dict]:
    """MANO parameters by side, object poses (T, 7), and what egocam.dist.npy says ({} for a fixed camera); the world."""
    hands = _dict(_label(base, subject, sequence, "mano"), (), subject)
    hands = {side: hands[side] for side in SIDES if side in hands}
    if not hands:
        raise ClipError(Reason.BAD_LABEL, f"{sequence}.mano.npy has neither left nor right")
    num_rows = {len(hand.get("rot", ())) for hand in hands.values()}
    path = _label(base, subject, sequence, "object")
    if not path.is_file():
        raise ClipError(Reason.MISSING_LABELS, f"raw_seqs/{subject}/{path.name} is missing")
    poses = np.asarray(load_npy_object(path))
    if num_rows != {len(poses)} or poses.ndim != 2:
        detail = f"{sequence}: mano.npy has {sorted(num_rows)} rows, object.npy shape {poses.shape}"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, detail)
    poses = finite(poses, (len(poses), 7), path.name)
    return hands, poses, _ego(base, subject, sequence, len(poses)) if view == EGO else {}


def _ego(base: Path, subject: str, sequence: str, num_rows: int) -> dict:
    path = _label(base, subject, sequence, "egocam.dist")
    stored = _dict(path, ("R_k_cam_np", "T_k_cam_np", "intrinsics", "dist8"), subject)
    num = len(stored["R_k_cam_np"])
    if abs(num - num_rows) > MAX_OFF:
        detail = f"{path.name} has {num} camera poses for {num_rows} frames of motion capture"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, detail)
    R, t = finite(stored["R_k_cam_np"], (num, 3, 3), path.name), finite(stored["T_k_cam_np"], (num, 3), path.name)
    return {
        "T_cam_world": rigid(transforms.make(R, t), path.name),
        "K": finite(stored["intrinsics"], (3, 3), path.name),
        "dist8": finite(stored["dist8"], (8,), path.name),
    }


def _fixed(calibration: dict, view: str, num_frames: int) -> np.ndarray:
    T = finite(calibration["world2cam"], (8, 4, 4), "misc.json world2cam")[int(view) - 1]
    return np.repeat(rigid(T[None], "misc.json world2cam"), num_frames, axis=0)


def _frames(video: Path, num_rows: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the images that are used, and their rows in the labels."""
    numbers = np.sort(np.array([int(path.stem) for path in video.glob("*.jpg") if path.stem.isdigit()], dtype=int))
    if not len(numbers):
        raise ClipError(Reason.EMPTY_VIDEO, f"{'/'.join(video.parts[-4:])} has no image %05d.jpg")
    too_many = int(numbers[-1]) - offset - num_rows + 1
    first, last = max(EDGE, offset), min(num_rows - EDGE, num_rows + offset) - 1
    used = numbers[(numbers >= first) & (numbers <= last)]
    lacking = last - first + 1 - len(used)
    if too_many > MAX_OFF or lacking > MAX_OFF or not len(used):
        detail = f"{len(numbers)} images up to number {numbers[-1]} for {num_rows} rows of labels (offset {offset})"
        advice = f"{lacking} images between {first} and {last} are missing, {MAX_OFF} may: unpack the sequence again"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"{detail}; {advice}")
    return used, used - offset


def _camera(
    video: Path, view: str, number: int, calibration: dict, ego: dict
) -> tuple[PinholeCamera, RadialTangential | None]:
    """Of the undistorted image, and the lens; a smaller copy of the whole image has its intrinsics scaled."""
    K = ego["K"] if ego else finite(calibration["intris_mat"], (8, 3, 3), "misc.json intris_mat")[int(view) - 1]
    width, height = (int(v) for v in finite(calibration["image_size"], (9, 2), "misc.json image_size")[int(view)])
    try:
        with Image.open(video / f"{number:05d}.jpg") as image:
            size = image.size
    except OSError as error:
        raise ClipError(Reason.CORRUPT_VIDEO, f"{number:05d}.jpg is no readable image: {error}", 0) from error
    cropped = not ego and size != (width, height)
    if cropped or abs(size[0] * height - size[1] * width) > max(width, height):
        detail = f"images are {size[0]} x {size[1]}, the calibration is of {width} x {height}"
        raise ClipError(Reason.UNSUPPORTED_CAMERA, f"{detail}: cropped around the object? take the full images/")
    try:
        camera = PinholeCamera.from_opencv(K, width, height).resized(*size)
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"intrinsics of view {view}: {error}") from error
    return camera, RadialTangential(camera, tuple(ego["dist8"].tolist())) if ego else None


def _hands(stored: dict, rows: np.ndarray, T_cam_world: np.ndarray, shard: ShardConfig) -> dict[str, HandTrack]:
    if shard.hand_model is None:
        advice = "name the folder of MANO_LEFT.pkl and MANO_RIGHT.pkl as hand_model"
        raise ClipError(Reason.MISSING_HAND_MODEL, f"ARCTIC's labels need MANO's files (hand mean, wrist): {advice}")
    models = load_models(Path(shard.hand_model))
    return {side: _hand(hand, rows, T_cam_world, models[side], side) for side, hand in stored.items()}


def _hand(hand: dict, rows: np.ndarray, T_cam_world: np.ndarray, model, side: str) -> HandTrack:
    num = len(hand["rot"])
    if not {"pose", "trans", "shape"} <= set(hand):
        raise ClipError(Reason.BAD_LABEL, f"mano.npy has {sorted(hand)}, needs rot, pose, trans, shape", side=side)
    sizes = {"rot": 3, "pose": 45, "trans": 3}
    rot, pose, trans = (finite(hand[k], (num, size), f"mano.npy {k}", side=side)[rows] for k, size in sizes.items())
    shape = np.asarray(hand["shape"])
    if shape.ndim == 2:  # its documentation says one a frame; one person has one shape
        shape = shape[0] if (shape == shape[:1]).all() else shape
    beta = finite(shape, (10,), "mano.npy shape", side=side)
    theta, _, wrist_world = from_smplx(model, rot, pose, trans, beta, flat_hand_mean=False)
    R_world_wrist = transforms.rotvec_to_rotmat(rot)
    return hand_in_camera(T_cam_world, theta, R_world_wrist, wrist_world, beta, np.ones(len(rows), bool))


def _objects(
    poses: np.ndarray, T_cam_world: np.ndarray, camera: PinholeCamera, name: str, meshes: list[Path]
) -> tuple[ObjectTrack, ...]:
    """The whole object, by the pose of its part "bottom", and the part that turns, "<name> top"."""
    T_world_obj = transforms.make(transforms.rotvec_to_rotmat(poses[:, 1:4]), poses[:, 4:] / 1000)
    turn = transforms.rotvec_to_rotmat(poses[:, :1] * ARTICULATION_AXIS)
    T_cam_obj, T_obj_top = T_cam_world @ T_world_obj, transforms.make(turn, np.zeros(3))
    if not all(path.is_file() for path in meshes):
        return tuple(
            object_track(part, T, camera, None)
            for part, T in ((name, T_cam_obj), (f"{name} top", T_cam_obj @ T_obj_top))
        )
    bottom, top = (read_outline(path, units_per_m=1000.0) for path in meshes)
    points = [np.broadcast_to(bottom, (len(poses), *bottom.shape)), transforms.apply(T_obj_top[:, None], top)]
    points = np.concatenate(points, axis=1)
    middle = (points.min(axis=1) + points.max(axis=1)) / 2
    boxes_px, visible = boxes(camera, transforms.apply(T_cam_obj[:, None], points))
    whole = ObjectTrack(name, boxes_px, visible, transforms.apply(T_cam_obj, middle), T_cam_obj)
    return whole, object_track(f"{name} top", T_cam_obj @ T_obj_top, camera, top)


# -- example

EXAMPLE_OFFSET = 2
EXAMPLE_DIST8 = (-0.32, 0.11, 0.002, -0.0015, 0.01, 0.05, -0.02, 0.003)


def write_example(root: Path, truth: Truth, view: str = EGO, angle: float = 0.4, scale: float = 1.0) -> None:
    """The layout above in miniature; ten black images at either end, and one image more than labels.

    truth.name: a sequence name, or it becomes box_grab_01. angle: of the object's lid, radians. scale < 1: the ego
    images as cropped_images/. view: other than "0" for a truth whose camera stands still. ARCTIC labels every frame.
    """
    subject = truth.subject if re.fullmatch(r"s\d\d", truth.subject) else "s01"
    sequence = truth.name if SEQUENCE.fullmatch(truth.name) else "box_grab_01"
    frames = np.clip(np.arange(truth.num_frames + 2 * EDGE) - EDGE + EXAMPLE_OFFSET, 0, truth.num_frames - 1)
    T_world_cam = transforms.invert(truth.T_cam_world[frames])
    hands = {side: _world_hand(truth, side, frames, T_world_cam) for side in truth.hands}
    T_world_obj = T_world_cam @ truth.objects[0].T_cam_obj[frames]
    rotvec = transforms.rotmat_to_rotvec(T_world_obj[:, :3, :3])
    poses = np.concatenate([np.full((len(frames), 1), angle), rotvec, 1000 * T_world_obj[:, :3, 3]], axis=1)
    _save(_label(root, subject, sequence, "mano"), hands)
    _save(_label(root, subject, sequence, "object"), poses)
    if view == EGO:
        _save(_label(root, subject, sequence, "egocam.dist"), _egocam(truth, frames))
    _write_calibration(root / "meta" / "misc.json", truth, subject, view)
    _write_protocols(root, f"{subject}/{sequence}", "val" if subject == "s05" else "train")
    for path, corners in zip(_meshes(root, sequence), (box_corners_m(), box_corners_m() / 2), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join("v {:.6f} {:.6f} {:.6f}\n".format(*corner) for corner in corners * 1000))
    _write_images(root / IMAGES[scale < 1] / subject / sequence / view, truth, view, scale)


def _save(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, value)


def _world_hand(truth: Truth, side: str, frames: np.ndarray, T_world_cam: np.ndarray) -> dict[str, np.ndarray]:
    hand, model = truth.hands[side], truth.models[side]
    R = T_world_cam[:, :3, :3] @ transforms.rotvec_to_rotmat(hand.r[frames])
    return {
        "rot": transforms.rotmat_to_rotvec(R),
        "pose": hand.theta[frames] - model.hands_mean,
        "trans": transforms.apply(T_world_cam, hand.tau[frames]) - model.wrist(hand.beta),
        "shape": hand.beta,
        "fitting_err": np.zeros(len(frames)),
    }


def _egocam(truth: Truth, frames: np.ndarray) -> dict[str, object]:
    T = truth.T_cam_world[frames]
    return {
        "R_k_cam_np": T[:, :3, :3],
        "T_k_cam_np": T[:, :3, 3:],
        "intrinsics": truth.camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]],
        "ego_markers.ref": np.zeros((1, 3)),
        "ego_markers.label": ["marker"],
        "R0": np.eye(3),
        "T0": np.zeros((3, 1)),
        "dist8": np.array(EXAMPLE_DIST8),
    }


def _write_calibration(path: Path, truth: Truth, subject: str, view: str) -> None:
    misc = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    size = [truth.camera.width, truth.camera.height]
    empty = {"world2cam": [np.eye(4).tolist()] * 8, "intris_mat": [np.eye(3).tolist()] * 8, "image_size": [size] * 9}
    entry = misc.setdefault(subject, empty | {"ioi_offset": EXAMPLE_OFFSET, "gender": "female"})
    entry["image_size"][int(view)] = size
    if view != EGO:
        if np.ptp(truth.T_cam_world, axis=0).max() > 1e-9:
            raise ValueError(f"view {view} of ARCTIC stands still; the truth's camera moves")
        entry["world2cam"][int(view) - 1] = truth.T_cam_world[0].tolist()
        entry["intris_mat"][int(view) - 1] = (truth.camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]).tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(misc), encoding="utf-8")


def _write_protocols(root: Path, key: str, split: str) -> None:
    for view in (EGO, "1"):
        path = _protocol(root, view)
        lists = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"train": [], "val": [], "test": []}
        lists[split] = sorted({*lists[split], key})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(lists), encoding="utf-8")


def _write_images(folder: Path, truth: Truth, view: str, scale: float) -> None:
    """The recorded images: distorted for the ego view; numbers from 0."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    camera = truth.camera
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    straight = undistort_pixels(camera, np.array(EXAMPLE_DIST8), np.stack([u, v], axis=-1)) - 0.5
    map_x, map_y = (np.ascontiguousarray(straight[..., k], dtype=np.float32) for k in (0, 1))
    for number in range(truth.num_frames + 2 * EDGE + 1):
        inside = EDGE <= number < EDGE + truth.num_frames
        bgr = truth.rgb[number - EDGE][..., ::-1] if inside else np.zeros_like(truth.rgb[0])
        if view == EGO:
            bgr = cv2.remap(np.ascontiguousarray(bgr), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if scale < 1:
            size = (int(camera.width * scale), int(camera.height * scale))
            bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), bgr)
