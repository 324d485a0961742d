"""Every knob of the pipeline: typed, with its unit and default. params.yaml gives the values.

Defaults are the paper's where it names one. The loader is strict: an unknown key is refused with the nearest known
one. Sections are frozen, so a run's configuration is what it started with.
"""

import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path

import yaml

SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MAX_SHARDS = 99
"""At 100 upstream partitions Dagster stops comparing data versions, and a changed shard would go unnoticed."""
PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same values in a tenth of the time


@dataclass(frozen=True)
class ShardConfig:
    """One partition: a folder of videos and the reader that knows its layout."""

    source: str
    """Name of the data source, as it appears in rows and lineage."""
    kind: str
    """Reader in ops.sources: "synthetic", "folder", ..."""
    root: str
    """Folder, relative to the workspace or absolute."""
    include: tuple[str, ...] = ()
    """Glob patterns of the clips that belong to this shard, relative to root, e.g. ["s01/*"]; none = all."""
    view: str | None = None
    """Which camera of a source with several; null = its ego view, or the reader's default where it has none."""
    hand_model: str | None = None
    """Folder with the licensed MANO files (MANO_LEFT.pkl, MANO_RIGHT.pkl) that the labels belong to; null = stand-in."""


@dataclass(frozen=True)
class SyntheticConfig:
    """The rendered source with known truth (made by `hand3d bootstrap`)."""

    num_clips: int = 24
    seconds: float = 11.0
    fps: float = 10.0
    width: int = 448
    height: int = 336
    seed: int = 7


USES = ("research", "commercial", "redistribution", "commercial redistribution")


@dataclass(frozen=True)
class RawVideosConfig:
    assumed_fov_x_deg: float | None = None
    """Horizontal field of view for videos whose side file gives no intrinsics; null rejects those videos."""
    test_fraction: float = 0.15
    """Share of videos held out for hand3d_test, where the source has no split of its own."""
    virtual_camera: bool = False
    """Warp all videos to one virtual pinhole (EgoDex's; ops/sources/virtual_camera.py); needs given intrinsics."""
    use: str = "research"
    """What the result is for: "research", "commercial", "redistribution" or both as "commercial redistribution".
    A source whose licence forbids it stops the build."""

    def __post_init__(self) -> None:
        if self.use not in USES:
            raise ValueError(f"raw_videos.use must be one of {', '.join(map(repr, USES))}, got {self.use!r}")


@dataclass(frozen=True)
class ManoFitsConfig:
    sample_fps: float | None = None
    """Track every frame (null) or so many a second."""
    min_detection_confidence: float = 0.3
    max_reprojection_fraction: float = 0.03
    """Of the image width; tracked hands above it are rejected."""
    hand_model: str | None = None
    """Folder with your licensed MANO_LEFT.pkl and MANO_RIGHT.pkl for tracked hands; null = the stand-in."""
    ignore_labels: bool = False
    """Track even where the source has labels (to measure the tracker on the synthetic source)."""
    shape_of: str = "subject"
    """Whose hand shape is estimated from joint labels: "subject", one a person over their clips, or "clip"."""
    smooth: bool = True
    """Temporal term when joint labels are fitted; its strength follows from the noise found, clean ones stay as they are."""

    def __post_init__(self) -> None:
        if self.shape_of not in ("subject", "clip"):
            raise ValueError(f"mano_fits.shape_of must be 'subject' or 'clip', got {self.shape_of!r}")


@dataclass(frozen=True)
class PointCloudsConfig:
    fps: float = 1.0
    """Sampled frames a second (paper 3.2.1)."""
    long_edge: int = 224
    """Of the stored point map, pixels."""
    cut3r: str | None = None
    """File with CUT3R's public weights, for videos without a depth sensor; null = two-view geometry."""
    ignore_depth: bool = False
    """Leave a sensor's depth aside (to measure the other routes on the synthetic source)."""


@dataclass(frozen=True)
class ObjectsConfig:
    max_proposals: int = 3
    """Most class-agnostic boxes a frame, where a source has no labels."""
    grounding_dino: str | None = None
    """Folder with GroundingDINO weights, used for sources that name their objects; null = proposals."""


@dataclass(frozen=True)
class CalibrationConfig:
    min_omega: int = 5
    """Fewest joints with a valid depth. ASSUMED: the paper gives none."""
    max_spread: float = 0.15
    """Largest median absolute deviation of the ratios, as a share of s. ASSUMED."""


@dataclass(frozen=True)
class Hand3DVisualConfig:
    gamma: float = 0.3
    """Direction threshold on the unit vector's components. ASSUMED: the paper names gamma, not its value."""
    wording_url: str | None = None
    """Server with OpenAI's chat protocol (".../v1") whose model words the rows; null = grammar templates."""
    wording_model: str = ""
    """Name of that model, as the server knows it; stands in every row it worded."""
    wording_key_variable: str = ""
    """Environment variable with the server's key; "" = it needs none."""
    completions_per_moment: int = 1
    """Task completions about one moment and hand, which differ in the frames shown (1 to 4) and the wording. The paper's
    counts cannot be reached with one: it has about 50 task completions a clip, at one frame a second."""
    targets: str | None = None
    """Rows of each source and task: "paper" (Table 1); null keeps every row. Applied where shards come together
    (ops/hand3d/sampling.py)."""
    num_rows: int | None = None
    """Another total in the same proportions; null = the paper's 300,368."""
    num_clips: int | None = None
    """Clips to draw rows from, evenly over sources, scenes and tasks (the paper has about 4000); null = all."""
    seed: int = 42


@dataclass(frozen=True)
class Hand3DActionConfig:
    chunk_s: float = 10.0
    waypoint_hz: float = 15.0
    """ASSUMED: 15 a second, as the authors' earlier work (Being-H0)."""
    min_displacement_m: float = 0.05
    """ASSUMED: path length under which a motion is insignificant."""
    window_s: float = 2.0
    """Length of a second-level row. ASSUMED: the paper says "second-level", not how many seconds."""
    window_stride_s: float | None = None
    """Between the starts of second-level windows of training clips, shorter than window_s for windows that overlap;
    null = window_s. ASSUMED: side by side. Held-out windows never overlap: their errors shall be independent."""
    max_waypoints: int = 150
    """Longest motion of a row; longer windows keep their length and are sampled more coarsely. 150 = 10 s at 15 Hz."""
    max_gap_s: float = 0.25
    """Longest time between two sightings of a hand that is bridged (linearly). ASSUMED."""
    max_clipped_share: float = 0.1
    """Of a row's waypoints outside the token range; rows with more are rejected. ASSUMED."""
    both_hands: bool = False
    """Where a text is for both hands, also make rows of both motions together (side "both")."""
    prediction_share: float = 1.0
    """Of motions that give a row of contextual prediction; the others are counted as sampled out."""
    translation_share: float = 1.0
    """Of motions that give a row of translation."""
    targets: str | None = None
    """Rows of each source and task: "paper" (Table 2); null keeps every row, as for hand3d_visual."""
    num_rows: int | None = None
    """Another total in the same proportions; null = the paper's 1,030,850."""
    seed: int = 42


@dataclass(frozen=True)
class Hand3DTestConfig:
    num_rows: int = 2000
    seed: int = 42


@dataclass(frozen=True)
class Hand3DDatasetConfig:
    """The release: Parquet is always written, the rest as asked for."""

    conversations: bool = True
    """JSON lines for InternVL's trainer and JSON for LLaVA's, with the frames they name as tar files."""
    webdataset: bool = True
    """Tar shards of rows with their frames."""
    lerobot: bool = True
    """Hand trajectories as LeRobot v3, a data set a shard."""
    internal_use: bool = False
    """Write frames even of clips whose licence forbids passing them on: the release then must not leave your house."""
    frame_long_edge: int = 448
    """Of written frames, pixels; smaller videos keep their size."""
    jpeg_quality: int = 90
    samples_per_tar: int = 5000
    trajectory_fps: float = 10.0
    """Steps a second of the LeRobot data sets."""
    trajectory_image_edge: int = 224
    """Edge of their square images, pixels; 0 for none."""
    near_duplicate_mm: float = 10.0
    """Rows about the same things in the same frames whose numbers agree to this are near duplicates. ASSUMED."""
    num_verified: int = 1000
    """Rows that the report recomputes from the labels."""
    gallery_rows: int = 4
    """Rows of each task that the report draws on their frames."""
    seed: int = 42


@dataclass(frozen=True)
class ModelConfig:
    preset: str = "tiny"
    """Architecture in ops/models/presets.py: "tiny" or "paper"."""
    weights: str | None = None
    """Folder with public InternVL3.5-2B and CUT3R weights; null trains the tiny stand-ins (base_model)."""


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training; see ops/training/loop.py."""

    num_steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_ratio: float
    seed: int = 42
    log_every: int = 10
    save_every: int = 100
    muon_lr: float | None = None
    """Weight matrices learn by torch.optim.Muon at this rate, all else by AdamW at lr; null = AdamW for everything, as the
    paper does in all its stages. The base model made here learns to look things up in a third of AdamW's steps by it."""
    cpu_parts: int = 1
    """On a CPU, in one process: parts of a step's batch that are computed at the same time, each on one thread. For small
    models faster than torch's own threads (ops/training/parts.py)."""


@dataclass(frozen=True)
class RobotDemonstrationsConfig:
    suite: str = "libero_object"
    task_id: int = 4
    """Of LIBERO-Object: the ketchup, which stands at the same spot in every initial state."""
    num_demonstrations: int = 24
    """Successful ones that are kept; the paper's sets have 50 a task."""
    image_size: int = 128
    """Edge of the stored images, pixels."""
    views: tuple[str, ...] = ("agentview",)
    """Cameras: "agentview", "wrist"."""
    image_every: int = 4
    """Control steps between images (at 20 a second); rows in between hold the last image and say its age."""
    noise: float = 0.3
    """Disturbance of the executed position commands while moving freely, in action units. ASSUMED."""
    storage: str = "image"
    """Of images in the LeRobot data set: "image" (PNG, exact) or "video" (H.264)."""
    seed: int = 1000


@dataclass(frozen=True)
class BenchmarkConfig:
    num_trials: int = 10
    num_hand3d_rows: int = 2000
    num_motion_rows: int = 200
    hard_reset: bool = False
    """Rebuild the simulation before every trial, as the published protocol does; false saves 1.5 s a trial."""
    horizon: int | None = 200
    """Most control steps of a trial; null for the suite's own (280 for LIBERO-Object). Demonstrations take about 120."""
    seed: int = 7


@dataclass(frozen=True)
class ChampionConfig:
    model_name: str = "vipa-vla-libero-object"
    block_refused: bool = False
    """Whether the gate's check blocks: a refused policy then makes the run red, its decision is not recorded, and the stage
    counts as stale until a policy passes. If not, refusal is an outcome that is recorded and shown as a warning. The alias
    stays where it is either way."""


@dataclass(frozen=True)
class Config:
    """All of params.yaml."""

    shards: Mapping[str, ShardConfig]
    stage1: TrainConfig
    stage2: TrainConfig
    stage3: TrainConfig
    base_model: TrainConfig
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    raw_videos: RawVideosConfig = field(default_factory=RawVideosConfig)
    mano_fits: ManoFitsConfig = field(default_factory=ManoFitsConfig)
    point_clouds: PointCloudsConfig = field(default_factory=PointCloudsConfig)
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    calibrated_point_clouds: CalibrationConfig = field(default_factory=CalibrationConfig)
    hand3d_visual: Hand3DVisualConfig = field(default_factory=Hand3DVisualConfig)
    hand3d_action: Hand3DActionConfig = field(default_factory=Hand3DActionConfig)
    hand3d_test: Hand3DTestConfig = field(default_factory=Hand3DTestConfig)
    hand3d_dataset: Hand3DDatasetConfig = field(default_factory=Hand3DDatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    robot_demonstrations: RobotDemonstrationsConfig = field(default_factory=RobotDemonstrationsConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    champion: ChampionConfig = field(default_factory=ChampionConfig)


def load(path: Path) -> Config:
    """Read and check a params.yaml. Raises ValueError naming the key, what was given and what is allowed."""
    if not path.is_file():
        raise ValueError(
            f"no configuration at {path}: run inside a workspace (a folder with params.yaml) or pass --root"
        )
    loaded = build(Config, yaml.load(path.read_text(encoding="utf-8"), PARSER) or {}, path.name)
    for shard in loaded.shards:
        if not SHARD_NAME.fullmatch(shard):
            raise ValueError(
                f"{path.name}.shards: {shard!r} is no name of a shard, which is a folder's name and a word of a command: "
                "letters, digits, '_', '-' and '.', beginning with a letter or digit"
            )
    return loaded


def build(kind, value, where: str):
    """Build `kind` (a dataclass, mapping, optional or plain type) from parsed YAML, strictly."""
    if is_dataclass(kind):
        return _build_section(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else build(next(a for a in args if a is not type(None)), value, where)
    if origin is Mapping:
        if not isinstance(value, dict) or not value:
            raise ValueError(f"{where}: expected a mapping with at least one entry, got {value!r}")
        return {str(key): build(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        return tuple(build(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _build_section(kind, value, where: str):
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a mapping, got {value!r}")
    known = {f.name: f for f in fields(kind)}
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
    for name, spec in known.items():
        if name not in value and spec.default is MISSING and spec.default_factory is MISSING:
            raise ValueError(f"{where}: key {name!r} is missing")
    hints = typing.get_type_hints(kind)
    return kind(**{key: build(hints[key], item, f"{where}.{key}") for key, item in value.items()})
