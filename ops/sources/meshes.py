"""Outlines of object models: from a source's mesh file and poses to the object's track with a box in every frame.

Only the extent of the mesh is used: its vertices on the convex hull. Poses object-to-camera, OpenCV axes; metres.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.spatial import ConvexHull, QhullError

from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.sources.base import ObjectTrack

NEAR_M = 0.02  # what is nearer to the camera than this has no pixel worth the name
PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip


def object_track(
    name: str,
    T_cam_obj: Float[np.ndarray, "T 4 4"],
    camera: PinholeCamera,
    outline_m: Float[np.ndarray, "v 3"] | None,
) -> ObjectTrack:
    """Track of an object. T_cam_obj: NaN in frames without a pose. outline_m: vertices in the object's frame.

    Boxes are of the whole outline, cut at the image's border; what hides the object is not taken into account. The
    position is the middle of the outline's extent. Without an outline there is neither.
    """
    if outline_m is None:
        nowhere = np.full((len(T_cam_obj), 4), np.nan)
        return ObjectTrack(name, nowhere, np.zeros(len(T_cam_obj), bool), None, T_cam_obj)
    middle_m = (outline_m.min(axis=0) + outline_m.max(axis=0)) / 2
    boxes_px, visible = boxes(camera, transforms.apply(T_cam_obj[:, None], outline_m))
    return ObjectTrack(name, boxes_px, visible, transforms.apply(T_cam_obj, middle_m), T_cam_obj)


def names_without_boxes(objects: tuple[ObjectTrack, ...]) -> tuple[str, ...]:
    """Objects whose meshes are not there: what a detector may look for."""
    return tuple(thing.name for thing in objects if thing.position_cam is None)


def boxes(
    camera: PinholeCamera, points_cam: Float[np.ndarray, "T v 3"]
) -> tuple[Float64[np.ndarray, "T 4"], Bool[np.ndarray, " T"]]:
    """x0, y0, x1, y1 around the points' pixels, cut at the image's border (NaN outside), and whether they are seen."""
    seen = points_cam[..., 2] > NEAR_M
    px = camera.project(np.where(seen[..., None], points_cam, [0.0, 0.0, 1.0]))
    low = np.where(seen[..., None], px, np.inf).min(axis=1).clip(0)
    high = np.where(seen[..., None], px, -np.inf).max(axis=1).clip(max=[camera.width, camera.height])
    visible = (low < high).all(axis=1)
    return np.where(visible[:, None], np.concatenate([low, high], axis=1), np.nan), visible


def read_outline(path: Path, units_per_m: float = 1.0) -> Float64[np.ndarray, "v 3"]:
    """Vertices of a mesh (.obj or .ply) that lie on its convex hull, metres; kept while the file stays the same.

    Raises ClipError BAD_SIDE_FILE if it is no such file or has no vertex.
    """
    status = path.stat()
    return _read_outline(path, (status.st_size, status.st_mtime_ns)) / units_per_m


@lru_cache(maxsize=256)
def _read_outline(path: Path, _version: tuple[int, int]) -> np.ndarray:
    try:
        vertices = _obj_vertices(path) if path.suffix.lower() == ".obj" else _ply_vertices(path)
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} is no readable mesh: {error}") from error
    if not len(vertices) or not np.isfinite(vertices).all():
        raise ClipError(Reason.BAD_SIDE_FILE, f"{path.name} has no vertices, or some that are not finite")
    try:
        return vertices[ConvexHull(vertices).vertices]
    except QhullError:  # flat or tiny: all of it is the outline
        return vertices


def _obj_vertices(path: Path) -> np.ndarray:
    with path.open(encoding="utf-8", errors="replace") as lines:
        rows = [line.split()[1:4] for line in lines if line.startswith("v ")]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _ply_vertices(path: Path) -> np.ndarray:
    """The vertex element, which must come first, as in every mesh that is written by a common tool."""
    with path.open("rb") as file:
        header = []
        while not header or header[-1] != ["end_header"]:
            line = file.readline(1024)
            if not line or len(header) > 200:
                raise ValueError("no PLY header")
            header.append(line.decode("ascii").split())
        body = file.read()
    form = next(words[1] for words in header if words[:1] == ["format"])
    elements = [i for i, words in enumerate(header) if words[:1] == ["element"]]
    if not elements or header[elements[0]][1] != "vertex":
        raise ValueError("its first element is not the vertices")
    count, end = int(header[elements[0]][2]), [*elements, len(header)][1]
    columns = [words for words in header[elements[0] : end] if words[:1] == ["property"]]
    names = [words[-1] for words in columns]
    if form == "ascii":
        rows = [line.split() for line in body.decode("ascii").splitlines()[:count]]
        return np.array([[row[names.index(axis)] for axis in "xyz"] for row in rows], dtype=np.float64).reshape(-1, 3)
    order = "<" if form == "binary_little_endian" else ">"
    table = np.frombuffer(body, [(words[-1], order + PLY_TYPES[words[1]]) for words in columns], count)
    return np.stack([table[axis] for axis in "xyz"], axis=1).astype(np.float64)
