"""What the tuner asks the world, and where it writes what it did."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sglang_lsm.fs import left_over_cpu_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Senses:
    """Functions that a tuner calls, each on its own thread."""

    note: Callable[[Mapping[str, object]], None]
    """Takes each decision, as plain JSON data."""
    cache_bytes: Callable[[], float] = lambda: 0.0
    """Memory that the page cache can take."""
    recompute_s_per_byte: Callable[[], float] = lambda: 0.0
    """Time to compute a byte of KV; 0 where it is not known, and admission and codec are left
    alone."""
    free_bytes: Callable[[], float] = lambda: math.inf
    """Of the file system of the store."""
    idle_cpus: Callable[[], float] = lambda: 0.0
    """CPUs that nobody used since the last call; 0 where it is not known: nothing is encoded."""
    clock: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


class IdleCpus:
    """How many CPUs this process could have had more, since the last call. Of one thread."""

    def __init__(
        self,
        left_over_s: Callable[[], Sequence[float]] = left_over_cpu_s,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to look.

        Args:
            left_over_s: see `fs.left_over_cpu_s`.
            clock: in seconds.
        """
        self._left_over_s, self._clock = left_over_s, clock
        self._before = (clock(), left_over_s())

    def __call__(self) -> float:
        """Return the mean number; 0 where nothing is known."""
        (before_s, before), now = self._before, (self._clock(), self._left_over_s())
        self._before = now
        seconds = now[0] - before_s
        if seconds <= 0 or not before or len(before) != len(now[1]):
            return 0.0
        grown = min(b - a for a, b in zip(before, now[1], strict=True))
        return max(0.0, grown / seconds)
