"""What Dagster, DVC and the checks add to a shard's work: CPU seconds a materialisation, and their share of the work.

Three kinds of work: a manifest of two clips, labels that are read, a video that is tracked. Bare is the stage's own
function into a folder. DVC's commit is compared with that of an unchanged DVC. CPU time of this process and its children.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parent.parent
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
LIMIT = 0.03


def rows() -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        root = workspace(Path(folder) / "workspace")
        found = [measured(root, *work) for work in WORK]
        rows = [*found, advice(found), commit_row(root)]
    return [{key: value for key, value in row.items() if key != "added_s"} for row in rows]


WORK = (("raw_videos", "synthetic-00", 3), ("mano_fits", "synthetic-00", 3), ("mano_fits", "pianist", 1))
"""Stage, shard and repeats, each after those it reads: a manifest, labels that are read, a video that is tracked."""


def workspace(root: Path) -> Path:
    """An empty one beside the bootstrap's clips and weights. Raises FileNotFoundError where those are not there."""
    given = Path(os.environ.get("HAND3D_ROOT") or REPOSITORY).resolve()
    weights = Path(os.environ.get("HAND3D_WEIGHTS") or given / "data" / "weights").resolve()
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    params["shards"] = {shard: dict(params["shards"][shard]) for _, shard, _ in WORK}
    for shard in params["shards"].values():
        shard["root"] = str(given / shard["root"])
        if not Path(shard["root"]).is_dir():
            raise FileNotFoundError(f"{shard['root']} is missing: run `hand3d bootstrap`")
    os.environ["HAND3D_WEIGHTS"], os.environ["HAND3D_ROOT"] = str(weights), str(root)
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return root


def measured(root: Path, stage: str, shard: str, repeats: int) -> dict[str, object]:
    """One stage of one shard, made by Dagster and bare."""
    import dagster as dg

    from dagster_project import home
    from dagster_project.definitions import build
    from ops import config, data_version
    from ops.pipeline import run_stage

    settings = config.load(root / "params.yaml")
    data_version.prepare(root)
    os.environ.pop("DAGSTER_HOME", None)
    home.prepare(root)
    job = build(root).resolve_job_def("label_shard")
    with dg.DagsterInstance.get() as instance:

        def materialise() -> None:
            done = job.execute_in_process(
                instance=instance, partition_key=shard, asset_selection=[dg.AssetKey(stage)], run_config=QUIET
            )
            if not done.success:
                raise RuntimeError(f"{stage} of {shard} failed")

        if stage != "raw_videos":
            job.execute_in_process(
                instance=instance, partition_key=shard, asset_selection=[dg.AssetKey("raw_videos")], run_config=QUIET
            )
        all_s = cpu_s(materialise, repeats)
    bare_s = cpu_s(lambda: run_stage(root, settings, stage, shard), repeats)
    added = max(all_s - bare_s, 1e-6)
    return {
        "name": f"{stage} of a shard of {bare_s:.2f} s, share of orchestration",
        "ours": 100 * added / all_s,
        "peer": 100.0 * LIMIT,
        "unit": "% of CPU time",
        "ratio": LIMIT * all_s / added,
        "note": f"less is better, 3 % is the limit; {added:.2f} s a materialisation: Dagster step and events, checks, DVC",
        "added_s": added,
    }


def advice(found: list[dict[str, object]]) -> dict[str, object]:
    """Smallest work of a stage on a shard for which what is added stays below the limit."""
    added = statistics.median(float(row["added_s"]) for row in found)
    smallest = added * (1 - LIMIT) / LIMIT
    return {
        "name": "smallest work of a stage on a shard that keeps orchestration below 3 %",
        "ours": smallest,
        "peer": smallest,
        "unit": "s of CPU",
        "ratio": 1.0,
        "note": f"{added:.2f} s are added whatever a shard holds; smaller shards belong together",
    }


def cpu_s(job: Callable[[], object], repeats: int) -> float:
    """Median CPU time of this process and the children it waited for; of several repeats the first warms caches."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = sum(os.times()[:4])
        job()
        times.append(sum(os.times()[:4]) - start)
    return statistics.median(times[repeats > 1 :])


COMMIT = """
import sys, time
from pathlib import Path
from dvc.repo import Repo
if sys.argv[2] == "ours":
    from ops import dvc_lock
    dvc_lock.install()
def commit():
    with Repo(sys.argv[1]) as repo:
        repo.commit("raw_videos@synthetic-00", force=True)
commit()
start = time.process_time()
commit()
print(time.process_time() - start)
"""


def commit_row(root: Path, shards: int = 20) -> dict[str, object]:
    """A commit into a dvc.lock as large as that of so many shards, by ours and by an unchanged DVC."""
    from ops import dvc_lock

    text = (root / "dvc.lock").read_text(encoding="utf-8")
    block = dvc_lock.split(text)[1]["raw_videos@synthetic-00"]
    per_shard = 7
    more = {f"x@{n}": block.replace("raw_videos@synthetic-00:", f"x@{n}:", 1) for n in range(shards * per_shard)}
    (root / "dvc.lock").write_text(dvc_lock.replaced(text, more), encoding="utf-8")
    times = {whose: committed(root, whose) for whose in ("ours", "dvc")}
    return {
        "name": f"DVC commit of one artefact beside {shards} shards",
        "ours": 1 / times["ours"],
        "peer": 1 / times["dvc"],
        "unit": "commits/s",
        "ratio": times["dvc"] / times["ours"],
        "note": f"{times['ours']:.2f} s; peer: the same commit by DVC alone, which parses dvc.lock whole, {times['dvc']:.1f} s",
    }


def committed(root: Path, whose: str) -> float:
    with contextlib.chdir(root):
        command = [sys.executable, "-c", COMMIT, str(root), whose]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        return float(subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout)
