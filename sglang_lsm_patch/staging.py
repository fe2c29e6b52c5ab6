"""Memory for pages that lose their place in the host tier before they are on disk."""

import mmap
from collections import deque

from sglang_lsm.errors import UnavailableError
from sglang_lsm.pages import PageBuffer

_ALIGNMENT_BYTES = 4096


class StagingRing:
    """A fixed number of page-sized places, allocated and touched once, aligned for O_DIRECT.

    Taken on the scheduler thread, given back on the writer's: thread-safe. Cost of a take: one copy
    of the page.
    """

    def __init__(self, *, page_bytes: int, num_pages: int) -> None:
        """Allocate room for `num_pages`.

        Raises:
            UnavailableError: there is no such memory.
        """
        self._page_bytes = page_bytes
        stride = -(-page_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        # Touched now, because a first touch costs the scheduler as much as the copy itself.
        flags |= getattr(mmap, "MAP_POPULATE", 0)
        try:
            # An empty map is not to be had.
            memory = mmap.mmap(-1, max(1, num_pages * stride), flags=flags)
        except (OSError, OverflowError) as error:
            raise UnavailableError(
                "no memory to put pages aside."
                f" num_pages={num_pages} page_bytes={page_bytes} reason={error}"
            ) from error
        self._memory = memoryview(memory)
        starts = range(0, num_pages * stride, stride)
        self._places = [self._memory[start : start + page_bytes] for start in starts]
        self._free = deque(range(num_pages))

    def take(self, page: PageBuffer) -> tuple[int, memoryview] | None:
        """Copy a page; return its place and where it lies now, or None when the ring is full."""
        if not self._free:
            return None
        index = self._free.popleft()
        place, at = self._places[index], 0
        for piece in page:
            place[at : at + piece.nbytes] = piece
            at += piece.nbytes
        return index, place

    def give_back(self, index: int) -> None:
        """Make a place free again."""
        self._free.append(index)
