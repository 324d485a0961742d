"""Which code makes an artefact: the files a stage imports, found without running anything, and their hash.

The list goes into dvc.yaml as dependencies and into Dagster as the asset's code version, so that a change of labelling
code makes stale exactly the stages that use it.
"""

import hashlib
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from ops.stages import Stage

PACKAGE = Path(__file__).parent
# What wires, runs, records and counts stages does not decide what is in an artefact. Parameters, defaults included,
# are tracked by value (ops/dvc_file.py), so ops.config is left out as well.
PLUMBING = frozenset(
    "ops." + name
    for name in [
        *("stages", "pipeline", "store", "config", "rejects", "tracking", "bootstrap", "code_version"),
        *("turns", "orphans", "jobs"),
        *("data_version", "dvc_file", "dvc_lock", "artefacts", "checks", "lineage", "lineage_record", "dvc_cache"),
    ]
)
PLAIN = re.compile(r"^[ \t]*import ([^#\n]+)", re.MULTILINE)
FROM = re.compile(r"^[ \t]*from (ops(?:\.\w+)*) import (\((?:[^)#]|#.*)*\)|.+)", re.MULTILINE)
QUOTED = re.compile(r"""["'](ops(?:\.\w+)+)(?::\w+)?["']""")


def code_files(stage: Stage) -> list[Path]:
    """Source files of a stage: the entry module and every ops module it reaches, sorted.

    Counts imports inside functions, and names of modules in strings (as `kind` has them), which is how readers and
    stages are looked up. Raises FileNotFoundError when the entry module does not exist.
    """
    entry = stage.entry.split(":")[0]
    if _path(entry) is None:
        raise FileNotFoundError(f"stage {stage.name}: there is no module {entry} (ops/stages.py names it)")
    found, queue = {}, [entry]
    while queue:
        module = queue.pop()
        path = _path(module)
        if module in found or module in PLUMBING or path is None:
            continue
        found[module] = path
        queue += imported(path)
    return sorted(found.values())


def code_version(stage: Stage) -> str:
    """sha256 over names and bytes of the stage's code files."""
    digest = hashlib.sha256()
    for path in code_files(stage):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def imported(path: Path) -> list[str]:
    """Names of ops modules, and of what is imported from them, in a source file."""
    return _imports(path, path.stat().st_mtime_ns)


def git_commit() -> str | None:
    """Commit of the code that runs: what an image was labelled with (HAND3D_GIT_COMMIT), else the checkout's."""
    if "HAND3D_GIT_COMMIT" in os.environ:
        return os.environ["HAND3D_GIT_COMMIT"]
    if shutil.which("git") is None:
        return None
    command = ["git", "rev-parse", "HEAD"]
    run = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True)
    return run.stdout.strip() if run.returncode == 0 else None


@cache
def _path(module: str) -> Path | None:
    """File of an ops module; None for packages (their __init__ is empty) and for attributes of modules."""
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() else None


@cache
def _imports(path: Path, changed_ns: int) -> list[str]:
    """changed_ns: part of the cache key, so that a long-lived process sees edits."""
    return named_modules(path.read_text(encoding="utf-8"))


def named_modules(text: str) -> list[str]:
    """What a source file imports of ops and names in strings. By patterns, which takes a hundredth of parsing it: every
    run's process does this for all stages. A test compares it with the parser's answer on every file of the package."""
    text = text.replace("\\\n", " ")
    names = [f"ops.{name}" for names in PLAIN.findall(text) for name in re.findall(r"\bops\.([\w.]+)", names)]
    for module, listed in FROM.findall(text):
        listed = re.sub(r"#.*", "", listed)
        names += [module, *(f"{module}.{name}" for name in re.findall(r"(\w+)(?:\s+as\s+\w+)?", listed))]
    return [*(name for name in names if name.startswith("ops.")), *QUOTED.findall(text)]
