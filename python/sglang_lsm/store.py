"""The store: pages by radix path, on one directory of one local disk.

Directory layout:

    STORE        what this is, and its format version
    LOCK         held by the one process that has the store open
    index/       RocksDB: page keys to locations, and the fingerprints of all namespaces
    log/         segments of the tensor log
    PAGES        the page table as of a clean close, for a start without a scan
    HOLDS        what operators asked for of prefixes: pins, priorities, expiry
    INDEX_DAMAGED  while serving, the index was found damaged: the next start rebuilds it

Invariants: a page handed out was verified against a checksum seeded with its key; an index entry is
written only after its bytes; an entry whose segment is gone is a miss; the log holds no more than
the quota. Losing any file costs pages, never a wrong page.
"""

import atexit
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path

from sglang_lsm import format, keycodec
from sglang_lsm.admission import Doorkeeper
from sglang_lsm.background import ENCODE_INTERVAL_S, MERGE_INTERVAL_S, Background
from sglang_lsm.catalog import Catalog
from sglang_lsm.clock import Clock
from sglang_lsm.config import StoreConfig, require_live
from sglang_lsm.copying import Shrinkage
from sglang_lsm.directory import (
    LOG_NAME,
    META_COMPLETE,
    META_FINGERPRINT,
    META_NEXT_SEGMENT,
    claim_directory,
    create_facts,
    discard_damaged_index,
    mark_index_damaged,
    open_store_index,
)
from sglang_lsm.errors import StoreError, UnavailableError
from sglang_lsm.eviction.places import MAX_LENGTH_BYTES
from sglang_lsm.fs import FileSystem, LocalFileSystem
from sglang_lsm.gate import Gate
from sglang_lsm.holds import Hold, Holds, digests_of
from sglang_lsm.index.healing import HealingIndex
from sglang_lsm.index.page_index import PageIndex
from sglang_lsm.index.rocks import RocksIndex
from sglang_lsm.lookup import check_counts, missing_pages, num_present, stored_pages
from sglang_lsm.observability.access_trace import AccessTrace
from sglang_lsm.observability.counters import Counters, StoreStats
from sglang_lsm.pages import Fingerprint, Location, NamespaceId, PageBuffer, PagePath, StoredPage
from sglang_lsm.periodic import Periodic
from sglang_lsm.recovery import KeptTable, keep_table, rebuild_index, take_table
from sglang_lsm.room import Room
from sglang_lsm.tensorlog.log import TensorLog
from sglang_lsm.tensorlog.paced import Pace, read_at_pace
from sglang_lsm.tensorlog.transfer import page_bytes


class Store:
    """Keeps and finds KV pages by radix path. Thread-safe."""

    def __init__(
        self,
        directory: Path,
        config: StoreConfig,
        *,
        fs: FileSystem,
        open_index: Callable[[Path], PageIndex],
        clock: Clock = Clock(),  # noqa: B008
        loads_behind: bool = True,
    ) -> None:
        """Open the parts; `Store.open` is the public way in.

        Args:
            loads_behind: scan the index for the page table, and merge, on threads beside serving.
        """
        self.directory, self.config = directory, config
        self._fs = fs
        self._counters = Counters()
        self._gate = Gate()
        self._clock = clock
        self._lock_file = claim_directory(fs, directory)
        try:
            create_facts(fs, directory)
            discard_damaged_index(fs, directory)
            self._index = HealingIndex(
                lambda: open_store_index(fs, directory, open_index),
                clock=clock.monotonic_s,
                on_damage=lambda: mark_index_damaged(fs, directory),
            )
            self._log = self._open_log()
            self._catalog = Catalog(
                self._index, self._log,
                recency_only=config.eviction == "lru", quota_bytes=config.quota_bytes,
            )  # fmt: skip
            self._doorkeeper = Doorkeeper()
            self._trace: AccessTrace | None = None
            self._room = Room(self._catalog, self._log, fs, directory, config)
            self._background = Background(
                self._index, self._log, self._catalog, self._room, self._counters
            )
            is_rebuilt = self._index.get_meta(META_COMPLETE) is None
            if is_rebuilt:
                rebuild_index(self._index, self._log)
            self._fill_catalog(is_rebuilt=is_rebuilt, is_behind=loads_behind)
            self._holds = Holds(
                self._catalog, fs, directory,
                max_pinned_bytes=int(config.pinned_share * config.quota_bytes),
                clock_ms=clock.wall_ms,
            )  # fmt: skip
            self._room.shrink(self._counters)
        except BaseException:
            # The page table may be loading already.
            self._gate.close()
            self._close_parts()
            raise
        self._threads: list[Periodic] = []
        if config.log.durability == "interval":
            sync_s = config.log.sync_interval_s
            self._threads.append(Periodic("kv-storage-sync", sync_s, self.sync))
        if loads_behind:
            self._threads.append(Periodic("kv-storage-upkeep", MERGE_INTERVAL_S, self._upkeep))
            self._threads.append(Periodic("kv-storage-encode", ENCODE_INTERVAL_S, self._encode))

    @classmethod
    def open(cls, directory: Path, config: StoreConfig) -> "Store":
        """Open or create the store in `directory`.

        Raises:
            ConfigError: another process has it open, or the directory holds something else, which
                is left as it was.
            FormatVersionError: written by a newer version; left untouched.
            UnavailableError: the directory cannot be read or written.
        """
        fs = LocalFileSystem()
        fs.make_dir(directory)
        store = cls(
            directory,
            config,
            fs=fs,
            open_index=lambda path: RocksIndex(path, config.index),
        )
        # A thread of ours inside RocksDB while the interpreter goes away would crash the process.
        atexit.register(store.close)
        return store

    def _open_log(self) -> TensorLog:
        next_id = self._index.get_meta(META_NEXT_SEGMENT)
        self._next_segment = int(next_id) if next_id else 1
        return TensorLog(
            self._fs,
            self.directory / LOG_NAME,
            self.config.log,
            admit=self._admit_segment,
            clock_ms=self._clock.wall_ms,
            first_id=self._next_segment,
        )

    def register(self, fingerprint: Fingerprint) -> NamespaceId:
        """Record a fingerprint, return its pages' namespace. Idempotent. Raises as `probe`."""
        namespace = fingerprint.namespace
        with self._gate.entered():
            self._index.put_meta(META_FINGERPRINT + namespace, fingerprint.to_json().encode())
        return namespace

    def fingerprints(self) -> dict[NamespaceId, str]:
        """Return every fingerprint that was ever registered, as canonical JSON."""
        with self._gate.entered():
            found = self._index.scan_meta(META_FINGERPRINT)
            return {NamespaceId(k[len(META_FINGERPRINT) :]): v.decode() for k, v in found}

    def probe(self, path: PagePath) -> int:
        """Return how many leading pages of the call are stored, without reading a page.

        Cost: one lookup for a path that is not stored, else see `index.path_walk`.

        Raises:
            UnavailableError, ClosedError.
        """
        with self._gate.entered(), self._log.spending.call("probe"):
            num_hits = num_present(self._log, self._index.walk_path(path))
            num_hits = min(num_hits, self._holds.num_unexpired(path))
        self._counters.add(pages_probed=path.num_pages, pages_hit=num_hits)
        return num_hits

    def stored(self, path: PagePath) -> list[bool]:
        """Return of each page whether it is stored, by a lookup each. Raises as `probe`."""
        with self._gate.entered():
            values = self._index.get(list(keycodec.encode(path)))
            return stored_pages(self._log, path, values, self._holds.num_unexpired(path))

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
        check_counts(path, pages)
        try:
            with self._gate.entered(), self._log.spending.call("write") as call:
                keys = list(keycodec.encode(path))
                if self._holds.num_unexpired(path) < path.num_pages:
                    # What has expired goes first, or it would take the new pages along.
                    self._expire()
                missing = missing_pages(self._log, path, self._index.get(keys))
                num_stored = len(keys) - len(missing)
                if self.config.admission == "second":
                    missing = self._doorkeeper.admit(path, missing, pages, self._counters)
                call.asked()
                if missing and not self._append(path, keys, pages, missing, still_valid):
                    return False
        except StoreError:
            self._counters.add(puts_failed=1)
            raise
        self._counters.add(
            pages_put=len(missing),
            bytes_put=sum(page_bytes(pages[i]) for i in missing),
            pages_skipped=num_stored,
            puts=1 if missing else 0,
        )
        return True

    def get_batch(self, path: PagePath, out: Sequence[PageBuffer], pace: Pace | None = None) -> int:
        """Load the leading pages of the call that are stored; return how many.

        Every page counted was verified. The content of the buffers behind the leading run is
        undefined. A page of another size than its buffer ends the run.

        Args:
            path: names the pages.
            out: one writable buffer a page, borrowed until return.
            pace: reads in parts as it says; it may end the run.

        Raises:
            UnavailableError: the index failed. (A page that cannot be read is a miss.)
            ClosedError.
        """
        check_counts(path, out)
        with self._gate.entered(), self._log.spending.call("read"):
            values = self._index.walk_path(path)[: self._holds.num_unexpired(path)]
            current = values[: num_present(self._log, values)]
            locations = [format.decode_index_value(value) for value in current]
            keys = list(islice(keycodec.encode(path), len(locations)))
            num_fitting = next(
                (
                    i
                    for i, at in enumerate(locations)
                    if at.length != page_bytes(out[i]) and not at.flags
                ),
                len(locations),
            )
            found = (keys[:num_fitting], locations[:num_fitting], out[:num_fitting])
            result = read_at_pace(self._log.read, pace, *found)
            num_damaged = self._catalog.forget(
                [keys[i] for i in result.damaged], [locations[i] for i in result.damaged]
            )
            num_pages = next((i for i, ok in enumerate(result.intact) if not ok), num_fitting)
            if num_pages:
                self._note_read(path, locations[:num_pages])
        self._counters.add(
            pages_got=num_pages,
            bytes_got=sum(at.length for at in locations[:num_pages]),
            pages_decoded=sum(1 for at in locations[:num_pages] if at.flags),
            pages_damaged=num_damaged,
            gets=1 if num_pages else 0,
        )
        return num_pages

    def delete_subtree(self, path: PagePath) -> int:
        """Forget the last page of `path` and everything stored below it; return how many pages.

        Cost: one range of the index for each group of the subtree, one pass over the page table,
        and a few us a page. Until the page table is complete (after kill -9), pages behind a
        group's end that is not stored itself are not reached.

        Raises:
            UnavailableError, ClosedError.
        """
        last = PagePath(path.namespace, path.hashes, len(path.hashes) - 1)
        with self._gate.entered():
            return self._catalog.forget_ranges(keycodec.encode(last))

    def list_subtree(self, path: PagePath, *, max_pages: int) -> list[StoredPage]:
        """Return the last page of `path` and what is stored below it, `max_pages` at most.

        A path without pages lists its whole namespace. Parents come before their extensions inside
        each group of 64 pages. Reads the index alone.

        Raises:
            UnavailableError, ClosedError.
        """
        last = PagePath(path.namespace, path.hashes, max(0, len(path.hashes) - 1))
        prefixes = list(keycodec.encode(last)) or [path.namespace]
        with self._gate.entered():
            return [
                StoredPage(key, format.decode_index_value(value).length)
                for key, value in islice(self._catalog.below(prefixes), max_pages)
            ]

    def hold(
        self, path: PagePath, *, pinned: bool = False, priority: int = 0, ttl_s: float | None = None
    ) -> None:
        """Keep a prefix, or have it forgotten in time; replaces what was asked of it before.

        Durable on return, also through kill -9 and the loss of the index. Pages that are not stored
        yet take it when they come. Without any wish, the prefix is released.

        Args:
            path: the prefix is all of it, from the root to its end.
            pinned: its pages are not evicted, up to `StoreConfig.pinned_share` of the quota; the
                quota and the free-space floor come first.
            priority: 0 to 3: its pages are evicted after all pages of a lower priority.
            ttl_s: seconds after which its last page and everything that extends it are misses, and
                are reclaimed. What is stored there afterwards stays.

        Raises:
            ValueError: a priority out of range, or a path without pages.
            UnavailableError: too much is held or pinned already, or an I/O error; nothing changed.
            ClosedError.
        """
        expires_at_ms = None if ttl_s is None else self._clock.wall_ms() + int(1000 * ttl_s)
        hold = Hold(
            namespace=path.namespace, digests=digests_of(path), pinned=pinned, priority=priority,
            expires_at_ms=expires_at_ms,
        )  # fmt: skip
        with self._gate.entered():
            self._holds.set(hold)

    def holds(self) -> list[Hold]:
        """Return what is asked for of prefixes, expired ones until they have been forgotten.

        Raises:
            ClosedError.
        """
        with self._gate.entered():
            return self._holds.all()

    def touch(self, path: PagePath) -> None:
        """Note that a request used the pages of `path` from the root to its end, in any tier.

        What is hot above must not be the first to leave the disk. Unknown pages are fine.

        Raises:
            ClosedError.
        """
        with self._gate.entered():
            self._catalog.touch(path)

    def clear(self, namespace: NamespaceId) -> None:
        """Forget every page of a namespace and give their bytes back.

        Raises:
            UnavailableError, ClosedError.
        """
        with self._gate.entered():
            self._catalog.forget_ranges([namespace])

    def stats(self) -> StoreStats:
        """Return totals and sizes. O(number of segments); may wait for a write to the index."""
        stats = self._counters.snapshot(self._log.spending.totals())
        stats.num_segments = len(self._log.segment_ids())
        stats.num_pages = sum(self._catalog.live_pages().values())
        stats.allocated_bytes = self.allocated_bytes()
        stats.quota_bytes = self.config.quota_bytes
        return stats

    def allocated_bytes(self) -> int:
        """Return the bytes of disk that are taken. O(number of segments), waits for no write."""
        return self._log.allocated_bytes()

    def tune(self, config: StoreConfig) -> None:
        """Go on with `config`, which differs in live settings only (`config.require_live`).

        Calls under way end as they began; no page is moved.

        Raises:
            ConfigError, UnavailableError, ClosedError: nothing was changed.
        """
        require_live(self.config, config)
        with self._gate.entered():
            if config.index != self.config.index:
                self._index.tune(config.index)
            self._log.tune(config.log)
            self.config = config

    def watch(self, trace: AccessTrace | None) -> None:
        """Note a sample of the pages read and written in `trace` from now on."""
        self._trace = trace

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
        atexit.unregister(self.close)
        for thread in self._threads:
            thread.stop()
        self._close_parts()

    def _close_parts(self) -> None:
        """Close what was opened, in reverse; the first failure is raised when all are closed."""
        with ExitStack() as stack:
            stack.callback(self._lock_file.release)
            if hasattr(self, "_index"):
                stack.callback(self._index.close)
            if hasattr(self, "_log"):
                stack.callback(self._log.close)
            if hasattr(self, "_catalog"):
                keep_table(self._fs, self.directory, self._catalog.checkpoint())

    def _fill_catalog(self, *, is_rebuilt: bool, is_behind: bool) -> None:
        """Begin to take the page table of the last close, or to scan the index for it."""
        kept = take_table(self._fs, self.directory, fits=not is_rebuilt)
        is_known = kept is not None
        load = partial(self._load_catalog, kept)
        # What has to go at once shall go by worth, if that is known in half a second.
        if is_behind and not (is_known and self._room.num_bytes_over() > 0):
            threading.Thread(target=load, name="kv-storage-load", daemon=True).start()
        else:
            load()

    def _load_catalog(self, kept: KeptTable | None) -> None:
        try:
            with self._gate.entered():
                dropped = self._catalog.load(
                    should_stop=lambda: self._gate.is_closing,
                    take_kept=kept.take if kept else None,
                )
                self._counters.add(pages_evicted=dropped)
        except StoreError:
            # Logged. Whole segments are evicted instead of pages, until the next start.
            return
        finally:
            if kept is not None:
                kept.close()

    def merge(self, path: PagePath) -> int:
        """Copy the stored pages of the call next to each other; return how many bytes were copied.

        Raises:
            UnavailableError, ClosedError.
        """
        with self._gate.entered():
            num_bytes = self._background.merger.merge(path)
        self._counters.add(bytes_merged=num_bytes)
        return num_bytes

    def try_encoding(self, max_bytes: int) -> Shrinkage:
        """Find out what `LogConfig.codec` would do to about `max_bytes` of pages that wait.

        Reads them, and writes nothing. Cost: 2 s of CPU a GB, one pass over the page table.

        Raises:
            UnavailableError, CorruptionError, ClosedError.
        """
        with self._gate.entered():
            return self._background.encoder.try_encoding(max_bytes)

    def drop_cache(self) -> None:
        """Sync, then ask that the page cache forget all pages; for benchmarks."""
        with self._gate.entered():
            self._log.drop_cache()

    def _append(
        self,
        path: PagePath,
        keys: Sequence[bytes],
        pages: Sequence[PageBuffer],
        missing: Sequence[int],
        still_valid: Callable[[], bool] | None,
    ) -> bool:
        longest = max(page_bytes(pages[i]) for i in missing)
        if longest > MAX_LENGTH_BYTES:
            # The page table could not tell where it lies, so it could never be evicted.
            raise UnavailableError(f"a page is too long. bytes={longest} limit={MAX_LENGTH_BYTES}")
        with self._catalog.storing(path):
            locations = self._log.append(
                [keys[i] for i in missing],
                [keycodec.hash_tail(path.hashes[path.start + i]) for i in missing],
                [pages[i] for i in missing],
                still_valid=still_valid,
            )
            if locations is None:
                return False
            num_kept = self._catalog.record(path, keys, missing, locations)
        if self._trace is not None:
            stored = [path.hashes[path.start + i] for i in missing]
            again_bytes = self._trace.note(stored, locations[0].length, is_write=True)
            if self.config.admission == "first":
                self._counters.add(bytes_offered_again=again_bytes)
        self._counters.add(pages_evicted=len(missing) - num_kept)
        if self.config.log.durability == "batch":
            self._index.sync()
        return True

    def _expire(self) -> None:
        self._counters.add(pages_expired=self._holds.expire())

    def _upkeep(self) -> None:
        """Do what is due now and then, on a thread of its own."""
        with self._gate.entered():
            self._catalog.note_touches()
            self._expire()
        self._merge()

    def _merge(self) -> None:
        with self._gate.entered():
            self._background.merge(self.config)

    def _encode(self) -> None:
        """Encode a little, unless there is something else to do."""
        if self._gate.is_idle:
            with self._gate.entered():
                self._background.encode(self.config)

    def _admit_segment(self, segment_id: int, num_bytes: int) -> None:
        """Make room for more of a segment; called by the log under its tail lock."""
        if segment_id >= self._next_segment:
            # An id must not come back after its file was lost: old entries would seem to be stored.
            self._index.put_meta(META_NEXT_SEGMENT, b"%d" % (segment_id + 1))
            self._next_segment = segment_id + 1
        self._room.make(num_bytes, self._counters)

    def _note_read(self, path: PagePath, locations: Sequence[Location]) -> None:
        end = path.start + len(locations)
        part = PagePath(path.namespace, path.hashes[:end], path.start)
        self._catalog.touch(part)
        self._counters.add(**self._background.merger.notice(part, locations, self.config.log))
        if self._trace is not None:
            self._trace.note(path.hashes[path.start : end], locations[0].length, is_write=False)
