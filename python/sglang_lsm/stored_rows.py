"""The rows of stored pages: the page table with its evictor, ghosts, and pages by segment.

A page whose parent is not stored (children may reach the disk first) hangs on *ghosts*: rows that
have no bytes. They hold a path together, are filled when the parent comes, and go with the last
page below them.

Touches neither index nor log. Needs the lock of the catalog.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_lsm import format, keycodec
from sglang_lsm.eviction import traits
from sglang_lsm.eviction.encodable import choose_encodable
from sglang_lsm.eviction.evictor import Evictor
from sglang_lsm.eviction.hold_marks import NO_MARKS, HoldMarks
from sglang_lsm.eviction.page_paths import index_keys
from sglang_lsm.eviction.page_table import PageTable
from sglang_lsm.eviction.places import length_units, offset_units, pack_place, segment_ids
from sglang_lsm.eviction.reuse_model import ReuseModel
from sglang_lsm.eviction.row_index import EMPTY, Rows
from sglang_lsm.pages import NAMESPACE_BYTES, Location, NamespaceId, PagePath

GHOST = 0
"""Place of a row without bytes; segment 0 does not exist."""

_FIRST_ROWS = 1 << 14


class Entered(NamedTuple):
    """What became of pages that were given rows."""

    has_row: list[bool]
    """Of the pages, in the caller's order. One without a row could never be evicted."""
    replaced: list[Location]
    """Places of the same pages that nothing refers to any more."""


class StoredRows:
    """The page table of one store, and what it needs to stay true."""

    def __init__(self, *, recency_only: bool, quota_bytes: int = 0) -> None:
        """Begin without a page.

        Args:
            recency_only: evict by last access alone; otherwise the table learns what is reused.
            quota_bytes: what the pages may take on disk; 0 if that is not known.
        """
        self._recency_only, self._quota_bytes = recency_only, quota_bytes
        self._marks, self._max_pinned_bytes = NO_MARKS, 0
        self.clear()

    def clear(self) -> None:
        """Go on without a page."""
        self.num_live: dict[int, int] = {}
        """Stored pages by segment."""
        # Half a MiB to begin with: growing from nothing would enter each of the first pages often.
        self.reset(PageTable(_FIRST_ROWS), now=0)

    def reset(self, table: PageTable, now: int) -> None:
        """Go on with another table, as of a logical time."""
        model = None if self._recency_only else ReuseModel()
        self.table = table
        self.evictor = Evictor(table, model, now)

    def count_all(self) -> None:
        """Count the pages of each segment anew."""
        rows = self.table.live_rows()
        segments, counts = np.unique(segment_ids(self.table.place[rows]), return_counts=True)
        self.num_live = dict(zip(segments.tolist(), counts.tolist(), strict=True))
        self.num_live.pop(GHOST, None)

    def enter(
        self, path: PagePath, indices: Sequence[int], locations: Sequence[Location]
    ) -> Entered:
        """Give pages their rows, those before them too where they have none.

        Args:
            indices: of the pages within the call of `path`, ascending.
            locations: where each of them lies.
        """
        table = self.table
        page_bytes = max(format.BLOCK_BYTES, format.padded(locations[0].length))
        table.expected_rows = self._quota_bytes // page_bytes
        root = table.root(path.namespace)
        hashes = path.hashes[: path.start + indices[-1] + 1]
        at = path.start + np.asarray(indices)
        places = np.full(len(hashes), GHOST, np.uint64)
        places[at] = [place_of(location) for location in locations]
        table_keys = table.keys(root, hashes)
        rows = table.lookup(root, table_keys)
        num_old = len(rows)
        if num_old < len(hashes):
            new_rows = self.evictor.extend(root, table_keys, rows, places[num_old:])
            rows = np.concatenate([rows, new_rows])
            if len(rows) < len(hashes):
                # A path that is cut short by a shared digest may leave ghosts at its end.
                self.prune(new_rows[-1:])
                rows = table.lookup(root, table_keys)
        marked = rows[min(num_old, int(at[0])) :]
        if num_old <= at[0] and len(rows) == len(hashes):
            self._mark(marked)
            self.count(locations, +1)
            return Entered([True] * len(at), [])
        # Rows that were there before: ghosts that are filled now, pages stored once more, or pages
        # that a scan met already.
        entered = at < len(rows)
        before = at[at < num_old]
        before = before[table.place[rows[before]] != places[before]]
        replaced = self.locations(rows[before][table.place[rows[before]] != GHOST])
        table.relocate(rows[before], places[before])
        traits.settle(table.traits, rows[before], settled=False)
        self._mark(marked)
        new = np.append(before, at[(at >= num_old) & entered])
        self.count([locations[i] for i in np.searchsorted(at, new).tolist()], +1)
        self.count(replaced, -1)
        return Entered([bool(ok) for ok in entered], replaced)

    def set_marks(self, marks: HoldMarks, max_pinned_bytes: int) -> None:
        """Take what operators ask for of pages, those included that come later."""
        self._marks, self._max_pinned_bytes = marks, max_pinned_bytes
        self.mark_all()

    def mark_all(self) -> None:
        """Put the marks on every page that they name, and take others off."""
        self.evictor.reconsider()
        traits.clear_holds(self.table.traits)
        rows = self.table.find(self._marks.keys)
        self._mark(rows[rows != EMPTY])

    def num_pinned_bytes(self, marks: HoldMarks) -> int:
        """Return the bytes on disk of those pages that `marks` would pin."""
        rows = self.table.find(marks.pinned_keys())
        units = length_units(self.table.place[rows[rows != EMPTY]])
        return int(units.sum()) * format.BLOCK_BYTES

    def lose(self, keys: Sequence[bytes], locations: Sequence[Location]) -> None:
        """Make ghosts of the rows of pages that are gone; of those that have one."""
        rows = self.find(keys, locations)
        known = rows != EMPTY
        self.count([at for at, ok in zip(locations, known, strict=True) if ok], -1)
        self.empty(rows[known])

    def move(self, moved: Sequence[tuple[bytes, Location, Location]]) -> None:
        """Note the new places of pages: key, old place, new place."""
        rows = self.find([key for key, _, _ in moved], [old for _, old, _ in moved])
        known = np.flatnonzero(rows != EMPTY).tolist()
        places = np.array([place_of(new) for _, _, new in moved], np.uint64)
        self.table.relocate(rows[known], places[known])
        self.count([moved[i][1] for i in known], -1)
        self.count([moved[i][2] for i in known], +1)

    def encodable(self, num_bytes: int) -> Rows:
        """Return the rows of pages to encode, about `num_bytes` of them."""
        units = -(-num_bytes // format.BLOCK_BYTES)
        return choose_encodable(self.table.view(), now=self.evictor.now, units=units)

    def settle(self, keys: Sequence[bytes], locations: Sequence[Location]) -> None:
        """Note that encoding has nothing more to do with pages, of those that lie there still."""
        rows = self.find(keys, locations)
        traits.settle(self.table.traits, rows[rows != EMPTY])

    def find(self, keys: Sequence[bytes], locations: Sequence[Location]) -> Rows:
        """Return the row of each page, EMPTY where the table has none with this place."""
        rows = np.full(len(keys), EMPTY, np.int32)
        by_namespace: dict[NamespaceId, list[int]] = {}
        for i, key in enumerate(keys):
            by_namespace.setdefault(NamespaceId(key[:NAMESPACE_BYTES]), []).append(i)
        for namespace, which in by_namespace.items():
            root = self.table.root(namespace)
            found = self.table.find(
                self.table.keys(root, [keys[i][-keycodec.DIGEST_BYTES :] for i in which])
            )
            places = np.array([place_of(locations[i]) for i in which], np.uint64)
            ours = (found != EMPTY) & (self.table.place[found] == places)
            rows[which] = np.where(ours, found, np.int32(EMPTY))
        return rows

    def of_segment(self, segment_id: int) -> Rows:
        """Return the rows of the pages that lie in a segment."""
        rows = self.table.live_rows()
        found: Rows = rows[segment_ids(self.table.place[rows]) == segment_id]
        return found

    def live_bytes(self) -> dict[int, int]:
        """Return the bytes on disk of the pages of each segment."""
        places = self.table.place[self.table.live_rows()]
        segments, at = np.unique(segment_ids(places), return_inverse=True)
        units = np.bincount(at, length_units(places), minlength=len(segments))
        sizes = (units.astype(np.int64) * format.BLOCK_BYTES).tolist()
        found = dict(zip(segments.tolist(), sizes, strict=True))
        found.pop(GHOST, None)
        return found

    def ghost_group_ends(self) -> list[bytes]:
        """Return the keys of pages that are not stored, and whose extensions open a new group.

        Cost: one pass over the places of all rows, and a walk up from each ghost.
        """
        rows = self.table.live_rows()
        ghosts = rows[self.table.place[rows] == GHOST]
        return [key for key in index_keys(self.table, ghosts) if keycodec.extends_group(key)]

    def empty(self, rows: Rows) -> None:
        """Make ghosts of rows whose bytes are gone, and remove those that nothing hangs on."""
        self.table.relocate(rows, np.full(len(rows), GHOST, np.uint64))
        self.prune(rows)

    def remove(self, rows: Rows) -> None:
        """Remove rows that come with all their extensions, and ghosts left without any."""
        parents = np.unique(self.table.parent[rows])
        self.evictor.remove(rows)
        self.prune(parents[~np.isin(parents, rows)])

    def prune(self, rows: Rows) -> None:
        """Remove those of `rows` that are ghosts without extensions, and so on upwards."""
        rows = np.unique(rows[rows >= 0])
        while rows.size:
            leaves = (self.table.place[rows] == GHOST) & (self.table.num_children(rows) == 0)
            rows = rows[leaves]
            parents = np.unique(self.table.parent[rows])
            self.evictor.remove(rows)
            rows = parents[parents >= 0]

    def locations(self, rows: Rows) -> list[Location]:
        """Return where the bytes of rows lie, whole blocks; checksum and hash are not known."""
        places = self.table.place[rows]
        block = format.BLOCK_BYTES
        columns: tuple[NDArray[np.int64], ...] = (
            segment_ids(places), offset_units(places) * block, length_units(places) * block,
        )  # fmt: skip
        return [
            Location(segment_id, offset, length, 0, b"")
            for segment_id, offset, length in zip(*(c.tolist() for c in columns), strict=True)
        ]

    def _mark(self, rows: Rows) -> None:
        if not self._marks.keys.size or not rows.size:
            return
        bits = self._marks.bits_of(self.table.key[rows])
        pinned = rows[bits & traits.PINNED > 0]
        excess = (self._pinned_bytes(without=pinned) - self._max_pinned_bytes) // format.BLOCK_BYTES
        if pinned.size:
            # Pinned as far as there is room, so that something is left to evict.
            fits = np.cumsum(length_units(self.table.place[pinned])) + excess <= 0
            bits[bits & traits.PINNED > 0] &= np.where(
                fits, 0xFFFF, ~traits.PINNED & 0xFFFF
            ).astype(np.uint16)
        traits.set_hold(self.table.traits, rows, bits)

    def _pinned_bytes(self, without: Rows) -> int:
        """Return the bytes of pages that are pinned now, some left out."""
        rows = self.table.find(self._marks.pinned_keys())
        rows = np.setdiff1d(rows[rows != EMPTY], without)
        rows = rows[self.table.traits[rows] & traits.PINNED > 0]
        return int(length_units(self.table.place[rows]).sum()) * format.BLOCK_BYTES

    def count(self, locations: Sequence[Location], change: int) -> None:
        """Note that pages came to their segments (+1) or left them (-1)."""
        for segment_id, num_pages in Counter(at.segment_id for at in locations).items():
            num_live = self.num_live.pop(segment_id, 0) + change * num_pages
            if num_live:
                self.num_live[segment_id] = num_live


def place_of(location: Location) -> int:
    """Return a location as the page table keeps it."""
    return pack_place(location.segment_id, location.offset, location.length)
