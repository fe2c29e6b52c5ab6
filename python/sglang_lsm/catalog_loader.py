"""The page table from a scan of the index: what a start needs after a process was killed. Pure."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from sglang_lsm import format, keycodec
from sglang_lsm.eviction.page_paths import TableLoader
from sglang_lsm.eviction.page_table import PageTable
from sglang_lsm.eviction.places import pack_place
from sglang_lsm.keycodec import DIGEST_BYTES, HEAD_BYTES, ROOT_ANCHOR
from sglang_lsm.pages import NAMESPACE_BYTES, NamespaceId

_CHUNK_ENTRIES = 4096


def load_table(
    entries: Iterable[tuple[bytes, bytes]],
) -> tuple[PageTable, set[tuple[bytes, bytes]]]:
    """Return the table of all pages, and the groups met: prefix of their keys, and anchor.

    A page before others in its group that is not stored becomes a row without a place. Pages of a
    group whose anchor is not stored are left out.

    Args:
        entries: of the index, in key order.
    """
    table = PageTable()
    loader = TableLoader(table)
    groups: set[tuple[bytes, bytes]] = set()
    source = iter(entries)
    stack: list[bytes] = []
    while chunk := list(islice(source, _CHUNK_ENTRIES)):
        by_namespace: dict[bytes, list[tuple[bytes, int]]] = {}
        for key, value in chunk:
            rows = by_namespace.setdefault(key[:NAMESPACE_BYTES], [])
            rows += [(ghost, 0) for ghost in _missing_before(key, stack)]
            at = format.decode_index_value(value)
            rows.append((key, pack_place(at.segment_id, at.offset, at.length)))
            anchor = key[NAMESPACE_BYTES:HEAD_BYTES]
            if anchor != ROOT_ANCHOR:
                groups.add((key[:HEAD_BYTES], anchor))
        for namespace, rows in by_namespace.items():
            keys = [key for key, _ in rows]
            loader.add(
                NamespaceId(namespace),
                [key[-DIGEST_BYTES:] for key in keys],
                [key[-2 * DIGEST_BYTES : -DIGEST_BYTES] for key in keys],
                np.array([place for _, place in rows], np.uint64),
            )
    loader.finish()
    return table, groups


def _missing_before(key: bytes, stack: list[bytes]) -> Iterator[bytes]:
    """Yield the keys between `key` and the nearest stored one before it on its path.

    `stack` holds the path of the entry before, and is brought up to `key`.
    """
    while stack and not key.startswith(stack[-1]):
        stack.pop()
    known = len(stack[-1]) if stack else HEAD_BYTES
    for end in range(known + DIGEST_BYTES, len(key), DIGEST_BYTES):
        stack.append(key[:end])
        yield stack[-1]
    stack.append(key)
    assert len(stack) <= keycodec.GROUP_PAGES
