from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm import keycodec
from sglang_lsm.keycodec import DIGEST_BYTES, GROUP_PAGES, MAX_KEY_BYTES
from sglang_lsm.pages import NamespaceId, PagePath
from support.page_maker import chain

namespaces = st.binary(min_size=8, max_size=8).map(NamespaceId)
# A trunk longer than a group, so that group cuts are met, and few tokens, so that paths branch.
token_paths = st.builds(
    lambda trunk, branch: ["trunk"] * trunk + branch,
    st.sampled_from([0, 0, 1, 62, 63, 64, 65, 127, 128]),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
)


def keys_of(namespace, tokens, start=0):
    return list(keycodec.encode(PagePath(namespace, chain(tokens), start)))


@given(namespaces, token_paths)
def test_every_page_gets_one_key_of_bounded_length(namespace, tokens):
    keys = keys_of(namespace, tokens)
    assert len(set(keys)) == len(tokens)
    assert all(len(key) <= MAX_KEY_BYTES for key in keys)


@given(namespaces, token_paths, st.data())
def test_start_selects_and_does_not_change_keys(namespace, tokens, data):
    start = data.draw(st.integers(0, len(tokens)))
    assert keys_of(namespace, tokens, start) == keys_of(namespace, tokens)[start:]


@given(namespaces, token_paths)
def test_the_key_of_one_page_is_the_one_that_the_path_gives_it(namespace, tokens):
    path = PagePath(namespace, chain(tokens))
    keys = [keycodec.key_of(path, i) for i in range(len(tokens))]
    assert keys == keys_of(namespace, tokens)


@given(namespaces, token_paths)
def test_decode_takes_apart_what_encode_made(namespace, tokens):
    digests = [h[:DIGEST_BYTES] for h in chain(tokens)]
    for i, key in enumerate(keys_of(namespace, tokens)):
        cut = i - i % GROUP_PAGES
        parts = keycodec.decode(key)
        assert parts.namespace == namespace
        assert parts.anchor == (digests[cut - 1] if cut else keycodec.ROOT_ANCHOR)
        assert list(parts.digests) == digests[cut : i + 1]


@given(st.binary(max_size=MAX_KEY_BYTES + 16))
def test_decode_takes_a_key_or_raises(key):
    try:
        parts = keycodec.decode(key)
    except ValueError:
        return
    assert parts.namespace + parts.anchor + b"".join(parts.digests) == key


@given(namespaces, token_paths)
def test_a_prefix_sorts_before_its_extensions_inside_a_group(namespace, tokens):
    keys = keys_of(namespace, tokens)
    for shorter, longer in pairwise(keys):
        if keycodec.extends_group(shorter):
            assert keycodec.parent(longer) is None
            assert longer.startswith(keycodec.group_below(shorter))
        else:
            assert shorter < longer
            assert keycodec.parent(longer) == shorter


@given(namespaces, st.lists(token_paths, min_size=1, max_size=8), st.data())
def test_a_subtree_inside_a_group_is_one_range(namespace, paths, data):
    root = data.draw(st.sampled_from(paths))
    depth = data.draw(st.integers(1, len(root)))
    root_key = keys_of(namespace, root)[depth - 1]
    end = keycodec.range_end(root_key)
    for tokens in paths:
        for i, key in enumerate(keys_of(namespace, tokens)):
            same_group = i // GROUP_PAGES == (depth - 1) // GROUP_PAGES
            below = same_group and i + 1 >= depth and tokens[:depth] == root[:depth]
            assert (root_key <= key and (end is None or key < end)) == below


@given(namespaces, st.lists(token_paths, min_size=2, max_size=8))
def test_siblings_lie_together(namespace, paths):
    """Between two pages of one parent there are only pages below that parent."""
    keys = sorted({key for tokens in paths for key in keys_of(namespace, tokens)})
    for parent in {keycodec.parent(key) for key in keys} - {None}:
        below = [i for i, key in enumerate(keys) if key.startswith(parent)]
        assert below == list(range(below[0], below[-1] + 1))


@given(namespaces, namespaces, token_paths, token_paths)
def test_namespaces_do_not_overlap(one, other, tokens, other_tokens):
    if one == other:
        return
    low, high = sorted([one, other])
    assert keycodec.range_end(low) <= high
    for key in keys_of(low, tokens) + keys_of(low, other_tokens):
        assert low < key < keycodec.range_end(low)


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_range_end_bounds_exactly_the_keys_with_the_prefix(prefix, key):
    end = keycodec.range_end(prefix)
    inside = key >= prefix and (end is None or key < end)
    assert inside == key.startswith(prefix)


def test_groups_of_different_branches_do_not_mix():
    """Two paths that differ above a cut have equal tokens below it and still no common key."""
    namespace = NamespaceId(bytes(8))
    one = keys_of(namespace, ["a"] + ["same"] * 70)
    other = keys_of(namespace, ["b"] + ["same"] * 70)
    assert not set(one) & set(other)


def test_key_golden():
    namespace = NamespaceId(bytes(range(8)))
    hashes = [bytes([i]) * 32 for i in range(1, 67)]
    keys = list(keycodec.encode(PagePath(namespace, hashes, 1)))
    assert keys[0].hex() == "0001020304050607" + "00" * 8 + "01" * 8 + "02" * 8
    assert len(keys[62]) == MAX_KEY_BYTES == 528
    assert keys[63].hex() == "0001020304050607" + "40" * 8 + "41" * 8
    assert keys[64].hex() == "0001020304050607" + "40" * 8 + "41" * 8 + "42" * 8


def test_hash_tail_is_what_the_key_leaves_out():
    page_hash = bytes(range(32))
    assert keycodec.hash_tail(page_hash) == bytes(range(8, 16))


@pytest.mark.parametrize("start", [0, 1, 63, 64, 65, 128])
def test_encode_makes_no_key_beyond_the_one_taken(start):
    """A probe of a long path that is not stored must not pay for the whole path."""
    touched = []

    class Hashes(list):
        def __getitem__(self, i):
            touched.append(i)
            return super().__getitem__(i)

    path = PagePath(NamespaceId(bytes(8)), Hashes(chain(range(200))), start)
    next(iter(keycodec.encode(path)))
    assert max(touched) <= start
    assert len(touched) <= GROUP_PAGES + 1
