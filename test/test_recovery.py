import threading
from pathlib import Path

import pytest
from sglang_lsm import holds
from sglang_lsm.directory import META_COMPLETE, TABLE_NAME
from sglang_lsm.errors import UnavailableError
from sglang_lsm.format import BLOCK_BYTES
from sglang_lsm.index.rocks import RocksIndex
from sglang_lsm.recovery import keep_table, rebuild_index, take_table
from sglang_lsm.store import Store
from support import page_maker
from support.catalog_bench import NAMESPACES, CatalogBench, key_of, pages_on, path_of
from support.fake_fs import FakeDisk
from support.page_maker import fingerprint, pages_of, small_config

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


def test_a_failed_open_left_an_empty_page_table_to_the_next_start(tmp_path, monkeypatch):
    """That start took it for complete, and dropped segments whose pages it did not know of."""
    store = Store.open(tmp_path, small_config())
    path = page_maker.path_of(store.register(fingerprint()), range(5))
    store.put_batch(path, pages_of(path, (8000,)))
    store.close()
    kept = (tmp_path / TABLE_NAME).read_bytes()
    get_meta = RocksIndex.get_meta

    def fail(index, key):
        if key == META_COMPLETE:
            raise UnavailableError("the index failed")
        return get_meta(index, key)

    with monkeypatch.context() as patch, pytest.raises(UnavailableError):
        patch.setattr(RocksIndex, "get_meta", fail)
        Store.open(tmp_path, small_config())
    assert (tmp_path / TABLE_NAME).read_bytes() == kept


def test_a_failed_open_closed_the_index_under_the_scan_for_the_page_table(tmp_path, monkeypatch):
    """The scan is told to stop now, and waited for."""
    scanning, closed, order = threading.Event(), threading.Event(), []
    close = RocksIndex.close

    def scan(index, start, end):
        scanning.set()
        # As long as a part of a scan takes; who does not wait for it closes the index meanwhile.
        closed.wait(0.1)
        order.append("scanned")
        yield bytes(24), bytes(8)

    def note_close(index):
        close(index)
        order.append("closed")
        closed.set()

    def fail(fs, path):
        assert scanning.wait(60)
        raise UnavailableError("the holds cannot be read")

    with monkeypatch.context() as patch, pytest.raises(UnavailableError, match="holds"):
        patch.setattr(RocksIndex, "scan", scan)
        patch.setattr(RocksIndex, "close", note_close)
        patch.setattr(holds, "read_holds", fail)
        Store.open(tmp_path, small_config())
    assert order == ["scanned", "closed"]


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
