"""EgoDex: head-mounted video with ARKit's joints of both hands, an episode a pair of .mp4 and .hdf5.

    {part1..part5, test, extra}/<task>/<i>.hdf5, <i>.mp4      frame n of the video = row n

Every transform is joint-to-world (ARKit origin: metres, y up, new an episode), `camera` is CAMERA-TO-WORLD with OpenCV
axes. Joints only: positions are used (the joints' axes are undocumented), MANO is fitted to them later. The
principal point (960, 540) is the middle of the image, so it counts from the image's corner as ours does.
Some files hold an intrinsic of shape (0, 3): all videos are of one camera, whose K is then used.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import SIDES, Clip, Instruction, JointTrack, Source, read_each
from ops.sources.example import Truth
from ops.sources.raw_video import centred_camera, clip_id, duration_s
from ops.sources.world_labels import finite, rigid
from ops.video import VideoInfo, probe, write_video

KIND = "egodex"
SOURCE = Source(
    kind=KIND,
    title="EgoDex",
    licence="CC BY-NC-ND 4.0",
    noncommercial=True,
    redistributable=False,
    gated=False,
    needs_mano=False,
    url="https://github.com/apple/ml-egodex",
    how_to_get="Download and unpack part1 to part5 (300 GB each), test (16 GB) or extra (200 GB) from Apple's page.",
    notes=(
        "No derivatives may be passed on: keep rows made from it to yourself.",
        "Some files of part1 have no intrinsic; the data set's one K is used.",
        "Captions are written by a language model; some are wrong. Projections of some episodes are reported to be off.",
    ),
)
K_EGODEX = np.array([[736.6339, 0, 960], [0, 736.6339, 540], [0, 0, 1]])
CAMERA = "transforms/camera"
MIN_CONFIDENCE = 0.3  # ASSUMED: ARKit's confidence (0 to 1) below which a joint counts as not seen
FINGERS = {"Thumb": "Thumb", "Index": "IndexFinger", "Middle": "MiddleFinger", "Ring": "RingFinger", "Little": "LittleFinger"}  # fmt: skip
BONES = ("Knuckle", "IntermediateBase", "IntermediateTip", "Tip")
BODY = ("hip", *(f"spine{n}" for n in range(1, 8)), *(f"neck{n}" for n in range(1, 5)))
ARMS = ("Shoulder", "Arm", "Forearm")


def joint_names(side: str) -> list[str]:
    """EgoDex names in OpenPose order; the metacarpals have no place in it."""
    return [f"{side}Hand", *(f"{side}{finger}{bone}" for finger in FINGERS.values() for bone in BONES)]


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """Episodes, sorted by path; view: there is one."""
    return sorted(path for path in root.rglob("*.mp4") if not path.name.startswith("."))


def side_files(video: Path) -> list[Path]:
    labels = video.with_suffix(".hdf5")
    return [labels] if labels.is_file() else []


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """An episode. subject: its recording session, since people are not named. Split "test" below test/.

    Raises ClipError: MISSING_LABELS, BAD_SIDE_FILE (no HDF5), BAD_LABEL, NAN_LABEL (camera), FRAME_COUNT_MISMATCH,
    UNSUPPORTED_CAMERA (cropped copy).
    """
    import h5py

    info = info or probe(video)
    labels = video.with_suffix(".hdf5")
    if not labels.is_file():
        raise ClipError(Reason.MISSING_LABELS, f"{labels.name} is not beside {video.name}: unpack the whole archive")
    try:
        with h5py.File(labels, "r") as file:
            T_world_cam = rigid(finite(_rows(file, CAMERA, info), (info.num_frames, 4, 4), CAMERA), CAMERA)
            joints = {side: _joints(file, side, T_world_cam, info) for side in SIDES}
            K = np.array(file["camera/intrinsic"]) if "camera/intrinsic" in file else np.zeros((0, 3))
            attributes = {key: _text(value) for key, value in file.attrs.items()}
    except OSError as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{labels.name} is no readable HDF5 file: {error}") from error
    return Clip(
        clip_id=clip_id(video, shard),
        source=shard.source,
        kind=KIND,
        video=video,
        fps=info.fps,
        num_frames=info.num_frames,
        times_s=info.times_s,
        camera=centred_camera(K_EGODEX if K.size == 0 else K, info, "camera/intrinsic"),
        intrinsics="given",
        split="test" if video.parent.parent.name == "test" else "train",
        T_cam_world=transforms.invert(T_world_cam),
        joints=joints,
        hand_model=shard.hand_model and Path(shard.hand_model),
        instructions=_instructions(attributes, duration_s(info)),
        object_names=tuple(attributes.get("llm_objects") or ()),
        subject="".join(attributes.get("session_name", ())),
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Episodes one by one; unreadable ones as Reject. hand_model: MANO files to fit the joints with."""
    model = hand_model and str(hand_model)
    return read_each(list_videos, read_clip, ShardConfig(KIND, KIND, str(root), view=view, hand_model=model))


def _rows(file, name: str, info: VideoInfo) -> np.ndarray:
    """A transform of every frame, (T, 4, 4) float64."""
    if name not in file:
        raise ClipError(
            Reason.BAD_LABEL, f"no {name} in the file; an EgoDex file has one for the camera and each joint"
        )
    stored = file[name]
    if stored.ndim != 3 or stored.shape[1:] != (4, 4):
        raise ClipError(Reason.BAD_LABEL, f"{name} should be (N, 4, 4), is {stored.shape}")
    if len(stored) != info.num_frames:
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, f"{len(stored)} rows of labels for {info.num_frames} frames")
    return np.array(stored, dtype=np.float64)


def _joints(file, side: str, T_world_cam: np.ndarray, info: VideoInfo) -> JointTrack:
    """Joints in the camera frame; one that is not finite or hardly trusted is NaN, a frame without a wrist invalid."""
    names = joint_names(side)
    world = np.stack([_rows(file, f"transforms/{name}", info)[:, :3, 3] for name in names], axis=1)
    for joint, name in enumerate(names):
        if f"confidences/{name}" in file:
            world[np.array(file[f"confidences/{name}"]) < MIN_CONFIDENCE, joint] = np.nan
    joints_cam = transforms.apply(transforms.invert(T_world_cam)[:, None], world)
    joints_cam[~np.isfinite(joints_cam).all(axis=-1)] = np.nan
    return JointTrack(joints_cam, np.isfinite(joints_cam[:, 0]).all(axis=-1))


def _instructions(attributes: dict[str, tuple[str, ...]], end_s: float) -> tuple[Instruction, ...]:
    """The sentence of the whole episode; of a reversible task the one that says in which direction it was done.

    None where the file does not say which: half of such sentences would be the opposite of what is seen.
    """
    first = attributes.get("llm_description") or attributes.get("description") or ()
    second = attributes.get("llm_description2") or attributes.get("description2") or ()
    text = "".join(first).strip()
    if "".join(attributes.get("llm_type", attributes.get("type", ()))) == "reversible" and second:
        which = "".join(attributes.get("which_llm_description", attributes.get("which_description", ())))
        text = {"1": text, "2": "".join(second).strip()}.get(which, "")
    return (Instruction(0.0, end_s, text),) if text else ()


def _text(value: object) -> tuple[str, ...]:
    """An attribute as texts: h5py gives str, bytes, or arrays of them."""
    items = np.atleast_1d(np.asarray(value, dtype=object)).ravel().tolist()
    return tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in items)


# -- example


def write_example(root: Path, truth: Truth) -> None:
    """One episode below part1/<truth.name>; both hands have rows, a hand that is not there has confidence 0."""
    import h5py

    folder = root / "part1" / truth.name
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.mp4")))
    write_video(folder / f"{number}.mp4", truth.rgb, truth.fps)
    T_world_cam = transforms.invert(truth.T_cam_world)
    with h5py.File(folder / f"{number}.hdf5", "w") as file:
        file["camera/intrinsic"] = truth.camera.K.astype(np.float32)
        file[CAMERA] = T_world_cam.astype(np.float32)
        for name in (*BODY, *(f"{side}{part}" for side in SIDES for part in ARMS)):
            _write_joint(file, name, T_world_cam[:, :3, 3] - [0, 0.4, 0], np.ones(truth.num_frames))
        for side in SIDES:
            _write_hand(file, side, truth, T_world_cam)
        file.attrs["task"], file.attrs["environment"], file.attrs["object"] = truth.name, "table", "box"
        file.attrs["session_name"], file.attrs["annotated"] = truth.subject, True
        file.attrs["llm_type"], file.attrs["which_llm_description"] = "reversible", "1"
        file.attrs["llm_description"] = truth.instructions[0].text
        file.attrs["llm_description2"] = f"The opposite of: {truth.instructions[0].text}"
        file.attrs["llm_verbs"], file.attrs["llm_objects"] = ["pick up"], [thing.name for thing in truth.objects]


def _write_hand(file, side: str, truth: Truth, T_world_cam: np.ndarray) -> None:
    there = truth.hands[side].valid if side in truth.hands else np.zeros(truth.num_frames, bool)
    joints_cam = truth.joints_cam.get(side, np.zeros((truth.num_frames, 21, 3)))
    world = transforms.apply(T_world_cam[:, None], joints_cam)
    for joint, name in enumerate(joint_names(side)):
        _write_joint(file, name, world[:, joint], there)
    for number, finger in enumerate(list(FINGERS.values())[1:]):
        middle = 0.8 * world[:, 0] + 0.2 * world[:, 5 + 4 * number]
        _write_joint(file, f"{side}{finger}Metacarpal", middle, there)


def _write_joint(file, name: str, position_world: np.ndarray, confidence: np.ndarray) -> None:
    file[f"transforms/{name}"] = transforms.make(np.eye(3), position_world).astype(np.float32)
    file[f"confidences/{name}"] = confidence.astype(np.float32)
