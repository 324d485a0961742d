"""What orchestration adds to a shard's work: CPU seconds a run, what of it grows with the shard, and its share, beside the
limit of 3 %.

A run is a process of its own, begun as a code server begins it. Work is what passes in the stages' own functions and their
checks, which a script without Dagster and DVC would do as well; all else is added: imports, definitions, Dagster's run,
steps and events, DVC's commits. Each size is a fresh shard of rendered clips, so that nothing is known of its files
beforehand, small ones the mean of two.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import yaml

from bench import orchestrated_run
from dagster_project.jobs import PER_SHARD

REPOSITORY = Path(__file__).parent.parent
LIMIT = 0.03
CLIPS = (2, 12, 288)
"""Clips of the shards. The checks that open clips look at 12 (ops.sources.artefact_checks.NUM_CLIPS): what grows with a
large shard is seen between the last two."""
REPEATS = 2
"""Of shards up to FEW clips; a larger one's work is long enough by itself."""
FEW = 100
TRACKED = (1, 3)
"""Of the demo's tracked video, 97 s long, so many under different names."""
WARM, VIDEO = "warm", "pianist"
WHOLE = "one run a shard"
UNITS = {WHOLE: [PER_SHARD], "two runs a shard": [PER_SHARD[:1], PER_SHARD[1:]]}
"""Runs with their stages: the job label_shard; and what the sensors ask for, raw_videos first and the rest if it differs."""


@dataclass(frozen=True)
class Spent:
    """CPU seconds of a run: in the stages' own functions, in their checks, and beside them."""

    stages_s: float
    checks_s: float
    added_s: float

    @property
    def work_s(self) -> float:
        return self.stages_s + self.checks_s

    @property
    def share(self) -> float:
        return self.added_s / (self.work_s + self.added_s)


def rows() -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        root = workspace(Path(folder) / "workspace")
        found = [row for what, spent in measured(root).items() for row in described(what, spent)]
        return [*found, commit_row(root)]


def workspace(root: Path) -> Path:
    """One with fresh shards of the bootstrap's clips. Raises FileNotFoundError where those are not there."""
    given = Path(os.environ.get("HAND3D_ROOT") or REPOSITORY).resolve()
    weights = Path(os.environ.get("HAND3D_WEIGHTS") or given / "data" / "weights").resolve()
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    clips = sorted((given / "data" / "raw").glob("synthetic-*/*.mp4"))
    if not clips or not (given / "data" / "raw" / VIDEO).is_dir():
        raise FileNotFoundError(f"{given / 'data' / 'raw'} holds no clips: run `hand3d bootstrap`")
    shards: dict[str, dict[str, str]] = {}
    fresh = {shard(unit, num, k): num for unit in UNITS for num in CLIPS for k in range(repeats(num))}
    for name, num in ({WARM: 1} | fresh).items():
        copy_clips(clips, root / "data" / "raw" / name, num)
        shards[name] = {"source": name, "kind": "synthetic", "root": f"data/raw/{name}"}
    for num in TRACKED:
        copy_video(given / "data" / "raw" / VIDEO, root / "data" / "raw" / tracked(num), num)
        shards[tracked(num)] = {"source": tracked(num), "kind": "folder", "root": f"data/raw/{tracked(num)}"}
    os.environ["HAND3D_WEIGHTS"], os.environ["HAND3D_ROOT"] = str(weights), str(root)
    (root / "params.yaml").write_text(yaml.safe_dump(params | {"shards": shards}, sort_keys=False), encoding="utf-8")
    return root


def shard(unit: str, num: int, repeat: int) -> str:
    return f"{unit.split()[0]}-{num}-{repeat}"


def repeats(num: int) -> int:
    return REPEATS if num <= FEW else 1


def tracked(num: int) -> str:
    return f"tracked-{num}"


def copy_video(given: Path, folder: Path, num: int) -> None:
    """The folder's one video with what lies beside it, under so many names."""
    folder.mkdir(parents=True)
    for path in given.iterdir():
        for n in range(num):
            shutil.copyfile(path, folder / f"{path.stem}-{n}{path.suffix}")


def copy_clips(clips: Sequence[Path], folder: Path, num: int) -> None:
    """So many of the clips with their labels, some more than once under another name."""
    folder.mkdir(parents=True)
    for n in range(num):
        for suffix in (".mp4", ".npz"):
            shutil.copyfile(clips[n % len(clips)].with_suffix(suffix), folder / f"clip-{n:04d}{suffix}")


def measured(root: Path) -> dict[str, dict[str, Spent]]:
    """Unit -> what of -> spent."""
    from dagster_project import home
    from ops import data_version

    data_version.prepare(root)
    os.environ.pop("DAGSTER_HOME", None)
    home.prepare(root)
    for _ in range(2):  # the files that the first run makes, and numba's kernels
        cost(root, WARM, UNITS[WHOLE][0])
    found = {
        unit: {
            f"{num} clips": mean([costs(root, shard(unit, num, k), runs) for k in range(repeats(num))]) for num in CLIPS
        }
        for unit, runs in UNITS.items()
    }
    found[WHOLE] |= {f"{num} tracked videos": costs(root, tracked(num), UNITS[WHOLE]) for num in TRACKED}
    return found


def mean(found: Sequence[Spent]) -> Spent:
    return Spent(*map(statistics.mean, zip(*map(astuple, found), strict=True)))


def costs(root: Path, shard: str, runs: Sequence[Sequence[str]]) -> Spent:
    """Of several runs, one after the other."""
    return Spent(*map(sum, zip(*(astuple(cost(root, shard, stages)) for stages in runs), strict=True)))


def cost(root: Path, shard: str, stages: Sequence[str]) -> Spent:
    """Of one run, in the workspace."""
    with contextlib.chdir(root):
        found = orchestrated_run.spent(shard, ",".join(stages))
    return Spent(found["stages_s"], found["checks_s"], found["total_s"] - found["stages_s"] - found["checks_s"])


def described(what: str, spent: dict[str, Spent]) -> list[dict[str, object]]:
    """Shares at each size, then the fixed part and what grows, from the last two sizes of clips."""
    rows = [
        share_row(
            f"{what}, {of}",
            one.share,
            f"{one.added_s:.2f} s beside {one.stages_s:.1f} s of stages and {one.checks_s:.1f} s of checks",
        )
        for of, one in spent.items()
    ]
    small, large = (spent[f"{num} clips"] for num in CLIPS[-2:])
    fixed_s, growing = fitted(small, large)
    grows = f"{large.added_s - small.added_s:+.2f} s for {large.work_s - small.work_s:+.1f} s of work, from {CLIPS[-2]} to {CLIPS[-1]} clips"
    allowed_s = LIMIT / (1 - LIMIT) * large.work_s
    return [
        *rows,
        share_row(f"{what}, what grows with the shard", growing, grows),
        {
            "name": f"{what}, fixed part",
            "ours": fixed_s,
            "peer": allowed_s,
            "unit": "s of CPU",
            "ratio": allowed_s / fixed_s,
            "note": f"less is better, peer: 3 % at {CLIPS[-1]} clips; {enough(fixed_s, growing)}",
        },
    ]


def fitted(small: Spent, large: Spent) -> tuple[float, float]:
    """(seconds whatever the size, share that grows): added seconds = fixed + rate x work; the share is rate / (1 + rate)."""
    rate = (large.added_s - small.added_s) / (large.work_s - small.work_s)
    return max(small.added_s - max(rate, 0.0) * small.work_s, 1e-6), rate / (1 + rate)


def enough(fixed_s: float, growing: float) -> str:
    """From how much work on it is below the limit."""
    rate, limit = max(growing, 0.0) / (1 - max(growing, 0.0)), LIMIT / (1 - LIMIT)
    return f"below 3 % from {fixed_s / (limit - rate):.0f} s of work on" if rate < limit else "at no size below 3 %"


def share_row(name: str, share: float, note: str) -> dict[str, object]:
    return {
        "name": f"{name}, share of orchestration",
        "ours": 100 * share,
        "peer": 100 * LIMIT,
        "unit": "% of CPU time",
        "ratio": LIMIT / max(share, 1e-6),
        "note": f"less is better, 3 % is the limit; {note}",
    }


COMMIT = """
import sys, time
from pathlib import Path
from dvc.repo import Repo
if sys.argv[2] == "ours":
    from ops import dvc_lock
    dvc_lock.install()
def commit():
    with Repo(sys.argv[1]) as repo:
        repo.commit("raw_videos@warm", force=True)
commit()
start = time.process_time()
commit()
print(time.process_time() - start)
"""


def commit_row(root: Path, shards: int = 20) -> dict[str, object]:
    """A commit into a dvc.lock as large as that of so many shards, by ours and by an unchanged DVC."""
    from ops import dvc_lock

    text = (root / "dvc.lock").read_text(encoding="utf-8")
    block = dvc_lock.split(text)[1]["raw_videos@warm"]
    per_shard = 7
    more = {f"x@{n}": block.replace("raw_videos@warm:", f"x@{n}:", 1) for n in range(shards * per_shard)}
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
