"""From rows back to index keys, by walking up.

Eviction spells the keys of its victims from the table alone. Needs the lock of the store.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sglang_lsm.eviction.page_table import ROOT, PageTable
from sglang_lsm.eviction.row_index import Keys, Rows
from sglang_lsm.keycodec import DIGEST_BYTES, GROUP_PAGES, HEAD_BYTES, ROOT_ANCHOR

_ROWS_AT_ONCE = 512


def index_keys(table: PageTable, rows: Rows) -> list[bytes]:
    """Return the key of each row in the LSM index, see `keycodec`.

    Cost: a page that comes right after its extension costs next to nothing, as victims mostly do;
    for the others, one numpy step for each page of the longest path, 512 of them at once.
    """
    keys: list[bytes] = [b""] * len(rows)
    # From the key of a group's first page one cannot tell the one before it.
    follows = np.flatnonzero(table.parent[rows[:-1]] == rows[1:]) + 1
    alone = np.setdiff1d(np.arange(len(rows)), follows, assume_unique=True)
    _walk_all(table, rows, alone.tolist(), keys)
    for i in follows.tolist():
        before = keys[i - 1]
        if len(before) > HEAD_BYTES + DIGEST_BYTES:
            keys[i] = before[:-DIGEST_BYTES]
        else:
            _walk_all(table, rows, [i], keys)
    return keys


def _walk_all(table: PageTable, rows: Rows, wanted: list[int], keys: list[bytes]) -> None:
    for start in range(0, len(wanted), _ROWS_AT_ONCE):
        part = wanted[start : start + _ROWS_AT_ONCE]
        for i, key in zip(part, _walked_keys(table, rows[part]), strict=True):
            keys[i] = key


def _walked_keys(table: PageTable, rows: Rows) -> Iterator[bytes]:
    steps, roots, depths = _walk(table, rows)
    for i, (root, depth) in enumerate(zip(roots.tolist(), depths.tolist(), strict=True)):
        group = (depth - 1) % GROUP_PAGES + 1
        # One more than the group: the last page of the group before is the anchor.
        path = steps[: min(group + 1, depth), i][::-1]
        digests = (path ^ table.salt(root)).astype(">u8").tobytes()
        anchor = ROOT_ANCHOR if depth == group else b""
        yield table.namespaces[ROOT - root] + anchor + digests


def _walk(table: PageTable, rows: Rows) -> tuple[Keys, Rows, NDArray[np.int64]]:
    """Return table keys `[up to 65, P]` from each row upwards, roots `[P]`, depths `[P]`."""
    steps: list[Keys] = []
    depths = np.zeros(len(rows), np.int64)
    current = rows.copy()
    inner = np.arange(len(rows))
    while inner.size:
        if len(steps) <= GROUP_PAGES:
            steps.append(table.key[np.maximum(current, 0)])
        depths[inner] += 1
        current[inner] = table.parent[current[inner]]
        inner = inner[current[inner] >= 0]
    return np.array(steps, np.uint64).reshape(len(steps), len(rows)), current, depths
