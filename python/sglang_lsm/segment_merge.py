"""Whole segments given back where the file system cannot give single pages back.

There, evicting a page frees nothing until its segment is gone. So ahead of the need, in the
background: pages worth least are evicted, and of the segments that have few live pages left these
are copied to the end of the log, next to each other by path, and the segments unlinked. Room for
two segments is kept: one that puts fill, one that is copied to. A put that comes before it is made
still drops the oldest segment, so the quota holds whatever this does.

What is copied is at most as much as what is freed: a segment is merged when half of it is dead.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sglang_lsm.catalog import Catalog
from sglang_lsm.config import StoreConfig
from sglang_lsm.copying import Copier
from sglang_lsm.tensorlog.log import TensorLog

MAX_LIVE_SHARE = 0.5
"""Of a segment that is merged. More keeps more pages for the room, and copies more for it."""
_RESERVE_SEGMENTS = 2
_LOTS_PER_SEGMENT = 4


class Merged(NamedTuple):
    """What a run did."""

    num_bytes: int
    """Copied."""
    num_evicted: int
    """Pages."""


def choose_segment(live_bytes: Mapping[int, int], segment_bytes: int) -> int | None:
    """Return the segment with the fewest live bytes, or None if all have too many. Pure."""
    emptiest = min(live_bytes, key=lambda i: (live_bytes[i], i), default=None)
    if emptiest is None or live_bytes[emptiest] > MAX_LIVE_SHARE * segment_bytes:
        return None
    return emptiest


class SegmentMerger:
    """Keeps room for new segments without holes. One caller at a time."""

    def __init__(self, catalog: Catalog, log: TensorLog, copier: Copier) -> None:
        """Begin with nothing to do."""
        self._catalog, self._log, self._copier = catalog, log, copier

    def run(self, max_bytes: int, config: StoreConfig) -> Merged:
        """Make room until there is enough, or `max_bytes` have been copied.

        Does nothing where the file system punches holes, nor before the page table is complete.
        The segment that exceeds the limit is finished.

        Raises:
            UnavailableError, CorruptionError: the index or the log failed; nothing is lost.
        """
        num_bytes = num_evicted = 0
        segment_bytes = config.log.segment_bytes
        tried: set[int] = set()
        while num_bytes < max_bytes and self._is_short(config):
            sealed = set(self._log.sealed_ids()) - tried
            live = self._catalog.live_bytes()
            target = choose_segment({i: live.get(i, 0) for i in sealed}, segment_bytes)
            if target is None:
                num_pages, _ = self._catalog.evict(segment_bytes // _LOTS_PER_SEGMENT)
                if not num_pages:
                    break
                num_evicted += num_pages
                continue
            # One that a put under way still writes to stays for now.
            tried.add(target)
            # What is copied anyway costs no write to encode.
            num_bytes += self._copier.copy(
                self._catalog.pages_of_segment(target), encodes=config.log.codec != "off"
            )
        return Merged(num_bytes, num_evicted)

    def _is_short(self, config: StoreConfig) -> bool:
        if self._log.can_punch or not self._catalog.is_complete:
            return False
        reserve_bytes = _RESERVE_SEGMENTS * config.log.segment_bytes
        return self._log.allocated_bytes() + reserve_bytes > config.quota_bytes
