"""What calls cost in time and CPU, and what of it is moving bytes: the rest is our own work.

Our own work (keys, index, checksums, page table) is the same whatever the I/O settings are, so a
model of those settings takes it as it was measured. Each thread adds to totals of its own, without
a lock; reading them all while they grow is off by one call at most. Threads that have ended share
one row.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, ParamSpec, Self

P = ParamSpec("P")

CallKind = Literal["probe", "read", "write"]
TransferKind = Literal["read", "write"]


class Totals:
    """Seconds of one thread, or of all."""

    __slots__ = (
        "ask_s", "check_cpu_s", "is_counted", "probe_s", "read_own_s", "read_s",
        "read_transfer_cpu_s", "write_own_s", "write_s", "write_transfer_cpu_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.probe_s = self.read_s = self.write_s = 0.0
        self.read_own_s = self.write_own_s = self.ask_s = self.check_cpu_s = 0.0
        self.read_transfer_cpu_s = self.write_transfer_cpu_s = 0.0
        self.is_counted = False
        """Whether a call is under way: upkeep moves bytes too, and is nobody's call."""

    @property
    def transfer_cpu_s(self) -> float:
        """CPU of moving bytes, either way."""
        return self.read_transfer_cpu_s + self.write_transfer_cpu_s


FIGURES = tuple(name for name in Totals.__slots__ if name != "is_counted")


class Spending:
    """Adds up what calls and transfers cost. Thread-safe."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._ended = Totals()
        self._running: list[tuple[threading.Thread, Totals]] = []

    def call(self, kind: CallKind) -> "Call":
        """Measure one call of the store, on the thread that waits for it."""
        return Call(self._mine(), kind)

    def transfer(self, kind: TransferKind) -> AbstractContextManager[None]:
        """Measure moving bytes, on whichever thread does it."""
        return _Transfer(self._mine(), kind)

    def job(self, work: Callable[P, None], /, *arguments: P.args, **named: P.kwargs) -> None:
        """Do a part of a call on a thread of a pool."""
        mine = self._mine()
        mine.is_counted = True
        before_s, cpu_s = mine.transfer_cpu_s, time.thread_time()
        try:
            work(*arguments, **named)
        finally:
            moved_s = mine.transfer_cpu_s - before_s
            mine.check_cpu_s += time.thread_time() - cpu_s - moved_s
            mine.is_counted = False

    def totals(self) -> dict[str, float]:
        """Return the seconds of all threads since the start, by the names of `FIGURES`."""
        with self._lock:
            rows = [self._ended, *(row for _, row in self._running)]
            return {name: sum(getattr(row, name) for row in rows) for name in FIGURES}

    def _mine(self) -> Totals:
        mine: Totals | None = getattr(self._local, "totals", None)
        if mine is None:
            mine = self._local.totals = Totals()
            with self._lock:
                self._take_over_ended()
                self._running.append((threading.current_thread(), mine))
        return mine

    def _take_over_ended(self) -> None:
        running = []
        for thread, row in self._running:
            if thread.is_alive():
                running.append((thread, row))
                continue
            for name in FIGURES:
                setattr(self._ended, name, getattr(self._ended, name) + getattr(row, name))
        self._running = running


class Call(AbstractContextManager["Call"]):
    """One call. Owned by the thread that enters it."""

    __slots__ = ("_cpu_s", "_kind", "_mine", "_moved_s", "_started_s")

    def __init__(self, mine: Totals, kind: CallKind) -> None:
        self._mine, self._kind = mine, kind

    def __enter__(self) -> Self:
        """Begin to measure."""
        self._mine.is_counted = True
        self._started_s = time.perf_counter()
        self._cpu_s, self._moved_s = time.thread_time(), self._mine.transfer_cpu_s
        return self

    def asked(self) -> None:
        """Tell that it is known what has to be written: the rest of a put depends on how much."""
        self._mine.ask_s += time.thread_time() - self._cpu_s

    def __exit__(self, *_: object) -> None:
        """Count the call, also one that raised."""
        mine = self._mine
        own_s = time.thread_time() - self._cpu_s - (mine.transfer_cpu_s - self._moved_s)
        seconds = time.perf_counter() - self._started_s
        mine.is_counted = False
        if self._kind == "probe":
            mine.probe_s += seconds
        elif self._kind == "read":
            mine.read_s += seconds
            mine.read_own_s += own_s
        else:
            mine.write_s += seconds
            mine.write_own_s += own_s


class _Transfer(AbstractContextManager[None]):
    __slots__ = ("_cpu_s", "_kind", "_mine")

    def __init__(self, mine: Totals, kind: TransferKind) -> None:
        self._mine, self._kind = mine, kind

    def __enter__(self) -> None:
        self._cpu_s = time.thread_time()

    def __exit__(self, *_: object) -> None:
        cpu_s = time.thread_time() - self._cpu_s
        if not self._mine.is_counted:
            return
        if self._kind == "read":
            self._mine.read_transfer_cpu_s += cpu_s
        else:
            self._mine.write_transfer_cpu_s += cpu_s
