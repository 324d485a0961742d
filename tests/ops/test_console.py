"""The command line as a user meets it: exit codes, one clear line, no traceback for a mistake of theirs."""

import pytest

from ops import data_version
from ops.__main__ import main
from ops.stages import BY_NAME
from tests.assets import fakes


@pytest.fixture
def root(tmp_path, monkeypatch):
    fakes.workspace(tmp_path)
    fakes.install(monkeypatch, tmp_path)
    return tmp_path


def test_help_has_a_line_for_every_stage_and_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in (*BY_NAME, "bootstrap", "models", "report", "status", "lineage"):
        assert f"  {name}" in text


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["run", "nonsense"], ["models", "--preset", "huge"]])
def test_wrong_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_stage_is_a_command_and_runs_all_shards(root, capsys):
    assert main(["raw_videos", "--root", str(root)]) == 0
    assert fakes.ran(root) == ["raw_videos one", "raw_videos two"]
    assert "raw_videos@two: 2 clips, 1 rejected: no_object" in capsys.readouterr().out
    assert main(["mano_fits", "--shard", "two", "--root", str(root)]) == 0
    assert list(data_version.recorded(root)) == ["raw_videos@one", "raw_videos@two", "mano_fits@two"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mano_fits", "--shard", "three"], "stage mano_fits takes one of one, two, got 'three'"),
        (["champion", "--shard", "one"], "stage champion takes no shard"),
        (["lineage", "champion"], "run `hand3d run champion` first"),
    ],
)
def test_mistakes_get_one_line_and_exit_1(root, capsys, arguments, said):
    assert main([*arguments, "--root", str(root)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_debug_shows_the_traceback(root, capsys):
    assert main(["champion", "--shard", "one", "--root", str(root), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_folder_without_params_is_named(tmp_path, capsys):
    assert main(["status", "--root", str(tmp_path)]) == 1
    assert "run inside a workspace" in capsys.readouterr().err


def test_failing_shard_does_not_take_the_others_with_it(root, capsys):
    fakes.write(root / fakes.FAIL, "raw_videos one")
    assert main(["raw_videos", "--root", str(root)]) == 1
    assert fakes.ran(root) == ["raw_videos two"]
    assert "raw_videos@one: raw_videos: told to fail" in capsys.readouterr().err


def test_our_own_defects_show_their_traceback_and_exit_3(root, monkeypatch, capsys):
    def broken(context):
        raise AssertionError("an invariant of ours")

    monkeypatch.setattr("ops.stages.Stage.function", lambda stage: broken)
    assert main(["raw_videos", "--shard", "one", "--root", str(root)]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_status_and_lineage_after_a_run(root, capsys):
    for name in ("raw_videos", "mano_fits"):
        assert main([name, "--shard", "one", "--root", str(root)]) == 0
    capsys.readouterr()
    assert main(["status", "--root", str(root)]) == 0
    status = capsys.readouterr().out
    assert "mano_fits@two:" in status
    assert "mano_fits@one:" not in status
    assert main(["lineage", "mano_fits", "--shard", "one", "--root", str(root)]) == 0
    lineage = capsys.readouterr().out
    assert "artefact: mano_fits@one" in lineage
    assert "videos/one" in lineage  # back to the folder of videos, with its hash
    assert "@two" not in lineage
