import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.eviction import row_space
from sglang_lsm.eviction.row_space import RowSpace


def taken_rows(space, parent, num_rows):
    rows = space.take(parent, num_rows)
    parent[rows] = 0
    return rows


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
def test_a_row_has_one_owner(steps):
    parent = np.zeros(100, np.int32)
    space, owned = RowSpace(parent), []
    for num_taken, num_released in steps:
        rows = taken_rows(space, parent, min(num_taken, space.num_free))
        assert not set(rows.tolist()) & set(owned)
        owned += rows.tolist()
        gone, owned = owned[:num_released], owned[num_released:]
        space.release(parent, np.array(gone, np.int32))
        assert space.num_free == 100 - len(owned)


def test_rows_beyond_the_list_are_found_by_a_scan(monkeypatch):
    monkeypatch.setattr(row_space, "_LIST_ROWS", 10)
    monkeypatch.setattr(row_space, "_SCAN_ROWS", 7)
    parent = np.zeros(100, np.int32)
    space = RowSpace(parent)
    space.release(parent, taken_rows(space, parent, 100))
    assert space.nbytes == 40
    assert sorted(taken_rows(space, parent, 100).tolist()) == list(range(100))


def test_grows():
    parent = np.zeros(4, np.int32)
    space = RowSpace(parent)
    first = taken_rows(space, parent, 4)
    longer = np.concatenate([parent, np.zeros(4, np.int32)])
    space.grow(longer)
    assert sorted([*first, *taken_rows(space, longer, 4)]) == list(range(8))
