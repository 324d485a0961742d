"""dvc.yaml, rendered from ops/stages.py, so that DVC's graph and Dagster's are one list.

Dependencies of a stage: the outputs it reads, its code files, its weights and rules, its sections of params.yaml, and the
defaults of those sections (read by DVC from the dataclasses in ops/config.py), so that a default that changes counts
as well as a value that changes.
"""

import hashlib
import json
import os
from dataclasses import MISSING, asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import get_type_hints

import yaml

from ops.code_version import PACKAGE, code_files
from ops.config import Config
from ops.stages import BY_NAME, STAGES, Stage
from ops.store import write_file

MEASURED = ("stage1_checkpoint", "stage2_checkpoint", "posttrained_policies", "benchmark_scores", "champion")
"""Stages whose numbers `dvc metrics show` and `dvc exp show` list."""
HEADER = "# Rendered from ops/stages.py by `hand3d dvc-yaml`: change it there. One stage a shard of params.yaml.\n"


def render(root: Path, stages: tuple[Stage, ...] = STAGES) -> str:
    """Text of dvc.yaml for a workspace. Raises FileNotFoundError when params.yaml is missing."""
    root = root.resolve()
    code = tuple(tuple(code_files(stage)) for stage in stages)
    return _rendered(root, (root / "params.yaml").read_text(encoding="utf-8"), stages, code)


@lru_cache(maxsize=4)
def _rendered(root: Path, params: str, stages: tuple[Stage, ...], code: tuple[tuple[Path, ...], ...]) -> str:
    """Kept for all it depends on: every materialisation asks, and nearly always nothing has changed."""
    sections = yaml.safe_load(params) or {}
    rendered = {stage.name: _stage(stage, root, sections, files) for stage, files in zip(stages, code, strict=True)}
    metrics = [f"data/{stage.name}/report.json" for stage in stages if stage.name in MEASURED]
    # block style and no line folding: DVC cannot read templates in flow style
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same bytes in a tenth of the time
    return HEADER + yaml.dump(
        {"stages": rendered, "metrics": metrics}, None, dumper, sort_keys=False, default_flow_style=False, width=1000
    )


def write(root: Path) -> bool:
    """Write dvc.yaml where it differs from the rendering; True when it was written."""
    path, text = root / "dvc.yaml", render(root)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_file(path, text.encode())
    return True


def parameters(stage: Stage, config: Config) -> str:
    """sha256 over the values of a stage's sections, defaults included."""
    values = {name: asdict(getattr(config, name)) for name in stage.params}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _stage(stage: Stage, root: Path, sections: dict, code: tuple[Path, ...]) -> dict:
    if stage.partitioned:
        body = _body(stage, root, sections, code, f"hand3d run {stage.name} --shard ${{key}}", "/${key}")
        return {"foreach": "${shards}", "do": body}
    return _body(stage, root, sections, code, f"hand3d run {stage.name}", "")


def _body(stage: Stage, root: Path, sections: dict, code: tuple[Path, ...], command: str, suffix: str) -> dict:
    deps = ["${item.root}"] if not stage.reads and stage.partitioned else []
    deps += [f"data/{name}{suffix if BY_NAME[name].partitioned else ''}" for name in stage.reads]
    deps += stage.files
    deps += [_code_path(path, root) for path in code]
    # persist: DVC would delete the old output before the run; ours is replaced whole when the new one stands
    out = {f"data/{stage.name}{suffix}": {"persist": True}}
    return {"cmd": command, "deps": deps, "params": _params(stage, root, sections), "outs": [out]}


def _params(stage: Stage, root: Path, sections: dict) -> list:
    classes = {name: kind for name, kind in get_type_hints(Config).items() if name != "shards"}
    values: list = [name for name in stage.params if name in sections]
    if stage.partitioned and not stage.reads:
        values.append("shards.${key}")
    defaults = sorted({name for section in stage.params for name in _defaults(classes[section])})
    return values + ([{_code_path(PACKAGE / "config.py", root): defaults}] if defaults else [])


def _defaults(section: type) -> list[str]:
    """Names of a section's defaults for DVC's reader of Python files: the class, or its fields one by one.

    DVC would find a tuple changed for ever (its lock file holds a list): params.yaml must spell those out.
    """
    tuples = [item.name for item in fields(section) if isinstance(item.default, tuple)]
    if not tuples:
        return [section.__name__]
    given = [item.name for item in fields(section) if item.default is not MISSING and item.name not in tuples]
    return [f"{section.__name__}.{name}" for name in given]


def _code_path(path: Path, root: Path) -> str:
    """Relative in a checkout; absolute where the workspace uses an installed package. root: resolved."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else os.fspath(path)
