"""Stage calibrated_point_clouds: metric scale of each point map from the hands in it (paper 3.2.1).

s = median over k in Omega of (j_k^z / jhat_k^z), where j is a hand joint in metres, jhat the point map at its pixel,
and Omega the joints that are visible and have a valid depth there. The calibrated cloud s P is never written out: the
scale is kept beside the map, and object positions are given in metres.
"""

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from ops import tables
from ops.config import CalibrationConfig
from ops.perception.point_clouds import PointMaps
from ops.perception.visibility import Visibility, at_pixels
from ops.pipeline import StageContext
from ops.rejects import Reason, Reject
from ops.sources.manifest import read_clips
from ops.store import Report, write_rejects


def run(context: StageContext) -> Report:
    """One scale a sampled frame, with the size of Omega and the spread; rejects carry their reason."""
    clouds = tables.read("point_clouds", context.input("point_clouds") / "point_clouds.parquet")
    joint_z, map_z, visible = gather(context, clouds)
    found = clouds.select("clip_id", "frame", "time_s", pl.col("scale").alias("unit")).with_columns(
        pl.Series(name, values)
        for name, values in zip(("scale", "num_omega", "spread"), scales(joint_z, map_z, visible), strict=True)
    )
    kept, rejects = _accepted(found, context.config.calibrated_point_clouds)
    table = kept.select(pl.col(name).cast(dtype) for name, dtype in tables.dtypes("calibrations").items())
    tables.write("calibrations", table, context.out / "calibrations.parquet")
    positions = _object_positions(context, table, rejects)
    report = Report(rows={"calibrations": table.height, "object_positions": positions.height})
    write_rejects(context.out, rejects, report)
    _summary(report, kept)
    if table.height:
        _picture(table, context.out / "scales.png")
        report.pictures["scales"] = "scales.png"
    return report


def gather(context: StageContext, clouds: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joint depth (m), map depth at the joint's pixel and visibility, (n, 42): both hands, NaN where there is none."""
    hands = tables.read("mano_fits", context.input("mano_fits") / "mano_fits.parquet")
    clips = read_clips(context.input("raw_videos"), context.root)
    sizes = {clip.clip_id: (clip.camera.width, clip.camera.height) for clip in clips}
    by_frame = hands.partition_by(["clip_id", "frame"], as_dict=True)
    joint_z, map_z = np.full((2, clouds.height, 42), np.nan)
    visible = np.zeros((clouds.height, 42), bool)
    with PointMaps(context.input("point_clouds")) as maps:
        for row, cloud in enumerate(context.progress(clouds.to_dicts(), unit="frame")):
            hand = by_frame.get((cloud["clip_id"], cloud["frame"]))
            if hand is None:
                continue
            count = 21 * hand.height
            shrink = np.array([cloud["map_width"], cloud["map_height"]]) / sizes[cloud["clip_id"]]
            px = hand["joints_px"].to_numpy().reshape(-1, 2) * shrink
            joint_z[row, :count] = hand["joints_cam"].to_numpy().reshape(-1, 3)[:, 2]
            map_z[row, :count] = at_pixels(maps.read(cloud["index"])[0][..., 2], px)
            visible[row, :count] = hand["visibility"].to_numpy().reshape(-1) == Visibility.VISIBLE
    return joint_z, map_z, visible


def scales(
    joint_z: Float[np.ndarray, "n k"], map_z: Float[np.ndarray, "n k"], visible: Bool[np.ndarray, "n k"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(s (n,), size of Omega (n,), spread (n,)) of n frames.

    joint_z: metres. map_z: the maps' own unit, NaN where there is no depth. spread: median absolute deviation of the
    ratios, as a share of s. For an empty Omega s and spread are NaN. For an even count the median is the mean of the
    middle two (torch.median would take the lower).
    """
    with np.errstate(invalid="ignore"):
        omega = visible & (map_z > 0) & (joint_z > 0)
        ratios = np.where(omega, joint_z / map_z, np.inf)
    count = omega.sum(axis=1)
    s = _row_medians(ratios, count)
    with np.errstate(invalid="ignore"):
        spread = _row_medians(np.where(omega, np.abs(ratios - s[:, None]), np.inf), count) / s
    return s, count, spread


def _row_medians(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Medians of the first `count` finite values a row, the rest being inf; NaN for none."""
    ordered = np.sort(values, axis=1)
    rows = np.arange(len(values))
    low, high = np.maximum(count - 1, 0) // 2, count // 2
    with np.errstate(invalid="ignore"):
        middle = (ordered[rows, low] + ordered[rows, np.minimum(high, values.shape[1] - 1)]) / 2
    return np.where(count > 0, middle, np.nan)


def _accepted(found: pl.DataFrame, config: CalibrationConfig) -> tuple[pl.DataFrame, list[Reject]]:
    few = pl.col("num_omega") < config.min_omega
    loose = ~few & (pl.col("spread") > config.max_spread)
    rejects = [
        Reject(
            row["clip_id"],
            Reason.TOO_FEW_SCALE_JOINTS,
            row["frame"],
            detail=f"{row['num_omega']} visible joints with a valid depth, {config.min_omega} needed",
        )
        for row in found.filter(few).iter_rows(named=True)
    ]
    rejects += [
        Reject(
            row["clip_id"],
            Reason.SCALE_SPREAD_TOO_LARGE,
            row["frame"],
            detail=f"spread {row['spread']:.3f} of s = {row['scale']:.3f}, at most {config.max_spread} allowed",
        )
        for row in found.filter(loose).iter_rows(named=True)
    ]
    return found.filter(~few & ~loose), rejects


def _object_positions(context: StageContext, table: pl.DataFrame, rejects: list[Reject]) -> pl.DataFrame:
    """Objects of calibrated frames, in metres; the others are rejected."""
    objects = tables.read("objects", context.input("objects") / "objects.parquet")
    scaled = objects.join(table.select("clip_id", "frame", pl.col("scale")), on=["clip_id", "frame"], how="left")
    rejects += [
        Reject(row["clip_id"], Reason.NOT_CALIBRATED, row["frame"], detail=f"object {row['name']}")
        for row in scaled.filter(pl.col("scale").is_null()).iter_rows(named=True)
    ]
    kept = scaled.filter(pl.col("scale").is_not_null())
    metric = kept["position_map"].to_numpy() * kept["scale"].to_numpy()[:, None]
    position = pl.Series("position_cam", metric.astype(np.float32).reshape(-1, 3), dtype=tables.vec(3))
    positions = kept.with_columns(position).select(list(tables.dtypes("object_positions")))
    tables.write("object_positions", positions, context.out / "object_positions.parquet")
    return positions


def _summary(report: Report, table: pl.DataFrame) -> None:
    if table.height:
        report.metrics = {
            "scale_median": float(table["scale"].median()),
            "num_omega_median": float(table["num_omega"].median()),
            "spread_median": float(table["spread"].median()),
        }
    metric = table.filter(unit="metric")
    if metric.height:
        report.metrics["metric_map_scale_median"] = float(metric["scale"].median())
        report.notes.append(
            "metric_map_scale_median is s where the map is metric already: it would be 1 if joints lay on the skin; "
            "they lie some millimetres below it, so s comes out larger by about that depth over the hand's distance."
        )


def _picture(table: pl.DataFrame, path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8))
    for axis, name, label in zip(
        axes,
        ("scale", "num_omega", "spread"),
        ("scale s, m per unit of the map", "joints in Omega", "spread of the joints' ratios / s"),
        strict=True,
    ):
        axis.hist(table[name].to_numpy(), bins=30, color="#1f6feb")
        axis.set(xlabel=label, ylabel="frames")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
