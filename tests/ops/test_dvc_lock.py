"""dvc.lock stage by stage: the bytes and the values of an unchanged DVC, at a fraction of its time."""

import os
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest

from ops import data_version, dvc_file, dvc_lock
from ops.stages import STAGES
from tests.assets import fakes

TRICKY = {
    "cmd": "hand3d run x --shard on " + "and a long line that is folded " * 8,
    "params": {
        "params.yaml": {
            "lr": 1e-05,
            "big": 2.5e20,
            "word": "on",
            "text": "1e-05",
            "time": "12:30:45",
            "none": None,
            "flag": True,
            "list": [1, "02", 3.0, "yes"],
            "nested": {"a b": "x: y", "#": "'quoted'"},
        }
    },
    "outs": [{"path": "data/x", "hash": "md5", "md5": "12345678901234567890123456789012.dir", "size": 1}],
}


def test_values_are_those_of_dvcs_own_parser():
    from dvc.utils.serialize import dumps_yaml, loads_yaml

    names = ["mano_fits@one", "a stage: odd", "12", "on"]
    text = dvc_lock.EMPTY + dumps_yaml({"stages": {name: deepcopy(TRICKY) for name in names}}) + "datasets: []\n"
    found = dvc_lock.Stages(text)
    assert dict(found) == loads_yaml(text)["stages"]
    assert list(found) == names
    assert found["on"]["params"]["params.yaml"] == TRICKY["params"]["params.yaml"]
    assert dvc_lock.split(text)[2] == "datasets: []\n"


def test_a_stages_text_is_dvcs_own_though_its_dependencies_are_written_once():
    from dvc.utils.serialize import dumps_yaml

    paths = ["ops/x.py", "data/a b: c/" + "long name " * 12, "1e5", "on"]
    hashes = ["0a" * 16, "1" * 32, "1e" + "0" * 30, "5" * 32]
    deps = [{"path": p, "hash": "md5", "md5": m, "size": 1} for p, m in zip(paths, hashes, strict=True)]
    for entry in ({"cmd": TRICKY["cmd"], "deps": [*deps, dict(deps[0])], **TRICKY}, TRICKY, {"cmd": "x", "deps": []}):
        for name in ("mano_fits@one", "on", "a stage: odd"):
            expected = dumps_yaml({"stages": {name: entry}}).removeprefix(dvc_lock.STAGES)
            assert dvc_lock.block(name, entry) == expected
            assert dvc_lock.block(name, entry) == expected, "the second time from memory"


def test_parameters_that_change_are_seen_though_equal_bytes_are_parsed_once(tmp_path, monkeypatch):
    from dvc.utils.serialize import load_path

    root = fakes.ready(tmp_path, monkeypatch)
    fakes.write(root / "data" / "mano_fits" / "one" / "table.parquet", "hands")
    fakes.write(root / "data" / "raw_videos" / "one" / "table.parquet", "clips")
    data_version.commit(root, "mano_fits", "one")
    assert data_version.stale(root, ["mano_fits@one"]) == {}
    params = (root / "params.yaml").read_text(encoding="utf-8")
    fakes.write(root / "params.yaml", params.replace("0.3", "0.4"))
    assert "changed in params.yaml" in data_version.stale(root, ["mano_fits@one"])["mano_fits@one"]
    data_version.commit(root, "mano_fits", "one")
    recorded = data_version.recorded(root)["mano_fits@one"]["params"]["params.yaml"]
    assert recorded["mano_fits"] == {"min_detection_confidence": 0.4}
    fakes.write(root / "params.yaml", params)
    assert data_version.stale(root, ["mano_fits@one"])
    with data_version._repo(root) as repo:
        load_path(str(root / "params.yaml"), repo.fs)["mano_fits"]["min_detection_confidence"] = 0.9
        assert load_path(str(root / "params.yaml"), repo.fs)["mano_fits"]["min_detection_confidence"] == 0.3


def test_dvc_yaml_follows_parameters_and_code(tmp_path, monkeypatch):
    """Its rendering is kept, for all that it depends on."""
    root = fakes.ready(tmp_path, monkeypatch)
    before = dvc_file.render(root)
    assert dvc_file.render(root) == before
    fakes.write(
        root / "params.yaml", (root / "params.yaml").read_text(encoding="utf-8").replace("mano_fits:", "objects:")
    )
    monkeypatch.setattr(dvc_file, "code_files", lambda stage: [root / "code" / "other.py"])
    after = dvc_file.render(root)
    assert after.count("code/other.py") == len(STAGES)
    assert before.count("code/other.py") == 0


def test_one_stage_is_replaced_and_nothing_else_touched():
    text = "schema: '2.0'\nstages:\n  a:\n    cmd: x\n  b:\n    cmd: y\ntail: 1\n"
    assert dvc_lock.replaced(text, {"a": "  a:\n    cmd: z\n"}) == text.replace("cmd: x", "cmd: z")
    assert dvc_lock.replaced(text, {"c": "  c:\n    cmd: w\n"}) == text.replace("tail", "  c:\n    cmd: w\ntail")
    assert dvc_lock.replaced("", {"a": "  a:\n    cmd: x\n"}) == "schema: '2.0'\nstages:\n  a:\n    cmd: x\n"


def test_another_layout_is_refused_and_not_guessed():
    with pytest.raises(ValueError, match="block style"):
        dvc_lock.split("schema: '2.0'\nstages: {a: {cmd: x}}\n")


COMMIT = """
import sys
from pathlib import Path
from dvc.repo import Repo
root = Path(sys.argv[1])
if sys.argv[2] == "ours":
    from ops import dvc_lock
    dvc_lock.install()
with Repo(str(root)) as repo:
    for target in sys.argv[3:]:
        repo.commit(target, force=True)
(root / "first").write_bytes((root / "dvc.lock").read_bytes())
other = root / "data" / "mano_fits" / "one" / "table.parquet"
other.unlink()
other.write_text("other hands")
text = (root / "params.yaml").read_text()
(root / "params.yaml").write_text(text.replace("0.3", "1.0e-05"))
with Repo(str(root)) as repo:
    repo.commit("mano_fits@one", force=True)
"""


@pytest.mark.slow
def test_commits_leave_the_bytes_of_an_unchanged_dvc(tmp_path, monkeypatch):
    """The second route is DVC itself, in a process where nothing was replaced."""
    from dvc.utils.serialize import loads_yaml

    fakes.workspace(tmp_path)
    fakes.install(monkeypatch, tmp_path)
    data_version.prepare(tmp_path)
    params = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    targets = [f"{name}@{shard}" for name in ("raw_videos", "mano_fits") for shard in fakes.SHARDS]
    seen = {}
    for whose in ("ours", "dvc"):
        (tmp_path / "dvc.lock").unlink(missing_ok=True)
        fakes.write(tmp_path / "params.yaml", params)
        for target in targets:
            name, shard = target.split("@")
            (tmp_path / "data" / name / shard / "table.parquet").unlink(missing_ok=True)  # a link into the cache
            fakes.write(tmp_path / "data" / name / shard / "table.parquet", target)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", COMMIT, str(tmp_path), whose, *targets]
        subprocess.run(command, check=True, cwd=tmp_path, env=environment)
        seen[whose] = (tmp_path / "first").read_bytes(), (tmp_path / "dvc.lock").read_bytes()
    assert seen["ours"] == seen["dvc"]
    assert seen["ours"][0] != seen["ours"][1]
    assert list(data_version.recorded(tmp_path)) == targets
    assert dict(data_version.recorded(tmp_path)) == loads_yaml(seen["dvc"][1].decode())["stages"]


def test_changing_a_stage_of_99_shards_takes_milliseconds():
    from dvc.utils.serialize import dumps_yaml

    entry = TRICKY | {"deps": [{"path": f"ops/x{n}.py", "hash": "md5", "md5": "0a" * 16, "size": n} for n in range(40)]}
    block = dumps_yaml({"stages": {"KEY": entry}}).removeprefix(dvc_lock.STAGES)
    text = dvc_lock.EMPTY + dvc_lock.STAGES
    text += "".join(block.replace("KEY", f"mano_fits@{n}-{m}") for n in range(99) for m in range(7))
    assert len(text) > 2e6
    start = time.process_time()
    after = dvc_lock.replaced(text, {"mano_fits@50-3": block.replace("KEY", "mano_fits@50-3").replace("0a", "0b")})
    assert dvc_lock.Stages(after)["mano_fits@50-3"]["deps"][0]["md5"] == "0b" * 16
    assert time.process_time() - start < 0.5


def test_dvc_yaml_is_read_as_dvc_reads_it_and_its_errors_are_dvcs(tmp_path, monkeypatch):
    """In C, but for a broken file: what is wrong with that, DVC's own reader says."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import load_yaml

    root = fakes.ready(tmp_path, monkeypatch)
    with data_version._repo(root) as repo:
        (file,) = {stage.dvcfile for stage in repo.index.stages}
        assert file.load() == load_yaml(root / "dvc.yaml")
        for broken, said in (("stages: [", "corrupted"), ("stages:\n  a:\n    odd: 1\n", "validation")):
            (root / "dvc.yaml").write_text(broken)
            with pytest.raises(DvcException, match=said):
                file.load()
