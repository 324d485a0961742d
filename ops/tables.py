"""Schemas of every table on disk (Parquet, polars). One place, so that a reader of data needs one page.

Units: metres, radians, seconds, pixels. Frames: ``_cam`` = OpenCV camera axes of that very frame
(x right, y down, z forward); image coordinates are continuous, the first pixel's centre is (0.5, 0.5).
Vectors are fixed-size arrays, matrices are row-major and flat; on disk, those that may be null are plain lists. Joints are in OpenPose order (CONVENTIONS.md).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandera.polars as pa
import polars as pl

F32, F64, I32, I64, U8, U16, STR, BOOL = (
    pl.Float32, pl.Float64, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.String, pl.Boolean,
)  # fmt: skip


def vec(size: int, dtype: type[pl.DataType] = F32) -> pl.Array:
    return pl.Array(dtype, size)


ROW_GROUP = 50_000  # rows
SIDES = ["left", "right"]
BOTH = "both"
LEVELS = ["chunk", "second"]
SPLITS = ["train", "test"]
VISUAL_TASKS = ["spatial_relation", "task_completion", "hand_movement", "camera_movement"]
ACTION_TASKS = ["instructional_motion_generation", "contextual_motion_prediction", "motion_translation"]

_one_of = pa.Check.isin
_positive = pa.Check.gt(0)
_not_negative = pa.Check.ge(0)


def _col(dtype, *checks: pa.Check, null: bool = False) -> pa.Column:
    return pa.Column(dtype, checks=list(checks) or None, nullable=null)


_FRAME_KEY = {"clip_id": _col(STR), "frame": _col(I32, _not_negative), "time_s": _col(F64, _not_negative)}

SCHEMAS: dict[str, pa.DataFrameSchema] = {
    # one row a readable video
    "clips": pa.DataFrameSchema(
        {
            "clip_id": pa.Column(STR, unique=True),  # "<source>/<name>"
            "source": _col(STR),
            "kind": _col(STR),  # which reader of ops.sources reads it
            "video": _col(STR),  # file or folder of images, relative to the workspace root where it lies inside it
            "root": _col(STR),  # the shard's folder, likewise
            "view": _col(STR, null=True),  # as params.yaml asked for it
            "hand_model": _col(STR, null=True),  # folder of the MANO files that the labels belong to; null = stand-in
            "sha256": _col(STR, pa.Check.str_length(64, 64)),  # of the video's bytes
            "side_sha256": _col(STR, null=True),  # of its label / side files
            "num_bytes": _col(I64, _positive),
            "fps": _col(F64, _positive),
            "num_frames": _col(I32, _positive),
            "video_width": _col(I32, _positive),  # of the recorded image
            "video_height": _col(I32, _positive),
            "width": _col(I32, _positive),  # of the undistorted image
            "height": _col(I32, _positive),
            "fx": _col(F64, _positive),  # pixels, of the undistorted image
            "fy": _col(F64, _positive),
            "cx": _col(F64),
            "cy": _col(F64),
            "intrinsics": _col(STR, _one_of(["given", "assumed"])),
            "has_labels": _col(BOOL),
            "has_depth": _col(BOOL),
            "split": _col(STR, _one_of(SPLITS)),
            "subject": _col(STR),  # who acts; "" = not said
            "licence": _col(STR),
            "noncommercial": _col(BOOL),
            "redistributable": _col(BOOL),
        },
        strict=True,
    ),
    # one row a hand in a frame
    "mano_fits": pa.DataFrameSchema(
        _FRAME_KEY
        | {
            "side": _col(STR, _one_of(SIDES)),
            "theta": _col(vec(45)),  # finger axis-angle, flat hand mean, MANO joint order
            "r": _col(vec(3)),  # wrist axis-angle, camera frame
            "tau": _col(vec(3)),  # WRIST position, camera frame, m
            "beta": _col(vec(10)),
            "joints_cam": _col(vec(63)),  # 21 x 3, m
            "joints_px": _col(vec(42)),  # 21 x 2, pixels; NaN behind the camera
            "visibility": _col(vec(21, U8)),  # ops.perception.visibility.Visibility a joint
            "residual_mm": _col(F32, _not_negative),  # mean distance of fitted to measured joints; 0 for given MANO
            "reprojection_px": _col(F32, _not_negative, null=True),  # null where nothing was detected in the image
            "score": _col(F32),  # tracker's confidence, 1 for labels
            "route": _col(STR, _one_of(["labels", "joints", "mediapipe", "hawor"])),
            "hand_model": _col(STR),  # "anny-standin" or "mano"
        },
        strict=True,
    ),
    # one row a sampled frame that has a point map; arrays lie in point_maps.npz at `index`
    "point_clouds": pa.DataFrameSchema(
        _FRAME_KEY
        | {
            "index": _col(I32, _not_negative),
            "route": _col(STR, _one_of(["sensor_depth", "two_view", "cut3r"])),
            "scale": _col(STR, _one_of(["metric", "relative"])),
            "map_width": _col(I32, _positive),
            "map_height": _col(I32, _positive),
            "coverage": _col(F32, pa.Check.in_range(0, 1)),  # share of pixels with a valid depth
            "T_cam_world": _col(vec(16, F64), null=True),  # world-to-camera; null where unknown
            "pose": _col(STR, _one_of(["given", "two_view", "none"])),
        },
        strict=True,
    ),
    # one row an object in a sampled frame
    "objects": pa.DataFrameSchema(
        _FRAME_KEY
        | {
            "name": _col(STR),
            "box_px": _col(vec(4)),  # x0, y0, x1, y1
            "score": _col(F32),
            "route": _col(STR, _one_of(["labels", "proposal", "grounding_dino"])),
            "position_map": _col(vec(3)),  # in the point map's own scale, camera frame
        },
        strict=True,
    ),
    # one row a sampled frame with a metric scale
    "calibrations": pa.DataFrameSchema(
        _FRAME_KEY
        | {
            "scale": _col(F64, _positive),  # s = median(j_z / jhat_z) over Omega
            "num_omega": _col(I32, _positive),
            "spread": _col(F32, _not_negative),  # median absolute deviation of the ratios / s
        },
        strict=True,
    ),
    "object_positions": pa.DataFrameSchema(
        _FRAME_KEY
        | {
            "name": _col(STR),
            "box_px": _col(vec(4)),
            "position_cam": _col(vec(3)),  # m, calibrated
            "route": _col(STR),
        },
        strict=True,
    ),
    # question-answer rows (hand3d_visual and hand3d_test)
    "visual_rows": pa.DataFrameSchema(
        {
            "row_id": pa.Column(STR, unique=True),
            "clip_id": _col(STR),
            "source": _col(STR),
            "split": _col(STR, _one_of(SPLITS)),
            "task": _col(STR, _one_of(VISUAL_TASKS)),
            "frames": _col(pl.List(I32)),  # 1-4 frame indices, oldest first
            "side": _col(STR, null=True),
            "object": _col(STR, null=True),
            "instruction": _col(STR, null=True),  # task completion only
            "question": _col(STR),
            "answer": _col(STR),
            "wording": _col(STR),  # "grammar", or the model that worded question and answer
            "start": _col(
                vec(3), null=True
            ),  # m, where the vector begins, camera frame of the LAST frame; null for a camera
            "vector": _col(vec(3)),  # m, camera frame of the LAST frame
            "distance_m": _col(F32, _not_negative),
            "direction": _col(vec(3, pl.Int8)),  # -1, 0, 1 an axis: +x right, +y down, +z forward
            "rotation": _col(vec(3), null=True),  # axis-angle, camera movement only
            "contact": _col(BOOL, null=True),  # null where the source does not say
            "scale": _col(F64),
            "spread": _col(F32, null=True),  # of the scale, as in calibrations; null where no point map was needed
            "num_omega": _col(I32, null=True),
            "intrinsics": _col(STR, _one_of(["given", "assumed"])),
            "licence": _col(STR),
            "noncommercial": _col(BOOL),
            "redistributable": _col(BOOL),
        },
        strict=True,
    ),
    "action_rows": pa.DataFrameSchema(
        {
            "row_id": pa.Column(STR, unique=True),
            "clip_id": _col(STR),
            "source": _col(STR),
            "split": _col(STR, _one_of(SPLITS)),
            "task": _col(STR, _one_of(ACTION_TASKS)),
            "chunk": _col(I32, _not_negative),
            "frame": _col(I32, _not_negative),  # conditioning image; waypoints are in ITS camera frame
            "level": _col(STR, _one_of(LEVELS)),
            "start_s": _col(F64, _not_negative),  # of the clip; the last waypoint is (n - 1) / waypoint_hz later
            "side": _col(STR, _one_of([*SIDES, BOTH])),  # both: waypoints alternate, left first
            "instruction": _col(STR),
            "prompt": _col(STR),  # without motion tokens
            "context_tokens": _col(pl.List(U16)),  # motion already seen (prediction, translation); else empty
            "target_tokens": _col(pl.List(U16)),  # motion to produce; empty for translation
            "target_text": _col(STR, null=True),  # text to produce (translation); else null
            "waypoints": _col(pl.List(F32)),  # flat n x 3, m: context + target
            "waypoint_hz": _col(F32, _positive),
            "displacement_m": _col(F32, _not_negative),  # path length, of the hand that moves more
            "num_clipped": _col(I32, _not_negative),
            "intrinsics": _col(STR, _one_of(["given", "assumed"])),
            "licence": _col(STR),
            "noncommercial": _col(BOOL),
            "redistributable": _col(BOOL),
        },
        strict=True,
    ),
    "trials": pa.DataFrameSchema(
        {
            "policy": _col(STR),  # "policy", "random", "mean_action", "expert"
            "suite": _col(STR),
            "task_id": _col(I32),
            "task": _col(STR),
            "init_index": _col(I32),
            "seed": _col(I64),
            "success": _col(BOOL),
            "progress": _col(F32, pa.Check.in_range(0, 1)),  # reached, lifted, placed: thirds
            "steps": _col(I32),
            "terminated_by": _col(STR, _one_of(["success", "horizon", "error"])),
            "policy_calls": _col(I32),
            "wall_s": _col(F32),
        },
        strict=True,
    ),
    "rejects": pa.DataFrameSchema(
        {"item": _col(STR), "reason": _col(STR), "frame": _col(I32), "side": _col(STR), "detail": _col(STR)},
        strict=True,
    ),
}


def dtypes(name: str) -> dict[str, pl.DataType]:
    return {column: spec.dtype.type for column, spec in SCHEMAS[name].columns.items()}


def frame(name: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    """Rows -> validated table. Works for no rows as well. Raises pandera's SchemaError naming column and case."""
    return validate(name, pl.DataFrame(rows, schema=dtypes(name)))


def validate(name: str, table: pl.DataFrame) -> pl.DataFrame:
    return SCHEMAS[name].validate(table)


def write(name: str, table: pl.DataFrame, path: Path) -> None:
    _stored(name, validate(name, table)).write_parquet(path, compression="zstd")


@contextmanager
def writer(name: str, path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Yield a function that appends a table to the file: for more rows than memory holds.

    At least ROW_GROUP rows are checked and written at a time, but for the last; uniqueness is checked within those.
    """
    import pyarrow.parquet as pq

    schema = _stored(name, pl.DataFrame(schema=dtypes(name))).to_arrow().schema
    coded = [column for column in _leaves(schema) if not column.startswith("waypoints")]  # of floats no two are equal
    held: list[pl.DataFrame] = []
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=coded) as file:

        def append(table: pl.DataFrame, at_least: int = ROW_GROUP) -> None:
            held.append(table)
            if sum(map(len, held)) >= at_least:
                together = validate(name, pl.concat(held))
                held.clear()
                file.write_table(_stored(name, together).to_arrow().cast(schema), row_group_size=ROW_GROUP)

        yield append
        append(pl.DataFrame(schema=dtypes(name)), at_least=1)


def _stored(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """As it is written: Arrow, and with it pandas, cannot read fixed-size lists with nulls back from Parquet
    (apache/arrow#35692)."""
    return table.with_columns(pl.col(column).arr.to_list() for column in _vectors_with_nulls(name))


def _vectors_with_nulls(name: str) -> list[str]:
    columns = SCHEMAS[name].columns.items()
    return [column for column, spec in columns if spec.nullable and isinstance(spec.dtype.type, pl.Array)]


def _leaves(schema) -> list[str]:
    """Columns by the names Parquet gives them; a list's numbers lie one level deeper."""
    import pyarrow as arrow

    lists = (arrow.types.is_large_list, arrow.types.is_list, arrow.types.is_fixed_size_list)
    return [f"{field.name}.list.element" if any(test(field.type) for test in lists) else field.name for field in schema]


def read(name: str, path: Path) -> pl.DataFrame:
    """Read one parquet file, or all of that name below a folder of shards, in shard order."""
    paths = [path] if path.is_file() else sorted(path.glob(f"*/{name}.parquet"))
    if not paths:
        raise FileNotFoundError(f"no {name}.parquet at {path} or in a shard folder below it: run its stage first")
    vectors = {column: dtypes(name)[column] for column in _vectors_with_nulls(name)}
    return validate(name, pl.concat([pl.read_parquet(p).cast(vectors) for p in paths]))
