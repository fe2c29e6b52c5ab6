import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.eviction import traits


def rows(*numbers):
    return np.array(numbers, np.int32)


def conversation(*runs):
    """Traits after one conversation whose requests add `runs` pages each."""
    column, length = np.zeros(sum(runs), np.uint16), 0
    for added in runs:
        traits.mark_hit(column, rows(*range(length)))
        traits.mark_new(column, rows(*range(length + added)), length)
        length += added
    return column


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_all_pages_of_a_path_know_the_turn(runs):
    column = conversation(*runs)
    assert set((column & traits.MAX_TURN).tolist()) == {min(7, len(runs) - 1)}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_pages_before_the_last_run_are_reused_and_only_the_last_is_a_tail(runs):
    column = conversation(*runs)
    num_old = sum(runs[:-1])
    assert ((column & traits.REUSED) > 0).tolist() == [i < num_old for i in range(len(column))]
    assert np.flatnonzero(column & traits.TAIL).tolist() == [len(column) - 1]


@pytest.mark.parametrize(("added", "size"), [(4, 0), (5, 1), (17, 2), (64, 2), (65, 3)])
def test_size_of_the_run(added, size):
    assert set((conversation(added) >> traits.SIZE_SHIFT & 3).tolist()) == {size}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_hold_outlives_use(runs):
    column = conversation(*runs)
    every = rows(*range(len(column)))
    traits.set_hold(column, every, priority=2, lifetime=3, pinned=True)
    low = column & ((1 << traits.PRIORITY_SHIFT) - 1)
    hold = column - low
    traits.mark_hit(column, every)
    traits.mark_new(column, every, len(every) - 1)
    assert (column >> traits.PRIORITY_SHIFT << traits.PRIORITY_SHIFT == hold).all()
    assert set((hold >> traits.LIFETIME_SHIFT & 3).tolist()) == {3}


def test_a_hold_out_of_range_is_refused():
    with pytest.raises(ValueError, match="0 to 3"):
        traits.set_hold(np.zeros(1, np.uint16), rows(0), priority=4, lifetime=0, pinned=False)


def test_using_nothing_changes_nothing():
    column = conversation(3)
    before = column.copy()
    traits.mark_hit(column, rows())
    assert (column == before).all()
