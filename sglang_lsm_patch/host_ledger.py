"""What is known about each page of the host tier: is it on disk too, how warm is it, what is its
name. Pure bookkeeping: no SGLang, no store, no clock.

Nodes of the radix tree are split and dropped, pages are not; so everything here goes by the number
of a page in the host pool.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sglang_lsm.pages import PageHash

from sglang_lsm_patch.admission import kind_of

Pages: TypeAlias = npt.NDArray[np.int64]
"""Numbers of host pages: first token slot / page size."""

Generations: TypeAlias = npt.NDArray[np.uint32]

FREE, CLEAN, DIRTY, WRITING = range(4)
"""States of a page: not in the tree; on disk too; in memory only; on its way to disk."""

SECONDS_A_PAGE = 1e-6
"""Among pages touched together, the deeper is the colder, as the tree gives up leaves first."""


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
    may be called on another. Cost: 47 bytes a page, and about 200 for the name of a page in use.

    Loops where arrays would be shorter: a call is about a few pages, and the scheduler comes from
    other work, so that each operation of an array finds its code gone from the processor's cache
    and takes as long as a hundred steps of a loop.
    """

    def __init__(self, num_pages: int) -> None:
        """All of `num_pages` are free."""
        self.state: npt.NDArray[np.uint8] = np.zeros(num_pages, np.uint8)
        self.warmth: npt.NDArray[np.float64] = np.full(num_pages, np.inf)
        """When it was used last, less `SECONDS_A_PAGE` for each page before it; of a page that is
        free, infinity."""
        self.added_s: npt.NDArray[np.float64] = np.zeros(num_pages)
        self._num_hits = array("I", bytes(4 * num_pages))
        self._position = array("i", bytes(4 * num_pages))
        self._has_returned, self._kind = bytearray(num_pages), bytearray(num_pages)
        self._is_wanted = bytearray(num_pages)
        # The same memory, for looking at many pages at once.
        self.position = np.frombuffer(self._position, np.int32)
        """Pages before it on its path."""
        self.kind = np.frombuffer(self._kind, np.uint8)
        """See `admission.kind_of`."""
        self.is_wanted = np.frombuffer(self._is_wanted, np.bool_)
        """It shall be on disk, because it or what extends it is worth that; see `want`."""
        self.part: list[PathPart | None] = [None] * num_pages
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
        return self.part[page]

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
        new, places = pages, list(range(len(pages)))
        if self.state[pages].any():
            known = list(map(self._known, pages.tolist(), part.hashes))
            places = [i for i in places if not known[i]]
            new = pages[places]
            self.free(new[self.state[new] != FREE])
        for page, i in zip(new.tolist(), places, strict=True):
            self.part[page], self._position[page] = part, part.depth + i
            self._num_hits[page] = self._has_returned[page] = 0
            self._kind[page] = self._is_wanted[page] = 0
            self._page_of[part.hashes[i]] = page
        self.warmth[new] = [now_s - SECONDS_A_PAGE * (part.depth + i) for i in places]
        self.added_s[new] = now_s
        self.state[new] = DIRTY if is_dirty else CLEAN
        return new

    def touch(self, page_hash: PageHash, now_s: float) -> list[PageHash]:
        """Count a hit on the page of this name and on all before it; return their names.

        Empty if the page is not here. Cost: one dictionary lookup a page.
        """
        last = self._page_of.get(page_hash)
        part = self.part[last] if last is not None else None
        if last is None or part is None:
            return []
        path = part.path_to(self._position[last] + 1)
        here = self._pages_of(path)
        for page in here:
            self._num_hits[page] += 1
            self._kind[page] = kind_of(self._num_hits[page], self._has_returned[page])
        self.warmth[here] = [now_s - SECONDS_A_PAGE * self._position[page] for page in here]
        return path

    def returned(self, page: int) -> None:
        """Note that a page that was just added had left before."""
        self._has_returned[page] = True
        self._kind[page] = kind_of(self._num_hits[page], True)

    def want(self, pages: Pages) -> None:
        """Note that pages shall be on disk, and so all before them, without which they are no hits.

        Cost: one dictionary lookup for each page of the parts with pages that were not wanted yet.
        """
        for page in pages.tolist():
            if not self._is_wanted[page]:
                self._is_wanted[page] = True
                self._want_path(self.part[page], self._position[page])

    def free(self, pages: Pages) -> None:
        """Forget pages whose memory may be reused; whoever still reads it can tell."""
        self._generation[pages] += 1
        for page in pages.tolist():
            if (part := self.part[page]) is not None:
                name = part.hashes[self._position[page] - part.depth]
                self.part[page] = None
                if self._page_of.get(name) == page:
                    del self._page_of[name]
        self.state[pages], self.warmth[pages] = FREE, np.inf

    def free_all(self) -> None:
        """Forget every page."""
        self._generation += 1
        self.state[:], self.warmth[:] = FREE, np.inf
        self.part = [None] * self.num_pages
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

    def name_of(self, page: int) -> PageHash | None:
        """Return the name of a page, or None if it is free."""
        part = self.part[page]
        return None if part is None else part.hashes[self._position[page] - part.depth]

    def names_of(self, pages: Pages) -> list[PageHash]:
        """Return the names of those of `pages` that are in use."""
        names = map(self.name_of, pages.tolist())
        return [name for name in names if name is not None]

    def _want_path(self, part: PathPart | None, end: int) -> None:
        """Want the first `end` pages of the path that leads to `part`."""
        while part is not None:
            before = part.hashes[: end - part.depth]
            # What is before a wanted page is wanted already.
            last = self._page_of.get(before[-1]) if before else None
            if last is not None and self._is_wanted[last]:
                return
            for page in self._pages_of(before):
                self._is_wanted[page] = True
            end, part = part.depth, part.parent

    def _pages_of(self, names: Sequence[PageHash]) -> list[int]:
        """Return the pages of those names that are here."""
        return [page for name in names if (page := self._page_of.get(name)) is not None]

    def _known(self, page: int, name: PageHash) -> bool:
        return self.name_of(page) == name
