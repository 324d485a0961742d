"""Workers of ops.workers as actors of a Ray cluster, each with the CPUs and GPUs that it asks for."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ops.workers import Event, Workers
from ops.workers_processes import portable

STORE_BYTES = 256 << 20  # of a cluster of our own: items and results are tables and names, and containers have little


@dataclass(eq=False)
class Seat:
    actor: Any
    answer: Any  # of what it is at


class RayActors:
    """Joins the cluster; starts one on this machine where none is named. Raises ModuleNotFoundError without Ray, ValueError
    where no cluster answers and where not one worker fits into it: Ray would wait for ever."""

    def __init__(self, load: Callable, arguments: tuple, workers: Workers, num_items: int) -> None:
        self._ray, self._how, self._workers = _import(), (load, arguments), workers
        self._mine = not self._ray.is_initialized()
        if self._mine:
            _connect(self._ray, workers.address)
        try:
            self.size = room(self._ray.cluster_resources(), workers, num_items)
        except ValueError:
            self.close()
            raise
        self._kind = self._ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(Actor)
        self._seats: set[Seat] = set()

    def hire(self) -> Seat:
        actor = self._kind.remote()
        seat = Seat(actor, actor.ready.remote(*self._how))
        self._seats.add(seat)
        return seat

    def give(self, seat: Seat, item: Any) -> None:
        seat.answer = seat.actor.on.remote(item)

    def wait(self, seats: Iterable[Seat], seconds: float) -> list[tuple[Seat, Event]]:
        by_answer = {seat.answer: seat for seat in seats}
        ready, _ = self._ray.wait(list(by_answer), timeout=seconds)
        return [(by_answer[answer], self._heard(answer)) for answer in ready]

    def _heard(self, answer: Any) -> Event:
        exceptions = self._ray.exceptions
        try:
            return Event(*self._ray.get(answer))
        except exceptions.RayTaskError as error:
            return Event("raised", RuntimeError(str(error)))
        except exceptions.RayError as error:  # its process, its node or its result is gone
            first = " ".join(str(error).split())[:300]
            return Event("died", f"ended ({type(error).__name__}: {first})")

    def fire(self, seat: Seat) -> None:
        self._seats.discard(seat)
        self._ray.kill(seat.actor)

    def why_not(self) -> str:
        free = self._ray.available_resources()
        return (
            f"; free are {free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU, others hold the rest (`ray status`)"
        )

    def close(self) -> None:
        for seat in list(getattr(self, "_seats", ())):
            self.fire(seat)
        if self._mine:
            self._ray.shutdown()


class Actor:
    """Answers are (kind, value), so that an error keeps its type."""

    def ready(self, load: Callable, arguments: tuple) -> tuple[str, Any]:
        try:
            self._work = load(*arguments)
        except Exception as error:
            return "raised", portable(error)
        return "ready", None

    def on(self, item: Any) -> tuple[str, Any]:
        try:
            return "made", self._work(item)
        except Exception as error:
            return "raised", portable(error)


def _import() -> Any:
    try:
        import ray
    except ImportError:
        raise ModuleNotFoundError("HAND3D_WORKERS names Ray: pip install 'hand3d-pipeline[ray]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return ray


def _connect(ray: Any, address: str) -> None:
    """Join the cluster at an address or at RAY_ADDRESS; without either start one here that listens to this machine only."""
    address = address or os.environ.get("RAY_ADDRESS", "")
    if not address:
        ray.init(
            address="local", include_dashboard=False, object_store_memory=STORE_BYTES, _node_ip_address="127.0.0.1"
        )
        return
    try:
        ray.init(address=address)
    except (ConnectionError, OSError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address} ({error}): `ray status` on its head node tells"
        ) from error


def room(resources: dict[str, float], workers: Workers, num_items: int) -> int:
    """How many workers to start on a cluster with so much in all. Raises ValueError where it can never hold them."""
    wanted = {name: amount for name, amount in (("CPU", workers.cpus), ("GPU", workers.gpus)) if amount}
    fits = {name: int(resources.get(name, 0.0) / amount) for name, amount in wanted.items()}
    least = max(workers.count, 1)
    if min(fits.values()) < least:
        have = ", ".join(f"{resources.get(name, 0.0):g} {name}" for name in fits)
        raise ValueError(
            f"{least} workers of {workers.cpus:g} CPU and {workers.gpus:g} GPU were asked for, the Ray cluster has {have} in "
            "all: ask for fewer, add nodes (infra/README.md), or run without a GPU (HAND3D_GPU=off)"
        )
    return min(workers.count or min(fits.values()), num_items)
