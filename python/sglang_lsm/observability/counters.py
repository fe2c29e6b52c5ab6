"""Counters of one store: counted where it happens, read all at once."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType


@dataclass(slots=True)
class StoreStats:
    """Totals since the store was opened, and what it holds now."""

    pages_probed: int = 0
    pages_hit: int = 0
    """Leading pages that probes found."""
    pages_put: int = 0
    """Pages written; those stored already are not counted."""
    bytes_put: int = 0
    pages_skipped: int = 0
    """Pages put that were stored already."""
    pages_got: int = 0
    bytes_got: int = 0
    """As they lie on the disk."""
    pages_decoded: int = 0
    """Of pages got, those that lay encoded."""
    pages_damaged: int = 0
    """Pages whose checksum did not match; each became a miss."""
    pages_evicted: int = 0
    pinned_evicted: int = 0
    """Of them, pinned ones: nothing else was left to keep the quota or the free-space floor."""
    pages_expired: int = 0
    """Forgotten because the time of a prefix was over."""
    bytes_merged: int = 0
    """Copied to restore the adjacency of scattered prefixes."""
    pages_encoded: int = 0
    bytes_saved: int = 0
    """Of the disk, when they were encoded."""
    bytes_to_encode: int = 0
    """Of the pages that were tried, those that did not shrink included."""
    encode_s: float = 0.0
    encode_cpu_s: float = 0.0
    """On the thread that encodes; of segments that are merged anyway, encoding alone."""
    puts_failed: int = 0
    """Calls of put_batch that raised."""
    puts: int = 0
    """Calls that had pages to write."""
    gets: int = 0
    """Calls that returned pages."""
    bytes_offered_again: int = 0
    """Of pages to write, those offered before: evicted since, or refused."""
    pages_refused: int = 0
    bytes_refused: int = 0
    """Not written because they were offered for the first time."""
    extents_got: int = 0
    """Runs of neighbours on disk that gets were made of."""
    bytes_scattered: int = 0
    """Of gets that were made of too many runs, see `merge`."""
    extents_scattered: int = 0
    probe_s: float = 0.0
    """Time of probes. The seconds up to `check_cpu_s` are those of `Spending`."""
    read_s: float = 0.0
    """Time of gets, waiting for others included."""
    write_s: float = 0.0
    """Time of puts."""
    read_own_s: float = 0.0
    """CPU of gets beside moving bytes, on the threads that called."""
    write_own_s: float = 0.0
    ask_s: float = 0.0
    """Of it, finding out what is to be written."""
    read_transfer_cpu_s: float = 0.0
    """CPU of moving bytes, on all threads."""
    write_transfer_cpu_s: float = 0.0
    check_cpu_s: float = 0.0
    """CPU of the reader threads beside moving bytes."""
    merge_s: float = 0.0
    num_pages: int = 0
    num_segments: int = 0
    allocated_bytes: int = 0
    quota_bytes: int = 0


class Counters:
    """Adds to a `StoreStats`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = StoreStats()

    def add(self, **amounts: float) -> None:
        """Add to the counters named."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self._totals, name, getattr(self._totals, name) + amount)

    def snapshot(self, more: Mapping[str, float] = MappingProxyType({})) -> StoreStats:
        """Return a copy, consistent in itself; `more` is counted elsewhere."""
        with self._lock:
            values = {f.name: getattr(self._totals, f.name) for f in fields(StoreStats)}
        return StoreStats(**{**values, **more})
