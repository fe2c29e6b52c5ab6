"""Which host pages to write to disk next. Pure: arrays in, page numbers out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sglang_lsm_patch.host_ledger import DIRTY, FREE, HostLedger, Pages, PathPart

_SECONDS_A_PAGE = 1e-6
"""Among pages touched together, the deeper is the colder, as the tree gives up leaves first."""


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring pages of one path part, parents first."""

    part: PathPart
    start: int
    """Pages before the first on the path."""
    pages: Pages


def write_ahead(ledger: HostLedger, *, num_free: int, num_ready: int, max_pages: int) -> Pages:
    """Return pages to write so that `num_ready` can be given up without a copy.

    Ready is what is free, and the coldest pages as far as they are clean. Pages outside of that
    part of the pool are not written however much room there is: they may be hit again.

    Args:
        num_free: of the host pool's pages.
        num_ready: how many shall be ready.
        max_pages: at most that many are returned, coldest first.
    """
    wanted = num_ready - num_free
    used = np.flatnonzero(ledger.state != FREE)
    if wanted <= 0 or len(used) == 0:
        return used[:0]
    warmth = ledger.touched_s[used] - _SECONDS_A_PAGE * ledger.position[used]
    if wanted < len(used):
        coldest = np.argpartition(warmth, wanted - 1)[:wanted]
        used, warmth = used[coldest], warmth[coldest]
    dirty = ledger.state[used] == DIRTY
    used, warmth = used[dirty], warmth[dirty]
    return used[np.argsort(warmth, kind="stable")][:max_pages]


def aged(ledger: HostLedger, *, now_s: float, delay_s: float) -> Pages:
    """Return the dirty pages that have waited `delay_s`, in no order.

    What a kill would lose then is young, or not worth a write. Hits do not hasten it: of a growing
    conversation every page is hit again, and most of it never needs the disk.
    """
    dirty = np.flatnonzero(ledger.state == DIRTY)
    return dirty[ledger.added_s[dirty] <= now_s - delay_s]


def parents_first(ledger: HostLedger, pages: Pages) -> Pages:
    """Return `pages` by age, and by depth where they are of the same age: a page is never older
    than the ones before it on its path."""
    return pages[np.lexsort((ledger.position[pages], ledger.added_s[pages]))]


def runs(ledger: HostLedger, pages: Pages, *, max_pages: int) -> Iterator[Run]:
    """Yield `pages` as runs of at most `max_pages`; parts in the order of their first page."""
    parts, positions = ledger.part[pages].tolist(), ledger.position[pages].tolist()
    by_part: dict[int, list[tuple[int, int]]] = {}
    for page, part, position in zip(pages.tolist(), parts, positions, strict=True):
        by_part.setdefault(id(part), []).append((position, page))
    for of_part in by_part.values():
        of_part.sort()
        start = 0
        for end in range(1, len(of_part) + 1):
            first, num_pages = of_part[start][0], end - start
            # A plain loop, as runs are short: for a few pages arrays cost more.
            is_next = end < len(of_part) and of_part[end][0] == first + num_pages
            if not is_next or num_pages == max_pages:
                piece = np.array([page for _, page in of_part[start:end]])
                yield Run(ledger.part[piece[0]], first, piece)
                start = end
