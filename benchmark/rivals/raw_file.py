"""One preallocated file at known offsets: the physical limit of the file system and the disk.

No index on disk, no header, no checksum, nothing to recover from. Nothing can be faster by more
than what the harness itself costs, so it is the bar for everything else.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sglang_lsm.pages import PageBuffer, PagePath

from benchmark.rivals.disk import allocated_bytes, drop_cached_pages
from benchmark.rivals.interface import Space

_IOV_MAX = 1024


class RawFile:
    """Pages one after the other in put order; offsets in a dict.

    Args:
        direct: O_DIRECT instead of the page cache.
        threads: parallel calls of one batch; 1 makes the calls on the caller's thread.
        call_bytes: most bytes of one system call when there are several threads.
    """

    def __init__(
        self, space: Space, *, direct: bool, threads: int = 1, call_bytes: int = 4 << 20
    ) -> None:
        self._space = space
        self._path = space.directory / "pages"
        flags = os.O_RDWR | os.O_CREAT | (os.O_DIRECT if direct else 0)
        self._fd = os.open(self._path, flags, 0o644)
        os.posix_fallocate(self._fd, 0, space.payload_bytes)
        self._slots: dict[bytes, int] = {}
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        per_call = _IOV_MAX if threads == 1 else max(1, call_bytes // space.page_bytes)
        self._pages_per_call = min(per_call, _IOV_MAX)

    def put(self, path: PagePath, pages: Sequence[PageBuffer]) -> None:
        """Append the pages."""
        first = len(self._slots)
        for slot, page_hash in enumerate(path.hashes[path.start :], first):
            self._slots[page_hash] = slot
        self._each_call(os.pwritev, first, pages)

    def sync(self) -> None:
        """Sync the file; its size and blocks were settled when it was allocated."""
        os.fdatasync(self._fd)  # noqa: TID251 the limit must not lean on the code it bounds

    def get(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Read each run of neighbouring slots with as few calls as it takes."""
        wanted = path.hashes[path.start :]
        slots = []
        for page_hash in wanted:
            slot = self._slots.get(page_hash)
            if slot is None:
                break
            slots.append(slot)
        at = 0
        while at < len(slots):
            end = at + 1
            while end < len(slots) and slots[end] == slots[end - 1] + 1:
                end += 1
            self._each_call(os.preadv, slots[at], out[at:end])
            at = end
        return len(slots)

    def drop_page_cache(self) -> None:
        """Forget the file's cached pages."""
        drop_cached_pages(self._space.directory)

    def disk_bytes(self) -> int:
        """Blocks of the file, preallocation included."""
        return allocated_bytes(self._space.directory)

    def close(self) -> None:
        """Close the file and end the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        os.close(self._fd)

    def _each_call(self, call, first_slot: int, pages: Sequence[PageBuffer]) -> None:
        """Run `call` over consecutive slots, in parallel where there is a pool."""

        def run(at: int) -> None:
            buffers = [page[0] for page in pages[at : at + self._pages_per_call]]
            offset = (first_slot + at) * self._space.page_bytes
            done = call(self._fd, buffers, offset)
            if done != len(buffers) * self._space.page_bytes:
                raise OSError(f"short transfer. bytes={done} offset={offset}")

        starts = range(0, len(pages), self._pages_per_call)
        if self._pool is None or len(starts) == 1:
            for at in starts:
                run(at)
        else:
            list(self._pool.map(run, starts))
