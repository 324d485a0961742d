"""Traps of the environment that were met once and must not come back."""

import ast
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from assets.partitions import MAX_SHARDS, by_shard
from ops import config
from ops.stages import STAGES

ROOT = Path(__file__).parents[1]


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_dagster_selections_and_hydra_live_in_one_environment():
    """dvc's default hydra pins an antlr runtime with which every string selection raises TypeError."""
    import dagster as dg
    import hydra
    import omegaconf

    assert dg.AssetSelection.from_string("key:hand3d_visual+ and not group:scores")
    assert hydra.__version__
    assert omegaconf.OmegaConf.create({"a": 1}).a == 1


def test_torchvision_and_lerobot_are_absent():
    """Beside the CPU build of torch, torchvision breaks transformers; lerobot imports it."""
    for name in ("torchvision", "lerobot", "ops"):  # "ops": another project holds that distribution name
        with pytest.raises(PackageNotFoundError):
            version(name)


@pytest.mark.parametrize("arguments", [["-c"], ["-X", "importtime", "-c"]])
def test_mlflow_is_the_real_package_from_the_repository_root(arguments):
    code = "import mlflow, pathlib; print('site-packages' in pathlib.Path(mlflow.__file__).parts)"
    run = subprocess.run([sys.executable, *arguments, code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"


def test_mlflow_folder_holds_no_python():
    assert not list((ROOT / "mlflow").rglob("*.py"))
    assert not list((ROOT / "infra").rglob("__init__.py"))


def test_fan_in_stays_below_dagsters_threshold():
    from dagster._core.definitions.data_version import SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD as THRESHOLD

    assert MAX_SHARDS < THRESHOLD
    settings = config.load(ROOT / "params.yaml")
    shard = next(iter(settings.shards.values()))
    many = type(settings)(**vars(settings) | {"shards": {f"s{i:03}": shard for i in range(MAX_SHARDS + 1)}})
    with pytest.raises(ValueError, match=f"at most {MAX_SHARDS}"):
        by_shard(many)


def test_no_pipes_message_can_be_lost_while_a_run_stays_green():
    """Dagster Pipes makes up an empty materialisation when its messages are lost; whoever uses it must say no."""
    lenient = []
    assert any("PipesDockerClient(" in path.read_text("utf-8") for path in sources("dagster_project")), (
        "it is looked for"
    )
    for path in sources("assets", "dagster_project"):
        text = path.read_text(encoding="utf-8")
        called = [call for call in (".get_materialize_result(", ".get_results(") if call in text]
        if called and "implicit_materialization" not in text:
            lenient.append(path.name)
        assert "Pipes" not in text or called or "Client(" not in text, f"{path} uses Pipes without reading its results"
    assert not lenient


def test_dagster_modules_have_no_deferred_annotations():
    """With them Dagster cannot read resource types and raises at definition."""
    found = [
        p for p in sources("assets", "dagster_project") if "from __future__ import annotations" in p.read_text("utf-8")
    ]
    assert not found


def test_console_starts_fast_and_loads_nothing_heavy():
    heavy = "torch", "transformers", "dagster", "dvc", "mlflow", "polars", "mediapipe", "mujoco"
    code = (
        "import sys, time; start = time.perf_counter(); from ops.__main__ import parser; parser().format_help();"
        f"print([m for m in {heavy} if m in sys.modules], time.perf_counter() - start < 1)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] True"


def test_definitions_load_in_seconds_without_torch():
    code = (
        "import time; start = time.process_time(); import sys, dagster as dg;"
        "from dagster_project.definitions import defs; dg.Definitions.validate_loadable(defs());"
        "print([m for m in ('torch', 'transformers', 'mlflow', 'dvc', 'mujoco') if m in sys.modules],"
        " time.process_time() - start < 8)"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "[] True", run.stderr


def test_tuple_defaults_are_spelled_out_in_params():
    """DVC cannot track a tuple among Python defaults (ops/dvc_file.py), so params.yaml has to give it."""
    import yaml

    given = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree = ast.parse((ROOT / "ops" / "config.py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    sections = {
        f.target.id: f.annotation.id
        for f in classes["Config"].body
        if hasattr(f, "annotation") and isinstance(f.annotation, ast.Name)
    }
    missing = [
        f"{section}.{field.target.id}"
        for section, name in sections.items()
        for field in classes[name].body
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Tuple) and field.value.elts
        if field.target.id not in given.get(section, {})
    ]
    assert not missing


def test_every_stage_names_the_weights_its_code_loads():
    """A stage that reads data/weights/X says so, else new weights would leave its output up to date."""
    for stage in STAGES:
        module = (ROOT / (stage.entry.split(":")[0].replace(".", "/") + ".py")).read_text(encoding="utf-8")
        if "weights_dir(" in module:
            assert any(file.startswith("data/weights/") for file in stage.files), stage.name
