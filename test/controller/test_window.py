import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.controller.window import Surroundings, is_shift, window_between
from sglang_lsm.observability.counters import StoreStats
from support.devices import reads, writes


def test_rates_are_differences_by_time():
    before = StoreStats(gets=10, bytes_got=1000, read_s=1.0, num_pages=5)
    after = StoreStats(gets=30, bytes_got=5000, read_s=1.5, num_pages=7, allocated_bytes=99)
    window = window_between(before, after, 2.0, Surroundings())
    assert (window.gets, window.bytes_got, window.read_s) == (10.0, 2000.0, 0.25)
    assert (window.num_pages, window.allocated_bytes) == (7.0, 99.0)
    assert window.wait_s == 0.25


def test_another_mix_is_a_shift_and_more_of_the_same_is_not():
    assert is_shift(reads(), writes())
    assert is_shift(reads(cached=1.0), reads(cached=0.0))
    assert is_shift(reads(), reads(extents_got=5000.0))
    assert not is_shift(reads(share=0.1), reads(share=0.9))


@given(st.floats(0.95, 1.05))
def test_noise_is_no_shift(noise):
    base = reads(cached=0.5)
    noisy = reads(cached=0.5 * noise, bytes_got=base.bytes_got * noise)
    assert not is_shift(base, noisy)


def test_an_idle_window_is_no_shift_by_itself():
    idle = window_between(StoreStats(), StoreStats(), 1.0, Surroundings())
    assert not is_shift(idle, idle)
    assert idle.num_bytes == 0 == pytest.approx(idle.wait_s)
