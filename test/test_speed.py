"""Learning how long work takes: true lines are found, nothing is ever negative."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.speed import MarginalRate, Rate

amounts = st.lists(st.tuples(st.integers(1, 5000), st.floats(0.0, 10.0)), min_size=1, max_size=50)


@given(amounts, st.floats(1.0, 1e5))
def test_a_rate_lies_between_the_slowest_and_the_fastest(observed, window):
    rate = Rate(window=window)
    for units, seconds in observed:
        rate.observe(units, seconds)
    each = [seconds / units for units, seconds in observed]
    assert min(each) * (1 - 1e-9) <= rate.seconds_per_unit <= max(each) * (1 + 1e-9)


def test_a_rate_forgets_what_lies_a_window_back():
    rate = Rate(window=100)
    assert rate.seconds_per_unit is None
    rate.observe(50, 50.0)
    rate.observe(100, 1.0)
    assert rate.seconds_per_unit == pytest.approx(0.01)
    rate.forget()
    assert rate.seconds_per_unit is None


@given(
    sizes=st.lists(st.integers(1, 8000), min_size=3, max_size=60),
    fixed_s=st.floats(0.0, 1.0),
    slope_s=st.floats(1e-5, 1e-1),
)
def test_a_line_is_found_whatever_each_piece_costs(sizes, fixed_s, slope_s):
    sizes = [*sizes, 100, 6000]
    rate = MarginalRate(window=1e5, enough=1)
    for size in sizes:
        rate.observe(size, fixed_s + slope_s * size)
    found = rate.seconds_per_unit
    assert found >= slope_s * (1 - 1e-3)
    if max(sizes) > 2 * min(sizes) and len(sizes) < 20:
        assert found == pytest.approx(slope_s, rel=1e-3)


@given(amounts)
def test_a_marginal_rate_is_never_more_than_the_average_nor_negative(observed):
    rate = MarginalRate(window=1e12, enough=1)
    for units, seconds in observed:
        rate.observe(units, seconds)
    average = sum(s for _, s in observed) / sum(u for u, _ in observed)
    assert 0.0 <= rate.seconds_per_unit <= average * (1 + 1e-6)


def test_a_stretch_of_tiny_pieces_does_not_hide_how_fast_large_ones_are():
    """Hits leave tails of a few tokens to compute, which take as long as their fixed cost."""
    rate = MarginalRate(window=65536, enough=1024)
    for size in (500, 2000, 4000):
        rate.observe(size, 0.03 + size * 1e-4)
    for _ in range(500):
        rate.observe(20, 0.03 + 20 * 1e-4)
    assert rate.seconds_per_unit == pytest.approx(1e-4, rel=1e-3)


def test_too_little_is_no_answer():
    rate = MarginalRate(window=1e5, enough=1024)
    rate.observe(1000, 1.0)
    assert rate.seconds_per_unit is None
    rate.observe(24, 1.0)
    assert rate.seconds_per_unit is not None
