"""Which host pages to write to disk next. Pure: arrays in, page numbers out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sglang_lsm_patch.host_ledger import DIRTY, HostLedger, Pages, PathPart


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring pages of one path part, parents first."""

    part: PathPart
    start: int
    """Pages before the first on the path."""
    pages: Pages


def write_ahead(ledger: HostLedger, *, num_ready: int, max_pages: int) -> Pages:
    """Return pages to write so that the `num_ready` coldest can be given up without a copy.

    Pages outside of that part of the pool are not written however much room there is: they may be
    hit again. What is free makes the part no smaller: the tree gives up whole nodes, also where
    few pages are missing.

    Args:
        num_ready: how many shall be ready.
        max_pages: at most that many are returned, coldest first.
    """
    warmth = ledger.warmth
    if 0 < num_ready < len(warmth):
        coldest = np.argpartition(warmth, num_ready - 1)[:num_ready]
    else:
        coldest = np.arange(len(warmth) if num_ready else 0)
    dirty = coldest[ledger.state[coldest] == DIRTY]
    return dirty[np.argsort(warmth[dirty], kind="stable")][:max_pages]


def aged(ledger: HostLedger, *, now_s: float, delay_s: float) -> Pages:
    """Return the dirty pages that have waited `delay_s`, in no order.

    What a kill would lose then is young, or not worth a write. Hits do not hasten it: of a growing
    conversation every page is hit again, and most of it never needs the disk.
    """
    dirty = np.flatnonzero(ledger.state == DIRTY)
    return dirty[ledger.added_s[dirty] <= now_s - delay_s]


def oldest_dirty_s(ledger: HostLedger, *, now_s: float) -> float:
    """Return when the oldest dirty page was added, or `now_s` if there is none."""
    return float(ledger.added_s[ledger.state == DIRTY].min(initial=now_s))


def parents_first(ledger: HostLedger, pages: Pages) -> Pages:
    """Return `pages` by age, and by depth where they are of the same age: a page is never older
    than the ones before it on its path."""
    return pages[np.lexsort((ledger.position[pages], ledger.added_s[pages]))]


def runs(ledger: HostLedger, pages: Pages, *, max_pages: int) -> Iterator[Run]:
    """Yield `pages` as runs of at most `max_pages`; parts in the order of their first page."""
    by_part: dict[int, tuple[PathPart, list[tuple[int, int]]]] = {}
    for page, position in zip(pages.tolist(), ledger.position[pages].tolist(), strict=True):
        if (part := ledger.part[page]) is not None:
            by_part.setdefault(id(part), (part, []))[1].append((position, page))
    for part, of_part in by_part.values():
        of_part.sort()
        start = 0
        for end in range(1, len(of_part) + 1):
            first, num_pages = of_part[start][0], end - start
            # A plain loop, as runs are short: for a few pages arrays cost more.
            is_next = end < len(of_part) and of_part[end][0] == first + num_pages
            if not is_next or num_pages == max_pages:
                piece = np.array([page for _, page in of_part[start:end]])
                yield Run(part, first, piece)
                start = end
