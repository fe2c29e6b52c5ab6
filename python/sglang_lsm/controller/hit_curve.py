"""What a store of another size would hit, from what came back to this one. Pure but for its sums.

Of pages that are used again, those read were still there and those written again had left. Counted
by how many others were used in between, they give the share that is hit at each such distance, for
whatever decides what leaves. In a store of g times the room a page is taken to fare at distance D
as one does here at D / g. (For LRU that is exact: all up to the room are hit and none beyond.)
"""

import math
from typing import TypeAlias

import numpy as np

Counts: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
"""`[2, NUM_BINS]`: pages that were hit, and that had left, by their distance."""
Shares: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"

BINS_A_DOUBLING = 8
NUM_BINS = 64 * BINS_A_DOUBLING
_PRIOR_PAGES = 16.0
"""As which a bin is taken to be like its neighbour: one of few pages tells little."""


def distance_bin(num_pages: float) -> int:
    """Return the bin of a page after whose last use so many others were used."""
    return int(BINS_A_DOUBLING * math.log2(max(num_pages, 1.0)))


class HitCurve:
    """Shares of hits by distance; pages of long ago weigh less. Owned by a thread.

    Of a distance at which few pages came back, the share is between that of the nearer ones and
    that of the farther ones.
    """

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._counts: Counts = np.zeros((2, NUM_BINS), np.float64)
        self._most: Shares = np.ones(NUM_BINS, np.float64)
        self._least: Shares = np.zeros(NUM_BINS, np.float64)

    def enter(self, counts: Counts, *, kept_share: float) -> None:
        """Learn from pages that came back; `kept_share` is the weight of those before them."""
        self._counts = self._counts * kept_share + counts
        self._most = _carried(self._counts, 1.0)
        self._least = _carried(self._counts[:, ::-1], 0.0)[::-1]

    def most_hits(self, counts: Counts) -> float:
        """Return how many of the pages of `counts` are hits in a store like this one, at most."""
        return float(self._most @ counts.sum(0))

    def least_gain(self, counts: Counts, *, times_room: float) -> float:
        """Return how many of the pages of `counts` more room makes hits of, at least."""
        at = np.arange(NUM_BINS) - BINS_A_DOUBLING * math.log2(times_room)
        then = np.interp(at, np.arange(NUM_BINS), self._least)
        return float(np.maximum(then - self._most, 0.0) @ counts.sum(0))


def _carried(counts: Counts, share: float) -> Shares:
    """Return the share of hits of each bin, from the one before it where it has few pages."""
    totals = counts.sum(0)
    shares, start = np.empty(NUM_BINS, np.float64), 0
    # Most bins have no page, and the share of the one before.
    for at in np.flatnonzero(totals).tolist():
        shares[start:at] = share
        start = at
        share = float((counts[0, at] + _PRIOR_PAGES * share) / (totals[at] + _PRIOR_PAGES))
    shares[start:] = share
    return shares
