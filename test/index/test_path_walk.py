"""A path's values come from runs of neighbours, and are those that a look-up of each would give."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.config import IndexConfig
from sglang_lsm.format import encode_index_value
from sglang_lsm.index.rocks import RocksIndex
from sglang_lsm.keycodec import encode, hash_tail
from sglang_lsm.pages import Location, NamespaceId, PagePath
from support.page_maker import chain

_numbers = itertools.count()


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    index = RocksIndex(tmp_path_factory.mktemp("walk") / "index", IndexConfig())
    yield index
    index.close()


def namespace():
    """A fresh one, so that examples do not meet; they are neighbours in the index."""
    return NamespaceId(b"walk" + next(_numbers).to_bytes(4, "big"))


def entries_of(path):
    return {
        key: encode_index_value(Location(1, 4096 * i, 4096, i, hash_tail(page)))
        for i, (key, page) in enumerate(zip(encode(path), path.hashes[path.start :], strict=True))
    }


def expected(path, table):
    values = map(table.get, encode(path))
    return list(itertools.takewhile(lambda value: value is not None, values))


# Trunks that end about a cut, and branches that are siblings of each other.
paths = st.tuples(
    st.sampled_from([0, 1, 15, 16, 17, 62, 63, 64, 65, 127, 128, 130]),
    st.lists(st.integers(1, 3), max_size=4),
).map(lambda path: [0] * path[0] + path[1])


@given(
    st.lists(paths, min_size=1, max_size=5),
    paths,
    st.integers(0, 140),
    st.sets(st.integers(0, 300)),
)
def test_a_path_is_found_as_far_as_a_look_up_of_each_page_goes(index, stored, asked, start, holes):
    name, table = namespace(), {}
    for tokens in stored:
        table |= entries_of(PagePath(name, chain(tokens)))
    for i, key in enumerate(sorted(table)):
        if i in holes:
            del table[key]
    index.put(list(table.items()))
    for tokens in (*stored, asked):
        path = PagePath(name, chain(tokens), min(start, len(tokens)))
        assert index.walk_path(path) == expected(path, table)


def test_the_next_namespace_does_not_go_on_where_this_one_ends(index):
    """Pools of one model store pages of the same hashes, a window's without those before them."""
    one, next_one = sorted([namespace(), namespace()])
    page_hashes = chain(range(5))
    index.put(list(entries_of(PagePath(one, page_hashes[:3])).items()))
    index.put(list(entries_of(PagePath(next_one, page_hashes, 3)).items()))
    assert len(index.walk_path(PagePath(one, page_hashes))) == 3
    assert len(index.walk_path(PagePath(next_one, page_hashes))) == 0
    assert len(index.walk_path(PagePath(next_one, page_hashes, 3))) == 2


def test_a_digest_that_two_pages_share_is_a_miss(index):
    path = PagePath(namespace(), chain(range(4)))
    index.put(list(entries_of(path).items()))
    twin = [*path.hashes[:2], path.hashes[2][:8] + bytes(24), path.hashes[3]]
    assert len(index.walk_path(PagePath(path.namespace, twin))) == 2
    first = [path.hashes[0][:8] + bytes(24), *path.hashes[1:]]
    assert index.walk_path(PagePath(path.namespace, first)) == []
