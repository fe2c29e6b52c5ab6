"""LMDB: a copy-on-write B-tree in one memory map, the strongest read-optimised index engine."""

from collections.abc import Sequence

from sglang_lsm.pages import PageBuffer, PagePath

from benchmark.rivals.disk import allocated_bytes, drop_cached_pages
from benchmark.rivals.interface import RivalUnavailableError, Space


class LmdbMap:
    """One LMDB entry a page under its page hash; values on overflow pages."""

    def __init__(self, space: Space) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise RivalUnavailableError(f"lmdb does not import: {error}") from error
        self._lmdb = lmdb
        self._space = space
        self._environment = self._open()

    def put(self, path: PagePath, pages: Sequence[PageBuffer]) -> None:
        """Write the pages in one transaction, without a sync."""
        with self._environment.begin(write=True) as transaction:
            for page_hash, page in zip(path.hashes[path.start :], pages, strict=True):
                transaction.put(page_hash, page[0])

    def sync(self) -> None:
        """Sync data and meta pages."""
        self._environment.sync(True)

    def get(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Copy the pages out of the map."""
        with self._environment.begin(buffers=True) as transaction:
            for num_pages, (page_hash, page) in enumerate(
                zip(path.hashes[path.start :], out, strict=True)
            ):
                value = transaction.get(page_hash)
                if value is None:
                    return num_pages
                page[0][:] = value
        return len(out)

    def drop_page_cache(self) -> None:
        """Unmap first: the kernel keeps pages that are mapped."""
        self._environment.close()
        drop_cached_pages(self._space.directory)
        self._environment = self._open()

    def disk_bytes(self) -> int:
        """Blocks of the map's file."""
        return allocated_bytes(self._space.directory)

    def delete(self, path: PagePath) -> None:
        """Delete the pages in one transaction."""
        with self._environment.begin(write=True) as transaction:
            for page_hash in path.hashes[path.start :]:
                transaction.delete(page_hash)

    def reclaim(self) -> None:
        """Do nothing: free pages are reused inside the map and never leave the file."""

    def close(self) -> None:
        """Unmap."""
        self._environment.close()

    def _open(self):
        # Copy-on-write and the tail of every overflow run need room beyond the payload.
        map_bytes = 2 * self._space.payload_bytes + (self._space.num_pages << 13) + (64 << 20)
        return self._lmdb.open(
            str(self._space.directory / "lmdb"),
            map_size=map_bytes,
            sync=False,
            metasync=False,
            readahead=True,
        )
