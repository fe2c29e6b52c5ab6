"""What the write path counts, and the scheduler's time it takes."""

import time
from collections import deque
from dataclasses import dataclass, fields
from types import TracebackType

MAX_LAPS = 4096
"""Requests whose time is remembered."""


@dataclass(slots=True)
class EvictionFigures:
    """Totals since the start."""

    pages_computed: int = 0
    """Copied from the device to the host tier."""
    pages_loaded: int = 0
    """Read from disk to the host tier."""
    pages_given_up: int = 0
    """Left the host tier."""
    pages_given_up_clean: int = 0
    """Of those: on disk already, so that leaving cost nothing. Not what was in the host tier before
    the start, since nobody knows of it."""
    pages_staged: int = 0
    """Of those: copied aside and queued."""
    pages_dropped: int = 0
    """Of those: forgotten, because there was no room to copy them aside."""
    pages_refused: int = 0
    """Of those: forgotten, because pages of their kind seldom come back."""
    device_pages: int = 0
    """Left the device and were not in the host tier."""
    device_pages_dropped: int = 0
    """Of those: forgotten, because there was no room to copy them aside."""
    pages_forgotten: int = 0
    """Not on disk when the host tier was emptied."""
    pages_written_ahead: int = 0
    """Submitted because the host tier was filling up."""
    pages_written_behind: int = 0
    """Submitted because they had aged."""
    pages_flushed: int = 0
    """Submitted by a flush."""
    pages_stored: int = 0
    pages_withdrawn: int = 0
    """Given up while they were being written."""
    pages_failed: int = 0
    scheduler_s: float = 0.0
    """Time the scheduler thread spent here, flushes not counted."""
    scheduler_cpu_s: float = 0.0
    """Of that: on a core. The rest it waited for one, or for another thread of the process."""
    scheduler_calls: int = 0

    def __str__(self) -> str:
        """Spell it for a log line."""
        return " ".join(f"{f.name}={getattr(self, f.name):.6g}" for f in fields(self))


class Meter:
    """Adds up the time inside its `with` blocks, on the clock and on a core; one inside another
    counts once.

    Owned by one thread. Cost: about 2 us a block.
    """

    def __init__(self) -> None:
        self.total_s, self.cpu_s, self.num_calls = 0.0, 0.0, 0
        self._entered_s, self._entered_cpu_s, self._depth = 0.0, 0.0, 0
        self._lap_from_s: tuple[float, float] | None = None
        self._laps_s: deque[tuple[float, float]] = deque(maxlen=MAX_LAPS)

    def __enter__(self) -> "Meter":
        if self._depth == 0:
            self._entered_s, self._entered_cpu_s = time.perf_counter(), time.thread_time()
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.total_s += time.perf_counter() - self._entered_s
            self.cpu_s += time.thread_time() - self._entered_cpu_s
            self.num_calls += 1

    def lap(self) -> None:
        """Note that a request came: what is added until the next one comes is taken as its time."""
        if self._lap_from_s is not None:
            from_s, from_cpu_s = self._lap_from_s
            self._laps_s.append((self.total_s - from_s, self.cpu_s - from_cpu_s))
        self._lap_from_s = self.total_s, self.cpu_s

    def laps_s(self) -> list[float]:
        """Return the time of each of the last MAX_LAPS requests, in seconds, sorted."""
        return sorted(wall_s for wall_s, _ in self._laps_s)

    def cpu_laps_s(self) -> list[float]:
        """As `laps_s`, of the time on a core; a busy machine or process does not lengthen it."""
        return sorted(cpu_s for _, cpu_s in self._laps_s)
