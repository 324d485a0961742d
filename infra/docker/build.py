"""Build the images: `python infra/docker/build.py image labelling`, from a lock file, without an image registry.

lock   writes <image>.lock from environments.yaml and requirements.lock
base   makes the base image from Debian packages (needs mmdebstrap and root)
image  builds images and prints the digest that the runner wants, HAND3D_IMAGE_<NAME>=...

Run it with the environment that `make setup` made: its pip fetches the wheels, with the index it is set up for.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import yaml

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
BASE = "localhost/hand3d-base:bookworm"
PYTHON = ("python3", "python3-venv", "ca-certificates")
LOCK_HEADER = "# Written by `python infra/docker/build.py lock` from environments.yaml and requirements.lock.\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["lock", "base", "image"])
    parser.add_argument("names", nargs="*", help="images (default: all)")
    parser.add_argument("--base", default=os.environ.get("HAND3D_BASE_IMAGE", BASE), help="Debian 12 with Python 3.11")
    parser.add_argument("--torch-index", metavar="URL", help="index of the torch build to take, CPU or CUDA")
    parser.add_argument("--push", metavar="REGISTRY", help="push, and print the registry's digests")
    parser.add_argument("--allow-dirty", action="store_true", help="label uncommitted code as COMMIT-dirty")
    options = parser.parse_args()
    names = options.names or list(images())
    unknown = [name for name in names if name not in images()]
    if unknown:
        parser.error(f"no image {', '.join(unknown)}; there are: {', '.join(images())}")
    if options.command == "base":
        import_base(options.base, make_root_file_system(PYTHON))
        return 0
    for name in names:
        if options.command == "lock":
            (HERE / f"{name}.lock").write_text(lock(name), encoding="utf-8")
            continue
        start, text = time.monotonic(), (HERE / f"{name}.lock").read_text(encoding="utf-8")
        tag = build(name, text, options.base, options.allow_dirty, torch_index=options.torch_index)
        took = f"{int(size_of(tag)) / 1e6:.0f} MB in {time.monotonic() - start:.0f} s"
        print(f"{tag}: {took}", file=sys.stderr)
        print(f"HAND3D_IMAGE_{name.upper()}={digest(tag, options.push)}", flush=True)
    return 0


def environments() -> dict[str, dict[str, list[str]]]:
    return yaml.safe_load((HERE / "environments.yaml").read_text(encoding="utf-8"))


def images() -> list[str]:
    return [name for name in environments() if name not in ("common", "instead")]


def lock(name: str, packages: list[str] | None = None) -> str:
    """Pins of an image's packages and all they need; of one that is not installed here, its own pin only.

    Raises ValueError for a package that requirements.lock does not pin.
    """
    given = environments()
    queue = list(packages or given["common"]["packages"] + given[name]["packages"])
    pins, found = pinned(), set()
    while queue:
        package = canonical(queue.pop())
        if package in found:
            continue
        if package not in pins:
            raise ValueError(f"{package} (image {name}) is not pinned in requirements.lock: add it there")
        found.add(package)
        queue += needs(package)
    named = {given["instead"].get(package, package): pins[package] for package in found}
    return LOCK_HEADER + "".join(f"{package}=={named[package]}\n" for package in sorted(named))


def pinned() -> dict[str, str]:
    """Package -> version of requirements.lock."""
    lines = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonical(package): version.split(";")[0].strip() for package, version in pairs}


def needs(package: str) -> list[str]:
    """What an installed package requires on Linux, extras that its requirer names left aside (they are pinned too)."""
    from packaging.requirements import Requirement

    try:
        requires = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []
    parsed = [Requirement(line) for line in requires]
    return [item.name for item in parsed if item.marker is None or item.marker.evaluate({"extra": ""})]


def canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def build(
    name: str,
    lock_text: str,
    base: str,
    allow_dirty: bool = False,
    system: list[str] | None = None,
    torch_index: str | None = None,
) -> str:
    """Build one image and return its tag. system: Debian packages, where they are not environments.yaml's.
    torch_index: where torch and what it needs come from, where that is not pip's own index."""
    commit = git_commit(allow_dirty)
    given = environments()
    packages = [*given["common"]["system"], *given[name]["system"]] if system is None else system
    tag = f"localhost/hand3d-{name}:{commit}"
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        (context / "packages.lock").write_text(lock_text, encoding="utf-8")
        for file in ("Dockerfile", "slim.sh"):
            shutil.copyfile(HERE / file, context / file)
        fetch_wheels(context, torch_index)
        arguments = {"BASE": base, "ENVIRONMENT": name, "COMMIT": commit, "SYSTEM": " ".join(packages)}
        words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        # host network: apt only, and engines without a bridge can build as well
        docker("build", "--network", "host", "--tag", tag, *words, str(context))
    return tag


def fetch_wheels(context: Path, torch_index: str | None = None) -> None:
    """Wheels of the lock and of this repository; what has none is built. Raises RuntimeError on another Python.

    torch comes first and with what it needs: its CUDA build wants libraries that no lock names, its CPU build does not.
    """
    if sys.version_info[:2] != (3, 11):
        raise RuntimeError(
            f"the images hold Python 3.11 and this is {sys.version.split()[0]}: use the one of `make setup`"
        )
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    lock = context / "packages.lock"
    torch = [line for line in lock.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")]
    if torch:
        index = ["--index-url", torch_index] if torch_index else []
        fetch = [word for word in pip if word != "--no-deps"]
        subprocess.run([*fetch, str(context / "wheels"), *index, "--constraint", str(lock), *torch], check=True)
        rest = lock.read_text(encoding="utf-8").replace(f"{torch[0]}\n", "")
        lock.write_text(rest, encoding="utf-8")
    subprocess.run([*pip, str(context / "wheels"), "-r", str(lock)], check=True)
    with tempfile.TemporaryDirectory() as folder:  # setuptools leaves build/ beside what it builds
        source = Path(folder) / "source"
        source.mkdir()
        for item in ("pyproject.toml", "README.md"):
            shutil.copyfile(REPOSITORY / item, source / item)
        for package in ("ops", "assets", "dagster_project"):
            shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([*pip, str(context / "code"), str(source)], check=True)


def git_commit(allow_dirty: bool) -> str:
    """Of the checkout. Raises RuntimeError for uncommitted changes: nobody could tell later what an image held."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout

    dirty = git(
        "status", "--porcelain", "--untracked-files=no", "--", "ops", "assets", "dagster_project", "infra/docker"
    )
    if dirty and not allow_dirty:
        raise RuntimeError("uncommitted changes: commit them, or pass --allow-dirty")
    return git("rev-parse", "HEAD").strip() + ("-dirty" if dirty else "")


def make_root_file_system(packages: tuple[str, ...], target: Path | None = None) -> Path:
    """Tar of a minimal Debian 12 with these packages, without manuals, for good: what is installed on top of it has none
    either. Raises RuntimeError where mmdebstrap is missing."""
    program = shutil.which("mmdebstrap")
    if program is None:
        raise RuntimeError("mmdebstrap is missing: apt-get install mmdebstrap, or name a base image with --base")
    target = target or Path(tempfile.mkdtemp()) / "base.tar"
    include = ",".join(packages)
    without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")]
    command = [program, "--quiet", "--variant=minbase", f"--include={include}", *without, "bookworm", str(target)]
    subprocess.run(command, check=True)
    return target


def import_base(tag: str, tar: Path) -> None:
    docker("import", str(tar), tag)


def digest(tag: str, registry: str | None) -> str:
    """What names exactly this image: the registry's digest after a push, else the engine's content hash."""
    if registry:
        remote = f"{registry}/{tag.removeprefix('localhost/')}"
        docker("tag", tag, remote)
        docker("push", remote)
        return docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", remote).strip()
    return docker("image", "inspect", "--format", "{{.Id}}", tag).strip()


def size_of(tag: str) -> str:
    """Bytes of all its layers, unpacked."""
    return docker("image", "inspect", "--format", "{{.Size}}", tag).strip()


def docker(*arguments: str) -> str:
    """Output of a docker command; its messages go to stderr. The classic builder, which needs no plug-in."""
    environment = os.environ | {"DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0")}
    command = [os.environ.get("DOCKER", "docker"), *arguments]
    shown = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, text=True)
    if shown.returncode:
        sys.stderr.write(shown.stdout[-4000:])
        raise RuntimeError(f"{' '.join(command[:3])} ended with code {shown.returncode}")
    return shown.stdout


if __name__ == "__main__":
    sys.exit(main())
