"""DVC beside us: commits that come at once, experiments in a git repository, the record made with a champion."""

import csv
import io
import json
import subprocess

import pytest

from ops import artefacts, config, data_version, dvc_cache, garbage, lineage_record, tables, tracking
from ops.evaluation import champion
from ops.stages import BY_NAME, STAGES, Stage
from tests.assets import fakes
from tests.ops import registry_world as world
from tests.ops.test_champion import REPOSITORY, trials


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fakes.workspace(tmp_path)
    fakes.install(monkeypatch, tmp_path)
    return tmp_path


@pytest.mark.slow
def test_commits_of_two_processes_at_once_are_both_kept(root):
    data_version.prepare(root)
    commands = [["hand3d", "run", "raw_videos", "--shard", shard] for shard in fakes.SHARDS]
    started = [
        subprocess.Popen(command, cwd=root, env=fakes.environment(root), stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    assert [(process.communicate()[1], process.returncode)[1] for process in started] == [0, 0]
    assert set(data_version.recorded(root)) == {"raw_videos@one", "raw_videos@two"}
    assert data_version.stale(root, ["raw_videos@one", "raw_videos@two"]) == {}


@pytest.mark.slow
def test_experiment_runs_in_git_and_shows_beside_the_baseline(root):
    """`dvc exp run -S` of one stage; what stands before it is made first and left alone."""

    def command(*words):
        done = subprocess.run(words, cwd=root, env=fakes.environment(root), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    fakes.shim(root)
    fakes.write(root / ".gitignore", "/data/\n/videos/\n/.dvc/tmp/\n/.dvc/cache/\n/ran.txt\n")
    command("git", "init", "-q")
    data_version.prepare(root)
    settings = config.load(root / "params.yaml")
    for stage in STAGES[: list(BY_NAME).index("stage1_checkpoint") + 1]:
        if stage.name in ("objects", "calibrated_point_clouds", "hand3d_action", "hand3d_test", "hand3d_dataset"):
            (root / "data" / stage.name).mkdir(exist_ok=True)
        if stage.name in (
            "raw_videos",
            "mano_fits",
            "point_clouds",
            "calibrated_point_clouds",
            "objects",
            "hand3d_visual",
        ):
            for shard in fakes.SHARDS:
                artefacts.make(root, settings, stage.name, shard)
        elif stage.name in ("base_model", "stage1_checkpoint"):
            artefacts.make(root, settings, stage.name)
    before = json.loads((root / "data" / "stage1_checkpoint" / "report.json").read_text(encoding="utf-8"))
    command("git", "-c", "user.name=t", "-c", "user.email=t@t", "add", "-A")
    command("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "baseline")
    fakes.ran(root)
    command("dvc", "exp", "run", "-n", "longer", "-S", "stage1.num_steps=7", "stage1_checkpoint")
    assert fakes.ran(root) == ["stage1_checkpoint"]
    assert config.load(root / "params.yaml").stage1.num_steps == 7
    shown = {row["Experiment"]: row for row in csv.DictReader(io.StringIO(command("dvc", "exp", "show", "--csv")))}
    assert shown["longer"]["stage1.num_steps"] == "7"
    assert float(shown["longer"]["metrics.content"]) == before["metrics"]["content"], "the fake does not train"
    assert data_version.stale(root, ["stage1_checkpoint"]) == {}, "and Dagster will not make it again"
    garbage.collect(root, delete=True)  # here there are branches and experiments to keep
    assert "longer" in command("dvc", "exp", "show", "--csv")
    with dvc_cache.opened(root) as cache:
        assert all(dvc_cache.listing(cache, entry["outs"][0]["md5"]) for entry in data_version.recorded(root).values())


def test_runs_inside_an_experiment_say_which(tmp_path, monkeypatch):
    world.store(tmp_path)
    monkeypatch.setenv("DVC_EXP_NAME", "longer")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "a" * 40)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    section = config.load(REPOSITORY / "params.yaml").stage1
    with tracking.start_run(tmp_path, "stage1_checkpoint", section, {}) as run:
        pass
    tags = tracking.run_tags(tmp_path, run.run_id)
    assert (tags["dvc_experiment"], tags["dvc_experiment_from"]) == ("longer", "a" * 40)


def test_champion_carries_its_lineage_and_shows_it(root, monkeypatch):
    """The real stage on a real registry; what it was made from lies there, but most of it was never recorded."""
    monkeypatch.undo()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fakes.install(monkeypatch, root)
    keep = vars(lineage_record)["keep"]
    assert keep.__name__ == "<lambda>", "the fakes keep no record"
    monkeypatch.setattr(lineage_record, "keep", REAL_KEEP)
    monkeypatch.setattr(Stage, "function", lambda stage: champion.run)
    world.store(root)
    (root / champion.RULE_FILE).write_bytes((REPOSITORY / champion.RULE_FILE).read_bytes())
    data_version.prepare(root)
    for name in {read for stage in ("posttrained_policies", "benchmark_scores") for read in BY_NAME[stage].reads}:
        fakes.write(root / "data" / name / "x", name)
    world.policy(root, 1.0)
    (root / "data" / "benchmark_scores").mkdir()
    tables.write("trials", trials(0.8), root / "data" / "benchmark_scores" / "trials.parquet")
    for name in ("posttrained_policies", "benchmark_scores"):
        data_version.commit(root, name)
    made = artefacts.make(root, config.load(root / "params.yaml"), "champion")
    assert "behind it: artefacts, code, parameters" in made.report.tables
    listed = [row["artefact"] for row in made.report.tables["behind it: artefacts, code, parameters"]]
    assert listed == ["posttrained_policies", "benchmark_scores"]
    tags = tracking.version_tags(root, world.MODEL, 1)
    assert tags["dvc_md5"] == data_version.recorded_version(root, "posttrained_policies")
    assert "made from data/stage2_checkpoint, of which dvc.lock records nothing" in tags[lineage_record.GAPS_TAG]
    record = lineage_record.of_version(root, world.MODEL, 1)
    assert list(record.lock) == listed
    assert record.gaps
    assert data_version.stale(root, ["champion"]) == {}, "the report with the lineage is what was recorded"
    fakes.write(root / "data" / "posttrained_policies" / "model.safetensors", "another")
    assert "is not the one that dvc.lock records" in " ".join(lineage_record.collect(root).gaps)


REAL_KEEP = lineage_record.keep
