"""The one interface behind which every way of keeping pages on disk is measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from sglang_lsm.pages import PageBuffer, PagePath


class RivalUnavailableError(Exception):
    """The rival cannot run here; the message says why, and the report prints it as a row."""


@dataclass(frozen=True, slots=True)
class Space:
    """Where a rival stores, and the most it will be asked to hold."""

    directory: Path
    """Empty, on the file system to be measured."""
    page_bytes: int
    """All pages of a run have this size; a multiple of 4096."""
    num_pages: int

    @property
    def payload_bytes(self) -> int:
        """Bytes of all pages together."""
        return self.page_bytes * self.num_pages


class Rival(Protocol):
    """Pages under radix paths. Owned by one thread; reads end in the caller's memory.

    Each page is one piece of `page_bytes`, aligned to 4096, so that no rival pays for a bounce
    buffer that its own server would not need.
    """

    def put(self, path: PagePath, pages: Sequence[PageBuffer]) -> None:
        """Store the pages `path` is about; readable on return, durable after `sync`."""

    def sync(self) -> None:
        """Make every page put so far survive a power cut."""

    def get(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Fill the leading stored pages into `out`; return their number."""

    def drop_page_cache(self) -> None:
        """Let the next read of page data come from the disk: no page cache, no cache of our own.

        Directory entries, open files and small metadata may stay in memory, as they would in a
        server that runs.
        """

    def disk_bytes(self) -> int:
        """Bytes of disk held, metadata included, holes not counted."""

    def close(self) -> None:
        """Give files and memory back."""


@runtime_checkable
class MergingRival(Protocol):
    """A rival that can restore the adjacency of pages which were written in turns."""

    def merge(self, path: PagePath) -> None:
        """Bring the pages of a path together on disk."""


class EvictingRival(Rival, Protocol):
    """A rival that can give the disk space of some pages back."""

    def delete(self, path: PagePath) -> None:
        """Forget the pages `path` is about; their space may be given back later."""

    def reclaim(self) -> None:
        """Give the space of deleted pages back to the file system, as far as the rival can."""
