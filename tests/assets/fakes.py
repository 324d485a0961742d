"""Stages that finish at once and write small, valid artefacts: for tests of everything around the stages.

`install` replaces what stages do and which code files count as theirs; the graph, the runner, DVC, the checks and the
console stay the real ones. A fake's output depends on its inputs' bytes, its code file and nothing else.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from ops import data_version, tables
from ops.checks import TABLES
from ops.hand3d.audit import Audit
from ops.hand3d.release import card, parts
from ops.pipeline import StageContext
from ops.rejects import Reason, Reject
from ops.stages import STAGES, Stage
from ops.store import Report, write_rejects

SHARDS = ("one", "two")
FAIL = "fail.txt"
"""A file of this name in the workspace lists addresses ("mano_fits two") whose stage raises ValueError."""

HUGE = "huge hands"
"""In the code file of mano_fits, these words make palms of 0.9 m, which its blocking check hand_sized refuses."""


def workspace(root: Path, shards: tuple[str, ...] = SHARDS) -> Path:
    """Folder with params.yaml, fake videos, weights, a promotion rule and a code file a stage."""
    train = {"num_steps": 1, "batch_size": 1, "lr": 0.1, "weight_decay": 0.0, "warmup_ratio": 0.0}
    params: dict = {"shards": {}, "mano_fits": {"min_detection_confidence": 0.3}}
    for shard in shards:
        params["shards"][shard] = {"source": shard, "kind": "folder", "root": f"videos/{shard}"}
        write(root / "videos" / shard / "a.mp4", f"video of {shard}")
    params |= {name: dict(train) for name in ("base_model", "stage1", "stage2", "stage3")}
    write(root / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    for stage in STAGES:
        write(root / "code" / f"{stage.name}.py", f"# code of {stage.name}\n")
        for file in stage.files:
            write(root / file / "weights.bin" if "." not in Path(file).name else root / file, "weights")
    return root


def ready(root: Path, monkeypatch, shards: tuple[str, ...] = SHARDS) -> Path:
    """A workspace of fake stages that DVC takes."""
    workspace(root, shards)
    install(monkeypatch, root)
    data_version.prepare(root)
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def install(monkeypatch, root: Path) -> None:
    """In this process; `shim` does the same for the `hand3d` that DVC starts."""

    def code(stage: Stage) -> list[Path]:
        return [root / "code" / f"{stage.name}.py"]

    def version(stage: Stage) -> str:
        return hashlib.sha256(code(stage)[0].read_bytes()).hexdigest()

    monkeypatch.setattr(Stage, "function", lambda stage: run)
    monkeypatch.setattr("ops.code_version.code_files", code)
    monkeypatch.setattr("ops.dvc_file.code_files", code)
    monkeypatch.setattr("assets.factory.code_version", version)
    monkeypatch.setattr("ops.jobs.code_version", version)
    for judged in ("of_clips", "of_fits"):  # these open the videos, and a fake one is a line of text
        monkeypatch.setattr(f"ops.sources.artefact_checks.{judged}", lambda *_: {})
    monkeypatch.setattr("ops.lineage_record.keep", lambda *_: None)  # there is no registry: its making takes seconds
    monkeypatch.setattr("ops.hand3d.audit.audit", lambda *_: Audit())  # there is no video to recompute a row from
    monkeypatch.setenv("HAND3D_ROOT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / ".dagster"))


def shim(root: Path) -> Path:
    """Folder for PATH with a `hand3d` that runs fake stages."""
    script = root / "bin" / "hand3d"
    repository = Path(__file__).parents[2]
    write(
        script,
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(repository)!r})\nfrom pathlib import Path\n"
        "import pytest\nfrom tests.assets import fakes\nfrom ops.__main__ import main\n"
        f"with pytest.MonkeyPatch.context() as patch:\n    fakes.install(patch, Path({str(root)!r}))\n    sys.exit(main())\n",
    )
    script.chmod(0o755)
    return script.parent


def run(context: StageContext) -> Report:
    """The fake of every stage."""
    failing = context.root / FAIL
    name = context.stage.name
    if failing.is_file() and f"{name} {context.shard}".strip() in failing.read_text(encoding="utf-8").splitlines():
        raise ValueError(f"{name}: told to fail; take it out of {FAIL}")
    with (context.root / "ran.txt").open("a", encoding="utf-8") as log:
        log.write(f"{name} {context.shard}".strip() + "\n")
    report = Report(rows={}, metrics={"content": float(int(seen(context)[:6], 16))}, notes=["fake"])
    for file, schema in TABLES.get(name, {}).items():
        table = rows(context, name, schema)
        report.rows[file] = len(table)
        tables.write(schema, table, context.out / f"{file}.parquet")
    write_rejects(context.out, [Reject("x", Reason.NO_OBJECT)], report)
    (context.out / "seen.txt").write_text(seen(context), encoding="utf-8")
    picture(context.out / "picture.png")
    report.pictures = {"a picture": "picture.png"}
    extra(context, name)
    return report


def seen(context: StageContext) -> str:
    """Hash over the inputs (of comments in the videos nothing is seen: a whitespace change stops early)."""
    folders = [context.input(read) for read in context.stage.reads]
    if not folders and context.shard:
        folders = [context.root / context.shard_config.root]
    digest = hashlib.sha256(code_of(context).strip().encode())
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "report.json"):
            digest.update(path.name.encode() + path.read_bytes().strip())
    return digest.hexdigest()


def code_of(context: StageContext) -> str:
    return (context.root / "code" / f"{context.stage.name}.py").read_text(encoding="utf-8")


def rows(context: StageContext, name: str, schema: str) -> pl.DataFrame:
    if name in ("point_clouds", "objects", "calibrated_point_clouds", "hand3d_visual"):
        return tables.frame(schema, [])
    if name == "raw_videos":
        names = [f"{context.shard}/{split}" for split in tables.SPLITS]
        extras = [{"clip_id": n, "split": s, "sha256": sha(n)} for n, s in zip(names, tables.SPLITS, strict=True)]
    elif name == "mano_fits":
        joints = np.zeros((21, 3), np.float32)
        joints[:, 2], joints[9, 1] = 0.5, 0.9 if HUGE in code_of(context) else 0.09
        extras = [{"joints_cam": joints.ravel().tolist()}]
    elif name == "hand3d_test":
        extras = [{"clip_id": f"{SHARDS[0]}/test", "split": "test"}]
    elif name == "benchmark_scores":
        extras = [{"policy": p, "init_index": i} for p in ("policy", "random", "mean_action") for i in range(10)]
    else:
        extras = [{}]
    return tables.frame(schema, [valid_row(schema) | extra for extra in extras])


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def valid_row(schema: str) -> dict[str, object]:
    """The plainest row a schema allows."""
    row = {}
    for column, spec in tables.SCHEMAS[schema].columns.items():
        allowed = [
            check.statistics["allowed_values"] for check in spec.checks or [] if "allowed_values" in check.statistics
        ]
        row[column] = next(iter(allowed[0])) if allowed else plain(spec.dtype.type)
    return (
        row | ({"sha256": sha("")} if "sha256" in row else {}) | ({"side_sha256": None} if "side_sha256" in row else {})
    )


def plain(dtype) -> object:
    if isinstance(dtype, pl.Array):
        return [0] * dtype.size
    if isinstance(dtype, pl.List):
        return []
    if dtype == pl.Boolean:
        return False
    return "x" if dtype == pl.String else 1


def picture(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), "white").save(path)


def extra(context: StageContext, name: str) -> None:
    if name in ("base_model", "stage1_checkpoint", "stage2_checkpoint", "posttrained_policies"):
        from safetensors.numpy import save_file

        save_file({"weight": np.ones(3, np.float32)}, context.out / "model.safetensors")
    if name == "robot_demonstrations":
        write(context.out / "lerobot" / "data" / "chunk-000" / "file-000.parquet", "x")
    if name == "hand3d_dataset":
        release(context)
    if name == "champion":
        decision = {"promoted": True, "reasons": ["fake"], "model_name": "m", "version": 1, "champion_before": None}
        write(context.out / "decision.json", json.dumps(decision | {"champion_after": 1}))


def release(context: StageContext) -> None:
    """Every row as Parquet, and checksums."""
    folders = (context.input(stage) for stage in ("hand3d_visual", "hand3d_action", "hand3d_test"))
    for part in parts.list_parts(*folders, list(context.config.shards)):
        path = parts.released(context.out, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.read_parquet(part.path).filter(split=part.split).write_parquet(path)
    write(context.out / card.SUMS, card.sums(context.out))


def ran(root: Path) -> list[str]:
    """What ran since the last call, in order."""
    path = root / "ran.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    path.unlink(missing_ok=True)
    return lines


def environment(root: Path) -> dict[str, str]:
    """For commands: the fake `hand3d` first, then this interpreter's scripts."""
    paths = [str(shim(root)), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **os.environ,
        "PATH": os.pathsep.join(paths),
        "HAND3D_ROOT": str(root),
        "DAGSTER_HOME": str(root / ".dagster"),
    }
