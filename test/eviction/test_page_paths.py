import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm import keycodec
from sglang_lsm.eviction.page_paths import TableLoader, index_keys
from sglang_lsm.eviction.page_table import PageTable
from sglang_lsm.eviction.places import pack_place
from sglang_lsm.pages import PagePath
from trees import NAMESPACES, hashes, row_of, store

# Long enough to cross groups of 64 pages.
LONG = st.lists(
    st.tuples(
        st.sampled_from(NAMESPACES),
        st.tuples(st.integers(0, 130), st.text("ab", min_size=1, max_size=3)),
    ).map(lambda path: (path[0], "a" * path[1][0] + path[1][1])),
    min_size=1,
    max_size=4,
)


def keys_of(paths):
    return {key for name, text in paths for key in keycodec.encode(PagePath(name, hashes(text)))}


@given(LONG, st.randoms())
def test_rows_spell_the_keys_of_the_index(paths, random):
    table = PageTable(1)
    for path in paths:
        store(table, *path)
    rows = table.live_rows()
    assert set(index_keys(table, rows)) == keys_of(paths)
    name, text = random.choice(paths)
    path = PagePath(name, hashes(text))
    leaf_first = [row_of(table, name, text[:end]) for end in range(len(text), 0, -1)]
    expected = list(keycodec.encode(path))[::-1]
    assert index_keys(table, np.array(leaf_first, np.int32)) == expected


@given(LONG, st.randoms(), st.integers(1, 50))
def test_a_scan_of_the_index_rebuilds_the_table(paths, random, batch):
    keys = sorted(keys_of(paths))
    random.shuffle(keys)
    table, num_dropped = loaded(keys, batch)
    assert num_dropped == 0
    assert sorted(index_keys(table, table.live_rows())) == sorted(keys)
    for name, text in paths:
        assert row_of(table, name, text) is not None


@given(LONG, st.data())
def test_what_leads_to_no_root_is_dropped(paths, data):
    keys = sorted(keys_of(paths))
    lost = data.draw(st.sampled_from(keys))
    table, num_dropped = loaded([key for key in keys if key != lost], 1000)
    kept = {page for path in paths for page in reachable(path, lost)}
    assert set(index_keys(table, table.live_rows())) == kept
    assert num_dropped == len(keys) - 1 - len(kept)


def reachable(path, lost):
    keys = keycodec.encode(PagePath(path[0], hashes(path[1])))
    return itertools.takewhile(lambda key: key != lost, keys)


def loaded(keys, batch):
    table = PageTable(1)
    loader = TableLoader(table)
    for name in NAMESPACES:
        own = [key for key in keys if key.startswith(name)]
        for start in range(0, len(own), batch):
            part = own[start : start + batch]
            places = np.full(len(part), pack_place(0, 0, 1), np.uint64)
            loader.add(name, [key[-8:] for key in part], [key[-16:-8] for key in part], places)
    return table, loader.finish()


def test_an_empty_index():
    assert TableLoader(PageTable(1)).finish() == 0
