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

MAX_HITS_BITS = 7
_RETURNED = MAX_HITS_BITS + 1
NUM_KINDS = 2 * _RETURNED

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


def kind_of(num_hits: int, has_returned: bool | int) -> int:
    """Return the kind of a page from its hits in memory, and whether it had left before."""
    bits = min(num_hits.bit_length(), MAX_HITS_BITS)
    return bits + _RETURNED if has_returned else bits


class Admission:
    """Watches pages that left the host tier. Owned by one thread; cost: about 1 us a page."""

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
        self._young: deque[tuple[int, Sequence[PageHash]]] = deque()
        """Time of leaving, and the names that left then."""
        self._old: deque[tuple[int, Sequence[PageHash]]] = deque()
        # Plain lists: they are counted up one by one, and there are few of them.
        self._num_left = [0.0] * NUM_KINDS
        self._num_returned = [0.0] * NUM_KINDS
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

    def left(self, names: Sequence[PageHash], kinds: Sequence[int]) -> None:
        """Note that pages of those kinds left the host tier, written or not."""
        names, kinds = self._sampled(names, kinds)
        if names:
            now = self._now
            self._watched.update(
                {name: (kind, now) for name, kind in zip(names, kinds, strict=True)}
            )
            self._young.append((now, names))

    def admits(self, kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Return for each page whether its kind is worth a write."""
        return self._is_admitted[kinds]

    def shares(self) -> list[float]:
        """Return for each kind which share of its pages is expected to come back."""
        left, returned = self._num_left, self._num_returned
        of_all = (sum(returned) + _UNKNOWN_PAGES) / (sum(left) + _UNKNOWN_PAGES)
        prior = _KIND_PAGES * of_all
        return [
            min(1.0, (back + prior) / (gone + _KIND_PAGES))
            for back, gone in zip(returned, left, strict=True)
        ]

    def _advance(self) -> None:
        while self._young and self._now - self._young[0][0] > self._patience:
            left_at, names = self._young.popleft()
            names = self._still_gone(left_at, names)
            for name in names:
                self._num_left[self._watched[name][0]] += 1
            if names:
                self._old.append((left_at, names))
        while self._old and self._now - self._old[0][0] > _GONE_TURNOVERS * self._turnover:
            for name in self._still_gone(*self._old.popleft()):
                self._watched.pop(name, None)
        if sum(self._num_left) >= _COUNTED_PAGES:
            self._num_left = [num / 2 for num in self._num_left]
            self._num_returned = [num / 2 for num in self._num_returned]
        least = self._least_share
        self._is_admitted = np.array([share >= least for share in self.shares()])

    def _still_gone(self, left_at: int, names: Sequence[PageHash]) -> list[PageHash]:
        """Return those of `names` that have not come back since."""
        watched = self._watched
        return [
            name for name in names if (seen := watched.get(name)) is not None and seen[1] == left_at
        ]

    def _sampled(
        self, names: Sequence[PageHash], kinds: Sequence[int]
    ) -> tuple[Sequence[PageHash], Sequence[int]]:
        below = self._sample_below
        if below >> 32:
            return names, kinds
        of = [i for i, name in enumerate(names) if int.from_bytes(name[8:12], "big") < below]
        return [names[i] for i in of], [kinds[i] for i in of]
