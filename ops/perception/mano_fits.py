"""Stage mano_fits: every hand of every frame as MANO {theta, r, tau, beta} with 21 joints (paper 3.2.1).

Three routes: MANO labels where the source has them, in the hand model they belong to; the source's joints fitted by
ops.hands.fit, with one shape a person; else the tracker's joints fitted. Camera frame of the very frame, metres;
CONVENTIONS.md says what theta, r and tau mean. A hand of which no joint is in view is dropped with a reason.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
from jaxtyping import Float64

from ops import contact_sheet, tables
from ops.bootstrap import weights_dir
from ops.config import ManoFitsConfig
from ops.hands.fit import MIN_JOINTS, HandFit, Track, fit, fit_tracks
from ops.hands.mano import HandModel
from ops.perception import drawing
from ops.perception.settling import Settled, settle
from ops.perception.tracker import Landmarker
from ops.perception.tracks import TrackedHand, track
from ops.perception.visibility import Visibility, at_pixels, classify
from ops.pipeline import StageContext
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import SIDES, Clip, HandTrack, sampled_frames
from ops.sources.hand_models import models_of
from ops.sources.manifest import read_clip
from ops.store import Report, write_file, write_rejects

MAX_RESIDUAL_MM = 15.0  # ASSUMED: a hand model that misses the measured joints by more is a wrong detection
MAX_PICTURES = 12
# a person's shape comes from so many of their clips and frames; more add nothing to an average of bone lengths
SHAPE_CLIPS, SHAPE_FRAMES_A_CLIP = 8, 64


@dataclass(frozen=True)
class Measured:
    """MANO of n frames of one hand before it is a table; see ops/tables.py for the columns."""

    side: str
    route: str
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
    rows = list(tables.read("clips", context.input("raw_videos") / "clips.parquet").iter_rows(named=True))
    betas = subject_betas(rows, config, context.root, weights) if config.shape_of == "subject" else {}
    tasks = [(row, {side: betas.get((row["subject"], side)) for side in SIDES}) for row in rows]
    parts, rejects = [tables.frame("mano_fits", [])], []
    arguments = (context.root, context.scratch, config, weights)
    for table, dropped in context.each(load_fitter, arguments, tasks, "clip", _lost):
        parts.append(table)
        rejects += dropped
    table = pl.concat(parts)
    tables.write("mano_fits", table, context.out / "mano_fits.parquet")
    report = Report(rows={"mano_fits": table.height})
    write_rejects(context.out, rejects, report)
    _summary(report, table, len(rows), rejects)
    if table.height:
        _picture(table, rows, context.root, context.out / "hands.png")
        report.pictures["fitted hands"] = "hands.png"
    return report


Task = tuple[dict, dict[str, np.ndarray | None]]  # row of clips.parquet; the person's shape by side


def load_fitter(
    root: Path, scratch: Path, config: ManoFitsConfig, weights: Path
) -> Callable[[Task], tuple[pl.DataFrame, list[Reject]]]:
    """What a worker does with a clip: its rows and rejects, kept in scratch. Hand models are read once a worker."""

    def fits(task: Task) -> tuple[pl.DataFrame, list[Reject]]:
        row, betas = task
        clip = read_clip(row, root)
        models = _models(clip, row["hand_model"], config, root, weights)
        version = f"{row['sha256']}{row['side_sha256']}"
        return _kept_or_new(scratch, clip, version, config, models, weights, betas)

    return fits


def _lost(task: Task, why: str) -> tuple[pl.DataFrame, list[Reject]]:
    return tables.frame("mano_fits", []), [Reject(task[0]["clip_id"], Reason.CRASHED_WORKER, detail=why)]


def subject_betas(
    rows: list[dict], config: ManoFitsConfig, root: Path, weights: Path
) -> dict[tuple[str, str], Float64[np.ndarray, " 10"]]:
    """Hand shape of each person and side known by joints alone, from frames spread over some of their clips.

    Keys: subject as the source names it, side. People whom the source does not name have none: their shape is a clip's.
    """
    by_subject: dict[str, list[dict]] = {}
    for row in rows:
        if row["subject"] and row["has_labels"] and not config.ignore_labels:
            by_subject.setdefault(row["subject"], []).append(row)
    found = {}
    for subject, clips in by_subject.items():
        chosen = [clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, SHAPE_CLIPS).astype(int))]
        for side, (model, joints) in _shape_samples(chosen, config, root, weights).items():
            beta = fit(model, joints).beta
            if np.isfinite(beta).all():
                found[subject, side] = beta
    return found


def _shape_samples(
    rows: list[dict], config: ManoFitsConfig, root: Path, weights: Path
) -> dict[str, tuple[HandModel, np.ndarray]]:
    """By side: the hand model and joints of some frames of each clip; none for clips with MANO labels."""
    samples: dict[str, list[np.ndarray]] = {}
    models: dict[str, HandModel] = {}
    for row in rows:
        clip = read_clip(row, root)
        for side, labels in clip.joints.items():
            labelled = np.flatnonzero(labels.valid)
            if side not in clip.hands and len(labelled):
                at = labelled[np.unique(np.linspace(0, len(labelled) - 1, SHAPE_FRAMES_A_CLIP).astype(int))]
                samples.setdefault(side, []).append(labels.joints_cam[at])
                models[side] = _models(clip, row["hand_model"], config, root, weights)[side]
    return {side: (models[side], np.concatenate(joints)) for side, joints in samples.items()}


def _models(
    clip: Clip, shard_model: str | None, config: ManoFitsConfig, root: Path, weights: Path
) -> dict[str, HandModel]:
    """MANO labels: the files they belong to. Fits: the shard's MANO files, or mano_fits.hand_model, or the stand-in."""
    standin = weights / "hand_model"
    if clip.hands and not config.ignore_labels:
        return models_of(clip, standin)
    folder = shard_model or config.hand_model
    return models_of(replace(clip, hand_model=root / folder if folder else None, left_model="own"), standin)


def clip_fits(
    clip: Clip,
    config: ManoFitsConfig,
    models: dict[str, HandModel],
    landmarker: Path,
    betas: Mapping[str, np.ndarray | None] = MappingProxyType({}),
) -> tuple[pl.DataFrame, list[Reject]]:
    """Rows and rejects of one clip. betas: shape by side of a person known otherwise, for labels that are joints."""
    wanted = (
        list(range(clip.num_frames)) if config.sample_fps is None else sampled_frames(clip.times_s, config.sample_fps)
    )
    try:
        if clip.has_labels and not config.ignore_labels:
            hands, rejects = _labelled(clip, wanted, models, betas, config.smooth)
        else:
            hands, rejects = _tracked(clip, wanted, config, models, landmarker)
        parts = [tables.frame("mano_fits", [])]
        for hand in hands:
            table, dropped = _rows(clip, hand, models[hand.side].name)
            parts.append(table)
            rejects += dropped
    except ClipError as error:
        return tables.frame("mano_fits", []), [error.reject(clip.clip_id)]
    return pl.concat(parts).sort("frame", "side"), rejects


def _kept_or_new(
    scratch: Path,
    clip: Clip,
    version: str,
    config: ManoFitsConfig,
    models: dict[str, HandModel],
    weights: Path,
    betas: Mapping[str, np.ndarray | None] = MappingProxyType({}),
) -> tuple[pl.DataFrame, list[Reject]]:
    """From scratch if an interrupted run had finished the clip, else made and kept there."""
    shapes = {side: None if beta is None else beta.tolist() for side, beta in betas.items()}
    names = sorted(model.name for model in models.values())
    key = hashlib.sha256(f"{clip.clip_id}{version}{asdict(config)}{shapes}{names}".encode()).hexdigest()[:24]
    kept_rows, kept_rejects = scratch / f"{key}.parquet", scratch / f"{key}.json"
    if kept_rejects.is_file():  # written last
        kept = [
            Reject(**row | {"reason": Reason(row["reason"])})
            for row in json.loads(kept_rejects.read_text(encoding="utf-8"))
        ]
        return tables.read("mano_fits", kept_rows), kept
    table, rejects = clip_fits(clip, config, models, weights / "hand_landmarker.task", betas)
    tables.write("mano_fits", table, kept_rows)
    write_file(kept_rejects, json.dumps([reject.row() for reject in rejects]).encode())
    return table, rejects


def _labelled(
    clip: Clip, wanted: list[int], models: dict[str, HandModel], betas: Mapping[str, np.ndarray | None], smooth: bool
) -> tuple[list[Measured], list[Reject]]:
    """Every labelled hand; MANO labels go before joints of the same hand."""
    hands, rejects = [], []
    found = [_given(clip, wanted, models, side) for side in clip.hands]
    for hand, dropped in found + _fitted(clip, wanted, models, betas, smooth):
        hands += [hand] if len(hand.frames) else []
        rejects += dropped
    unlabelled = set(wanted) - {int(f) for hand in hands for f in hand.frames} - {reject.frame for reject in rejects}
    return hands, rejects + [
        Reject(clip.clip_id, Reason.NO_HAND_DETECTED, f, detail="no label") for f in sorted(unlabelled)
    ]


def _given(clip: Clip, wanted: list[int], models: dict[str, HandModel], side: str) -> tuple[Measured, list[Reject]]:
    """One hand's MANO labels as they are."""
    labels = clip.hands[side]
    frames = np.array([f for f in wanted if labels.valid[f]], int)
    finite = _finite(labels, frames)
    rejects = [
        Reject(clip.clip_id, Reason.NAN_LABEL, int(f), side, "NaN or infinity in the MANO label")
        for f in frames[~finite]
    ]
    frames = frames[finite]
    theta, r, tau = labels.theta[frames], labels.r[frames], labels.tau[frames]
    joints = models[side].joints(theta, r, tau, labels.beta)
    beta, count = np.broadcast_to(labels.beta, (len(frames), 10)), len(frames)
    return Measured(
        side, clip.hands_route, frames, theta, r, tau, beta, joints, np.zeros(count), None, np.ones(count)
    ), rejects


def _fitted(
    clip: Clip, wanted: list[int], models: dict[str, HandModel], betas: Mapping[str, np.ndarray | None], smooth: bool
) -> list[tuple[Measured, list[Reject]]]:
    """MANO of the hands that have joint labels only, both in one solve; missing joints are NaN.

    betas: the person's shape by side, None = estimated here. smooth: temporal term over the wanted frames.
    """
    frames, tracks = np.array(wanted, int), {}
    for side, labels in clip.joints.items():
        if side not in clip.hands:
            joints = np.where(labels.valid[frames, None, None], labels.joints_cam[frames], np.nan)
            tracks[side] = Track(models[side], joints, beta=betas.get(side))
    fits = zip(tracks, fit_tracks(list(tracks.values()), smooth), strict=True)
    return [_judged(clip, side, frames, clip.joints[side].valid[frames], fitted) for side, fitted in fits]


def _judged(
    clip: Clip, side: str, frames: np.ndarray, labelled: np.ndarray, fitted: HandFit
) -> tuple[Measured, list[Reject]]:
    good = labelled & fitted.valid & (fitted.residual_mm <= MAX_RESIDUAL_MM)
    rejects = [_bad_joints(clip, side, int(frames[i]), fitted, i) for i in np.flatnonzero(labelled & ~good)]
    count = int(good.sum())
    return Measured(
        side, "joints", frames[good], fitted.theta[good], fitted.r[good], fitted.tau[good],
        np.broadcast_to(fitted.beta, (count, 10)), fitted.joints[good], fitted.residual_mm[good], None, np.ones(count),
    ), rejects  # fmt: skip


def _bad_joints(clip: Clip, side: str, frame: int, fitted: HandFit, row: int) -> Reject:
    if fitted.valid[row]:
        reason = Reason.FIT_RESIDUAL_TOO_HIGH
        detail = f"{fitted.residual_mm[row]:.1f} mm, at most {MAX_RESIDUAL_MM} allowed"
    else:
        given = int(np.isfinite(clip.joints[side].joints_cam[frame]).all(axis=-1).sum())
        reason = Reason.BAD_LABEL
        detail = f"{given} usable joints of 21 fix no hand: it takes {MIN_JOINTS}, three of the palm not in a line"
    return Reject(clip.clip_id, reason, frame, side, detail)


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
                    hand.side, "mediapipe", hand.frames[good], fitted.theta[good], fitted.r[good], fitted.tau[good], beta,
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


def _rows(clip: Clip, hand: Measured, hand_model: str) -> tuple[pl.DataFrame, list[Reject]]:
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
        "route": [hand.route] * count,
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


def _summary(report: Report, table: pl.DataFrame, num_clips: int, rejects: list[Reject]) -> None:
    with_hand = table.select("clip_id", "frame").unique().height
    looked_at = {(reject.item, reject.frame) for reject in rejects} | set(table.select("clip_id", "frame").iter_rows())
    report.metrics = {"frames_with_a_hand_share": with_hand / max(len(looked_at), 1), "clips": float(num_clips)}
    if not table.height:
        report.notes.append("No hand was found in any video of this shard.")
        return
    visibility = table["visibility"].to_numpy()
    report.metrics["joints_visible_share"] = float((visibility == Visibility.VISIBLE).mean())
    if (table["route"] == "mediapipe").any():
        tracked = table.filter(route="mediapipe")
        report.metrics["residual_mm_median"] = float(tracked["residual_mm"].median())
        report.metrics["reprojection_px_median"] = float(tracked["reprojection_px"].median())
    if (table["route"] == "joints").any():
        residual_mm = table.filter(route="joints")["residual_mm"]
        report.metrics["joints_residual_mm_median"] = float(residual_mm.median())
        report.metrics["joints_residual_mm_worst"] = float(residual_mm.max())
    counts = {reason.name.lower(): int((visibility == reason).sum()) for reason in Visibility}
    report.tables = {"joints by visibility": [counts]}
    report.notes.append(
        f"Hand model: {', '.join(sorted(set(table['hand_model'])))}; route: {', '.join(sorted(set(table['route'])))}."
    )


def _picture(table: pl.DataFrame, rows: list[dict], root: Path, path: Path) -> None:
    """Skeletons of hands spread through the shard, each cut out of its frame."""
    picks = table.gather_every(max(1, table.height // MAX_PICTURES)).head(MAX_PICTURES)
    pictures, captions = [], []
    for row in rows:
        chosen = picks.filter(clip_id=row["clip_id"])
        wanted = sorted(set(chosen["frame"].to_list()))
        for frame in read_clip(row, root).frames(wanted) if wanted else ():
            for hand in chosen.filter(frame=frame.index).iter_rows(named=True):
                visible = np.array(hand["visibility"]) == Visibility.VISIBLE
                pictures.append(drawing.hand(frame.rgb, np.array(hand["joints_px"]).reshape(21, 2), visible))
                captions.append(f"{row['clip_id']} {frame.time_s:.1f} s {hand['side']}")
    contact_sheet.sheet(pictures, captions, path)
