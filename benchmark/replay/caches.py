"""Caches of pages that a trace is replayed through, behind one call.

A request first counts its hits, the leading pages that are stored, as a server would load them.
Then all its pages count as used, root first, and the missing ones are stored.
"""

import hashlib
from collections import OrderedDict
from typing import Any, NamedTuple, Protocol

import numpy as np
from sglang_lsm.encoding import SCARCE_SHARE
from sglang_lsm.eviction import traits
from sglang_lsm.eviction.encodable import choose_encodable
from sglang_lsm.eviction.evictor import Evictor
from sglang_lsm.eviction.page_table import PageTable
from sglang_lsm.eviction.places import length_units, pack_place
from sglang_lsm.eviction.reuse_model import ReuseModel
from sglang_lsm.eviction.row_index import Keys
from sglang_lsm.eviction.traits import CLASS_MASK, NUM_CLASSES
from sglang_lsm.format import BLOCK_BYTES
from sglang_lsm.pages import NamespaceId

from benchmark.replay.traces import Request


class Outcome(NamedTuple):
    """What one request found and caused, in pages."""

    hits: int
    """Leading pages that were stored."""
    found: int
    """Pages that were stored when their turn came, behind a gap or not."""
    written: float
    """What is written a second time in less room counts as a part of a page."""


class Cache(Protocol):
    """A cache of a fixed number of pages."""

    def request(self, pages: Request) -> Outcome:
        """Serve one request."""


class Room(NamedTuple):
    """What a page takes, in blocks of 4 KiB."""

    plain: int = 1
    encoded: int = 0
    """0: nothing is encoded."""


PLAIN = Room()


class LsmEvictor:
    """The page table and the policies of this project; a page is 4 KiB, so only the scale differs.

    Args:
        capacity: plain pages.
        learn: with the reuse model, or leaf-first LRU.
        class_mask: bits of a page's class that the model sees, for ablations.
        room: where pages are encoded, as many blocks as a real one takes. After each request all
            are that may be: time enough is idle. When that is, and which, the store's code says.
    """

    def __init__(
        self, capacity: int, *, learn: bool, class_mask: int = CLASS_MASK, room: Room = PLAIN
    ) -> None:
        self._capacity, self._room = capacity, room
        self._free = capacity * room.plain
        self.table = PageTable(capacity)
        model = _MaskedModel(class_mask) if learn else None
        self._evictor = Evictor(self.table, model)
        self._root = self.table.root(NamespaceId(b"replayed"))
        self._hashes: dict[int, bytes] = {}

    def request(self, pages: Request) -> Outcome:
        """See `Cache`."""
        hashes = [self._hash(page) for page in pages[: self._capacity]]
        rows = self._evictor.touch(self._root, hashes)
        num_old = len(rows)
        plain = self._room.plain
        short = (len(hashes) - num_old) * plain - self._free
        if short > 0:
            victims = self._evictor.victims(short, frozenset(rows[-1:].tolist()))
            self._free += int(length_units(self.table.place[victims]).sum())
            self._evictor.remove(victims)
            hashes = hashes[: num_old + min(len(hashes) - num_old, self._free // plain)]
        places = np.full(len(hashes) - num_old, self._place(plain), np.uint64)
        new = self._evictor.insert(self._root, hashes, num_old, places)
        self._free -= len(new) * plain
        assert self._free >= 0
        return Outcome(num_old, num_old, len(new) + self._encode())

    def _encode(self) -> float:
        """Encode what may be; return the plain pages that the bytes written would make."""
        plain, encoded = self._room
        if not encoded or self._free >= SCARCE_SHARE * self._capacity * plain:
            return 0
        everything = self._capacity * plain
        rows = choose_encodable(self.table.view(), now=self._evictor.now, units=everything)
        self.table.relocate(rows, np.full(len(rows), self._place(encoded), np.uint64))
        traits.settle(self.table.traits, rows)
        self._free += len(rows) * (plain - encoded)
        return len(rows) * encoded / plain

    @staticmethod
    def _place(num_blocks: int) -> int:
        return pack_place(1, 0, num_blocks * BLOCK_BYTES)

    def _hash(self, page: int) -> bytes:
        if page not in self._hashes:
            self._hashes[page] = hashlib.sha256(page.to_bytes(8, "big")).digest()[:8]
        return self._hashes[page]


class _MaskedModel(ReuseModel):
    """A model that is blind for some bits of the class."""

    def __init__(self, class_mask: int) -> None:
        super().__init__()
        self._mask = class_mask

    def observe(self, digests: Keys, classes: "np.ndarray[Any, Any]", now: int) -> None:
        super().observe(digests, classes & self._mask, now)

    def relabel(self, digests: Keys, classes: "np.ndarray[Any, Any]") -> None:
        super().relabel(digests, classes & self._mask)

    def refresh(self, capacity: int, now: int) -> None:
        super().refresh(capacity, now)
        self.ranks = self.ranks[np.arange(NUM_CLASSES) & self._mask]


class PageLru:
    """Page by page LRU that knows nothing of prefixes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pages: OrderedDict[int, None] = OrderedDict()

    def request(self, pages: Request) -> Outcome:
        """See `Cache`."""
        hits = _leading(pages, self._pages)
        found = 0
        for page in pages:
            if page in self._pages:
                self._pages.move_to_end(page)
                found += 1
                continue
            self._make_room()
            self._pages[page] = None
        return Outcome(hits, found, len(pages) - found)

    def _make_room(self) -> None:
        if len(self._pages) >= self._capacity:
            self._pages.popitem(last=False)


class FileEvictor(PageLru):
    """SGLang's file backend with its LRU: the oldest file goes first, so the root before its leaf.

    As `LRUFileEvictor` of SGLang 0.5.23 does it: a write that does not fit evicts until the cache
    is filled to `eviction_ratio`, 0.9 by default.
    """

    eviction_ratio = 0.9

    def _make_room(self) -> None:
        if len(self._pages) + 1 > self._capacity:
            target = max(0, int(self._capacity * self.eviction_ratio) - 1)
            while len(self._pages) > target:
                self._pages.popitem(last=False)


class LibCacheSim:
    """A policy of `libcachesim`, page by page."""

    def __init__(self, policy: str, capacity: int) -> None:
        import libcachesim

        self._cache = getattr(libcachesim, policy)(capacity)
        self._request = libcachesim.Request()
        self._request.obj_size = 1

    def request(self, pages: Request) -> Outcome:
        """See `Cache`."""
        hits = found = 0
        for page in pages:
            self._request.obj_id = page
            if self._cache.find(self._request, update_cache=False) is None:
                break
            hits += 1
        for page in pages:
            self._request.obj_id = page
            found += self._cache.get(self._request)
        return Outcome(hits, found, len(pages) - found)


def _leading(pages: Request, stored: "OrderedDict[int, None]") -> int:
    return next((i for i, page in enumerate(pages) if page not in stored), len(pages))
