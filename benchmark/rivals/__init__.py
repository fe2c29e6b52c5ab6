"""Every way of keeping pages on disk that the engine is measured against, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmark.rivals.interface import EvictingRival, Rival, RivalUnavailableError, Space

__all__ = [
    "RIVALS",
    "VARIANTS",
    "EvictingRival",
    "Rival",
    "RivalSpec",
    "RivalUnavailableError",
    "Space",
    "open_rival",
]


@dataclass(frozen=True, slots=True)
class RivalSpec:
    """A rival's name in every table, what it is, and how to open it."""

    name: str
    about: str
    open: Callable[[Space], Rival]
    """Imports what it needs; raises RivalUnavailableError with the reason where it cannot run."""
    evicts: bool = False
    """Whether it is an EvictingRival."""


def open_rival(name: str, space: Space) -> Rival:
    """Open the rival `name` in the empty directory of `space`.

    Raises:
        KeyError: no rival of that name.
        RivalUnavailableError: it cannot run here.
    """
    return (RIVALS.get(name) or VARIANTS[name]).open(space)


def _store(*, io_bytes_is_page: bool = False, **settings: object) -> Callable[[Space], Rival]:
    def opened(space: Space) -> Rival:
        from sglang_lsm.config import LogConfig

        from benchmark.rivals.lsm_store import LsmStore

        chosen = {"io_bytes": space.page_bytes} if io_bytes_is_page else {}
        return LsmStore(space, LogConfig(**settings, **chosen))

    return opened


def _hicache_file(*, bounded: bool) -> Callable[[Space], Rival]:
    def opened(space: Space) -> Rival:
        from benchmark.rivals.hicache_file import HiCacheFileRival

        return HiCacheFileRival(space, bounded=bounded)

    return opened


def _rocksdb(*, blobs: bool, wal: bool) -> Callable[[Space], Rival]:
    def opened(space: Space) -> Rival:
        from benchmark.rivals.rocksdb_values import RocksdbValues

        return RocksdbValues(space, blobs=blobs, wal=wal)

    return opened


def _lmdb(space: Space) -> Rival:
    from benchmark.rivals.lmdb_map import LmdbMap

    return LmdbMap(space)


def _raw_file(*, direct: bool, threads: int) -> Callable[[Space], Rival]:
    def opened(space: Space) -> Rival:
        from benchmark.rivals.raw_file import RawFile

        return RawFile(space, direct=direct, threads=threads)

    return opened


def _lmcache_file(*, direct: bool) -> Callable[[Space], Rival]:
    def opened(space: Space) -> Rival:
        from benchmark.rivals.lmcache import LmcacheFile

        return LmcacheFile(space, direct=direct)

    return opened


def _lmcache_raw_block(space: Space) -> Rival:
    from benchmark.rivals.lmcache import LmcacheRawBlock

    return LmcacheRawBlock(space)


def _hash_log(io_mode: str) -> Callable[[Space], Rival]:
    def opened(space: Space) -> Rival:
        from benchmark.rivals.hash_log import HashLog

        return HashLog(space, io_mode=io_mode)

    return opened


_SPECS = (
    RivalSpec("store_auto", "this engine, I/O mode auto, checksums on", _store(), True),
    RivalSpec(
        "store_buffered",
        "this engine through the page cache",
        _store(io_mode="buffered"),
        True,
    ),
    RivalSpec("store_direct", "this engine with O_DIRECT", _store(io_mode="direct"), True),
    RivalSpec(
        "store_unverified",
        "this engine, I/O mode auto, checksums not verified",
        _store(unsafe_skip_checksums=True),
        True,
    ),
    RivalSpec("hash_log_buffered", "hash index in memory over the same log", _hash_log("buffered")),
    RivalSpec("hash_log_direct", "hash index in memory over the same log", _hash_log("direct")),
    RivalSpec(
        "hicache_file", "SGLang's HiCacheFile as it comes", _hicache_file(bounded=False), True
    ),
    RivalSpec(
        "hicache_file_lru",
        "SGLang's HiCacheFile with its LRU evictor and metadata cache",
        _hicache_file(bounded=True),
        True,
    ),
    RivalSpec(
        "lmcache_buffered", "LMCache's native file client", _lmcache_file(direct=False), True
    ),
    RivalSpec("lmcache_direct", "the same with O_DIRECT", _lmcache_file(direct=True), True),
    RivalSpec("lmcache_raw_block", "LMCache's raw-block device, io_uring", _lmcache_raw_block),
    RivalSpec("blobdb", "RocksDB BlobDB, no WAL", _rocksdb(blobs=True, wal=False), True),
    RivalSpec(
        "blobdb_wal", "RocksDB BlobDB, pages in the WAL", _rocksdb(blobs=True, wal=True), True
    ),
    RivalSpec("sst", "RocksDB, values in tables, no WAL", _rocksdb(blobs=False, wal=False), True),
    RivalSpec("lmdb", "LMDB", _lmdb, True),
    RivalSpec("raw_buffered", "one raw file", _raw_file(direct=False, threads=1)),
    RivalSpec("raw_direct", "one raw file, O_DIRECT", _raw_file(direct=True, threads=1)),
    RivalSpec("raw_direct_4t", "the same, 4 threads", _raw_file(direct=True, threads=4)),
)

RIVALS: dict[str, RivalSpec] = {spec.name: spec for spec in _SPECS}
"""In the order of the tables."""

VARIANTS: dict[str, RivalSpec] = {
    spec.name: spec
    for spec in (
        RivalSpec(
            "store_page_calls",
            "this engine, one system call a page",
            _store(io_bytes_is_page=True),
        ),
        RivalSpec("store_1_reader", "this engine, one reader thread", _store(reader_threads=1)),
        RivalSpec("store_2_readers", "this engine, two reader threads", _store(reader_threads=2)),
    )
}
"""This engine with one part of it changed, for the ablation."""
