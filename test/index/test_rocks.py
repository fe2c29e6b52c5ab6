"""What is RocksDB's alone; what every index owes stands in `test_page_index`."""

import os
import random

import pytest
from sglang_lsm.config import IndexConfig
from sglang_lsm.errors import CorruptionError, UnavailableError
from sglang_lsm.index.rocks import RocksIndex

CONFIG = IndexConfig(memtable_bytes=64 << 10, block_cache_bytes=1 << 20)


def filled(path, num_entries=2000):
    """Return an index with keys as long as those of deep paths."""
    index = RocksIndex(path, CONFIG)
    for first in range(0, num_entries, 100):
        index.put([(key(i), b"v" * 30) for i in range(first, first + 100)])
    return index


def key(i):
    return b"n" * 16 + b"trunk..." * 40 + i.to_bytes(8, "big")


def test_flushed_compacted_and_reopened_it_holds_the_same(tmp_path):
    index = filled(tmp_path / "index")
    expected = [(key(i), b"v" * 30) for i in range(2000)]
    for step in (index.flush, index.compact, index.sync):
        step()
        assert list(index.scan(b"", None)) == expected
    index.close()
    index = RocksIndex(tmp_path / "index", CONFIG)
    assert list(index.scan(b"", None)) == expected
    assert index.walk(key(i) for i in range(50)) == [b"v" * 30] * 50
    index.close()


def test_settings_change_while_it_serves(tmp_path):
    index = filled(tmp_path / "index")
    tuned = IndexConfig(memtable_bytes=1 << 20, size_ratio=4, level0_trigger=2, block_cache_bytes=0)
    index.tune(tuned)
    index.put([(key(i), b"new") for i in range(2000)])
    index.compact()
    assert index.get([key(0), key(1999), key(2000)]) == [b"new", b"new", None]
    assert index.property("rocksdb.estimate-num-keys") == 2000
    index.close()


def test_without_bloom_filter_and_cache(tmp_path):
    index = RocksIndex(tmp_path / "index", IndexConfig(bloom_bits_per_key=0, block_cache_bytes=0))
    index.put([(key(i), b"v") for i in range(100)])
    index.flush()
    assert index.walk([key(5), key(6)]) == [b"v", b"v"]
    assert index.walk([key(100)]) == []
    index.close()


def test_a_second_opening_is_refused_and_reading_beside_is_not(tmp_path):
    index = filled(tmp_path / "index", num_entries=100)
    with pytest.raises(UnavailableError):
        RocksIndex(tmp_path / "index", CONFIG)
    beside = RocksIndex.open_read_only(tmp_path / "index")
    assert beside.get([key(7)]) == [b"v" * 30]
    with pytest.raises(UnavailableError):
        beside.put([(b"key", b"value")])
    beside.close()
    index.close()


def test_reading_where_there_is_no_index_is_unavailable(tmp_path):
    with pytest.raises(UnavailableError):
        RocksIndex.open_read_only(tmp_path / "index")


def test_a_damaged_block_is_corruption(tmp_path):
    index = filled(tmp_path / "index")
    index.flush()
    index.compact()
    index.close()
    for table in (tmp_path / "index").glob("*.sst"):
        with table.open("r+b") as file:
            file.write(bytes(64))
    index = RocksIndex(tmp_path / "index", CONFIG)
    with pytest.raises(CorruptionError):
        index.get([key(0)])
    with pytest.raises(CorruptionError):
        index.walk([key(0), key(1)])
    with pytest.raises(CorruptionError):
        list(index.scan(b"", None))
    index.close()


def test_damage_behind_good_blocks_is_not_the_end_of_a_scan(tmp_path):
    values = random.Random(0)
    index = RocksIndex(tmp_path / "index", IndexConfig())
    index.put([(key(i), values.randbytes(30)) for i in range(2000)])
    index.flush()
    index.close()
    # One table of some 40 blocks.
    table = max((tmp_path / "index").glob("*.sst"), key=lambda table: table.stat().st_size)
    with table.open("r+b") as file:
        file.seek(table.stat().st_size // 2)
        file.write(bytes(64))
    index = RocksIndex(tmp_path / "index", IndexConfig())
    found = []
    with pytest.raises(CorruptionError):
        found.extend(index.scan(b"", None))
    assert 0 < len(found) < 2000
    assert [k for k, _ in found] == [key(i) for i in range(len(found))]
    index.close()


@pytest.mark.parametrize("harm", [os.unlink, lambda path: path.write_bytes(b"")])
def test_a_lost_manifest_is_corruption(tmp_path, harm):
    """RocksDB calls a manifest that is gone an I/O error, and so the store refused to open."""
    filled(tmp_path / "index", num_entries=100).close()
    for path in (tmp_path / "index").glob("MANIFEST-*"):
        harm(path)
    with pytest.raises(CorruptionError):
        RocksIndex(tmp_path / "index", CONFIG)
