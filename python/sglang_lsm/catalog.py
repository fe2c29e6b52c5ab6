"""What is stored and where: the index and the page table, changed as one.

The index finds pages and survives; the page table knows how they are used and is in memory.

Bytes of a page are given back only after its entry is gone from the index, durably: a reader that
still holds its location finds zeros, which match no checksum.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice

import numpy as np

from sglang_lsm import format, keycodec
from sglang_lsm.catalog_loader import load_table
from sglang_lsm.errors import (
    ClosedError,
    CorruptionError,
    FormatVersionError,
    UnavailableError,
)
from sglang_lsm.eviction import checkpoint
from sglang_lsm.eviction.hold_marks import NO_MARKS, HoldMarks
from sglang_lsm.eviction.page_paths import index_keys
from sglang_lsm.eviction.page_table import PageTable
from sglang_lsm.eviction.row_index import EMPTY, Rows
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.pages import NAMESPACE_BYTES, Location, NamespaceId, PageHash, PagePath
from sglang_lsm.stored_rows import GHOST, StoredRows
from sglang_lsm.tensorlog.log import TensorLog

logger = logging.getLogger(__name__)

_MAX_TOUCHED = 512
"""Pages whose touches may wait. Whoever comes next tells the table of them, in half a ms."""
_CHUNK_KEYS = 1024
"""Keys of one index write: writes hold the GIL."""
_CHUNK_ENTRIES = 4096
"""Entries of one step of a scan: what waits for the GIL waits for some ms."""


class _TableLock:
    """A lock that may be entered again, under which nothing that was to be told is left untold."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._lock, self._tell = threading.RLock(), tell

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._tell()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Catalog:
    """The stored pages of one store. Thread-safe."""

    def __init__(
        self,
        index: PageIndex,
        log: TensorLog,
        *,
        recency_only: bool = False,
        quota_bytes: int = 0,
    ) -> None:
        """Begin with an empty page table; `load` fills it, while the store may be used already.

        Args:
            recency_only: evict by last access alone; otherwise the table learns what is reused.
            quota_bytes: what the pages may take on disk; 0 if that is not known.
        """
        self._index, self._log = index, log
        self._lock = _TableLock(self._tell_touches)
        self._touched: deque[tuple[NamespaceId, Sequence[PageHash]]] = deque()
        self._num_touched = 0
        self._rows = StoredRows(recency_only=recency_only, quota_bytes=quota_bytes)
        self._marks = NO_MARKS
        self._storing: list[tuple[int, PagePath | None]] = []
        """For each put under way, the newest segment when it began, and the path it extends."""
        self._is_complete, self._is_given_up = False, False
        self._waiting: list[Callable[[], None]] = []
        """Changes of the table that came while it was being loaded, in order."""

    @contextmanager
    def storing(self, path: PagePath | None = None) -> Iterator[None]:
        """Keep the segments that a put writes to, from before its append until it is recorded.

        Args:
            path: what is stored of it is not evicted meanwhile, unless nothing else is left: behind
                a page that went, no probe would reach the new ones.
        """
        with self._lock:
            put = (self._log.tail_id(), path)
            self._storing.append(put)
        try:
            yield
        finally:
            with self._lock:
                self._storing.remove(put)

    def record(
        self,
        path: PagePath,
        keys: Sequence[bytes],
        indices: Sequence[int],
        locations: Sequence[Location],
    ) -> int:
        """Make pages findable that the log has taken; return how many of them are.

        Fewer than were given where a segment has been evicted meanwhile, or where two paths share a
        digest: such a page is taken back.

        Args:
            keys: of all pages of the call.
            indices: of the pages within the call of `path`, ascending.
            locations: where each of them lies.

        Raises:
            UnavailableError: the index failed; none of the pages can be found.
        """
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
            gone = {i for i in {at.segment_id for at in locations} if not self._log.has(i)}
            lost = [n for n, at in enumerate(locations) if not entered[n] or at.segment_id in gone]
            self._take_back(
                [entries[n][0] for n in lost],
                [locations[n] for n in lost],
            )
        return len(locations) - len(lost)

    def touch(self, path: PagePath) -> None:
        """Note that a request used a path from the root to its end, in whatever tier."""
        # A read that waits for the table, in a cold cache, pays three times what many touches in a
        # row cost each.
        self._touched.append((path.namespace, tuple(path.hashes)))
        self._num_touched += len(path.hashes)
        if self._num_touched >= _MAX_TOUCHED:
            self.note_touches()

    def note_touches(self) -> None:
        """Tell the table of the touches since the last time; whoever takes its lock does, too."""
        with self._lock:
            pass

    def forget(self, keys: Sequence[bytes], locations: Sequence[Location]) -> int:
        """Drop pages whose bytes are no good; return how many had not gone already.

        Raises:
            UnavailableError: the index failed.
        """
        if not keys:
            return 0
        values = [format.encode_index_value(at) for at in locations]
        with self._lock:
            current = self._index.get(keys)
            gone = [i for i, now in enumerate(current) if now == values[i]]
            self._take_back([keys[i] for i in gone], [locations[i] for i in gone])
        if gone:
            logger.warning("pages failed verification, now misses. num_pages=%d", len(gone))
        return len(gone)

    def forget_ranges(self, prefixes: Iterable[bytes]) -> int:
        """Drop every page whose key starts with one of `prefixes`, and below; return how many.

        Raises:
            UnavailableError: the index failed; some pages may be gone.
        """
        num_gone = 0
        with self._lock:
            found = self.below(prefixes)
            while part := list(islice(found, _CHUNK_KEYS)):
                keys = [key for key, _ in part]
                self._take_back(keys, [format.decode_index_value(value) for _, value in part])
                num_gone += len(part)
        return num_gone

    def below(self, prefixes: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the index entries of the pages whose key starts with one of `prefixes`, and below.

        A group whose first pages hang on one that is not stored is found by its ghost, so not
        before the table is complete; `load` drops what it can not reach.

        The caller may write in between: no scan of the index is open then, for which an index that
        is opened anew by a write would wait.

        Cost: one range of the index for each group, and one pass over the places of all rows.

        Raises:
            UnavailableError, CorruptionError: the index failed.
        """
        with self._lock:
            ends = self._rows.ghost_group_ends()
        waiting = list(prefixes)
        while waiting:
            prefix = waiting.pop()
            # A namespace as a whole is one range, with all its groups.
            has_groups = len(prefix) > NAMESPACE_BYTES
            if has_groups:
                waiting += [keycodec.group_below(key) for key in ends if key.startswith(prefix)]
            for part in self._parts(prefix):
                keys = [key for key, _ in part] if has_groups else []
                waiting += [
                    keycodec.group_below(key) for key in keys if keycodec.extends_group(key)
                ]
                yield from part

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
            self._rows.empty(self._rows.of_segment(segment_id))
            self._log.drop(segment_id)
            self._rows.num_live.pop(segment_id, None)
        return len(stale)

    def evict(self, num_bytes: int) -> tuple[int, int]:
        """Let the pages go that are worth least, for `num_bytes` of room or all there is.

        Returns:
            Pages and bytes that went.

        Raises:
            UnavailableError: the index failed; some pages may be misses, and take room until they
                are stored again or chosen once more.
        """
        with self._lock:
            table, evictor = self._rows.table, self._rows.evictor
            num_units = -(-num_bytes // format.BLOCK_BYTES)
            rows = evictor.victims(num_units, self._extended())
            if not rows.size:
                rows = evictor.victims(num_units)
            stored = rows[table.place[rows] != GHOST]
            keys, locations = index_keys(table, stored), self._rows.locations(stored)
            for start in range(0, len(keys), _CHUNK_KEYS):
                self._index.delete(keys[start : start + _CHUNK_KEYS])
            self._rows.count(locations, -1)
            self._rows.remove(rows)
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
            self._change_table(partial(self._rows.move, moved))
            self._give_back([old[i] for i in kept])
            unwanted = set(range(len(keys))).difference(kept)
            self._give_back([new[i] for i in sorted(unwanted)])
        return len(kept)

    @property
    def is_complete(self) -> bool:
        """Whether the table knows of every stored page, so that single pages can be evicted."""
        return self._is_complete

    def load(
        self,
        *,
        should_stop: Callable[[], bool],
        take_kept: Callable[[], bytes | memoryview | None] | None = None,
    ) -> int:
        """Fill the table from what the last close kept, or else by a scan of the index.

        Calls from other threads go on meanwhile; what they change is done again at the end.

        Pages behind the end of a group that is not stored are dropped: the index spells a path in
        groups, so what lies before them is not known, nor what they are worth.

        Args:
            take_kept: gives what `checkpoint` returned at the last close, if the index is still
                that one, and forgets it, so that it is freed as soon as it was read.

        Returns:
            How many pages were dropped.

        Raises:
            UnavailableError, CorruptionError: the index failed.
            ClosedError: `should_stop` said so.

        Whatever is raised leaves the table empty until the next start, so that whole segments are
        evicted, and is logged, unless the store is closing.
        """
        try:
            return sum(map(self._forget_unknown, self._fill(should_stop, take_kept)))
        except BaseException as error:
            with self._lock:
                self._is_complete, self._is_given_up, self._waiting = False, True, []
                self._rows.clear()
            if not isinstance(error, ClosedError):
                logger.warning("the page table could not be filled. reason=%r", error)
            raise

    def _fill(
        self,
        should_stop: Callable[[], bool],
        take_kept: Callable[[], bytes | memoryview | None] | None,
    ) -> list[bytes]:
        """Fill the table; return the prefixes of the keys of pages that it has no row for."""
        unknown: list[bytes] = []
        restored = _restored(take_kept)
        if restored is not None:
            table, now = restored
        else:
            table, unknown = load_table(
                self._chunks_until(should_stop), num_expected=self._index.approximate_len()
            )
            now = 0
        with self._lock:
            self._rows.reset(table, now)
            self._adopt_rows()
            for change in self._waiting:
                change()
            self._is_complete, self._waiting = True, []
            self._rows.mark_all()
        return unknown

    def live_bytes(self) -> dict[int, int]:
        """Return the bytes on disk of the stored pages of each segment; one pass over all rows."""
        with self._lock:
            return self._rows.live_bytes()

    def pages_of_segment(self, segment_id: int) -> list[tuple[bytes, Location]]:
        """Return key and place of the pages that lie in a segment, in the order of their paths.

        Raises:
            UnavailableError: the index failed.
        """
        with self._lock:
            found = self._entries(self._rows.of_segment(segment_id))
        return [(key, at) for key, at in found if at.segment_id == segment_id]

    def encodable(self, num_bytes: int) -> list[tuple[bytes, Location]]:
        """Return key and place of pages to encode, in the order of their paths.

        Args:
            num_bytes: about what they take.

        Raises:
            UnavailableError: the index failed.
        """
        with self._lock:
            if not self._is_complete:
                return []
            return self._entries(self._rows.encodable(num_bytes))

    def settle(self, keys: Sequence[bytes], locations: Sequence[Location]) -> None:
        """Note that encoding has nothing more to do with pages."""
        with self._lock:
            self._change_table(partial(self._rows.settle, keys, locations))

    def set_marks(self, marks: HoldMarks, *, max_pinned_bytes: int) -> None:
        """Take what operators ask for of pages, instead of what they asked for before."""
        with self._lock:
            self._marks = marks
            self._rows.set_marks(marks, max_pinned_bytes)

    def num_pinned_bytes(self, marks: HoldMarks) -> int:
        """Return the bytes on disk of those stored pages that `marks` would pin."""
        with self._lock:
            return self._rows.num_pinned_bytes(marks)

    def pinned_by_segment(self) -> Counter[int]:
        """Return how many pages lie in each segment that operators want to keep.

        Asks the index, so that it holds before the table is complete, too.

        Raises:
            UnavailableError: the index failed.
        """
        values = self._index.get(self._marks.pinned)
        return Counter(format.index_value_owner(value)[0] for value in values if value)

    def checkpoint(self) -> bytes | None:
        """Return the table for the next start, or None if it is not complete."""
        with self._lock:
            if not self._is_complete:
                return None
            return checkpoint.to_bytes(self._rows.table, self._rows.evictor.now)

    def nbytes(self) -> int:
        """Return the bytes of RAM of the page table."""
        return self._rows.table.nbytes

    def live_pages(self) -> dict[int, int]:
        """Return the number of stored pages by segment."""
        with self._lock:
            return dict(self._rows.num_live)

    def _tell_touches(self) -> None:
        while self._touched:
            namespace, hashes = self._touched.popleft()
            self._rows.evictor.touch(self._rows.table.root(namespace), hashes)
        # Counted without a lock: what threads missed of each other is forgotten here.
        self._num_touched = 0

    def _parts(self, prefix: bytes) -> Iterator[list[tuple[bytes, bytes]]]:
        """Yield the entries whose key starts with `prefix`, each part from a scan of its own."""
        start, end = prefix, keycodec.range_end(prefix)
        while True:
            with closing(self._index.scan(start, end)) as entries:
                part = list(islice(entries, _CHUNK_KEYS))
            yield part
            if len(part) < _CHUNK_KEYS:
                return
            start = part[-1][0] + b"\0"

    def _chunks_until(self, should_stop: Callable[[], bool]) -> Iterator[list[tuple[bytes, bytes]]]:
        entries = self._index.scan(b"", None)
        while chunk := list(islice(entries, _CHUNK_ENTRIES)):
            if should_stop():
                raise ClosedError("the store is closing")
            yield chunk

    def _adopt_rows(self) -> None:
        """Count the pages of each segment; drop those of segments that are gone."""
        rows = self._rows
        rows.count_all()
        for segment_id in [i for i in rows.num_live if not self._log.has(i)]:
            lost = rows.of_segment(segment_id)
            # Pages may have been stored once more since the table was scanned.
            keys = index_keys(rows.table, lost)
            values = zip(keys, self._index.get(keys), strict=True)
            self._index.delete([key for key, value in values if value and self._is_stale(value)])
            rows.empty(lost)
            del rows.num_live[segment_id]

    def _entries(self, rows: Rows) -> list[tuple[bytes, Location]]:
        """Return key and place of the pages of rows, in the order of their paths."""
        keys = sorted(index_keys(self._rows.table, rows))
        return [
            (key, format.decode_index_value(value))
            for key, value in zip(keys, self._index.get(keys), strict=True)
            if value is not None
        ]

    def _is_stale(self, value: bytes) -> bool:
        """Return whether an index value names a segment that is gone."""
        return not self._log.has(format.index_value_owner(value)[0])

    def _enter(
        self, path: PagePath, indices: Sequence[int], locations: Sequence[Location]
    ) -> list[bool]:
        entered = self._rows.enter(path, indices, locations)
        self._give_back(entered.replaced)
        return entered.has_row

    def _forget_unknown(self, prefix: bytes) -> int:
        """Drop the pages of a group that have no row; return how many."""
        num_gone = 0
        with self._lock:
            found = list(self._index.scan(prefix, keycodec.range_end(prefix)))
            for start in range(0, len(found), _CHUNK_KEYS):
                part = found[start : start + _CHUNK_KEYS]
                locations = [format.decode_index_value(value) for _, value in part]
                rows = self._rows.find([key for key, _ in part], locations)
                lost = np.flatnonzero(rows == EMPTY).tolist()
                self._take_back([part[i][0] for i in lost], [locations[i] for i in lost])
                num_gone += len(lost)
        return num_gone

    def _extended(self) -> frozenset[int]:
        """Return the row at the end of what is stored of each path that a put is extending."""
        table, ends = self._rows.table, list[int]()
        for path in (path for _, path in self._storing if path is not None):
            root = table.root(path.namespace)
            ends += table.lookup(root, table.keys(root, path.hashes))[-1:].tolist()
        return frozenset(ends)

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
        self._change_table(partial(self._rows.lose, keys, locations))
        self._give_back(locations)

    def _give_back(self, locations: Sequence[Location]) -> None:
        """Give the bytes of dead pages back: whole segments where nothing else lives in them."""
        # A younger segment may hold pages that a put has written and not yet recorded, and before
        # the table is complete, any segment may hold pages that it does not know of.
        youngest = 0
        if self._is_complete:
            youngest = min((oldest for oldest, _ in self._storing), default=self._log.tail_id())
        dead = {
            at.segment_id
            for at in locations
            if at.segment_id < youngest and at.segment_id not in self._rows.num_live
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


def _restored(
    take_kept: Callable[[], bytes | memoryview | None] | None,
) -> tuple[PageTable, int] | None:
    kept = take_kept() if take_kept is not None else None
    if kept is None:
        return None
    try:
        return checkpoint.from_bytes(kept, 0)
    except (CorruptionError, FormatVersionError) as error:
        logger.warning("the page table is scanned anew. reason=%s", error)
        return None
