"""What is stored and where: the index and the page table, changed as one.

The index finds pages and survives; the page table knows how they are used and is in memory. A page
whose parent is not stored (children may reach the disk first) hangs on *ghosts*: rows of the table
that have no bytes. They hold a path together, are filled when the parent comes, and go with the
last page below them.

Bytes of a page are given back only after its entry is gone from the index, durably: a reader that
still holds its location finds zeros, which match no checksum.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from sglang_lsm import format, keycodec
from sglang_lsm.catalog_loader import load_table
from sglang_lsm.errors import ClosedError, StoreError, UnavailableError
from sglang_lsm.eviction import checkpoint
from sglang_lsm.eviction.evictor import Evictor
from sglang_lsm.eviction.page_paths import index_keys
from sglang_lsm.eviction.page_table import PageTable
from sglang_lsm.eviction.places import length_units, offset_units, pack_place, segment_ids
from sglang_lsm.eviction.policy import EvictionConfig
from sglang_lsm.eviction.reuse_model import ReuseModel
from sglang_lsm.eviction.row_index import EMPTY, Rows
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.pages import NAMESPACE_BYTES, Location, NamespaceId, PagePath
from sglang_lsm.tensorlog.log import TensorLog

logger = logging.getLogger(__name__)

GHOST = 0
"""Place of a row without bytes; segment 0 does not exist."""

_CHUNK_KEYS = 1024
"""Keys of one index write: writes hold the GIL."""


class Catalog:
    """The stored pages of one store. Thread-safe."""

    def __init__(self, index: PageIndex, log: TensorLog, *, recency_only: bool = False) -> None:
        """Begin with an empty page table; `load` or `restore` fills it.

        Args:
            recency_only: evict by last access alone; otherwise the table learns what is reused.
        """
        self._index, self._log = index, log
        self._lock = threading.RLock()
        self._recency_only = recency_only
        self._num_live: dict[int, int] = {}
        """Stored pages by segment."""
        self._storing: list[int] = []
        """For each put under way, the newest segment when it began."""
        self._is_complete, self._is_given_up = True, False
        self._waiting: list[Callable[[], None]] = []
        """Changes of the table that came while it was being loaded, in order."""
        self._set_table(PageTable(), now=0)

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Keep the segments that a put writes to, from before its append until it is recorded."""
        with self._lock:
            oldest = self._log.tail_id()
            self._storing.append(oldest)
        try:
            yield
        finally:
            with self._lock:
                self._storing.remove(oldest)

    def record(self, path: PagePath, indices: Sequence[int], locations: Sequence[Location]) -> int:
        """Make pages findable that the log has taken; return how many of them are.

        Fewer than were given where a segment has been evicted meanwhile, or where two paths share a
        digest: such a page is taken back.

        Args:
            indices: of the pages within the call of `path`, ascending.
            locations: where each of them lies.

        Raises:
            UnavailableError: the index failed; none of the pages can be found.
        """
        keys = list(keycodec.encode(path))
        entries = [
            (keys[i], format.encode_index_value(at))
            for i, at in zip(indices, locations, strict=True)
        ]
        with self._lock:
            if not self._is_complete:
                self._take_back_current([key for key, _ in entries])
            self._index.put(entries)
            entered = [True] * len(locations)
            if self._is_complete:
                entered = self._enter(path, indices, locations)
            else:
                self._change_table(partial(self._enter_current, path, indices))
            # A call that nearly fills the store may have evicted its own first pages meanwhile.
            lost = [
                n for n, at in enumerate(locations)
                if not (entered[n] and self._log.has(at.segment_id))
            ]  # fmt: skip
            self._take_back(
                [entries[n][0] for n in lost],
                [locations[n] for n in lost],
            )
        return len(locations) - len(lost)

    def touch(self, path: PagePath) -> None:
        """Note that a request used a path from the root to its end, in whatever tier."""
        with self._lock:
            self._evictor.touch(self._table.root(path.namespace), path.hashes)

    def forget(self, keys: Sequence[bytes], locations: Sequence[Location]) -> int:
        """Drop pages whose bytes are no good; return how many had not gone already.

        Raises:
            UnavailableError: the index failed.
        """
        values = [format.encode_index_value(at) for at in locations]
        with self._lock:
            current = self._index.get(keys)
            gone = [i for i, now in enumerate(current) if now == values[i]]
            self._take_back([keys[i] for i in gone], [locations[i] for i in gone])
        return len(gone)

    def forget_ranges(self, prefixes: Iterable[bytes]) -> int:
        """Drop every page whose key starts with one of `prefixes`, and below; return how many.

        Raises:
            UnavailableError: the index failed; some pages may be gone.
        """
        num_gone, waiting = 0, list(prefixes)
        with self._lock:
            while waiting:
                prefix = waiting.pop()
                found = list(self._index.scan(prefix, keycodec.range_end(prefix)))
                for start in range(0, len(found), _CHUNK_KEYS):
                    part = found[start : start + _CHUNK_KEYS]
                    keys = [key for key, _ in part]
                    waiting += [keycodec.group_below(k) for k in keys if keycodec.extends_group(k)]
                    self._take_back(keys, [format.decode_index_value(v) for _, v in part])
                num_gone += len(found)
        return num_gone

    def forget_segment(self, segment_id: int) -> int:
        """Drop every page of a segment and the segment itself; return how many pages.

        Raises:
            UnavailableError: the index failed, or the file cannot be deleted.
        """
        with self._lock:
            entries = [entry for batch in self._log.batches(segment_id) for entry in batch.entries]
            # A page that was deleted and stored again may stand in one segment twice.
            keys = list(dict.fromkeys(entry.key for entry in entries))
            stale = [
                key
                for key, value in zip(keys, self._index.get(keys), strict=True)
                if value is not None and format.index_value_owner(value)[0] == segment_id
            ]
            self._index.delete(stale)
            self._empty(self._rows_of_segment(segment_id))
            self._log.drop(segment_id)
            self._num_live.pop(segment_id, None)
        return len(stale)

    def evict(self, num_bytes: int) -> tuple[int, int]:
        """Let the pages go that are worth least, for `num_bytes` of room or all there is.

        Returns:
            Pages and bytes that went.

        Raises:
            UnavailableError: the index failed; nothing has gone.
        """
        with self._lock:
            rows = self._evictor.victims(-(-num_bytes // format.BLOCK_BYTES))
            stored = rows[self._table.place[rows] != GHOST]
            keys, locations = index_keys(self._table, stored), self._locations(stored)
            for start in range(0, len(keys), _CHUNK_KEYS):
                self._index.delete(keys[start : start + _CHUNK_KEYS])
            self._count(locations, -1)
            self._remove(rows)
            self._give_back(locations)
        return len(stored), sum(at.length for at in locations)

    def relocate(
        self, keys: Sequence[bytes], old: Sequence[Location], new: Sequence[Location]
    ) -> int:
        """Point pages that were copied to their new places; return how many still wanted it.

        Raises:
            UnavailableError: the index failed.
        """
        with self._lock:
            current = self._index.get(keys)
            kept = [i for i, now in enumerate(current) if now == format.encode_index_value(old[i])]
            self._index.put([(keys[i], format.encode_index_value(new[i])) for i in kept])
            moved = [(keys[i], old[i], new[i]) for i in kept]
            self._change_table(partial(self._move_rows, moved))
            self._give_back([old[i] for i in kept])
            unwanted = set(range(len(keys))).difference(kept)
            self._give_back([new[i] for i in sorted(unwanted)])
        return len(kept)

    def begin_loading(self) -> None:
        """Let the store be used before the table is complete; `load` is going to fill it."""
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        """Whether the table knows of every stored page, so that single pages can be evicted."""
        return self._is_complete

    def load(self, *, should_stop: Callable[[], bool]) -> int:
        """Fill the table by a scan of the index; calls from other threads go on meanwhile.

        Pages behind the end of a group that is not stored are dropped: the index spells a path in
        groups, so what lies before them is not known, nor what they are worth.

        Returns:
            How many pages were dropped.

        Raises:
            UnavailableError, CorruptionError: the index failed; the table stays as it was.
            ClosedError: `should_stop` said so.
        """
        try:
            table, groups = load_table(self._entries_until(should_stop))
        except StoreError:
            with self._lock:
                self._is_given_up, self._waiting = True, []
            raise
        with self._lock:
            self._set_table(table, now=0)
            unknown = [prefix for prefix, anchor in groups if self._is_unknown(prefix, anchor)]
            self._adopt_rows()
            for change in self._waiting:
                change()
            self._is_complete, self._waiting = True, []
        return sum(map(self._forget_unknown, unknown))

    def restore(self, content: bytes) -> None:
        """Fill the table from what `checkpoint` returned at the last close.

        Raises:
            CorruptionError, FormatVersionError: it is no such thing; the table stays as it was.
        """
        table, now = checkpoint.from_bytes(content, 0)
        with self._lock:
            self._set_table(table, now)
            self._adopt_rows()

    def checkpoint(self) -> bytes | None:
        """Return the table for the next start, or None if it is not complete."""
        with self._lock:
            if not self._is_complete:
                return None
            return checkpoint.to_bytes(self._table, self._evictor.now)

    def nbytes(self) -> int:
        """Return the bytes of RAM of the page table."""
        return self._table.nbytes

    def live_pages(self) -> dict[int, int]:
        """Return the number of stored pages by segment."""
        with self._lock:
            return dict(self._num_live)

    def _set_table(self, table: PageTable, now: int) -> None:
        model = None if self._recency_only else ReuseModel()
        self._table = table
        self._evictor = Evictor(table, EvictionConfig(), model, now)

    def _entries_until(self, should_stop: Callable[[], bool]) -> Iterator[tuple[bytes, bytes]]:
        for entry in self._index.scan(b"", None):
            if should_stop():
                raise ClosedError("the store is closing")
            yield entry

    def _adopt_rows(self) -> None:
        """Count the pages of each segment; drop those of segments that are gone."""
        rows = self._table.live_rows()
        segments, counts = np.unique(segment_ids(self._table.place[rows]), return_counts=True)
        self._num_live = dict(zip(segments.tolist(), counts.tolist(), strict=True))
        self._num_live.pop(GHOST, None)
        for segment_id in [i for i in self._num_live if not self._log.has(i)]:
            lost = self._rows_of_segment(segment_id)
            # Pages may have been stored once more since the table was scanned.
            keys = index_keys(self._table, lost)
            values = zip(keys, self._index.get(keys), strict=True)
            self._index.delete([key for key, value in values if value and self._is_stale(value)])
            self._empty(lost)
            del self._num_live[segment_id]

    def _is_stale(self, value: bytes) -> bool:
        """Return whether an index value names a segment that is gone."""
        return not self._log.has(format.index_value_owner(value)[0])

    def _is_unknown(self, prefix: bytes, anchor: bytes) -> bool:
        """Return whether a group of the index hangs on a page that is not stored."""
        with self._lock:
            root = self._table.root(NamespaceId(prefix[:NAMESPACE_BYTES]))
            return bool(self._table.find(self._table.keys(root, [anchor]))[0] == EMPTY)

    def _enter(
        self, path: PagePath, indices: Sequence[int], locations: Sequence[Location]
    ) -> list[bool]:
        """Give pages their rows; return which have one now.

        A page without a row could never be evicted.
        """
        root = self._table.root(path.namespace)
        hashes = path.hashes[: path.start + indices[-1] + 1]
        at = path.start + np.asarray(indices)
        places = np.full(len(hashes), GHOST, np.uint64)
        places[at] = [_place(location) for location in locations]
        table_keys = self._table.keys(root, hashes)
        num_old = len(self._table.lookup(root, table_keys))
        if num_old < len(hashes):
            # Of a path that is cut short by a shared digest, ghosts may be left at the end.
            self._prune(self._evictor.insert(root, hashes, num_old, places[num_old:])[-1:])
        rows = self._table.lookup(root, table_keys)
        entered = at < len(rows)
        # Rows that were there before: ghosts that are filled now, pages stored once more, or pages
        # that a scan met already.
        before = at[at < num_old]
        before = before[self._table.place[rows[before]] != places[before]]
        replaced = self._locations(rows[before][self._table.place[rows[before]] != GHOST])
        self._table.relocate(rows[before], places[before])
        new = np.append(before, at[(at >= num_old) & entered])
        self._count(self._locations(rows[new]), +1)
        self._count(replaced, -1)
        self._give_back(replaced)
        return [bool(ok) for ok in entered]

    def _forget_unknown(self, prefix: bytes) -> int:
        """Drop the pages of a group that have no row; return how many."""
        num_gone = 0
        with self._lock:
            found = list(self._index.scan(prefix, keycodec.range_end(prefix)))
            for start in range(0, len(found), _CHUNK_KEYS):
                part = found[start : start + _CHUNK_KEYS]
                locations = [format.decode_index_value(value) for _, value in part]
                rows = self._rows_of([key for key, _ in part], locations)
                lost = np.flatnonzero(rows == EMPTY).tolist()
                self._take_back([part[i][0] for i in lost], [locations[i] for i in lost])
                num_gone += len(lost)
        return num_gone

    def _change_table(self, change: Callable[[], None]) -> None:
        """Change the table, or see to it that `load` does."""
        if self._is_complete:
            change()
        elif not self._is_given_up:
            self._waiting.append(change)

    def _enter_current(self, path: PagePath, indices: Sequence[int]) -> None:
        """Give pages that were recorded a while ago their rows, where the index has them now.

        They may have been deleted since, moved, or stored once more, and the scan may have seen it.
        """
        keys = list(keycodec.encode(path))
        values = zip(indices, self._index.get([keys[i] for i in indices]), strict=True)
        kept = [(i, value) for i, value in values if value and not self._is_stale(value)]
        if kept:
            locations = [format.decode_index_value(value) for _, value in kept]
            self._enter(path, [i for i, _ in kept], locations)

    def _take_back_current(self, keys: Sequence[bytes]) -> None:
        """Drop those pages that are stored: two puts of one page do not know of each other."""
        found = zip(keys, self._index.get(keys), strict=True)
        stored = [(key, format.decode_index_value(value)) for key, value in found if value]
        self._take_back([key for key, _ in stored], [at for _, at in stored])

    def _take_back(self, keys: Sequence[bytes], locations: Sequence[Location]) -> None:
        """Drop entries, rows and bytes of pages."""
        if not keys:
            return
        self._index.delete(keys)
        self._change_table(partial(self._empty_rows, keys, locations))
        self._give_back(locations)

    def _empty_rows(self, keys: Sequence[bytes], locations: Sequence[Location]) -> None:
        """Make ghosts of the rows of pages that are gone."""
        rows = self._rows_of(keys, locations)
        known = rows != EMPTY
        self._count([at for at, ok in zip(locations, known, strict=True) if ok], -1)
        self._empty(rows[known])

    def _move_rows(self, moved: Sequence[tuple[bytes, Location, Location]]) -> None:
        """Note the new places of pages: key, old place, new place."""
        rows = self._rows_of([key for key, _, _ in moved], [old for _, old, _ in moved])
        known = np.flatnonzero(rows != EMPTY).tolist()
        places = np.array([_place(new) for _, _, new in moved], np.uint64)
        self._table.relocate(rows[known], places[known])
        self._count([moved[i][1] for i in known], -1)
        self._count([moved[i][2] for i in known], +1)

    def _rows_of(self, keys: Sequence[bytes], locations: Sequence[Location]) -> Rows:
        """Return the row of each page, EMPTY where the table has none with this place."""
        rows = np.full(len(keys), EMPTY, np.int32)
        by_namespace: dict[NamespaceId, list[int]] = {}
        for i, key in enumerate(keys):
            by_namespace.setdefault(NamespaceId(key[:NAMESPACE_BYTES]), []).append(i)
        for namespace, which in by_namespace.items():
            root = self._table.root(namespace)
            found = self._table.find(
                self._table.keys(root, [keys[i][-keycodec.DIGEST_BYTES :] for i in which])
            )
            places = np.array([_place(locations[i]) for i in which], np.uint64)
            ours = (found != EMPTY) & (self._table.place[found] == places)
            rows[which] = np.where(ours, found, np.int32(EMPTY))
        return rows

    def _rows_of_segment(self, segment_id: int) -> Rows:
        rows = self._table.live_rows()
        found: Rows = rows[segment_ids(self._table.place[rows]) == segment_id]
        return found

    def _empty(self, rows: Rows) -> None:
        """Make ghosts of rows whose bytes are gone, and remove those that nothing hangs on."""
        self._table.relocate(rows, np.full(len(rows), GHOST, np.uint64))
        self._prune(rows)

    def _remove(self, rows: Rows) -> None:
        """Remove rows that come with all their extensions, and ghosts left without any."""
        parents = np.unique(self._table.parent[rows])
        self._evictor.remove(rows)
        self._prune(parents[~np.isin(parents, rows)])

    def _prune(self, rows: Rows) -> None:
        """Remove those of `rows` that are ghosts without extensions, and so on upwards."""
        rows = np.unique(rows[rows >= 0])
        while rows.size:
            leaves = (self._table.place[rows] == GHOST) & (self._table.num_children(rows) == 0)
            rows = rows[leaves]
            parents = np.unique(self._table.parent[rows])
            self._evictor.remove(rows)
            rows = parents[parents >= 0]

    def _locations(self, rows: Rows) -> list[Location]:
        """Return where the bytes of rows lie, whole blocks; checksum and hash are not known."""
        places = self._table.place[rows]
        block = format.BLOCK_BYTES
        return [
            Location(segment_id, offset * block, length * block, 0, b"")
            for segment_id, offset, length in zip(
                segment_ids(places).tolist(),
                offset_units(places).tolist(),
                length_units(places).tolist(),
                strict=True,
            )
        ]

    def _count(self, locations: Sequence[Location], change: int) -> None:
        for at in locations:
            num_live = self._num_live.pop(at.segment_id, 0) + change
            if num_live:
                self._num_live[at.segment_id] = num_live

    def _give_back(self, locations: Sequence[Location]) -> None:
        """Give the bytes of dead pages back: whole segments where nothing else lives in them."""
        # A younger segment may hold pages that a put has written and not yet recorded, and before
        # the table is complete, any segment may hold pages that it does not know of.
        youngest = min(self._storing, default=self._log.tail_id()) if self._is_complete else 0
        dead = {
            at.segment_id
            for at in locations
            if at.segment_id < youngest and at.segment_id not in self._num_live
        }
        if not locations:
            return
        try:
            # Else a power cut could bring the entries back, and a probe would promise lost pages.
            self._index.sync()
            for segment_id in dead:
                self._log.drop(segment_id)
            self._log.punch([at for at in locations if at.segment_id not in dead])
        except UnavailableError as error:
            # The entries are gone; the bytes stay counted, so that the quota holds all the same.
            logger.warning("cannot give dead pages back. reason=%s", error)


def _place(location: Location) -> int:
    return pack_place(location.segment_id, location.offset, location.length)
