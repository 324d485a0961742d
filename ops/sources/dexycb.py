"""DexYCB (Chao et al. 2021): one hand takes one of several YCB objects, eight fixed cameras, 30 fps, labels a frame.

    <YYYYMMDD-subject-NN>/<YYYYMMDD_HHMMSS>/meta.yml          serials, num_frames, extrinsics, mano_calib, mano_sides,
                                                              ycb_ids, ycb_grasp_ind
        <serial>/color_%06d.jpg, aligned_depth_to_color_%06d.png (uint16 mm), labels_%06d.npz
            labels: seg (h, w) 1-21 = YCB, 255 = hand; pose_y (n, 3, 4) object-to-camera; pose_m (1, 51) = rotation 3,
            PCA 45, translation 3, all zero = no hand; joint_3d (1, 21, 3) m, joint_2d (1, 21, 2) px, -1 = none
    calibration/intrinsics/<serial>_640x480.yml               color: fx, fy, ppx, ppy
    calibration/extrinsics_<id>/extrinsics.yml                12 numbers a serial: CAMERA-TO-MASTER, 3 x 4, metres
    calibration/mano_<id>/mano.yml                            betas        models/<name>/textured_simple.obj

Hand, joints and objects are metres in the frame of the very camera; the world is the master camera's frame. MANO: all
45 PCA coefficients about the NON-FLAT mean, wrist = J_wrist + translation, the left hand's file as it is. All cameras
are third-person: each is a clip. Split: the official s1 (unseen subjects; its validation subject counts as test), since
the default split s0 has the same people and objects on both sides. Without MANO files a clip comes with its joints.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.conventions import flat_theta_from_pca, pca_from_flat_theta, tau_from_transl, transl_from_tau
from ops.hands.mano import load_models
from ops.rejects import ClipError, Reason
from ops.sources.base import Clip, HandTrack, Instruction, JointTrack, ObjectTrack, Source, read_each
from ops.sources.depth import ImageDepth
from ops.sources.example import Truth
from ops.sources.meshes import read_outline
from ops.sources.safe_load import load_yaml
from ops.sources.world_labels import finite, rigid
from ops.video import VideoInfo

KIND = "dexycb"
FPS = 30.0
SUBJECTS = (
    "20200709-subject-01", "20200813-subject-02", "20200820-subject-03", "20200903-subject-04", "20200908-subject-05",
    "20200918-subject-06", "20200928-subject-07", "20201002-subject-08", "20201015-subject-09", "20201022-subject-10",
)  # fmt: skip
HELD_OUT = (SUBJECTS[6], SUBJECTS[7], SUBJECTS[8])  # validation, test and test of split s1
YCB = (
    "", "002_master_chef_can", "003_cracker_box", "004_sugar_box", "005_tomato_soup_can", "006_mustard_bottle",
    "007_tuna_fish_can", "008_pudding_box", "009_gelatin_box", "010_potted_meat_can", "011_banana", "019_pitcher_base",
    "021_bleach_cleanser", "024_bowl", "025_mug", "035_power_drill", "036_wood_block", "037_scissors",
    "040_large_marker", "051_large_clamp", "052_extra_large_clamp", "061_foam_brick",
)  # fmt: skip
SUBJECT = re.compile(r"\d{8}-subject-\d+")
SEQUENCE = re.compile(r"\d{8}_\d{6}")
SERIAL = re.compile(r"\d{12}")
HAND = 255
LABEL = re.compile(r"labels_\d{6}\.npz")
EXAMPLE = {"sides": ("right",), "moving": False, "camera": PinholeCamera.from_fov_x(55.0, 640, 480)}
SOURCE = Source(
    kind=KIND,
    title="DexYCB: A Benchmark for Capturing Hand Grasping of Objects",
    licence="CC BY-NC 4.0",
    noncommercial=True,
    redistributable=True,
    gated=False,
    needs_mano=False,
    url="https://dex-ycb.github.io",
    how_to_get="Download all of it (119 GB) or single subjects from the project page, with calibration.tar.gz and "
    "models.tar.gz, and unpack them into one folder.",
    notes=(
        "Third-person cameras only, one hand a sequence; view names a camera by its serial number.",
        "It has no text: an instruction is made from the name of the object that is grasped.",
        "Its MANO labels (PCA) need the licensed MANO files; without them the 21 joints are read and fitted instead. Its "
        "fingertips are manopth's vertices, a few millimetres from those used here.",
        "Its left hands were fitted with the MANO_LEFT.pkl as distributed: do not correct that file's shapedirs.",
        "Do not use the official default split s0 for held-out rows: its people and objects are the same on both sides.",
    ),
)


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """The folder of every camera of every sequence, sorted. view: a camera's serial number; None = all eight."""
    if view is not None and not SERIAL.fullmatch(view):
        raise ValueError(f"DexYCB names views by a camera's serial number (12 digits), got {view!r}")
    found = (path for subject in root.iterdir() if SUBJECT.fullmatch(subject.name) for path in subject.glob("*/*"))
    return sorted(p for p in found if p.is_dir() and SERIAL.fullmatch(p.name) and view in (None, p.name))


def side_files(video: Path) -> list[Path]:
    """Calibration and object models of a sequence; labels and depth lie in the video's own folder and count with it."""
    meta = video.parent / "meta.yml"
    if not meta.is_file():
        return []
    try:
        known = _meta(meta)
    except ClipError:  # read_clip says what is wrong with it
        return [meta]
    root = video.parents[2]
    files = [meta, *_calibration(root, video.name, known), *(_mesh(root, name) for name in _names(known))]
    return sorted(path for path in files if path.is_file())


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """One sequence as one camera saw it.

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, MISSING_SIDE_FILE, MISSING_LABELS, FRAME_COUNT_MISMATCH, BAD_LABEL,
    NAN_LABEL, UNSUPPORTED_CAMERA.
    """
    root, meta = video.parents[2], _meta(video.parent / "meta.yml")
    images = _files(video, "color_%06d.jpg", meta["num_frames"], Reason.EMPTY_VIDEO)
    labels = [_label(path, k) for k, path in enumerate(_files(video, "labels_%06d.npz", len(images), Reason.MISSING_LABELS))]  # fmt: skip
    intrinsics, extrinsics, mano = _calibration(root, video.name, meta)
    camera = _camera(intrinsics, images[0])
    T_cam_world = np.tile(transforms.invert(_T_world_cam(extrinsics, video.name)), (len(images), 1, 1))
    side, end_s = meta["mano_sides"][0], len(images) / FPS
    taken = _names(meta)[meta["ycb_grasp_ind"]]
    return Clip(
        clip_id=f"{shard.source}/{video.relative_to(shard.root).as_posix()}",
        source=shard.source,
        kind=KIND,
        video=video,
        fps=FPS,
        num_frames=len(images),
        times_s=np.arange(len(images)) / FPS,
        camera=camera,
        intrinsics="given",
        split=_split(video.parents[1].name),
        image_files=tuple(images),
        T_cam_world=T_cam_world,
        **_hand(labels, side, mano, shard),
        objects=_objects(labels, meta, root),
        instructions=(Instruction(0.0, end_s, f"pick up the {taken}", side),),
        depth=_depth(video, len(images)),
        object_names=tuple(dict.fromkeys(_names(meta))),
        subject=video.parents[1].name,
        view=video.name,
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None):
    """Clips one by one; a Reject for each that cannot be read."""
    shard = ShardConfig(KIND, KIND, str(root), view=view, hand_model=hand_model and str(hand_model))
    return read_each(list_videos, read_clip, shard)


# -- files


def _meta(path: Path) -> dict:
    """meta.yml with what is needed checked; identifiers as text however the file writes them."""
    if not path.is_file():
        raise ClipError(Reason.MISSING_SIDE_FILE, f"{path.parent.name} has no meta.yml")
    meta = _yaml(path)
    needed = ("num_frames", "extrinsics", "mano_calib", "mano_sides", "ycb_ids", "ycb_grasp_ind")
    lacking = [key for key in needed if key not in meta]
    if lacking:
        raise ClipError(Reason.BAD_LABEL, f"meta.yml has no {', '.join(lacking)}")
    sides, ids, grasped = meta["mano_sides"], meta["ycb_ids"], meta["ycb_grasp_ind"]
    if len(sides) != 1 or sides[0] not in ("left", "right") or len(meta["mano_calib"]) != 1:
        raise ClipError(Reason.BAD_LABEL, f"meta.yml: a sequence has one hand, left or right, got {sides}")
    if not ids or not all(0 < i < len(YCB) for i in ids) or not 0 <= grasped < len(ids):
        raise ClipError(Reason.BAD_LABEL, f"meta.yml: ycb_ids {ids} of 1 to {len(YCB) - 1}, the {grasped}th is grasped")
    return meta | {"extrinsics": _id(meta["extrinsics"]), "mano_calib": [_id(meta["mano_calib"][0])]}


def _yaml(path: Path) -> dict:
    if not path.is_file():
        raise ClipError(
            Reason.MISSING_SIDE_FILE, f"{path.parent.name}/{path.name} is missing: unpack calibration.tar.gz"
        )
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise ClipError(Reason.BAD_LABEL, f"{path.parent.name}/{path.name} holds a {type(content).__name__}, not keys")
    return content


def _id(value: object) -> str:
    """YAML takes 20200702_151821 for a number when it is not quoted."""
    text = str(value)
    return f"{text[:8]}_{text[8:]}" if isinstance(value, int) and len(text) == 14 else text


def _calibration(root: Path, serial: str, meta: dict) -> tuple[Path, Path, Path]:
    """Intrinsics, extrinsics and hand shape."""
    folder = root / "calibration"
    return (
        folder / "intrinsics" / f"{serial}_640x480.yml",
        folder / f"extrinsics_{meta['extrinsics']}" / "extrinsics.yml",
        folder / f"mano_{meta['mano_calib'][0]}" / "mano.yml",
    )


def _files(video: Path, pattern: str, count: int, reason: Reason) -> list[Path]:
    """Numbered files 0 to count - 1 of a kind. Raises ClipError reason if there is none, FRAME_COUNT_MISMATCH."""
    stem, suffix = pattern.split("%06d")
    found = sorted(video.glob(f"{stem}*{suffix}"))
    if not found:
        raise ClipError(reason, f"{video.name} has no {pattern}")
    if [path.name for path in found] != [pattern % k for k in range(count)]:
        lacking = next((k for k in range(count) if not (video / (pattern % k)).is_file()), count)
        detail = f"{len(found)} files {pattern} for {count} frames, the first that is missing or too many is {lacking}"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"{detail}: unpack the archive again")
    return found


def _label(path: Path, frame: int) -> dict[str, np.ndarray]:
    """One frame's labels. The segmentation is reduced to a box a class."""
    try:
        with np.load(path, allow_pickle=False) as file:
            label = {key: file[key] for key in ("pose_y", "pose_m", "joint_3d", "joint_2d")}
            seg = file["seg"]
    except Exception as error:  # a damaged zip may raise anything
        raise ClipError(Reason.BAD_LABEL, f"{path.name} does not read: {error!r}", frame) from error
    label["pose_m"] = finite(label["pose_m"], (51,), f"{path.name} pose_m", frame)
    label["joint_3d"] = finite(label["joint_3d"], (21, 3), f"{path.name} joint_3d", frame)
    label["joint_2d"] = finite(label["joint_2d"], (21, 2), f"{path.name} joint_2d", frame)
    label["pose_y"] = finite(label["pose_y"], (len(label["pose_y"]), 3, 4), f"{path.name} pose_y", frame)
    return label | {"seg": seg}


def _camera(path: Path, image: Path) -> PinholeCamera:
    numbers = _yaml(path).get("color", {})
    try:
        fx, fy, cx, cy = (float(numbers[key]) for key in ("fx", "fy", "ppx", "ppy"))
        with Image.open(image) as opened:
            size = opened.size
        camera = PinholeCamera.from_opencv(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), 640, 480)
    except (KeyError, TypeError, ValueError) as error:
        raise ClipError(Reason.BAD_LABEL, f"{path.name} needs color: fx, fy, ppx, ppy ({error!r})") from error
    except OSError as error:
        raise ClipError(Reason.CORRUPT_VIDEO, f"{image.name} is no readable image: {error}", 0) from error
    if size != (640, 480):
        raise ClipError(Reason.UNSUPPORTED_CAMERA, f"images are {size[0]} x {size[1]}, the calibration is of 640 x 480")
    return camera


def _T_world_cam(path: Path, serial: str) -> np.ndarray:  # noqa: N802 - the name of the transform
    of_serial = {str(key): values for key, values in _yaml(path).get("extrinsics", {}).items()}
    if serial not in of_serial:
        raise ClipError(Reason.BAD_LABEL, f"{path.parent.name} has no extrinsics of camera {serial}")
    top = finite(of_serial[serial], (3, 4), f"extrinsics of {serial}")
    return rigid(np.concatenate([top, [[0.0, 0.0, 0.0, 1.0]]])[None], f"extrinsics of {serial}")[0]


def _depth(video: Path, count: int) -> ImageDepth:
    files = [video / f"aligned_depth_to_color_{k:06d}.png" for k in range(count)]
    return ImageDepth(tuple(path if path.is_file() else None for path in files), units_per_m=1000.0)


def _split(subject: str) -> str:
    """Of the official split s1; "" for people it does not know."""
    return ("test" if subject in HELD_OUT else "train") if subject in SUBJECTS else ""


# -- hand


def _hand(labels: list[dict], side: str, mano: Path, shard: ShardConfig) -> dict[str, object]:
    """Fields of the clip: the MANO track where the MANO files are given, else joints; and the published pixels."""
    px = np.stack([label["joint_2d"] for label in labels]) + 0.5
    given = np.stack([(label["joint_2d"] != -1).any() for label in labels])
    fields: dict[str, object] = {"published_px": {side: np.where(given[:, None, None], px, np.nan)}}
    if shard.hand_model is None:
        joints = np.stack([label["joint_3d"] for label in labels])
        valid = (joints != -1).any(axis=(1, 2))
        return fields | {"joints": {side: JointTrack(np.where(valid[:, None, None], joints, np.nan), valid)}}
    folder = Path(shard.hand_model)
    return fields | {"hands": {side: _mano_track(labels, side, mano, folder)}, "hand_model": folder}


def _mano_track(labels: list[dict], side: str, mano: Path, folder: Path) -> HandTrack:
    beta = finite(_yaml(mano).get("betas"), (10,), f"{mano.parent.name}/mano.yml betas", side=side)
    pose = np.stack([label["pose_m"] for label in labels])
    valid = (pose != 0).any(axis=1)
    turn, coefficients, transl = np.split(pose, [3, 48], axis=1)
    model = load_models(folder)[side]
    theta, tau = flat_theta_from_pca(model, coefficients), tau_from_transl(model, transl, beta)
    theta, r, tau = (np.where(valid[:, None], values, 0.0) for values in (theta, turn, tau))
    return HandTrack(theta, r, tau, beta, valid)


# -- objects


def _names(meta: dict) -> list[str]:
    """Of the sequence's objects in words, in its order: "021_bleach_cleanser" -> "bleach cleanser"."""
    return [YCB[i][4:].replace("_", " ") for i in meta["ycb_ids"]]


def _mesh(root: Path, name: str) -> Path:
    folder = next(folder for folder in YCB if folder[4:].replace("_", " ") == name)
    return root / "models" / folder / "textured_simple.obj"


def _objects(labels: list[dict], meta: dict, root: Path) -> tuple[ObjectTrack, ...]:
    """Boxes of what is seen of each object, from the segmentation; poses where there are any (zeros = none)."""
    names = _names(meta)
    for frame, label in enumerate(labels):
        if len(label["pose_y"]) != len(names):
            raise ClipError(Reason.BAD_LABEL, f"{len(label['pose_y'])} object poses, meta.yml has {len(names)}", frame)
    tracks = []
    for k, name in enumerate(names):
        T_cam_obj = np.full((len(labels), 4, 4), np.nan)
        top = np.stack([label["pose_y"][k] for label in labels])
        posed = (top != 0).any(axis=(1, 2))
        bottom = np.broadcast_to([[0.0, 0.0, 0.0, 1.0]], (posed.sum(), 1, 4))
        T_cam_obj[posed] = rigid(np.concatenate([top[posed], bottom], axis=1), f"pose of {name}")
        boxes_px = np.stack([_box(label["seg"] == meta["ycb_ids"][k]) for label in labels])
        visible = np.isfinite(boxes_px).all(axis=1)
        centre = _centre_m(_mesh(root, name))
        tracks.append(ObjectTrack(name, boxes_px, visible, transforms.apply(T_cam_obj, centre), T_cam_obj))
    return tuple(tracks)


def _box(mask: np.ndarray) -> np.ndarray:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.full(4, np.nan)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def _centre_m(mesh: Path) -> np.ndarray:
    """Middle of the model, in its own frame; its origin where the models are not unpacked."""
    if not mesh.is_file():
        return np.zeros(3)
    outline = read_outline(mesh)
    return (outline.min(axis=0) + outline.max(axis=0)) / 2


# -- example


def write_example(root: Path, truth: Truth, serial: str = "836212060125", master: str = "836212060125") -> None:
    """The layout above in miniature: one camera of one sequence; call again with the truth seen by another camera.

    The digit of truth.subject is the subject; a name that is no date and time takes one made from it. Objects outside
    YCB become the bleach cleanser. The world is the master's frame: truth.T_cam_world is camera-to-master's inverse.

    Raises ValueError for a moving camera, two hands, or images that are not 640 x 480.
    """
    (side,) = truth.hands if len(truth.hands) == 1 else _refuse(f"one hand a sequence, got {sorted(truth.hands)}")
    if np.abs(truth.T_cam_world - truth.T_cam_world[0]).max() > 1e-9 or truth.rgb.shape[1:3] != (480, 640):
        _refuse(f"fixed cameras of 640 x 480, got {truth.rgb.shape[2]} x {truth.rgb.shape[1]}, perhaps moving")
    subject = SUBJECTS[(int(re.sub(r"[^0-9]", "", truth.subject) or 1) - 1) % len(SUBJECTS)]
    digits = "".join(str(ord(c) % 10) for c in truth.name)[-6:]
    name = truth.name if SEQUENCE.fullmatch(truth.name) else f"{subject[:8]}_{digits:0>6}"
    sequence = root / subject / name
    folders = [thing.name.replace(" ", "_") for thing in truth.objects]
    ids = [next((i for i, ycb in enumerate(YCB) if i and ycb[4:] == folder), 12) for folder in folders]
    _write_meta(sequence / "meta.yml", name, side, ids, truth, serial)
    _write_calibration(root, name, truth, side, serial, master)
    for i in ids:
        _write_mesh(root / "models" / YCB[i] / "textured_simple.obj")
    for frame in range(truth.num_frames):
        _write_frame(sequence / serial, frame, truth, side, ids)


def _refuse(what: str):
    raise ValueError(f"DexYCB has {what}")


def _write_meta(path: Path, name: str, side: str, ids: list[int], truth: Truth, serial: str) -> None:
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    serials = sorted({serial, *(folder.name for folder in path.parent.iterdir() if folder.is_dir())})
    meta = {
        "serials": serials, "num_frames": truth.num_frames, "extrinsics": name, "mano_calib": [f"{name}_{side}"],
        "mano_sides": [side], "ycb_ids": ids, "ycb_grasp_ind": 0,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(meta), encoding="ascii")


def _write_calibration(root: Path, name: str, truth: Truth, side: str, serial: str, master: str) -> None:
    import yaml

    camera = truth.camera
    color = {"fx": camera.fx, "fy": camera.fy, "ppx": camera.cx - 0.5, "ppy": camera.cy - 0.5}
    intrinsics, extrinsics, mano = _calibration(root, serial, {"extrinsics": name, "mano_calib": [f"{name}_{side}"]})
    known = (
        load_yaml(extrinsics)["extrinsics"] if extrinsics.is_file() else {"apriltag": np.eye(4)[:3].ravel().tolist()}
    )
    known[serial] = transforms.invert(truth.T_cam_world[0])[:3].ravel().tolist()
    contents = {
        intrinsics: yaml.safe_dump({"color": color, "depth": color}),
        # the official files hold tuples, which a safe loader does not know
        extrinsics: yaml.dump({"extrinsics": known, "master": master, "size": (640, 480)}),
        mano: yaml.safe_dump({"betas": truth.hands[side].beta.tolist()}),
    }
    for path, text in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


def _write_mesh(path: Path) -> None:
    """The example's cube."""
    from ops.sources.example import box_corners_m

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in box_corners_m()), encoding="ascii")


def _write_frame(folder: Path, frame: int, truth: Truth, side: str, ids: list[int]) -> None:
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    bgr = np.ascontiguousarray(truth.rgb[frame][..., ::-1])
    cv2.imwrite(str(folder / f"color_{frame:06d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
    depth_mm = np.round(np.nan_to_num(truth.depth_m[frame]) * 1000).astype(np.uint16)
    cv2.imwrite(str(folder / f"aligned_depth_to_color_{frame:06d}.png"), depth_mm)
    hand = truth.hands[side]
    pose, joints, px = np.zeros(51), np.full((21, 3), -1.0), np.full((21, 2), -1.0)
    if hand.valid[frame]:
        model = truth.models[side]
        coefficients = pca_from_flat_theta(model, hand.theta[frame : frame + 1])[0]
        transl = transl_from_tau(model, hand.tau[frame : frame + 1], hand.beta)[0]
        pose, joints = np.concatenate([hand.r[frame], coefficients, transl]), truth.joints_cam[side][frame]
        px = truth.camera.project(joints) - 0.5
    np.savez_compressed(
        folder / f"labels_{frame:06d}.npz",
        seg=_segments(truth, frame, ids),
        pose_y=np.stack([thing.T_cam_obj[frame, :3] for thing in truth.objects]).astype(np.float32),
        pose_m=pose[None].astype(np.float32),
        joint_3d=joints[None].astype(np.float32),
        joint_2d=px[None].astype(np.float32),
    )


def _segments(truth: Truth, frame: int, ids: list[int]) -> np.ndarray:
    """Objects as their boxes; the reader reduces them to boxes again."""
    seg = np.zeros(truth.rgb.shape[1:3], np.uint8)
    for i, thing in zip(ids, truth.objects, strict=True):
        if thing.visible[frame]:
            x0, y0, x1, y1 = np.round(thing.boxes_px[frame]).astype(int).clip(0)
            seg[y0:y1, x0:x1] = i
    return seg
