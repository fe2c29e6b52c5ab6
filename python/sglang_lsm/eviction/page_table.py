"""What is known of each stored page, in 32 bytes of RAM: its place in the tree, on disk, in time.

A struct of arrays; a page is a row. 27 bytes of columns and 4 / 0.875 bytes of hash slot:

    key        u64   first 8 bytes of the page hash, xor the namespace, so that both are told apart
    parent     i32   row of the page before; ROOT - n for the first page of a path in namespace n
    place      u64   segment, offset and length, see `places`
    last       u32   logical time of the last access, in any tier
    children   u8    stored extensions by one page; 255 means: see `_many_children`
    traits     u16   what the policies know of the page, see `traits`

Rows come and go with the pages; a freed row is used again. A path walked up from any row ends at
its root, so the key of the LSM index can be spelled without reading the disk (`page_paths`).

Needs the lock of the store. Methods take batches; a call costs some 30 us, a page about 0.5 us.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sglang_lsm.eviction import traits
from sglang_lsm.eviction.places import Places
from sglang_lsm.eviction.row_index import EMPTY, Keys, RowIndex, Rows
from sglang_lsm.eviction.row_space import RowSpace
from sglang_lsm.pages import NamespaceId, PageHash

ROOT = -2
MANY = 255
_GUESSED_RUNS, _WORTH_GUESSING = 4, 16


Times = NDArray[np.uint32]
Flags = NDArray[np.bool_]

COLUMNS: dict[str, type[np.generic]] = {
    "key": np.uint64,
    "parent": np.int32,
    "place": np.uint64,
    "last": np.uint32,
    "children": np.uint8,
    "traits": np.uint16,
}


@dataclass(frozen=True, slots=True)
class TableView:
    """What policies see: columns over all rows, live and free. Not to be written."""

    parent: Rows
    place: Places
    last: Times
    children: NDArray[np.uint8]
    traits: NDArray[np.uint16]

    def live(self) -> Flags:
        """Return which rows hold a page."""
        return is_live(self.parent)

    def leaves(self) -> NDArray[np.int64]:
        """Return the rows of pages without stored extensions, ascending."""
        rows = np.flatnonzero(self.children == 0)
        return rows[is_live(self.parent[rows])]


def is_live(parent: Rows) -> Flags:
    """Return which rows hold a page, by their parent."""
    return np.asarray((parent != RowSpace.UNLISTED) & (parent != RowSpace.LISTED))


class PageTable:
    """The pages of one store.

    Args:
        capacity: rows to begin with. It grows to twice its size up to `expected_rows`, then by an
            eighth.
    """

    def __init__(self, capacity: int = 1024) -> None:
        capacity = max(1, capacity)
        self.expected_rows = 0
        """What the table is going to hold: the quota over the bytes of a page."""
        self.namespaces: list[NamespaceId] = []
        self._many_children: dict[int, int] = {}
        self._set_columns({name: np.zeros(capacity, kind) for name, kind in COLUMNS.items()})
        self._space = RowSpace(self.parent)
        self._index = RowIndex(capacity)

    def __len__(self) -> int:
        """Return the number of pages."""
        return self._space.num_used

    @property
    def nbytes(self) -> int:
        """Bytes of RAM, all counted; an entry of a dict as 100."""
        columns = sum(int(getattr(self, name).nbytes) for name in COLUMNS)
        return columns + self._index.nbytes + self._space.nbytes + 100 * len(self._many_children)

    def root(self, namespace: NamespaceId) -> int:
        """Return what stands for the parent of the first pages of a namespace."""
        if namespace not in self.namespaces:
            self.namespaces.append(namespace)
        return ROOT - self.namespaces.index(namespace)

    def keys(self, root: int, hashes: Sequence[PageHash]) -> Keys:
        """Return the table's keys of a path's pages, as the other methods take them."""
        digests = np.frombuffer(b"".join(h[:8] for h in hashes), ">u8").astype(np.uint64)
        return digests ^ self.salt(root)

    def salt(self, root: int) -> np.uint64:
        """Return what is xored into the digests of a namespace."""
        return np.uint64(int.from_bytes(self.namespaces[ROOT - root], "big"))

    def lookup(self, root: int, keys: Keys) -> Rows:
        """Return the rows of the leading pages that are stored.

        Args:
            root: of the namespace, see `root`.
            keys: `[P]` of a path from the root on.
        """
        rows = self._find_path(keys)
        if not rows.size:
            return rows
        linked = rows != EMPTY
        # The chain of parents decides: a digest that two paths share is a miss for one of them.
        linked[:1] &= self.parent[rows[:1]] == root
        linked[1:] &= self.parent[rows[1:]] == rows[:-1]
        return rows if linked.all() else rows[: int(linked.argmin())]

    def find(self, keys: Keys) -> Rows:
        """Return the row of each key by itself, -1 where there is none."""
        return self._index.find(keys, self.key)

    def finds_any(self, keys: Keys) -> bool:
        """Return whether one of `keys` has a row."""
        return self._index.finds_any(keys, self.key)

    def insert(self, parent: int, keys: Keys, places: Places, now: int) -> Rows:
        """Enter the pages of a path that follow `parent`; return their rows.

        Args:
            parent: row of the page before, or the `root`.
            keys: `[P]`, of pages that `lookup` did not find. Should two paths share a digest, one
                of them will not be found again, which is a miss.
            places: `[P]`, see `pack_place`.
            now: logical time.
        """
        if not keys.size:
            return np.empty(0, np.int32)
        rows = self._new_rows(keys, places, now)
        self.parent[rows[0]] = parent
        self.parent[rows[1:]] = rows[:-1]
        self.children[rows[:-1]] = 1
        if parent >= 0:
            self._add_children(np.array([parent]), np.array([1]))
        return rows

    def touch(self, rows: Rows, now: int) -> None:
        """Note an access to pages, in whatever tier they were found."""
        self.last[rows] = now

    def relocate(self, rows: Rows, places: Places) -> None:
        """Note that pages were moved on disk."""
        self.place[rows] = places

    def remove(self, rows: Rows) -> None:
        """Forget pages.

        Raises:
            ValueError: one of them has an extension that is not among them; nothing was removed.
        """
        parents, counts = np.unique(self.parent[rows], return_counts=True)
        inner = parents >= 0
        parents, counts = parents[inner], counts[inner]
        left = self.num_children(rows)
        at = np.searchsorted(parents, rows)
        known = np.append(parents, -1)[at] == rows
        left[known] -= counts[at[known]]
        if left.any():
            raise ValueError(f"a page leaves after its extensions. early={np.count_nonzero(left)}")
        self._add_children(parents, -counts)
        self._index.discard(self.key[rows], rows)
        self._space.release(self.parent, rows)

    def num_children(self, rows: Rows) -> NDArray[np.int64]:
        """Return how many stored pages extend each row by one."""
        counts = self.children[rows].astype(np.int64)
        for i in np.flatnonzero(counts == MANY):
            counts[i] = self._many_children[int(rows[i])]
        return counts

    def live_rows(self) -> Rows:
        """Return the rows of all pages, ascending."""
        return np.flatnonzero(self.view().live()).astype(np.int32)

    def view(self) -> TableView:
        """Return the columns for a policy; valid until the next change."""
        top = self._space.top
        columns = ("parent", "place", "last", "children", "traits")
        return TableView(*(getattr(self, name)[:top] for name in columns))

    def load(self, keys: Keys, places: Places) -> Rows:
        """Enter pages whose parents come afterwards, with `link`; return their rows."""
        rows = self._new_rows(keys, places, now=0)
        # Until then they are roots: what has no parent at all is a free row.
        self.parent[rows] = ROOT
        return rows

    def link(self, rows: Rows, parents: Rows) -> None:
        """Give loaded rows their parents: rows or roots."""
        self.parent[rows] = parents
        counted, counts = np.unique(parents[parents >= 0], return_counts=True)
        self._add_children(counted, counts)

    def _find_path(self, keys: Keys) -> Rows:
        """Return the row of each key, up to one that has none, or beyond.

        Pages stored together mostly have neighbouring rows, so the first tells of the next.
        """
        found = [np.empty(0, np.int32)]
        for _ in range(_GUESSED_RUNS):
            if len(keys) < _WORTH_GUESSING:
                break
            first = self._index.find_one(int(keys[0]), self.key)
            if first == EMPTY:
                return np.concatenate(found)
            same = self.key[first : first + len(keys)] == keys[: len(self.key) - first]
            # A freed row keeps its key; what tells it from a page is its parent.
            after = np.arange(first, first + len(same) - 1, dtype=np.int32)
            same[1:] &= self.parent[first + 1 : first + len(same)] == after
            num_same = len(same) if same.all() else int(same.argmin())
            found.append(np.arange(first, first + num_same, dtype=np.int32))
            keys = keys[num_same:]
        if keys.size:
            found.append(self._index.find(keys, self.key))
        return np.concatenate(found)

    def _new_rows(self, keys: Keys, places: Places, now: int) -> Rows:
        if self._space.num_free < len(keys):
            self._grow(len(self) + len(keys))
        rows = self._space.take(self.parent, len(keys))
        self.key[rows], self.place[rows] = keys, places
        self.last[rows], self.children[rows], self.traits[rows] = now, 0, traits.NEW
        self._index.add(rows, self.key)
        return rows

    def _add_children(self, rows: NDArray[np.integer], counts: NDArray[np.integer]) -> None:
        after = self.num_children(rows.astype(np.int32)) + counts
        self.children[rows] = np.minimum(after, MANY)
        for row in rows[after < MANY].tolist() if self._many_children else ():
            self._many_children.pop(row, None)
        many = after >= MANY
        self._many_children.update(zip(rows[many].tolist(), after[many].tolist(), strict=True))

    def _grow(self, num_rows: int) -> None:
        # Each growth enters every page anew, which by eighths only is nine times what they cost.
        now = len(self.parent)
        is_growing_up = now < self.expected_rows
        capacity = min(2 * now, self.expected_rows) if is_growing_up else now + now // 8
        capacity = max(num_rows, capacity)
        grown = {}
        for name, kind in COLUMNS.items():
            grown[name] = np.zeros(capacity, kind)
            grown[name][: len(self.parent)] = getattr(self, name)
        rows = self.live_rows()
        self._set_columns(grown)
        self._space.grow(self.parent)
        self._index = RowIndex(capacity)
        self._index.add(rows, self.key)

    def _set_columns(self, columns: dict[str, NDArray[np.generic]]) -> None:
        self.key: Keys = columns["key"].view(np.uint64)
        self.parent: Rows = columns["parent"].view(np.int32)
        self.place: Places = columns["place"].view(np.uint64)
        self.last: Times = columns["last"].view(np.uint32)
        self.children: NDArray[np.uint8] = columns["children"].view(np.uint8)
        self.traits: NDArray[np.uint16] = columns["traits"].view(np.uint16)
