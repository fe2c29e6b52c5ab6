"""A catalog over a real log, on a fake disk, beside the dict that it has to agree with."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from sglang_lsm import format
from sglang_lsm.catalog import Catalog
from sglang_lsm.config import MIB, LogConfig
from sglang_lsm.eviction.page_paths import index_keys
from sglang_lsm.eviction.places import pack_place
from sglang_lsm.index.page_index import Scan
from sglang_lsm.keycodec import DIGEST_BYTES, GROUP_PAGES, encode, hash_tail
from sglang_lsm.pages import Location, NamespaceId, PageBuffer, PagePath
from sglang_lsm.stored_rows import GHOST
from sglang_lsm.tensorlog.log import TensorLog

from support.fake_fs import FakeDisk
from support.fake_index import FakeIndex, FakeIndexDisk
from support.page_maker import fingerprint, joined
from support.store_model import Tokens, hashes_of

NAMESPACES = (fingerprint("a").namespace, fingerprint("b").namespace)
PAGE_BYTES = 5000
"""Two blocks of the log, the second one padded."""

Page = tuple[NamespaceId, tuple[bytes, ...]]
"""The namespace of a page, and the digests from the root to its end: what its key stands for."""


def path_of(namespace: NamespaceId, tokens: Tokens, start: int = 0) -> PagePath:
    """Return the radix path spelled by `tokens`, with the collisions that they ask for."""
    return PagePath(namespace, _hashes(tokens), start)


@cache
def _hashes(tokens: Tokens) -> tuple[bytes, ...]:
    return tuple(hashes_of(tokens))


def pages_on(path: PagePath) -> list[Page]:
    """Return the pages of a path from the root to its end."""
    digests = tuple(page_hash[:DIGEST_BYTES] for page_hash in path.hashes)
    return [(path.namespace, digests[: i + 1]) for i in range(len(digests))]


def ancestors(page: Page) -> Iterator[Page]:
    """Yield the pages before one, from the root on, and itself."""
    namespace, digests = page
    return ((namespace, digests[:end]) for end in range(1, len(digests) + 1))


@cache
def key_of(page: Page) -> bytes:
    """Return the key of a page in the index."""
    namespace, digests = page
    return next(encode(PagePath(namespace, digests, len(digests) - 1)))


def is_below(page: Page, top: Page) -> bool:
    """Return whether a page is `top` or hangs on it."""
    return page[0] == top[0] and page[1][: len(top[1])] == top[1]


def cuts_before(page: Page, start: int = 0) -> list[Page]:
    """Return the pages at the ends of groups between the page at depth `start` and a page."""
    namespace, digests = page
    first = max(GROUP_PAGES, -(-start // GROUP_PAGES) * GROUP_PAGES)
    return [(namespace, digests[:cut]) for cut in range(first, len(digests), GROUP_PAGES)]


class SnapshotIndex(FakeIndex):
    """An index whose scan of everything may show an earlier moment, as a slow scan does."""

    snapshot: list[tuple[bytes, bytes]] | None = None

    def scan(self, start: bytes, end: bytes | None) -> Scan:
        if not start and self.snapshot is not None:
            yield from self.snapshot
        else:
            yield from super().scan(start, end)


class CatalogBench:
    """A catalog, and what must be stored in it."""

    def __init__(self, *, can_punch: bool = True, segment_bytes: int = MIB) -> None:
        self.disk = FakeDisk(can_punch=can_punch)
        self.index_disk = FakeIndexDisk()
        self.index = SnapshotIndex(self.index_disk)
        self.log = TensorLog(
            self.disk, Path("/log"), LogConfig(segment_bytes=segment_bytes, reader_threads=1),
            admit=lambda segment_id, num_bytes: None, clock_ms=lambda: 0,
        )  # fmt: skip
        self.catalog = Catalog(self.index, self.log)
        self.catalog.load(should_stop=lambda: False)
        self.stored: dict[Page, Location] = {}
        self.dead: set[Location] = set()
        """Places of pages that went: nothing may be left there."""

    def append(self, path: PagePath, indices: Sequence[int]) -> list[Location]:
        """Write pages into the log, as a put does before it records them."""
        keys = list(encode(path))
        locations = self.log.append(
            [keys[i] for i in indices],
            [hash_tail(path.hashes[path.start + i]) for i in indices],
            [_content(keys[i]) for i in indices],
        )
        assert locations is not None
        return locations

    def put(self, path: PagePath, indices: Sequence[int] | None = None) -> list[Location]:
        """Write pages and record them, whether they are stored already or not."""
        indices = range(path.num_pages) if indices is None else indices
        with self.catalog.storing():
            locations = self.append(path, indices)
            num_stored = self.catalog.record(path, [*encode(path)], indices, locations)
            assert num_stored == len(locations)
        pages = pages_on(path)[path.start :]
        self.lose(pages[i] for i in indices)
        self.stored.update(zip((pages[i] for i in indices), locations, strict=True))
        return locations

    def forget(self, pages: Iterable[Page]) -> int:
        """Drop pages as damaged."""
        pages = [page for page in pages if page in self.stored]
        num_gone = self.catalog.forget(
            [key_of(page) for page in pages], [self.stored[page] for page in pages]
        )
        self.lose(pages)
        return num_gone

    def forget_subtree(self, top: Page) -> int:
        """Drop a page and what its group cuts lead to; hold the count to what must go."""
        expected = {
            page for page in self.stored
            if is_below(page, top)
            and (
                self.catalog.is_complete
                or all(cut in self.stored for cut in cuts_before(page, len(top[1])))
            )
        }  # fmt: skip
        num_gone = self.catalog.forget_ranges([key_of(top)])
        assert num_gone == len(expected)
        self.lose(expected)
        return num_gone

    def evict(self, num_bytes: int) -> set[Page]:
        """Let pages go; return which, after holding the answer to the contract."""
        num_pages, freed_bytes = self.catalog.evict(num_bytes)
        left = set(self.index_disk.current.pages)
        gone = {page for page in self.stored if key_of(page) not in left}
        assert num_pages == len(gone)
        assert freed_bytes == sum(format.padded(self.stored[page].length) for page in gone)
        assert freed_bytes >= num_bytes or len(gone) == len(self.stored)
        self.lose(gone)
        inner = {before for page in self.stored for before in ancestors(page)}
        assert not gone & inner, "a page went before what extends it"
        return gone

    def relocate(self, pages: Iterable[Page], *, lost_meanwhile: Iterable[Page] = ()) -> None:
        """Copy pages to the log's end; some are deleted before their copies are known."""
        pages = [page for page in pages if page in self.stored]
        keys, old = [key_of(page) for page in pages], [self.stored[page] for page in pages]
        with self.catalog.storing():
            new = self.log.append(
                keys, [at.hash_tail for at in old], [_content(key) for key in keys]
            )
            assert new is not None
            new = [
                Location(n.segment_id, n.offset, n.length, n.checksum, o.hash_tail)
                for n, o in zip(new, old, strict=True)
            ]
            self.forget(set(lost_meanwhile))
            num_kept = self.catalog.relocate(keys, old, new)
        kept = [page for page in pages if page in self.stored]
        assert num_kept == len(kept)
        moved = dict(zip(pages, new, strict=True))
        self.lose(kept)
        self.stored.update({page: moved[page] for page in kept})
        self.dead.update(at for page, at in moved.items() if page not in self.stored)

    def forget_segment(self, segment_id: int) -> None:
        """Drop a segment with all its pages."""
        gone = {page for page, at in self.stored.items() if at.segment_id == segment_id}
        assert self.catalog.forget_segment(segment_id) == len(gone)
        self.lose(gone)

    def lose(self, pages: Iterable[Page]) -> None:
        """Take pages out of what must be stored; their bytes are dead."""
        for page in list(pages):
            if page in self.stored:
                self.dead.add(self.stored.pop(page))

    def start_anew(self) -> None:
        """Begin with an empty catalog, as a process does that was just started, and do not load it.

        A scan will see this moment.
        """
        self.catalog = Catalog(self.index, self.log)
        self.see_now()

    def see_now(self) -> None:
        """Let the scan see this moment instead."""
        self.index.snapshot = sorted(self.index_disk.current.pages.items())

    def seal(self) -> None:
        """Fill the newest segment up, so that the next page opens another."""
        with self.log._tail_lock:
            if self.log._tail is not None:
                self.log._seal_tail()

    def load(self, kept: bytes | None = None) -> set[Page]:
        """Finish loading, from a kept table or by a scan; return which pages were dropped."""
        num_dropped = self.catalog.load(should_stop=lambda: False, take_kept=lambda: kept)
        left = self.index_disk.current.pages
        dropped = {page for page in self.stored if key_of(page) not in left}
        assert num_dropped == len(dropped)
        self.lose(dropped)
        return dropped

    def check_stored(self) -> None:
        """Hold index and log to what must be stored: every page is found, and its bytes right."""
        expected = {key_of(page): format.encode_index_value(at) for page, at in self.stored.items()}
        assert self.index_disk.current.pages == expected
        keys, locations = list(map(key_of, self.stored)), list(self.stored.values())
        out = [[memoryview(bytearray(PAGE_BYTES))] for _ in keys]
        assert all(self.log.read(keys, locations, out).intact), "a stored page lost its bytes"
        assert [joined(page) for page in out] == [joined(_content(key)) for key in keys]

    def check_table(self) -> None:
        """Hold the page table to what must be stored, row by row."""
        table = self.catalog._rows.table
        rows = table.live_rows()
        assert len(table) == len(rows), "a row was given back twice"
        found = dict(zip(index_keys(table, rows), table.place[rows].tolist(), strict=True))
        assert len(found) == len(rows), "two rows for one page"
        expected = {
            key_of(before): GHOST for page in self.stored for before in ancestors(page)
        } | {
            key_of(page): pack_place(at.segment_id, at.offset, at.length)
            for page, at in self.stored.items()
        }  # fmt: skip
        assert found == expected
        segments, counts = np.unique(
            [at.segment_id for at in self.stored.values()], return_counts=True
        )
        assert self.catalog.live_pages() == dict(
            zip(segments.tolist(), counts.tolist(), strict=True)
        )
        parents, counts = np.unique(table.parent[rows], return_counts=True)
        inner = parents >= 0
        assert (table.num_children(parents[inner]) == counts[inner]).all()

    def check_dead(self) -> None:
        """Hold the log to what must be gone."""
        if self.log.can_punch:
            left = [at for at in self.dead if self.log.has_data(at)]
            assert not left, "bytes that nothing refers to stay on the disk"

    def close(self) -> None:
        """Close the log."""
        self.log.close()


def _content(key: bytes) -> PageBuffer:
    return [memoryview((key * (PAGE_BYTES // len(key) + 1))[:PAGE_BYTES])]
