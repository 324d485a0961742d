"""Stage point_clouds: one point map for each sampled frame (paper 3.2.1: CUT3R at 1 fps).

A map gives, for each pixel of the resized frame, the point seen there: camera frame of that frame, OpenCV axes, in the
map's own unit (metric or up to a scale, said per row), NaN where there is none. Routes, first that a clip allows:
`sensor_depth` (a depth sensor, metric), `cut3r` (if its weights are configured), `two_view` (the camera moves; metric
if its poses are given). A camera that stands still gives no depth by two views; such frames are rejected with that
reason, never filled in.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import polars as pl
from jaxtyping import Float

from ops import contact_sheet, tables
from ops.config import PointCloudsConfig
from ops.perception import drawing, pairs
from ops.perception.depth_maps import map_size, points_of_depth, shrink_depth
from ops.pipeline import StageContext
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import Clip, sampled_frames
from ops.sources.manifest import clip_rows, read_clip
from ops.store import Report, write_rejects

FILE = "point_maps.npz"
MAX_PICTURES = 8


class PointMapEstimator(Protocol):
    """A model that gives point maps from the frames of a clip alone (CUT3R: ops.models.cut3r)."""

    def maps(self, frames: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """RGB uint8 frames -> (points (h, w, 3) in each frame's own camera, confidence (h, w))."""


class PointMaps:
    """The arrays of a shard; a context manager. Rows of point_clouds.parquet give the index.

    An npz (a zip of `<index>/points.npy` (3, h, w) and `<index>/confidence.npy` (h, w), half precision), written entry
    by entry. Not HDF5: on a full disk its library ends the process instead of raising.
    """

    def __init__(self, folder: Path) -> None:
        self._file = zipfile.ZipFile(folder / FILE)

    def __enter__(self) -> "PointMaps":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, index: int) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
        points = np.moveaxis(self._array(f"{index:06d}/points.npy"), 0, -1)
        return points.astype(np.float32), self._array(f"{index:06d}/confidence.npy").astype(np.float32)

    def _array(self, name: str) -> np.ndarray:
        with self._file.open(name) as entry:
            return np.lib.format.read_array(entry, allow_pickle=False)


def read_point_map(folder: Path, index: int) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """(points (h, w, 3) in the map's own unit, NaN where none; confidence (h, w), 0 where none)."""
    with PointMaps(folder) as maps:
        return maps.read(index)


def run(context: StageContext) -> Report:
    """point_clouds.parquet, point_maps.npz and rejects.parquet of a shard."""
    config = context.config.point_clouds
    hands = tables.read("mano_fits", context.input("mano_fits") / "mano_fits.parquet")
    clips = [(row, hands.filter(clip_id=row["clip_id"])) for row in clip_rows(context.input("raw_videos"))]
    rows, rejects, pictures, captions = [], [], [], []
    with zipfile.ZipFile(context.out / FILE, "w") as file:
        for maps in context.each_parts(load_mapper, (context.root, config), clips, "clip", _lost):
            for found in maps:
                if isinstance(found, Reject):
                    rejects.append(found)
                    continue
                row, points, confidence, rgb = found
                row["index"] = len(rows)
                _store(file, len(rows), points, confidence)
                rows.append(row)
                if len(pictures) < MAX_PICTURES and (not pictures or row["frame"] == 0 or len(rows) % 12 == 3):
                    pictures.append(_beside(rgb, points[..., 2]))
                    captions.append(f"{row['clip_id']} {row['time_s']:.1f} s; {_said_of_depth(row, points[..., 2])}")
    table = tables.frame("point_clouds", rows)
    tables.write("point_clouds", table, context.out / "point_clouds.parquet")
    report = Report(rows={"point_clouds": table.height})
    write_rejects(context.out, rejects, report)
    if rows:
        report.metrics = {
            "coverage_mean": float(table["coverage"].mean()),
            "size_mb": (context.out / FILE).stat().st_size / 1e6,
        }
        report.tables = {"routes": table.group_by("route", "scale", "pose").len("frames").sort("route").to_dicts()}
        contact_sheet.sheet(pictures, captions, context.out / "maps.png", width=520, columns=(2,))
        report.pictures["frames and their depth"] = "maps.png"
    return report


def _beside(rgb: np.ndarray, z: np.ndarray) -> np.ndarray:
    """A frame and its depth as colours, side by side."""
    size = (rgb.shape[1], rgb.shape[0])
    return np.hstack([rgb, cv2.resize(drawing.depth(z), size, interpolation=cv2.INTER_NEAREST)])


def _said_of_depth(row: dict, z: np.ndarray) -> str:
    """Below a depth map: where it is from and what its colours span."""
    low, high = drawing.depth_range(z)
    unit = "m" if row["scale"] == "metric" else "units of the map"
    return f"{row['route']}: {low:.2f} (red) to {high:.2f} {unit}"


Found = tuple[dict, np.ndarray, np.ndarray, np.ndarray]
Task = tuple[dict, pl.DataFrame]  # row of clips.parquet; rows of mano_fits.parquet


def load_mapper(root: Path, config: PointCloudsConfig) -> Callable[[Task], Iterator[Found | Reject]]:
    """What a worker does with a clip (`clip_maps`); it loads the model once."""
    estimator = load_estimator(config)
    return lambda task: clip_maps(read_clip(task[0], root), task[1], config, estimator)


def _lost(task: Task, why: str) -> list[Found | Reject]:
    return [Reject(task[0]["clip_id"], Reason.CRASHED_WORKER, detail=why)]


def clip_maps(
    clip: Clip, hands: pl.DataFrame, config: PointCloudsConfig, estimator: PointMapEstimator | None = None
) -> Iterator[Found | Reject]:
    """(row, points, confidence, rgb) or a reject for each sampled frame of a clip."""
    size = map_size(clip.camera, config.long_edge)
    frames = sampled_frames(clip.times_s, config.fps)
    try:
        if clip.has_depth and not config.ignore_depth:
            yield from _sensor(clip, frames, size)
        elif estimator is not None:
            yield from _estimated(clip, frames, size, estimator)
        else:
            yield from _two_view(clip, frames, hands, size)
    except ClipError as error:
        yield error.reject(clip.clip_id)


def _sensor(clip: Clip, frames: list[int], size: tuple[int, int]) -> Iterator[Found | Reject]:
    camera = clip.camera.resized(*size)
    for frame in clip.frames(frames, size):
        depth = clip.depth_m(frame.index)
        if depth is None:
            detail = "the source has no depth for this frame"
            yield Reject(clip.clip_id, Reason.DEPTH_MISSING, frame.index, detail=detail)
            continue
        points = points_of_depth(shrink_depth(depth, size), camera)
        confidence = np.isfinite(points[..., 2]).astype(np.float32)
        yield _row(clip, frame, size, points, "sensor_depth", "metric"), points, confidence, frame.rgb


def _two_view(clip: Clip, frames: list[int], hands: pl.DataFrame, size: tuple[int, int]) -> Iterator[Found | Reject]:
    still, seen = pairs.still_frames(clip, frames), pairs.Hands.of(hands)
    metric = "metric" if clip.T_cam_world is not None else "relative"
    for index in frames:
        if index in still:
            detail = "the camera stands still: two views show no depth; use a source with depth, or CUT3R"
            yield Reject(clip.clip_id, Reason.DEPTH_NONE_STATIC_CAMERA, index, detail=detail)
            continue
        found = pairs.frame_map(clip, index, seen, size)
        if isinstance(found, Reject):
            yield found
            continue
        frame, points, confidence = found
        yield _row(clip, frame, size, points, "two_view", metric), points, confidence, frame.rgb


def _estimated(
    clip: Clip, frames: list[int], size: tuple[int, int], estimator: PointMapEstimator
) -> Iterator[Found | Reject]:
    """All sampled frames of a clip go through the model together: it keeps a state from frame to frame."""
    pictures = list(clip.frames(frames))
    for frame, (points, confidence) in zip(pictures, estimator.maps([f.rgb for f in pictures]), strict=True):
        points = np.stack([shrink_depth(points[..., axis], size) for axis in range(3)], axis=-1).astype(np.float32)
        rgb = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
        yield _row(clip, frame, size, points, "cut3r", "relative"), points, shrink_depth(confidence, size), rgb


def load_estimator(config: PointCloudsConfig) -> PointMapEstimator | None:
    """The model that params.yaml names, or None. Raises FileNotFoundError saying what is missing."""
    if config.cut3r is None:
        return None
    if not Path(config.cut3r).is_file():
        raise FileNotFoundError(
            f"no CUT3R weights at {config.cut3r} (point_clouds.cut3r): download cut3r_512_dpt_4_64.pth from the "
            "authors' page (CC BY-NC-SA 4.0), or set point_clouds.cut3r to null for the routes without weights"
        )
    # by name, as ops.stages does: models stand above perception in the order of imports
    return import_module("ops.models.cut3r_maps").load_estimator(Path(config.cut3r))


def _row(clip: Clip, frame, size: tuple[int, int], points: np.ndarray, route: str, scale: str) -> dict:
    pose = None if clip.T_cam_world is None else clip.T_cam_world[frame.index].reshape(16)
    return {
        "clip_id": clip.clip_id,
        "frame": frame.index,
        "time_s": frame.time_s,
        "route": route,
        "scale": scale,
        "map_width": size[0],
        "map_height": size[1],
        "coverage": float(np.isfinite(points[..., 2]).mean()),
        "T_cam_world": pose,
        "pose": "none" if pose is None else "given",
    }


def _store(file: zipfile.ZipFile, index: int, points: np.ndarray, confidence: np.ndarray) -> None:
    """Half precision: at 0.5 m the step is 0.25 mm, well below what any route here measures.

    Coordinate by coordinate, which packs 10 % better. The date is fixed: equal maps give equal bytes.
    """
    for name, array in (("points", np.moveaxis(points, -1, 0)), ("confidence", confidence)):
        entry = zipfile.ZipInfo(f"{index:06d}/{name}.npy")
        entry.compress_type = zipfile.ZIP_DEFLATED
        packed = io.BytesIO()
        np.lib.format.write_array(packed, np.ascontiguousarray(array, np.float16), allow_pickle=False)
        file.writestr(entry, packed.getvalue(), compresslevel=3)
