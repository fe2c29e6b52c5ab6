"""Rows of pages that came without their parents: what holds them together, and when it goes."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from sglang_lsm.keycodec import GROUP_PAGES
from sglang_lsm.pages import Location
from sglang_lsm.stored_rows import StoredRows
from support.catalog_bench import NAMESPACES, key_of, pages_on, path_of

SEGMENT = 7
tokens = st.lists(st.integers(0, 1), min_size=1, max_size=5).map(tuple)


def place(number):
    return Location(SEGMENT, 4096 * (number + 1), 4096, 0, b"")


def stored(paths):
    """Return rows that know of the last page of each path, and their keys."""
    rows, keys = StoredRows(recency_only=True), []
    for number, each in enumerate(paths):
        path = path_of(NAMESPACES[0], each, start=len(each) - 1)
        assert rows.enter(path, [0], [place(number)]).has_row == [True]
        keys.append(key_of(pages_on(path)[-1]))
    return rows, keys


@given(st.lists(tokens, min_size=1, max_size=8, unique=True), st.randoms())
def test_ghosts_go_with_the_last_page_below_them(paths, random):
    rows, keys = stored(paths)
    assert rows.num_live == {SEGMENT: len(paths)}
    order = list(range(len(paths)))
    random.shuffle(order)
    for number in order:
        rows.lose([keys[number]], [place(number)])
    assert len(rows.table) == 0
    assert rows.num_live == {}


@given(st.lists(tokens, min_size=1, max_size=8, unique=True))
def test_a_page_is_found_where_it_lies_and_nowhere_else(paths):
    rows, keys = stored(paths)
    found = rows.find(keys, [place(i) for i in range(len(paths))])
    assert rows.locations(found) == [place(i) for i in range(len(paths))]
    assert (rows.find(keys, [place(99)] * len(keys)) == -1).all()
    assert set(rows.of_segment(SEGMENT)) == set(found)


def test_a_page_stored_once_more_gives_its_old_place_back():
    rows, keys = stored([(0, 1)])
    path = path_of(NAMESPACES[0], (0, 1), start=1)
    assert rows.enter(path, [0], [place(5)]).replaced == [place(0)]
    assert rows.locations(rows.find(keys, [place(5)])) == [place(5)]
    assert rows.num_live == {SEGMENT: 1}


def test_only_unstored_ends_of_groups_are_named():
    deep = (0,) * (GROUP_PAGES + 1)
    rows, _ = stored([deep, (0,) * 3])
    end = pages_on(path_of(NAMESPACES[0], deep[:GROUP_PAGES]))[-1]
    assert rows.ghost_group_ends() == [key_of(end)]
    path = path_of(NAMESPACES[0], deep[:GROUP_PAGES], start=GROUP_PAGES - 1)
    rows.enter(path, [0], [place(8)])
    assert rows.ghost_group_ends() == []
    assert np.count_nonzero(rows.table.place[rows.table.live_rows()]) == 3
