import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.eviction.row_index import EMPTY, MAX_LOAD, RowIndex

KEYS = st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=60)
"""Few enough that `add` takes them one by one; the tests of full tables take it the other way."""


def as_keys(values):
    return np.array(sorted(values), np.uint64)


def rows_of(keys):
    return np.arange(len(keys), dtype=np.int32)


@given(KEYS, KEYS, st.integers(1, 80))
def test_finds_what_was_added_and_nothing_else(added, asked, capacity):
    column = as_keys(added)
    index = RowIndex(capacity)
    index.add(rows_of(column), column)
    expected = {key: row for row, key in enumerate(column.tolist())}
    keys = as_keys(added | asked)
    found = index.find(keys, column).tolist()
    assert found == [expected.get(key, EMPTY) for key in keys.tolist()]
    assert [index.find_one(key, column) for key in keys.tolist()] == found
    assert index.finds_any(keys, column)
    assert index.finds_any(as_keys(asked), column) == bool(added & asked)


@given(KEYS, st.data())
def test_forgets_what_was_discarded_and_nothing_else(added, data):
    column = as_keys(added)
    index = RowIndex(1)
    index.add(rows_of(column), column)
    gone = np.array([data.draw(st.booleans()) for _ in column], np.bool_)
    index.discard(column[gone], rows_of(column)[gone])
    expected = np.where(gone, EMPTY, rows_of(column))
    assert index.find(column, column).tolist() == expected.tolist()


def test_slots_of_discarded_keys_are_used_again():
    """A table that is replaced many times over stays as it was: no tombstones pile up."""
    rng = np.random.default_rng(3)
    index, column = RowIndex(700), rng.integers(0, 2**63, 700).astype(np.uint64)
    rows = rows_of(column)
    index.add(rows, column)
    for _ in range(200):
        part = rng.choice(700, 70, replace=False)
        index.discard(column[part], rows[part])
        column[part] = rng.integers(0, 2**63, 70).astype(np.uint64)
        index.add(rows[part], column)
    assert index.find(column, column).tolist() == rows.tolist()
    assert index.nbytes / 700 < 4 / MAX_LOAD + 0.2


@pytest.mark.parametrize("num_keys", [10_000, 100_000])
def test_a_full_index_costs_little_more_than_its_slots(num_keys):
    column = np.random.default_rng(1).integers(0, 2**63, num_keys).astype(np.uint64)
    index = RowIndex(num_keys)
    index.add(rows_of(column), column)
    assert index.nbytes / num_keys < 4 / MAX_LOAD + 0.02
