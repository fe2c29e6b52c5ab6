"""Merging: the scattered pages of a prefix that is read often become one run again.

Requests that are written in turns interleave their pages, and a read of one of them then takes
many small calls. A read that took too many remembers its path here; now and then such a path is
copied to the end of the log, and its old places are given back. Pages are verified when they are
read for it: a damaged page is never copied.
"""

import logging
import mmap
import threading
from collections import deque
from collections.abc import Sequence

from sglang_lsm import format, keycodec
from sglang_lsm.catalog import Catalog
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.pages import Location, PageBuffer, PagePath
from sglang_lsm.tensorlog.log import TensorLog
from sglang_lsm.tensorlog.transfer import plan_transfers

logger = logging.getLogger(__name__)

MAX_WAITING = 64
"""Paths remembered; while they wait, others are not noticed."""
_MIN_EXTENTS = 4
_MAX_EXTENTS_PER_CALL = 2
"""A read is scattered with more than so many extents for each call that its bytes would take."""


class Merger:
    """Remembers scattered paths and restores their adjacency. Thread-safe."""

    def __init__(
        self, index: PageIndex, log: TensorLog, catalog: Catalog, *, io_bytes: int
    ) -> None:
        """Begin with nothing to do. `io_bytes` are those of one call of the log."""
        self._index, self._log, self._catalog = index, log, catalog
        self._io_bytes = io_bytes
        self._lock = threading.Lock()
        self._waiting: deque[PagePath] = deque()

    def notice(
        self, path: PagePath, locations: Sequence[Location], *, remember: bool = True
    ) -> dict[str, float]:
        """Remember a path that was read, if its pages lie scattered. Cheap; touches no disk.

        Returns:
            What to add to the counters of `StoreStats`.
        """
        num_extents = len(plan_transfers(locations, io_bytes=1 << 62))
        num_bytes = sum(at.length for at in locations)
        num_calls = -(-num_bytes // self._io_bytes)
        if num_extents <= max(_MIN_EXTENTS, _MAX_EXTENTS_PER_CALL * num_calls):
            return {"extents_got": num_extents}
        if remember:
            with self._lock:
                if len(self._waiting) < MAX_WAITING:
                    self._waiting.append(path)
        return {
            "extents_got": num_extents,
            "extents_scattered": num_extents,
            "bytes_scattered": num_bytes,
        }

    def run(self, max_bytes: int) -> int:
        """Merge paths that wait until `max_bytes` have been copied; return how many bytes were.

        The path that exceeds the limit is finished, so that a long one is not copied in vain.

        Raises:
            UnavailableError, CorruptionError: the index or the log failed; nothing is lost.
        """
        num_bytes = 0
        while num_bytes < max_bytes:
            with self._lock:
                if not self._waiting:
                    break
                path = self._waiting.popleft()
            num_bytes += self.merge(path)
        return num_bytes

    def merge(self, path: PagePath) -> int:
        """Copy the stored pages of a call to the end of the log; return how many bytes.

        Raises:
            UnavailableError, CorruptionError: the index or the log failed; nothing is lost.
        """
        keys = list(keycodec.encode(path))
        old = [format.decode_index_value(value) for value in self._index.walk(keys)]
        keys = keys[: len(old)]
        pages = _bounce_pages(old)
        intact = self._log.read(keys, old, pages).intact
        kept = [i for i, ok in enumerate(intact) if ok]
        if not kept:
            return 0
        keys, old = [keys[i] for i in kept], [old[i] for i in kept]
        with self._catalog.storing():
            new = self._log.append(keys, [at.hash_tail for at in old], [pages[i] for i in kept])
            assert new is not None, "only a caller that can withdraw gets None"
            # The old places may be durable already, and are given back.
            self._log.sync()
            self._catalog.relocate(keys, old, new)
        num_bytes = sum(at.length for at in old)
        logger.debug("merged a prefix. pages=%d bytes=%d", len(old), num_bytes)
        return num_bytes


def _bounce_pages(locations: Sequence[Location]) -> list[PageBuffer]:
    """Return memory for pages, each on a block of its own, as O_DIRECT wants it."""
    total = sum(format.padded(at.length) for at in locations)
    memory = memoryview(mmap.mmap(-1, max(total, 1)))
    pages: list[PageBuffer] = []
    start = 0
    for at in locations:
        pages.append([memory[start : start + at.length]])
        start += format.padded(at.length)
    return pages
