"""OakInk2 (Zhan et al. 2024): two hands in complex tasks, three fixed cameras and an ego one, 30 fps, mocap at 120 Hz.

    data/<seq_token>/<camera_serial>/<frame_id:06d>.png      or .jpg; frame_id counts MOCAP frames, images every 4th
    anno_preview/<seq_token>.pkl
        cam_def {serial: name}, cam_selection, frame_id_list (images), mocap_frame_id_list, obj_list
        cam_intr {name: {frame_id: 3 x 3}}, cam_extr {name: {frame_id: 4 x 4 WORLD-TO-CAMERA}}, metres
        obj_transf {object: {frame_id: 4 x 4 object-to-world}}
        raw_mano {frame_id: {rh__pose_coeffs (1, 16, 4) quaternions w x y z, rh__tsl (1, 3), rh__betas (1, 10), lh__..}}
    {object_repair,object_raw,object_preview}/obj_desc.json  {id: {obj_id, obj_name}}; align_ds/<id>/ one .obj or .ply
    object_affordance/part_desc.json                         the same of object parts
    program/{program_info,desc_info}/<seq_token>.json        "((l_start, l_end), (r_start, r_end))": {primitive, ..},
                                                             {seg_desc}; mocap frames, half-open; either may be None
    program/task_target.json                                 {seq_key: the complex task}; seq_key has / for ++

World: the mocap's. MANO by manotorch: quaternions, flat mean, center_idx 0, so tsl IS the wrist. No depth. The body
(raw_smplx) is not used. Splits: none of its own; those of its authors' OakInk2-TaMF (asset/split) where they lie in
`split/`.
"""

import ast
import json
import pickle
import pickletools
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.conventions import quat_from_rotvec, rotvec_from_quat
from ops.hands.mano import load_models
from ops.rejects import ClipError, Reason
from ops.sources.base import Clip, HandTrack, Instruction, ObjectTrack, Source, read_each
from ops.sources.example import Truth, box_corners_m
from ops.sources.images import probe_images
from ops.sources.meshes import names_without_boxes, object_track, read_outline
from ops.sources.safe_load import load_pickle_lazily
from ops.sources.world_labels import finite, hand_in_camera, rigid
from ops.video import VideoInfo

KIND = "oakink2"
MOCAP_FPS = 120.0
EGO = "egocentric"
VIEWS = ("allocentric_top", "allocentric_left", "allocentric_right", EGO)
PREFIX = {"left": "lh", "right": "rh"}
OBJECT_FOLDERS = ("object_repair", "object_raw", "object_preview")
UNKNOWN_PRIMITIVE = "?(unk)"
HEAD_BYTES = 1 << 16  # of an annotation, in which its first entry, the cameras' names, is looked for
SOURCE = Source(
    kind=KIND,
    title="OakInk2",
    licence="CC BY-NC-SA 4.0 (see the dataset card)",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=True,
    url="https://oakink.net/v2",
    how_to_get="Accept the terms of Hugging Face dataset kelvin34501/OakInk-v2, fetch data, anno_preview, object_repair "
    "(or object_raw), object_affordance and program, and unpack them into one folder. For its authors' split "
    "copy asset/split of OakInk2-TaMF there as split/.",
    notes=(
        "Annotation files fetched before 2024-12 may be Git LFS pointers: fetch them again.",
        "MANO was fitted to SMPL-X hands: some millimetres of error are its own.",
        "Sequences are not linked to named subjects.",
    ),
)


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """The image folder of one camera of every sequence, sorted. view: egocentric (default) or allocentric_*.

    A sequence of which that folder is not found is listed by its own folder, to be rejected with the reason.
    """
    if view not in (None, *VIEWS):
        raise ValueError(f"OakInk2 has views {', '.join(VIEWS)}, got {view!r}")
    sequences = sorted(path for path in (root / "data").glob("*++*") if path.is_dir())
    return sorted(_camera_folder(root, seq, view or EGO) for seq in sequences)


def side_files(video: Path) -> list[Path]:
    """Annotation, program, task, names and meshes of the sequence.

    Meshes: of the objects that the program names; only the annotation, too large to read here, names those nobody uses.
    """
    seq = video if "++" in video.name else video.parent
    root = seq.parents[1]
    files = [_annotation_file(root, seq.name), *_program_files(root, seq.name).values(), *_name_files(root)]
    meshes = [_mesh_file(root, key) for key in _program_objects(_program_files(root, seq.name)["program_info"])]
    files += [*_split_files(root), *(mesh for mesh in meshes if mesh)]
    return sorted(path for path in files if path.is_file())


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """One sequence as one camera saw it.

    Raises ClipError: MISSING_HAND_MODEL, MISSING_LABELS, EMPTY_VIDEO, FRAME_COUNT_MISMATCH, BAD_LABEL, NAN_LABEL,
    UNSUPPORTED_CAMERA, CORRUPT_VIDEO.
    """
    if shard.hand_model is None:
        raise ClipError(
            Reason.MISSING_HAND_MODEL,
            "OakInk2's betas are MANO's: name the folder of MANO_LEFT.pkl and MANO_RIGHT.pkl as hand_model",
        )
    load_models(Path(shard.hand_model))  # it must be there before hands that belong to it go on
    root, view = Path(shard.root), shard.view or EGO
    if "++" in video.name:
        load_pickle_lazily(_annotation_file(root, video.name))  # says what is wrong with it, if it is
        detail = f"{video.name}: no folder has the images of camera {view!r}: unpack its data archive"
        raise ClipError(Reason.EMPTY_VIDEO, detail)
    labels = _labels(root, video.parent.name, view)
    images = _images(video, labels.frame_ids)
    size = probe_images(images, MOCAP_FPS / 4)
    camera = _camera(labels.K, size.width, size.height)
    times_s = (labels.frame_ids - labels.frame_ids[0]) / MOCAP_FPS
    objects = _objects(root, labels, camera)
    return Clip(
        clip_id=f"{shard.source}/{video.parent.name}/{view}",
        source=shard.source,
        kind=KIND,
        video=video,
        fps=float((len(images) - 1) / times_s[-1]) if len(images) > 1 else MOCAP_FPS / 4,
        num_frames=len(images),
        times_s=times_s,
        camera=camera,
        intrinsics="given",
        split=_split(root, video.parent.name),
        image_files=images,
        T_cam_world=labels.T_cam_world,
        hands=labels.hands,
        hand_model=Path(shard.hand_model),
        objects=objects,
        object_names=names_without_boxes(objects),
        instructions=_instructions(root, video.parent.name, labels.frame_ids),
        view=view,
        task=_task(_program_files(root, video.parent.name)["task_target"], video.parent.name),
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None):
    """Clips one by one; a Reject for each that cannot be read."""
    shard = ShardConfig(KIND, KIND, str(root), view=view, hand_model=hand_model and str(hand_model))
    return read_each(list_videos, read_clip, shard)


# -- files


def _annotation_file(root: Path, token: str) -> Path:
    folder = "anno_preview" if (root / "anno_preview").is_dir() else "anno"
    return root / folder / f"{token}.pkl"


def _program_files(root: Path, token: str) -> dict[str, Path]:
    """The program archive may have been unpacked into a folder of its own name."""
    nested = root / "program" / "program"
    program = nested if nested.is_dir() else root / "program"
    files = {name: program / name / f"{token}.json" for name in ("program_info", "desc_info")}
    return files | {"task_target": program / "task_target.json"}


def _name_files(root: Path) -> list[Path]:
    folders = [root / "object_affordance" / "part_desc.json"]
    return [*folders, *(root / folder / "obj_desc.json" for folder in reversed(OBJECT_FOLDERS))]


def _split_files(root: Path) -> list[Path]:
    return [root / "split" / f"{name}.txt" for name in ("train", "val", "test")]


def _camera_folder(root: Path, seq: Path, view: str) -> Path:
    """Image folder of a view; the sequence's own folder if its annotation does not tell, or there is none."""
    file = _annotation_file(root, seq.name)
    names = _camera_names(file, file.stat().st_mtime_ns) if file.is_file() else {}
    serial = next((serial for serial, name in names.items() if name == view), None)
    return seq / serial if serial and (seq / serial).is_dir() else seq


@lru_cache(maxsize=4096)
def _camera_names(path: Path, _version: int) -> dict[str, str]:
    """cam_def of an annotation, from its first bytes: listing 627 sequences must not load 627 large pickles."""
    texts: list[str] = []
    try:
        with path.open("rb") as file:
            for code, value, at in pickletools.genops(file):
                if at is not None and at > HEAD_BYTES:
                    break
                if code.name in ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE") and (texts or value == "cam_def"):
                    texts.append(value)
                elif code.name in ("SETITEMS", "SETITEM") and len(texts) > 2:
                    return dict(zip(texts[1::2], texts[2::2], strict=False))
                elif texts and code.name not in _FILLING:
                    break
    except (ValueError, EOFError, UnicodeDecodeError, struct.error):  # damaged: read_clip tells
        return {}
    try:
        content = load_pickle_lazily(path)
    except ClipError:
        return {}
    return content.get("cam_def", {}) if isinstance(content, dict) else {}


_FILLING = ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "EMPTY_DICT", "MARK", "FRAME", "SETITEM")


def _images(video: Path, frame_ids: np.ndarray) -> tuple[Path, ...]:
    """Images of the listed frames; others in the folder have no labels and are left out."""
    there = {path.stem: path for path in video.iterdir()} if video.is_dir() else {}
    names = [f"{frame_id:06d}" for frame_id in frame_ids]
    lacking = [name for name in names if name not in there]
    if lacking:
        raise ClipError(
            Reason.FRAME_COUNT_MISMATCH,
            f"{video.name} has {len(names) - len(lacking)} of the {len(names)} images that frame_id_list names; the "
            f"first missing is {lacking[0]}: unpack the archive again",
            names.index(lacking[0]),
        )
    return tuple(there[name] for name in names)


# -- labels


@dataclass(frozen=True, eq=False)
class _Labels:
    """What an annotation says of one camera at the image frames."""

    frame_ids: np.ndarray
    K: np.ndarray
    T_cam_world: np.ndarray
    hands: dict[str, HandTrack]
    T_cam_obj: dict[str, np.ndarray]


def _labels(root: Path, token: str, view: str) -> _Labels:
    path = _annotation_file(root, token)
    if not path.is_file():
        raise ClipError(Reason.MISSING_LABELS, f"{path.parent.name}/{path.name} is missing")
    return _read_labels(path, path.stat().st_mtime_ns, view)


@lru_cache(maxsize=4)
def _read_labels(path: Path, _version: int, view: str) -> _Labels:
    anno = load_pickle_lazily(path)
    try:
        ids = np.array([int(i) for i in anno["frame_id_list"]])
        view = view if view in anno["cam_intr"] else next(s for s, name in anno["cam_def"].items() if name == view)
        K = np.stack([finite(anno["cam_intr"][view][i], (3, 3), "cam_intr", k) for k, i in enumerate(ids)])
        T = np.stack([finite(anno["cam_extr"][view][i], (4, 4), "cam_extr", k) for k, i in enumerate(ids)])
        T_cam_world = rigid(T, "cam_extr")
        hands = {side: _hand(anno["raw_mano"], ids, side, T_cam_world) for side in PREFIX}
        things = {name: _poses(anno["obj_transf"][name], ids, name, T_cam_world) for name in anno["obj_list"]}
    except (KeyError, TypeError, StopIteration, ValueError) as error:
        raise ClipError(
            Reason.MISSING_LABELS, f"{path.name} lacks {error!r}; an annotation has cam_def, frame_id_list, cam_intr, "
            "cam_extr, obj_list, obj_transf and raw_mano",
        ) from error  # fmt: skip
    if len(ids) == 0 or (np.diff(ids) <= 0).any():
        raise ClipError(Reason.BAD_LABEL, f"{path.name}: frame_id_list does not ascend")
    return _Labels(ids, K, T_cam_world, {s: h for s, h in hands.items() if h.valid.any()}, things)


def _hand(raw_mano: dict, ids: np.ndarray, side: str, T_cam_world: np.ndarray) -> HandTrack:
    """One hand at the image frames; a frame without it is not valid."""
    name = PREFIX[side]
    labels = [raw_mano.get(int(i)) or {} for i in ids]
    valid = np.array([label.get(f"{name}__pose_coeffs") is not None for label in labels])
    quats, wrist, betas = np.zeros((len(ids), 16, 4)), np.zeros((len(ids), 3)), np.zeros((len(ids), 10))
    quats[..., 0] = 1.0
    for k in np.flatnonzero(valid):
        quats[k] = finite(labels[k][f"{name}__pose_coeffs"], (16, 4), f"{name}__pose_coeffs", int(k), side)
        wrist[k] = finite(labels[k][f"{name}__tsl"], (3,), f"{name}__tsl", int(k), side)
        betas[k] = finite(labels[k][f"{name}__betas"], (10,), f"{name}__betas", int(k), side)
    length = np.linalg.norm(quats, axis=-1)
    if (np.abs(length - 1) > 0.01).any():
        frame = int(np.argmax((np.abs(length - 1) > 0.01).any(axis=1)))
        raise ClipError(
            Reason.BAD_LABEL, f"{name}__pose_coeffs: a quaternion of length {length[frame].min():.3f}", frame, side
        )
    rotvecs = rotvec_from_quat(quats)
    theta, R_world_wrist = rotvecs[:, 1:].reshape(-1, 45), transforms.rotvec_to_rotmat(rotvecs[:, 0])
    beta = betas[valid].mean(axis=0) if valid.any() else np.zeros(10)
    return hand_in_camera(T_cam_world, theta, R_world_wrist, wrist, beta, valid)


def _poses(poses: dict, ids: np.ndarray, name: str, T_cam_world: np.ndarray) -> np.ndarray:
    """Object-to-camera (frames, 4, 4), NaN where the object has no pose."""
    T_cam_obj = np.full((len(ids), 4, 4), np.nan)
    known = [k for k, i in enumerate(ids) if poses.get(int(i)) is not None]
    if known:
        where = f"obj_transf of {name}"
        T_world_obj = np.stack([finite(poses[int(ids[k])], (4, 4), where, k) for k in known])
        T_cam_obj[known] = T_cam_world[known] @ rigid(T_world_obj, where)
    return T_cam_obj


def _camera(K: np.ndarray, width: int, height: int) -> PinholeCamera:
    if np.abs(K - K[0]).max() > 0.5:
        raise ClipError(
            Reason.UNSUPPORTED_CAMERA, f"intrinsics change by up to {np.abs(K - K[0]).max():.1f} px within the sequence"
        )
    camera = PinholeCamera.from_opencv(K.mean(axis=0), width, height)
    if not 0.25 * width < camera.cx < 0.75 * width or not 0.25 * height < camera.cy < 0.75 * height:
        raise ClipError(
            Reason.UNSUPPORTED_CAMERA,
            f"images are {width} x {height}, the principal point is {camera.cx:.0f}, {camera.cy:.0f}: were they resized?",
        )
    return camera


# -- objects and text


def _objects(root: Path, labels: _Labels, camera: PinholeCamera) -> tuple[ObjectTrack, ...]:
    names: dict[str, str] = {}
    for path in _name_files(root):
        for key, entry in (_json(path) if path.is_file() else {}).items():
            names[key] = entry["obj_name"] if isinstance(entry, dict) and entry.get("obj_name") else key
    tracks = []
    for key, T_cam_obj in labels.T_cam_obj.items():
        mesh = _mesh_file(root, key)
        tracks.append(object_track(names.get(key, key), T_cam_obj, camera, mesh and read_outline(mesh)))
    return tuple(tracks)


def _mesh_file(root: Path, key: str) -> Path | None:
    folders = [root / folder / "align_ds" / key for folder in OBJECT_FOLDERS]
    folders.append(root / "object_affordance" / "affordance_part" / key)
    files = [path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in (".obj", ".ply")]
    return files[0] if files else None


def _instructions(root: Path, token: str, ids: np.ndarray) -> tuple[Instruction, ...]:
    """Primitives with their sentences, by hand where both hands' intervals differ; else the complex task."""
    files = _program_files(root, token)
    programs, sentences = _intervals(files["program_info"]), _intervals(files["desc_info"])
    made = []
    for key in programs | sentences:
        text = sentences.get(key, {}).get("seg_desc") or _primitive(programs.get(key, {}))
        for side, interval in [(None, key[0])] if key[0] == key[1] else zip(("left", "right"), key, strict=True):
            first, last = (0, 0) if interval is None else (max(interval[0], ids[0]), min(interval[1], ids[-1] + 4))
            if text and first < last:
                start_s, end_s = float(first - ids[0]) / MOCAP_FPS, float(last - ids[0]) / MOCAP_FPS
                made.append(Instruction(start_s, end_s, text.strip(), side))
    made.sort(key=lambda made: (made.start_s, made.end_s, made.side or ""))
    task = _task(files["task_target"], token)
    end_s = float(ids[-1] - ids[0] + 4) / MOCAP_FPS
    return tuple(made) or ((Instruction(0.0, end_s, task),) if task else ())


def _task(path: Path, token: str) -> str:
    """The complex task that the primitives are steps of."""
    target = _json(path).get(token.replace("++", "/")) if path.is_file() else None
    return target.strip() if isinstance(target, str) else ""


def _program_objects(path: Path) -> set[str]:
    try:
        entries = _json(path).values() if path.is_file() else ()
    except ClipError:  # read_clip tells
        return set()
    return {str(key) for entry in entries if isinstance(entry, dict) for key in entry.get("obj_list") or ()}


def _primitive(program: dict) -> str:
    name = program.get("primitive", "")
    return "" if name == UNKNOWN_PRIMITIVE else name.replace("_", " ")


def _intervals(path: Path) -> dict[tuple, dict]:
    """Entries by (left, right) intervals in mocap frames; the keys are Python tuples as text."""
    entries = {}
    for key, entry in (_json(path) if path.is_file() else {}).items():
        try:
            left, right = ast.literal_eval(key)
            pair = tuple(None if side is None else (int(side[0]), int(side[1])) for side in (left, right))
        except (ValueError, SyntaxError, TypeError, IndexError) as error:
            raise ClipError(Reason.BAD_LABEL, f"{path.parent.name}: {key!r} is no pair of intervals") from error
        if pair == (None, None) or any(side is not None and side[0] > side[1] for side in pair):
            raise ClipError(Reason.BAD_LABEL, f"{path.parent.name}: {key!r} is no pair of intervals")
        entries[pair] = entry if isinstance(entry, dict) else {}
    return entries


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ClipError(Reason.BAD_LABEL, f"{path.name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ClipError(Reason.BAD_LABEL, f"{path.name} holds a {type(content).__name__}, needs an object")
    return content


def _split(root: Path, token: str) -> str:
    for path in _split_files(root):
        if path.is_file() and token.replace("++", "/") in path.read_text(encoding="utf-8").split():
            return "train" if path.stem == "train" else "test"
    return ""


# -- example

SERIALS = {"104422071025": VIEWS[0], "104122064161": VIEWS[1], "104122063678": VIEWS[2], "104422070969": EGO}


def write_example(root: Path, truth: Truth, views: dict[str, Truth] | None = None) -> None:
    """The layout above in miniature. views: the same scene through other cameras, by name (`seen_by`).

    Mocap frames start at 1208 (nothing may take them for image numbers) and go on at 120 Hz; the hands of those
    between images are the ones of the image before.
    """
    import torch

    token = f"scene_01__A001++seq__{truth.name.encode().hex():0<20.20}__2023-04-15-11-27-51"
    seen = {EGO: truth} | (views or {})
    ids = [1208 + 4 * k for k in range(truth.num_frames)]
    mocap = range(ids[0], ids[-1] + 4)
    for serial, name in SERIALS.items():
        if name in seen:
            _write_images(root / "data" / token / serial, seen[name], ids)
    T_world = transforms.invert(truth.T_cam_world)
    keys = {f"O02@{number:04d}@00001": thing for number, thing in enumerate(truth.objects, 1)}
    image_of = {i: min((i - ids[0]) // 4, truth.num_frames - 1) for i in mocap}
    anno = {
        "cam_def": SERIALS,
        "cam_selection": list(VIEWS),
        "frame_id_list": ids,
        "cam_intr": {name: {i: _opencv(seen[name].camera) for i in ids} for name in seen},
        "cam_extr": {name: {i: seen[name].T_cam_world[k] for k, i in enumerate(ids)} for name in seen},
        "mocap_frame_id_list": list(mocap),
        "obj_list": list(keys),
        "obj_transf": {key: {i: T_world[k] @ thing.T_cam_obj[k] for i, k in image_of.items()} for key, thing in keys.items()},
        "raw_smplx": {i: {"body_shape": torch.zeros(1, 300)} for i in mocap},
        "raw_mano": {i: _raw_mano(truth, T_world[k], k) for i, k in image_of.items()},
    }  # fmt: skip
    (root / "anno_preview").mkdir(parents=True, exist_ok=True)
    with (root / "anno_preview" / f"{token}.pkl").open("wb") as file:
        pickle.dump(anno, file)
    _write_objects(root, keys)
    _write_program(root, token, truth, ids[0], list(keys))


def _opencv(camera: PinholeCamera) -> np.ndarray:
    return camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]


def _write_images(folder: Path, truth: Truth, ids: list[int]) -> None:
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    for frame_id, rgb in zip(ids, truth.rgb, strict=True):
        cv2.imwrite(str(folder / f"{frame_id:06d}.png"), np.ascontiguousarray(rgb[..., ::-1]))


def _raw_mano(truth: Truth, T_world_cam: np.ndarray, frame: int) -> dict:
    import torch

    label = {}
    for side, hand in truth.hands.items():
        if hand.valid[frame]:
            R_world_wrist = T_world_cam[:3, :3] @ transforms.rotvec_to_rotmat(hand.r[frame])
            rotvecs = np.append(transforms.rotmat_to_rotvec(R_world_wrist), hand.theta[frame]).reshape(16, 3)
            quats = quat_from_rotvec(rotvecs)
            wrist = transforms.apply(T_world_cam, hand.tau[frame])
            values = {"pose_coeffs": quats, "tsl": wrist, "betas": hand.beta}
            label |= {f"{PREFIX[side]}__{key}": torch.tensor(value, dtype=torch.float32)[None] for key, value in values.items()}  # fmt: skip
    return label


def _write_objects(root: Path, keys: dict[str, ObjectTrack]) -> None:
    desc = root / "object_repair" / "obj_desc.json"
    known = json.loads(desc.read_text(encoding="utf-8")) if desc.is_file() else {}
    for key, thing in keys.items():
        known[key] = {"obj_id": key, "obj_name": thing.name}
        mesh = root / "object_repair" / "align_ds" / key / "model.obj"
        mesh.parent.mkdir(parents=True, exist_ok=True)
        mesh.write_text("".join(f"v {x} {y} {z}\n" for x, y, z in box_corners_m()), encoding="ascii")
    desc.write_text(json.dumps(known), encoding="utf-8")


def _write_program(root: Path, token: str, truth: Truth, first: int, objects: list[str]) -> None:
    programs, sentences = {}, {}
    for said in truth.instructions:
        interval = (first + round(said.start_s * MOCAP_FPS), first + round(said.end_s * MOCAP_FPS))
        key = str((None if said.side == "right" else interval, None if said.side == "left" else interval))
        programs[key] = {"primitive": "pick_up", "obj_list": objects, "interaction_mode": "rh_main"}
        sentences[key] = {"seg_desc": said.text}
    files = _program_files(root, token)
    targets = json.loads(files["task_target"].read_text("utf-8")) if files["task_target"].is_file() else {}
    targets[token.replace("++", "/")] = "; ".join(said.text for said in truth.instructions)
    for name, content in {"program_info": programs, "desc_info": sentences, "task_target": targets}.items():
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(json.dumps(content), encoding="utf-8")
