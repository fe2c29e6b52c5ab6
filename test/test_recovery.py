from pathlib import Path

import pytest
from sglang_lsm.directory import META_COMPLETE, TABLE_NAME
from sglang_lsm.format import BLOCK_BYTES
from sglang_lsm.recovery import keep_table, rebuild_index, take_table
from support.catalog_bench import NAMESPACES, CatalogBench, key_of, pages_on, path_of
from support.fake_fs import FakeDisk

STORE = Path("/store")


def test_a_table_is_taken_once_even_if_power_is_lost():
    disk = FakeDisk()
    disk.make_dir(STORE)
    keep_table(disk, STORE, b"a table")
    kept = take_table(disk, STORE)
    assert kept.take() == b"a table"
    assert kept.take() is None
    disk.lose_power(1)
    assert take_table(disk, STORE) is None


def test_a_table_of_another_index_is_not_kept_for_a_later_start():
    disk = FakeDisk()
    disk.make_dir(STORE)
    keep_table(disk, STORE, b"a table")
    assert take_table(disk, STORE, fits=False) is None
    assert take_table(disk, STORE) is None


def test_a_table_that_cannot_be_read_is_scanned_anew():
    disk = FakeDisk()
    disk.make_dir(STORE)
    keep_table(disk, STORE, b"a table")
    kept = take_table(disk, STORE)
    disk.failing = {"preadv"}
    assert kept.take() is None
    assert kept.take() is None


def test_no_table_is_left_where_there_is_none_or_the_disk_fails():
    disk = FakeDisk()
    disk.make_dir(STORE)
    keep_table(disk, STORE, None)
    disk.failing = {"replace"}
    keep_table(disk, STORE, b"a table")
    disk.failing = set()
    assert not disk.files(f"*/{TABLE_NAME}")


def test_an_index_is_rebuilt_without_what_was_evicted():
    bench = CatalogBench()
    kept, gone = path_of(NAMESPACES[0], (0, 1)), path_of(NAMESPACES[0], (0, 2))
    bench.put(kept)
    bench.put(gone, [1])
    bench.forget([pages_on(gone)[-1]])
    bench.index_disk.wipe()
    assert rebuild_index(bench.index, bench.log) == 2
    assert set(bench.index_disk.current.pages) == {key_of(page) for page in pages_on(kept)}
    assert bench.index.get_meta(META_COMPLETE) is not None
    bench.check_stored()
    bench.close()


@pytest.mark.parametrize("fault", ["a header", "has_data"])
def test_what_the_disk_does_not_tell_of_is_a_miss_in_a_rebuilt_index(fault):
    """One unreadable block kept the store from opening, at every start."""
    bench = CatalogBench()
    for name in (1, 2):
        bench.put(path_of(NAMESPACES[0], (0, name)), [1])
    bench.index_disk.wipe()
    first = next(batch for i in bench.log.segment_ids() for batch in bench.log.batches(i))
    if fault == "a header":
        (place,) = bench.disk.files("*.seg")
        bench.disk.unreadable = {(place, first.offset // BLOCK_BYTES)}
    else:
        bench.disk.failing = {fault}
    assert rebuild_index(bench.index, bench.log) == (1 if fault == "a header" else 0)
    assert bench.index.get_meta(META_COMPLETE) is not None
    bench.disk.failing = set()
    bench.close()
