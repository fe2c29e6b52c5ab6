"""A scattered prefix becomes one run again, and nothing of it or its neighbours is lost."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm import format, keycodec
from sglang_lsm.config import LogConfig
from sglang_lsm.merge import is_due
from sglang_lsm.pages import PagePath
from sglang_lsm.store import Store
from sglang_lsm.tensorlog.transfer import plan_transfers
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import (
    empty_pages,
    fingerprint,
    joined,
    pages_of,
    path_of,
    small_config,
)

PIECES = (8192,)
NUM_PAGES = 20


def open_store(**log_settings):
    disk = FakeDisk()
    disk.make_dir(Path("/store"))
    return Store(
        Path("/store"),
        small_config(8, **log_settings),
        fs=disk,
        open_index=FakeIndexDisk().open,
        loads_behind=False,
    )


@pytest.fixture
def store():
    opened = open_store()
    yield opened
    opened.close()


def interleaved(store):
    """Store two paths page by page, in turns."""
    namespace = store.register(fingerprint())
    paths = [path_of(namespace, [name, *range(NUM_PAGES - 1)]) for name in ("a", "b")]
    for i in range(NUM_PAGES):
        for path in paths:
            one = PagePath(namespace, path.hashes[: i + 1], i)
            store.put_batch(one, pages_of(one, PIECES))
    return paths


def num_extents(store, path):
    values = store._index.walk(keycodec.encode(path))
    return len(plan_transfers(list(map(format.decode_index_value, values)), io_bytes=1 << 62))


def assert_readable(store, path):
    out = empty_pages(NUM_PAGES, PIECES)
    assert store.get_batch(path, out) == NUM_PAGES
    assert list(map(joined, out)) == list(map(joined, pages_of(path, PIECES)))


def test_merging_restores_adjacency_and_gives_the_old_places_back(store):
    ours, other = interleaved(store)
    assert num_extents(store, ours) == NUM_PAGES
    assert store.merge(ours) == NUM_PAGES * sum(PIECES)
    assert num_extents(store, ours) == 1
    holes = sum(not store._log.has_data(at) for at in _locations_before(store))
    assert holes == NUM_PAGES
    for path in (ours, other):
        assert_readable(store, path)


def _locations_before(store):
    """Places that any batch header of the log names, the given up ones included."""
    for segment_id in store._log.segment_ids():
        for batch in store._log.batches(segment_id):
            yield from batch.locations()


def test_a_scattered_read_is_noticed_and_merged_once(store):
    ours, _ = interleaved(store)
    assert_readable(store, ours)
    store._merge()
    assert num_extents(store, ours) == 1
    num_merged = store.stats().bytes_merged
    assert num_merged == NUM_PAGES * sum(PIECES)
    assert_readable(store, ours)
    store._merge()
    assert store.stats().bytes_merged == num_merged


def test_a_prefix_that_is_read_often_before_its_turn_is_copied_once(store):
    """Each read of it in that second cost one more copy of the whole."""
    ours, other = interleaved(store)
    for path in (ours, other, ours, ours, other):
        assert_readable(store, path)
    store._merge()
    assert store.stats().bytes_merged == 2 * NUM_PAGES * sum(PIECES)
    for path in (ours, other):
        assert num_extents(store, path) == 1
        assert_readable(store, path)


def test_what_was_copied_with_a_longer_path_is_not_copied_again(store):
    ours, _ = interleaved(store)
    assert_readable(store, ours)
    part = PagePath(ours.namespace, ours.hashes[: NUM_PAGES - 2], 0)
    assert store.get_batch(part, empty_pages(NUM_PAGES - 2, PIECES)) == NUM_PAGES - 2
    store._merge()
    assert store.stats().bytes_merged == NUM_PAGES * sum(PIECES)


def test_a_damaged_page_is_not_copied(store):
    ours, other = interleaved(store)
    values = list(map(format.decode_index_value, store._index.walk(keycodec.encode(ours))))
    store._log.punch([values[5]])
    store.merge(ours)
    out = empty_pages(NUM_PAGES, PIECES)
    assert store.get_batch(ours, out) == 5
    assert_readable(store, other)


def test_the_pages_of_one_segment_are_not_scattered(store):
    namespace = store.register(fingerprint())
    path = path_of(namespace, range(NUM_PAGES))
    store.put_batch(path, pages_of(path, PIECES))
    assert_readable(store, path)
    store._merge()
    assert store.stats().bytes_merged == 0


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 20))
def test_leveled_merges_sooner_than_tiered_and_off_never(num_runs, num_calls, max_runs):
    leveled, tiered, off = (
        is_due(num_runs, num_calls, LogConfig(merge_policy=policy, merge_max_runs=max_runs))
        for policy in ("leveled", "tiered", "off")
    )
    assert not off
    if max_runs > 2:
        assert leveled or not tiered
    assert not is_due(1, num_calls, LogConfig(merge_policy="leveled"))
    if tiered:
        assert num_runs > max_runs


@pytest.mark.parametrize(("policy", "num_merged"), [("leveled", 3), ("tiered", 0), ("off", 0)])
def test_few_runs_are_merged_by_leveled_alone(policy, num_merged):
    store = open_store(merge_policy=policy)
    namespace = store.register(fingerprint())
    path = path_of(namespace, range(3))
    for i in range(3):
        one = PagePath(namespace, path.hashes[: i + 1], i)
        store.put_batch(one, pages_of(one, PIECES))
    for _ in range(2):
        assert store.get_batch(path, empty_pages(3, PIECES)) == 3
        store._upkeep()
    assert store.stats().bytes_merged == num_merged * sum(PIECES)
    store.close()


def test_a_policy_changes_while_the_store_is_open(store):
    ours, other = interleaved(store)
    store.tune(replace(store.config, log=replace(store.config.log, merge_policy="off")))
    assert_readable(store, ours)
    store._upkeep()
    assert store.stats().bytes_merged == 0
    store.tune(replace(store.config, log=replace(store.config.log, merge_policy="leveled")))
    assert_readable(store, other)
    store._upkeep()
    assert store.stats().bytes_merged == NUM_PAGES * sum(PIECES)
