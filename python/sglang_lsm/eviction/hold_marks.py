"""What an operator asked for of single pages, ready to be put on rows of the page table. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sglang_lsm.eviction import traits
from sglang_lsm.eviction.row_index import Keys

Bits = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class HoldMarks:
    """Pages by their key in the page table, and the bits of `traits` that each shall have."""

    keys: Keys
    """`[P]`, ascending, none twice."""
    bits: Bits
    """`[P]`, priority and pin."""
    pinned: tuple[bytes, ...]
    """The keys of pinned pages in the index."""

    @classmethod
    def of(cls, holds: Iterable[tuple[Keys, int, bool]], pinned: tuple[bytes, ...]) -> "HoldMarks":
        """Return the marks of several holds: keys, priority and whether they are pinned.

        A page in several gets the highest priority, and is pinned if one of them says so.
        """
        parts = list(holds)
        keys = np.concatenate([np.empty(0, np.uint64), *(part for part, _, _ in parts)])
        unique, at = np.unique(keys, return_inverse=True)
        priority, is_pinned = np.zeros(len(unique), np.int64), np.zeros(len(unique), np.int64)
        lengths = [len(part) for part, _, _ in parts]
        np.maximum.at(priority, at, np.repeat([p for _, p, _ in parts], lengths).astype(np.int64))
        np.maximum.at(is_pinned, at, np.repeat([b for _, _, b in parts], lengths).astype(np.int64))
        bits = priority << traits.PRIORITY_SHIFT | is_pinned * traits.PINNED
        return cls(unique, bits.astype(np.uint16), pinned)

    def pinned_keys(self) -> Keys:
        """Return the keys of pinned pages, ascending."""
        found: Keys = self.keys[self.bits & traits.PINNED > 0]
        return found

    def bits_of(self, keys: Keys) -> Bits:
        """Return the bits of each key, 0 for one that nobody asked anything of."""
        at = np.minimum(np.searchsorted(self.keys, keys), max(0, len(self.keys) - 1))
        if not self.keys.size:
            return np.zeros(len(keys), np.uint16)
        found: Bits = np.where(self.keys[at] == keys, self.bits[at], np.uint16(0))
        return found


NO_MARKS = HoldMarks.of([], ())
