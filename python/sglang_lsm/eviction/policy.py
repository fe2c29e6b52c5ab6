"""Which pages leave: least worth first, and never before their extensions. Pure.

Every page has an order, a number: low before high priority, then by rank (what the reuse model
expects of pages of its class and age), then by last access. With all ranks equal that is leaf-first
LRU.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sglang_lsm.eviction import traits
from sglang_lsm.eviction.page_table import MANY, TableView
from sglang_lsm.eviction.places import LENGTH_MASK, length_units
from sglang_lsm.eviction.reuse_index import NUM_BINS, age_bin
from sglang_lsm.eviction.row_index import Rows

Orders = NDArray[np.int64]
Ranks = NDArray[np.int64]

LRU: Ranks = np.zeros((traits.NUM_CLASSES, NUM_BINS), np.int64)
"""Ranks of a policy that looks at nothing but the last access."""

_PRIORITY_BIT, _RANK_BIT = 56, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What is to be freed, and when."""

    units: int
    """Of 4 KiB."""
    now: int
    """Logical time."""
    keep: frozenset[int] = frozenset()
    """Rows that stay, and with them the paths before them: new pages are about to extend them."""


def choose_victims(view: TableView, need: Need, ranks: Ranks) -> Rows:
    """Return rows to evict, extensions before what they extend, until they free `need.units`.

    Frees less only if nothing more may leave: what is left is pinned, kept, or leads to such pages.

    Args:
        view: of the page table.
        need: what for.
        ranks: `[classes, bins]`, `LRU` or those of a `ReuseModel`.

    Cost: one pass over all rows, then a few us for each victim.
    """
    leaves = view.leaves()
    leaves = leaves[view.traits[leaves] & traits.PINNED == 0]
    if need.keep:
        leaves = leaves[~np.isin(leaves, [*need.keep])]
    if not leaves.size or need.units <= 0:
        return np.empty(0, np.int32)
    # No other leaf can be among the victims: each of these frees at least the shortest length.
    num_needed = -(-need.units // int(length_units(view.place[leaves]).min()))
    orders = order(view, leaves, need.now, ranks)
    if num_needed < len(leaves):
        first = np.argpartition(orders, num_needed - 1)[:num_needed]
        leaves, orders = leaves[first], orders[first]
    # Of pages used last by the same request, the later row lies deeper.
    heap = list(zip(orders.tolist(), (-leaves).tolist(), strict=True))
    heapq.heapify(heap)
    return _climb(view, need, heap, ranks)


def order(view: TableView, rows: NDArray[np.integer], now: int, ranks: Ranks) -> Orders:
    """Return for each row a number; the lowest leaves first."""
    bits, last = view.traits[rows], view.last[rows].astype(np.int64)
    age = np.maximum(now - last, 0)
    rank = ranks[bits & traits.CLASS_MASK, age_bin(age)]
    priority = (bits >> traits.PRIORITY_SHIFT & traits.MAX_PRIORITY).astype(np.int64)
    orders: Orders = priority << _PRIORITY_BIT | rank << _RANK_BIT | last
    return orders


def _climb(view: TableView, need: Need, heap: list[tuple[int, int]], ranks: Ranks) -> Rows:
    """Take the lowest again and again; a page whose last extension left joins the others."""
    # Single values are read from a memoryview in half the time that an array takes.
    parents, children, places = view.parent.data, view.children.data, view.place.data
    last, bits = view.last.data, view.traits.data
    victims: list[int] = []
    left: dict[int, int] = {}
    freed = 0
    while heap and freed < need.units:
        its_order, row = heap[0]
        row = -row
        victims.append(row)
        freed += places[row] & LENGTH_MASK
        parent = parents[row]
        if parent < 0:
            heapq.heappop(heap)
            continue
        left[parent] = left.get(parent, children[parent]) - 1
        is_held = parent in need.keep or bits[parent] & traits.PINNED
        # Of more than can be told, one has left; the page waits for a later pass.
        if left[parent] or is_held or children[parent] == MANY:
            heapq.heappop(heap)
            continue
        if last[parent] != last[row] or bits[parent] != bits[row]:
            its_order = int(order(view, np.array([parent]), need.now, ranks)[0])
        heapq.heapreplace(heap, (its_order, -parent))
    return np.array(victims, np.int32)
