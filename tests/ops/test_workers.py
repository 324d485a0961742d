"""Workers: the same results wherever they run, models loaded once a worker, and an end to every wait."""

import os
import time
from importlib.util import find_spec

import pytest

from ops.workers import Workers, chosen, each


def load(folder, factor, together=1):
    """A "model": notes that it was loaded, multiplies. Its first item waits until so many are loaded."""
    (folder / f"loaded-{os.getpid()}").touch()

    def work(item):
        deadline = time.monotonic() + 30
        while len(list(folder.glob("loaded-*"))) < together and time.monotonic() < deadline:
            time.sleep(0.05)
        if item == "hang":
            time.sleep(60)
        if item == "die":
            os._exit(1)
        if item == "fail":
            raise ValueError("item fail is bad")
        return os.getpid(), factor * item

    return work


def broken(folder, factor, together):
    raise ValueError("no weights at /nowhere: fetch them")


ITEMS = list(range(12))


def run(tmp_path, workers, items=ITEMS, loader=load, together=1):
    return list(each(loader, (tmp_path, 3, together), items, workers))


@pytest.mark.parametrize("count", [1, 2])
def test_processes_give_results_in_order_and_load_once_each(tmp_path, count):
    results = run(tmp_path, Workers(count=count), together=count)
    assert [value for _, value in results] == [3 * item for item in ITEMS]
    assert len(list(tmp_path.glob("loaded-*"))) == count
    assert (os.getpid() in {process for process, _ in results}) == (count == 1)


def test_failing_dying_and_hanging_items_end_it(tmp_path):
    with pytest.raises(ValueError, match="item fail is bad"):
        run(tmp_path, Workers(count=2), [1, "fail", 2])
    with pytest.raises(RuntimeError, match="a worker process ended at item"):
        run(tmp_path, Workers(count=2), [1, "die", 2])
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"item 1 of 2 took longer than 0 s"):
        run(tmp_path, Workers(count=2, item_s=0.1, start_s=0.4), ["hang", 1])
    assert time.monotonic() - start < 20


def test_choice_by_environment(monkeypatch):
    assert chosen(text="") == Workers()
    assert chosen(text="4").count == 4
    assert (chosen(1.0, "ray").address, chosen(1.0, "ray").gpus) == ("auto", 1.0)
    assert chosen(text="head:6379").address == "head:6379"
    for bad in ("0", "many"):
        with pytest.raises(ValueError, match="HAND3D_WORKERS is a number"):
            chosen(text=bad)


def test_missing_ray_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hand3d-pipeline\[ray\]'"):
        run(tmp_path, Workers("auto"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray cluster of two nodes, both on this machine, with one CPU each."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'hand3d-pipeline[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_raylet_start_wait_time_s"] = "120"  # noqa: SIM112  Ray spells it so; read at import
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    yield nodes.address
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
def test_ray_gives_the_same_from_two_workers(tmp_path, cluster):
    there = tmp_path / "ray"
    there.mkdir()
    results = run(there, Workers(cluster, 0), together=2)
    assert [value for _, value in results] == [value for _, value in run(tmp_path, Workers())]
    assert len(list(there.glob("loaded-*"))) == 2, "one model a worker"
    assert len({process for process, _ in results}) == 2, "both worked"
    start = time.monotonic()
    with pytest.raises(
        ValueError, match=r"1 workers of 1 CPU and 1 GPU were asked for, the Ray cluster has 2 CPU, 0 GPU"
    ):
        run(there, Workers(cluster, 0, gpus=1.0))
    with pytest.raises(ValueError, match=r"5 workers of 1 CPU .* has 2 CPU in all: ask for fewer"):
        run(there, Workers(cluster, 5))
    assert time.monotonic() - start < 20, "at once, not after a wait without end"
    with pytest.raises(ValueError, match="no weights at /nowhere"):
        run(there, Workers(cluster, 1), loader=broken)
    with pytest.raises(ValueError, match="item fail is bad"):
        run(there, Workers(cluster, 0), [1, "fail", 2])
    with pytest.raises(RuntimeError, match=r"a worker died at item 1 of 1 \(out of memory\?\)"):
        run(there, Workers(cluster, 1), ["die"])
    with pytest.raises(TimeoutError, match="item 1 of 1 took longer than 1 s"):
        run(there, Workers(cluster, 1, item_s=1.0), ["hang"])
