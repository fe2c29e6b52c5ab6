"""The page table from a scan of the index: what a start needs after a process was killed. Pure.

An entry costs half a us: chunks of entries become columns at once, and what is looked at one by one
is where a path branches off.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from sglang_lsm import format
from sglang_lsm.errors import CorruptionError
from sglang_lsm.eviction.page_table import ROOT, PageTable
from sglang_lsm.eviction.places import Places, pack_places
from sglang_lsm.eviction.row_index import EMPTY, Keys, Rows
from sglang_lsm.keycodec import DIGEST_BYTES, HEAD_BYTES
from sglang_lsm.pages import NAMESPACE_BYTES, NamespaceId

Entry = tuple[bytes, bytes]

_SPARE_SHARE = 8
"""One more row for so many: the first puts after a start shall not find a full table."""
_GHOST = np.uint64(0)
_first: Callable[[Entry], bytes] = itemgetter(0)
_value: Callable[[Entry], bytes] = itemgetter(1)
_namespace: Callable[[Entry], bytes] = lambda entry: entry[0][:NAMESPACE_BYTES]  # noqa: E731
_last_two: Callable[[bytes], bytes] = itemgetter(slice(-2 * DIGEST_BYTES, None))


def load_table(
    chunks: Iterable[Sequence[Entry]], *, num_expected: int = 0
) -> tuple[PageTable, list[bytes]]:
    """Return the table of all pages, and the groups left out: the prefixes of their keys.

    A page before others in its group that is not stored becomes a row without a place. A group
    whose anchor leads to no root is left out: what lies before its pages is not known.

    Args:
        chunks: the entries of the index, in key order.
        num_expected: about how many there are.

    Raises:
        CorruptionError: a value is none.
    """
    loader = _Loader(PageTable(num_expected + num_expected // _SPARE_SHARE))
    for chunk in chunks:
        for namespace, entries in _by_namespace(chunk):
            loader.add(NamespaceId(namespace), list(map(_first, entries)), _places(entries))
    return loader.table, loader.finish()


class _Loader:
    """Fills an empty table in key order."""

    def __init__(self, table: PageTable) -> None:
        self.table = table
        self._last_key = b""
        self._hanging: list[tuple[Rows, Keys]] = []
        """First pages of groups, and the table's key of their anchor, which may come later."""

    def add(self, namespace: NamespaceId, keys: list[bytes], places: Places) -> None:
        """Take the next pages in key order, all of one namespace.

        Args:
            keys: `[P]`, of the index.
            places: `[P]`, where each page lies.
        """
        table, root = self.table, self.table.root(namespace)
        lengths, above, digests, follows = self._columns(keys)
        ghosts = self._ghosts(
            keys, np.flatnonzero(~follows & (lengths > HEAD_BYTES + DIGEST_BYTES))
        )
        if ghosts:
            places = np.insert(places, [at for at, _ in ghosts], _GHOST)
            for at, key in reversed(ghosts):
                keys.insert(at, key)
            lengths, above, digests, follows = self._columns(keys)
        self._last_key = keys[-1]
        salt = table.salt(root)
        rows = table.load(digests ^ salt, places)
        # Never used rows are handed out in order, so the page before has the row before.
        parents = rows - np.int32(1)
        opens = lengths == HEAD_BYTES + DIGEST_BYTES
        parents[opens] = root
        branches = ~follows & ~opens
        parents[branches] = table.find(above[branches] ^ salt)
        table.link(rows, parents)
        hangs = opens & (above != 0)
        if hangs.any():
            self._hanging.append((rows[hangs], above[hangs] ^ salt))

    def finish(self) -> list[bytes]:
        """Link each group to its anchor; drop those without, return the prefixes of their keys."""
        if not self._hanging:
            return []
        rows = np.concatenate([part for part, _ in self._hanging])
        anchors = np.concatenate([part for _, part in self._hanging])
        roots = self.table.parent[rows]
        parents = self.table.find(anchors)
        found = parents != EMPTY
        self.table.link(rows[found], parents[found])
        if found.all():
            # A path has no loops, so all that have a parent lead to a root.
            return []
        is_lost = self._drop(rows[~found])[rows]
        groups = {
            self.table.namespaces[ROOT - root]
            + int(anchor ^ self.table.salt(root)).to_bytes(DIGEST_BYTES, "big")
            for root, anchor in zip(roots[is_lost].tolist(), anchors[is_lost], strict=True)
        }
        return sorted(groups)

    def _columns(
        self, keys: Sequence[bytes]
    ) -> tuple[NDArray[np.int64], Keys, Keys, NDArray[np.bool_]]:
        """Return of each key: length, last two digests, and whether it extends the one before.

        In the first key of a group, an anchor stands in the place of the last digest but one.
        """
        before = self._last_key or bytes(2 * DIGEST_BYTES)
        ends = b"".join(map(_last_two, (before, *keys)))
        above, digests = np.frombuffer(ends, ">u8").astype(np.uint64).reshape(-1, 2).T
        lengths = np.fromiter(map(len, (before, *keys)), np.int64, len(keys) + 1)
        follows = (lengths[1:] == lengths[:-1] + DIGEST_BYTES) & (above[1:] == digests[:-1])
        return lengths[1:], above[1:], digests[1:], follows

    def _ghosts(self, keys: Sequence[bytes], branches: NDArray[np.intp]) -> list[tuple[int, bytes]]:
        """Return the keys between each of `branches` and the nearest one before it on its path.

        Of the key before, every page has a row by now; so what the two share is known.
        """
        ghosts = []
        for i in branches.tolist():
            key, before = keys[i], keys[i - 1] if i else self._last_key
            if before.startswith(key[:-DIGEST_BYTES]):
                continue
            known = _num_shared(before, key)
            ends = range(max(HEAD_BYTES, known) + DIGEST_BYTES, len(key), DIGEST_BYTES)
            ghosts += [(i, key[:end]) for end in ends]
        return ghosts

    def _drop(self, orphans: Rows) -> NDArray[np.bool_]:
        """Remove pages and all that hang on them; return of each row whether it went."""
        up = self.table.view().parent.copy()
        up[orphans] = EMPTY
        # Every round doubles how far each page sees; in the end all see their root, or none.
        while (inner := np.flatnonzero(up >= 0)).size:
            up[inner] = up[up[inner]]
        is_lost: NDArray[np.bool_] = up == EMPTY
        self.table.remove(np.flatnonzero(is_lost).astype(np.int32))
        return is_lost


def _by_namespace(chunk: Sequence[Entry]) -> Iterable[tuple[bytes, Sequence[Entry]]]:
    if not chunk:
        return
    if _namespace(chunk[0]) == _namespace(chunk[-1]):
        yield _namespace(chunk[0]), chunk
        return
    for namespace, entries in groupby(chunk, _namespace):
        yield namespace, list(entries)


def _places(entries: Sequence[Entry]) -> Places:
    """Return where each page lies.

    Raises:
        CorruptionError: a value of a wrong size, or a place out of range.
    """
    columns = format.index_value_places(list(map(_value, entries)))
    try:
        return pack_places(*columns)
    except ValueError as error:
        raise CorruptionError(f"index value of no place. reason={error}") from error


def _num_shared(a: bytes, b: bytes) -> int:
    """Return how many leading bytes two keys share, in whole digests."""
    num = 0
    while num < len(a) and a[num : num + DIGEST_BYTES] == b[num : num + DIGEST_BYTES]:
        num += DIGEST_BYTES
    return num
