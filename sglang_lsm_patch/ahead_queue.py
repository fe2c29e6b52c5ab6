"""Which host pages to write before their place is needed, without ranking the pool at each step."""

from collections.abc import Callable

import numpy as np

from sglang_lsm_patch import write_policy
from sglang_lsm_patch.host_ledger import DIRTY, HostLedger, Pages

TOLERANCE = 8
"""The pool is ranked anew when one page in so many of those that shall be ready may not be."""
FADE = 16
"""After so many times of giving up, about a third of the largest is remembered."""


class AheadQueue:
    """The dirty pages among the coldest of the pool, coldest first.

    Ranking costs some 30 ns for each page of the pool, so it is done when enough of it has changed;
    per changed page that is about 2 us, however large the pool.

    Where more pages are given up between two calls than are ready, the rest costs a copy each; so
    as many as were given up at once are ready from then on, half of the pool at most, until that is
    long ago.

    Owned by the scheduler thread.
    """

    def __init__(
        self, ledger: HostLedger, *, least_ready: int, worthwhile: Callable[[Pages], Pages]
    ) -> None:
        """`num_ready` pages shall be free, or the coldest so many be clean, see
        `write_policy.write_ahead`.

        Args:
            ledger: what is known about the pool.
            least_ready: `num_ready` at least; with 0 nothing is written ahead.
            worthwhile: picks the pages to write; the others can be given up as they are.
        """
        self._ledger, self._worthwhile = ledger, worthwhile
        self.num_ready = self._least_ready = least_ready
        self._num_changed = 0
        self._given_up = self._burst = 0
        self._waiting: Pages = np.empty(0, np.int64)
        self._warmth = np.empty(0)

    def note_changed(self, num_pages: int) -> None:
        """Note that pages came, were hit, or are dirty again: others may be the coldest now."""
        self._num_changed += num_pages

    def note_given_up(self, num_pages: int) -> None:
        """Note that pages left the pool."""
        self._given_up += num_pages

    def take(self, *, num_free: int, max_pages: int) -> Pages:
        """Return pages to write now, coldest first.

        Once they and those of later calls are written, at most one in `TOLERANCE` of `num_ready`
        is missing.

        Args:
            num_free: of the host pool's pages.
            max_pages: at most that many are returned.
        """
        self._follow_bursts()
        if num_free >= self.num_ready:
            return self._waiting[:0]
        tolerance = max(1, self.num_ready // TOLERANCE)
        if self._num_changed >= tolerance:
            self._rank()
        if not len(self._waiting):
            return self._waiting
        ledger, pages = self._ledger, self._waiting
        same = (ledger.state[pages] == DIRTY) & (ledger.warmth[pages] == self._warmth)
        pages = self._worthwhile(pages[same])
        self._waiting = pages[max_pages:]
        self._warmth = ledger.warmth[self._waiting]
        return pages[:max_pages]

    def _follow_bursts(self) -> None:
        given_up, self._given_up = self._given_up, 0
        self._num_changed += given_up
        if given_up and self._least_ready:
            self._burst = max(given_up, self._burst - 1 - self._burst // FADE)
            before, most = self.num_ready, self._ledger.num_pages // 2
            self.num_ready = max(self._least_ready, min(self._burst, most))
            self._num_changed += max(0, self.num_ready - before)

    def _rank(self) -> None:
        ledger = self._ledger
        self._waiting = write_policy.write_ahead(
            ledger, num_ready=self.num_ready, max_pages=ledger.num_pages
        )
        self._warmth = ledger.warmth[self._waiting]
        self._num_changed = 0
