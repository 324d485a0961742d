"""Features of frames, computed once: both encoders are frozen in every stage, so a frame is encoded only once.

One safetensors file a clip in ``data/.cache/features/<version of the encoders>``, half precision, grown when a stage
asks for more frames. The key holds the encoders' weights and the clip's bytes, so nothing stale can be read.
CUT3R carries a state over the frames of a sample: unless the model starts it afresh at every frame, what is kept is a
whole window of frames, since a frame's tokens then depend on those before it. `python -m bench bench_training` says
what this saves.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors import safe_open
from safetensors.torch import save

from ops.models.vipa import FrameFeatures, VipaVLA
from ops.rejects import ClipError, Reject
from ops.sources.base import Clip
from ops.store import write_file

BATCH = 16  # frames encoded at once


@dataclass(frozen=True, order=True)
class Window:
    """Frames of a clip that one sample shows, oldest first."""

    clip_id: str
    frames: tuple[int, ...]


def encoder_version(model: VipaVLA) -> str:
    """Hash of everything a feature depends on beside the frame: both encoders' weights and input sizes."""
    config = model.config
    sizes = (config.vision.image_size, config.spatial_size, config.state_per_frame)
    digest = hashlib.sha256(repr(sizes).encode())
    for module in (model.vlm.model.vision_tower, model.spatial_encoder):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class FeatureStore:
    """Features of windows by key; see the module."""

    def __init__(self, model: VipaVLA, root: Path, clips: pl.DataFrame) -> None:
        """clips: the table of raw_videos, for the content hashes."""
        self.model, self.per_frame = model, model.config.state_per_frame
        self.folder = root / "data" / ".cache" / "features" / encoder_version(model)
        content = clips.select("clip_id", pl.concat_str("sha256", pl.col("side_sha256").fill_null("")))
        self._content = dict(content.iter_rows())
        self._open: dict[str, tuple[object, dict[tuple[int, ...], int]]] = {}

    def fill(
        self, windows: Iterable[Window], clips: Iterable[Clip], progress: Callable[..., Iterator] | None = None
    ) -> list[Reject]:
        """Encode what is missing. Returns a reject for each clip whose frames cannot be read any more."""
        wanted: dict[str, set[tuple[int, ...]]] = defaultdict(set)
        for window in windows:
            wanted[window.clip_id] |= set(self._units(window))
        todo = [clip for clip in clips if wanted.get(clip.clip_id, set()) - self._known(clip.clip_id).keys()]
        rejects = []
        for clip in progress(todo, total=len(todo), unit="clip") if progress else todo:
            try:
                self._grow(clip, sorted(wanted[clip.clip_id] - self._known(clip.clip_id).keys()))
            except ClipError as error:
                rejects.append(Reject(clip.clip_id, error.reason, detail=str(error)))
        return rejects

    def features(self, windows: Sequence[Window]) -> FrameFeatures:
        """Features of windows of equal length, float32. Raises KeyError for one that was not filled."""
        semantic, spatial = zip(*(self._read(window) for window in windows), strict=True)
        return FrameFeatures(torch.stack(semantic).float(), torch.stack(spatial).float())

    def __contains__(self, window: Window) -> bool:
        return all(unit in self._known(window.clip_id) for unit in self._units(window))

    def _units(self, window: Window) -> list[tuple[int, ...]]:
        return [(frame,) for frame in window.frames] if self.per_frame else [window.frames]

    def _path(self, clip_id: str) -> Path:
        if clip_id not in self._content:
            raise KeyError(f"clip {clip_id} is not in the clips table: rows and raw_videos do not belong together")
        return (
            self.folder / f"{hashlib.sha256((clip_id + self._content[clip_id]).encode()).hexdigest()[:24]}.safetensors"
        )

    def _known(self, clip_id: str) -> dict[tuple[int, ...], int]:
        """Unit -> index of its first frame in the file."""
        if clip_id not in self._open:
            path = self._path(clip_id)
            if not path.is_file():
                return {}
            file = safe_open(path, framework="pt")
            units = [tuple(unit) for unit in json.loads(file.metadata()["units"])]
            starts = np.cumsum([0, *(len(unit) for unit in units)])[:-1].tolist()
            self._open[clip_id] = file, dict(zip(units, starts, strict=True))
        return self._open[clip_id][1]

    def _read(self, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        known = self._known(window.clip_id)
        file = self._open[window.clip_id][0]
        parts = []
        for name in ("semantic", "spatial"):
            rows = file.get_slice(name)  # type: ignore[attr-defined]
            parts.append(torch.cat([rows[known[unit] : known[unit] + len(unit)] for unit in self._units(window)]))
        return parts[0], parts[1]

    def _grow(self, clip: Clip, units: list[tuple[int, ...]]) -> None:
        """Encode units and write them behind those the file has."""
        indices = sorted({frame for unit in units for frame in unit})
        images = {frame.index: torch.from_numpy(frame.rgb) for frame in clip.frames(indices)}
        missing = [index for index in indices if index not in images]
        if missing:
            raise KeyError(f"{clip.clip_id} gave no frames {missing[:5]}: rows and video do not belong together")
        semantic, spatial = encode_units(self.model, images, units)
        known = self._known(clip.clip_id)
        if known:
            file = self._open.pop(clip.clip_id)[0]
            semantic = torch.cat((file.get_tensor("semantic"), semantic))  # type: ignore[attr-defined]
            spatial = torch.cat((file.get_tensor("spatial"), spatial))  # type: ignore[attr-defined]
        metadata = {"units": json.dumps([*known, *units])}
        write_file(self._path(clip.clip_id), save({"semantic": semantic, "spatial": spatial}, metadata))


def encode_units(
    model: VipaVLA, images: dict[int, torch.Tensor], units: Sequence[tuple[int, ...]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both encoders over units in order -> (frames, V, Dv) and (frames, S, Ds), half precision, on the CPU."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, unit in enumerate(units):
        by_length[len(unit)].append(place)
    out: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(units)
    for length, places in by_length.items():
        size = max(1, BATCH // length)
        for start in range(0, len(places), size):
            some = places[start : start + size]
            found = model.encode_frames(torch.stack([torch.stack([images[f] for f in units[place]]) for place in some]))
            for row, place in enumerate(some):
                out[place] = found.semantic[row].half().cpu(), found.spatial[row].half().cpu()
    parts = [part for part in out if part is not None]
    assert len(parts) == len(units)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
