"""Page bytes inside RocksDB: as blobs beside the tables, or in the tables themselves."""

from collections.abc import Sequence
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)
from sglang_lsm import keycodec
from sglang_lsm.pages import PageBuffer, PagePath

from benchmark.rivals.disk import allocated_bytes, drop_cached_pages
from benchmark.rivals.interface import Space

_MEMTABLE_BYTES = 64 << 20
_BLOCK_CACHE_BYTES = 64 << 20
_BLOB_FILE_BYTES = 256 << 20


class RocksdbValues:
    """One RocksDB entry a page, keyed like our index, so that only the values' place differs.

    Args:
        blobs: values in blob files (key-value separation) instead of tables.
        wal: log pages before the memtable; off is its best case, and loses the memtables at a
            crash, so `sync` flushes them.
    """

    def __init__(self, space: Space, *, blobs: bool, wal: bool) -> None:
        self._space = space
        self._blobs = blobs
        self._wal = wal
        self._write_options = WriteOptions()
        self._write_options.disable_wal = not wal
        self._db = self._open()

    def put(self, path: PagePath, pages: Sequence[PageBuffer]) -> None:
        """Write the pages as one batch; the binding takes `bytes` only, so each page is copied."""
        batch = WriteBatch(raw_mode=True)
        for key, page in zip(keycodec.encode(path), pages, strict=True):
            batch.put(key, bytes(page[0]))
        self._db.write(batch, self._write_options)

    def sync(self) -> None:
        """Sync the WAL, or write the memtables out where there is none."""
        if self._wal:
            self._db.flush_wal(True)
        else:
            self._db.flush(True)

    def get(self, path: PagePath, out: Sequence[PageBuffer]) -> int:
        """Fetch the pages with one MultiGet and copy them out."""
        values = self._db.get(list(keycodec.encode(path)))
        for num_pages, (value, page) in enumerate(zip(values, out, strict=True)):
            if value is None:
                return num_pages
            page[0][:] = value
        return len(out)

    def drop_page_cache(self) -> None:
        """Reopen, which empties memtables and block cache, and forget the files' cached pages."""
        self._db.close()
        drop_cached_pages(self._space.directory)
        self._db = self._open()

    def disk_bytes(self) -> int:
        """Blocks of all files."""
        return allocated_bytes(self._space.directory)

    def delete(self, path: PagePath) -> None:
        """Write tombstones."""
        batch = WriteBatch(raw_mode=True)
        for key in keycodec.encode(path):
            batch.delete(key)
        self._db.write(batch, self._write_options)

    def reclaim(self) -> None:
        """Compact everything down, which also rewrites the blob files that have garbage."""
        self._db.flush(True)
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        self._db.compact_range(None, None, options)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _open(self) -> Rdict:
        return Rdict(str(self._database), self._options())

    @property
    def _database(self) -> Path:
        return self._space.directory / "rocksdb"

    def _options(self) -> Options:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(_MEMTABLE_BYTES)
        options.set_max_write_buffer_number(4)
        options.set_max_background_jobs(4)
        options.set_compression_type(DBCompressionType.none())
        table = BlockBasedOptions()
        table.set_block_cache(Cache(_BLOCK_CACHE_BYTES))
        table.set_bloom_filter(10, False)
        options.set_block_based_table_factory(table)
        if self._blobs:
            options.set_enable_blob_files(True)
            options.set_min_blob_size(4096)
            options.set_blob_file_size(_BLOB_FILE_BYTES)
            options.set_blob_compression_type(DBCompressionType.none())
            options.set_enable_blob_gc(True)
            options.set_blob_gc_age_cutoff(1.0)
            options.set_blob_gc_force_threshold(0.3)
        return options
