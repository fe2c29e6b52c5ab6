"""From a page's key to its row: a hash table in one numpy array that holds row numbers only.

A key lives in one of two buckets of eight slots, in the emptier one when it came; where both are
full, another key moves to its own other bucket. A removed key leaves an empty slot and no
tombstone, so nothing has ever to be rebuilt but to grow. The keys themselves stand in the page
table, which passes its column in: a slot costs 4 bytes, and the table is filled to `MAX_LOAD`. A
key that finds no room in spite of all that goes to a dict.

Needs the lock of its owner.
"""

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Rows = NDArray[np.int32]

BUCKET_SLOTS = 8
MAX_LOAD = 0.875
EMPTY = -1
_LEAST_CHUNK = 128
_FEW = 128
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_MIX_INTS = tuple(map(int, _MIX))
_HIGH_BITS = np.uint64(32)
_ALL_BITS = (1 << 64) - 1


class RowIndex:
    """Finds rows by key, for batches of keys.

    Args:
        capacity: keys it is sized for; more would still be found, only slower.
    """

    def __init__(self, capacity: int) -> None:
        num_buckets = max(1, -(-capacity // int(BUCKET_SLOTS * MAX_LOAD)))
        self._slots = np.full((num_buckets, BUCKET_SLOTS), EMPTY, np.int32)
        self._spill: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of RAM: slots, and about 100 bytes for each key in the dict."""
        return self._slots.nbytes + 100 * len(self._spill)

    def find(self, keys: Keys, column: Keys) -> Rows:
        """Return the row of each key, `EMPTY` where there is none.

        Args:
            keys: `[P]`, in any order.
            column: the key of each row; not empty.
        """
        first, second = self._buckets(keys)
        rows = self._match(first, keys, column)
        missing = np.flatnonzero(rows == EMPTY)
        if missing.size:
            rows[missing] = self._match(second[missing], keys[missing], column)
            if self._spill:
                for i in missing[rows[missing] == EMPTY]:
                    rows[i] = self._spill.get(int(keys[i]), EMPTY)
        return rows

    def find_one(self, key: int, column: Keys) -> int:
        """Return the row of one key, or `EMPTY`: what `find` does, without arrays of one."""
        for mix in _MIX_INTS:
            bucket = (key * mix & _ALL_BITS) >> 32
            for row in self._slots[bucket * len(self._slots) >> 32].tolist():
                if row != EMPTY and int(column[row]) == key:
                    return int(row)
        return self._spill.get(key, EMPTY)

    def finds_any(self, keys: Keys, column: Keys) -> bool:
        """Return whether one of `keys` is in it: half of what `find` costs."""
        both = np.concatenate(self._buckets(keys))
        slots = self._slots.take(both, 0)
        same = column.take(slots, mode="wrap") == np.concatenate([keys, keys])[:, None]
        same &= slots != EMPTY
        return bool(same.any()) or not self._spill.keys().isdisjoint(keys.tolist())

    def add(self, rows: Rows, column: Keys) -> None:
        """Enter rows whose keys, in `column`, are not in it."""
        if len(rows) <= _FEW:
            for row in self._add_few(column[rows].tolist(), rows.tolist()):
                self._push(row, column)
            return
        # Keys of one chunk do not see each other when they choose the emptier bucket.
        chunk = max(_LEAST_CHUNK, len(self._slots) // 8)
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            for row in self._add_chunk(column[part], part):
                self._push(row, column)

    def discard(self, keys: Keys, rows: Rows) -> None:
        """Take out keys that are in it, each with its row."""
        for bucket in self._buckets(keys):
            at, slot = np.nonzero(self._slots.take(bucket, 0) == rows[:, None])
            self._slots[bucket[at], slot] = EMPTY
        if self._spill:
            for key, row in zip(keys.tolist(), rows.tolist(), strict=True):
                if self._spill.get(key) == row:
                    del self._spill[key]

    def _add_few(self, keys: list[int], rows: list[int]) -> list[int]:
        """Do what `_add_chunk` does, one by one: arrays this short cost more than their content."""
        crowded, slots, num_buckets = [], self._slots.reshape(-1).data, len(self._slots)
        for key, row in zip(keys, rows, strict=True):
            at = num_free = 0
            for mix in _MIX_INTS:
                start = ((key * mix & _ALL_BITS) >> 32) * num_buckets >> 32
                start *= BUCKET_SLOTS
                bucket = slots[start : start + BUCKET_SLOTS].tolist()
                free = bucket.count(EMPTY)
                if free > num_free:
                    at, num_free = start + bucket.index(EMPTY), free
            if num_free:
                slots[at] = row
            else:
                crowded.append(row)
        return crowded

    def _add_chunk(self, keys: Keys, rows: Rows) -> list[int]:
        """Put rows into free slots; return those that found none."""
        crowded: list[int] = []
        flat = self._slots.reshape(-1)
        first, second = self._buckets(keys)
        while keys.size:
            free_first = self._slots.take(first, 0) == EMPTY
            free_second = self._slots.take(second, 0) == EMPTY
            num_first, num_second = free_first.sum(1), free_second.sum(1)
            use_second = num_second > num_first
            bucket = np.where(use_second, second, first)
            free = np.where(use_second[:, None], free_second, free_first)
            full = np.maximum(num_first, num_second) == 0
            crowded += rows[full].tolist()
            slot = bucket * BUCKET_SLOTS + free.argmax(1)
            flat[slot[~full]] = rows[~full]
            # Two keys of one call may have chosen the same slot; the last one won it.
            again = ~full & (flat[slot] != rows)
            keys, rows, first, second = keys[again], rows[again], first[again], second[again]
        return crowded

    def _push(self, row: int, column: Keys) -> None:
        """Put a row where another one can make room by moving to its other bucket."""
        key = column[row : row + 1]
        here = np.repeat(np.concatenate(self._buckets(key)), BUCKET_SLOTS)
        movable = self._slots[here[::BUCKET_SLOTS]].reshape(-1)
        if (movable == EMPTY).any():
            # A push before this one made room.
            self._add_chunk(key, np.array([row], np.int32))
            return
        first, second = self._buckets(column[movable])
        there = np.where(first == here, second, first)
        free = self._slots[there] == EMPTY
        i = int(free.any(1).argmax())
        if not free[i].any():
            self._spill[int(key[0])] = row
            return
        self._slots[there[i], int(free[i].argmax())] = movable[i]
        self._slots[here[i], i % BUCKET_SLOTS] = row

    def _buckets(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        num_buckets = np.uint64(len(self._slots))
        first, second = (((keys * mix) >> _HIGH_BITS) * num_buckets >> _HIGH_BITS for mix in _MIX)
        return first.astype(np.int64), second.astype(np.int64)

    def _match(self, buckets: NDArray[np.int64], keys: Keys, column: Keys) -> Rows:
        slots = self._slots.take(buckets, 0)
        # `wrap` is the fast mode; an empty slot reads the last key, which its row number undoes.
        same = column.take(slots, mode="wrap") == keys[:, None]
        same &= slots != EMPTY
        at = same.argmax(1)
        at += np.arange(0, slots.size, BUCKET_SLOTS)
        return np.where(same.take(at), slots.take(at), np.int32(EMPTY))
