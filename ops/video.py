"""Reading and writing video files (PyAV), frame by frame, exactly.

Frames are counted from 0 in presentation order and carry their own presentation time (0 for the first frame), never
index / fps. Rotation metadata is applied: sizes and pixels are those a player shows, and intrinsics in side files
refer to that image.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float, UInt8

from ops.rejects import ClipError, Reason

LOCAL_ONLY = {"protocol_whitelist": "file", "format_whitelist": "mov,avi,matroska,webm"}
"""For the demuxer: a text file named clip.mp4 can be a play list, which opens other files and addresses."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame. index: in presentation order. time_s: its presentation time. rgb: (height, width, 3)."""

    index: int
    time_s: float
    rgb: UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What a readable video holds. width, height: as displayed, after rotation. fps: mean rate."""

    fps: float
    num_frames: int
    width: int
    height: int
    times_s: Float[np.ndarray, " T"]
    num_keyframes: int


@dataclass(frozen=True, eq=False)
class _Index:
    """Packet index: pts in presentation order, and for each frame the pts and dts of the keyframe it starts from.

    Not seekable: the container's times cannot be trusted, frames are counted as the decoder gives them.
    """

    pts: np.ndarray
    keyframe_pts: np.ndarray
    seek_ts: np.ndarray
    time_base: Fraction
    seekable: bool


def probe(path: Path) -> VideoInfo:
    """Read the packet index, decode every keyframe and the last frames, and return what the video holds.

    Raises ClipError: EMPTY_VIDEO (no bytes, no video stream, no frame) or CORRUPT_VIDEO (not a video, truncated,
    does not decode), with what was found.
    """
    index = _index_of(path)
    num_frames = len(index.pts)
    starts = np.unique(np.searchsorted(index.pts, index.keyframe_pts))
    wanted = sorted({*starts.tolist(), num_frames - 1}) if index.seekable else [0]  # else all was decoded to count it
    shape, decoded = (0, 0), 0
    for frame in read_frames(path, wanted):
        shape, decoded = frame.rgb.shape[:2], decoded + 1
    if not decoded:
        raise ClipError(Reason.EMPTY_VIDEO, f"{path.name} has packets but no frame")
    times_s = _times_s(index)
    span = float(times_s[-1] - times_s[0])
    fps = (num_frames - 1) / span if span > 0 else _nominal_fps(path)
    return VideoInfo(fps, num_frames, shape[1], shape[0], times_s, len(starts))


def frame_times_s(path: Path) -> Float[np.ndarray, " T"]:
    """Presentation time of each frame, from the packet index. Raises ClipError as probe does."""
    return _times_s(_index_of(path))


def read_frames(
    path: Path, indices: Iterable[int] | None = None, size: tuple[int, int] | None = None
) -> Iterator[Frame]:
    """Decode frames in presentation order. indices: which (sorted, duplicates once); None = all. size: (width, height).

    Sparse reading decodes only what the wanted frames depend on: it starts at the keyframe before them and skips
    non-reference frames, so the frames are the very ones a sequential decode gives. Resized by swscale, area mode.
    Raises ClipError CORRUPT_VIDEO / EMPTY_VIDEO, IndexError for an index outside the video.
    """
    index = _index_of(path)
    wanted = list(range(len(index.pts))) if indices is None else sorted(set(indices))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < len(index.pts):
        raise IndexError(f"{path.name} has frames 0 to {len(index.pts) - 1}, asked for {wanted[0]} to {wanted[-1]}")
    if not wanted:
        return
    sparse = index.seekable and len(wanted) < len(index.pts)
    times_s, sought = _times_s(index), iter(wanted)
    try:
        with _open(path) as container:
            for number, picture in (_sparse if sparse else _sequential)(container, index, wanted):
                if number != next(sought):
                    raise ClipError(
                        Reason.CORRUPT_VIDEO, f"{path.name}: a frame before {number} does not decode", number
                    )
                yield Frame(number, float(times_s[number]), _to_rgb(picture, size))
    except av.FFmpegError as error:
        raise ClipError(Reason.CORRUPT_VIDEO, f"{path.name} does not decode: {error}") from error
    missing = next(sought, None)
    if missing is not None:
        raise ClipError(
            Reason.CORRUPT_VIDEO, f"{path.name}: frame {missing} of {len(index.pts)} does not decode", missing
        )


def write_video(
    path: Path, frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float, gop: int = 30, crf: int = 18, **x264: str
) -> None:
    """Write H.264 (yuv420p) whose bytes depend on the frames alone. Whole or absent.

    One thread and no lookahead: with x264's lookahead, equal frames gave other bytes whenever memory was laid out
    differently (up to 29 grey levels in a decoded frame). x264: further encoder options. Raises ValueError for no frames, odd sizes, or frames of different sizes.
    """
    partial = path.with_name(f".{path.name}.partial.mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            _encode(
                container,
                iter(frames),
                Fraction(fps).limit_denominator(1001),
                gop,
                {"crf": str(crf), "preset": "veryfast", "rc-lookahead": "0", "mbtree": "0"} | x264,
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _encode(container, frames: Iterator[np.ndarray], rate: Fraction, gop: int, options: dict[str, str]) -> None:
    first = next(frames, None)
    if first is None:
        raise ValueError("write_video was given no frames")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 yuv420p needs even sizes, got {width} x {height}")
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.gop_size, stream.codec_context.thread_count = gop, 1
    picture = first
    while picture is not None:
        if picture.shape != first.shape:
            raise ValueError(f"frames differ in size: {first.shape} and {picture.shape}")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        picture = next(frames, None)
    container.mux(stream.encode(None))


def _open(path: Path):
    if not path.is_file():
        raise ClipError(Reason.EMPTY_VIDEO, f"{path} is not a file")
    if path.stat().st_size == 0:
        raise ClipError(Reason.EMPTY_VIDEO, f"{path.name} has 0 bytes")
    try:
        container = av.open(str(path), options=LOCAL_ONLY)
    except av.FFmpegError as error:
        raise ClipError(Reason.CORRUPT_VIDEO, f"{path.name} is not a readable video: {error.strerror}") from error
    if not container.streams.video:
        container.close()
        raise ClipError(Reason.EMPTY_VIDEO, f"{path.name} has no video stream")
    # one thread: skip_frame is then obeyed packet by packet, and parallelism belongs to the shards
    container.streams.video[0].codec_context.thread_count = 1
    return container


def _index_of(path: Path) -> _Index:
    """Index of a file; kept while size and time of change stay the same."""
    status = path.stat() if path.is_file() else None
    return _read_index(path, status and (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=32)
def _read_index(path: Path, _version) -> _Index:
    with _open(path) as container:
        stream, is_mp4 = container.streams.video[0], "mp4" in container.format.name
        packets, end_s = [], 0.0
        try:
            for packet in container.demux(stream) if is_mp4 else container.demux():
                if not packet.size or packet.is_discard:
                    continue
                stamp = packet.pts if packet.pts is not None else packet.dts
                end_s = max(end_s, float(((stamp or 0) + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index == stream.index:
                    packets.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_corrupt))
        except av.FFmpegError as error:
            raise ClipError(Reason.CORRUPT_VIDEO, f"{path.name} breaks off: {error}") from error
        # the header's promise: a frame count in MP4, the duration of the longest stream elsewhere
        stated_s = 0.0 if is_mp4 or container.duration is None else container.duration / av.time_base
        if packets and stated_s > end_s + 0.25:
            detail = f"{path.name} is truncated: it should last {stated_s:.2f} s, its data end at {end_s:.2f} s"
            raise ClipError(Reason.CORRUPT_VIDEO, detail)
        listed = stream.frames if is_mp4 else 0
        return _checked_index(path, packets, listed, stream.time_base, container.format.name == "avi")


def _checked_index(path: Path, packets: list, listed: int, time_base: Fraction, is_avi: bool) -> _Index:
    if not packets:
        raise ClipError(Reason.EMPTY_VIDEO, f"{path.name} holds no frame")
    if len(packets) < listed or any(corrupt for *_, corrupt in packets):
        raise ClipError(
            Reason.CORRUPT_VIDEO, f"{path.name} is truncated: {len(packets)} of {listed or 'more'} frames are there"
        )
    keys = sorted((pts, pts if dts is None else dts) for pts, dts, key, _ in packets if key and pts is not None)
    distinct = {pts for pts, *_ in packets}
    # AVI stores no presentation times: with B-frames the ones it makes up are in the wrong order
    if is_avi or None in distinct or len(distinct) != len(packets) or not keys:
        return _counted_index(path, [dts for _, dts, *_ in packets], time_base)
    pts = np.sort(np.array(list(distinct), np.int64))
    key_pts, key_dts = (np.array(column, np.int64) for column in zip(*keys, strict=True))
    at = np.maximum(np.searchsorted(key_pts, pts, side="right") - 1, 0)
    return _Index(pts, key_pts[at], np.minimum(key_dts, key_pts)[at], time_base, seekable=True)


def _counted_index(path: Path, dts: list[int | None], time_base: Fraction) -> _Index:
    """Decode once and count; frame n is shown at the n-th decoding time (those have the right spacing)."""
    with _open(path) as container:
        try:
            num_frames = sum(1 for _ in container.decode(video=0))
        except av.FFmpegError as error:
            raise ClipError(Reason.CORRUPT_VIDEO, f"{path.name} does not decode: {error}") from error
    if not num_frames:
        raise ClipError(Reason.EMPTY_VIDEO, f"{path.name} holds no frame")
    if None in dts or len(set(dts)) != num_frames:
        detail = f"{path.name} has {len(dts)} packets for {num_frames} frames and no usable times: remux it to .mp4"
        raise ClipError(Reason.CORRUPT_VIDEO, detail)
    pts = np.sort(np.array(dts, np.int64))
    return _Index(pts, np.full_like(pts, pts[0]), np.full_like(pts, pts[0]), time_base, seekable=False)


def _sequential(container, index: _Index, wanted: list[int]):
    chosen, last = set(wanted), wanted[-1]
    number_of = {int(pts): number for number, pts in enumerate(index.pts)}
    for count, picture in enumerate(container.decode(video=0)):
        number = number_of.get(picture.pts) if index.seekable else count
        if number in chosen and not picture.is_corrupt:
            yield number, picture
        if number == last:
            return


def _sparse(container, index: _Index, wanted: list[int]):
    for _, group in groupby(wanted, key=lambda number: index.keyframe_pts[number]):
        yield from _from_keyframe(container, index, list(group))


def _from_keyframe(container, index: _Index, wanted: list[int]):
    """Seek to the group's keyframe, feed packets up to the last wanted one (in decoding order), drain the decoder."""
    stream = container.streams.video[0]
    number_of = {int(index.pts[number]): number for number in wanted}
    left = set(number_of)
    found = []
    for packet in _packets_from(container, stream, int(index.keyframe_pts[wanted[0]]), int(index.seek_ts[wanted[0]])):
        stream.codec_context.skip_frame = "DEFAULT" if packet.pts in left else "NONREF"
        left.discard(packet.pts)
        found = [p for p in stream.codec_context.decode(packet) if p.pts in number_of and not p.is_corrupt]
        yield from ((number_of[p.pts], p) for p in found)
        if not left:
            break
    yield from (
        (number_of[p.pts], p) for p in stream.codec_context.decode(None) if p.pts in number_of and not p.is_corrupt
    )
    stream.codec_context.flush_buffers()


def _packets_from(container, stream, keyframe_pts: int, seek_ts: int):
    """Packets from a keyframe on. Containers may land a keyframe early (skipped) or late (then from the start)."""
    for target in (seek_ts, None):
        if target is None:
            container.seek(0, backward=True)
        else:
            container.seek(target, stream=stream, backward=True)
        packets = (packet for packet in container.demux(stream) if packet.size)
        for packet in packets:
            if packet.pts == keyframe_pts:
                yield packet
                yield from packets
                return
            if packet.is_keyframe and packet.pts > keyframe_pts:
                break


def _times_s(index: _Index) -> np.ndarray:
    return (index.pts - index.pts[0]) * float(index.time_base)


def _nominal_fps(path: Path) -> float:
    with _open(path) as container:
        rate = container.streams.video[0].average_rate
    if not rate:
        raise ClipError(Reason.CORRUPT_VIDEO, f"{path.name} has one frame and no frame rate")
    return float(rate)


def _to_rgb(picture, size: tuple[int, int] | None) -> np.ndarray:
    """RGB as displayed: decoded, scaled, then turned by the stream's rotation (a multiple of 90 degrees)."""
    turns = round(picture.rotation / 90) % 4
    if size is None:
        rgb = picture.to_ndarray(format="rgb24")
    else:
        width, height = size if turns % 2 == 0 else size[::-1]
        rgb = picture.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
