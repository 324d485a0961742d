"""Videos of 16-bit grey frames, as sources store depth (FFV1): any frame, without decoding the whole.

Frames are counted from 0 in the order of their packets; such codecs have no B-frames.
"""

from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt16

from ops.rejects import ClipError, Reason
from ops.video import LOCAL_ONLY

OPEN_AT_ONCE = 4  # decoders kept: a stage reads a few clips side by side, not thousands


def grey_video(path: Path) -> "GreyVideo":
    """An open video; kept while the file stays the same. Raises ClipError MISSING_SIDE_FILE, BAD_SIDE_FILE."""
    if not path.is_file():
        raise ClipError(Reason.MISSING_SIDE_FILE, f"{path} is missing")
    return _opened(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=OPEN_AT_ONCE)
def _opened(path: Path, _version: int) -> "GreyVideo":
    return GreyVideo(path)


class GreyVideo:
    """len(): number of frames. Reading forward decodes every frame once; jumps go by the keyframe before."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._container = av.open(str(path), options=LOCAL_ONLY)
            self._stream = self._container.streams.video[0]
            packets = [(p.dts, p.is_keyframe) for p in self._container.demux(self._stream) if p.size]
        except (av.FFmpegError, IndexError) as error:
            raise self._bad(f"is no readable video: {error}") from error
        self._stream.codec_context.thread_count = 1
        self._dts = [dts for dts, _ in packets]
        self._keyframes = np.flatnonzero([key for _, key in packets])
        if not len(self._keyframes) or self._keyframes[0] != 0 or None in self._dts:
            raise self._bad(
                f"has {len(packets)} packets and no usable keyframes: convert it with ffmpeg -c:v ffv1 -g 1"
            )
        self._decoded = iter(())
        self._next = len(packets)  # past the end: the first read seeks
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._dts)

    def read(self, frame: int) -> UInt16[np.ndarray, "H W"]:
        """The stored numbers of a frame. Raises ClipError BAD_SIDE_FILE, IndexError."""
        if not 0 <= frame < len(self):
            raise IndexError(f"{self.path.name} has frames 0 to {len(self) - 1}, asked for {frame}")
        if self._last is not None and self._last[0] == frame:
            return self._last[1]
        keyframe = int(self._keyframes[np.searchsorted(self._keyframes, frame, side="right") - 1])
        try:
            if not keyframe <= self._next <= frame:
                self._go_to(keyframe)
            while True:
                number, picture = self._next, next(self._decoded)
                self._next += 1
                if number == frame:
                    break
        except (av.FFmpegError, StopIteration) as error:
            self._next = len(self)
            raise self._bad(f"does not decode at frame {frame} of {len(self)}", frame) from error
        if picture.format.name not in ("gray16le", "gray16be"):
            raise self._bad(f"holds {picture.format.name} frames, depth needs gray16", frame)
        self._last = (frame, picture.to_ndarray(format="gray16le"))
        return self._last[1]

    def _go_to(self, keyframe: int) -> None:
        """Start decoding at a keyframe. A container may land earlier: those frames are dropped unseen."""
        self._container.seek(self._dts[keyframe], stream=self._stream, backward=True)
        self._stream.codec_context.flush_buffers()
        self._decoded = self._pictures_from(self._dts[keyframe])
        self._next = keyframe

    def _pictures_from(self, dts: int):
        for packet in self._container.demux(self._stream):
            if packet.size and packet.dts >= dts:
                yield from self._stream.codec_context.decode(packet)
        yield from self._stream.codec_context.decode(None)

    def _bad(self, what: str, frame: int = -1) -> ClipError:
        return ClipError(Reason.BAD_SIDE_FILE, f"{self.path.name} {what}", frame)


def write_grey_video(path: Path, frames: Iterable[UInt16[np.ndarray, "H W"]], fps: float) -> None:
    """FFV1 of 16-bit grey frames, every one a keyframe; for examples of the sources that store depth so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = list(frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = images[0].shape
        stream.pix_fmt, stream.gop_size = "gray16le", 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray16le")))
        container.mux(stream.encode(None))
