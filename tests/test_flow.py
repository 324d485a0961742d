"""One list of stages, three graphs: ops/stages.py == dvc.yaml == Dagster's assets."""

import ast
import re
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dagster_project import definitions
from ops import checks, config, dvc_file
from ops.__main__ import ABOUT
from ops.code_version import PLUMBING, code_files, code_version, imported
from ops.stages import BY_NAME, STAGES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def graph():
    return definitions.build(ROOT).resolve_asset_graph()


def test_stages_come_after_what_they_read():
    seen = set()
    for stage in STAGES:
        assert set(stage.reads) <= seen, stage.name
        seen.add(stage.name)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_entry_is_a_function(stage):
    assert callable(stage.function())


def test_assets_are_the_stages(graph):
    made = {key.to_user_string() for key in graph.materializable_asset_keys}
    assert made == set(BY_NAME) | {
        "source_survey",
        "champion_rescore",
    }  # the two are looked at by the clock (assets/upkeep.py)
    for stage in STAGES:
        node = graph.get(dg.AssetKey(stage.name))
        parents = {key.to_user_string() for key in node.parent_keys} - {"video_folders"}
        assert parents == set(stage.reads), stage.name
        assert node.is_partitioned == stage.partitioned, stage.name
        assert {key.name for key in node.check_keys} == {check.name for check in checks.checks_of(stage.name)}
    assert graph.get(dg.AssetKey("video_folders")).is_observable


def test_catalogue_is_complete(graph):
    for name in BY_NAME:
        node = graph.get(dg.AssetKey(name))
        assert len(node.description) > 100, name
        assert node.owners, name
        assert node.kinds, name
        assert node.group_name in {"clips", "geometry", "hand3d", "training", "scores"}
        assert node.code_version, name
        assert node.automation_condition is not None


def test_partitions_are_the_shards(graph):
    shards = list(config.load(ROOT / "params.yaml").shards)
    assert graph.get(dg.AssetKey("mano_fits")).partitions_def.get_partition_keys() == shards


def test_dvc_yaml_is_the_rendering():
    assert (ROOT / "dvc.yaml").read_text(encoding="utf-8") == dvc_file.render(ROOT), "run `hand3d dvc-yaml`"


def test_dvc_commands_name_stages():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, entry in stages.items():
        body = entry.get("do", entry)
        assert body["cmd"].split()[:3] == ["hand3d", "run", name]
        assert list(body["outs"][0]) == [f"data/{name}" + "/${key}" * BY_NAME[name].partitioned]


def test_console_describes_every_stage():
    assert list(ABOUT) == list(BY_NAME)


def test_code_files_follow_imports_in_functions_and_names_in_strings():
    names = {path.name for path in code_files(BY_NAME["raw_videos"])}
    assert {"manifest.py", "folder.py", "synthetic.py", "video.py", "camera.py"} <= names
    assert not {module.split(".")[1] + ".py" for module in PLUMBING} & names


def test_imports_are_those_that_the_parser_finds():
    for path in (ROOT / "ops").glob("**/*.py"):
        assert set(imported(path)) == parsed_imports(path.read_text(encoding="utf-8")), path


LAYOUTS = """
import os, ops.b as c
import ops.d.e  # import ops.no
from ops import f, g as h
def inner():
    from ops.i import (
        j,  # k (no) l)
        m as n,
    )
    from ops.o import \\
        p
READERS = {"a": "ops.q.r", "b": 'ops.s:run', "c": "see ops.t"}
"""


def test_imports_are_found_however_they_are_laid_out(tmp_path):
    (tmp_path / "a.py").write_text(LAYOUTS)
    found = set(imported(tmp_path / "a.py"))
    assert found == parsed_imports(LAYOUTS)
    assert {"ops.b", "ops.g", "ops.i.m", "ops.o.p", "ops.s", "ops.q.r"} <= found


def parsed_imports(text: str) -> set[str]:
    """The second route: Python's own parser."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"ops(\.\w+)+(:\w+)?", str(node.value)):
            names.add(node.value.split(":")[0])
    return {name for name in names if name.startswith("ops.")}


def test_code_version_changes_with_a_file_that_is_used(tmp_path, monkeypatch):
    from ops import code_version as module

    package = tmp_path / "ops"
    package.mkdir()
    (package / "a.py").write_text("def run(context):\n    from ops.b import x\n")
    (package / "b.py").write_text("x = 1\n")
    (package / "c.py").write_text("y = 1\n")
    monkeypatch.setattr(module, "PACKAGE", package)
    module._path.cache_clear()
    stage = type(STAGES[0])("s", "ops.a:run")
    before = code_version(stage)
    (package / "c.py").write_text("y = 2\n")
    assert code_version(stage) == before
    (package / "b.py").write_text("x = 2\n")
    assert code_version(stage) != before
    module._path.cache_clear()


def test_missing_entry_module_is_named():
    with pytest.raises(FileNotFoundError, match=r"ops\.nowhere"):
        code_files(type(STAGES[0])("s", "ops.nowhere:run"))
