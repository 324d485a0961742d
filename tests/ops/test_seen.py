"""What checks remember: tables and clips, and no longer than their files stay as they are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pandera.errors import SchemaError

from ops import config, pipeline, seen_tables, tables
from ops.rejects import ClipError
from ops.sources import artefact_checks
from tests.assets import fakes

PARAMS = Path(__file__).parents[2] / "params.yaml"


def trials(**values):
    return tables.frame("trials", [fakes.valid_row("trials") | values])


def test_table_is_read_once_and_again_when_its_file_changes(tmp_path):
    path = tmp_path / "trials.parquet"
    tables.write("trials", trials(steps=1), path)
    first = seen_tables.read("trials", path)
    assert seen_tables.read("trials", path) is first
    tables.write("trials", trials(steps=2), tmp_path / "new")
    (tmp_path / "new").replace(path)
    assert seen_tables.read("trials", path)["steps"].to_list() == [2]
    trials(steps=2).with_columns(progress=2.0).write_parquet(path)
    with pytest.raises(SchemaError):
        seen_tables.read("trials", path)


def test_large_table_is_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "trials.parquet"
    tables.write("trials", trials(), path)
    monkeypatch.setattr(seen_tables, "MAX_BYTES", 10)
    assert seen_tables.read("trials", path) is not seen_tables.read("trials", path)


@pytest.mark.weights
def test_clip_is_read_once_and_again_when_a_file_of_it_changes(tmp_path, tiny_clips):
    shard = "synthetic-00"
    shutil.copytree(tiny_clips / "data" / "raw" / shard, tmp_path / "data" / "raw" / shard)
    pipeline.run_stage(tmp_path, config.load(PARAMS), "raw_videos", shard)
    rows = tables.read("clips", tmp_path / "data" / "raw_videos" / shard / "clips.parquet")
    row = rows.row(0, named=True)
    first = artefact_checks.kept_clip(row, tmp_path)
    assert artefact_checks.kept_clip(row, tmp_path) is first
    assert (
        artefact_checks.kept_clip(row | {"split": "test" if row["split"] == "train" else "train"}, tmp_path)
        is not first
    )
    labels = (tmp_path / row["video"]).with_suffix(".npz")
    changed = dict(np.load(labels))
    changed["tau_left"] = changed["tau_left"] + 1.0
    np.savez_compressed(labels, **changed)
    again = artefact_checks.kept_clip(row, tmp_path)
    np.testing.assert_allclose(again.hands["left"].tau, first.hands["left"].tau + 1.0)
    labels.unlink()
    with pytest.raises(ClipError, match="missing"):
        artefact_checks.kept_clip(row, tmp_path)
    (tmp_path / row["video"]).unlink()
    with pytest.raises(ClipError, match="gone"):
        artefact_checks.kept_clip(row, tmp_path)
