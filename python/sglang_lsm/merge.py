"""Merging: the scattered pages of a prefix that is read often become one run again.

Requests that are written in turns interleave their pages, and a read of one of them then takes
many small calls. A read that took too many remembers its path here; now and then such a path is
copied to the end of the log, and its old places are given back. Pages are verified when they are
read for it: a damaged page is never copied.
"""

import logging
import threading
from collections.abc import Sequence

from sglang_lsm import format, keycodec
from sglang_lsm.config import LogConfig
from sglang_lsm.copying import Copier
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.pages import Location, NamespaceId, PageHash, PagePath
from sglang_lsm.tensorlog.transfer import plan_transfers

logger = logging.getLogger(__name__)

MAX_WAITING = 64
"""Paths remembered; while they wait, others are not noticed."""


def is_due(num_runs: int, num_calls: int, config: LogConfig) -> bool:
    """Return whether a prefix is to be copied together. Pure.

    Args:
        num_runs: runs of neighbours that it lies in.
        num_calls: calls that its bytes would take if it lay in one.
    """
    if config.merge_policy == "leveled":
        # One more than calls: the end of a segment may cut it, and would again.
        return num_runs > num_calls + 1
    return config.merge_policy == "tiered" and _is_scattered(num_runs, num_calls, config)


def _is_scattered(num_runs: int, num_calls: int, config: LogConfig) -> bool:
    return num_runs > max(config.merge_max_runs, config.merge_max_runs * num_calls / 2)


class Merger:
    """Remembers scattered paths and restores their adjacency. Thread-safe."""

    def __init__(self, index: PageIndex, copier: Copier) -> None:
        """Begin with nothing to do."""
        self._index, self._copier = index, copier
        self._lock = threading.Lock()
        self._waiting: dict[tuple[NamespaceId, int, PageHash], PagePath] = {}
        """By what says which pages a call is about, oldest first: a prefix waits once."""

    def notice(
        self, path: PagePath, locations: Sequence[Location], config: LogConfig
    ) -> dict[str, float]:
        """Remember a path that was read, if it is to be merged. Cheap; touches no disk.

        Args:
            config: what holds now.

        Returns:
            What to add to the counters of `StoreStats`.
        """
        num_extents, num_calls = _runs_and_calls(locations, config)
        if config.merge_bytes_per_s and is_due(num_extents, num_calls, config):
            with self._lock:
                if len(self._waiting) < MAX_WAITING:
                    self._waiting.setdefault((path.namespace, path.start, path.hashes[-1]), path)
        if not _is_scattered(num_extents, num_calls, config):
            return {"extents_got": num_extents}
        return {
            "extents_got": num_extents,
            "extents_scattered": num_extents,
            "bytes_scattered": sum(at.length for at in locations),
        }

    def run(self, max_bytes: int, config: LogConfig) -> int:
        """Merge paths that wait until `max_bytes` have been copied; return how many bytes were.

        The path that exceeds the limit is finished, so that a long one is not copied in vain. One
        that is not scattered any more by what `config` says is left alone.

        Raises:
            UnavailableError, CorruptionError: the index or the log failed; nothing is lost.
        """
        num_bytes = 0
        while num_bytes < max_bytes:
            with self._lock:
                if not self._waiting:
                    break
                path = self._waiting.pop(next(iter(self._waiting)))
            pages = self._stored(path)
            # Since it was noticed, it may have been copied with a path that shares its pages.
            if is_due(*_runs_and_calls([at for _, at in pages], config), config):
                num_bytes += self._copier.copy(pages)
        return num_bytes

    def merge(self, path: PagePath) -> int:
        """Copy the stored pages of a call to the end of the log; return how many bytes.

        Raises:
            UnavailableError, CorruptionError: the index or the log failed; nothing is lost.
        """
        return self._copier.copy(self._stored(path))

    def _stored(self, path: PagePath) -> list[tuple[bytes, Location]]:
        """Return key and place of the leading pages of a call that are stored."""
        places = map(format.decode_index_value, self._index.walk_path(path))
        return list(zip(keycodec.encode(path), places, strict=False))


def _runs_and_calls(locations: Sequence[Location], config: LogConfig) -> tuple[int, int]:
    """Return in how many runs pages lie, and how many calls they would take in one."""
    num_bytes = sum(at.length for at in locations)
    return len(plan_transfers(locations, io_bytes=1 << 62)), -(-num_bytes // config.io_bytes)
