"""Keeps a store within its quota and above the free-space floor, before it grows."""

from pathlib import Path

from sglang_lsm.catalog import Catalog
from sglang_lsm.config import StoreConfig
from sglang_lsm.errors import UnavailableError
from sglang_lsm.fs import FileSystem
from sglang_lsm.observability.counters import Counters
from sglang_lsm.tensorlog.log import TensorLog


class Room:
    """Makes room by letting pages go. Needs the tail lock of the log, or a store being opened."""

    def __init__(
        self, catalog: Catalog, log: TensorLog, fs: FileSystem, directory: Path, config: StoreConfig
    ) -> None:
        self._catalog, self._log, self._fs = catalog, log, fs
        self._directory, self._config = directory, config

    def make(self, num_bytes: int, counters: Counters) -> None:
        """Let pages go until `num_bytes` more fit the quota and the free-space floor.

        Pages worth least go first where the file system gives single pages back, and whole
        segments, oldest first, where it does not or while it is not known yet what a page is worth.
        A segment with pinned pages goes if no other is left.

        Raises:
            UnavailableError: nothing is left to let go, or the index failed.
        """
        while (excess := self._excess_bytes(num_bytes)) > 0:
            self._let_go(excess, counters)

    def shrink(self, counters: Counters) -> None:
        """Let pages go that a larger quota of an earlier process let in.

        Raises:
            UnavailableError: the index failed.
        """
        while (excess := self.num_bytes_over()) > 0 and self._log.sealed_ids():
            self._let_go(excess, counters)

    def num_bytes_over(self) -> int:
        """Return by how much the log exceeds the quota; not above 0 unless it was lowered."""
        return self._log.allocated_bytes() - self._config.quota_bytes

    def is_short_of(self, num_bytes: int) -> bool:
        """Return whether `num_bytes` more would have pages go."""
        return self._excess_bytes(num_bytes) > 0

    def _excess_bytes(self, num_bytes: int) -> int:
        over_quota = self._log.allocated_bytes() + num_bytes - self._config.quota_bytes
        free_bytes = self._fs.free_bytes(self._directory)
        return max(over_quota, self._config.min_free_bytes + num_bytes - free_bytes)

    def _let_go(self, num_bytes: int, counters: Counters) -> None:
        if self._log.can_punch and self._catalog.is_complete:
            before = self._log.allocated_bytes()
            num_pages, _ = self._catalog.evict(num_bytes)
            counters.add(pages_evicted=num_pages)
            if self._log.allocated_bytes() < before:
                return
        # No page is left while segments hold headers, or pages of calls that were withdrawn; or a
        # disk that fails to punch would have all pages go for nothing.
        sealed, pinned = self._log.sealed_ids(), self._catalog.pinned_by_segment()
        if not sealed:
            raise UnavailableError("no room: the disk is at its free-space floor")
        oldest = next((i for i in sealed if i not in pinned), sealed[0])
        counters.add(
            pages_evicted=self._catalog.forget_segment(oldest), pinned_evicted=pinned[oldest]
        )
