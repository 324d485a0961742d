"""What must hold for an artefact before anything is made from it: contracts, statistics, second routes.

Pure functions of what lies on disk, called by the console, by DVC's commands and as Dagster's asset checks alike. A
failed blocking check stops everything downstream.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ops.config import Config, ShardConfig
from ops.pipeline import output
from ops.rejects import ClipError
from ops.stages import BY_NAME, Stage
from ops.store import Report

SAMPLE = 200  # rows that a slow second route looks at


@dataclass(frozen=True)
class Made:
    """An artefact under test. shard: "" for unpartitioned stages. report: what its stage said. read: its tables, each
    read and validated once for all checks."""

    root: Path
    config: Config
    stage: Stage
    shard: str
    report: Report
    read: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        return output(self.root, self.stage.name, self.shard)

    @property
    def shard_config(self) -> ShardConfig:
        return self.config.shards[self.shard]

    def input(self, name: str) -> Path:
        """Folder of an artefact this one was made from, as the stage itself saw it."""
        return output(self.root, name, self.shard if BY_NAME[name].partitioned else "")


@dataclass(frozen=True)
class Finding:
    """Outcome of one check. detail: what was found, with numbers, and where it failed what to do."""

    name: str
    passed: bool
    detail: str
    blocking: bool


@dataclass(frozen=True)
class Check:
    """function(made) -> (passed, detail). text: the rule, for the catalogue. relaxed: whether params.yaml makes a
    blocking check a warning."""

    name: str
    text: str
    function: Callable[[Made], tuple[bool, str]]
    blocking: bool = True
    relaxed: Callable[[Config], bool] = lambda config: False


# stage -> file -> schema in ops.tables
TABLES: dict[str, dict[str, str]] = {
    "raw_videos": {"clips": "clips"},
    "mano_fits": {"mano_fits": "mano_fits"},
    "point_clouds": {"point_clouds": "point_clouds"},
    "objects": {"objects": "objects"},
    "calibrated_point_clouds": {"calibrations": "calibrations", "object_positions": "object_positions"},
    "hand3d_visual": {"visual_rows": "visual_rows", "held_out_rows": "visual_rows"},
    "hand3d_action": {"action_rows": "action_rows"},
    "hand3d_test": {"visual_rows": "visual_rows"},
    "benchmark_scores": {"trials": "trials"},
}


def evaluate(made: Made) -> list[Finding]:
    """All checks of an artefact. A check that cannot read its table fails with the reader's message."""
    return [_evaluate(check, made) for check in checks_of(made.stage.name)]


def checks_of(name: str) -> tuple[Check, ...]:
    """The checks of a stage, in the order they are evaluated."""
    tables = (SCHEMA, REASONS) if name in TABLES else ()
    return (METRICS_FINITE, *tables, *((LICENCES,) if name in LICENSED else ()), *SPECIAL.get(name, ()))


def _evaluate(check: Check, made: Made) -> Finding:
    from pandera.errors import SchemaError, SchemaErrors

    try:
        passed, detail = check.function(made)
    except (SchemaError, SchemaErrors, ClipError, OSError, ValueError, KeyError) as error:
        passed, detail = False, f"{type(error).__name__}: {str(error)[:500]}"
    return Finding(check.name, bool(passed), detail, check.blocking and not check.relaxed(made.config))


def _read(made: Made, file: str):
    from ops import seen_tables

    if file not in made.read:
        made.read[file] = seen_tables.read(TABLES[made.stage.name][file], made.folder / f"{file}.parquet")
    return made.read[file]


def _follows_schema(made: Made) -> tuple[bool, str]:
    counts = {file: len(_read(made, file)) for file in TABLES[made.stage.name]}
    return True, ", ".join(f"{file}: {count} rows" for file, count in counts.items())


def _has_rows_or_reasons(made: Made) -> tuple[bool, str]:
    rows = sum(len(_read(made, file)) for file in TABLES[made.stage.name])
    rejects = sum(made.report.rejects.values())
    empty = [name for name in made.stage.reads if name in TABLES and _num_rows(made.input(name), name) == 0]
    came_in = f"nothing came in from {', '.join(empty)}" if empty else "every input has rows"
    return rows + rejects > 0 or bool(empty), f"{rows} rows, {rejects} rejects; {came_in}"


def _num_rows(folder: Path, name: str) -> int:
    """Of an artefact's tables, by its own report (one shard's, or all shards' together)."""
    reports = (
        [folder] if (folder / "report.json").is_file() else sorted(path.parent for path in folder.glob("*/report.json"))
    )
    return sum(Report.load(path).rows.get(file, 0) for path in reports for file in TABLES[name])


def _metrics_finite(made: Made) -> tuple[bool, str]:
    bad = [name for name, value in made.report.metrics.items() if not math.isfinite(value)]
    return not bad, f"not finite: {', '.join(bad)}" if bad else f"{len(made.report.metrics)} metrics"


def _readable_video(made: Made) -> tuple[bool, str]:
    count = len(_read(made, "clips"))
    return count > 0, f"{count} readable videos; rejects.parquet says why the others were left out"


def _use_allowed(made: Made) -> tuple[bool, str]:
    from ops import seen_tables
    from ops.sources import licences

    clips, fits = (made.root / "data" / name / made.shard for name in ("raw_videos", "mano_fits"))
    own = clips / "clips.parquet"
    known = seen_tables.read("clips", own if own.is_file() else clips)
    names = licences.hand_models_of(fits) if made.stage.name != "raw_videos" else set()
    terms, use = licences.of_tables(known, names), made.config.raw_videos.use
    refused = licences.refusal(terms, use)
    return not refused, refused or f"use {use!r} is allowed by all {len(terms)} licences of {len(known)} clips"


def _hand_sized(made: Made) -> tuple[bool, str]:
    import numpy as np

    joints = _joints_cam(made)
    if not len(joints):
        return True, "no hands"
    length_m = np.linalg.norm(joints[:, 9] - joints[:, 0], axis=-1)  # wrist to middle knuckle
    share = float(((length_m > 0.05) & (length_m < 0.14)).mean())
    return share > 0.99, f"{share:.1%} of hands have a palm of 50 to 140 mm; median {np.median(length_m) * 1000:.0f} mm"


def _in_front(made: Made) -> tuple[bool, str]:
    import numpy as np

    joints = _joints_cam(made)
    if not len(joints):
        return True, "no hands"
    depth_m = joints[:, 0, 2]
    share = float(((depth_m > 0.05) & (depth_m < 20)).mean())
    return share > 0.99, f"{share:.1%} of wrists lie 0.05 to 20 m before the camera; median {np.median(depth_m):.2f} m"


def _joints_cam(made: Made):
    table = _read(made, "mano_fits")
    return table["joints_cam"].to_numpy().reshape(-1, 21, 3)


def _point_maps_readable(made: Made) -> tuple[bool, str]:
    import numpy as np

    from ops.perception.point_clouds import read_point_map

    indices = _read(made, "point_clouds")["index"].to_list()
    for index in {*indices[:1], *indices[-1:]}:
        points, _ = read_point_map(made.folder, index)
        depth = points[..., 2][np.isfinite(points[..., 2])]
        if not len(depth) or depth.min() <= 0:
            return False, f"point map {index} has {len(depth)} valid depths, the smallest {depth.min(initial=0):.3f}"
    return True, f"{len(indices)} point maps; first and last read"


def _spread_small(made: Made) -> tuple[bool, str]:
    limit = made.config.calibrated_point_clouds.max_spread
    spread = _read(made, "calibrations")["spread"]
    if not len(spread):
        return True, "no calibrated frames"
    return spread.max() <= limit, f"largest spread {spread.max():.3f}, allowed {limit}; median {spread.median():.3f}"


def _metric_scale(made: Made) -> tuple[bool, str]:
    from ops import seen_tables

    maps = seen_tables.read("point_clouds", made.input("point_clouds") / "point_clouds.parquet").filter(scale="metric")
    scales = _read(made, "calibrations").join(maps.select("clip_id", "frame"), on=["clip_id", "frame"])["scale"]
    if len(scales) < 5:
        return True, f"{len(scales)} metric frames: too few to judge"
    median = scales.median()
    return 0.67 < median < 1.5, f"median scale {median:.3f} over {len(scales)} metric frames; 1 is a perfect hand model"


def _second_route(made: Made) -> tuple[bool, str]:
    import polars as pl

    from ops import seen_tables
    from ops.hand3d import verify
    from ops.sources.artefact_checks import kept_clip
    from ops.sources.manifest import clip_rows

    rows = pl.concat([_read(made, "visual_rows"), _read(made, "held_out_rows")])
    rows = rows.gather_every(max(1, len(rows) // SAMPLE)).head(SAMPLE)
    if not len(rows):
        return True, "no rows"
    used = set(rows["clip_id"])
    clips = (kept_clip(row, made.root) for row in clip_rows(made.input("raw_videos")) if row["clip_id"] in used)
    fits = seen_tables.read("mano_fits", made.input("mano_fits") / "mano_fits.parquet")
    folder = made.input("calibrated_point_clouds")
    positions = seen_tables.read("object_positions", folder / "object_positions.parquet")
    found = verify.disagreements(rows, verify.truth(clips, fits, positions), made.config.hand3d_visual.gamma)
    return not found, "; ".join(found[:3]) if found else f"{len(rows)} rows recomputed, all agree"


def _tokens_decode(made: Made) -> tuple[bool, str]:
    import numpy as np

    from ops.hand3d import motion_tokens

    rows = _read(made, "action_rows").filter(num_clipped=0)
    rows = rows.gather_every(max(1, len(rows) // SAMPLE)).head(SAMPLE)
    worst = 0.0
    for row in rows.iter_rows(named=True):
        tokens = np.array([*row["context_tokens"], *row["target_tokens"]], np.uint16).reshape(-1, 3)
        points = np.array(row["waypoints"]).reshape(-1, 3)
        if len(tokens) != len(points):
            return False, f"{row['row_id']}: {len(tokens)} token triples for {len(points)} waypoints"
        worst = max(worst, float(np.abs(motion_tokens.decode(tokens) - points).max(initial=0)))
    return (
        worst <= 0.5 / 1024 + 1e-6,
        f"largest error {worst * 1000:.3f} mm over {len(rows)} rows; half a bin is 0.488 mm",
    )


def _no_shared_video(made: Made) -> tuple[bool, str]:
    from ops import tables
    from ops.hand3d.heldout import shared_videos, with_bytes

    clips = tables.read("clips", made.input("raw_videos").parent if made.shard else made.root / "data" / "raw_videos")
    train = with_bytes(tables.read("visual_rows", made.root / "data" / "hand3d_visual"), clips)
    test = with_bytes(_read(made, "visual_rows"), clips)
    shared = shared_videos(train, test)
    return (
        not shared,
        f"in train and test: {', '.join(shared[:5])}" if shared else f"{len(test)} test videos, none shared",
    )


def _as_listed(made: Made) -> tuple[bool, str]:
    from ops.hand3d.release import card

    found = card.broken(made.folder)
    listed = (made.folder / card.SUMS).read_text(encoding="utf-8").count("\n")
    return not found, f"not as {card.SUMS} says: {', '.join(found[:5])}" if found else f"{listed} files, all as listed"


def _all_rows_released(made: Made) -> tuple[bool, str]:
    from ops.hand3d.release import frames, parts

    shards = list(made.config.shards)
    listed = parts.list_parts(
        made.input("hand3d_visual"), made.input("hand3d_action"), made.input("hand3d_test"), shards
    )
    clips = frames.read_clips_table(made.input("raw_videos"), shards)
    with TemporaryDirectory() as folder:
        listed, _ = parts.choose(
            listed, made.input("hand3d_visual"), made.input("hand3d_action"), clips, made.config, Path(folder)
        )
        counts = {part.name: (part.count(), parts.num_released(made.folder, part)) for part in listed}
    wrong = [f"{name}: {there} of {came} rows" for name, (came, there) in counts.items() if came != there]
    if wrong:
        return False, "; ".join(wrong[:5])
    return True, f"{sum(there for _, there in counts.values())} rows, all that the targets choose"


def _only_allowed_frames(made: Made) -> tuple[bool, str]:
    from ops.hand3d.release import frames

    clips = frames.read_clips_table(made.input("raw_videos"), list(made.config.shards))
    allowed = set(frames.with_rights(clips, made.config.hand3d_dataset).filter("frames_allowed")["clip_id"])
    shown = frames.clips_shown(made.folder, SAMPLE)
    wrong = sorted(shown - allowed)
    return (
        not wrong,
        f"frames of {', '.join(wrong[:5])} may not be passed on" if wrong else f"{len(shown)} clips are shown",
    )


def _released_second_route(made: Made) -> tuple[bool, str]:
    from ops.hand3d import audit

    inputs = audit.inputs_of(made.input, made.root, list(made.config.shards))
    # another sample than the report's, so that the two together see more
    seed = made.config.hand3d_dataset.seed + 1
    found = audit.audit(made.folder, inputs, made.config.hand3d_visual.gamma, SAMPLE, seed)
    return not found.problems, found.text


def _some_rows(made: Made) -> tuple[bool, str]:
    rows = {file: len(_read(made, file)) for file in TABLES[made.stage.name]}
    return all(rows.values()), ", ".join(f"{file}: {count} rows" for file, count in rows.items())


def _weights_finite(made: Made) -> tuple[bool, str]:
    from safetensors import safe_open

    paths = sorted(made.folder.rglob("*.safetensors"))
    if not paths:
        return False, "no *.safetensors in the checkpoint"
    count = 0
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(name)
                count += tensor.numel()
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    return False, f"{path.name}: {name} holds NaN or infinity"
    return True, f"{count:,} numbers, all finite"


def _has_demonstrations(made: Made) -> tuple[bool, str]:
    files = sorted(made.folder.glob("lerobot/data/**/*.parquet"))
    return bool(files), f"{len(files)} data files of a LeRobot v3 dataset; {sum(made.report.rejects.values())} rejects"


def _trials_complete(made: Made) -> tuple[bool, str]:
    from ops.evaluation.champion import BASELINES, POLICY

    trials = _read(made, "trials")
    counts = {name: len(trials.filter(policy=name)) for name in (POLICY, *BASELINES)}
    return min(counts.values()) > 0 and len(set(counts.values())) == 1, f"trials: {counts}; all must have as many"


def _gate(made: Made) -> tuple[bool, str]:
    from ops.evaluation.champion import Decision

    decision = Decision.load(made.folder)
    return decision.promoted, "; ".join(decision.reasons)


def _accept(name: str, check: str) -> Callable[[Made], tuple[bool, str]]:
    """An acceptance check of labels (ops.sources.acceptance) on raw_videos or mano_fits, by name."""

    def found(made: Made) -> tuple[bool, str]:
        from ops.sources import artefact_checks

        if name == "raw_videos":
            measured = artefact_checks.of_clips(made.root, made.folder, made.config.raw_videos.use)
        else:
            measured = artefact_checks.of_fits(made.root, made.input("raw_videos"), made.folder)
        one = measured.get(check)
        if one is None or one.passed is None:
            return True, "nothing here to judge by" + (f" ({one.detail})" if one else "")
        numbers = "".join(f"{key} {value:.3g}, " for key, value in one.numbers.items())
        return one.passed, f"{numbers}{one.detail}"

    return found


def _reader_round_trip(made: Made) -> tuple[bool, str]:
    from ops.bootstrap import weights_dir
    from ops.sources.round_trip import round_trip

    own, standin = made.shard_config.hand_model, weights_dir(made.root) / "hand_model"
    if own is None and not standin.is_dir():
        return True, "no hand model to write an example with"
    found = round_trip(made.shard_config.kind, made.root / own if own else standin)
    numbers = "".join(f"{key} {value:.2g}, " for key, value in found.numbers.items())
    return found.passed is not False, f"{numbers}{found.detail}"


METRICS_FINITE = Check("metrics_finite", "No reported number is NaN or infinite.", _metrics_finite)
SCHEMA = Check("schema", "Every table follows its schema in ops/tables.py.", _follows_schema)
REASONS = Check(
    "rows_or_reasons", "A table is empty only where rejects say why, or nothing came in.", _has_rows_or_reasons
)
_FINITE = Check("weights_finite", "The checkpoint holds weights, and all are finite.", _weights_finite)
_FILLED = Check("has_rows", "No table is empty.", _some_rows)

LICENCES = Check("licences_allow_use", "No licence forbids what raw_videos.use declares.", _use_allowed)
# where rows come in, get MANO's parameters, or meet other shards' rows
LICENSED = (
    "raw_videos", "mano_fits", "hand3d_test", "hand3d_dataset", "base_model", "stage1_checkpoint", "stage2_checkpoint",
)  # fmt: skip

SPECIAL: dict[str, tuple[Check, ...]] = {
    "raw_videos": (
        Check("readable_video", "At least one video of the shard can be used.", _readable_video),
        Check("reader_round_trip", "An example in the source's layout comes back to 1e-5.", _reader_round_trip),
        Check(
            "camera_direction",
            "World-to-camera poses are no camera-to-world ones.",
            _accept("raw_videos", "camera_direction"),
        ),
        Check("frame_counts", "Images and labels are of the same frames.", _accept("raw_videos", "frame_counts")),
        Check("clip_licence", "Every clip says what may be done with it.", _accept("raw_videos", "licence")),
    ),
    "mano_fits": (
        Check("hand_sized", "99% of hands have a palm of 50 to 140 mm.", _hand_sized),
        Check("in_front_of_camera", "99% of wrists lie 0.05 to 20 m before the camera.", _in_front),
        Check(
            "label_hand_size",
            "Labelled palms are 70 to 120 mm, within reach of the camera.",
            _accept("mano_fits", "hand_size"),
        ),
        Check(
            "published_joints",
            "Labels lie within 2 px of the source's own image joints.",
            _accept("mano_fits", "published_joints"),
        ),
        Check("wrist_is_tau", "tau is the wrist joint, to 0.1 mm.", _accept("mano_fits", "wrist_is_tau")),
        Check("handedness", "Fingers bend to the palm of their own hand.", _accept("mano_fits", "handedness")),
        Check(
            "depth_scale", "Sensor depth at the palm is 0.8 to 1.3 of the label's.", _accept("mano_fits", "depth_scale")
        ),
    ),
    "point_clouds": (Check("maps_readable", "Point maps open and have positive depths.", _point_maps_readable),),
    "calibrated_point_clouds": (
        Check("scale_spread", "The depth ratios of a frame agree (calibrated_point_clouds.max_spread).", _spread_small),
        Check("metric_scale", "Where the map is metric already, the hand's scale is near 1.", _metric_scale),
    ),
    "hand3d_visual": (
        Check("second_route", f"A plain second way gives the same numbers for {SAMPLE} rows.", _second_route),
    ),
    "hand3d_action": (
        Check("tokens_decode", "Motion tokens decode to the waypoints within half a bin.", _tokens_decode),
    ),
    "hand3d_test": (
        _FILLED,
        Check("unseen", "No test video is in a training split, by name or bytes.", _no_shared_video),
    ),
    "hand3d_dataset": (
        Check("as_listed", "Every file is there and as SHA256SUMS says.", _as_listed),
        Check("all_rows", "The release has every row of the stages it was made from.", _all_rows_released),
        Check("frames_allowed", "No frame is shown that its licence does not let pass on.", _only_allowed_frames),
        Check(
            "second_route", f"A plain second way gives the numbers of {SAMPLE} released rows.", _released_second_route
        ),
    ),
    "base_model": (_FINITE,),
    "stage1_checkpoint": (_FINITE,),
    "stage2_checkpoint": (_FINITE,),
    "posttrained_policies": (_FINITE,),
    "robot_demonstrations": (Check("has_demonstrations", "At least one demonstration was kept.", _has_demonstrations),),
    "benchmark_scores": (Check("trials_complete", "Policy and baselines ran equally many trials.", _trials_complete),),
    "champion": (
        Check(
            "promotion_gate",
            "The policy met mlflow/promotion.yaml; a warning only while champion.block_refused is off.",
            _gate,
            relaxed=lambda config: not config.champion.block_refused,
        ),
    ),
}
