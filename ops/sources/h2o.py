"""H2O (Kwon et al. 2021): two hands and one object, four fixed cameras and a head-mounted one, 30 fps, labels a frame.

    subject{1-4}[_ego]/{h1,h2,k1,k2,o1,o2}/<seq>/cam{0-4}/   cam4 = ego
        rgb/%06d.png, rgb256/ (cam4)      depth/%06d.png, uint16 mm
        cam_intrinsics.txt                fx fy cx cy width height; cam_pose/%06d.txt: 4 x 4 CAMERA-TO-WORLD, metres
        hand_pose/%06d.txt                128 = left, right: [labelled, 21 x 3], OpenPose order
        hand_pose_mano/%06d.txt           124 = left, right: [labelled, trans 3, pose 48, beta 10] (README: 59 a hand)
        obj_pose/, obj_pose_rt/           [class, 21 x 3: centre, corners, mid-edges]; [class, object-to-camera 4 x 4]
        verb_label/, action_label/ (cam4) one number
    action_labels/action_{train,val,test}.txt   id path [action_label] start_act end_act start_frame end_frame

Hands, joints and objects are metres in the frame of the very camera. MANO: flat mean, axis-angle, wrist = J_wrist +
trans. Splits go by subject and scene, as its README lists them; the README's links to the pose lists are swapped, so
names of list files prove nothing. Without MANO files a clip comes with its joints instead of MANO labels.
"""

import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.conventions import transl_from_tau
from ops.hands.joints import TIPS
from ops.hands.mano import from_smplx, load_models
from ops.rejects import ClipError, Reason
from ops.sources.base import SIDES, Clip, HandTrack, Instruction, JointTrack, ObjectTrack, Source, read_each
from ops.sources.depth import ImageDepth
from ops.sources.example import Truth, box_corners_m
from ops.sources.meshes import boxes
from ops.sources.world_labels import finite, rigid
from ops.video import VideoInfo

KIND = "h2o"
FPS = 30.0
EGO = "cam4"
VIEWS = ("cam0", "cam1", "cam2", "cam3", EGO)
SCENES = ("h1", "h2", "k1", "k2", "o1", "o2")
OBJECTS = ("", "book", "espresso", "lotion", "spray", "milk", "cocoa", "chips", "cappuccino")
VERBS = ("", "grab", "place", "open", "close", "pour", "take out", "put in", "apply", "read", "spray", "squeeze")
ACTIONS = (
    "",
    *(f"grab {thing}" for thing in OBJECTS[1:]),
    *(f"place {thing}" for thing in OBJECTS[1:]),
    *("open lotion", "open milk", "open chips", "close lotion", "close milk", "close chips", "pour milk"),
    *("take out espresso", "take out cocoa", "take out chips", "take out cappuccino"),
    *("put in espresso", "put in cocoa", "put in cappuccino", "apply lotion", "apply spray", "read book"),
    *("read espresso", "spray spray", "squeeze lotion"),
)
LABELS = ("cam_pose", "hand_pose", "hand_pose_mano", "obj_pose", "obj_pose_rt", "verb_label", "action_label")
SUBJECT = re.compile(r"subject(\d)(_ego)?", re.IGNORECASE)
NOT_TIPS = [joint for joint in range(21) if joint not in TIPS]  # what counts as a tip differs by millimetres
MAX_DISAGREEMENT_M = 0.02  # between its two hand labels; version 1.0 and a wrong wrist are centimetres off
SOURCE = Source(
    kind=KIND,
    title="H2O: Two Hands Manipulating Objects",
    licence="H2O dataset terms (research only)",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=False,
    url="https://h2odataset.ethz.ch",
    how_to_get="Fill in the form of the project page; with its user and password fetch subject{1-4}_v1_1.tar.gz (all "
    "cameras) or subject{1-4}_ego_v1_1.tar.gz and unpack them into one folder. Copy action_labels/ of its "
    "repository beside them for exact action segments.",
    notes=(
        "Take version 1.1: the MANO labels of version 1.0 are wrong (the reader rejects them).",
        "Its test actions have no public labels; the official validation scenes count as test here.",
        "Its MANO labels need the licensed MANO files; without them the 21 joints are read and fitted instead.",
    ),
)


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """The rgb folder of every sequence, sorted. view: cam0 to cam4, by default the ego camera cam4.

    A sequence that lies in both the full and the ego archive is listed once, from the full one.
    """
    if view not in (None, *VIEWS):
        raise ValueError(f"H2O has views {', '.join(VIEWS)}, got {view!r}")
    found: dict[tuple[str, ...], Path] = {}
    subjects = (path for path in sorted(root.iterdir()) if SUBJECT.fullmatch(path.name))
    for subject in subjects:  # "subject1" sorts before "subject1_ego"
        for rgb in sorted(subject.glob(f"*/*/{view or EGO}/rgb")):
            found.setdefault((subject.name[:8].lower(), *rgb.parts[-4:]), rgb)
    return sorted(found.values())


def side_files(video: Path) -> list[Path]:
    """Every label, calibration and depth file of the sequence's camera, cam4's actions, and the action lists."""
    camera = video.parent
    folders = [_folder(camera, name) for name in (*LABELS, "depth")] + [_folder(camera.parent / EGO, "action_label")]
    files = [path for folder in set(folders) if folder for path in folder.iterdir() if path.is_file()]
    return sorted({*files, *camera.glob("cam_intrinsics.txt"), *_action_lists(video.parents[4])})


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """One sequence as one camera saw it.

    Raises ClipError: EMPTY_VIDEO, MISSING_SIDE_FILE, MISSING_LABELS, FRAME_COUNT_MISMATCH, BAD_LABEL, NAN_LABEL,
    UNSUPPORTED_CAMERA.
    """
    images = {int(path.stem): path for path in sorted(video.glob("*.png")) if path.stem.isdigit()}
    if not images:
        raise ClipError(Reason.EMPTY_VIDEO, f"{video.parent.name}/rgb has no image %06d.png")
    seq, ids = video.parent, sorted(images)
    camera = _camera(seq / "cam_intrinsics.txt", images[ids[0]])
    times_s = (np.array(ids) - ids[0]) / FPS
    T_world_cam = rigid(_rows(seq, "cam_pose", ids, 16).reshape(-1, 4, 4), "cam_pose")
    return Clip(
        clip_id=f"{shard.source}/{seq.relative_to(shard.root).as_posix()}",
        source=shard.source,
        kind=KIND,
        video=video,
        fps=float((len(ids) - 1) / times_s[-1]) if len(ids) > 1 else FPS,
        num_frames=len(ids),
        times_s=times_s,
        camera=camera,
        intrinsics="given",
        split=_split(seq),
        image_files=tuple(images[i] for i in ids),
        T_cam_world=transforms.invert(T_world_cam),
        **_hands(seq, ids, shard, camera),
        objects=_objects(seq, ids, camera),
        instructions=_instructions(seq, ids, shard),
        depth=_depth(seq, ids),
        subject=seq.parents[2].name[:8].lower(),
        view=seq.name,
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None):
    """Clips one by one; a Reject for each that cannot be read."""
    shard = ShardConfig(KIND, KIND, str(root), view=view, hand_model=hand_model and str(hand_model))
    return read_each(list_videos, read_clip, shard)


# -- files


def _folder(camera: Path, name: str) -> Path | None:
    """A label folder; the README writes hand_pose_MANO and obj_pose_RT, the archives write lower case."""
    found = [path for path in camera.iterdir() if path.name.lower() == name] if camera.is_dir() else []
    return found[0] if found else None


def _rows(seq: Path, name: str, ids: list[int], width: int) -> np.ndarray:
    """Numbers of a label folder, (frames, width), one text file an image."""
    folder = _folder(seq, name)
    if folder is None:
        raise ClipError(Reason.MISSING_LABELS, f"{seq.name} has no {name}/: unpack its archive again")
    files = {int(path.stem): path for path in folder.glob("*.txt") if path.stem.isdigit()}
    if files.keys() != set(ids):
        lacking = sorted(set(ids) ^ files.keys())
        detail = f"{name} has {len(files)} labels for {len(ids)} images, the first without its partner is {lacking[0]}"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"{detail}: unpack the archive again")
    return np.stack([_numbers(files[i], width, frame) for frame, i in enumerate(ids)])


def _numbers(path: Path, width: int, frame: int = -1) -> np.ndarray:
    try:
        values = [float(word) for word in path.read_text(encoding="ascii").split()]
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"{path.parent.name}/{path.name}: {error}", frame) from error
    return finite(values, (width,), f"{path.parent.name}/{path.name}", frame)


def _camera(path: Path, image: Path) -> PinholeCamera:
    if not path.is_file():
        raise ClipError(Reason.MISSING_SIDE_FILE, f"{path.parent.name} has no cam_intrinsics.txt")
    fx, fy, cx, cy, width, height = _numbers(path, 6)
    try:
        with Image.open(image) as opened:
            size = opened.size
        camera = PinholeCamera.from_opencv(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), int(width), int(height))
    except OSError as error:
        raise ClipError(Reason.CORRUPT_VIDEO, f"{image.name} is no readable image: {error}", 0) from error
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"cam_intrinsics.txt: {error}") from error
    if abs(size[0] * height - size[1] * width) > max(width, height):
        raise ClipError(
            Reason.UNSUPPORTED_CAMERA, f"images are {size[0]} x {size[1]}, cam_intrinsics.txt is of {width} x {height}"
        )
    return camera.resized(*size)


def _depth(seq: Path, ids: list[int]) -> ImageDepth | None:
    folder = _folder(seq, "depth")
    if folder is None:
        return None
    files = [folder / f"{i:06d}.png" for i in ids]
    return ImageDepth(tuple(path if path.is_file() else None for path in files), units_per_m=1000.0)


# -- hands


def _hands(seq: Path, ids: list[int], shard: ShardConfig, camera: PinholeCamera) -> dict[str, object]:
    """Fields of the clip: MANO tracks where the MANO files are given (its joints then check them), else joints."""
    if _folder(seq, "hand_pose") is None and _folder(seq, "hand_pose_mano") is None:
        raise ClipError(Reason.MISSING_LABELS, f"{seq.name} has neither hand_pose/ nor hand_pose_mano/")
    joints = _joints(seq, ids) if _folder(seq, "hand_pose") is not None else {}
    if shard.hand_model is None:
        if not joints:
            raise ClipError(
                Reason.MISSING_HAND_MODEL,
                f"{seq.name} has only MANO labels: name the folder of MANO_LEFT.pkl and MANO_RIGHT.pkl as hand_model",
            )
        return {"joints": joints}
    folder = Path(shard.hand_model)
    published_px = {
        side: np.where(track.valid[:, None, None], camera.project(track.joints_cam), np.nan)
        for side, track in joints.items()
    }
    return {"hands": _mano(seq, ids, folder, joints), "hand_model": folder, "published_px": published_px}


def _joints(seq: Path, ids: list[int]) -> dict[str, JointTrack]:
    rows = _rows(seq, "hand_pose", ids, 128).reshape(-1, 2, 64)
    tracks = {}
    for index, side in enumerate(SIDES):
        valid = _flags(rows[:, index, 0], "hand_pose", side)
        points = np.where(valid[:, None], rows[:, index, 1:], 0.0).reshape(-1, 21, 3)
        if valid.any():
            tracks[side] = JointTrack(points, valid)
    return tracks


def _mano(seq: Path, ids: list[int], folder: Path, joints: dict[str, JointTrack]) -> dict[str, HandTrack]:
    rows = _rows(seq, "hand_pose_mano", ids, 124).reshape(-1, 2, 62)
    models, tracks = load_models(folder), {}
    for index, side in enumerate(SIDES):
        valid = _flags(rows[:, index, 0], "hand_pose_mano", side)
        if not valid.any():
            continue
        transl, pose, betas = np.split(np.where(valid[:, None], rows[:, index, 1:], 0.0), [3, 51], axis=1)
        theta, r, tau = from_smplx(models[side], pose[:, :3], pose[:, 3:], transl, betas, flat_hand_mean=True)
        tau[~valid] = 0.0
        tracks[side] = HandTrack(theta, r, tau, betas[valid].mean(axis=0), valid)
        if side in joints:
            _check_agreement(models[side].joints(theta, r, tau, tracks[side].beta), valid, joints[side], side)
    return tracks


def _check_agreement(from_mano: np.ndarray, valid: np.ndarray, labelled: JointTrack, side: str) -> None:
    both = valid & labelled.valid
    if both.any():
        apart_m = np.median(np.linalg.norm(from_mano[both] - labelled.joints_cam[both], axis=-1)[:, NOT_TIPS])
        if apart_m > MAX_DISAGREEMENT_M:
            raise ClipError(
                Reason.BAD_LABEL,
                f"hand_pose_mano and hand_pose are {1000 * apart_m:.0f} mm apart: are the labels of version 1.1, and is "
                "hand_model the folder of MANO's own files?",
                side=side,
            )


def _flags(values: np.ndarray, where: str, side: str) -> np.ndarray:
    wrong = ~np.isin(values, (0.0, 1.0))
    if wrong.any():
        frame = int(np.argmax(wrong))
        raise ClipError(Reason.BAD_LABEL, f"{where}: 'labelled' is {values[frame]}, not 0 or 1", frame, side)
    return values == 1.0


# -- objects and text


def _objects(seq: Path, ids: list[int], camera: PinholeCamera) -> tuple[ObjectTrack, ...]:
    """One track a class that occurs; a frame labels one object at most."""
    if _folder(seq, "obj_pose") is None or _folder(seq, "obj_pose_rt") is None:
        return ()
    points, poses = _rows(seq, "obj_pose", ids, 64), _rows(seq, "obj_pose_rt", ids, 17)
    classes = _classes(points[:, 0], OBJECTS, "obj_pose")
    if (poses[:, 0] != classes).any():
        frame = int(np.argmax(poses[:, 0] != classes))
        raise ClipError(Reason.BAD_LABEL, "obj_pose and obj_pose_rt name different objects", frame)
    tracks = []
    for number in np.unique(classes[classes > 0]):
        here = classes == number
        corners = np.where(here[:, None, None], points[:, 1:].reshape(-1, 21, 3), np.nan)
        T_cam_obj = np.full((len(ids), 4, 4), np.nan)
        T_cam_obj[here] = rigid(poses[here, 1:].reshape(-1, 4, 4), "obj_pose_rt")
        boxes_px, visible = boxes(camera, corners[:, 1:9])
        tracks.append(ObjectTrack(OBJECTS[number], boxes_px, visible, corners[:, 0], T_cam_obj))
    return tuple(tracks)


def _classes(values: np.ndarray, names: tuple[str, ...], where: str) -> np.ndarray:
    wrong = ~np.isin(values, range(len(names)))
    if wrong.any():
        frame = int(np.argmax(wrong))
        raise ClipError(Reason.BAD_LABEL, f"{where}: class {values[frame]}, there are 0 to {len(names) - 1}", frame)
    return values.astype(int)


def _split(seq: Path) -> str:
    """Official: train = subjects 1 and 2 and subject 3 in h1, h2, k1; validation = the rest of 3; test = subject 4."""
    subject, scene = int(seq.parents[2].name[7]), seq.parents[1].name
    return "train" if subject <= 2 or (subject == 3 and scene in ("h1", "h2", "k1")) else "test"


def _instructions(seq: Path, ids: list[int], shard: ShardConfig) -> tuple[Instruction, ...]:
    """Segments of the action lists; where they do not have the sequence, runs of equal labels a frame.

    Lists end a segment with its last frame. Frames: cam4's actions (all cameras run together), or verb and object.
    """
    key = f"{seq.parents[2].name[:8].lower()}/{seq.parents[1].name}/{seq.parents[0].name}"
    segments = [row for path in _action_lists(Path(shard.root)) for row in _listed(path, path.stat().st_mtime_ns, key)]
    segments = segments or _runs(ids, _texts(seq, ids))
    made = []
    for text, first, last in segments:
        if first > last or last < ids[0] or first > ids[-1]:
            raise ClipError(
                Reason.BAD_LABEL, f"action {text!r} lasts from {first} to {last}, images from {ids[0]} to {ids[-1]}"
            )
        inside = max(first, ids[0]) - ids[0], min(last, ids[-1]) - ids[0] + 1
        made.append(Instruction(inside[0] / FPS, inside[1] / FPS, text))
    return tuple(sorted(made, key=lambda made: (made.start_s, made.end_s)))


def _texts(seq: Path, ids: list[int]) -> list[str]:
    ego = seq.parent / EGO
    if _folder(ego, "action_label") is not None:
        return [ACTIONS[k] for k in _classes(_rows(ego, "action_label", ids, 1)[:, 0], ACTIONS, "action_label")]
    if _folder(seq, "verb_label") is None or _folder(seq, "obj_pose") is None:
        return [""] * len(ids)
    verbs = _classes(_rows(seq, "verb_label", ids, 1)[:, 0], VERBS, "verb_label")
    things = _classes(_rows(seq, "obj_pose", ids, 64)[:, 0], OBJECTS, "obj_pose")
    return [f"{VERBS[v]} {OBJECTS[o]}" if v and o else "" for v, o in zip(verbs, things, strict=True)]


def _runs(ids: list[int], texts: list[str]) -> list[tuple[str, int, int]]:
    """Text, first and last frame id of every run of one text."""
    starts = [k for k in range(len(texts)) if k == 0 or texts[k] != texts[k - 1]]
    return [(texts[a], ids[a], ids[b - 1]) for a, b in pairwise([*starts, len(texts)]) if texts[a]]


def _action_lists(root: Path) -> list[Path]:
    folders = (root, root / "action_labels", root / "label_split")
    return sorted(path for folder in folders for path in folder.glob("action_*.txt"))


def _listed(path: Path, version: int, key: str) -> list[tuple[str, int, int]]:
    return _action_list(path, version).get(key, [])


@lru_cache(maxsize=8)
def _action_list(path: Path, _version: int) -> dict[str, list[tuple[str, int, int]]]:
    """Text, first and last frame id by sequence; a list without labels (the test one) says nothing of use."""
    lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    found: dict[str, list[tuple[str, int, int]]] = {}
    if not lines or "action_label" not in lines[0]:
        return found
    at = [lines[0].index(name) for name in ("path", "action_label", "start_act", "end_act")]
    for words in lines[1:]:
        try:
            key, action, first, last = words[at[0]], *(int(words[column]) for column in at[1:])
            found.setdefault(key, []).append((ACTIONS[action], first, last))
        except (ValueError, IndexError) as error:
            raise ClipError(Reason.BAD_LABEL, f"{path.name}: {' '.join(words)!r}: {error}") from error
    return found


# -- example


def write_example(root: Path, truth: Truth, view: str = EGO) -> None:
    """The layout above in miniature. Texts and objects outside H2O's vocabulary become its first, "grab book".

    truth.name "k2/3" names scene and sequence, another name takes the next free sequence of h1; the digit of
    truth.subject is the subject.
    """
    scene = truth.name.split("/")[0] if truth.name.split("/")[0] in SCENES else "h1"
    subject = root / f"subject{int(re.sub(r'[^0-9]', '', truth.subject) or 1)}"
    number = truth.name.split("/")[1] if "/" in truth.name else str(len(list((subject / scene).glob("*"))))
    seq = subject / scene / number / view
    camera, T_world_cam = truth.camera, transforms.invert(truth.T_cam_world)
    _write(seq / "cam_intrinsics.txt", [camera.fx, camera.fy, camera.cx - 0.5, camera.cy - 0.5, camera.width, camera.height])  # fmt: skip
    actions = _action_of_frames(truth)
    for frame in range(truth.num_frames):
        thing = _thing(truth, frame)
        labels = {
            "cam_pose": T_world_cam[frame].ravel(),
            "hand_pose": np.concatenate([_joint_label(truth, side, frame) for side in SIDES]),
            "hand_pose_mano": np.concatenate([_mano_label(truth, side, frame) for side in SIDES]),
            "obj_pose": thing[0],
            "obj_pose_rt": thing[1],
            "verb_label": [next((k for k, verb in enumerate(VERBS) if k and ACTIONS[actions[frame]].startswith(verb)), 0)],
        }  # fmt: skip
        for name, values in (labels | ({"action_label": [actions[frame]]} if view == EGO else {})).items():
            _write(seq / name / f"{frame:06d}.txt", values)
        _write_images(seq, truth, frame, view)
    if view == EGO:
        _write_action_list(root, f"{subject.name}/{scene}/{number}", truth, _split(seq))


def _write(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = (float(value) for value in values)
    path.write_text(" ".join(str(int(v)) if v.is_integer() else repr(v) for v in numbers), encoding="ascii")


def _joint_label(truth: Truth, side: str, frame: int) -> np.ndarray:
    if side not in truth.hands or not truth.hands[side].valid[frame]:
        return np.zeros(64)
    return np.concatenate([[1.0], truth.joints_cam[side][frame].ravel()])


def _mano_label(truth: Truth, side: str, frame: int) -> np.ndarray:
    if side not in truth.hands or not truth.hands[side].valid[frame]:
        return np.zeros(62)
    hand = truth.hands[side]
    transl = transl_from_tau(truth.models[side], hand.tau[[frame]], hand.beta)[0]
    return np.concatenate([[1.0], transl, hand.r[frame], hand.theta[frame], hand.beta])


def _thing(truth: Truth, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """obj_pose and obj_pose_rt of the first object that has a pose in the frame."""
    for thing in truth.objects:
        if np.isfinite(thing.T_cam_obj[frame]).all():
            number = float(OBJECTS.index(thing.name) if thing.name in OBJECTS else 1)
            corners = box_corners_m()
            pairs = [(a, b) for a in range(8) for b in range(a) if np.sum(corners[a] != corners[b]) == 1]
            points = [np.zeros(3), *corners, *((corners[a] + corners[b]) / 2 for a, b in pairs)]
            seen = transforms.apply(thing.T_cam_obj[frame], np.array(points))
            return np.append(number, seen), np.append(number, thing.T_cam_obj[frame])
    return np.zeros(64), np.append(0.0, np.eye(4))


def _action_of_frames(truth: Truth) -> list[int]:
    actions = [0] * truth.num_frames
    for said in truth.instructions:
        first, last = round(said.start_s * FPS), round(said.end_s * FPS) - 1
        actions[first : last + 1] = [ACTIONS.index(said.text) if said.text in ACTIONS else 1] * (last + 1 - first)
    return actions[: truth.num_frames]


def _write_images(seq: Path, truth: Truth, frame: int, view: str) -> None:
    import cv2

    bgr = np.ascontiguousarray(truth.rgb[frame][..., ::-1])
    depth_mm = np.round(np.nan_to_num(truth.depth_m[frame]) * 1000).astype(np.uint16)
    small = {"rgb256": cv2.resize(bgr, (455, 256))} if view == EGO else {}
    for name, image in ({"rgb": bgr, "depth": depth_mm} | small).items():
        (seq / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(seq / name / f"{frame:06d}.png"), image)


def _write_action_list(root: Path, key: str, truth: Truth, split: str) -> None:
    path = root / "action_labels" / f"action_{split}.txt"
    labelled = split == "train"
    label = ["action_label"] if labelled else []
    columns = ["id", "path", *label, "start_act", "end_act", "start_frame", "end_frame"]
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else [" ".join(columns)]
    for said in truth.instructions:
        action = [str(ACTIONS.index(said.text) if said.text in ACTIONS else 1)] if labelled else []
        acts = [str(round(said.start_s * FPS)), str(round(said.end_s * FPS) - 1)]
        lines.append(" ".join([str(len(lines)), key, *action, *acts, "0", str(truth.num_frames - 1)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
