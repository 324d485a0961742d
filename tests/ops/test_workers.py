"""Workers: the same results wherever they run, models loaded once a worker, no item that takes another along, and an end to
every wait."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from ops.workers import Workers, chosen, each, each_parts
from tests.ops.toy_workers import broken, deadly, load, load_frames, ray_cluster

ITEMS = list(range(12))


def run(folder, workers, items=ITEMS, loader=load, together=1, lost=None):
    return list(each(loader, (folder, 3, together), items, workers, lost))


def values(results):
    return [value if isinstance(value, str) else value[1] for value in results]


def loaded(folder):
    return len(list(folder.glob("loaded-*")))


@pytest.mark.parametrize("workers", [Workers(), Workers("processes", 1), Workers("processes", 2)], ids=str)
def test_results_come_in_order_from_models_loaded_once(tmp_path, workers):
    results = run(tmp_path, workers, together=workers.count)
    assert values(results) == [3 * item for item in ITEMS]
    assert loaded(tmp_path) == workers.count
    assert (os.getpid() in {process for process, _ in results}) == (workers.kind == "local")
    assert multiprocessing.active_children() == []


def test_no_items_start_no_worker(tmp_path):
    assert run(tmp_path, Workers("processes", 2), []) == []
    assert loaded(tmp_path) == 0


def test_an_item_that_kills_its_worker_costs_that_item_only(tmp_path, capfd):
    items = [1, "kill", 2, "crash", 3, "once", 4]
    results = run(tmp_path, Workers("processes", 2), items, lost=lambda item, why: f"{item}: {why}")
    assert values(results) == [
        *(3, "kill: two workers ended at it, the second one was killed by SIGKILL (out of memory?)"),
        *(6, "crash: two workers ended at it, the second one was killed by SIGSEGV"),
        *(9, 3 * "once", 12),
    ]
    said = capfd.readouterr().err
    assert "a worker was killed by SIGSEGV at item 4, which is tried again when nothing else runs" in said
    assert "item 2 is left out: two workers ended at it" in said


def test_without_a_substitute_it_raises(tmp_path):
    with pytest.raises(
        RuntimeError, match="item 2 of 3: two workers ended at it, the second one was killed by SIGKILL"
    ):
        run(tmp_path, Workers("processes", 2), [1, "kill", 2])


def test_errors_of_items_and_models_are_the_callers(tmp_path):
    with pytest.raises(ValueError, match="item fail is bad") as caught:
        run(tmp_path, Workers("processes", 1), [1, "fail", 2])
    assert "in work" in caught.value.__notes__[0], "where it happened, in the worker"
    with pytest.raises(RuntimeError, match="OddError: a b"):
        run(tmp_path, Workers("processes", 1), ["odd"])
    with pytest.raises(ValueError, match="no weights at /nowhere"):
        run(tmp_path, Workers("processes", 1), loader=broken)
    with pytest.raises(RuntimeError, match=r"a worker was killed by SIGKILL .* while it loaded its model"):
        run(tmp_path, Workers("processes", 1), loader=deadly)
    assert multiprocessing.active_children() == []


def test_every_wait_has_an_end(tmp_path):
    slow = Workers("processes", 1, item_s=2.0)
    assert values(run(tmp_path, slow, ["hang", 1], lost=lambda item, why: why)) == ["it took longer than 2 s", 3]
    with pytest.raises(TimeoutError, match=r"item 1 of 1: it took longer than 2 s"):
        run(tmp_path, slow, ["hang"])
    with pytest.raises(TimeoutError, match=r"no worker was ready in 0 s"):
        run(tmp_path, Workers("processes", 1, start_s=0.01))
    assert multiprocessing.active_children() == []


def test_a_caller_that_stops_listening_leaves_no_process(tmp_path):
    results = each(load, (tmp_path, 3), ITEMS, Workers("processes", 1))
    next(results)
    assert multiprocessing.active_children()
    results.close()
    assert multiprocessing.active_children() == []


def test_large_parts_go_through_files(tmp_path):
    items, arguments = [3, 0, 2], (tmp_path, 3)
    here = [list(parts) for parts in each_parts(load_frames, arguments, items, Workers(), tmp_path)]
    there = [list(parts) for parts in each_parts(load_frames, arguments, items, Workers("processes", 1), tmp_path)]
    assert [len(parts) for parts in there] == items
    assert there == here
    assert list(tmp_path.iterdir()) == []


def test_choice_by_environment(monkeypatch):
    assert chosen(text="") == chosen(text="local") == chosen(text="local:1") == Workers()
    assert chosen(1.0, "processes:4") == Workers("processes", 4, gpus=1.0)
    assert chosen(1.0, "ray") == Workers("ray", 0, gpus=1.0)
    assert chosen(text="ray:head:6379").address == "head:6379"
    assert chosen(text="ray:ray://head:10001").address == "ray://head:10001"
    monkeypatch.setenv("HAND3D_WORKERS", "processes:2")
    monkeypatch.setenv("HAND3D_CLIP_SECONDS", "90")
    assert chosen() == Workers("processes", 2, item_s=90.0)
    for bad in ("0", "4", "many", "processes", "processes:0", "local:2", "ray:"):
        with pytest.raises(ValueError, match='HAND3D_WORKERS is "local", "processes:N", "ray" or "ray:ADDRESS", got'):
            chosen(text=bad)


def test_missing_ray_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hand3d-pipeline\[ray\]'"):
        run(tmp_path, Workers("ray", 0))


def test_workers_with_other_code_are_refused():
    from ops import pipeline
    from ops.code_version import code_version
    from ops.stages import BY_NAME

    same = code_version(BY_NAME["objects"])
    assert pipeline.load_same_code("objects", same, max, (2, 3)) == 3
    with pytest.raises(ValueError, match="a worker has other code for objects than the caller"):
        pipeline.load_same_code("objects", "0" * 64, max, (2, 3))


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as address:
        yield address


@pytest.mark.slow
def test_ray_gives_the_same_from_two_workers(tmp_path, cluster):
    there = tmp_path / "ray"
    there.mkdir()
    ray = Workers("ray", 0, cluster)
    results = run(there, ray, together=2)
    assert values(results) == values(run(tmp_path, Workers()))
    assert loaded(there) == 2, "one model a worker"
    assert len({process for process, _ in results}) == 2, "both worked"
    here = [list(parts) for parts in each_parts(load_frames, (there, 3), [2, 1], Workers(), there)]
    parts = [list(parts) for parts in each_parts(load_frames, (there, 3), [2, 1], ray, there)]
    assert parts == here


@pytest.mark.slow
def test_ray_refuses_at_once_what_it_never_can_give(tmp_path, cluster):
    start = time.monotonic()
    with pytest.raises(
        ValueError, match=r"1 workers of 1 CPU and 1 GPU were asked for, the Ray cluster has 2 CPU, 0 GPU"
    ):
        run(tmp_path, Workers("ray", 0, cluster, gpus=1.0))
    with pytest.raises(ValueError, match=r"5 workers of 1 CPU .* has 2 CPU in all: ask for fewer"):
        run(tmp_path, Workers("ray", 5, cluster))
    assert time.monotonic() - start < 30, "at once, not after a wait without end"


@pytest.mark.slow
def test_ray_loses_no_shard_to_an_item(tmp_path, cluster):
    ray = Workers("ray", 0, cluster)
    results = values(run(tmp_path, ray, [1, "kill", 2, "once", 3], lost=lambda item, why: f"{item}: {why}"))
    assert results[::2] == [3, 6, 9]
    assert results[1].startswith("kill: two workers ended at it, the second one ended (")
    assert results[3] == 3 * "once"
    for loader, items, match in ((broken, [1], "no weights at /nowhere"), (load, [1, "fail"], "item fail is bad")):
        with pytest.raises(ValueError, match=match):
            run(tmp_path, ray, items, loader)
    one = Workers("ray", 1, cluster, item_s=5.0)
    assert values(run(tmp_path, one, ["hang", 1], lost=lambda item, why: why)) == ["it took longer than 5 s", 3]
    with pytest.raises(RuntimeError, match=r"a worker ended .* while it loaded its model"):
        run(tmp_path, one, loader=deadly)


def test_source_says_nothing_of_the_choice():
    """No stage and no parameter decides where its items run."""
    root = Path(__file__).parents[2]
    texts = {path: path.read_text("utf-8") for path in [root / "ops" / "config.py", *(root / "ops").glob("*/*.py")]}
    assert [path.name for path, text in texts.items() if "ops.workers" in text or "HAND3D_WORKERS" in text] == []
