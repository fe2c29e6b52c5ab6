"""Room without holes: segments are merged ahead of the need, and what is used stays."""

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from sglang_lsm.config import MIB
from sglang_lsm.segment_merge import MAX_LIVE_SHARE, choose_segment
from sglang_lsm.store import Store
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import (
    SEGMENT_BYTES,
    empty_pages,
    fingerprint,
    joined,
    pages_of,
    path_of,
    small_config,
)

DIRECTORY, PIECES, NAMESPACE = Path("/store"), (65536,), fingerprint().namespace


@given(st.dictionaries(st.integers(1, 9), st.integers(0, MIB)))
def test_the_emptiest_segment_is_chosen_if_half_of_it_is_dead(live):
    chosen = choose_segment(live, MIB)
    if chosen is None:
        assert all(num > MAX_LIVE_SHARE * MIB for num in live.values())
    else:
        assert live[chosen] == min(live.values()) <= MAX_LIVE_SHARE * MIB


def open_store(*, can_punch=False, num_segments=8, **log_settings):
    disk = FakeDisk(can_punch=can_punch)
    disk.make_dir(DIRECTORY)
    return disk, Store(
        DIRECTORY, replace(small_config(num_segments, **log_settings), eviction="lru"), fs=disk,
        open_index=FakeIndexDisk().open, loads_behind=False,
    )  # fmt: skip


def put(store, tokens):
    path = path_of(NAMESPACE, tokens)
    store.put_batch(path, pages_of(path, PIECES))
    return path


def pour(store, hot, num_pages):
    """Put pages that are used once, between uses of hot ones, and do what is due now and then."""
    for i in range(num_pages):
        put(store, [f"poured {i}"])
        for path in hot:
            store.touch(path)
        if i % 8 == 0:
            store._upkeep()
            assert store.stats().allocated_bytes <= store.config.quota_bytes


def read(store, path):
    out = empty_pages(path.num_pages, PIECES)
    return [joined(page) for page in out[: store.get_batch(path, out)]]


def test_what_is_used_stays_where_no_hole_can_be_punched():
    """Whole segments went oldest first there, with all that was hot in them."""
    _, store = open_store()
    # Each hot page in a segment with many others that are not.
    hot = []
    for i in range(10):
        hot.append(put(store, [f"hot {i}"]))
        put(store, [f"cold {i} {n}" for n in range(4)])
    pour(store, hot, 400)
    assert [read(store, path) for path in hot] == [
        [joined(page) for page in pages_of(path, PIECES)] for path in hot
    ]
    stats = store.stats()
    assert stats.bytes_merged > 0
    assert stats.bytes_merged <= stats.bytes_put, "copied more than was put"
    store.close()


def test_without_merging_they_go_with_their_segments():
    _, store = open_store(merge_bytes_per_s=0)
    hot = [put(store, [f"hot {i}"]) for i in range(10)]
    pour(store, hot, 400)
    assert [read(store, path) for path in hot] == [[]] * 10
    store.close()


@pytest.mark.parametrize("can_punch", [False, True])
def test_room_for_a_segment_is_kept_only_where_it_is_needed(can_punch):
    _, store = open_store(can_punch=can_punch)
    for i in range(300):
        put(store, [f"page {i}"])
    store._upkeep()
    free_bytes = store.config.quota_bytes - store.stats().allocated_bytes
    assert (free_bytes >= 2 * SEGMENT_BYTES) == (not can_punch)
    assert store.stats().bytes_merged == 0 or not can_punch
    store.close()


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 10), st.booleans()), max_size=30))
def test_no_page_is_wrong_and_the_quota_holds(steps):
    disk, store = open_store(num_segments=4)
    for number, length, is_upkeep in steps:
        path = put(store, [f"{number} {i}" for i in range(length)])
        if is_upkeep:
            store._upkeep()
        assert disk.used_bytes("/store/log/*.seg") <= store.config.quota_bytes
        expected = [joined(page) for page in pages_of(path, PIECES)]
        found = read(store, path)
        assert found == expected[: len(found)]
    store.close()
