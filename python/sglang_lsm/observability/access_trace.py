"""A sample of the pages that a store reads and writes, for whoever wants to learn from it.

The same sixteenth of all pages is noted each time (spatial sampling), so that what happened to a
page between two of its uses can be estimated from the sample alone.
Source: Waldspurger et al., Efficient MRC construction with SHARDS, FAST 2015.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from sglang_lsm.pages import PageHash

SHARE = 16
"""One page in so many is noted."""
_LIMIT = 256 // SHARE
_MAX_WRITTEN = 1 << 14


class Access(NamedTuple):
    """One call."""

    is_write: bool
    num_pages: int
    page_bytes: int
    sampled: list[PageHash]


class AccessTrace:
    """Calls not yet looked at, the newest `max_calls` of them. Thread-safe, without a lock."""

    def __init__(self, max_calls: int = 1 << 14) -> None:
        self._calls: deque[Access] = deque(maxlen=max_calls)
        self._written: set[PageHash] = set()

    def note(self, hashes: Sequence[PageHash], page_bytes: int, *, is_write: bool) -> int:
        """Note a call about these pages. Cheap, for the thread that serves.

        Returns:
            An estimate of the bytes that were written before, among the last quarter of a million
            pages or fewer; 0 of a read.
        """
        sampled = [page_hash for page_hash in hashes if page_hash[31] < _LIMIT]
        self._calls.append(Access(is_write, len(hashes), page_bytes, sampled))
        if not is_write or not sampled:
            return 0
        num_again = sum(page_hash in self._written for page_hash in sampled)
        if len(self._written) >= _MAX_WRITTEN:
            self._written = set()
        self._written.update(sampled)
        return num_again * SHARE * page_bytes

    def drain(self) -> list[Access]:
        """Take the calls noted since the last time, oldest first. For one thread."""
        calls = []
        while self._calls:
            calls.append(self._calls.popleft())
        return calls
