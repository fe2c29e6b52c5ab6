"""How far apart the uses of one page lie, in bytes of other pages: what a page cache would hold.

From the sample of `AccessTrace`: the bytes of the sampled pages used in between, times the sampling
factor, are the LRU stack distance. A cache of C bytes holds a page whose distance is below C.
In pages instead of bytes, it is how far apart those lie that come back to the store (`hit_curve`):
a page that is written though it was used before has left in between.
Source: SHARDS (FAST 2015), with a fixed number of entries.
"""

import math
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
        slots = [self._slot(name) for name in call.sampled]
        at = np.array(slots)
        self._bytes[at] = call.page_bytes
        used = self._last[0, at].tolist()
        bytes_since, pages_since = self._since(0, used)
        for since in used:
            if since:
                place = distance_bin(pages_since[since] * SHARE + 1)
                self.returned[int(call.is_write), place] += SHARE
        if not call.is_write:
            self._count(0, used, call.page_bytes, bytes_since)
            read = self._last[1, at].tolist()
            bins = self._count(1, read, call.page_bytes, self._since(1, read)[0])
            self._count_often(at, bins, call.page_bytes)
            self._last[1, at] = self._now
        self._last[0, at] = self._now

    def _since(self, kind: int, last: Sequence[int]) -> tuple[dict[int, float], dict[int, int]]:
        """Return by each of these uses the bytes and the number of the pages used after it.

        Pages of one call were mostly used together before: one answer for all of them.
        """
        num = len(self._slots)
        num_bytes, num_pages = {0: 0.0}, {}
        for since in set(last):
            if since:
                is_later = self._last[kind, :num] > since
                num_bytes[since] = float(self._bytes[:num] @ is_later)
                num_pages[since] = int(np.count_nonzero(is_later))
        return num_bytes, num_pages

    def _count(
        self, kind: int, last: Sequence[int], size: int, bytes_since: dict[int, float]
    ) -> list[int]:
        """Count pages of a call by their distance; return the bin of each."""
        # Its own call counts too: a page that was used just now is at least its size away.
        bins = [
            int(math.log2(bytes_since[since] * SHARE + size)) if since else _NUM_BINS
            for since in last
        ]
        for place in bins:
            self._bins[kind, place] += size
        return bins

    def _count_often(self, at: Slots, bins: Sequence[int], size: int) -> None:
        num_reads = self._num_reads[at].tolist()
        for place, num in zip(bins, num_reads, strict=True):
            self._bins[2, place if num > READS_BEFORE_FILLING else _NUM_BINS] += size
        self._bytes_filling += size * num_reads.count(READS_BEFORE_FILLING)
        self._num_reads[at] += 1

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
