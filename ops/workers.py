"""Many items of one shard over several workers, each of which loads its model once: in this process, in processes of
this machine, or in actors of a Ray cluster. Results come in the order of the items, whichever it is.

HAND3D_WORKERS says which: "local" (default: here, one by one), "processes:N", "ray" (the cluster that RAY_ADDRESS names,
else one started on this machine), "ray:ADDRESS" ("ray:HOST:6379", "ray:ray://HOST:10001"). It changes no byte of the output.

An item that fails ends the shard with the item's own error. An item whose worker dies (killed, out of memory, a library
that crashed) is tried again when nothing else runs; if that kills its worker too, or if it takes too long, the caller says
what stands in its place. Other items never suffer, and no wait is without end.
"""

import os
import pickle
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
Worker = Callable[[Item], Made]
Lost = Callable[[Item, str], Made]

CHOICES = '"local", "processes:N", "ray" or "ray:ADDRESS"'


@dataclass(frozen=True)
class Workers:
    """kind: "local", "processes" or "ray". count: of workers, 0 = as many as the cluster has room for. address: of a Ray
    cluster, "" = RAY_ADDRESS or one on this machine. cpus, gpus: what one worker holds (Ray). item_s: longest that one item
    may take. start_s: longest that a worker may take to be placed and to load its model."""

    kind: str = "local"
    count: int = 1
    address: str = ""
    cpus: float = 1.0
    gpus: float = 0.0
    item_s: float = 3600.0
    start_s: float = 600.0


def chosen(gpus: float = 0.0, text: str | None = None) -> Workers:
    """What HAND3D_WORKERS asks for, and HAND3D_CLIP_SECONDS as item_s. gpus: that a worker holds. Raises ValueError."""
    text = os.environ.get("HAND3D_WORKERS", "") if text is None else text
    kind, _, rest = text.partition(":")
    item_s = float(os.environ.get("HAND3D_CLIP_SECONDS") or Workers.item_s)
    if text in ("", "local", "local:1"):
        return Workers()
    if kind == "processes" and rest.isdecimal() and int(rest) > 0:
        return Workers("processes", int(rest), gpus=gpus, item_s=item_s)
    if kind == "ray" and bool(rest) == (":" in text):
        return Workers("ray", 0, rest, gpus=gpus, item_s=item_s)
    raise ValueError(f"HAND3D_WORKERS is {CHOICES}, got {text!r}")


def each(
    load: Callable[..., Worker], arguments: tuple, items: Sequence[Item], workers: Workers, lost: Lost | None = None
) -> Iterator[Made]:
    """`load(*arguments)` once a worker, then its result on every item; results in the order of the items.

    load: a function of a module (workers import it). lost: what stands for an item that killed two workers or took too
    long, from the item and the reason; without it such an item raises RuntimeError or TimeoutError. Raises what load or an
    item raises; RuntimeError or TimeoutError where no worker starts; ValueError where a cluster can never give what a worker
    asks for. Kind "local" has no worker to lose: it dies with its item.
    """
    if workers.kind == "local":
        work = load(*arguments)
        yield from map(work, items)
    elif items:
        crew = _crew(load, arguments, workers, len(items))
        try:
            yield from _Shift(crew, list(items), workers, lost).results()
        finally:
            crew.close()


def each_parts(
    load: Callable[..., Callable[[Item], Iterable[Made]]],
    arguments: tuple,
    items: Sequence[Item],
    workers: Workers,
    folder: Path,
    lost: Callable[[Item, str], list[Made]] | None = None,
) -> Iterator[Iterator[Made]]:
    """`each` for results that are many large parts (frames): one iterator an item, to be used up before the next one.

    folder: that all workers and the caller see. Parts of other workers go through a file in it, never through memory.
    """
    if workers.kind == "local":
        yield from map(iter, each(load, arguments, items, workers))
        return
    made = each(load_spooled, (load, arguments, folder), items, workers, lost)
    for parts in made:
        yield _spooled(parts) if isinstance(parts, Path) else iter(parts)


def load_spooled(load: Callable[..., Worker], arguments: tuple, folder: Path) -> Worker:
    """A worker that leaves its parts in a file and returns the path."""
    work = load(*arguments)

    def on(item: Any) -> Path:
        path = folder / f"{uuid.uuid4().hex}.parts"
        with path.open("wb") as file:
            for part in work(item):
                pickle.dump(part, file, protocol=5)
        return path

    return on


def _spooled(path: Path) -> Iterator:
    with path.open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)  # from a worker of our own, as results without a file are
    path.unlink()


@dataclass(frozen=True)
class Event:
    """What a seat had to say. kind: "ready" (model loaded), "made" (value: result), "raised" (value: exception) or
    "died" (value: how)."""

    kind: str
    value: Any = None


class Crew(Protocol):
    """A kind of workers; a seat is one of them, whatever it is."""

    size: int

    def hire(self) -> Any:
        """A new seat, which begins to load its model."""

    def give(self, seat: Any, item: Any) -> None: ...

    def wait(self, seats: Iterable, seconds: float) -> list[tuple[Any, Event]]:
        """What comes first; nothing after so many seconds."""

    def fire(self, seat: Any) -> None:
        """End it, at work or not."""

    def why_not(self) -> str:
        """What a worker that does not start may be waiting for, as the end of a sentence."""

    def close(self) -> None: ...


def _crew(load: Callable, arguments: tuple, workers: Workers, num_items: int) -> Crew:
    if workers.kind == "processes":
        from ops.workers_processes import Processes

        return Processes(load, arguments, min(workers.count, num_items))
    from ops.workers_ray import RayActors

    return RayActors(load, arguments, workers, num_items)


@dataclass
class _Shift:
    """One item at a time to whichever worker is free; a slow one holds up nobody."""

    crew: Crew
    items: list
    workers: Workers
    lost: Lost | None
    busy: dict[Any, tuple[int | None, float]] = field(default_factory=dict)  # seat: (item, None = loading; since)
    free: list = field(default_factory=list)
    done: dict[int, Any] = field(default_factory=dict)
    next_item: int = 0
    again: deque[int] = field(default_factory=deque)
    tried: set[int] = field(default_factory=set)
    missing: int = 0

    def results(self) -> Iterator:
        for _ in range(self.crew.size):
            self._hire()
        for number in range(len(self.items)):
            while number not in self.done:
                self._hand_out()
                self._take_in()
            yield self.done.pop(number)

    def _hire(self) -> None:
        self.busy[self.crew.hire()] = None, time.monotonic()

    def _hand_out(self) -> None:
        while self.free and self.next_item < len(self.items):
            self._start(self.next_item)
            self.next_item += 1
        if self.free and self.again and all(number is None for number, _ in self.busy.values()):
            self._start(self.again.popleft())  # alone: it may have died of the others' memory

    def _start(self, number: int) -> None:
        seat = self.free.pop()
        self.busy[seat] = number, time.monotonic()
        self.crew.give(seat, self.items[number])

    def _allowed(self, number: int | None) -> float:
        return self.workers.start_s if number is None else self.workers.item_s

    def _take_in(self) -> None:
        due = min(since + self._allowed(number) for number, since in self.busy.values())
        for seat, event in self.crew.wait(list(self.busy), max(due - time.monotonic(), 0.0)):
            number, _ = self.busy.pop(seat)
            if event.kind == "raised":
                raise event.value
            if event.kind == "died":
                self._died(seat, number, event.value)
                continue
            self.free.append(seat)
            if number is not None:
                self.done[number] = event.value
        for seat, (number, since) in list(self.busy.items()):
            if time.monotonic() > since + self._allowed(number):
                del self.busy[seat]
                self._too_slow(seat, number)

    def _died(self, seat: Any, number: int | None, how: str) -> None:
        self.crew.fire(seat)
        if number is None:
            self._one_less(RuntimeError(f"a worker {how} while it loaded its model (out of memory?)"))
        elif number in self.tried:
            self._give_up(number, RuntimeError(f"two workers ended at it, the second one {how}"))
        else:
            self._say(f"a worker {how} at item {number + 1}, which is tried again when nothing else runs")
            self.tried.add(number)
            self.again.append(number)
        self._fill_up()

    def _too_slow(self, seat: Any, number: int | None) -> None:
        self.crew.fire(seat)
        if number is None:
            self._one_less(TimeoutError(f"no worker was ready in {self.workers.start_s:.0f} s{self.crew.why_not()}"))
        else:
            self._give_up(number, TimeoutError(f"it took longer than {self.workers.item_s:.0f} s"))
            self._fill_up()

    def _one_less(self, error: Exception) -> None:
        """Go on with fewer workers, as long as there is one."""
        if not self.busy and not self.free:
            raise error
        self.missing += 1
        self._say(f"{error}: going on with fewer workers")

    def _give_up(self, number: int, why: Exception) -> None:
        if self.lost is None:
            raise type(why)(f"item {number + 1} of {len(self.items)}: {why}")
        self._say(f"item {number + 1} is left out: {why}")
        self.done[number] = self.lost(self.items[number], str(why))

    def _fill_up(self) -> None:
        """A new worker for one that is gone, while there is work for it."""
        seats, work = len(self.busy) + len(self.free), len(self.items) - self.next_item + len(self.again)
        if work and seats < min(self.crew.size - self.missing, max(work, 1)):
            self._hire()

    def _say(self, what: str) -> None:
        print(f"workers: {what}", file=sys.stderr, flush=True)
