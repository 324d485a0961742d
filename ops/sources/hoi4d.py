"""HOI4D (Liu et al. 2022): a head-mounted RGB-D camera, hands as MANO, object parts; 300 frames at 15 fps.

    <seq> = ZY2021080000{1-4}/H*/C*/N*/S*/s*/T*     camera, person, category, instance, room, layout, task
    HOI4D_release/<seq>/align_rgb/image.mp4, align_depth/depth_video.avi   depth: 16-bit FFV1, mm, seen by the RGB camera
    HOI4D_annotations/<seq>/objpose/<frame>.json    parts: centre m, Euler XYZ rad, dimensions m; camera frame
                            action/color.json       events, in seconds of `duration`
                            3Dseg/output.log        4 x 4 a frame, CAMERA-TO-WORLD as stored (Open3D inverts on reading)
    camera_params/ZY*/intrin.npy                    (3, 3) of 1920 x 1080
    handpose/refinehandpose_{right,left}/<seq>/<frame>.pickle   poseCoeff (48), beta (10), trans (3) m, kps2D (21, 2)

MANO: manopth, axis-angle, flat mean, camera frame, wrist = J_wrist(beta) + trans (trans alone is 0.1 m off). A frame
without a pickle has no hand; a sequence without any (many) comes without hands. Frames count by FILE name: the frameId
inside objpose files differs. Event times run on a clock of `duration` (some of 10 s) over the whole video.
"""

import ast
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.hands.conventions import joints_of_convention
from ops.hands.mano import from_smplx, load_models
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import SIDES, Clip, HandTrack, Instruction, ObjectTrack, Source, read_each
from ops.sources.depth import Depth, ImageDepth, VideoDepth
from ops.sources.example import Truth
from ops.sources.grey_video import grey_video, write_grey_video
from ops.sources.meshes import boxes
from ops.sources.safe_load import load_npy_object, load_pickle
from ops.sources.world_labels import finite, rigid
from ops.video import VideoInfo, probe, write_video

KIND = "hoi4d"
FPS = 15.0
NUM_FRAMES = 300
SIZE = (1920, 1080)  # of the intrinsics and of kps2D
CLOCKS_S = (10.0, 20.0)
MAX_WRIST_OFF_PX = 30.0  # of 1920; a forgotten J_wrist is some 200
SEQUENCE = re.compile(r"ZY\d+/H\d+/(C\d+)/N\d+/S\d+/s\d+/(T\d+)")
# definitions/task/task_definitions.csv of its repository (MIT): category, name, tasks T1 to T6
TASKS = """C1,toy car,Pick and place,Push toy car,Put it in the drawer,Take it out of the drawer
C2,mug,Pick and place,Put it in the drawer,Take it out of the drawer,Fill with water by a kettle,Pour water into another mug,Pick and place (with water)
C3,laptop,Pick and place,Open and close the display
C4,storage furniture,Open and close the drawer,Open and close the door,Put the drink in the door,Put the drink in the drawer
C5,bottle,Pick and place,Pour all the water into a mug,Put it in the drawer,Take it out of the drawer,Reposition the bottle,Pick and place (with water)
C6,safe,Open and close the door,Put something in it,Take something out of it
C7,bowl,Pick and place,Put it in the drawer,Take it out of the drawer,Take the ball out of the bowl,Put the ball in the bowl,Pick and place (with ball)
C8,bucket,Pick and place,Pour water into another bucket
C9,scissors,Pick and place,Cut something
C11,pliers,Pick and place,Take it out of the drawer,Put it in the drawer,Clamp something
C12,kettle,Pick and place,Pour water into a mug
C13,knife,Pick and place,Take it out of the drawer,Put it in the drawer,Cut apple
C14,trash can,Open and close,Throw something in it
C17,lamp,Pick and place,Turn and fold,Turn on and turn off
C18,stapler,Pick and place,Bind the paper
C20,chair,Pick and place to the original position,Pick and place to the original position,Pick and place to a new position,Pick and place to a new position
"""
WITHOUT_OBJECT = re.compile(r"(Pick and place|Open and close$|Turn and fold$|Turn on and turn off$|Fill)")
# words of the events, where "<event> the <object>" would not say it
EVENTS = {
    "rest": "rest", "stop": "stop", "go": "go", "lookaround": "look around", "reachout": "reach out to the {}",
    "pickup": "pick up the {}", "putdown": "put down the {}", "carrywithbothhands": "carry the {} with both hands",
    "cut": "cut with the {}", "paper-cut": "cut paper with the {}", "binding": "bind paper with the {}",
    "turn&on&the&switch": "turn on the switch of the {}", "dump": "pour from the {}",
}  # fmt: skip
SOURCE = Source(
    kind=KIND,
    title="HOI4D: 4D egocentric category-level human-object interaction",
    licence="CC BY-NC 4.0",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=True,
    url="https://hoi4d.github.io",
    how_to_get="Fill in the form of the project page; from its OneDrive or Baidu folders fetch RGB videos, depth videos, "
    "camera parameters, hand poses and annotations and unpack them into one folder; copy release.txt and testset.txt "
    "of its repository beside them for its split.",
    notes=(
        "Many sequences, its evaluation part among them, have no hand pose: they come without hands.",
        "output.log is read as camera-to-world; two readers of it agree, its documentation does not say.",
        "Boxes of objects are those of its 3-D boxes; its 2-D masks are not read.",
    ),
)


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """The RGB video of every sequence, sorted; it has one camera. HOI4D_release/ may be left out."""
    if view is not None:
        raise ValueError(f"HOI4D has one camera, view must be null, got {view!r}")
    seq = "ZY*/H*/C*/N*/S*/s*/T*/align_rgb/image.mp4"
    return sorted([*root.glob(f"HOI4D_release/{seq}"), *root.glob(seq)])


def side_files(video: Path) -> list[Path]:
    """Depth, calibration, hands, objects, events, camera poses and the split lists; those that exist."""
    base, key, notes = _base(video), _key(video), _annotations(video)
    hands = [path for side in SIDES for path in _numbered(_hand_folder(base, key, side), "pickle").values()]
    single = [notes / "action" / "color.json", notes / "3Dseg" / "output.log", _intrinsics(base, key)]
    files = [*_depth_files(video), *hands, *_numbered(notes / "objpose", "json").values(), *single, *_lists(base)]
    return sorted(path for path in files if path.is_file())


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """One sequence.

    Raises ClipError: EMPTY_VIDEO, CORRUPT_VIDEO, MISSING_LABELS, MISSING_SIDE_FILE, MISSING_HAND_MODEL, BAD_LABEL,
    NAN_LABEL, FRAME_COUNT_MISMATCH, UNSUPPORTED_CAMERA.
    """
    info = info or probe(video)
    base, key, notes = _base(video), _key(video), _annotations(video)
    if abs(info.fps - FPS) > 0.2 and info.num_frames != NUM_FRAMES:
        found = f"{info.num_frames} frames at {info.fps:.2f} fps, labels count {NUM_FRAMES} at {FPS:.0f}"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"image.mp4 has {found}: convert it with ffmpeg -vf fps=fps=15")
    name, task = _task(key)
    camera = _camera(_intrinsics(base, key), info)
    length_s = info.num_frames / info.fps
    whole = Instruction(0.0, length_s, task)
    return Clip(
        clip_id=f"{shard.source}/{video.relative_to(shard.root).with_suffix('').as_posix()}",
        source=shard.source,
        kind=KIND,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=camera,
        intrinsics="given",
        split=_split(base, key),
        T_cam_world=_T_cam_world(notes / "3Dseg" / "output.log", info.num_frames),
        **_hands(base, key, info.num_frames, camera, shard),
        objects=_objects(_numbered(notes / "objpose", "json"), info.num_frames, camera),
        instructions=(whole, *_events(notes / "action" / "color.json", length_s, name)),
        depth=_depth(video, info.num_frames),
        object_names=(name,),
        subject=key.split("/")[1],
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Clips one by one; a Reject for each that cannot be read."""
    shard = ShardConfig(KIND, KIND, str(root), view=view, hand_model=hand_model and str(hand_model))
    return read_each(list_videos, read_clip, shard)


# -- files


def _key(video: Path) -> str:
    return "/".join(video.parts[-9:-2])


def _base(video: Path) -> Path:
    above = video.parents[8]
    return above.parent if above.name == "HOI4D_release" else above


def _annotations(video: Path) -> Path:
    apart = _base(video) / "HOI4D_annotations" / _key(video)
    return apart if apart.is_dir() else video.parents[1]


def _intrinsics(base: Path, key: str) -> Path:
    return base / "camera_params" / key.split("/")[0] / "intrin.npy"


def _hand_folder(base: Path, key: str, side: str) -> Path:
    """Copies differ in the case of the R."""
    folders = [base / "handpose" / f"{first}efinehandpose_{side}" / key for first in "rR"]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    """Files by frame; copies differ in the padding of the number."""
    found = folder.glob(f"*.{suffix}") if folder.is_dir() else ()
    return {int(path.stem): path for path in sorted(found) if path.stem.isdigit()}


def _depth_files(video: Path) -> list[Path]:
    """The depth video, in its own tree or beside the RGB one, or the images its decode.py makes of it."""
    folders = [video.parents[1] / "align_depth", _base(video) / "HOI4D_depth_video" / _key(video) / "align_depth"]
    videos = [folder / "depth_video.avi" for folder in folders if (folder / "depth_video.avi").is_file()]
    return videos[:1] or [path for folder in folders for path in _numbered(folder, "png").values()]


def _lists(base: Path) -> list[Path]:
    return [base / "release.txt", base / "testset.txt"]


def _split(base: Path, key: str) -> str:
    """Of its lists; "" (drawn by the clip's name) where they are not there or do not say."""
    for path, split in zip(_lists(base), ("train", "test"), strict=True):
        if path.is_file() and key in path.read_text(encoding="utf-8").split():
            return split
    return ""


def _read_json(path: Path) -> object:
    """JSON, or the Python literal that the official reader would evaluate."""
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ClipError(Reason.BAD_LABEL, f"{path.parent.name}/{path.name} is no JSON: {error}") from error


# -- camera


def _camera(path: Path, info: VideoInfo) -> PinholeCamera:
    if not path.is_file():
        raise ClipError(Reason.MISSING_SIDE_FILE, f"camera_params/{path.parent.name}/intrin.npy is missing: fetch it")
    K = finite(load_npy_object(path), (3, 3), "intrin.npy")
    if abs(info.width * SIZE[1] - info.height * SIZE[0]) > SIZE[0]:
        detail = f"the video is {info.width} x {info.height}, intrinsics are of {SIZE[0]} x {SIZE[1]}"
        raise ClipError(Reason.UNSUPPORTED_CAMERA, detail)
    try:
        return PinholeCamera.from_opencv(K, *SIZE).resized(info.width, info.height)
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"intrin.npy: {error}") from error


def _T_cam_world(path: Path, num_frames: int) -> np.ndarray | None:  # noqa: N802 - the name of the transform
    if not path.is_file():
        return None
    lines = [line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines() if line.strip()]
    if len(lines) != 5 * num_frames:
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"output.log has {len(lines) / 5:g} poses for {num_frames} frames")
    try:
        rows = [[float(word) for word in line] for k, line in enumerate(lines) if k % 5]
        T_world_cam = finite(rows, (num_frames, 4, 4), "output.log")
    except ValueError as error:
        raise ClipError(Reason.BAD_LABEL, f"output.log: {error}") from error
    return transforms.invert(rigid(T_world_cam, "output.log"))


def _depth(video: Path, num_frames: int) -> Depth | None:
    files = _depth_files(video)
    if not files:
        return None
    if files[0].suffix == ".avi":
        held = len(grey_video(files[0]))
        if held != num_frames:
            raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"depth_video.avi has {held} frames, image.mp4 {num_frames}")
        return VideoDepth(files[0], units_per_m=1000.0)
    by_frame = {int(path.stem): path for path in files}
    return ImageDepth(tuple(by_frame.get(frame) for frame in range(num_frames)), units_per_m=1000.0)


# -- hands


def _hands(base: Path, key: str, num_frames: int, camera: PinholeCamera, shard: ShardConfig) -> dict[str, object]:
    """Fields of the clip. No pickle at all: the sequence has no hand labels."""
    if not (base / "handpose").is_dir():
        raise ClipError(Reason.MISSING_LABELS, "handpose/ is missing: fetch HOI4D's hand poses into the same folder")
    files = {side: _numbered(_hand_folder(base, key, side), "pickle") for side in SIDES}
    files = {side: found for side, found in files.items() if found}
    if not files:
        return {}
    if shard.hand_model is None:
        advice = "name the folder of MANO_LEFT.pkl and MANO_RIGHT.pkl as hand_model"
        raise ClipError(Reason.MISSING_HAND_MODEL, f"HOI4D's hands need MANO's files (wrist of the shape): {advice}")
    models = load_models(Path(shard.hand_model))
    read = {side: _hand(found, num_frames, camera, models[side], side) for side, found in files.items()}
    hands, published_px = ({side: both[k] for side, both in read.items()} for k in (0, 1))
    return {"hands": hands, "published_px": published_px, "hand_model": Path(shard.hand_model)}


def _hand(
    files: dict[int, Path], num_frames: int, camera: PinholeCamera, model, side: str
) -> tuple[HandTrack, np.ndarray]:
    """The track, and its published kps2D (T, 21, 2) as pixels of the clip's image, NaN without a hand.

    kps2D has manopth's fingertips (ops.hands.conventions), some millimetres from ours.
    """
    if max(files) >= num_frames:
        detail = f"hand of frame {max(files)}, the video has {num_frames} frames"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, detail, max(files), side)
    frames = np.array(sorted(files))
    stored = [_hand_label(files[frame], frame, side) for frame in frames.tolist()]
    pose, betas, transl, px = (np.stack(values) for values in zip(*stored, strict=True))
    theta, r, tau = from_smplx(model, pose[:, :3], pose[:, 3:], transl, betas, flat_hand_mean=True)
    px = (px + 0.5) * camera.width / SIZE[0]
    off_px = np.median(np.linalg.norm(camera.project(tau) - px[:, 0], axis=1)) * SIZE[0] / camera.width
    if not off_px <= MAX_WRIST_OFF_PX:
        advice = "are hand_model the MANO files and camera_params those of this camera?"
        detail = (
            f"the wrist projects {off_px:.0f} px from its published kps2D ({MAX_WRIST_OFF_PX:.0f} allowed): {advice}"
        )
        raise ClipError(Reason.BAD_LABEL, detail, side=side)
    track, published_px = [np.zeros((num_frames, size)) for size in (45, 3, 3)], np.full((num_frames, 21, 2), np.nan)
    for whole, values in zip([*track, published_px], (theta, r, tau, px), strict=True):
        whole[frames] = values
    return HandTrack(*track, betas.mean(axis=0), np.isin(np.arange(num_frames), frames)), published_px


def _hand_label(path: Path, frame: int, side: str) -> list[np.ndarray]:
    sizes = {"poseCoeff": (48,), "beta": (10,), "trans": (3,), "kps2D": (21, 2)}
    label = load_pickle(path)
    if not isinstance(label, dict) or not set(sizes) <= set(label):
        found = sorted(map(str, label)) if isinstance(label, dict) else type(label).__name__
        raise ClipError(Reason.BAD_LABEL, f"{path.name} has {found}, needs {', '.join(sizes)}", frame, side)
    return [finite(label[name], shape, f"{path.name} {name}", frame, side) for name, shape in sizes.items()]


# -- objects and text


def _objects(files: dict[int, Path], num_frames: int, camera: PinholeCamera) -> tuple[ObjectTrack, ...]:
    """One track a part, by its label; the second part of one label in a frame is "<label> 2"."""
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for frame, path in files.items():
        if frame >= num_frames:
            detail = f"objpose of frame {frame}, the video has {num_frames} frames"
            raise ClipError(Reason.FRAME_COUNT_MISMATCH, detail, frame)
        seen: dict[str, int] = {}
        for entry in _parts_of(path, frame):
            label = str(entry.get("label", "")).strip()
            seen[label] = seen.get(label, 0) + 1
            name = label if seen[label] == 1 else f"{label} {seen[label]}"
            T, size = parts.setdefault(name, (np.full((num_frames, 4, 4), np.nan), np.full((num_frames, 3), np.nan)))
            T[frame], size[frame] = _part_pose(entry, path, frame)
    return tuple(_part_track(name, *track, camera) for name, track in sorted(parts.items()))


def _parts_of(path: Path, frame: int) -> list[dict]:
    """Entries of a frame; none where the annotators marked it as not effective."""
    content = _read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("dataList", content.get("objects")), list):
        raise ClipError(Reason.BAD_LABEL, f"objpose/{path.name} has neither dataList nor objects", frame)
    return content.get("dataList", content.get("objects")) if content.get("isEffective", 1) else []


def _part_pose(entry: dict, path: Path, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Part-to-camera transform and extent along its axes, metres."""
    keys = {"center": "xyz", "rotation": "xyz", "dimensions": ("length", "width", "height")}
    try:
        numbers = [[entry[key][axis] for axis in axes] for key, axes in keys.items()]
    except (KeyError, TypeError) as error:
        detail = f"objpose/{path.name}: an entry lacks {error}; needs {', '.join(keys)}"
        raise ClipError(Reason.BAD_LABEL, detail, frame) from error
    centre, angles, size = finite(numbers, (3, 3), f"objpose/{path.name}", frame)
    return transforms.make(Rotation.from_euler("XYZ", angles).as_matrix(), centre), size


def _part_track(name: str, T_cam_obj: np.ndarray, size_m: np.ndarray, camera: PinholeCamera) -> ObjectTrack:
    signs = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3)
    corners = transforms.apply(T_cam_obj[:, None], signs * size_m[:, None])
    boxes_px, visible = boxes(camera, corners)
    return ObjectTrack(name, boxes_px, visible, T_cam_obj[:, :3, 3], T_cam_obj)


def _task(key: str) -> tuple[str, str]:
    """Name of the object and the task's sentence with the object in it, from the sequence's codes C* and T*."""
    codes = SEQUENCE.fullmatch(key)
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(TASKS))}
    if codes is None or codes[1] not in rows or not 1 <= int(codes[2][1:]) < len(rows[codes[1]]):
        raise ClipError(Reason.BAD_LABEL, f"{key} is no sequence of a category and task of task_definitions.csv")
    name, *tasks = rows[codes[1]]
    sentence = tasks[int(codes[2][1:]) - 1]
    return name, re.sub(r"\bit\b", f"the {name}", WITHOUT_OBJECT.sub(rf"\1 the {name}", sentence))


def _events(path: Path, length_s: float, name: str) -> list[Instruction]:
    """Events in seconds of the video, which runs at another rate than the clock of the annotation tool.

    Where the file does not say how long its clock ran, it is 10 or 20 s, whichever the last event ends nearer to.
    """
    if not path.is_file() or not path.stat().st_size:  # one sequence has an empty file
        return []
    content = _read_json(path)
    try:
        marks = content["events"] if "events" in content else content.get("markResult", {}).get("marks", [])
        names = ("startTime", "endTime") if "events" in content else ("hdTimeStart", "hdTimeEnd")
        said = [(str(mark["event"]).strip(), *(float(mark[key]) for key in names)) for mark in marks]
        info = content.get("info") or {}
        clock_s = float(info.get("duration") or info.get("Duration") or 0.0)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ClipError(Reason.BAD_LABEL, f"action/color.json is of neither schema: {error!r}") from error
    if said and not clock_s:
        clock_s = min(CLOCKS_S, key=lambda clock: abs(clock - max(end for *_, end in said)))
    made = []
    for event, start, end in said:
        if not 0 <= start <= end <= clock_s + 0.5:
            raise ClipError(Reason.BAD_LABEL, f"event {event!r} lasts from {start} to {end} s of {clock_s} s")
        first, last = start / clock_s * length_s, min(end / clock_s, 1.0) * length_s
        if last > first:
            text = EVENTS.get(event.lower(), f"{event.lower()} the {{}}").format(name)
            made.append(Instruction(first, last, text))
    return sorted(made, key=lambda said: (said.start_s, said.end_s))


# -- example

EXAMPLE = {"fps": FPS}


def write_example(root: Path, truth: Truth, second_schema: bool = False, code: str = "C5") -> None:
    """The layout above in miniature, task T1. code: its category. second_schema: of action/color.json.

    truth.camera is 16:9; a smaller video than 1920 x 1080 is a shrunk copy, with the intrinsics of the whole size.
    truth.name: last folder levels "N12/S5/s1/T2", or it becomes a new N. truth.subject's digits are the person.
    """
    if truth.camera.width * SIZE[1] != truth.camera.height * SIZE[0]:
        raise ValueError(f"HOI4D's images are 16:9, got {truth.camera.width} x {truth.camera.height}")
    person = f"ZY20210800001/H{int(re.sub(r'[^0-9]', '', truth.subject) or 1)}/{code}"
    tail = truth.name if truth.name.count("/") == 3 else None
    count = len(list(root.glob(f"HOI4D_release/{person}/N*")))
    key = f"{person}/{tail or f'N{count + 1:02d}/S1/s1/T1'}"
    video, notes = root / "HOI4D_release" / key / "align_rgb" / "image.mp4", root / "HOI4D_annotations" / key
    write_video(video, list(truth.rgb), FPS, crf=10)
    depth_mm = np.round(np.nan_to_num(truth.depth_m) * 1000).astype(np.uint16)
    write_grey_video(video.parents[1] / "align_depth" / "depth_video.avi", depth_mm, FPS)
    whole = truth.camera.resized(*SIZE)
    _intrinsics(root, key).parent.mkdir(parents=True, exist_ok=True)
    np.save(_intrinsics(root, key), whole.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    for side in truth.hands:
        _write_hands(root / "handpose" / f"refinehandpose_{side}" / key, truth, side, whole)
    for folder in ("objpose", "action", "3Dseg"):
        (notes / folder).mkdir(parents=True, exist_ok=True)
    for frame in range(truth.num_frames):
        (notes / "objpose" / f"{frame}.json").write_text(json.dumps(_objpose(truth, frame)), encoding="utf-8")
    (notes / "action" / "color.json").write_text(json.dumps(_color(truth, second_schema)), encoding="utf-8")
    blocks = []
    for frame, T in enumerate(transforms.invert(truth.T_cam_world)):
        rows = "\n".join(" ".join(repr(float(value)) for value in row) for row in T)
        blocks.append(f"{frame} {frame} {frame + 1}\n{rows}\n")
    (notes / "3Dseg" / "output.log").write_text("".join(blocks), encoding="ascii")


def _write_hands(folder: Path, truth: Truth, side: str, whole: PinholeCamera) -> None:
    import pickle

    folder.mkdir(parents=True, exist_ok=True)
    hand, model = truth.hands[side], truth.models[side]
    joints = joints_of_convention(model, hand.theta, hand.r, hand.tau, hand.beta, tips="manopth")
    for frame in np.flatnonzero(hand.valid).tolist():
        label = {
            "poseCoeff": np.concatenate([hand.r[frame], hand.theta[frame]]),
            "beta": hand.beta,
            "trans": hand.tau[frame] - model.wrist(hand.beta),
            "kps2D": whole.project(joints[frame]) - 0.5,
        }
        (folder / f"{frame}.pickle").write_bytes(pickle.dumps(label, protocol=2))


def _objpose(truth: Truth, frame: int) -> dict:
    entries = []
    for number, thing in enumerate(truth.objects):
        angles = Rotation.from_matrix(thing.T_cam_obj[frame, :3, :3]).as_euler("XYZ")
        entries.append({
            "id": number,
            "label": thing.name,
            "center": dict(zip("xyz", thing.T_cam_obj[frame, :3, 3].tolist(), strict=True)),
            "rotation": dict(zip("xyz", angles.tolist(), strict=True)),
            "dimensions": {"length": 0.08, "width": 0.08, "height": 0.08},
        })  # fmt: skip
    return {"frameId": 28, "isEffective": 1, "dataList": entries}


def _color(truth: Truth, second_schema: bool) -> dict:
    """One event of the truth's times, on a clock of 20 s for the whole video."""
    scale = CLOCKS_S[1] / (truth.num_frames / FPS)
    times = [(0.0, 0.0), *((said.start_s * scale, said.end_s * scale) for said in truth.instructions)][1:]
    if second_schema:
        marks = [{"event": "Pickup", "hdTimeStart": start, "hdTimeEnd": end} for start, end in times]
        return {"info": {"Duration": CLOCKS_S[1]}, "markResult": {"marks": marks}}
    events = [{"id": k, "event": "Pickup", "startTime": a, "endTime": b} for k, (a, b) in enumerate(times)]
    return {"info": {"duration": CLOCKS_S[1]}, "events": events}
