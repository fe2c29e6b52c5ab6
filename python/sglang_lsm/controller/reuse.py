"""How far apart the uses of one page lie, in bytes of other pages: what a page cache would hold.

From the sample of `AccessTrace`: the bytes of the sampled pages used in between, times the sampling
factor, are the LRU stack distance. A cache of C bytes holds a page whose distance is below C.
Source: SHARDS (FAST 2015), with a fixed number of entries.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sglang_lsm.observability.access_trace import SHARE, Access
from sglang_lsm.pages import PageHash

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
    """What it would hold if pages were written around it."""
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
        # [2, bins]: bytes read by the logarithm of their distance, the last bin for first uses.
        self._bins = np.zeros((2, _NUM_BINS + 1), np.float64)

    def enter(self, calls: Sequence[Access]) -> None:
        """Learn from the calls of one window."""
        self._bins *= _DECAY
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
        held = self._bins[:, :_NUM_BINS] @ weight / total
        again = 1.0 - float(self._bins[1, _NUM_BINS]) / total
        return Reuse(float(held[0]), float(held[1]), again)

    def _enter(self, call: Access) -> None:
        self._now += 1
        slots = np.array([self._slot(name) for name in call.sampled])
        self._bytes[slots] = call.page_bytes
        if not call.is_write:
            for kind in (0, 1):
                self._count(kind, slots, call.page_bytes)
            self._last[1, slots] = self._now
        self._last[0, slots] = self._now

    def _count(self, kind: int, slots: Slots, size: int) -> None:
        mine = self._last[kind, slots]
        num_used = len(self._slots)
        last, sizes = self._last[kind, :num_used], self._bytes[:num_used]
        # Pages of one call were mostly used together before: one sum for all of them.
        used = {since: float(sizes[last > since].sum()) for since in set(mine.tolist()) if since}
        between = np.array([used.get(since, 0.0) for since in mine.tolist()]) * SHARE
        # Its own call counts too: a page that was used just now is at least its size away.
        bins = np.log2(between + size).astype(np.int64)
        bins[mine == 0] = _NUM_BINS
        np.add.at(self._bins[kind], bins, size)

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
        return slot
