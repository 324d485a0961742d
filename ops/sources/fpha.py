"""FPHA / F-PHAB (Garcia-Hernando et al. 2018): a shoulder-mounted RGB-D camera, magnetic joints of the right hand, 30 fps.

    Video_files/Subject_{1-6}/<action>/<n>/color/color_%04d.jpeg    1920 x 1080 (Video_files_480: a quarter of it)
                                           depth/depth_%04d.png     640 x 480 uint16, mm, of the DEPTH camera
    Hand_pose_annotation_v1[_1]/Subject_i/<action>/<n>/skeleton.txt     frame, then 21 x 3, MILLIMETRES
    Object_6D_pose_annotation_v1[_1]/.../object_pose.txt                frame, then 4 x 4 by COLUMNS, translation mm
    Object_models/<object>_model/<object>_model.ply                     metres
    data_split_action_recognition.txt    "Training N" / "Test N", then "Subject_1/use_flash/3 24"

Joints and objects are in the frame of the depth camera; one constant transform takes them to the colour camera. Its
joint order: wrist, five MCP, then PIP, DIP, TIP of thumb to little. No MANO: the hand is fitted to the joints. No
camera pose. The row of an image is its place in skeleton.txt, as in the official reader.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import Clip, Instruction, JointTrack, ObjectTrack, Source, read_each
from ops.sources.depth import ImageDepth, RegisteredDepth
from ops.sources.example import Truth, box_corners_m, seen_by
from ops.sources.meshes import object_track, read_outline
from ops.sources.world_labels import finite, rigid
from ops.video import VideoInfo

KIND = "fpha"
FPS = 30.0
SIZE, DEPTH_SIZE = (1920, 1080), (640, 480)
K_COLOUR = np.array([[1395.749023, 0, 935.732544], [0, 1395.749268, 540.681030], [0, 0, 1]])
K_DEPTH = np.array([[475.065948, 0, 315.944855], [0, 475.065857, 245.287079], [0, 0, 1]])
T_COLOUR_DEPTH_MM = np.array(
    [
        [0.999988496304, -0.00468848412856, 0.000982563360594, 25.7],
        [0.00469115935266, 0.999985218048, -0.00273845880292, 1.22],
        [-0.000969709653873, 0.00274303671904, 0.99999576807, 3.902],
        [0, 0, 0, 1],
    ]
)
# openpose[k] = skeleton[SKELETON_OF_OPENPOSE[k]]
SKELETON_OF_OPENPOSE = (0, 1, 6, 7, 8, 2, 9, 10, 11, 3, 12, 13, 14, 4, 15, 16, 17, 5, 18, 19, 20)
VIDEO_FOLDERS = ("Video_files", "Video_files_480")
POSE_FOLDERS = ("Hand_pose_annotation_v1_1", "Hand_pose_annotation_v1")
OBJECT_FOLDERS = ("Object_6D_pose_annotation_v1_1", "Object_6D_pose_annotation_v1")
OBJECTS = ("juice_bottle", "liquid_soap", "milk", "salt")
ALIASES = {"dish_soap": "liquid_soap", "read_paper": "read_letter", "use_spray": "use_flash"}  # the paper's names
KNOWN_BAD = ("Subject_2/close_milk/4", "Subject_2/put_tea_bag/2", "Subject_4/flip_sponge/2")
TRAIN_SUBJECTS = ("Subject_1", "Subject_3", "Subject_4")  # of its cross-subject protocol
SOURCE = Source(
    kind=KIND,
    title="FPHA: First-Person Hand Action benchmark",
    licence="FPHA terms (academic research only)",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=False,
    url="https://github.com/guiggh/hand_pose_action",
    how_to_get="Fill in the form of its repository; the link to the archives comes by e-mail. Unpack Video_files, "
    "Hand_pose_annotation_v1_1, Object_6D_pose_annotation_v1_1 and Object_models into one folder, with "
    "data_split_action_recognition.txt beside them.",
    notes=(
        "The right hand only, with magnetic sensors and their wires to be seen on it.",
        "Joints only: MANO is fitted to them.",
        "Skeletons of some sequences are off the image by centimetres (its issue 13).",
        f"Left out as damaged: {', '.join(KNOWN_BAD)}.",
    ),
)


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """The colour folder of every sequence, sorted; of the whole images where there are any."""
    if view is not None:
        raise ValueError(f"FPHA has one camera, view must be null, got {view!r}")
    found: dict[tuple[str, ...], Path] = {}
    for name in VIDEO_FOLDERS:
        for folder in root.glob(f"{name}/Subject_*/*/*/color"):
            found.setdefault(folder.parts[-4:], folder)
    return sorted(found.values())


def side_files(video: Path) -> list[Path]:
    """Skeletons, object poses, the object's model, depth images and the split list; those that exist."""
    root, key = video.parents[4], _key(video)
    name = _object(key)
    models = [_model(root, name)] if name else []
    labels = [_find(root, POSE_FOLDERS, key, "skeleton.txt"), _find(root, OBJECT_FOLDERS, key, "object_pose.txt")]
    files = [*filter(None, labels), *models, _split_list(root), *_depth_images(video).values()]
    return [path for path in files if path.is_file()]


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """One sequence.

    Raises ClipError: KNOWN_BAD_CLIP, EMPTY_VIDEO, CORRUPT_VIDEO, MISSING_LABELS, BAD_LABEL, NAN_LABEL,
    FRAME_COUNT_MISMATCH, UNSUPPORTED_CAMERA.
    """
    root, key = video.parents[4], _key(video)
    if key in KNOWN_BAD:
        raise ClipError(Reason.KNOWN_BAD_CLIP, f"{key} is listed as damaged by its users")
    images = {int(path.stem[6:]): path for path in video.glob("color_*.jpeg") if path.stem[6:].isdigit()}
    if not images:
        raise ClipError(Reason.EMPTY_VIDEO, f"{key}/color has no image color_%04d.jpeg")
    numbers = sorted(images)
    camera = _camera(images[numbers[0]])
    times_s = (np.array(numbers) - numbers[0]) / FPS
    subject, action, _ = key.split("/")
    return Clip(
        clip_id=f"{shard.source}/{key}",
        source=shard.source,
        kind=KIND,
        video=video,
        fps=(len(numbers) - 1) / times_s[-1] if len(numbers) > 1 else FPS,
        num_frames=len(numbers),
        times_s=times_s,
        camera=camera,
        intrinsics="given",
        split=_split(root, key),
        image_files=tuple(images[number] for number in numbers),
        joints={"right": _joints(root, key, numbers)},
        objects=_objects(root, key, numbers, camera),
        instructions=(Instruction(0.0, float(times_s[-1]) + 1 / FPS, _text(action)),),
        depth=_depth(video, numbers, camera),
        object_names=tuple(name.replace("_", " ") for name in [_object(key)] if name),
        subject=subject,
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Clips one by one; a Reject for each that cannot be read."""
    shard = ShardConfig(KIND, KIND, str(root), view=view, hand_model=hand_model and str(hand_model))
    return read_each(list_videos, read_clip, shard)


# -- files


def _key(video: Path) -> str:
    return "/".join(video.parts[-4:-1])


def _find(root: Path, folders: tuple[str, ...], key: str, name: str) -> Path | None:
    """A label file of the newest version that is there."""
    found = (root / folder / key / name for folder in folders)
    return next((path for path in found if path.is_file()), None)


def _model(root: Path, name: str) -> Path:
    return root / "Object_models" / f"{name}_model" / f"{name}_model.ply"


def _split_list(root: Path) -> Path:
    return root / "data_split_action_recognition.txt"


def _canonical(action: str) -> str:
    """The folder's name; the paper names some actions otherwise."""
    for name, folder in ALIASES.items():
        action = action.replace(name, folder)
    return action


def _text(action: str) -> str:
    return _canonical(action).replace("_", " ")


def _object(key: str) -> str | None:
    """Which of the four objects with poses the action is about."""
    action = _canonical(key.split("/")[1])
    return next((name for name in OBJECTS if re.search(rf"(^|_){name}($|_)", action)), None)


def _split(root: Path, key: str) -> str:
    """Of its action-recognition list; "" where that does not name the sequence; by subject where there is no list."""
    path = _split_list(root)
    if not path.is_file():
        return "train" if key.startswith(TRAIN_SUBJECTS) else "test"
    return _listed(path, path.stat().st_mtime_ns).get(key, "")


@lru_cache(maxsize=8)
def _listed(path: Path, _version: int) -> dict[str, str]:
    split, found = "", {}
    for words in (line.split() for line in path.read_text(encoding="utf-8").splitlines()):
        if words and words[0] in ("Training", "Test"):
            split = {"Training": "train", "Test": "test"}[words[0]]
        elif words:
            found[words[0]] = split
    return found


# -- camera and depth


def _camera(image: Path) -> PinholeCamera:
    try:
        with Image.open(image) as opened:
            width, height = opened.size
    except OSError as error:
        raise ClipError(Reason.CORRUPT_VIDEO, f"{image.name} is no readable image: {error}", 0) from error
    if abs(width * SIZE[1] - height * SIZE[0]) > SIZE[0]:
        detail = f"images are {width} x {height}, intrinsics are of {SIZE[0]} x {SIZE[1]}"
        raise ClipError(Reason.UNSUPPORTED_CAMERA, detail)
    return PinholeCamera.from_opencv(K_COLOUR, *SIZE).resized(width, height)


def _T_colour_depth() -> np.ndarray:  # noqa: N802 - the name of the transform
    """Depth-camera coordinates -> colour-camera coordinates, metres."""
    T = rigid(T_COLOUR_DEPTH_MM[None], "extrinsics")[0]
    T[:3, 3] /= 1000
    return T


def _depth_images(video: Path) -> dict[int, Path]:
    found = (video.parent / "depth").glob("depth_*.png")
    return {int(path.stem[6:]): path for path in sorted(found) if path.stem[6:].isdigit()}


def _depth(video: Path, numbers: list[int], camera: PinholeCamera) -> RegisteredDepth | None:
    images = _depth_images(video)
    if not images:
        return None
    measured = ImageDepth(tuple(images.get(number) for number in numbers), units_per_m=1000.0)
    return RegisteredDepth(measured, PinholeCamera.from_opencv(K_DEPTH, *DEPTH_SIZE), camera, _T_colour_depth())


# -- labels


def _rows(path: Path, width: int, numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the images, (frames, width), and which images have one; the first column counts frames."""
    lines = [line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines() if line.strip()]
    wrong = next((k for k, words in enumerate(lines) if len(words) != width + 1), None)
    if not lines or wrong is not None:
        found = f"{len(lines[wrong])} numbers in line {wrong + 1}" if lines else "no line"
        raise ClipError(Reason.BAD_LABEL, f"{path.name} has {found}, needs {width + 1}: unpack it again", wrong or -1)
    try:
        table = np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"{path.name}: {error}") from error
    finite(table, table.shape, path.name)
    count = table[:, 0] - (table[0, 0] == 1 and len(table) == len(numbers))  # rows are images, from whatever it counts
    if (count != np.round(count)).any() or (np.diff(count) < 1).any():
        raise ClipError(Reason.BAD_LABEL, f"{path.name}: its first column does not count frames upwards")
    if count[-1] > numbers[-1] or len(table) > len(numbers):
        detail = f"{path.name} labels {len(table)} frames up to {count[-1]:.0f}"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"{detail}, images are {len(numbers)} up to {numbers[-1]}")
    place = np.searchsorted(count, numbers).clip(max=len(count) - 1)
    return table[place, 1:], count[place] == numbers


def _joints(root: Path, key: str, numbers: list[int]) -> JointTrack:
    path = _find(root, POSE_FOLDERS, key, "skeleton.txt")
    if path is None:
        raise ClipError(Reason.MISSING_LABELS, f"{POSE_FOLDERS[0]}/{key}/skeleton.txt is missing: unpack its archive")
    rows, valid = _rows(path, 63, numbers)
    joints_depth = rows.reshape(-1, 21, 3)[:, SKELETON_OF_OPENPOSE] / 1000
    return JointTrack(np.where(valid[:, None, None], transforms.apply(_T_colour_depth(), joints_depth), 0.0), valid)


def _objects(root: Path, key: str, numbers: list[int], camera: PinholeCamera) -> tuple[ObjectTrack, ...]:
    path, name = _find(root, OBJECT_FOLDERS, key, "object_pose.txt"), _object(key)
    if path is None or name is None:
        return ()
    rows, valid = _rows(path, 16, numbers)
    T_depth_obj = np.full((len(numbers), 4, 4), np.nan)
    poses = rows[valid].reshape(-1, 4, 4).transpose(0, 2, 1)
    poses[:, :3, 3] /= 1000
    T_depth_obj[valid] = rigid(poses, path.name)
    model = _model(root, name)
    outline_m = read_outline(model) if model.is_file() else None
    return (object_track(name.replace("_", " "), _T_colour_depth() @ T_depth_obj, camera, outline_m),)


# -- example


def example_camera(width: int = 480, height: int = 270) -> PinholeCamera:
    """The colour camera, whose intrinsics are part of the format: what the truth of an example must be seen by."""
    return PinholeCamera.from_opencv(K_COLOUR, *SIZE).resized(width, height)


def write_example(root: Path, truth: Truth) -> None:
    """The layout above in miniature, of a truth seen by `example_camera`; only its right hand and first object.

    truth.name: "<action>/<n>", or it becomes put_salt/<next>. truth.subject's digits are the subject. Millimetres are
    written with six decimals.
    """
    import cv2

    expected = example_camera(truth.camera.width, truth.camera.height)
    if not np.allclose(truth.camera.K, expected.K):
        raise ValueError(f"FPHA's camera is fixed: make the truth with example_camera(), not {truth.camera}")
    subject = f"Subject_{int(re.sub(r'[^0-9]', '', truth.subject) or 1)}"
    folder = root / VIDEO_FOLDERS[0] / subject
    key = truth.name if truth.name.count("/") == 1 else f"put_salt/{len(list(folder.glob('put_salt/*'))) + 1}"
    T_depth_colour = np.linalg.inv(T_COLOUR_DEPTH_MM)
    to_depth_mm = T_depth_colour @ np.diag([1000.0, 1000.0, 1000.0, 1.0])
    order = np.argsort(SKELETON_OF_OPENPOSE)
    hand = truth.hands["right"]
    joints = transforms.apply(to_depth_mm, truth.joints_cam["right"][:, order]).reshape(-1, 63)
    poses = truth.objects[0].T_cam_obj.copy()
    poses[:, :3, 3] *= 1000
    poses = (T_depth_colour @ poses).transpose(0, 2, 1).reshape(-1, 16)
    labelled = np.flatnonzero(hand.valid)
    _write_rows(root / POSE_FOLDERS[0] / subject / key / "skeleton.txt", joints, labelled)
    if _object(f"{subject}/{key}"):
        _write_rows(root / OBJECT_FOLDERS[0] / subject / key / "object_pose.txt", poses, range(truth.num_frames))
        _write_ply(_model(root, _object(f"{subject}/{key}")))
    for name in ("color", "depth"):
        (folder / key / name).mkdir(parents=True, exist_ok=True)
    depth_mm = _depth_images_mm(truth)
    for frame in range(truth.num_frames):
        bgr = np.ascontiguousarray(truth.rgb[frame][..., ::-1])
        cv2.imwrite(str(folder / key / "color" / f"color_{frame:04d}.jpeg"), bgr)
        cv2.imwrite(str(folder / key / "depth" / f"depth_{frame:04d}.png"), depth_mm[frame])
    listed = _split_list(root).read_text(encoding="utf-8") if _split_list(root).is_file() else "Test 0\nTraining 1\n"
    _split_list(root).write_text(f"{listed}{subject}/{key} 0\n", encoding="utf-8")


def _write_rows(path: Path, rows: np.ndarray, frames) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{frame} " + " ".join(f"{value:.6f}" for value in rows[frame]) for frame in frames)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def _write_ply(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = "property float x\nproperty float y\nproperty float z\n"
    header = f"ply\nformat ascii 1.0\nelement vertex 8\n{names}end_header\n"
    path.write_text(header + "".join("{:.6f} {:.6f} {:.6f}\n".format(*corner) for corner in box_corners_m()))


def _depth_images_mm(truth: Truth) -> np.ndarray:
    """The scene drawn again by the depth camera, millimetres."""
    T_depth_colour = transforms.invert(_T_colour_depth())
    camera = PinholeCamera.from_opencv(K_DEPTH, *DEPTH_SIZE)
    seen = seen_by(truth, camera, T_depth_colour @ truth.T_cam_world)
    return np.round(np.nan_to_num(seen.depth_m) * 1000).astype(np.uint16)
