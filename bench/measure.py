"""What the benches share: process CPU time, and the row that `python -m bench` prints."""

import statistics
import time
from collections.abc import Callable


def cpu_s(job: Callable[[], object], repeats: int) -> float:
    """Median process CPU time; the first, untimed run warms caches."""
    job()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        job()
        times.append(time.process_time() - start)
    return statistics.median(times)


def row(name: str, num: int, ours_s: float, peer_s: float, unit: str, note: str) -> dict[str, object]:
    return {
        "name": name,
        "ours": num / ours_s,
        "peer": num / peer_s,
        "unit": unit,
        "ratio": peer_s / ours_s,
        "note": note,
    }
