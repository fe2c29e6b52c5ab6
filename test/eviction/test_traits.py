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


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(0, 3), st.booleans())
def test_a_hold_outlives_use_and_goes_without_a_trace(runs, priority, pinned):
    column = conversation(*runs)
    every = rows(*range(len(column)))
    bits = np.full(len(column), priority << traits.PRIORITY_SHIFT | pinned << 14, np.uint16)
    traits.set_hold(column, every, bits)
    traits.mark_hit(column, every)
    traits.mark_new(column, every, len(every) - 1)
    held = column.copy()
    traits.clear_holds(column)
    assert (held - column == bits).all()
    assert (column & (3 << traits.PRIORITY_SHIFT | traits.PINNED) == 0).all()


def test_using_nothing_changes_nothing():
    column = conversation(3)
    before = column.copy()
    traits.mark_hit(column, rows())
    assert (column == before).all()
