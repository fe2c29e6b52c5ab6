"""Follows what a store's pages go through, and names the ones to evict.

One object for the store: page table, logical time, reuse model, and a queue of victims. Time counts
pages used or stored, so the same requests lead to the same victims on every rank.

A pass over the table finds more victims than asked for, and those wait in the queue; each is looked
at again when it is its turn. So a victim costs a few us however large the table is.

Needs the lock of the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sglang_lsm.eviction import traits
from sglang_lsm.eviction.page_table import MANY, PageTable
from sglang_lsm.eviction.places import LENGTH_MASK, Places, length_units
from sglang_lsm.eviction.policy import LRU, Need, choose_victims
from sglang_lsm.eviction.reuse_model import ReuseModel
from sglang_lsm.eviction.row_index import EMPTY, Keys, Rows
from sglang_lsm.eviction.row_space import RowSpace
from sglang_lsm.pages import PageHash

_QUEUE_SHARE = 64
_FREE = (RowSpace.UNLISTED, RowSpace.LISTED)
_LATEST, _SHIFT = 0xFF000000, 1 << 31


@dataclass(slots=True)
class _Queue:
    """Victims in order, and what they were when they were chosen."""

    rows: list[int]
    keys: list[int]
    last: list[int]
    start: int = 0


class Evictor:
    """Decides which pages of a store leave.

    Args:
        table: its pages.
        model: learns which pages are used again; without one, the last access alone decides (LRU).
        now: logical time, as it comes with a checkpoint.
    """

    def __init__(
        self,
        table: PageTable,
        model: ReuseModel | None,
        now: int = 0,
    ) -> None:
        self.table = table
        self.now = now
        self._model = model
        self._queue: _Queue | None = None

    def touch(self, root: int, hashes: Sequence[PageHash]) -> Rows:
        """Note that a request used a path, in whatever tier; return the rows of its stored pages.

        Args:
            root: of the namespace.
            hashes: of the path's pages, from the root on.
        """
        keys = self.table.keys(root, hashes)
        rows = self.table.lookup(root, keys)
        if rows.size:
            self._tick(len(rows))
            self.table.touch(rows, self.now)
            traits.mark_hit(self.table.traits, rows)
            self._observe(root, rows)
        return rows

    def insert(self, root: int, hashes: Sequence[PageHash], start: int, places: Places) -> Rows:
        """Note that `hashes[start:]` were stored behind stored pages; return the new rows.

        Pages stored already are left alone. Fewer rows than pages come back if the page before is
        not stored, or two paths share a digest: what has no row cannot be evicted, so the caller
        takes those pages back.

        Args:
            root: of the namespace.
            hashes: of the path's pages, from the root on.
            start: first of the pages that were stored.
            places: `[len(hashes) - start]`, where they lie.
        """
        keys = self.table.keys(root, hashes)
        old = self.table.lookup(root, keys)
        if len(old) < start or len(old) == len(keys):
            return np.empty(0, np.int32)
        return self.extend(root, keys, old, places[len(old) - start :])

    def extend(self, root: int, keys: Keys, old: Rows, places: Places) -> Rows:
        """Like `insert`, where the caller has looked the stored pages up already.

        Args:
            root: of the namespace.
            keys: `[P]` of the path's pages, from the root on.
            old: rows of its leading pages that are stored.
            places: `[P - len(old)]`, where the others lie.
        """
        num_old = len(old)
        fresh = keys[num_old : num_old + self._num_unshared(keys[num_old:])]
        self._tick(len(fresh))
        parent = int(old[-1]) if num_old else root
        new = self.table.insert(parent, fresh, places[: len(fresh)], self.now)
        if new.size:
            traits.mark_new(self.table.traits, np.concatenate([old, new]), num_old)
            self._observe(root, new)
            if self._model and num_old:
                self._model.relabel(keys[:num_old] ^ self.table.salt(root), self._classes(old))
        return new

    def victims(self, num_units: int, keep: frozenset[int] = frozenset()) -> Rows:
        """Return pages to evict, extensions first, that free `num_units` of 4 KiB, or all there is.

        They are still in the table; the caller evicts them and then calls `remove`.

        Args:
            num_units: of 4 KiB.
            keep: rows of pages that are about to be extended.
        """
        if self._model:
            self._model.refresh(len(self.table), self.now)
        rows = self._from_queue(num_units, keep)
        if int(length_units(self.table.place[rows]).sum()) >= num_units:
            return rows
        self._fill_queue(num_units, keep)
        return self._from_queue(num_units, keep)

    def remove(self, rows: Rows) -> None:
        """Note that pages were evicted or deleted, none without its extensions."""
        self.table.remove(rows)

    def reconsider(self) -> None:
        """Choose anew at the next call: pages were pinned, or given another priority."""
        self._queue = None

    def _num_unshared(self, keys: Keys) -> int:
        """Return how many leading keys no other page has, so that each finds its own row."""
        has_twins = len(set(keys.tolist())) < len(keys)
        if not has_twins and not self.table.finds_any(keys):
            return len(keys)
        shared = self.table.find(keys) != EMPTY
        if has_twins:
            shared |= np.array([key in keys[:i] for i, key in enumerate(keys)])
        return int(shared.argmax()) if shared.any() else len(keys)

    def _fill_queue(self, num_units: int, keep: frozenset[int]) -> None:
        table, view = self.table, self.table.view()
        used = length_units(view.place[view.live()])
        at_once = max(num_units, int(used.sum()) // _QUEUE_SHARE)
        ranks = self._model.ranks if self._model else LRU
        need = Need(units=at_once, now=self.now, keep=keep)
        rows = choose_victims(view, need, ranks)
        self._queue = _Queue(rows.tolist(), table.key[rows].tolist(), table.last[rows].tolist())

    def _from_queue(self, num_units: int, keep: frozenset[int]) -> Rows:
        """Take victims from the head of the queue, skipping those that are none any more."""
        queue, taken, left = self._queue, list[int](), dict[int, int]()
        view = self.table.view()
        key, last, bits = self.table.key.data, view.last.data, view.traits.data
        parents, children, places = view.parent.data, view.children.data, view.place.data
        while queue and queue.start < len(queue.rows) and num_units > 0:
            i, row = queue.start, queue.rows[queue.start]
            queue.start += 1
            # A freed row keeps its key and its time.
            same = key[row] == queue.keys[i] and last[row] == queue.last[i]
            same = same and parents[row] not in _FREE
            held = bits[row] & traits.PINNED or row in keep
            if not same or held or left.get(row, children[row]):
                continue
            taken.append(row)
            num_units -= places[row] & LENGTH_MASK
            parent = parents[row]
            if parent >= 0 and children[parent] != MANY:
                left[parent] = left.get(parent, children[parent]) - 1
        return np.array(taken, np.int32)

    def _observe(self, root: int, rows: Rows) -> None:
        if self._model:
            digests = self.table.key[rows] ^ self.table.salt(root)
            self._model.observe(digests, self._classes(rows), self.now)

    def _classes(self, rows: Rows) -> NDArray[np.integer]:
        return self.table.traits[rows] & traits.CLASS_MASK

    def _tick(self, num_pages: int) -> None:
        self.now += num_pages
        if self.now >= _LATEST:
            shift = np.uint32(_SHIFT)
            self.table.last -= np.minimum(self.table.last, shift)
            self.now -= _SHIFT
            self._queue = None
            if self._model:
                self._model.shift_time(_SHIFT)
