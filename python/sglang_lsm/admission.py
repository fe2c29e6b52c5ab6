"""Which pages were offered before, in bounded memory: the doorkeeper of `admission = second`.

Two Bloom filters, a young and an old one. When the young one is as full as it may be, it becomes
the old one; what was offered before that is forgotten unless it was offered again.
"""

import threading
from collections.abc import Sequence

import numpy as np

from sglang_lsm.observability.counters import Counters
from sglang_lsm.pages import HASH_BYTES, PageBuffer, PageHash, PagePath
from sglang_lsm.tensorlog.transfer import page_bytes

_BITS_PER_PAGE = 8
"""With two hash functions, about 5 % of new pages are taken for known ones."""


class Doorkeeper:
    """Remembers the last `num_pages` pages offered, and up to as many before. Thread-safe."""

    def __init__(self, num_pages: int = 1 << 19) -> None:
        """Begin with nothing known; takes two bytes a page."""
        self._num_pages = num_pages
        self._lock = threading.Lock()
        self._young, self._old = self._empty(), self._empty()
        self._num_young = 0

    def admit(
        self,
        path: PagePath,
        missing: Sequence[int],
        pages: Sequence[PageBuffer],
        counters: Counters,
    ) -> list[int]:
        """Return those of the missing pages of a call that were offered before; count the others.

        Args:
            path: names the pages.
            missing: indices within the call of pages that are not stored.
            pages: of the whole call.
        """
        known = self.enter([path.hashes[path.start + i] for i in missing])
        again = [i for i, is_known in zip(missing, known, strict=True) if is_known]
        again_bytes = sum(page_bytes(pages[i]) for i in again)
        refused_bytes = sum(page_bytes(pages[i]) for i in missing) - again_bytes
        counters.add(
            bytes_offered_again=again_bytes,
            pages_refused=len(missing) - len(again),
            bytes_refused=refused_bytes,
        )
        return again

    def enter(self, hashes: Sequence[PageHash]) -> list[bool]:
        """Return which pages were offered before, and remember them all. Some us a call."""
        if not hashes:
            return []
        words = np.frombuffer(b"".join(hashes), dtype=np.uint32).reshape(-1, HASH_BYTES // 4)
        # [P, 2]: words of the hash that neither the key of the index nor a sample is made of.
        bits = words[:, 4:6] % np.uint32(self._num_pages * _BITS_PER_PAGE)
        places, masks = bits >> 3, np.uint8(1) << (bits & 7).astype(np.uint8)
        with self._lock:
            is_young = (self._young[places] & masks).astype(bool).all(axis=1)
            is_known = is_young | (self._old[places] & masks).astype(bool).all(axis=1)
            np.bitwise_or.at(self._young, places, masks)
            self._num_young += int(np.count_nonzero(~is_young))
            if self._num_young >= self._num_pages:
                self._old, self._young = self._young, self._empty()
                self._num_young = 0
        known: list[bool] = is_known.tolist()
        return known

    def _empty(self) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
        return np.zeros(self._num_pages, np.uint8)
