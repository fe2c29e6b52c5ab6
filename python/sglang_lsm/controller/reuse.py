"""How far apart the uses of one page lie, in bytes of other pages: what a page cache would hold.

From the sample of `AccessTrace`: the bytes of the sampled pages used in between, times the sampling
factor, are the LRU stack distance. A cache of C bytes holds a page whose distance is below C.
In pages instead of bytes, it is how far apart those lie that come back to the store (`hit_curve`):
a page that is written though it was used before has left in between.
Source: SHARDS (FAST 2015), with a fixed number of entries.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sglang_lsm.controller.hit_curve import NUM_BINS, Counts, distance_bin
from sglang_lsm.observability.access_trace import SHARE, Access
from sglang_lsm.pages import PageHash
from sglang_lsm.tensorlog.io_modes import READS_BEFORE_FILLING

Slots: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"

Used: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.bool_]]"
"""By slot."""

_NUM_BINS = 64
_DECAY = 0.5
"""Weight of a window in the next one: a shift is seen after two or three."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """Shares of the bytes read lately."""

    cached: float = 0.0
    """What a page cache would hold through which pages are both read and written."""
    cached_by_reads: float = 0.0
    """What it would hold if pages were written around it, and read around it at first, as the log
    does it under `auto`."""
    fills: float = 0.0
    """What would be read through it then, and not be there."""
    again: float = 0.0
    """Of pages that had been read before."""


class ReuseCurve:
    """Distances between the uses of sampled pages, recent ones weighing more. Owned by a thread."""

    def __init__(self, num_entries: int = 8192) -> None:
        self._slots: OrderedDict[PageHash, int] = OrderedDict()
        """The page used longest ago first."""
        self._num_entries = num_entries
        # [2, N]: when a page was last used, and when last read; 0 is never.
        self._last = np.zeros((2, num_entries), np.int64)
        self._bytes = np.zeros(num_entries, np.float64)
        self._now = 0
        self._num_reads = np.zeros(num_entries, np.int64)
        # [3, bins]: bytes read by the logarithm of their distance, the last bin for first uses;
        # since the last use, since the last read, and the same of pages that were read often.
        self._bins = np.zeros((3, _NUM_BINS + 1), np.float64)
        self._bytes_filling = 0.0
        """Read as often as it takes before a page is read through the page cache."""
        self.returned: Counts = np.zeros((2, NUM_BINS), np.float64)
        """What came back in the newest window, not after more pages than the entries stand for."""

    def enter(self, calls: Sequence[Access]) -> None:
        """Learn from the calls of one window."""
        self._bins *= _DECAY
        self._bytes_filling *= _DECAY
        self.returned = np.zeros_like(self.returned)
        for call in calls:
            if call.sampled:
                self._enter(call)

    def summary(self, cache_bytes: float) -> Reuse:
        """Return what a page cache of so many bytes would do for the reads of late."""
        total = float(self._bins[0].sum())
        if total == 0:
            return Reuse()
        edge = np.log2(max(cache_bytes, 1.0))
        # Bin i holds distances of 2**i to 2**(i+1): the one that the edge cuts counts in part.
        weight = np.clip(edge - np.arange(_NUM_BINS), 0.0, 1.0)
        by_use, _, by_reads = map(float, self._bins[:, :_NUM_BINS] @ weight / total)
        again, often = 1.0 - self._bins[1:, _NUM_BINS] / total
        # What was there and is not any more begins anew.
        gone = (float(often) - by_reads) / (READS_BEFORE_FILLING + 1)
        return Reuse(by_use, by_reads, self._bytes_filling / total + gone, float(again))

    def _enter(self, call: Access) -> None:
        self._now += 1
        slots = np.array([self._slot(name) for name in call.sampled])
        self._bytes[slots] = call.page_bytes
        since_use = self._used_since(0, slots)
        self._count_pages(int(call.is_write), slots, since_use)
        if not call.is_write:
            self._count(0, slots, call.page_bytes, since_use)
            self._count(1, slots, call.page_bytes, self._used_since(1, slots))
            self._last[1, slots] = self._now
            self._num_reads[slots] += 1
        self._last[0, slots] = self._now

    def _used_since(self, kind: int, slots: Slots) -> dict[int, Used]:
        """Return by the last use of each slot which others were used after it.

        Pages of one call were mostly used together before: one answer for all of them.
        """
        last = self._last[kind, : len(self._slots)]
        return {since: last > since for since in set(self._last[kind, slots].tolist()) if since}

    def _count(self, kind: int, slots: Slots, size: int, used: dict[int, Used]) -> None:
        mine, sizes = self._last[kind, slots], self._bytes[: len(self._slots)]
        num_bytes = {since: float(sizes @ mask) for since, mask in used.items()}
        between = np.array([num_bytes.get(since, 0.0) for since in mine.tolist()]) * SHARE
        # Its own call counts too: a page that was used just now is at least its size away.
        bins = np.log2(between + size).astype(np.int64)
        bins[mine == 0] = _NUM_BINS
        np.add.at(self._bins[kind], bins, size)
        if kind == 1:
            num_reads = self._num_reads[slots]
            bins[num_reads <= READS_BEFORE_FILLING] = _NUM_BINS
            np.add.at(self._bins[2], bins, size)
            self._bytes_filling += size * int(np.sum(num_reads == READS_BEFORE_FILLING))

    def _count_pages(self, kind: int, slots: Slots, used: dict[int, Used]) -> None:
        bins = {
            since: distance_bin(int(np.count_nonzero(mask)) * SHARE + 1)
            for since, mask in used.items()
        }
        for since in self._last[0, slots].tolist():
            if since:
                self.returned[kind, bins[since]] += SHARE

    def _slot(self, name: PageHash) -> int:
        slot = self._slots.get(name)
        if slot is not None:
            self._slots.move_to_end(name)
            return slot
        slot = len(self._slots)
        if slot == self._num_entries:
            _, slot = self._slots.popitem(last=False)
        self._slots[name] = slot
        self._last[:, slot] = 0
        self._num_reads[slot] = 0
        return slot
