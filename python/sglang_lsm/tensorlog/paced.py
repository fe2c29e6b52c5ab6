"""A read in parts, between which somebody may decide that the rest is not worth waiting for."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from sglang_lsm.pages import Location, PageBuffer
from sglang_lsm.tensorlog.log import ReadResult

ReadPages = Callable[[Sequence[bytes], Sequence[Location], Sequence[PageBuffer]], ReadResult]


class Pace(Protocol):
    """Decides how one read goes on. Called on the thread that reads."""

    def next_pages(self, num_left: int, num_bytes: int) -> int:
        """Return how many of `num_left` pages, `num_bytes` in all, to read now; 0 ends the read."""

    def was_read(self, num_pages: int, seconds: float) -> None:
        """Note how long a part took."""


def read_at_pace(
    read: ReadPages,
    pace: Pace | None,
    keys: Sequence[bytes],
    locations: Sequence[Location],
    out: Sequence[PageBuffer],
) -> ReadResult:
    """Read pages part by part; those that were not read are not intact. Contract: `read`'s.

    Without a pace it is one read.
    """
    if pace is None:
        return read(keys, locations, out)
    intact: list[bool] = []
    damaged: list[int] = []
    left_bytes = sum(at.length for at in locations)
    while len(intact) < len(keys) and all(intact):
        done = len(intact)
        end = done + min(pace.next_pages(len(keys) - done, left_bytes), len(keys) - done)
        if end <= done:
            break
        started_s = time.perf_counter()
        part = read(keys[done:end], locations[done:end], out[done:end])
        pace.was_read(end - done, time.perf_counter() - started_s)
        intact += part.intact
        damaged += [done + i for i in part.damaged]
        left_bytes -= sum(at.length for at in locations[done:end])
    return ReadResult(intact + [False] * (len(keys) - len(intact)), damaged)
