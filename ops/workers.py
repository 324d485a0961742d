"""Many items of one shard over several workers, each of which loads its model once: in this process, over processes of
this machine, or over a Ray cluster. Results come in the order of the items, whichever it is.

HAND3D_WORKERS says which: "" or "1" (here), "4" (processes), "ray" (a cluster that Ray finds, or starts on this machine),
"ray://HOST:10001" or "HOST:6379" (that cluster). An item that fails ends the shard with the item's own error; a worker
that dies or hangs ends it with a message, never with a wait without end.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
Worker = Callable[[Item], Made]


@dataclass(frozen=True)
class Workers:
    """address: "" for this machine's processes, "auto" or an address for Ray. count: of workers, 0 = as many as the
    cluster has room for. cpus, gpus: what one worker holds. item_s: longest that one item may take.
    start_s: longest that a worker may take to load its model, and that the cluster may take to place it."""

    address: str = ""
    count: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    item_s: float = 3600.0
    start_s: float = 600.0


def chosen(gpus: float = 0.0, text: str | None = None) -> Workers:
    """What HAND3D_WORKERS asks for. gpus: that a worker holds, where the model wants one. Raises ValueError."""
    text = os.environ.get("HAND3D_WORKERS", "") if text is None else text
    if (text.isdecimal() and int(text) > 0) or not text:
        return Workers(count=int(text or 1), gpus=gpus)
    if text == "ray":
        return Workers("auto", 0, gpus=gpus)
    if ":" in text:
        return Workers(text, 0, gpus=gpus)
    raise ValueError(f'HAND3D_WORKERS is a number, "ray", or the address of a Ray cluster (HOST:6379), got {text!r}')


def each(load: Callable[..., Worker], arguments: tuple, items: Sequence[Item], workers: Workers) -> Iterator[Made]:
    """`load(*arguments)` once a worker, then its result on every item; results in the order of the items.

    load: a function of a module (workers import it). Raises what load or an item raises; RuntimeError where a worker
    dies; TimeoutError where one hangs; ValueError where a cluster can never give what a worker asks for.
    """
    if workers.address:
        yield from _on_ray(load, arguments, items, workers)
    elif workers.count <= 1 or len(items) <= 1:
        work = load(*arguments)
        yield from map(work, items)
    else:
        yield from _on_processes(load, arguments, items, workers)


_loaded: Worker | None = None  # of a pool's process


def _load_here(load: Callable[..., Worker], arguments: tuple) -> None:
    global _loaded
    _loaded = load(*arguments)


def _work_here(item: Any) -> Any:
    return _loaded(item)  # type: ignore[misc]


def _on_processes(load: Callable, arguments: tuple, items: Sequence, workers: Workers) -> Iterator:
    """Started fresh, not forked: CUDA and thread pools do not survive a fork."""
    pool = ProcessPoolExecutor(
        min(workers.count, len(items)),
        mp_context=get_context("spawn"),
        initializer=_load_here,
        initargs=(load, arguments),
    )
    try:
        futures = [pool.submit(_work_here, item) for item in items]
        for number, future in enumerate(futures):
            try:
                yield future.result(timeout=workers.item_s + (workers.start_s if number < workers.count else 0.0))
            except BrokenProcessPool:
                raise RuntimeError(
                    f"a worker process ended at item {number + 1} of {len(items)}: out of memory, or its model does not "
                    "load (its error stands above)"
                ) from None
            except TimeoutError:
                raise TimeoutError(
                    f"item {number + 1} of {len(items)} took longer than {workers.item_s:.0f} s"
                ) from None
    finally:
        for process in (getattr(pool, "_processes", None) or {}).values():
            process.terminate()  # a hung one would keep this process alive
        pool.shutdown(wait=False, cancel_futures=True)


def _on_ray(load: Callable, arguments: tuple, items: Sequence, workers: Workers) -> Iterator:
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, workers.address)
    actors: list = []
    try:
        count = _room(ray, workers, len(items))
        actors = [_actor(ray, workers).remote(load, arguments) for _ in range(count)]
        _wait_for(ray, actors, workers)
        yield from _shared_out(ray, actors, items, workers)
    finally:
        for actor in actors:
            ray.kill(actor)
        if mine:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ModuleNotFoundError("HAND3D_WORKERS names Ray: pip install 'hand3d-pipeline[ray]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return ray


def _connect(ray: Any, address: str) -> None:
    """Join the cluster; "auto" starts one on this machine where there is none."""
    options = {"log_to_driver": True, "include_dashboard": False} if address == "auto" else {}
    try:
        ray.init(address=None if address == "auto" else address, ignore_reinit_error=True, **options)
    except (ConnectionError, OSError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address} ({error}): `ray status` on its head node tells"
        ) from error


def _room(ray: Any, workers: Workers, num_items: int) -> int:
    """How many workers to start. Raises ValueError at once where not even one fits: Ray would wait for ever."""
    total = ray.cluster_resources()
    fits = {}
    for name, wanted in (("CPU", workers.cpus), ("GPU", workers.gpus)):
        if wanted:
            fits[name] = int(total.get(name, 0.0) / wanted)
    short = [name for name, places in fits.items() if places < max(workers.count, 1)]
    if short:
        have = ", ".join(f"{total.get(name, 0.0):g} {name}" for name in fits)
        raise ValueError(
            f"{max(workers.count, 1)} workers of {workers.cpus:g} CPU and {workers.gpus:g} GPU were asked for, the Ray cluster "
            f"has {have} in all: ask for fewer, add nodes (infra/README.md), or run without a GPU (HAND3D_GPU=off)"
        )
    return min(workers.count or min(fits.values()), num_items)


def _actor(ray: Any, workers: Workers) -> Any:
    class Loaded:
        def __init__(self, load: Callable[..., Worker], arguments: tuple) -> None:
            self.how = load, arguments

        def ready(self) -> None:  # not in __init__, whose errors lose their type
            load, arguments = self.how
            self.work = load(*arguments)

        def on(self, item: Any) -> Any:
            return self.work(item)

    return ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(Loaded)


def _wait_for(ray: Any, actors: list, workers: Workers) -> None:
    """Until every model is loaded."""
    try:
        ray.get([actor.ready.remote() for actor in actors], timeout=workers.start_s)
    except ray.exceptions.GetTimeoutError:
        free = ray.available_resources()
        raise TimeoutError(
            f"{len(actors)} workers did not start in {workers.start_s:.0f} s; free are {free.get('CPU', 0):g} CPU and "
            f"{free.get('GPU', 0):g} GPU: others hold the rest (`ray status`)"
        ) from None
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(f"a worker died while it loaded its model (out of memory?): {error}") from None


def _shared_out(ray: Any, actors: list, items: Sequence, workers: Workers) -> Iterator:
    """One item at a time to whichever worker is free; a slow one holds up nobody."""
    running: dict[Any, tuple[int, Any, float]] = {}
    done: dict[int, Any] = {}
    free, next_item, next_result = list(actors), 0, 0
    while next_result < len(items):
        while free and next_item < len(items):
            actor = free.pop()
            running[actor.on.remote(items[next_item])] = (next_item, actor, time.monotonic())
            next_item += 1
        oldest = min(start for _, _, start in running.values())
        ready, _ = ray.wait(list(running), timeout=max(0.1, oldest + workers.item_s - time.monotonic()))
        if not ready and time.monotonic() > oldest + workers.item_s:
            number = min(running.values(), key=lambda entry: entry[2])[0]
            raise TimeoutError(f"item {number + 1} of {len(items)} took longer than {workers.item_s:.0f} s")
        for reference in ready:
            number, actor, _ = running.pop(reference)
            done[number] = _result(ray, reference, number, len(items))
            free.append(actor)
        while next_result in done:
            yield done.pop(next_result)
            next_result += 1


def _result(ray: Any, reference: Any, number: int, total: int) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(f"a worker died at item {number + 1} of {total} (out of memory?): {error}") from None
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None


def _cause(error: Any) -> BaseException:
    """The worker's own exception, as in this process."""
    return getattr(error, "cause", None) or RuntimeError(str(error))
