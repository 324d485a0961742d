"""VITRA-1M: episodes of single hand actions, labels only; the videos come from Ego4D, EPIC, Ego-Exo4D and SSv2.

    Annotation/<set>/episodic_annotations/<Prefix>_<video>_ep_<000000>.npy          one clip each
    Video/{Ego4D_root/*.mp4, Epic-Kitchen_root/*.MP4, EgoExo4D_root/*.mp4, Somethingsomething-v2_root/*.webm}

A clip is the episode's frames of its video. Ego4D and Ego-Exo4D videos must be the ones undistorted by VITRA's scripts,
whole (not cut into parts): the labels belong to that pinhole image. World frames are an episode's own. Hands come as
MANO where the licensed files are given, else as their 21 joints. File format: ops.sources.vitra_episode.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry import transforms
from ops.hands.conventions import mirror_rotvec
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import SIDES, Clip, HandTrack, Instruction, JointTrack, Source, read_each
from ops.sources.example import Truth
from ops.sources.raw_video import centred_camera, clip_id
from ops.sources.vitra_episode import (
    Episode,
    EpisodeHand,
    read_episode,
    write_episode,
    write_frame_index,
)
from ops.video import VideoInfo, frame_times_s, read_frames, write_video

KIND = "vitra"
SOURCE = Source(
    kind=KIND,
    title="VITRA-1M",
    licence="VITRA-1M labels as published; videos under their owners' licences (Ego4D, EPIC CC BY-NC, Ego-Exo4D, SSv2)",
    noncommercial=True,
    redistributable=False,
    gated=True,
    needs_mano=False,
    url="https://huggingface.co/datasets/VITRA-VLA/VITRA-1M",
    how_to_get="Download the labels (100 GB); get the videos from Ego4D, EPIC-KITCHENS, Ego-Exo4D and Something-Something; undistort those of Ego4D and Ego-Exo4D with VITRA's scripts.",
    notes=(
        "The authors call the labels about 90% right; a fresh run of HaWoR gives others.",
        "The left hand's shape belongs to MANO_RIGHT mirrored.",
        "Videos cut into parts (clip_len) are not read: keep them whole.",
    ),
)


@dataclass(frozen=True)
class Part:
    """One of the data set's sources: its folder of labels, the prefix of its episodes, where its videos lie."""

    folder: str
    prefix: str
    videos: str
    suffix: str


PARTS = (
    Part("ego4d_cooking_and_cleaning", "Ego4D", "Ego4D_root", ".mp4"),
    Part("egoexo4d", "EgoExo4D", "EgoExo4D_root", ".mp4"),
    Part("epic", "epic", "Epic-Kitchen_root", ".MP4"),
    Part("ssv2", "somethingsomethingv2", "Somethingsomething-v2_root", ".webm"),
)
# a published MANO_LEFT is not MANO_RIGHT in a mirror: the check with the user's own files is of the right hand
EXAMPLE = {"sides": ("right",)}
NO_TEXT = ("", "none", "none.", "n/a")


def list_videos(root: Path, view: str | None = None) -> list[Path]:
    """Episodes, sorted by path."""
    return sorted(root.rglob("*_ep_*.npy"))


def side_files(video: Path) -> list[Path]:
    """The video that the episode was cut from, if it is there."""
    try:
        return [_video_of(video, read_episode(video).video_name)]
    except ClipError:
        return []


def read_clip(video: Path, shard: ShardConfig, config: RawVideosConfig, info: VideoInfo | None = None) -> Clip:
    """One episode. Split: none of its own.

    Raises ClipError: MISSING_LABELS, BAD_LABEL, NAN_LABEL, EMPTY_VIDEO (not there), CORRUPT_VIDEO,
    FRAME_COUNT_MISMATCH (the video is shorter), UNSUPPORTED_CAMERA (cropped).
    """
    episode = read_episode(video)
    source = _video_of(video, episode.video_name)
    all_s = frame_times_s(source)
    if episode.frames[-1] >= len(all_s):
        detail = f"{source.name} has {len(all_s)} frames, the episode asks for {episode.frames[-1]}"
        raise ClipError(Reason.FRAME_COUNT_MISMATCH, detail)
    fps = float((len(all_s) - 1) / (all_s[-1] - all_s[0])) if len(all_s) > 1 else 1.0
    times_s = all_s[episode.frames] - all_s[episode.frames[0]]
    height, width = next(read_frames(source, episode.frames[:1].tolist())).rgb.shape[:2]
    seen = [side for side in SIDES if episode.hands[side].kept.any()]
    labels = {
        "hands": {side: _hand(episode, side) for side in seen} if shard.hand_model else {},
        "joints": {} if shard.hand_model else {side: _joints(episode, side) for side in seen},
        "hand_model": shard.hand_model and Path(shard.hand_model),
        "left_model": "mirrored",
    }
    return Clip(
        clip_id=clip_id(video, shard),
        source=shard.source,
        kind=KIND,
        video=source,
        fps=fps,
        num_frames=episode.num_frames,
        times_s=times_s,
        camera=centred_camera(episode.K, VideoInfo(fps, len(times_s), width, height, times_s, 0), "intrinsics"),
        intrinsics="given",
        split="",
        frame_numbers=episode.frames,
        T_cam_world=episode.T_cam_world,
        instructions=_instructions(episode, times_s, float(times_s[-1] + 1 / fps)),
        **labels,
        **SOURCE.terms(),
    )


def read_clips(root: Path, view: str | None = None, hand_model: Path | None = None) -> Iterator[Clip | Reject]:
    """Episodes one by one; unreadable ones as Reject. hand_model: folder of the MANO files, else joints are given."""
    model = hand_model and str(hand_model)
    return read_each(list_videos, read_clip, ShardConfig(KIND, KIND, str(root), view=view, hand_model=model))


def _video_of(episode_file: Path, video_name: str) -> Path:
    """The video below Video/, next to Annotation/, or in one of these folders itself."""
    part = next((part for part in PARTS if episode_file.name.startswith(f"{part.prefix}_")), None)
    if part is None:
        prefixes = ", ".join(part.prefix for part in PARTS)
        raise ClipError(Reason.BAD_LABEL, f"{episode_file.name}: the name should begin with one of {prefixes}")
    if Path(video_name).name != video_name:
        raise ClipError(Reason.BAD_LABEL, f"video_name {video_name!r} is a path, not a name")
    for folder in list(episode_file.parents)[:5]:
        for place in (folder / "Video" / part.videos, folder / part.videos, folder / "Video"):
            for suffix in dict.fromkeys((part.suffix, ".mp4", ".MP4", ".webm")):
                if (place / f"{video_name}{suffix}").is_file():
                    return place / f"{video_name}{suffix}"
    raise ClipError(
        Reason.EMPTY_VIDEO,
        f"no {video_name}{part.suffix} in Video/{part.videos} beside Annotation: get it from its owner",
    )


def _hand(episode: Episode, side: str) -> HandTrack:
    """In the camera frame, MANO of its own side, flat hand mean."""
    hand = episode.hands[side]
    T_cam_world = episode.T_cam_world
    fingers = transforms.rotmat_to_rotvec(hand.hand_pose)
    theta = (mirror_rotvec(fingers) if side == "left" else fingers).reshape(-1, 45)
    r = transforms.rotmat_to_rotvec(T_cam_world[:, :3, :3] @ hand.R_world_wrist)
    tau = transforms.apply(T_cam_world, hand.wrist_world)
    theta, r, tau = (np.where(hand.kept[:, None], values, 0.0) for values in (theta, r, tau))
    return HandTrack(theta, r, tau, hand.beta, hand.kept)


def _joints(episode: Episode, side: str) -> JointTrack:
    hand = episode.hands[side]
    joints_cam = transforms.apply(episode.T_cam_world[:, None], hand.joints_world)
    return JointTrack(np.where(hand.kept[:, None, None], joints_cam, np.nan), hand.kept)


def _instructions(episode: Episode, times_s: np.ndarray, end_s: float) -> tuple[Instruction, ...]:
    ends_s = np.append(times_s[1:], end_s)
    return tuple(
        Instruction(float(times_s[start]), float(ends_s[end - 1]), text.strip(), side)
        for side in SIDES
        for text, start, end in episode.text[side]
        if text.strip().lower() not in NO_TEXT
    )


# -- writing


def episode_of(
    clip_name: str, hands: dict[str, HandTrack], joints_cam: dict[str, np.ndarray], rest_wrist: dict[str, np.ndarray],
    T_cam_world: np.ndarray, K: np.ndarray, frames: np.ndarray, anno_type: str,
    text: dict[str, tuple[tuple[str, int, int], ...]], rephrased: dict[str, tuple] | None = None,
) -> Episode:  # fmt: skip
    """An episode from hands of ours (camera frame, MANO of their own side).

    K: principal point in the middle. rest_wrist: J_wrist(beta) of the RIGHT model, by side. text: (text, start, end) by
    side, half open. A side without hand is written as never kept.
    """
    sides = {
        side: _episode_hand(side, hands.get(side), joints_cam.get(side), rest_wrist.get(side), T_cam_world)
        for side in SIDES
    }
    empty: dict[str, tuple] = dict.fromkeys(SIDES, ())
    return Episode(
        clip_name, anno_type, np.asarray(frames), T_cam_world, K, empty | text, empty | (rephrased or {}), sides
    )


def _episode_hand(
    side: str,
    hand: HandTrack | None,
    joints_cam: np.ndarray | None,
    rest_wrist: np.ndarray | None,
    T_cam_world: np.ndarray,
) -> EpisodeHand:
    T = len(T_cam_world)
    if hand is None:
        eye = np.broadcast_to(np.eye(3), (T, 3, 3))
        zeros = np.zeros((T, 21, 3))
        fingers = np.broadcast_to(np.eye(3), (T, 15, 3, 3))
        return EpisodeHand(np.zeros(10), eye, fingers, zeros[:, 0], zeros, np.zeros(T, bool), np.zeros(3))
    T_world_cam = transforms.invert(T_cam_world)
    theta = hand.theta.reshape(T, 15, 3)
    return EpisodeHand(
        beta=hand.beta,
        R_world_wrist=T_world_cam[:, :3, :3] @ transforms.rotvec_to_rotmat(hand.r),
        hand_pose=transforms.rotvec_to_rotmat(mirror_rotvec(theta) if side == "left" else theta),
        wrist_world=transforms.apply(T_world_cam, hand.tau),
        joints_world=transforms.apply(T_world_cam[:, None], joints_cam),
        kept=hand.valid,
        rest_wrist=rest_wrist,
    )


def write_example(root: Path, truth: Truth) -> None:
    """An episode of all frames but the first two of a new video, cut by the hand that is there."""
    part = PARTS[0]
    write_video(root / "Video" / part.videos / f"{truth.name}.mp4", truth.rgb, truth.fps)
    skip, T = 2, truth.num_frames - 2
    hands = {
        s: HandTrack(h.theta[skip:], h.r[skip:], h.tau[skip:], h.beta, h.valid[skip:]) for s, h in truth.hands.items()
    }
    anno_type = truth.instructions[0].side or "right"
    episode = episode_of(
        truth.name, hands, {side: joints[skip:] for side, joints in truth.joints_cam.items()},
        {side: truth.models["right"].wrist(hand.beta) for side, hand in truth.hands.items()},
        truth.T_cam_world[skip:], truth.camera.K, np.arange(skip, truth.num_frames), anno_type,
        {side: ((truth.instructions[0].text, 0, T),) for side in hands if side == anno_type},
        {anno_type: ((tuple(f"Variant {n}: {truth.instructions[0].text}" for n in range(5)), 0, T),)},
    )  # fmt: skip
    folder = root / "Annotation" / part.folder
    write_episode(folder / "episodic_annotations" / f"{part.prefix}_{truth.name}_ep_000000.npy", episode)
    paths = sorted((folder / "episodic_annotations").glob("*.npy"))
    write_frame_index(folder, {path.stem: read_episode(path).num_frames for path in paths})
