"""The pipeline on one page: every stage, what it reads, and the function that makes it.

dvc.yaml is rendered from this list, the Dagster assets are built from it, and the console runs it, so the three
cannot diverge. A stage is a noun: the thing that exists afterwards, in ``data/<stage>[/<shard>]``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Stage:
    """One row of the pipeline.

    name: the artefact; also its folder, DVC stage, Dagster asset and console command.
    entry: "module:function", called as ``function(context) -> Report`` (ops.pipeline.StageContext).
    reads: stages whose output it reads. A partitioned stage reads the same shard of partitioned ones; an
        unpartitioned stage reads all their shards.
    params: sections of params.yaml it depends on.
    partitioned: one output a shard, or one for all.
    gpu: whether it wants a GPU at the paper's size.
    files: what else it reads (weights, rules), relative to the workspace.
    """

    name: str
    entry: str
    reads: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    partitioned: bool = False
    gpu: bool = False
    files: tuple[str, ...] = ()

    def function(self) -> Callable:
        module, function = self.entry.split(":")
        return getattr(import_module(module), function)


STAGES: tuple[Stage, ...] = (
    Stage("raw_videos", "ops.sources.manifest:run", (), ("raw_videos",), partitioned=True),
    Stage("mano_fits", "ops.perception.mano_fits:run", ("raw_videos",), ("mano_fits",), partitioned=True, gpu=True, files=("data/weights/hand_model", "data/weights/hand_landmarker.task")),
    Stage("point_clouds", "ops.perception.point_clouds:run", ("raw_videos", "mano_fits"), ("point_clouds",), partitioned=True, gpu=True),
    Stage("objects", "ops.perception.objects:run", ("raw_videos", "mano_fits", "point_clouds"), ("objects",), partitioned=True, gpu=True),
    Stage("calibrated_point_clouds", "ops.perception.calibration:run", ("raw_videos", "mano_fits", "point_clouds", "objects"), ("calibrated_point_clouds",), partitioned=True),
    Stage("hand3d_visual", "ops.hand3d.visual:run", ("raw_videos", "mano_fits", "point_clouds", "calibrated_point_clouds"), ("hand3d_visual", "point_clouds"), partitioned=True),
    Stage("hand3d_action", "ops.hand3d.action:run", ("raw_videos", "mano_fits"), ("hand3d_action",), partitioned=True),
    Stage("hand3d_test", "ops.hand3d.heldout:run", ("raw_videos", "hand3d_visual"), ("hand3d_test",)),
    Stage("hand3d_dataset", "ops.hand3d.dataset:run", ("raw_videos", "mano_fits", "point_clouds", "objects", "calibrated_point_clouds", "hand3d_visual", "hand3d_action", "hand3d_test"), ("hand3d_dataset", "hand3d_visual", "hand3d_action")),
    Stage("base_model", "ops.training.base:run", ("raw_videos", "hand3d_visual"), ("model", "base_model"), gpu=True, files=("data/weights/tokenizer",)),
    Stage("stage1_checkpoint", "ops.training.stages:run_stage1", ("base_model", "raw_videos", "hand3d_visual"), ("stage1", "hand3d_visual"), gpu=True, files=("data/weights/tokenizer",)),
    Stage("stage2_checkpoint", "ops.training.stages:run_stage2", ("stage1_checkpoint", "raw_videos", "hand3d_action"), ("stage2", "hand3d_action"), gpu=True, files=("data/weights/tokenizer",)),
    Stage("robot_demonstrations", "ops.robots.demonstrations:run", (), ("robot_demonstrations",)),
    Stage("posttrained_policies", "ops.training.stages:run_stage3", ("stage2_checkpoint", "robot_demonstrations"), ("stage3",), gpu=True, files=("data/weights/tokenizer",)),
    Stage("benchmark_scores", "ops.evaluation.benchmarks:run", ("base_model", "stage1_checkpoint", "stage2_checkpoint", "posttrained_policies", "robot_demonstrations", "raw_videos", "hand3d_visual", "hand3d_action", "hand3d_test"), ("benchmark",), gpu=True, files=("data/weights/tokenizer",)),
    Stage("champion", "ops.evaluation.champion:run", ("posttrained_policies", "benchmark_scores"), ("champion",), files=("mlflow/promotion.yaml",)),
)  # fmt: skip

BY_NAME = {stage.name: stage for stage in STAGES}
