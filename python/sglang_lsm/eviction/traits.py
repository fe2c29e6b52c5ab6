"""What a policy knows of a page beside its age: 16 bits of the page table. Pure.

    bits 0-2    turn      of the request that used the page last: runs of pages from the root
    bits 3-4    size      of the run which that request stored: up to 4, 16, 64, more pages
    bit  5      reused    used again since it was stored
    bit  6      tail      last page of its run: often cut within a turn, so seldom met again
    bits 7-9    run       at which run of pages from the root it was stored
    bits 10-11  priority  3 leaves last
    bit  12     settled   encoded, or found not to be worth it
    bit  13     free
    bit  14     pinned    never leaves

The low seven bits are the page's class. Pages of a class are expected to be used again alike.
Counts stop at the largest value that fits. A run is what one request added to the tree.
"""

import numpy as np
from numpy.typing import NDArray

Traits = NDArray[np.uint16]
Rows = NDArray[np.int32]

NEW = 0
NUM_CLASSES = 1 << 7
CLASS_MASK = NUM_CLASSES - 1
SIZE_SHIFT, RUN_SHIFT, PRIORITY_SHIFT = 3, 7, 10
REUSED, TAIL, SETTLED, PINNED = 1 << 5, 1 << 6, 1 << 12, 1 << 14
MAX_TURN = 7
MAX_PRIORITY = 3
_TURN_MASK, _SIZE_MASK, _RUN_MASK = 7, 3 << SIZE_SHIFT, 7 << RUN_SHIFT
_SIZES = (4, 16, 64)
_HOLD_MASK = np.uint16(MAX_PRIORITY << PRIORITY_SHIFT | PINNED)


def mark_hit(column: Traits, rows: Rows) -> None:
    """Note in `column` that a request used stored pages: `rows`, from the root on."""
    if not rows.size:
        return
    traits = column[rows] & ~np.uint16(TAIL | _TURN_MASK)
    run = int(traits[-1] & _RUN_MASK) >> RUN_SHIFT
    column[rows] = traits | REUSED | min(MAX_TURN, run + 1)


def mark_new(column: Traits, rows: Rows, num_old: int) -> None:
    """Note in `column` the run that a request added, on itself and on the path before it.

    Args:
        column: traits by row.
        rows: of the whole path; those from `num_old` on are new.
        num_old: how many pages of the path were there before.
    """
    traits = column[rows]
    run = 0
    if num_old:
        run = min(MAX_TURN, (int(traits[num_old - 1] & _RUN_MASK) >> RUN_SHIFT) + 1)
    size = sum(len(rows) - num_old > limit for limit in _SIZES)
    traits &= ~np.uint16(_TURN_MASK | _SIZE_MASK)
    traits |= np.uint16(run | size << SIZE_SHIFT)
    traits[num_old:] |= np.uint16(run << RUN_SHIFT)
    traits[-1] |= np.uint16(TAIL)
    column[rows] = traits


def settle(column: Traits, rows: Rows, *, settled: bool = True) -> None:
    """Note that encoding has nothing more to do with pages, or that it may have."""
    column[rows] = column[rows] & ~np.uint16(SETTLED) | np.uint16(SETTLED * settled)


def set_hold(column: Traits, rows: Rows, bits: Traits) -> None:
    """Set on `rows` what an operator asked for: priority and pin, in their places."""
    column[rows] = column[rows] & ~_HOLD_MASK | bits


def clear_holds(column: Traits) -> None:
    """Forget of all rows what an operator asked for."""
    column &= ~_HOLD_MASK
