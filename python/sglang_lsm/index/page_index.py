"""The seam between the store and its index: ordered keys to small values."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Protocol

from sglang_lsm.config import IndexConfig
from sglang_lsm.pages import PagePath

Scan = Generator[tuple[bytes, bytes], None, None]
"""Keys and values. Closing it ends the scan that they come from."""


class PageIndex(Protocol):
    """An ordered map from page keys to index values, crash-consistent. Thread-safe.

    Every method raises `UnavailableError` when the index cannot answer, and `CorruptionError` when
    it finds itself damaged.
    """

    def walk(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return the values of the leading run of `keys` that is stored; take no more keys."""

    def walk_path(self, path: PagePath) -> list[bytes]:
        """Return the values of the leading pages of a call whose hash tail is the page's own."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key."""

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Store all entries or none."""

    def delete(self, keys: Sequence[bytes]) -> None:
        """Delete all keys or none; absent ones are fine."""

    def scan(self, start: bytes, end: bytes | None) -> Scan:
        """Yield the entries in `[start, end)` in key order, as of one moment.

        Whoever does not take them all closes it before the next write: an index that failed is
        opened anew by a write, and waits for scans to end.
        """

    def approximate_len(self) -> int:
        """Return about how many entries there are."""

    def get_meta(self, key: bytes) -> bytes | None:
        """Return a value of the meta family, which holds facts about the store, not pages."""

    def put_meta(self, key: bytes, value: bytes) -> None:
        """Store one fact."""

    def scan_meta(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the facts whose key starts with `prefix`."""

    def tune(self, config: IndexConfig) -> None:
        """Apply the settings that can change while the index is open."""

    def sync(self) -> None:
        """Make everything written so far durable."""

    def close(self) -> None:
        """Flush and close; no other call may follow or be under way."""
