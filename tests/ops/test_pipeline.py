"""Running a stage: whole or absent, resumable, clear about what is missing."""

import errno

import pytest

from ops import config
from ops.pipeline import StageContext, output, run_stage
from ops.stages import Stage
from ops.store import Report
from tests.assets import fakes


@pytest.fixture
def root(tmp_path, monkeypatch):
    fakes.workspace(tmp_path)
    fakes.install(monkeypatch, tmp_path)
    return tmp_path


def settings(root):
    return config.load(root / "params.yaml")


def entry(monkeypatch, function):
    monkeypatch.setattr(Stage, "function", lambda stage: function)


@pytest.mark.parametrize(("name", "shard", "said"), [
    ("fly", "", "no stage 'fly'; there are: raw_videos"),
    ("raw_videos", "", "takes one of one, two, got ''"),
    ("raw_videos", "three", "takes one of one, two, got 'three'"),
    ("champion", "one", "takes no shard, got 'one'"),
])  # fmt: skip
def test_wrong_names_are_refused(root, name, shard, said):
    with pytest.raises(ValueError, match=said):
        run_stage(root, settings(root), name, shard)


def test_missing_input_names_the_stage_to_run_first(root):
    with pytest.raises(FileNotFoundError, match="run `hand3d run raw_videos` first"):
        run_stage(root, settings(root), "mano_fits", "one")


def test_undeclared_read_is_refused(root, monkeypatch):
    entry(monkeypatch, lambda context: context.input("champion"))
    with pytest.raises(KeyError, match=r"add it in ops/stages\.py"):
        run_stage(root, settings(root), "raw_videos", "one")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_interrupted_stage_leaves_the_old_output_and_resumes(root, monkeypatch, kind):
    run_stage(root, settings(root), "raw_videos", "one")
    before = {path.name: path.read_bytes() for path in output(root, "raw_videos", "one").iterdir()}

    def stopped(context: StageContext) -> Report:
        (context.scratch / "half").write_text("done so far", encoding="utf-8")
        (context.out / "clips.parquet").write_text("half", encoding="utf-8")
        raise kind

    entry(monkeypatch, stopped)
    with pytest.raises(kind):
        run_stage(root, settings(root), "raw_videos", "one")
    folder = output(root, "raw_videos", "one")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["one"]

    def resumed(context: StageContext) -> Report:
        assert (context.scratch / "half").read_text(encoding="utf-8") == "done so far"
        return Report(rows={"clips": 1})

    entry(monkeypatch, resumed)
    assert run_stage(root, settings(root), "raw_videos", "one").rows == {"clips": 1}
    assert not (root / "data" / ".scratch" / "raw_videos" / "one").exists()


def test_full_disk_is_said_plainly_and_nothing_is_lost(root, monkeypatch):
    run_stage(root, settings(root), "raw_videos", "one")

    def full(context):
        raise OSError(errno.ENOSPC, "No space left on device")

    entry(monkeypatch, full)
    with pytest.raises(OSError, match=r"is full .* free space and run again"):
        run_stage(root, settings(root), "raw_videos", "one")
    assert (output(root, "raw_videos", "one") / "report.json").is_file()


def test_report_survives_the_disk(tmp_path):
    report = Report({"a": 1}, {"m": 0.5}, {"no_object": 2}, {"p": "p.png"}, {"t": [{"x": 1}]}, ["note"])
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
