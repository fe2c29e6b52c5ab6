"""The store: pages by radix path, on one directory of one local disk.

Directory layout:

    STORE        what this is, and its format version
    LOCK         held by the one process that has the store open
    index/       RocksDB: page keys to locations, and the fingerprints of all namespaces
    log/         segments of the tensor log
    INDEX_DAMAGED  while serving, the index was found damaged: the next start rebuilds it

Invariants: a page handed out was verified against a checksum seeded with its key; an index entry is
written only after its bytes; an entry whose segment is gone is a miss; the log holds no more than
the quota. Losing any file costs pages, never a wrong page.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sglang_lsm import format, keycodec
from sglang_lsm.config import StoreConfig
from sglang_lsm.errors import (
    ClosedError,
    ConfigError,
    CorruptionError,
    StoreError,
    UnavailableError,
)
from sglang_lsm.fs import DRAFT_SUFFIX, FileSystem, LocalFileSystem
from sglang_lsm.index.healing import HealingIndex
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.index.rocks import RocksIndex
from sglang_lsm.observability.counters import Counters, StoreStats
from sglang_lsm.pages import Fingerprint, Location, NamespaceId, PageBuffer, PagePath
from sglang_lsm.periodic import Periodic
from sglang_lsm.tensorlog.log import TensorLog
from sglang_lsm.tensorlog.transfer import page_bytes

logger = logging.getLogger(__name__)

FACTS_NAME, INDEX_NAME, LOG_NAME = "STORE", "index", "log"
_DAMAGED_NAME = "INDEX_DAMAGED"
_LOCK_NAME = "LOCK"
# What a directory may hold and still be empty: the lock, the draft of a STORE whose process died
# before it was complete, and what mkfs puts into a file system of its own.
_NO_CONTENT = (_LOCK_NAME, FACTS_NAME + DRAFT_SUFFIX, "lost+found")
_META_COMPLETE = b"complete"
_META_NEXT_SEGMENT = b"next_segment"
META_FINGERPRINT = b"fingerprint/"


class Store:
    """Keeps and finds KV pages by radix path. Thread-safe."""

    def __init__(
        self,
        directory: Path,
        config: StoreConfig,
        *,
        fs: FileSystem,
        open_index: Callable[[Path], PageIndex],
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Open the parts; `Store.open` is the public way in."""
        self.directory, self.config = directory, config
        self._fs = fs
        self._counters = Counters()
        self._gate = _Gate()
        self._lock_file = fs.lock(directory / _LOCK_NAME)
        try:
            _check_facts(fs, directory)
            _discard_damaged_index(fs, directory)
            self._index = HealingIndex(
                lambda: _open_index(fs, directory, open_index),
                clock=clock,
                on_damage=self._mark_index_damaged,
            )
            self._log = self._open_log(clock_ms)
            if self._index.get_meta(_META_COMPLETE) is None:
                self._rebuild_index()
            self._shrink_to_quota()
        except BaseException:
            self._close_parts()
            raise
        self._syncer: Periodic | None = None
        if config.log.durability == "interval":
            self._syncer = Periodic("kv-storage-sync", config.log.sync_interval_s, self.sync)

    @classmethod
    def open(cls, directory: Path, config: StoreConfig) -> "Store":
        """Open or create the store in `directory`.

        Raises:
            ConfigError: another process has it open, or the directory holds something else.
            FormatVersionError: written by a newer version; left untouched.
            UnavailableError: the directory cannot be read or written.
        """
        fs = LocalFileSystem()
        fs.make_dir(directory)
        return cls(
            directory,
            config,
            fs=fs,
            open_index=lambda path: RocksIndex(path, config.index),
        )

    def _open_log(self, clock_ms: Callable[[], int]) -> TensorLog:
        next_id = self._index.get_meta(_META_NEXT_SEGMENT)
        return TensorLog(
            self._fs,
            self.directory / LOG_NAME,
            self.config.log,
            admit=self._admit_segment,
            clock_ms=clock_ms,
            first_id=int(next_id) if next_id else 1,
        )

    def register(self, fingerprint: Fingerprint) -> NamespaceId:
        """Record a fingerprint in full and return the namespace of its pages. Idempotent.

        Raises:
            UnavailableError, ClosedError.
        """
        namespace = fingerprint.namespace
        with self._gate.entered():
            self._index.put_meta(META_FINGERPRINT + namespace, fingerprint.to_json().encode())
        return namespace

    def fingerprints(self) -> dict[NamespaceId, str]:
        """Return every fingerprint that was ever registered, as canonical JSON."""
        with self._gate.entered():
            return {
                NamespaceId(key[len(META_FINGERPRINT) :]): value.decode()
                for key, value in self._index.scan_meta(META_FINGERPRINT)
            }

    def probe(self, path: PagePath) -> int:
        """Return how many leading pages of the call are stored, without reading a page.

        Cost: one lookup for a path that is not stored, else one step of an iterator a page found.

        Raises:
            UnavailableError, ClosedError.
        """
        with self._gate.entered():
            num_hits = self._num_current(path, self._index.walk(keycodec.encode(path)))
        self._counters.add(pages_probed=path.num_pages, pages_hit=num_hits)
        return num_hits

    def put_batch(
        self,
        path: PagePath,
        pages: Sequence[PageBuffer],
        *,
        still_valid: Callable[[], bool] | None = None,
    ) -> bool:
        """Store the pages of one radix path, parents before children; True unless withdrawn.

        Readable on return; survives the death of the process; durable against power loss as
        `LogConfig.durability` says. A page stored already is skipped, so repeating a call writes
        nothing.

        Args:
            path: names the pages; `path.num_pages` of them.
            pages: one buffer a page, borrowed until return.
            still_valid: for memory that its owner may reuse during the call. Asked once the bytes
                have been taken and before they can be found; False withdraws the call.

        Raises:
            UnavailableError: no room or an I/O error; pages of the call may be missing.
            ClosedError.
        """
        _check_counts(path, pages)
        keys = list(keycodec.encode(path))
        try:
            with self._gate.entered():
                missing = self._missing(path, keys)
                if missing and not self._append(path, keys, pages, missing, still_valid):
                    return False
        except StoreError:
            self._counters.add(puts_failed=1)
            raise
        self._counters.add(
            pages_put=len(missing),
            bytes_put=sum(page_bytes(pages[i]) for i in missing),
            pages_skipped=len(keys) - len(missing),
        )
        return True

    def get_batch(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Load the leading pages of the call that are stored; return how many.

        Every page counted was verified. The content of the buffers behind the leading run is
        undefined. A page of another size than its buffer ends the run.

        Args:
            path: names the pages.
            out: one writable buffer a page, borrowed until return.

        Raises:
            UnavailableError: the index failed. (A page that cannot be read is a miss.)
            ClosedError.
        """
        _check_counts(path, out)
        keys = list(keycodec.encode(path))
        with self._gate.entered():
            values = self._index.walk(keys)
            locations = [
                format.decode_index_value(value)
                for value in values[: self._num_current(path, values)]
            ]
            num_fitting = next(
                (i for i, at in enumerate(locations) if at.length != page_bytes(out[i])),
                len(locations),
            )
            locations = locations[:num_fitting]
            result = self._log.read(keys[:num_fitting], locations, out[:num_fitting])
            if result.damaged:
                self._forget(keys, locations, result.damaged)
        num_pages = next((i for i, ok in enumerate(result.intact) if not ok), num_fitting)
        self._counters.add(
            pages_got=num_pages,
            bytes_got=sum(at.length for at in locations[:num_pages]),
            pages_damaged=len(result.damaged),
        )
        return num_pages

    def delete_subtree(self, path: PagePath) -> int:
        """Forget the last page of `path` and everything stored below it; return how many pages.

        Pages behind a group's end that is not stored itself are not reached: the index spells a
        path in groups, and only that page leads from one to the next.

        Cost: one range of the index for each group of the subtree. Their bytes are given back as
        segments are evicted.

        Raises:
            UnavailableError, ClosedError.
        """
        last = PagePath(path.namespace, path.hashes, len(path.hashes) - 1)
        num_deleted, prefixes = 0, list(keycodec.encode(last))
        with self._gate.entered():
            while prefixes:
                prefix = prefixes.pop()
                keys = [key for key, _ in self._index.scan(prefix, keycodec.range_end(prefix))]
                prefixes += [keycodec.group_below(k) for k in keys if keycodec.extends_group(k)]
                self._index.delete(keys)
                num_deleted += len(keys)
        return num_deleted

    def clear(self, namespace: NamespaceId) -> None:
        """Forget every page of a namespace. Their bytes are given back as segments are evicted.

        Raises:
            UnavailableError, ClosedError.
        """
        end = keycodec.range_end(namespace)
        with self._gate.entered():
            self._index.delete_range(namespace, end if end is not None else b"\xff" * 9)

    def stats(self) -> StoreStats:
        """Return totals and sizes. O(number of segments), touches no disk."""
        stats = self._counters.snapshot()
        stats.num_segments = len(self._log.segment_ids())
        stats.allocated_bytes = self._log.allocated_bytes()
        stats.quota_bytes = self.config.quota_bytes
        return stats

    def sync(self) -> None:
        """Make every put so far durable against power loss.

        Raises:
            UnavailableError, ClosedError.
        """
        with self._gate.entered():
            self._log.sync()
            self._index.sync()

    def close(self) -> None:
        """Wait for calls under way, flush and close. Idempotent."""
        if not self._gate.close():
            return
        if self._syncer is not None:
            self._syncer.stop()
        self._close_parts()

    def _close_parts(self) -> None:
        """Close what was opened, in reverse; the first failure is raised when all are closed."""
        with ExitStack() as stack:
            stack.callback(self._lock_file.release)
            if hasattr(self, "_index"):
                stack.callback(self._index.close)
            if hasattr(self, "_log"):
                stack.callback(self._log.close)

    def drop_cache(self) -> None:
        """Sync, then ask that the page cache forget all pages; for benchmarks."""
        with self._gate.entered():
            self._log.drop_cache()

    def _num_current(self, path: PagePath, values: Sequence[bytes]) -> int:
        """Return how many leading index values belong to the pages of `path` and can be read."""
        last_segment = -1
        for i, value in enumerate(values):
            segment_id, tail = format.index_value_owner(value)
            if tail != keycodec.hash_tail(path.hashes[path.start + i]):
                return i
            # Neighbours lie in one segment, so the log is rarely asked.
            if segment_id != last_segment and not self._log.has(segment_id):
                return i
            last_segment = segment_id
        return len(values)

    def _missing(self, path: PagePath, keys: Sequence[bytes]) -> list[int]:
        """Return the indices of the pages of the call that have to be written."""
        missing = []
        for i, value in enumerate(self._index.get(keys)):
            if value is not None:
                segment_id, tail = format.index_value_owner(value)
                is_ours = tail == keycodec.hash_tail(path.hashes[path.start + i])
                if is_ours and self._log.has(segment_id):
                    continue
            missing.append(i)
        return missing

    def _append(
        self,
        path: PagePath,
        keys: Sequence[bytes],
        pages: Sequence[PageBuffer],
        missing: Sequence[int],
        still_valid: Callable[[], bool] | None,
    ) -> bool:
        new_keys = [keys[i] for i in missing]
        locations = self._log.append(
            new_keys,
            [keycodec.hash_tail(path.hashes[path.start + i]) for i in missing],
            [pages[i] for i in missing],
            still_valid=still_valid,
        )
        if locations is None:
            return False
        values = map(format.encode_index_value, locations)
        self._index.put(list(zip(new_keys, values, strict=True)))
        # A call that nearly fills the store may have evicted its own first pages meanwhile.
        gone = [
            key
            for key, at in zip(new_keys, locations, strict=True)
            if not self._log.has(at.segment_id)
        ]
        if gone:
            self._index.delete(gone)
            self._counters.add(pages_evicted=len(gone))
        if self.config.log.durability == "batch":
            self._index.sync()
        return True

    def _forget(
        self, keys: Sequence[bytes], locations: Sequence[Location], damaged: Sequence[int]
    ) -> None:
        """Drop the entries of damaged pages, unless they have been rewritten meanwhile."""
        logger.warning("pages failed verification, now misses. num_pages=%d", len(damaged))
        suspects = [keys[i] for i in damaged]
        current = self._index.get(suspects)
        seen = [format.encode_index_value(locations[i]) for i in damaged]
        self._index.delete(
            [key for key, now, was in zip(suspects, current, seen, strict=True) if now == was]
        )

    def _mark_index_damaged(self) -> None:
        """See to it that the next start rebuilds the index from the log.

        Until then, what its damaged blocks held are misses; the rest goes on being found.
        """
        logger.error("the index is damaged; the next start rebuilds it. path=%s", self.directory)
        try:
            self._fs.replace(self.directory / _DAMAGED_NAME, b"")
        except UnavailableError as error:
            logger.warning("cannot note that the index is damaged. reason=%s", error)

    def _admit_segment(self, segment_id: int, num_bytes: int) -> None:
        """Make room for a new segment; called by the log under its tail lock."""
        # An id must not come back after its file was lost: old entries would seem to be stored.
        self._index.put_meta(_META_NEXT_SEGMENT, b"%d" % (segment_id + 1))
        self._make_room(num_bytes)

    def _shrink_to_quota(self) -> None:
        """Evict what a larger quota of an earlier process let in."""
        for segment_id in self._log.sealed_ids():
            if self._log.allocated_bytes() <= self.config.quota_bytes:
                return
            self._evict_segment(segment_id)

    def _make_room(self, num_bytes: int) -> None:
        """Evict the oldest segments until `num_bytes` more fit the quota and the free-space floor.

        Raises:
            UnavailableError: nothing is left to evict.
        """
        quota, floor = self.config.quota_bytes, self.config.min_free_bytes
        for segment_id in [*self._log.sealed_ids(), None]:
            fits_quota = self._log.allocated_bytes() + num_bytes <= quota
            if fits_quota and self._fs.free_bytes(self.directory) - num_bytes >= floor:
                return
            if segment_id is None:
                raise UnavailableError("no room: the disk is at its free-space floor")
            self._evict_segment(segment_id)

    def _evict_segment(self, segment_id: int) -> None:
        keys = [entry.key for batch in self._log.batches(segment_id) for entry in batch.entries]
        # A key may have been rewritten into a younger segment: that entry stays.
        stale = [
            key
            for key, value in zip(keys, self._index.get(keys), strict=True)
            if value is not None and format.decode_index_value(value).segment_id == segment_id
        ]
        self._index.delete(stale)
        self._log.drop(segment_id)
        self._counters.add(pages_evicted=len(stale))

    def _rebuild_index(self) -> None:
        """Fill a new index from the batch headers of the log; later batches win."""
        num_pages = 0
        for segment_id in self._log.segment_ids():
            for batch in self._log.batches(segment_id):
                entries = [
                    (entry.key, format.encode_index_value(location))
                    for entry, location in zip(batch.entries, batch.locations(), strict=True)
                ]
                self._index.put(entries)
                num_pages += len(entries)
        self._index.put_meta(_META_COMPLETE, b"1")
        if num_pages:
            logger.warning("the index was rebuilt from the log. num_pages=%d", num_pages)


class _Gate:
    """Counts calls under way, so that closing can wait for them. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._num_inside = 0
        self._closed = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold the store open inside the block; raises ClosedError once it is closing."""
        with self._condition:
            if self._closed:
                raise ClosedError("the store is closed")
            self._num_inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._num_inside -= 1
                self._condition.notify_all()

    def close(self) -> bool:
        """Refuse new calls and wait for those inside; False if it was closed before."""
        with self._condition:
            if self._closed:
                return False
            self._closed = True
            self._condition.wait_for(lambda: self._num_inside == 0)
        return True


def check_directory(directory: Path) -> None:
    """Check that a store could be opened in `directory`, changing nothing that is in it.

    Raises:
        ConfigError: another process has it open, it holds something else, or cannot be written.
        FormatVersionError: written by a newer version.
    """
    fs = LocalFileSystem()
    try:
        fs.make_dir(directory)
        lock = fs.lock(directory / _LOCK_NAME)
    except UnavailableError as error:
        raise ConfigError(f"the store directory cannot be used: {error}") from error
    try:
        _read_facts(fs, directory)
    finally:
        lock.release()


def _read_facts(fs: FileSystem, directory: Path) -> bool:
    """Return whether `directory` holds a store already."""
    content = fs.read(directory / FACTS_NAME)
    if content is not None:
        format.decode_store_facts(content)
        return True
    foreign = [name for name in fs.list_dir(directory) if name not in _NO_CONTENT]
    if foreign:
        raise ConfigError(
            "the directory is not empty and holds no store; choose another, or empty it. "
            f"path={directory} found={foreign[0]!r}"
        )
    return False


def _check_facts(fs: FileSystem, directory: Path) -> None:
    if not _read_facts(fs, directory):
        fs.replace(directory / FACTS_NAME, format.encode_store_facts({"kind": "sglang-lsm"}))


def _discard_damaged_index(fs: FileSystem, directory: Path) -> None:
    if fs.read(directory / _DAMAGED_NAME) is not None:
        logger.warning("the index was found damaged; rebuilding it. path=%s", directory)
        fs.remove_tree(directory / INDEX_NAME)
        fs.unlink(directory / _DAMAGED_NAME)


def _open_index(
    fs: FileSystem, directory: Path, open_index: Callable[[Path], PageIndex]
) -> PageIndex:
    # Called also while serving: a directory that was deleted meanwhile must not come back as an
    # index alone, which the next start would refuse as somebody else's.
    if fs.read(directory / FACTS_NAME) is None:
        raise UnavailableError(f"the store was deleted while it was open. path={directory}")
    path = directory / INDEX_NAME
    try:
        return open_index(path)
    except CorruptionError as error:
        logger.warning("the index is damaged; it will be rebuilt from the log. reason=%s", error)
        fs.remove_tree(path)
        return open_index(path)


def _check_counts(path: PagePath, buffers: Sequence[PageBuffer]) -> None:
    if len(buffers) != path.num_pages:
        raise ValueError(f"one buffer a page. pages={path.num_pages} buffers={len(buffers)}")
