"""A hash index in memory over our own tensor log: what an LSM index is up against.

The dict is the fastest index there is, and everything it lacks is not charged to it here: it is
not bounded, not durable, must be rebuilt at open by reading the whole log, and knows no order.
"""

import time
from collections.abc import Sequence

from sglang_lsm import keycodec
from sglang_lsm.config import IoMode, LogConfig
from sglang_lsm.fs import LocalFileSystem
from sglang_lsm.pages import Location, PageBuffer, PagePath
from sglang_lsm.tensorlog.log import TensorLog

from benchmark.rivals.disk import allocated_bytes, drop_cached_pages
from benchmark.rivals.interface import Space


class HashLog:
    """Page hash to location in a dict; pages in a `TensorLog`, checksums on."""

    def __init__(self, space: Space, *, io_mode: IoMode) -> None:
        self._space = space
        self._locations: dict[bytes, Location] = {}
        self._log = TensorLog(
            LocalFileSystem(),
            space.directory / "log",
            LogConfig(io_mode=io_mode),
            admit=lambda segment_id, num_bytes: None,
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )

    def put(self, path: PagePath, pages: Sequence[PageBuffer]) -> None:
        """Append the pages to the log and note where they lie."""
        hashes = path.hashes[path.start :]
        tails = [keycodec.hash_tail(page_hash) for page_hash in hashes]
        locations = self._log.append(hashes, tails, pages)
        self._locations.update(zip(hashes, locations, strict=True))

    def sync(self) -> None:
        """Sync the log; the dict is lost with the process."""
        self._log.sync()

    def get(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Read and verify the leading pages that are known."""
        known: list[Location] = []
        for page_hash in path.hashes[path.start :]:
            location = self._locations.get(page_hash)
            if location is None:
                break
            known.append(location)
        hashes = path.hashes[path.start : path.start + len(known)]
        intact = self._log.read(hashes, known, out[: len(known)]).intact
        return next((i for i, ok in enumerate(intact) if not ok), len(intact))

    def drop_page_cache(self) -> None:
        """Forget the segments' cached pages."""
        drop_cached_pages(self._space.directory)

    def disk_bytes(self) -> int:
        """Blocks of all segments, preallocation included."""
        return allocated_bytes(self._space.directory)

    def close(self) -> None:
        """Close the log."""
        self._log.close()
