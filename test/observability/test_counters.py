import threading
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.observability.counters import Counters, StoreStats

names = st.sampled_from([field.name for field in fields(StoreStats)])


@given(st.lists(st.dictionaries(names, st.integers(0, 1 << 40), max_size=4)))
def test_a_snapshot_is_the_sum_of_what_was_added(amounts):
    counters = Counters()
    for each in amounts:
        counters.add(**each)
    stats = counters.snapshot()
    for field in fields(StoreStats):
        assert getattr(stats, field.name) == sum(each.get(field.name, 0) for each in amounts)


def test_a_snapshot_stands_still():
    counters = Counters()
    before = counters.snapshot()
    counters.add(pages_put=1)
    assert before.pages_put == 0
    assert counters.snapshot().pages_put == 1


def test_a_counter_nobody_knows_is_a_bug():
    with pytest.raises(AttributeError):
        Counters().add(pages_lost=1)


def test_nothing_is_lost_between_threads_and_snapshots_are_consistent():
    counters, torn = Counters(), []

    def add():
        for _ in range(3000):
            counters.add(pages_put=1, bytes_put=7)

    def watch():
        for _ in range(1000):
            stats = counters.snapshot()
            if stats.bytes_put != 7 * stats.pages_put:
                torn.append(stats)

    threads = [threading.Thread(target=target) for target in (add, add, add, watch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torn == []
    assert counters.snapshot().bytes_put == 3 * 3000 * 7
