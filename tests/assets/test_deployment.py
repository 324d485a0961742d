"""Resources by deployment, the two servers, and the video sensor's cheap look."""

import os

import pytest

from dagster_project import home, resources, sensors, ui
from tests.assets import fakes


def test_one_variable_chooses_the_runner(tmp_path, monkeypatch):
    monkeypatch.setenv("HAND3D_DEPLOYMENT", "subprocess")
    assert type(resources.resources(tmp_path)["runner"]).__name__ == "Subprocess"
    monkeypatch.setenv("HAND3D_DEPLOYMENT", "moon")
    with pytest.raises(ValueError, match="one of local, subprocess, docker, kubernetes, got 'moon'"):
        resources.resources(tmp_path)


def test_servers_listen_on_this_machine_only(tmp_path):
    for command in ui.commands(tmp_path).values():
        assert command[command.index("--host") + 1] == "127.0.0.1"
        assert "0.0.0.0" not in " ".join(command)


def test_home_is_made_once_and_reports_nothing(tmp_path, monkeypatch):
    for name in ("DAGSTER_HOME", "HAND3D_ROOT"):
        monkeypatch.setenv(name, "")
    folder = home.prepare(tmp_path)
    settings = folder / "dagster.yaml"
    assert "telemetry:\n  enabled: false" in settings.read_text(encoding="utf-8")
    settings.write_text("# the user's own\n", encoding="utf-8")
    home.prepare(tmp_path)
    assert settings.read_text(encoding="utf-8") == "# the user's own\n"
    assert os.environ["DAGSTER_HOME"] == str(folder)


def test_unreadable_folder_is_named_and_looked_at_again(tmp_path, monkeypatch):
    from ops import config

    root = fakes.workspace(tmp_path)
    fakes.install(monkeypatch, root)
    settings = config.load(root / "params.yaml")
    (root / "videos" / "two" / "a.mp4").unlink()
    events, known, problems = sensors.changes(settings, root, {})
    assert [event.partition for event in events] == ["one"]
    assert problems[0].startswith("two: no clip in")
    fakes.write(root / "videos" / "two" / "b.mp4", "back")
    events, known, problems = sensors.changes(settings, root, known)
    assert [event.partition for event in events] == ["two"]
    assert not problems
