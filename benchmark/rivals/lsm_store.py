"""This engine, through its public interface."""

from collections.abc import Sequence
from dataclasses import replace

from sglang_lsm.config import LogConfig, StoreConfig
from sglang_lsm.pages import PageBuffer, PagePath
from sglang_lsm.store import Store

from benchmark.pagedata import benchmark_fingerprint
from benchmark.rivals.disk import allocated_bytes, drop_cached_pages
from benchmark.rivals.interface import Space


class LsmStore:
    """`Store` with the settings of the log given, and its defaults for the rest.

    The quota leaves room for twice the payload, so that nothing is evicted behind the benchmark.
    """

    def __init__(self, space: Space, log: LogConfig) -> None:
        # Merging is asked for where it is measured; it would come between reads otherwise.
        log = replace(log, merge_bytes_per_s=0)
        quota_bytes = 2 * space.payload_bytes + 4 * log.segment_bytes
        self._space = space
        self._store = Store.open(
            space.directory / "store", StoreConfig(quota_bytes=quota_bytes, log=log)
        )
        self._store.register(benchmark_fingerprint())

    def put(self, path: PagePath, pages: Sequence[PageBuffer]) -> None:
        """Store the pages."""
        self._store.put_batch(path, pages)

    def sync(self) -> None:
        """Sync log and index."""
        self._store.sync()

    def get(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Load and verify the pages."""
        return self._store.get_batch(path, out)

    def drop_page_cache(self) -> None:
        """Forget cached pages of segments and index files; the index's block cache stays."""
        drop_cached_pages(self._space.directory)

    def disk_bytes(self) -> int:
        """Blocks of all files, preallocation included."""
        return allocated_bytes(self._space.directory)

    def delete(self, path: PagePath) -> None:
        """Delete the subtree at the first of the pages: the benchmark's paths do not fork."""
        self._store.delete_subtree(replace(path, hashes=path.hashes[: path.start + 1]))

    def reclaim(self) -> None:
        """Nothing to call: the store gives space back by itself."""

    def merge(self, path: PagePath) -> None:
        """Copy the scattered pages of a path next to each other."""
        self._store.merge(path)

    def close(self) -> None:
        """Close the store."""
        self._store.close()
