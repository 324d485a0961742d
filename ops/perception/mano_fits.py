"""Stage mano_fits: every hand of every frame as MANO {theta, r, tau, beta} with 21 joints (paper 3.2.1).

Labels where the source has them, else the tracker's joints fitted by ops.hands.fit. Camera frame of the very frame,
metres; CONVENTIONS.md says what theta, r and tau mean. A hand of which no joint is in view is dropped with a reason.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ops import tables
from ops.bootstrap import weights_dir
from ops.config import ManoFitsConfig
from ops.hands.mano import HandModel, load_models
from ops.perception import drawing
from ops.perception.settling import Settled, settle
from ops.perception.tracker import Landmarker
from ops.perception.tracks import TrackedHand, track
from ops.perception.visibility import Visibility, at_pixels, classify
from ops.pipeline import StageContext
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import Clip, HandTrack, sampled_frames
from ops.sources.manifest import read_clips
from ops.store import Report, write_file, write_rejects

MAX_RESIDUAL_MM = 15.0  # ASSUMED: a hand model that misses the measured joints by more is a wrong detection
MAX_PICTURES = 12


@dataclass(frozen=True)
class Measured:
    """MANO of n frames of one hand before it is a table; see ops/tables.py for the columns."""

    side: str
    frames: np.ndarray
    theta: np.ndarray
    r: np.ndarray
    tau: np.ndarray
    beta: np.ndarray
    joints: np.ndarray
    residual_mm: np.ndarray
    reprojection_px: np.ndarray | None
    scores: np.ndarray


def run(context: StageContext) -> Report:
    """mano_fits.parquet and rejects.parquet of a shard; clips done before an interruption are not done again."""
    config, weights = context.config.mano_fits, weights_dir(context.root)
    standin = load_models(weights / "hand_model")
    # labels belong to the model they were made with, which is the stand-in for every source that has labels so far
    tracked = load_models(context.root / config.hand_model) if config.hand_model else standin
    clips = list(read_clips(context.input("raw_videos"), context.root))
    versions = _versions(context.input("raw_videos"))
    parts, rejects = [], []
    for clip in context.progress(clips, unit="clip"):
        models = standin if clip.has_labels and not config.ignore_labels else tracked
        table, dropped = _kept_or_new(context.scratch, clip, versions[clip.clip_id], config, models, weights)
        parts.append(table)
        rejects += dropped
    table = pl.concat(parts) if parts else tables.frame("mano_fits", [])
    tables.write("mano_fits", table, context.out / "mano_fits.parquet")
    report = Report(rows={"mano_fits": table.height})
    write_rejects(context.out, rejects, report)
    _summary(report, table, clips, rejects)
    if table.height:
        _picture(table, clips, context.out / "hands.png")
        report.pictures["fitted hands"] = "hands.png"
    return report


def clip_fits(
    clip: Clip, config: ManoFitsConfig, models: dict[str, HandModel], landmarker: Path
) -> tuple[pl.DataFrame, list[Reject]]:
    """Rows and rejects of one clip."""
    wanted = (
        list(range(clip.num_frames)) if config.sample_fps is None else sampled_frames(clip.times_s, config.sample_fps)
    )
    try:
        if clip.has_labels and not config.ignore_labels:
            hands, rejects, route = *_labelled(clip, wanted, models), "labels"
        else:
            hands, rejects, route = *_tracked(clip, wanted, config, models, landmarker), "mediapipe"
    except ClipError as error:
        return tables.frame("mano_fits", []), [error.reject(clip.clip_id)]
    parts = [tables.frame("mano_fits", [])]
    for hand in hands:
        table, dropped = _rows(clip, hand, route, models[hand.side].name)
        parts.append(table)
        rejects += dropped
    return pl.concat(parts).sort("frame", "side"), rejects


def _versions(raw_videos: Path) -> dict[str, str]:
    """Content of each clip's video and labels."""
    clips = tables.read("clips", raw_videos / "clips.parquet")
    return {row["clip_id"]: f"{row['sha256']}{row['side_sha256']}" for row in clips.iter_rows(named=True)}


def _kept_or_new(
    scratch: Path, clip: Clip, version: str, config: ManoFitsConfig, models: dict[str, HandModel], weights: Path
) -> tuple[pl.DataFrame, list[Reject]]:
    """From scratch if an interrupted run had finished the clip, else made and kept there."""
    key = hashlib.sha256(f"{clip.clip_id}{version}{asdict(config)}".encode()).hexdigest()[:24]
    kept_rows, kept_rejects = scratch / f"{key}.parquet", scratch / f"{key}.json"
    if kept_rejects.is_file():  # written last
        kept = [
            Reject(**row | {"reason": Reason(row["reason"])})
            for row in json.loads(kept_rejects.read_text(encoding="utf-8"))
        ]
        return tables.read("mano_fits", kept_rows), kept
    table, rejects = clip_fits(clip, config, models, weights / "hand_landmarker.task")
    tables.write("mano_fits", table, kept_rows)
    write_file(kept_rejects, json.dumps([reject.row() for reject in rejects]).encode())
    return table, rejects


def _labelled(clip: Clip, wanted: list[int], models: dict[str, HandModel]) -> tuple[list[Measured], list[Reject]]:
    hands, rejects = [], []
    for side, labels in clip.hands.items():
        frames = np.array([f for f in wanted if labels.valid[f]], int)
        finite = _finite(labels, frames)
        rejects += [
            Reject(clip.clip_id, Reason.NAN_LABEL, int(f), side, "NaN or infinity in the MANO label")
            for f in frames[~finite]
        ]
        frames = frames[finite]
        if not len(frames):
            continue
        theta, r, tau = labels.theta[frames], labels.r[frames], labels.tau[frames]
        joints = models[side].joints(theta, r, tau, labels.beta)
        beta = np.broadcast_to(labels.beta, (len(frames), 10))
        hands.append(
            Measured(side, frames, theta, r, tau, beta, joints, np.zeros(len(frames)), None, np.ones(len(frames)))
        )
    unlabelled = set(wanted) - {int(f) for hand in hands for f in hand.frames} - {reject.frame for reject in rejects}
    return hands, rejects + [
        Reject(clip.clip_id, Reason.NO_HAND_DETECTED, f, detail="no label") for f in sorted(unlabelled)
    ]


def _finite(labels: HandTrack, frames: np.ndarray) -> np.ndarray:
    values = np.concatenate([labels.theta[frames], labels.r[frames], labels.tau[frames]], axis=1)
    return np.isfinite(values).all(axis=1) & np.isfinite(labels.beta).all()


def _tracked(
    clip: Clip, wanted: list[int], config: ManoFitsConfig, models: dict[str, HandModel], landmarker: Path
) -> tuple[list[Measured], list[Reject]]:
    with Landmarker(landmarker, config.min_detection_confidence) as detector:
        tracked, rejects = track(clip.frames(wanted), clip.camera, detector, clip.clip_id)
    hands = []
    limit = config.max_reprojection_fraction * clip.camera.width
    for hand in tracked:
        settled = settle(models[hand.side], hand, clip.camera)
        fitted, error, residual = settled.fitted, settled.reprojection_px, settled.residual_mm
        good = (error <= limit) & (residual <= MAX_RESIDUAL_MM)  # False for NaN
        rejects += [_bad_fit(clip, hand, settled, i, limit) for i in np.flatnonzero(~good)]
        if good.any():
            beta = np.broadcast_to(fitted.beta, (int(good.sum()), 10))
            hands.append(
                Measured(
                    hand.side, hand.frames[good], fitted.theta[good], fitted.r[good], fitted.tau[good], beta,
                    fitted.joints[good], residual[good], error[good], hand.scores[good],
                )
            )  # fmt: skip
    return hands, rejects


def _bad_fit(clip: Clip, hand: TrackedHand, settled: Settled, row: int, limit: float) -> Reject:
    error, residual = settled.reprojection_px[row], settled.residual_mm[row]
    if np.isnan(error):
        reason, detail = Reason.FIT_RESIDUAL_TOO_HIGH, "the joints fix no hand (palm seen edge-on, or no camera pose)"
    elif error > limit:
        reason, detail = Reason.HIGH_REPROJECTION_ERROR, f"{error:.1f} px, at most {limit:.1f} allowed"
    else:
        reason, detail = Reason.FIT_RESIDUAL_TOO_HIGH, f"{residual:.1f} mm, at most {MAX_RESIDUAL_MM} allowed"
    return Reject(clip.clip_id, reason, int(hand.frames[row]), hand.side, detail)


def _rows(clip: Clip, hand: Measured, route: str, hand_model: str) -> tuple[pl.DataFrame, list[Reject]]:
    """The table of one hand; frames in which no joint lies inside the image become rejects."""
    px = clip.camera.project(hand.joints)
    visibility = classify(hand.joints, px, clip.camera, _surface(clip, hand.frames, px))
    outside = np.isin(visibility, (Visibility.OUTSIDE_IMAGE, Visibility.BEHIND_CAMERA, Visibility.NOT_TRACKED)).all(
        axis=1
    )
    rejects = [Reject(clip.clip_id, Reason.HAND_OUTSIDE_VIEW, int(f), hand.side) for f in hand.frames[outside]]
    keep = ~outside
    count = int(keep.sum())
    reprojection = [None] * count if hand.reprojection_px is None else hand.reprojection_px[keep]

    def vectors(values: np.ndarray, size: int, dtype=pl.Float32) -> pl.Series:
        numpy_type = np.uint8 if dtype is pl.UInt8 else np.float32
        flat = np.ascontiguousarray(values[keep].reshape(count, size), dtype=numpy_type)
        return pl.Series(flat, dtype=pl.Array(dtype, size))

    columns = {
        "clip_id": [clip.clip_id] * count,
        "frame": hand.frames[keep],
        "time_s": clip.times_s[hand.frames[keep]],
        "side": [hand.side] * count,
        "theta": vectors(hand.theta, 45),
        "r": vectors(hand.r, 3),
        "tau": vectors(hand.tau, 3),
        "beta": vectors(hand.beta, 10),
        "joints_cam": vectors(hand.joints, 63),
        "joints_px": vectors(px, 42),
        "visibility": vectors(visibility, 21, pl.UInt8),
        "residual_mm": hand.residual_mm[keep],
        "reprojection_px": reprojection,
        "score": hand.scores[keep],
        "route": [route] * count,
        "hand_model": [hand_model] * count,
    }
    return tables.validate("mano_fits", pl.DataFrame(columns, schema_overrides=tables.dtypes("mano_fits"))), rejects


def _surface(clip: Clip, frames: np.ndarray, px: np.ndarray) -> np.ndarray | None:
    """Sensor depth at each joint's pixel, where the source has it; NaN elsewhere."""
    if not clip.has_depth:
        return None
    surface = np.full(px.shape[:2], np.nan)
    for row, frame in enumerate(frames):
        depth = clip.depth_m(int(frame))
        if depth is not None:
            surface[row] = at_pixels(depth, px[row])
    return surface


def _summary(report: Report, table: pl.DataFrame, clips: list[Clip], rejects: list[Reject]) -> None:
    with_hand = table.select("clip_id", "frame").unique().height
    looked_at = {(reject.item, reject.frame) for reject in rejects} | set(table.select("clip_id", "frame").iter_rows())
    report.metrics = {"frames_with_a_hand_share": with_hand / max(len(looked_at), 1), "clips": float(len(clips))}
    if not table.height:
        report.notes.append("No hand was found in any video of this shard.")
        return
    visibility = table["visibility"].to_numpy()
    report.metrics["joints_visible_share"] = float((visibility == Visibility.VISIBLE).mean())
    if (table["route"] == "mediapipe").any():
        tracked = table.filter(route="mediapipe")
        report.metrics["residual_mm_median"] = float(tracked["residual_mm"].median())
        report.metrics["reprojection_px_median"] = float(tracked["reprojection_px"].median())
    counts = {reason.name.lower(): int((visibility == reason).sum()) for reason in Visibility}
    report.tables = {"joints by visibility": [counts]}
    report.notes.append(
        f"Hand model: {', '.join(sorted(set(table['hand_model'])))}; route: {', '.join(sorted(set(table['route'])))}."
    )


def _picture(table: pl.DataFrame, clips: list[Clip], path: Path) -> None:
    """Skeletons of hands spread through the shard, each cut out of its frame."""
    picks = table.gather_every(max(1, table.height // MAX_PICTURES)).head(MAX_PICTURES)
    pictures, captions = [], []
    for clip in clips:
        chosen = picks.filter(clip_id=clip.clip_id)
        wanted = sorted(set(chosen["frame"].to_list()))
        for frame in clip.frames(wanted) if wanted else ():
            for hand in chosen.filter(frame=frame.index).iter_rows(named=True):
                visible = np.array(hand["visibility"]) == Visibility.VISIBLE
                pictures.append(drawing.hand(frame.rgb, np.array(hand["joints_px"]).reshape(21, 2), visible))
                captions.append(f"{clip.clip_id} {frame.time_s:.1f} s {hand['side']}")
    drawing.sheet(pictures, captions, path)
