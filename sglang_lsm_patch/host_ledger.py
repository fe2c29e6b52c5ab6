"""What is known about each page of the host tier: is it on disk too, how warm is it, what is its
name. Pure bookkeeping: no SGLang, no store, no clock.

Nodes of the radix tree are split and dropped, pages are not; so everything here goes by the number
of a page in the host pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sglang_lsm.pages import PageHash

Pages: TypeAlias = npt.NDArray[np.int64]
"""Numbers of host pages: first token slot / page size."""

Generations: TypeAlias = npt.NDArray[np.uint32]

FREE, CLEAN, DIRTY, WRITING = range(4)
"""States of a page: not in the tree; on disk too; in memory only; on its way to disk."""


@dataclass(frozen=True, slots=True)
class PathPart:
    """Neighbouring pages of one radix path, and what they hang on.

    Parts share their ancestors, so that the names of a tree take memory by page, not by path.
    """

    parent: "PathPart | None"
    depth: int
    """Pages before the first; the path's first `depth` pages are found through `parent`."""
    hashes: Sequence[PageHash]

    def path_to(self, end: int) -> list[PageHash]:
        """Return the names of the path's first `end` pages, root first."""
        pieces, part = [], self
        while True:
            pieces.append(part.hashes[: end - part.depth])
            if part.parent is None:
                break
            end, part = part.depth, part.parent
        return list(chain.from_iterable(reversed(pieces)))


class HostLedger:
    """One entry for each page of a host pool.

    Owned by the scheduler thread, which alone learns of pages that come and go; only `is_current`
    may be called on another. Cost: 43 bytes a page, and about 200 for the name of a page in use.
    """

    def __init__(self, num_pages: int) -> None:
        """All of `num_pages` are free."""
        self.state: npt.NDArray[np.uint8] = np.zeros(num_pages, np.uint8)
        self.touched_s: npt.NDArray[np.float64] = np.zeros(num_pages)
        self.added_s: npt.NDArray[np.float64] = np.zeros(num_pages)
        self.num_hits: npt.NDArray[np.uint32] = np.zeros(num_pages, np.uint32)
        self.position: npt.NDArray[np.int32] = np.zeros(num_pages, np.int32)
        """Pages before it on its path."""
        self.has_returned: npt.NDArray[np.bool_] = np.zeros(num_pages, np.bool_)
        """It had left the host tier before."""
        self.is_wanted: npt.NDArray[np.bool_] = np.zeros(num_pages, np.bool_)
        """It shall be on disk, because it or what extends it is worth that; see `want`."""
        self.part: npt.NDArray[np.object_] = np.full(num_pages, None, object)
        self._generation: Generations = np.zeros(num_pages, np.uint32)
        self._page_of: dict[PageHash, int] = {}

    @property
    def num_pages(self) -> int:
        """Pages of the pool."""
        return len(self.state)

    def part_ending_at(self, page_hash: PageHash, depth: int) -> PathPart | None:
        """Return the part whose page at `depth` - 1 has this name, if it is here."""
        page = self._page_of.get(page_hash)
        if page is None or self.position[page] != depth - 1:
            return None
        return self.part[page]  # type: ignore[no-any-return]

    def add(self, pages: Pages, part: PathPart, *, is_dirty: bool, now_s: float) -> Pages:
        """Take in the pages of `part`; those that are here already stay as they are.

        A tree holds a name once; were it here under another page too, hits on it might not count.

        Args:
            pages: one for each of `part.hashes`.
            is_dirty: whether the disk may lack them.
            now_s: monotonic time.

        Returns:
            Those that were new.
        """
        if len(pages) != len(part.hashes):
            return pages[:0]
        known = np.zeros(len(pages), bool)
        if self.state[pages].any():
            known = np.fromiter(map(self._known, pages, part.hashes), bool, len(pages))
        new = pages[~known]
        self.free(new[self.state[new] != FREE])
        self.position[new] = part.depth + np.flatnonzero(~known)
        self.part[new] = part
        self.touched_s[new] = self.added_s[new] = now_s
        self.num_hits[new] = 0
        self.has_returned[new] = self.is_wanted[new] = False
        names = [part.hashes[i] for i in np.flatnonzero(~known).tolist()]
        self._page_of.update(zip(names, new.tolist(), strict=True))
        self.state[new] = DIRTY if is_dirty else CLEAN
        return new

    def touch(self, page_hash: PageHash, now_s: float) -> list[PageHash]:
        """Count a hit on the page of this name and on all before it; return their names.

        Empty if the page is not here. Cost: one dictionary lookup a page.
        """
        last = self._page_of.get(page_hash)
        if last is None:
            return []
        path = self.part[last].path_to(int(self.position[last]) + 1)
        here = [page for name in path if (page := self._page_of.get(name)) is not None]
        self.touched_s[here] = now_s
        self.num_hits[here] += 1
        return path

    def want(self, pages: Pages) -> None:
        """Note that pages shall be on disk, and so all before them, without which they are no hits.

        Cost: under 1 us for each page that was not wanted yet.
        """
        for first in pages[~self.is_wanted[pages]].tolist():
            page: int | None = first
            # What is before a wanted page is wanted already.
            while page is not None and not self.is_wanted[page]:
                self.is_wanted[page] = True
                page = self._page_before(page)

    def free(self, pages: Pages) -> None:
        """Forget pages whose memory may be reused; whoever still reads it can tell."""
        self._generation[pages] += 1
        known = pages[self.state[pages] != FREE]
        for page, name in zip(known.tolist(), self.names_of(known), strict=True):
            if self._page_of.get(name) == page:
                del self._page_of[name]
        self.state[pages] = FREE
        self.part[pages] = None

    def free_all(self) -> None:
        """Forget every page."""
        self._generation += 1
        self.state[:] = FREE
        self.part[:] = None
        self._page_of.clear()

    def begin_write(self, pages: Pages) -> Generations:
        """Note that pages are on their way to disk; return what `is_current` wants."""
        self.state[pages] = WRITING
        return self._generation[pages]

    def is_current(self, pages: Pages, generations: Generations) -> bool:
        """Return whether none of the pages was freed since. Thread-safe.

        False as soon as `free` was called; so bytes read before this said True are the pages'.
        """
        return bool(np.array_equal(self._generation[pages], generations))

    def end_write(self, pages: Pages, generations: Generations, *, is_stored: bool) -> None:
        """Note what became of a write; pages freed meanwhile are left alone."""
        same = (self._generation[pages] == generations) & (self.state[pages] == WRITING)
        self.state[pages[same]] = CLEAN if is_stored else DIRTY

    def distrust_disk(self) -> None:
        """Note that the disk was emptied: what was clean has to be written again."""
        self.state[self.state == CLEAN] = DIRTY

    def unwritten(self, pages: Pages) -> Pages:
        """Return those of `pages` that the disk may lack."""
        return pages[self.state[pages] >= DIRTY]

    def name_of(self, page: int) -> PageHash:
        """Return the name of a page in use."""
        part: PathPart = self.part[page]
        return part.hashes[int(self.position[page]) - part.depth]

    def names_of(self, pages: Pages) -> list[PageHash]:
        """Return the names of pages in use."""
        parts, positions = self.part[pages].tolist(), self.position[pages].tolist()
        return [p.hashes[at - p.depth] for p, at in zip(parts, positions, strict=True)]

    def _page_before(self, page: int) -> int | None:
        part, position = self.part[page], int(self.position[page])
        if position == 0:
            return None
        while part.depth > position - 1:
            part = part.parent
        return self._page_of.get(part.hashes[position - 1 - part.depth])

    def _known(self, page: int, name: PageHash) -> bool:
        return self.state[page] != FREE and self.name_of(page) == name
