"""Workers of ops.workers as processes of this machine, started fresh: CUDA and thread pools do not survive a fork."""

import pickle
import signal
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from ops.orphans import leave_with_parent
from ops.workers import Event


@dataclass(frozen=True, eq=False)
class Seat:
    process: Any
    connection: Connection


class Processes:
    """load, arguments: of every worker. size: how many."""

    def __init__(self, load: Callable, arguments: tuple, size: int) -> None:
        self.size, self._how, self._seats = size, (load, arguments), set()

    def hire(self) -> Seat:
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, *self._how), daemon=True)
        process.start()
        there.close()  # the worker's end alone keeps the pipe open, so that its death shows
        seat = Seat(process, here)
        self._seats.add(seat)
        return seat

    def give(self, seat: Seat, item: Any) -> None:
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it has died since its last answer: the next wait says so
            seat.connection.send(item)

    def wait(self, seats: Iterable[Seat], seconds: float) -> list[tuple[Seat, Event]]:
        by_connection = {seat.connection: seat for seat in seats}
        return [(by_connection[item], _heard(by_connection[item])) for item in wait(by_connection, seconds)]

    def fire(self, seat: Seat) -> None:
        self._seats.discard(seat)
        seat.process.kill()
        seat.process.join()
        seat.connection.close()

    def why_not(self) -> str:
        return ""

    def close(self) -> None:
        for seat in list(self._seats):
            self.fire(seat)


def _heard(seat: Seat) -> Event:
    try:
        return Event(*pickle.loads(seat.connection.recv_bytes()))
    except (EOFError, OSError):  # a killed worker may leave half an answer
        seat.process.join(timeout=30)
        return Event("died", how_ended(seat.process.exitcode))


def how_ended(code: int | None) -> str:
    """In words, from a process's exit code: "was killed by SIGSEGV"."""
    if code is None:
        return "closed its pipe and did not end"
    if code >= 0:
        return f"ended with code {code}"
    return f"was killed by {signal.Signals(-code).name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def serve(connection: Connection, load: Callable, arguments: tuple) -> None:
    """A worker's life: load, then items until the pipe closes or the caller is gone."""
    leave_with_parent()  # the pipe says so between two items only
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the caller ends its workers
    try:
        work = load(*arguments)
    except Exception as error:  # whatever a model's loading raises is raised at the caller
        connection.send_bytes(_packed("raised", error))
        return
    connection.send_bytes(_packed("ready", None))
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = _packed("made", work(item))
        except Exception as error:  # whatever an item's work raises is raised at the caller
            answer = _packed("raised", error)
        try:
            connection.send_bytes(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def _packed(kind: str, value: Any) -> bytes:
    if kind == "raised":
        value.add_note("in a worker process:\n" + "".join(traceback.format_exception(value)))
        value = portable(value)
    return pickle.dumps((kind, value), protocol=5)


def portable(error: Exception) -> Exception:
    """The error itself where it survives pickling (some classes cannot be made again), else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error's class decides what its copying raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
