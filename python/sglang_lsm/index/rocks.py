"""`PageIndex` on RocksDB, through rocksdict.

What the binding forces on us, measured: `next()` on an exhausted iterator kills the process, so
`valid()` is asked first; puts, writes and iteration hold the GIL, so batches stay at some hundred
keys; only `get([list])` releases it; a read-write open claims the directory; a compaction style
cannot be changed live. All errors come as plain `Exception`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from rocksdict import (
    AccessType,
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
)

from sglang_lsm.config import IndexConfig
from sglang_lsm.errors import CorruptionError, UnavailableError
from sglang_lsm.index.page_index import Scan
from sglang_lsm.index.path_walk import walk_path
from sglang_lsm.keycodec import range_end
from sglang_lsm.pages import PagePath

META_FAMILY = "meta"
_BLOCK_BYTES = 16 << 10
# Between restarts keys are stored as differences. A page's key differs from the one before by 8
# bytes, while a restart spells out up to 528: few restarts keep an entry small.
_RESTART_INTERVAL = 32
_INDEX_RESTART_INTERVAL = 16
_PARTITION_BYTES = 4 << 10
_MAX_OPEN_FILES = 512
_SCAN_AHEAD_BYTES = 2 << 20
_READ_ONLY_CACHE_BYTES = 32 << 20
_END = (b"", b"")

Entries = Iterator[tuple[bytes, bytes]]


class RocksIndex:
    """The index of one store. Thread-safe, except that `close` must come last."""

    def __init__(self, path: Path, config: IndexConfig) -> None:
        self._cache = Cache(config.block_cache_bytes)
        options = _options(config, self._cache)
        with _typed_errors("open"):
            self._db = Rdict(str(path), options, {META_FAMILY: Options(raw_mode=True)})
            self._meta = self._db.get_column_family(META_FAMILY)

    @classmethod
    def open_read_only(cls, path: Path) -> "RocksIndex":
        """Open what is on the disk now, beside the process that writes it; a snapshot.

        Raises:
            UnavailableError: there is no index, or it cannot be read.
        """
        index = cls.__new__(cls)
        index._cache = Cache(_READ_ONLY_CACHE_BYTES)
        options = _options(IndexConfig(), index._cache)
        options.create_if_missing(False)
        with _typed_errors("open"):
            index._db = Rdict(
                str(path),
                options,
                {META_FAMILY: Options(raw_mode=True)},
                access_type=AccessType.read_only(),
            )
            index._meta = index._db.get_column_family(META_FAMILY)
        return index

    def walk(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return the values of the leading run of `keys` that is stored.

        Cost: one point lookup for a path that is not stored at all (a Bloom filter answers), else
        one step of an iterator a page and one seek where a sibling's subtree lies between.
        """
        with _typed_errors("walk"):
            rest = iter(keys)
            first = next(rest, None)
            if first is None:
                return []
            value = self._db.get(first)
            if value is None:
                return []
            values, entries = [value], self._items_from(first)
            # The same page again: only now is it known where the next one lies.
            if next(entries, _END)[0] != first:
                return []
            last = first
            for key in rest:
                # One call of the binding for key and value; a cursor takes three.
                stored_key, value = next(entries, _END)
                if stored_key > key > last:
                    break
                if stored_key != key:
                    entries = self._entries_from(key)
                    stored_key, value = next(entries, _END)
                    if stored_key != key:
                        break
                values.append(value)
                last = key
            return values

    def _entries_from(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Return the entries from `key` on if it is stored, else nothing; raises on damage."""
        cursor = self._db.iter()
        cursor.seek(key)
        # An exhausted cursor has the key None. Damage looks like the end, but for its status.
        if cursor.key() != key:
            cursor.status()
            return iter(())
        return self._items_from(key)

    def _items_from(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        # The binding declares its keys for all its modes; in raw mode they are bytes.
        return cast(Entries, self._db.items(from_key=key))

    def walk_path(self, path: PagePath) -> list[bytes]:
        """Return the values of the leading pages of a call that are stored, see `path_walk`."""
        with _typed_errors("walk_path"):
            return walk_path(self._db, path)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key. Releases the GIL."""
        with _typed_errors("get"):
            return self._db.get(list(keys)) or []

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Store all entries or none; survives the death of the process."""
        batch = WriteBatch(raw_mode=True)
        for key, value in entries:
            batch.put(key, value)
        with _typed_errors("put"):
            self._db.write(batch)

    def delete(self, keys: Sequence[bytes]) -> None:
        """Delete all keys or none; absent ones are fine."""
        batch = WriteBatch(raw_mode=True)
        for key in keys:
            batch.delete(key)
        with _typed_errors("delete"):
            self._db.write(batch)

    def scan(self, start: bytes, end: bytes | None) -> Scan:
        """Yield the entries in `[start, end)` in key order, as of the first step.

        Cost: 0.3 us an entry.
        """
        return self._scan(self._db, start, end)

    def approximate_len(self) -> int:
        """Return about how many entries there are; one that was written twice may count twice."""
        return self.property("rocksdb.estimate-num-keys")

    def get_meta(self, key: bytes) -> bytes | None:
        """Return one fact, or None."""
        with _typed_errors("get_meta"):
            value: bytes | None = self._meta.get(key)
            return value

    def put_meta(self, key: bytes, value: bytes) -> None:
        """Store one fact."""
        with _typed_errors("put_meta"):
            self._meta.put(key, value)

    def scan_meta(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the facts whose key starts with `prefix`."""
        return self._scan(self._meta, prefix, range_end(prefix))

    def tune(self, config: IndexConfig) -> None:
        """Apply the settings that RocksDB takes live; a new Bloom filter comes with new tables.

        Block cache and memtable take effect at once, size ratio and level-0 trigger with the next
        compaction.
        """
        with _typed_errors("tune"):
            self._cache.set_capacity(config.block_cache_bytes)
            self._db.set_options(
                {
                    "write_buffer_size": str(config.memtable_bytes),
                    "max_bytes_for_level_multiplier": str(config.size_ratio),
                    "level0_file_num_compaction_trigger": str(config.level0_trigger),
                }
            )

    def property(self, name: str) -> int:
        """Return one of RocksDB's integer properties, such as `rocksdb.estimate-num-keys`."""
        with _typed_errors("property"):
            return int(self._db.property_int_value(name) or 0)

    def compact(self) -> None:
        """Merge all tables into one sorted run. Long; for benchmarks and maintenance."""
        with _typed_errors("compact"):
            self._db.compact_range(None, None)

    def flush(self) -> None:
        """Write the memtable out as a table of level 0."""
        with _typed_errors("flush"):
            self._db.flush()

    def sync(self) -> None:
        """Make everything written so far durable."""
        with _typed_errors("sync"):
            self._db.flush_wal(True)

    def close(self) -> None:
        """Flush and close; no other call may follow or be under way."""
        with _typed_errors("close"):
            self._meta.close()
            self._db.close()

    @staticmethod
    def _scan(family: Rdict, start: bytes, end: bytes | None) -> Scan:
        options = ReadOptions()
        # What a scan has seen is not asked for again soon; what is asked for stays in the cache.
        options.fill_cache(False)  # type: ignore[call-arg]  # the stub lacks its argument
        if end is None:
            options.set_readahead_size(_SCAN_AHEAD_BYTES)
        else:
            options.set_iterate_upper_bound(end)
        last = start
        with _typed_errors("scan"):
            # One call of the binding for key and value; a cursor takes three. No snapshot: letting
            # go of one makes RocksDB compact what it has compacted already.
            entries = cast(Entries, family.items(from_key=start, read_opt=options))
            cursor = family.iter(options)
            for last, value in entries:
                yield last, value
            # Damage looks like the end, and only a cursor tells what lies behind the last entry:
            # nothing, a block that cannot be read, or one that could not be read the first time.
            cursor.seek(last)
            if cursor.valid() and cursor.key() == last:
                cursor.next()
            while cursor.valid():
                yield cursor.key(), cursor.value()
                cursor.next()
            cursor.status()


def _options(config: IndexConfig, cache: Cache) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_block_size(_BLOCK_BYTES)
    table.set_block_restart_interval(_RESTART_INTERVAL)
    table.set_format_version(5)
    # Filters and index blocks are charged to the cache, so that its size bounds the memory. They
    # are cut into partitions: keys of 500 bytes make one index block of megabytes, which no shard
    # of the cache can hold, and each lookup would read it again (measured: 130 us instead of 5).
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(_PARTITION_BYTES)
    table.set_pin_top_level_index_and_filter(True)
    table.set_index_block_restart_interval(_INDEX_RESTART_INTERVAL)
    if config.bloom_bits_per_key > 0:
        table.set_bloom_filter(config.bloom_bits_per_key, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(config.memtable_bytes)
    options.set_max_bytes_for_level_multiplier(float(config.size_ratio))
    options.set_level_zero_file_num_compaction_trigger(config.level0_trigger)
    options.set_max_total_wal_size(4 * config.memtable_bytes)
    options.set_max_open_files(_MAX_OPEN_FILES)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    return options


class _typed_errors:
    """Turns what the binding raises into errors of ours, inside a `with` block.

    A class, because a generator takes longer than a look-up that finds nothing.
    """

    __slots__ = ("_action",)

    def __init__(self, action: str) -> None:
        self._action = action

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # The binding raises nothing narrower than Exception.
        if not isinstance(error, Exception):
            return
        text = str(error)
        # A manifest that CURRENT names and nobody finds is damage, although RocksDB says I/O error.
        is_damage = "Corruption" in text or ("MANIFEST" in text and "No such file" in text)
        typed = CorruptionError if is_damage else UnavailableError
        raise typed(f"the index failed. action={self._action} reason={text}") from error
