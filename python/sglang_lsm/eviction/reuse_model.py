"""Learns from a sample of pages when pages of each class are used again.

A page is in the sample if a hash of its digest is below a threshold, whether it is stored or not,
so evicting does not bend what is learned: pages that left too early are still seen to come back.
The sample has a fixed size; the threshold follows. A page not used for `horizon` is given up. Old
counts fade.

Same requests, same sample, same ranks: neither clock nor randomness. Needs the lock of the store.
"""

import numpy as np
from numpy.typing import NDArray

from sglang_lsm.eviction.reuse_index import NUM_BINS, age_bin, hazards, ranks, worth
from sglang_lsm.eviction.row_index import Keys
from sglang_lsm.eviction.traits import NUM_CLASSES

SAMPLE_PAGES = 1 << 16
_HORIZON_CAPACITIES = 16
_REFRESHES_PER_CAPACITY = 16
_FADING = 0.99
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HIGH_BITS = np.uint64(32)
_FULL_THRESHOLD = 1 << 32
_LEAST_INTERVAL = 64


class ReuseModel:
    """Counts reuse by class and age, and ranks classes and ages by it."""

    def __init__(self) -> None:
        shape = (NUM_CLASSES, NUM_BINS)
        self.ranks: NDArray[np.int64] = np.zeros(shape, np.int64)
        """`[classes, bins]`: which pages leave first; zero, as long as nothing is known."""
        self._reused, self._ended = np.zeros(shape), np.zeros(shape)
        self._slot_of: dict[int, int] = {}
        self._free = list(range(SAMPLE_PAGES))
        self._digest = np.zeros(SAMPLE_PAGES, np.uint64)
        self._last = np.zeros(SAMPLE_PAGES, np.int64)
        self._class = np.zeros(SAMPLE_PAGES, np.int64)
        self._used = np.zeros(SAMPLE_PAGES, np.bool_)
        self._threshold = np.uint64(_FULL_THRESHOLD)
        self._next_refresh = 0

    def observe(self, digests: Keys, classes: NDArray[np.integer], now: int) -> None:
        """Note that a request used pages, or stored them.

        Args:
            digests: `[P]` without namespace, so that all ranks sample the same pages.
            classes: `[P]` which each page has from now on.
            now: logical time.
        """
        sampled = self._sampled(digests)
        wanted = digests[sampled].tolist()
        slots = [self._slot_of.get(digest) for digest in wanted]
        seen = np.array([slot for slot in slots if slot is not None], np.int64)
        if seen.size:
            at = self._class[seen], age_bin(now - self._last[seen])
            np.add.at(self._reused, at, 1)
            np.add.at(self._ended, at, 1)
            known = [i for i, slot in zip(sampled, slots, strict=True) if slot is not None]
            self._last[seen], self._class[seen] = now, classes[known]
        if seen.size < len(sampled):
            new = {d: i for d, i, slot in zip(wanted, sampled, slots, strict=True) if slot is None}
            self._watch(new, classes, now)

    def relabel(self, digests: Keys, classes: NDArray[np.integer]) -> None:
        """Note that pages changed their class without being used."""
        for i in self._sampled(digests):
            slot = self._slot_of.get(int(digests[i]))
            if slot is not None:
                self._class[slot] = classes[i]

    def refresh(self, capacity: int, now: int) -> None:
        """Bring `ranks` up to date, if it is time to.

        Args:
            capacity: pages that the store holds now.
            now: logical time.
        """
        if now < self._next_refresh:
            return
        self._next_refresh = now + max(_LEAST_INTERVAL, capacity // _REFRESHES_PER_CAPACITY)
        self._give_up(now, _HORIZON_CAPACITIES * capacity)
        if len(self._slot_of) < SAMPLE_PAGES // 4:
            self._threshold = np.uint64(min(_FULL_THRESHOLD, 2 * int(self._threshold)))
        ended = self._ended + self._counted(np.flatnonzero(self._used), now)
        self.ranks = ranks(worth(hazards(self._reused, ended)))
        self._reused *= _FADING
        self._ended *= _FADING

    def shift_time(self, ticks: int) -> None:
        """Go on with a logical time that is `ticks` less."""
        self._last -= ticks
        self._next_refresh -= ticks

    def _sampled(self, digests: Keys) -> list[int]:
        return np.flatnonzero((digests * _MIX) >> _HIGH_BITS < self._threshold).tolist()

    def _counted(self, slots: NDArray[np.int64], now: int) -> NDArray[np.float64]:
        flat = self._class[slots] * NUM_BINS + age_bin(now - self._last[slots])
        counts = np.bincount(flat, minlength=NUM_CLASSES * NUM_BINS)
        return counts.reshape(NUM_CLASSES, NUM_BINS).astype(np.float64)

    def _give_up(self, now: int, horizon: int) -> None:
        slots = np.flatnonzero(self._used & (now - self._last > horizon))
        # They were watched for the horizon and no longer, whenever this is noticed.
        at = age_bin(np.array([horizon]))[0]
        self._ended[:, at] += np.bincount(self._class[slots], minlength=NUM_CLASSES)
        self._drop(slots)

    def _drop(self, slots: NDArray[np.int64]) -> None:
        self._used[slots] = False
        self._free.extend(slots.tolist())
        for digest in self._digest[slots].tolist():
            del self._slot_of[digest]

    def _watch(self, new: dict[int, int], classes: NDArray[np.integer], now: int) -> None:
        """Take pages into the sample: their digests, and which of `classes` each has."""
        if len(new) <= len(self._free):
            slots = self._free[-len(new) :]
            del self._free[-len(new) :]
            self._slot_of.update(zip(new, slots, strict=True))
            self._digest[slots], self._used[slots] = np.array([*new], np.uint64), True
            self._last[slots], self._class[slots] = now, classes[[*new.values()]]
            return
        for digest, i in new.items():
            slot = self._new_slot(digest)
            if slot is not None:
                self._last[slot], self._class[slot] = now, classes[i]

    def _new_slot(self, digest: int) -> int | None:
        if not self._free:
            self._threshold //= np.uint64(2)
            outside = self._used.copy()
            outside[self._sampled(self._digest)] = False
            self._drop(np.flatnonzero(outside))
            if not self._free or not self._sampled(np.array([digest], np.uint64)):
                return None
        slot = self._free.pop()
        self._slot_of[digest] = slot
        self._digest[slot], self._used[slot] = digest, True
        return slot
