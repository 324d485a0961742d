"""What the workers of tests/ops/test_workers.py do; a module of its own, light to import, since workers import it."""

import ctypes
import os
import signal
import time
from contextlib import contextmanager
from importlib.util import find_spec

DEADLY = {"kill": signal.SIGKILL, "crash": signal.SIGSEGV, "once": signal.SIGKILL}


class OddError(ValueError):
    """Cannot be made again from its words, as many libraries' errors."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def load(folder, factor, together=1):
    """A "model": notes that it was loaded, multiplies. Its first item waits until so many are loaded."""
    (folder / f"loaded-{os.getpid()}").touch()

    def work(item):
        deadline = time.monotonic() + 60
        while len(list(folder.glob("loaded-*"))) < together and time.monotonic() < deadline:
            time.sleep(0.05)
        if item == "hang":
            time.sleep(120)
        if item == "fail":
            raise ValueError("item fail is bad")
        if item == "odd":
            raise OddError("a", "b")
        if item == "crash":
            ctypes.string_at(0)  # what a bug in a library does
        if item in DEADLY and not (item == "once" and (folder / "once").exists()):
            (folder / "once").touch()
            os.kill(os.getpid(), DEADLY[item])
        return os.getpid(), factor * item

    return work


def load_frames(folder, factor):
    def frames(item):
        for number in range(item):
            yield number, bytes([factor * item]) * 5000

    return frames


def broken(folder, factor, together):
    raise ValueError("no weights at /nowhere: fetch them")


def deadly(folder, factor, together):
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def ray_cluster():
    """Address of a Ray cluster of two nodes, both on this machine, with one CPU each; skips where Ray is missing."""
    import pytest

    if find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'hand3d-pipeline[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    for left in (2, 1, 0):  # Ray gives a node 30 s to start, which a busy machine may exceed
        nodes = Cluster()
        try:
            nodes.add_node(num_cpus=1, include_dashboard=False)
            nodes.add_node(num_cpus=1)
            nodes.wait_for_nodes()
            break
        except Exception:  # what Ray raises where a node starts too late has no class of its own
            nodes.shutdown()
            if not left:
                raise
    try:
        yield nodes.address
    finally:
        ray.shutdown()
        nodes.shutdown()
