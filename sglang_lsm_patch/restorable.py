"""Which lengths of a stored prefix a model with several pools can go on from. Pure.

A sliding window needs the pages of the window that ends there, a recurrent state the one page that
ends there, and other pools every page. So a length can be good although a longer and a shorter one
are not; ranks agree by intersecting their lists, never by taking the smaller maximum.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one pool asks of a prefix."""

    present: Sequence[bool]
    """Of each page of the span, in order: is it stored?"""
    window: int
    """How many pages before the end of a prefix must be present; at least 1."""

    def lengths(self) -> list[int]:
        """Return the lengths that this pool can restore, ascending."""
        found, run = [], 0
        for length, is_present in enumerate(self.present, start=1):
            run = run + 1 if is_present else 0
            if run >= min(self.window, length):
                found.append(length)
        return found


def restorable_lengths(num_pages: int, lengths: Iterable[Sequence[int]]) -> list[int]:
    """Return the lengths up to `num_pages` that are in each of `lengths`, ascending."""
    common = set(range(1, num_pages + 1))
    for one in lengths:
        common &= set(one)
    return sorted(common)
