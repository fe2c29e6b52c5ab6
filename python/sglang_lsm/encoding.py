"""Encoding in idle time: pages that wait on the disk are made smaller, so that more fit.

Only where room is scarce: while a quarter of the quota is free, nothing is about to be evicted.
Only where the file system gives single blocks back; elsewhere, segments that are merged are encoded
(`segment_merge`). Which pages: see `eviction.encodable`. A page is encoded once.
"""

import time
from collections import deque

from sglang_lsm.catalog import Catalog
from sglang_lsm.config import StoreConfig
from sglang_lsm.copying import Copier, Shrinkage
from sglang_lsm.pages import Location
from sglang_lsm.room import Room
from sglang_lsm.tensorlog.log import TensorLog

SCARCE_SHARE = 0.25
"""Of the quota; with less than this free, pages are encoded."""
_CHOSEN_AT_ONCE = 64
"""Steps that one look at the page table is for: it passes over all rows, 13 ms at 10^6."""
_REST = 20
"""Times of what a look took, the least until the next one."""


class PageEncoder:
    """Encodes what is worth it, a step at a time. One caller at a time."""

    def __init__(self, catalog: Catalog, log: TensorLog, copier: Copier, room: Room) -> None:
        """Begin with nothing chosen."""
        self._catalog, self._log, self._copier, self._room = catalog, log, copier, room
        self._chosen: deque[tuple[bytes, Location]] = deque()
        self._next_look_s = 0.0

    def run(self, max_bytes: int, config: StoreConfig) -> int:
        """Encode about `max_bytes` of pages, if it is time to; return how many were read.

        Raises:
            UnavailableError, CorruptionError: the index or the log failed; nothing is lost.
        """
        if config.log.codec == "off" or not self._log.can_punch:
            return 0
        if not self._room.is_short_of(int(SCARCE_SHARE * config.quota_bytes)):
            return 0
        if not self._chosen and time.perf_counter() < self._next_look_s:
            return 0
        return self.encode(max_bytes)

    def encode(self, max_bytes: int) -> int:
        """Encode about `max_bytes` of pages, a page at least. As `run`, whether it is time or not.

        What was chosen and is gone since, or was stored anew, is left alone.
        """
        if not self._chosen:
            started_s = time.perf_counter()
            self._chosen.extend(self._catalog.encodable(_CHOSEN_AT_ONCE * max_bytes))
            ended_s = time.perf_counter()
            self._next_look_s = ended_s + _REST * (ended_s - started_s)
        step, num_bytes = list[tuple[bytes, Location]](), 0
        while self._chosen and num_bytes < max_bytes:
            step.append(self._chosen.popleft())
            num_bytes += step[-1][1].length
        return self._copier.encode(step)

    def try_encoding(self, max_bytes: int) -> Shrinkage:
        """Find out what encoding would do to about `max_bytes` of what it would take first.

        Raises:
            UnavailableError, CorruptionError: the index or the log failed; nothing is lost.
        """
        return self._copier.try_encoding(self._catalog.encodable(max_bytes))
