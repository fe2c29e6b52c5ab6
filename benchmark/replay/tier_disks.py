"""What is below the host tier in a replay: the shipped store, or a disk that never is full."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.pages import NamespaceId, PageBuffer, PageHash, PagePath
from sglang_lsm.store import Store

NAMESPACE = NamespaceId(b"replayed")
PAGE_BYTES = 16 << 10
"""Small, as only their number counts; a batch's header of 4 KiB stays a small part."""


class Disk(Protocol):
    """Pages below the host tier."""

    def leading(self, names: Sequence[PageHash], start: int) -> int:
        """Return how many of `names[start:]` are stored before the first that is not."""

    def touch(self, names: Sequence[PageHash]) -> None:
        """Note that a request used this path, in whatever tier."""

    def put_batch(
        self,
        path: PagePath,
        pages: Sequence[PageBuffer],
        *,
        still_valid: Callable[[], bool] | None = None,
    ) -> bool:
        """See `Store.put_batch`."""

    @property
    def num_written(self) -> int:
        """Pages written; those that were stored already are not."""


class EndlessDisk:
    """A disk that never is full."""

    def __init__(self) -> None:
        self._stored: set[PageHash] = set()
        self.num_written = 0

    def leading(self, names: Sequence[PageHash], start: int) -> int:
        """See `Disk`."""
        run = 0
        for name in names[start:]:
            if name not in self._stored:
                break
            run += 1
        return run

    def touch(self, names: Sequence[PageHash]) -> None:
        """See `Disk`."""

    def put_batch(
        self,
        path: PagePath,
        pages: Sequence[PageBuffer],
        *,
        still_valid: Callable[[], bool] | None = None,
    ) -> bool:
        """See `Disk`."""
        if still_valid is not None and not still_valid():
            return False
        before = len(self._stored)
        self._stored.update(path.hashes[path.start :])
        self.num_written += len(self._stored) - before
        return True


class StoreDisk:
    """The shipped store in a directory, with pages of PAGE_BYTES and room for so many of them."""

    def __init__(self, directory: Path, num_pages: int) -> None:
        # An open segment counts as full, so the last one is room on top.
        quota_bytes = num_pages * PAGE_BYTES + MIB
        log = LogConfig(segment_bytes=MIB, merge_bytes_per_s=0, io_mode="buffered")
        self._store = Store.open(directory, StoreConfig(quota_bytes=quota_bytes, log=log))

    @property
    def num_written(self) -> int:
        """See `Disk`."""
        return self._store.stats().pages_put

    def leading(self, names: Sequence[PageHash], start: int) -> int:
        """See `Disk`."""
        return self._store.probe(PagePath(NAMESPACE, names, start)) if start < len(names) else 0

    def touch(self, names: Sequence[PageHash]) -> None:
        """See `Disk`."""
        self._store.touch(PagePath(NAMESPACE, names))

    def put_batch(
        self,
        path: PagePath,
        pages: Sequence[PageBuffer],
        *,
        still_valid: Callable[[], bool] | None = None,
    ) -> bool:
        """See `Disk`."""
        return self._store.put_batch(path, pages, still_valid=still_valid)

    def close(self) -> None:
        """Close the store."""
        self._store.close()
