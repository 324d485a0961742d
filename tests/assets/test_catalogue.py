"""What the catalogue says of an asset: owner, kinds, tags, description, code, columns and where they come from."""

from pathlib import Path

import dagster as dg
import pytest

from assets import factory
from dagster_project import definitions
from ops import checks, columns, tables
from ops.stages import BY_NAME, STAGES
from tests.assets import fakes


@pytest.fixture
def graph(tmp_path, monkeypatch):
    fakes.workspace(tmp_path)
    monkeypatch.setenv("HAND3D_ROOT", str(tmp_path))
    return definitions.build(tmp_path).resolve_asset_graph()


def test_every_asset_says_whose_it_is_and_what_it_is(graph):
    for stage in STAGES:
        node = graph.get(dg.AssetKey(stage.name))
        assert node.owners == factory.OWNERS
        assert node.group_name in {"clips", "geometry", "hand3d", "training", "scores"}
        assert any(tag.startswith("dagster/kind/") for tag in node.tags), stage.name
        assert (node.tags.get("gpu") == "wanted") == stage.gpu
        assert len(node.description) > 100, stage.name
        assert node.metadata["dagster/uri"].endswith(f"data/{stage.name}")


def test_code_reference_names_the_line_of_the_function(graph):
    for stage in STAGES:
        (reference,) = graph.get(dg.AssetKey(stage.name)).metadata["dagster/code_references"].code_references
        line = Path(reference.file_path).read_text(encoding="utf-8").splitlines()[reference.line_number - 1]
        assert line.startswith(f"def {stage.entry.split(':')[1]}(context"), (stage.name, line)


def test_checks_of_a_shard_are_kept_by_shard(graph):
    for stage in STAGES:
        for key in graph.get(dg.AssetKey(stage.name)).check_keys:
            assert (graph.get(key).partitions_def is not None) == stage.partitioned, key


def test_column_sources_exist_on_both_sides():
    assert set(columns.COLUMN_SOURCES) <= set(checks.TABLES)
    for name, found in columns.COLUMN_SOURCES.items():
        own = tables.SCHEMAS[next(iter(checks.TABLES[name].values()))].columns
        assert set(found) <= set(own), name
        for column, sources in found.items():
            assert len(set(sources)) == len(sources) > 0, (name, column)
            for source in sources:
                upstream, _, theirs = source.partition(".")
                assert upstream in BY_NAME[name].reads, (name, column, source)
                known = {
                    field for schema in checks.TABLES[upstream].values() for field in tables.SCHEMAS[schema].columns
                }
                assert theirs in known, (name, column, source)


def test_column_lineage_reaches_the_catalogue():
    lineage = factory.column_lineage("hand3d_visual").lineage.deps_by_column
    assert lineage["scale"] == [dg.TableColumnDep(dg.AssetKey("calibrated_point_clouds"), "scale")]
    assert dg.AssetKey("mano_fits") in {dep.asset_key for dep in lineage["vector"]}
    assert factory.column_lineage("base_model") is None


def test_words_in_angle_brackets_are_shown_as_they_are():
    notes = {column.name: column.description for column in factory.column_schema("raw_videos").schema.columns}
    assert notes["clip_id"] == '"&lt;source&gt;/&lt;name&gt;"'


def test_a_column_says_what_it_is_and_where_it_comes_from():
    notes = {column.name: column.description for column in factory.column_schema("hand3d_visual").schema.columns}
    assert notes["start"].startswith(
        "m, where the vector begins, camera frame of the LAST frame; null for a camera; from `"
    )
    assert notes["split"] == "from `raw_videos.split`"
    assert notes["wording"] == '"grammar", or the model that worded question and answer'
    assert notes["contact"] == "null where the source does not say"
