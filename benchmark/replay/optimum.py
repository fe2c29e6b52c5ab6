"""The most hits that any cache of pages could have had, knowing the future.

After each request the cache may keep any of its pages and of those just used; it keeps those whose
next use comes first (Belady), and stores nothing that is not used again. A page is used whenever
one of its extensions is, so a prefix is never wanted later than what extends it; among pages wanted
at the same time the deeper ones go first. So what is kept is closed under prefixes, every stored
page that is asked for is a hit, and the bound holds for leading pages as it does for single ones.
"""

import heapq
from collections.abc import Sequence

from benchmark.replay.caches import Outcome
from benchmark.replay.traces import Request, leading

NEVER = 1 << 60


class Optimum:
    """The offline optimum for prefix-chained pages of one size.

    Args:
        requests: all that will come, in order.
        capacity: pages.
    """

    def __init__(self, requests: Sequence[Request], capacity: int) -> None:
        self._capacity = capacity
        self._next_uses = _next_uses(requests)
        self._number = 0
        self._wanted_at: dict[int, int] = {}
        self._latest: list[tuple[int, int, int]] = []

    def request(self, pages: Request) -> Outcome:
        """See `Cache`; called with the requests in order."""
        before = set(pages) & self._wanted_at.keys()
        hits = leading(pages, before)
        for depth, (page, use) in enumerate(zip(pages, self._next_uses[self._number], strict=True)):
            self._wanted_at.pop(page, None)
            if use != NEVER:
                self._wanted_at[page] = use
                heapq.heappush(self._latest, (-use, -depth, page))
        self._number += 1
        while len(self._wanted_at) > self._capacity:
            use, _, page = heapq.heappop(self._latest)
            if self._wanted_at.get(page) == -use:
                del self._wanted_at[page]
        written = len((set(pages) & self._wanted_at.keys()) - before)
        return Outcome(hits, len(before), written)


def _next_uses(requests: Sequence[Request]) -> list[list[int]]:
    """Return for each page of each request the number of the next request that uses it."""
    upcoming: dict[int, int] = {}
    uses = []
    for number in range(len(requests) - 1, -1, -1):
        uses.append([upcoming.get(page, NEVER) for page in requests[number]])
        upcoming.update(dict.fromkeys(requests[number], number))
    return uses[::-1]
