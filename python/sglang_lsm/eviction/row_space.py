"""Which rows of the page table are free. Marked in the parent column, so it costs no memory.

A free row is either listed, ready to be taken, or not; the list is bounded, and what did not fit
into it is found again by a scan. Needs the lock of its owner.
"""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int32]

_LIST_ROWS = 1 << 16
_SCAN_ROWS = 1 << 16


class RowSpace:
    """Hands out rows and takes them back.

    Args:
        parent: the column that marks free rows; its length is the number of rows.
    """

    UNLISTED = -1
    LISTED = -(1 << 31)

    def __init__(self, parent: Rows) -> None:
        parent[:] = self.UNLISTED
        self.capacity = len(parent)
        self.num_used = 0
        self.top = 0
        self._hand = 0
        self._listed: list[Rows] = []
        self._num_listed = 0

    @property
    def num_free(self) -> int:
        """Rows that can be taken."""
        return self.capacity - self.num_used

    @property
    def nbytes(self) -> int:
        """Bytes of RAM of the list, which is bounded."""
        return 4 * self._num_listed

    def take(self, parent: Rows, num_rows: int) -> Rows:
        """Return `num_rows` rows out of `num_free`; never used ones first, in order."""
        fresh = min(num_rows, self.capacity - self.top)
        taken = [np.arange(self.top, self.top + fresh, dtype=np.int32)]
        self.top += fresh
        missing = num_rows - fresh
        while missing:
            if not self._listed:
                self._scan(parent)
                continue
            rows = self._listed.pop()
            if len(rows) > missing:
                self._listed.append(rows[missing:])
                rows = rows[:missing]
            taken.append(rows)
            missing -= len(rows)
            self._num_listed -= len(rows)
        self.num_used += num_rows
        return np.concatenate(taken)

    def release(self, parent: Rows, rows: Rows) -> None:
        """Take rows back."""
        self.num_used -= len(rows)
        room = max(0, _LIST_ROWS - self._num_listed)
        self._list(parent, np.sort(rows[:room]))
        parent[rows[room:]] = self.UNLISTED

    def grow(self, parent: Rows) -> None:
        """Go on with a longer column whose first rows are those of the old one."""
        parent[self.capacity :] = self.UNLISTED
        self.capacity = len(parent)

    def _list(self, parent: Rows, rows: Rows) -> None:
        if rows.size:
            parent[rows] = self.LISTED
            self._listed.append(rows)
            self._num_listed += len(rows)

    def _scan(self, parent: Rows) -> None:
        end = min(self._hand + _SCAN_ROWS, self.top)
        found = np.flatnonzero(parent[self._hand : end] == self.UNLISTED) + self._hand
        self._list(parent, found.astype(np.int32))
        self._hand = 0 if end == self.top else end
