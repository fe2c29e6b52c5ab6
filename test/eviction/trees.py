"""Page tables for tests: paths over a small alphabet, so that they share prefixes."""

import hashlib

import numpy as np
from hypothesis import strategies as st
from sglang_lsm.eviction.page_table import PageTable
from sglang_lsm.eviction.places import pack_place
from sglang_lsm.pages import NamespaceId

NAMESPACES = (NamespaceId(b"model-01"), NamespaceId(b"model-02"))
PATHS = st.lists(
    st.tuples(st.sampled_from(NAMESPACES), st.text("ab", min_size=1, max_size=8)), max_size=12
)


def hashes(text):
    """Chained hashes of a path with one page for each letter."""
    chain, out = b"", []
    for letter in text:
        chain = hashlib.sha256(chain + letter.encode()).digest()
        out.append(chain)
    return out


def store(table, namespace, text, now=0, length=4096):
    """Store a path and touch what was there; return all its rows and how many are new."""
    root = table.root(namespace)
    keys = table.keys(root, hashes(text))
    old = table.lookup(root, keys)
    table.touch(old, now)
    places = np.full(len(keys) - len(old), pack_place(1, 0, length), np.uint64)
    parent = int(old[-1]) if old.size else root
    new = table.insert(parent, keys[len(old) :], places, now)
    return np.concatenate([old, new]), len(new)


def table_of(paths):
    table = PageTable(2)
    for now, (namespace, text) in enumerate(paths):
        store(table, namespace, text, now)
    return table


def prefixes(paths):
    """The pages of paths, as pairs of namespace and text up to the page."""
    return {(name, text[: i + 1]) for name, text in paths for i in range(len(text))}


def row_of(table, namespace, text):
    root = table.root(namespace)
    rows = table.lookup(root, table.keys(root, hashes(text)))
    return int(rows[-1]) if len(rows) == len(text) else None
