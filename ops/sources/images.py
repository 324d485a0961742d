"""Clips that a source stores as one image a frame, instead of a video file."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ops.rejects import ClipError, Reason
from ops.video import Frame, VideoInfo


def probe_images(files: Sequence[Path], fps: float) -> VideoInfo:
    """What a sequence of images, in frame order, holds; the first one is decoded. Raises ClipError if there is none."""
    if not files:
        raise ClipError(Reason.EMPTY_VIDEO, "no image in the sequence")
    height, width = _read(files[0], 0).shape[:2]
    return VideoInfo(fps, len(files), width, height, np.arange(len(files)) / fps, len(files))


def read_images(
    files: Sequence[Path],
    times_s: Float[np.ndarray, " T"],
    indices: Iterable[int] | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[Frame]:
    """Frames of an image sequence, as ops.video.read_frames gives those of a video."""
    import cv2

    wanted = range(len(files)) if indices is None else sorted(set(indices))
    for index in wanted:
        if not 0 <= index < len(files):
            raise IndexError(f"the sequence has frames 0 to {len(files) - 1}, asked for {index}")
        rgb = _read(files[index], index)
        if size is not None:
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        yield Frame(index, float(times_s[index]), rgb)


def _read(file: Path, index: int) -> np.ndarray:
    import cv2

    bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ClipError(Reason.CORRUPT_VIDEO, f"{file.name} is missing or no readable image", index)
    return np.ascontiguousarray(bgr[..., ::-1])
