"""The public API on real files and real RocksDB; its laws under faults stand in `test/model`."""

import mmap
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_lsm.clock import Clock
from sglang_lsm.config import MIB, IndexConfig, StoreConfig
from sglang_lsm.directory import check_directory
from sglang_lsm.errors import ClosedError, ConfigError, StoreError, UnavailableError
from sglang_lsm.eviction.places import MAX_LENGTH_BYTES
from sglang_lsm.fs import LocalFileSystem
from sglang_lsm.index.healing import RETRY_INTERVAL_S
from sglang_lsm.index.rocks import RocksIndex
from sglang_lsm.keycodec import encode
from sglang_lsm.observability.access_trace import AccessTrace
from sglang_lsm.store import Store
from support.page_maker import (
    SEGMENT_BYTES,
    content_of,
    cut,
    empty_pages,
    fingerprint,
    joined,
    pages_of,
    path_of,
    small_config,
)

PIECES = (5000, 3000)


@pytest.fixture(params=["buffered", "direct", "auto"])
def io_mode(request):
    return request.param


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(directory):
    store = Store.open(directory, small_config())
    yield store
    store.close()


def read(store, path, pieces=PIECES):
    """Return the pages that a get returns, as bytes."""
    out = empty_pages(path.num_pages, pieces)
    return [joined(page) for page in out[: store.get_batch(path, out)]]


def contents(path, pieces=PIECES):
    return [content_of(path.namespace, h, sum(pieces)) for h in path.hashes[path.start :]]


def aligned_pages(path, pieces):
    """Return the pages of a path in memory that O_DIRECT accepts."""
    pages = []
    for content in contents(path, pieces):
        memory = memoryview(mmap.mmap(-1, len(content)))
        memory[:] = content
        pages.append(cut(memory, pieces))
    return pages


@pytest.mark.parametrize("durability", ["none", "interval", "batch"])
@pytest.mark.parametrize("pieces", [(5000, 3000), (4096, 8192), (65536,), (1,)])
def test_what_was_put_is_found_and_read(directory, io_mode, durability, pieces):
    config = small_config(8, io_mode=io_mode, durability=durability, io_bytes=16384)
    store = Store.open(directory, config)
    path = path_of(store.register(fingerprint()), range(70))
    for number in range(2):
        assert store.put_batch(path, aligned_pages(path, pieces))
        assert store.probe(path) == 70
        assert read(store, path, pieces) == contents(path, pieces)
        assert store.stats().pages_put == 70
        assert store.stats().pages_skipped == 70 * number
    store.close()
    store = Store.open(directory, config)
    assert read(store, path, pieces) == contents(path, pieces)
    store.close()


def test_a_prefix_is_found_of_a_longer_path(store):
    namespace = store.register(fingerprint())
    stored = path_of(namespace, range(5))
    store.put_batch(stored, pages_of(stored, PIECES))
    longer = path_of(namespace, range(9))
    assert store.probe(longer) == 5
    assert read(store, longer) == contents(stored)
    branch = path_of(namespace, [0, 1, 2, "other", 4])
    assert store.probe(branch) == 3
    assert read(store, branch) == contents(branch)[:3]


def test_a_call_about_the_rest_of_a_path(store):
    namespace = store.register(fingerprint())
    whole, rest = path_of(namespace, range(8)), path_of(namespace, range(8), start=3)
    store.put_batch(rest, pages_of(rest, PIECES))
    assert store.probe(rest) == 5
    assert store.probe(whole) == 0
    assert read(store, rest) == contents(rest)


def test_stored_pages_are_told_apart_whatever_lies_before_them(store):
    namespace = store.register(fingerprint())
    for numbers in (range(3), range(66), range(90)):
        last = path_of(namespace, numbers, start=len(numbers) - 1)
        store.put_batch(last, pages_of(last, PIECES))
    expected = [i in (2, 65, 89) for i in range(100)]
    for start in (0, 2, 65, 80):
        assert store.stored(path_of(namespace, range(100), start=start)) == expected[start:]
    other = path_of(namespace, ["other", *range(1, 100)])
    assert not any(store.stored(other))
    assert store.stored(path_of(namespace, range(3), start=3)) == []


def test_nothing_asked(store):
    path = path_of(store.register(fingerprint()), [1, 2], start=2)
    assert store.put_batch(path, [])
    assert store.probe(path) == 0
    assert store.get_batch(path, []) == 0


def test_one_buffer_a_page(store):
    path = path_of(store.register(fingerprint()), [1, 2])
    with pytest.raises(ValueError, match="one buffer a page"):
        store.put_batch(path, pages_of(path, PIECES)[:1])
    with pytest.raises(ValueError, match="one buffer a page"):
        store.get_batch(path, empty_pages(3, PIECES))


@pytest.mark.parametrize("pieces", [(4000,), (8000, 1), (9000,)])
def test_a_page_of_another_size_ends_the_run(store, pieces):
    path = path_of(store.register(fingerprint()), [1, 2])
    store.put_batch(path, pages_of(path, PIECES))
    assert store.get_batch(path, empty_pages(2, pieces)) == 0
    assert store.stats().pages_damaged == 0
    assert read(store, path) == contents(path)


def test_other_fingerprints_never_hit(store):
    one = path_of(store.register(fingerprint("one")), [1, 2])
    other = path_of(store.register(fingerprint("one", kv_dtype="fp8")), [1, 2])
    store.put_batch(one, pages_of(one, PIECES))
    assert store.probe(other) == 0
    assert read(store, other) == []


def test_fingerprints_are_kept_in_full(directory):
    store = Store.open(directory, small_config())
    known = [fingerprint("one"), fingerprint("two")]
    for _ in range(2):
        for each in known:
            assert store.register(each) == each.namespace
    store.close()
    store = Store.open(directory, small_config())
    assert store.fingerprints() == {each.namespace: each.to_json() for each in known}
    store.close()


def test_a_listing_shows_a_subtree_with_its_sizes_and_stops_where_it_shall(store):
    namespace = store.register(fingerprint())
    long, other = path_of(namespace, range(70)), path_of(namespace, ["other"])
    store.put_batch(long, pages_of(long, PIECES))
    store.put_batch(other, pages_of(other, PIECES))
    below = store.list_subtree(path_of(namespace, range(60)), max_pages=100)
    assert [page.key for page in below] == list(encode(replace(long, start=59)))
    assert {page.num_bytes for page in below} == {sum(PIECES)}
    assert len(store.list_subtree(path_of(namespace, range(60)), max_pages=4)) == 4
    assert len(store.list_subtree(path_of(namespace, []), max_pages=100)) == 71


def test_delete_subtree_forgets_what_is_below_and_only_that(store):
    namespace = store.register(fingerprint())
    trunk = [0] * 60
    branches = [path_of(namespace, [*trunk, b, *range(20)]) for b in (1, 2)]
    for path in branches:
        store.put_batch(path, pages_of(path, PIECES))
    assert store.delete_subtree(path_of(namespace, [*trunk, 1])) == 21
    assert [store.probe(path) for path in branches] == [60, 81]
    assert store.delete_subtree(path_of(namespace, [*trunk, 1])) == 0
    assert store.delete_subtree(path_of(namespace, [0])) == 81
    assert [store.probe(path) for path in branches] == [0, 0]


def test_clear_forgets_one_namespace(store):
    one, other = (path_of(store.register(fingerprint(name)), range(70)) for name in "ab")
    for path in (one, other):
        store.put_batch(path, pages_of(path, PIECES))
    store.clear(one.namespace)
    assert (store.probe(one), store.probe(other)) == (0, 70)
    store.put_batch(one, pages_of(one, PIECES))
    assert read(store, one) == contents(one)


def test_a_full_store_evicts_and_stays_within_its_quota(directory):
    store = Store.open(directory, small_config(4))
    namespace = store.register(fingerprint())
    pieces, num_put = (65536,), 0
    for number in range(20):
        path = path_of(namespace, [number] * 10)
        store.put_batch(path, pages_of(path, pieces))
        num_put += 10
        assert read(store, path, pieces) == contents(path, pieces)
        stats = store.stats()
        assert stats.allocated_bytes <= stats.quota_bytes == 4 * SEGMENT_BYTES
        on_disk = sum(file.stat().st_blocks * 512 for file in (directory / "log").iterdir())
        assert on_disk <= stats.quota_bytes
    found = sum(
        store.probe(path_of(namespace, [number] * (i + 1), start=i))
        for number in range(20)
        for i in range(10)
    )
    assert found == num_put - store.stats().pages_evicted
    assert found >= 2.5 * SEGMENT_BYTES / 65536
    store.close()


def test_a_put_evicted_the_pages_that_it_extended(directory):
    """They were used least lately, and made the room; no probe came as far as the new pages."""
    store = Store.open(directory, replace(small_config(4), eviction="lru"))
    namespace, pieces = store.register(fingerprint()), (65536,)
    prefix, extended = path_of(namespace, range(10)), path_of(namespace, range(40))
    store.put_batch(prefix, pages_of(prefix, pieces))
    for number in range(4):
        other = path_of(namespace, [f"other {number}"] * 10)
        store.put_batch(other, pages_of(other, pieces))
    store.put_batch(extended, pages_of(extended, pieces))
    assert store.stats().pages_evicted > 0
    assert store.probe(extended) == 40
    assert read(store, extended, pieces) == contents(extended, pieces)
    store.close()


def test_a_page_larger_than_a_segment_is_refused_and_evicts_nothing(store):
    """Each refusal once sealed a segment, made a new one, and evicted an old one for it."""
    namespace = store.register(fingerprint())
    small, large = path_of(namespace, ["small"]), path_of(namespace, ["large"])
    store.put_batch(small, pages_of(small, PIECES))
    for _ in range(6):
        with pytest.raises(UnavailableError, match="does not fit"):
            store.put_batch(large, pages_of(large, (SEGMENT_BYTES,)))
    assert store.stats().pages_evicted == 0
    assert store.stats().puts_failed == 6
    assert read(store, small) == contents(small)


def test_a_withdrawn_put_is_never_found(directory):
    store = Store.open(directory, small_config())
    path = path_of(store.register(fingerprint()), range(5))
    assert not store.put_batch(path, pages_of(path, PIECES), still_valid=lambda: False)
    assert store.probe(path) == 0
    store.close()
    for file in (directory / "index").iterdir():
        file.unlink()
    store = Store.open(directory, small_config())
    assert store.probe(path) == 0
    assert store.put_batch(path, pages_of(path, PIECES), still_valid=lambda: True)
    assert read(store, path) == contents(path)
    store.close()


def test_the_index_is_filled_from_the_log_where_it_was_lost(directory):
    store = Store.open(directory, small_config())
    path = path_of(store.register(fingerprint()), range(70))
    store.put_batch(path, pages_of(path, PIECES))
    store.close()
    for file in (directory / "index").iterdir():
        file.unlink()
    store = Store.open(directory, small_config())
    assert read(store, path) == contents(path)
    store.close()


def test_a_second_store_on_one_directory_is_refused(store, directory):
    with pytest.raises(ConfigError, match="in use"):
        Store.open(directory, small_config())
    with pytest.raises(ConfigError, match="in use"):
        check_directory(directory)


def test_a_directory_of_somebody_else_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for opened in (lambda: Store.open(tmp_path, small_config()), lambda: check_directory(tmp_path)):
        with pytest.raises(ConfigError, match=r"thesis\.txt"):
            opened()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_system_of_its_own_is_an_empty_directory(tmp_path):
    (tmp_path / "lost+found").mkdir()
    check_directory(tmp_path)
    Store.open(tmp_path, small_config()).close()


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        Store.open(tmp_path / "file" / "store", small_config())
    with pytest.raises(ConfigError):
        check_directory(tmp_path / "file" / "store")


def test_a_failed_open_leaves_the_directory_free(tmp_path):
    (tmp_path / "foreign").write_bytes(b"")
    with pytest.raises(ConfigError, match="foreign"):
        Store.open(tmp_path, small_config())
    (tmp_path / "foreign").unlink()
    Store.open(tmp_path, small_config()).close()


def test_a_page_too_long_for_the_page_table_raised_what_no_caller_expects(directory):
    """It was in the index by then, where nothing could ever evict it."""
    store = Store.open(directory, small_config(320, segment_bytes=80 * MIB))
    path = path_of(store.register(fingerprint()), ["long"])
    page = [memoryview(bytes(MAX_LENGTH_BYTES)), memoryview(b"x")]
    with pytest.raises(UnavailableError, match="too long"):
        store.put_batch(path, [page])
    assert store.probe(path) == 0
    assert store.stats().puts_failed == 1
    assert store.stats().allocated_bytes == 0
    store.put_batch(path, [page[:1]])
    assert store.probe(path) == 1
    store.close()


def test_a_closed_store_says_so(directory):
    store = Store.open(directory, small_config(durability="interval", sync_interval_s=0.01))
    namespace = store.register(fingerprint())
    path = path_of(namespace, [1])
    store.close()
    store.close()
    for call in (
        lambda: store.register(fingerprint()),
        store.fingerprints,
        lambda: store.probe(path),
        lambda: store.put_batch(path, pages_of(path, PIECES)),
        lambda: store.get_batch(path, empty_pages(1, PIECES)),
        lambda: store.delete_subtree(path),
        lambda: store.clear(namespace),
        store.sync,
    ):
        with pytest.raises(ClosedError):
            call()


def test_closing_leaves_no_thread_and_no_lock(directory):
    before = set(threading.enumerate())
    for _ in range(3):
        store = Store.open(directory, small_config(durability="interval", io_bytes=4096))
        path = path_of(store.register(fingerprint()), range(5))
        store.put_batch(path, pages_of(path, PIECES))
        assert read(store, path) == contents(path)
        store.close()
        assert set(threading.enumerate()) <= before


def test_stats_add_up(store):
    path = path_of(store.register(fingerprint()), range(5))
    store.put_batch(path_of(path.namespace, range(3)), pages_of(path, PIECES)[:3])
    store.probe(path)
    read(store, path)
    stats = store.stats()
    assert (stats.pages_put, stats.bytes_put) == (3, 3 * 8000)
    assert (stats.pages_probed, stats.pages_hit) == (5, 3)
    assert (stats.pages_got, stats.bytes_got) == (3, 3 * 8000)
    assert (stats.num_segments, stats.quota_bytes) == (1, 4 * SEGMENT_BYTES)


def test_a_floor_above_the_free_space_is_back_pressure(directory):
    config = StoreConfig(
        quota_bytes=4 * SEGMENT_BYTES, min_free_bytes=1 << 60, log=small_config().log
    )
    store = Store.open(directory, config)
    path = path_of(store.register(fingerprint()), [1])
    with pytest.raises(UnavailableError, match="no room"):
        store.put_batch(path, pages_of(path, PIECES))
    assert store.probe(path) == 0
    store.close()


def test_a_deleted_directory_does_not_come_back_as_half_a_store(directory, monkeypatch):
    """The next start was refused: the directory was not empty and held no store.

    A write had failed, the operator deleted the directory of the running store, and the index was
    opened anew in the deleted place. Now it stays deleted, and the next start creates the store.
    """
    now_s = 0.0
    directory.mkdir()
    store = Store(
        directory,
        small_config(),
        fs=LocalFileSystem(),
        open_index=lambda path: RocksIndex(path, IndexConfig()),
        clock=Clock(lambda: now_s),
    )
    path = path_of(store.register(fingerprint()), range(2))

    def full(index, entries):
        raise UnavailableError("no space left")

    with monkeypatch.context() as patch, pytest.raises(UnavailableError):
        patch.setattr(RocksIndex, "put", full)
        store.put_batch(path, pages_of(path, PIECES))
    shutil.rmtree(directory)
    now_s += RETRY_INTERVAL_S
    with pytest.raises(UnavailableError, match="deleted"):
        store.put_batch(path, pages_of(path, PIECES))

    assert not directory.exists()
    store.close()


def test_a_smaller_quota_holds_from_the_start(directory):
    store = Store.open(directory, small_config(16))
    namespace = store.register(fingerprint())
    for i in range(14):
        path = path_of(namespace, [i, *range(14)])
        store.put_batch(path, pages_of(path, (65536,)))
    store.close()
    store = Store.open(directory, small_config(4))
    stats = store.stats()
    assert 0 < stats.allocated_bytes <= stats.quota_bytes == 4 * SEGMENT_BYTES
    assert store.probe(path) == path.num_pages
    store.close()


def test_what_a_smaller_quota_drops_is_chosen_by_use(directory):
    """Without the table of the last close, the oldest segment went, and what was read from it."""
    store = Store.open(directory, replace(small_config(16), eviction="lru"))
    namespace = store.register(fingerprint())
    paths = [path_of(namespace, [i, *range(14)]) for i in range(14)]
    for path in paths:
        store.put_batch(path, pages_of(path, (65536,)))
    store.touch(paths[0])
    store.close()
    store = Store.open(directory, replace(small_config(4), eviction="lru"))
    assert store.probe(paths[0]) == paths[0].num_pages
    store.close()


def test_pages_are_stored_again_after_the_log_was_lost(directory):
    """Their entries named segment 1; a new segment 1 made them count as stored, so puts skipped."""
    store = Store.open(directory, small_config())
    path = path_of(store.register(fingerprint()), range(3))
    store.put_batch(path, pages_of(path, PIECES))
    store.close()
    shutil.rmtree(directory / "log")
    store = Store.open(directory, small_config())
    other = path_of(path.namespace, ["other"])
    store.put_batch(other, pages_of(other, PIECES))
    assert store.probe(path) == 0
    store.put_batch(path, pages_of(path, PIECES))
    out = empty_pages(3, PIECES)
    assert store.get_batch(path, out) == 3
    store.close()


def test_without_checksums_a_page_is_still_told_from_another_of_the_same_digest(directory):
    with_skipped = small_config(unsafe_skip_checksums=True)
    store = Store.open(directory, with_skipped)
    path = path_of(store.register(fingerprint()), range(3))
    store.put_batch(path, pages_of(path, PIECES))
    twin = replace(path, hashes=[*path.hashes[:2], path.hashes[2][:8] + bytes(24)])
    assert read(store, path) == contents(path)
    assert read(store, twin) == contents(path)[:2]
    store.close()


LIVE_CHANGES = st.fixed_dictionaries(
    {
        "io_mode": st.sampled_from(["auto", "buffered", "direct"]),
        "io_bytes": st.sampled_from([4096, 16384, 4 << 20]),
        "reader_threads": st.integers(1, 5),
        "merge_bytes_per_s": st.sampled_from([0, MIB]),
        "codec": st.sampled_from(["off", "idle"]),
    }
)


@settings(max_examples=8)
@given(st.lists(LIVE_CHANGES, min_size=1, max_size=4))
def test_settings_that_change_while_it_is_open_change_no_page(changes):
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "store", small_config(8))
        namespace = store.register(fingerprint())
        for number, change in enumerate(changes):
            store.tune(replace(store.config, log=replace(store.config.log, **change)))
            path = path_of(namespace, [number, *range(20)])
            store.put_batch(path, aligned_pages(path, PIECES))
            for earlier in range(number + 1):
                path = path_of(namespace, [earlier, *range(20)])
                assert read(store, path) == contents(path)
        store.close()


def test_calls_under_way_survive_a_change_of_threads(store):
    namespace = store.register(fingerprint())
    path = path_of(namespace, range(60))
    store.put_batch(path, pages_of(path, PIECES))
    stop, wrong = threading.Event(), []

    def reads():
        while not stop.is_set():
            if read(store, path) != contents(path):
                wrong.append(path)

    readers = [threading.Thread(target=reads) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(60):
        log = replace(store.config.log, reader_threads=1 + number % 5, io_bytes=8192)
        store.tune(replace(store.config, log=log))
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_the_index_takes_settings_while_it_is_open(store):
    index = replace(store.config.index, size_ratio=4, level0_trigger=2, memtable_bytes=8 * MIB)
    store.tune(replace(store.config, index=index))
    path = path_of(store.register(fingerprint()), range(30))
    store.put_batch(path, pages_of(path, PIECES))
    assert store.probe(path) == 30


@pytest.mark.parametrize(
    "change",
    [
        lambda config: replace(config, quota_bytes=2 * config.quota_bytes),
        lambda config: replace(config, log=replace(config.log, durability="batch")),
        lambda config: replace(config, index=replace(config.index, bloom_bits_per_key=3)),
    ],
)
def test_a_setting_that_needs_a_restart_is_refused(store, change):
    before = store.config
    with pytest.raises(ConfigError, match="cannot change"):
        store.tune(change(before))
    assert store.config == before


def test_with_admission_second_a_page_is_written_when_it_is_offered_again(store):
    store.tune(replace(store.config, admission="second"))
    path = path_of(store.register(fingerprint()), range(10))
    assert store.put_batch(path, pages_of(path, PIECES))
    assert store.probe(path) == 0
    assert store.stats().pages_refused == 10
    assert store.stats().pages_skipped == 0
    assert store.put_batch(path, pages_of(path, PIECES))
    assert read(store, path) == contents(path)
    assert store.stats().bytes_offered_again == 10 * sum(PIECES)
    longer = path_of(path.namespace, range(15))
    store.put_batch(longer, pages_of(longer, PIECES))
    assert (store.stats().pages_skipped, store.stats().pages_refused) == (10, 15)


def test_a_watched_store_tells_what_it_read_and_wrote(store):
    trace = AccessTrace()
    store.watch(trace)
    path = path_of(store.register(fingerprint()), range(40))
    store.put_batch(path, pages_of(path, PIECES))
    read(store, path)
    written, got = trace.drain()
    assert (written.is_write, got.is_write) == (True, False)
    assert written.num_pages == got.num_pages == 40
    assert written.sampled == got.sampled
    assert written.page_bytes == sum(PIECES)


def test_times_and_calls_are_counted(store):
    path = path_of(store.register(fingerprint()), range(10))
    store.put_batch(path, pages_of(path, PIECES))
    read(store, path)
    stats = store.stats()
    assert (stats.puts, stats.gets, stats.extents_got) == (1, 1, 1)
    assert stats.write_s > 0
    assert stats.read_s > 0
