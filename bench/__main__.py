"""`make bench`: every hot spot against the obvious way of doing it, in one run.

Each ``bench/bench_*.py`` has ``rows() -> list[dict]`` with name, ours, peer, unit (higher is better unless the name
says otherwise), ratio and note. It runs in a process of its own with one thread, so that ratios do not depend on
what else ran. Results are kept with commit and machine in ``bench/results``.
"""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "POLARS_MAX_THREADS",
    )
}


def main() -> int:
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("bench_*.py"))
    rows, failed = [], []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        code = f"import json; from bench.{name} import rows; print('ROWS' + json.dumps(rows()))"
        run = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | ONE_THREAD, text=True, stdout=subprocess.PIPE
        )
        line = next((line for line in run.stdout.splitlines() if line.startswith("ROWS")), None)
        if run.returncode or line is None:
            failed.append(name)
            continue
        rows += [{"bench": name.removeprefix("bench_")} | row for row in json.loads(line.removeprefix("ROWS"))]
        for row in rows:
            if row["bench"] == name.removeprefix("bench_"):
                print(f"  {row['name']}: {row['ours']:.4g} vs {row['peer']:.4g} {row['unit']} = {row['ratio']:.3g}x")
        _save(rows)  # after each, so that a run that is cut off keeps what it measured
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _save(rows: list[dict[str, object]]) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    now = datetime.now(UTC)
    result = {"commit": commit, "date": now.isoformat(timespec="seconds"), "machine": _machine(), "rows": rows}
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{now:%Y-%m-%d}-{commit or 'nocommit'}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    lines = [
        f"# Benchmarks\nCommit {commit}, {now:%Y-%m-%d}, {_machine()}. One thread, process CPU time, medians of repeats.\n"
    ]
    lines += ["| job | ours | peer | unit | ratio | how |", "|---|---:|---:|---|---:|---|"]
    lines += [
        f"| {r['bench']}: {r['name']} | {r['ours']:.4g} | {r['peer']:.4g} | {r['unit']} | {r['ratio']:.3g}x | {r['note']} |"
        for r in rows
    ]
    (HERE / "results" / "latest.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return f"{os.cpu_count()} x {cpu}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
