"""Which pages are worth a write: learned from what became of pages that left the host tier.

A page in memory needs no disk. It is read from there only if it is asked for after it has left, so
that is what is watched: of the pages that left, written or not, how many came back, by kind. Kind
is how often a page was hit in memory, and whether it had come back before. Pages of a kind that
seldom comes back are not written.

Everything is counted in pages that entered the host tier, so the same requests lead to the same
decisions on every rank, but for what a rank's failures change. Nothing is refused before pages have
been gone for half a turnover of the host tier without coming back.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sglang_lsm.pages import PageHash

Kinds = npt.NDArray[np.uint8]

MAX_HITS_BITS = 7
_RETURNED = MAX_HITS_BITS + 1
NUM_KINDS = 2 * _RETURNED
_BITS = np.array([num.bit_length() for num in range(1 << (MAX_HITS_BITS - 1))] + [MAX_HITS_BITS])
_BITS = _BITS.astype(np.uint8)
"""Bits of a number of hits, at most MAX_HITS_BITS."""

WATCHED_PAGES = 16384
"""Most pages watched at once; of a larger host tier a sample is, chosen by the pages' names."""
_GONE_TURNOVERS = 4
"""Pages gone for so many turnovers are no longer watched."""
_COUNTED_PAGES = 8192
"""Counts are halved when they reach that, so that old ones fade."""
_KIND_PAGES = 64.0
"""A kind departs from all kinds together as its own count grows beyond this."""
_UNKNOWN_PAGES = 8.0
"""Before anything is known, it is as if so many pages had left and all come back."""


def kinds(num_hits: npt.NDArray[np.uint32], has_returned: npt.NDArray[np.bool_]) -> Kinds:
    """Return the kind of each page from its hits in memory, and whether it had left before."""
    kind: Kinds = _BITS[np.minimum(num_hits, len(_BITS) - 1)] + np.uint8(_RETURNED) * has_returned
    return kind


class Admission:
    """Watches pages that left the host tier. Owned by one thread; cost: a few us a page."""

    def __init__(self, *, num_pages: int, pages_per_hit: float) -> None:
        """Know nothing, so admit everything.

        Args:
            num_pages: of the host tier: a turnover.
            pages_per_hit: most pages to write for one that comes back.
        """
        self._turnover = max(1, num_pages)
        self._patience = self._turnover // 2
        self._least_share = 1.0 / pages_per_hit
        share = min(1.0, WATCHED_PAGES / (_GONE_TURNOVERS * self._turnover))
        self._sample_below = int(share * (1 << 32))
        self._now = 0
        self._watched: dict[PageHash, tuple[int, int]] = {}
        """Name to kind and time of leaving."""
        self._young: deque[tuple[int, PageHash]] = deque()
        self._old: deque[tuple[int, PageHash]] = deque()
        self._num_left = np.zeros(NUM_KINDS)
        self._num_returned = np.zeros(NUM_KINDS)
        self._is_admitted = np.ones(NUM_KINDS, np.bool_)

    def entered(self, names: Sequence[PageHash]) -> list[int]:
        """Note that pages came into the host tier; return which of them are known to have left it.

        Returns:
            Indices into `names`.
        """
        self._now += len(names)
        watched = self._watched
        back = [i for i, name in enumerate(names) if name in watched]
        for i in back:
            kind, left_at = watched.pop(names[i])
            self._num_returned[kind] += 1
            # Those gone for longer have been counted as left already.
            self._num_left[kind] += self._now - left_at <= self._patience
        self._advance()
        return back

    def left(self, names: Sequence[PageHash], page_kinds: Kinds) -> None:
        """Note that pages left the host tier, written or not."""
        kind_of, now = page_kinds.tolist(), self._now
        for i in self._sampled(names):
            self._watched[names[i]] = kind_of[i], now
            self._young.append((now, names[i]))

    def admits(self, page_kinds: Kinds) -> npt.NDArray[np.bool_]:
        """Return for each page whether its kind is worth a write."""
        return self._is_admitted[page_kinds]

    def shares(self) -> npt.NDArray[np.float64]:
        """Return for each kind which share of its pages is expected to come back."""
        left, returned = self._num_left, self._num_returned
        of_all = (returned.sum() + _UNKNOWN_PAGES) / (left.sum() + _UNKNOWN_PAGES)
        shares: npt.NDArray[np.float64] = (returned + _KIND_PAGES * of_all) / (left + _KIND_PAGES)
        return np.minimum(shares, 1.0)

    def _advance(self) -> None:
        while self._young and self._now - self._young[0][0] > self._patience:
            left_at, name = self._young.popleft()
            kind, last_left_at = self._watched.get(name, (0, -1))
            if last_left_at == left_at:
                self._num_left[kind] += 1
                self._old.append((left_at, name))
        while self._old and self._now - self._old[0][0] > _GONE_TURNOVERS * self._turnover:
            left_at, name = self._old.popleft()
            if self._watched.get(name, (0, -1))[1] == left_at:
                del self._watched[name]
        if self._num_left.sum() >= _COUNTED_PAGES:
            self._num_left /= 2
            self._num_returned /= 2
        self._is_admitted = self.shares() >= self._least_share

    def _sampled(self, names: Sequence[PageHash]) -> list[int]:
        below = self._sample_below
        return [i for i, name in enumerate(names) if int.from_bytes(name[8:12], "big") < below]
