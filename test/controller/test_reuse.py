import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.controller.hit_curve import distance_bin
from sglang_lsm.controller.reuse import ReuseCurve
from sglang_lsm.observability.access_trace import AccessTrace
from sglang_lsm.tensorlog.io_modes import READS_BEFORE_FILLING

PAGE_BYTES = 64 << 10
NUM_PAGES = 4096


def prompt(number, num_pages=32):
    return [hashlib.sha256(f"{number} {i}".encode()).digest() for i in range(num_pages)]


def curve_of(calls, **options):
    trace, curve = AccessTrace(), ReuseCurve(**options)
    for number, is_write in calls:
        trace.note(prompt(number), PAGE_BYTES, is_write=is_write)
    curve.enter(trace.drain())
    return curve


def test_a_loop_that_fits_the_cache_is_held_and_one_that_does_not_is_not():
    num_prompts = NUM_PAGES // 32
    curve = curve_of([(number, False) for _ in range(4) for number in range(num_prompts)])
    loop_bytes = NUM_PAGES * PAGE_BYTES
    assert curve.summary(4 * loop_bytes).cached == pytest.approx(0.75, abs=0.1)
    assert curve.summary(loop_bytes / 4).cached < 0.1
    assert curve.summary(loop_bytes).again == pytest.approx(0.75, abs=0.1)


def test_what_was_only_written_is_held_by_a_cache_that_writes_go_through():
    numbers = range(NUM_PAGES // 32)
    curve = curve_of([*((n, True) for n in numbers), *((n, False) for n in numbers)])
    found = curve.summary(8 * NUM_PAGES * PAGE_BYTES)
    assert found.cached == pytest.approx(1.0, abs=0.05)
    assert found.cached_by_reads == 0.0
    assert found.again == 0.0


def test_reads_around_the_page_cache_come_first_then_one_that_fills_it_and_then_those_it_serves():
    """Of the reads of each prompt one fills the page cache, and the last four are served by it."""
    num_reads = READS_BEFORE_FILLING + 5
    curve = curve_of([(number, False) for _ in range(num_reads) for number in range(64)])
    loop_bytes = 64 * 32 * PAGE_BYTES
    held, gone = curve.summary(8 * loop_bytes), curve.summary(loop_bytes / 8)
    assert held.cached_by_reads == pytest.approx(4 / num_reads, abs=0.02)
    assert held.fills == pytest.approx(1 / num_reads, abs=0.02)
    assert gone.cached_by_reads < 0.02
    # What would be there begins anew: of so many reads the last goes through the page cache.
    assert gone.fills == pytest.approx((1 + 4 / (READS_BEFORE_FILLING + 1)) / num_reads, abs=0.02)


def test_nothing_read_is_nothing_known():
    assert curve_of([(1, True)]).summary(1e9).cached == 0.0


calls = st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60)


@given(calls, st.floats(0, 1e12), st.floats(0, 1e12))
def test_a_larger_cache_never_holds_less(calls, one, other):
    curve = curve_of(calls, num_entries=64)
    small, large = sorted((one, other))
    assert curve.summary(small).cached <= curve.summary(large).cached + 1e-9
    assert curve.summary(small).cached_by_reads <= curve.summary(large).cached_by_reads + 1e-9


@given(calls)
def test_shares_are_shares_and_memory_is_bounded(calls):
    curve = curve_of(calls, num_entries=16)
    found = curve.summary(1e15)
    for share in (found.cached, found.cached_by_reads, found.again, found.fills):
        assert -1e-9 <= share <= 1 + 1e-9
    assert len(curve._slots) <= 16


def test_what_comes_back_is_counted_by_the_pages_in_between():
    numbers = range(NUM_PAGES // 32)
    reads, puts = [(n, False) for n in numbers], [(n, True) for n in numbers]
    curve = curve_of([*puts, *reads, *puts])
    hit, missed = curve.returned
    assert hit.sum() == pytest.approx(NUM_PAGES, rel=0.2)
    assert missed.sum() == hit.sum()
    # The sample is of one page in 16, give or take some.
    near, far = distance_bin(0.75 * NUM_PAGES), distance_bin(1.25 * NUM_PAGES)
    assert hit[near : far + 1].sum() == hit.sum()
    assert missed[near : far + 1].sum() == missed.sum()


def test_only_the_newest_window_is_counted_and_no_first_use():
    curve = ReuseCurve()
    for calls in ([(1, True), (2, True)], [(1, False)], [(3, False)]):
        trace = AccessTrace()
        for number, is_write in calls:
            trace.note(prompt(number, 320), PAGE_BYTES, is_write=is_write)
        curve.enter(trace.drain())
        if calls == [(1, False)]:
            assert curve.returned[0].sum() == pytest.approx(320, rel=0.5)
        else:
            assert curve.returned.sum() == 0


def test_what_the_entries_do_not_reach_back_to_is_a_first_use():
    numbers = range(64)
    calls = [*((n, True) for n in numbers), *((n, True) for n in numbers)]
    assert curve_of(calls, num_entries=64).returned.sum() == 0
    assert curve_of(calls, num_entries=1024).returned[1].sum() > 0
