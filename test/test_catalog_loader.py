"""The table that a scan gives is the one of the pages that can be reached, and of their ghosts."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sglang_lsm.catalog_loader import load_table
from sglang_lsm.errors import CorruptionError
from sglang_lsm.eviction.page_paths import index_keys
from sglang_lsm.eviction.places import pack_place
from sglang_lsm.format import encode_index_value
from sglang_lsm.keycodec import HEAD_BYTES
from sglang_lsm.pages import Location
from sglang_lsm.stored_rows import GHOST
from support.catalog_bench import (
    NAMESPACES,
    ancestors,
    cuts_before,
    key_of,
    pages_on,
    path_of,
)

PATHS = st.lists(
    st.tuples(
        st.sampled_from(NAMESPACES),
        st.sampled_from([0, 1, 62, 63, 64, 127, 130]),
        st.lists(st.integers(0, 3), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=5,
)


def pages_of(paths):
    return {
        page
        for namespace, trunk, branch in paths
        for page in pages_on(path_of(namespace, (*[0] * trunk, *branch)))
    }


def entries_of(places):
    return sorted(
        (key_of(page), encode_index_value(Location(1, at * 4096, 5000, 0, bytes(8))))
        for page, at in places.items()
    )


def chunks_of(entries, size=4096):
    return (entries[start : start + size] for start in range(0, len(entries), size))


@given(PATHS, st.data(), st.sampled_from([1, 3, 4096]), st.integers(0, 500))
def test_reachable_pages_have_their_places_and_what_is_missing_before_them_is_a_ghost(
    paths, data, chunk, num_expected
):
    pages = sorted(pages_of(paths))
    missing = data.draw(st.sets(st.sampled_from(pages), max_size=8))
    places = {page: at for at, page in enumerate(pages) if page not in missing}
    table, left_out = load_table(chunks_of(entries_of(places), chunk), num_expected=num_expected)
    reached = {page for page in places if all(cut in places for cut in cuts_before(page))}
    rows = table.live_rows()
    found = dict(zip(index_keys(table, rows), table.place[rows].tolist(), strict=True))
    assert len(found) == len(rows)
    assert found == {key_of(before): GHOST for page in reached for before in ancestors(page)} | {
        key_of(page): pack_place(1, places[page] * 4096, 5000) for page in reached
    }
    parents, counts = np.unique(table.parent[rows], return_counts=True)
    inner = parents >= 0
    assert table.num_children(parents[inner]).tolist() == counts[inner].tolist()
    assert left_out == sorted({key_of(page)[:HEAD_BYTES] for page in {*places} - reached})


def test_an_empty_index():
    table, left_out = load_table([])
    assert len(table) == 0
    assert left_out == []


@pytest.mark.parametrize(
    "value", [b"short", encode_index_value(Location(1 << 28, 0, 1, 0, bytes(8)))]
)
def test_a_damaged_value_is_told(value):
    (page,) = pages_on(path_of(NAMESPACES[0], (0,)))
    with pytest.raises(CorruptionError):
        load_table([[(key_of(page), value)]])


def test_takes_entries_as_they_come():
    """A start must be able to stop in the middle of a scan of many pages."""
    pages = pages_on(path_of(NAMESPACES[0], tuple(range(50))))
    entries = entries_of(dict(zip(pages, range(50), strict=True)))
    stop = RuntimeError("stopped")

    def until_the_tenth():
        yield entries[:10]
        raise stop

    with pytest.raises(RuntimeError) as raised:
        load_table(until_the_tenth())
    assert raised.value is stop
