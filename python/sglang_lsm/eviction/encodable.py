"""Which pages are worth encoding now. Pure.

A page that is used soon again costs decoding and leaves its room to nobody; one that is about to
leave was encoded in vain. So a page waits until it was not used for a sixteenth of the time in
which as many pages are used as are stored, and of those that have waited the youngest come first:
they are going to stay longest. What is always in use stays plain.
"""

import numpy as np

from sglang_lsm.eviction import traits
from sglang_lsm.eviction.page_table import TableView
from sglang_lsm.eviction.places import LENGTH_MASK, length_units
from sglang_lsm.eviction.row_index import Rows

WAITING_SHARE = 16


def choose_encodable(view: TableView, *, now: int, units: int) -> Rows:
    """Return rows to encode, those used last first, that take `units` of 4 KiB or a little more.

    Args:
        view: of the page table.
        now: logical time.

    Cost: one pass over all rows.
    """
    is_stored = view.live() & (view.place != 0)
    latest = now - np.count_nonzero(is_stored) // WAITING_SHARE
    if latest < 0 or units <= 0:
        return np.empty(0, np.int32)
    is_left = is_stored & (view.traits & traits.SETTLED == 0) & (view.last <= np.uint32(latest))
    rows = np.flatnonzero(is_left)
    if not rows.size:
        return np.empty(0, np.int32)
    shortest = int((view.place[rows] & np.uint64(LENGTH_MASK)).min())
    num_needed = -(-units // max(1, shortest))
    if num_needed < len(rows):
        rows = rows[np.argpartition(view.last[rows], -num_needed)[-num_needed:]]
    rows = rows[np.argsort(view.last[rows], kind="stable")[::-1]]
    taken = np.cumsum(length_units(view.place[rows]))
    chosen: Rows = rows[: int(np.searchsorted(taken, units)) + 1].astype(np.int32)
    return chosen
