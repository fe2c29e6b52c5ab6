import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm import keycodec
from sglang_lsm.eviction.page_paths import index_keys
from sglang_lsm.eviction.page_table import PageTable
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
