"""Around the page cache or through it? Decided for each transfer.

A read that fills the page cache costs two to three times the CPU of one around it (O_DIRECT); a
read of what is there is faster than the disk. So under `auto`:

    in the page cache          read from there
    not, and used once lately  read through it: it may come again
    not, otherwise             read around it

A write of this process counts as a use. What was in the page cache at its last use and is not any
more counts as not used: others want that memory. Nothing of this decides what is right or wrong, so
the memory of uses is bounded and coarse: by the place where a transfer begins.
"""

import threading

from sglang_lsm.config import IoMode
from sglang_lsm.tensorlog.segment import ReadWay, Segment
from sglang_lsm.tensorlog.transfer import Transfer

_MAX_PLACES = 1 << 15
"""Remembered in each of two generations, some 100 bytes each."""


class IoModes:
    """How the transfers of one log go. Thread-safe."""

    def __init__(self, mode: IoMode, *, can_direct: bool) -> None:
        """Begin with no use known.

        Args:
            can_direct: whether the file system takes O_DIRECT.
        """
        self.can_direct = can_direct
        self.is_beyond_memory = False
        """Whether the log is so large that a page is seldom in the page cache."""
        self.first_new_id = 1
        """Segments from this id on were written by this process."""
        self._mode = mode
        self._lock = threading.Lock()
        self._young: dict[tuple[int, int], bool] = {}
        self._old: dict[tuple[int, int], bool] = {}
        """By place: whether it was in the page cache after its last use."""

    def tune(self, mode: IoMode) -> None:
        """Go on with another mode."""
        self._mode = mode

    @property
    def writes_direct(self) -> bool:
        """Whether writes go around the page cache, if their memory allows."""
        return self.can_direct and self._mode != "buffered"

    def way_to_read(self, segment: Segment, transfer: Transfer, *, fits_direct: bool) -> ReadWay:
        """Return how a transfer is to be read.

        Args:
            fits_direct: whether its memory lies as O_DIRECT requires.
        """
        may_direct = fits_direct and self.can_direct and self._mode != "buffered"
        if may_direct and (self._mode == "direct" or self.is_beyond_memory):
            return "direct"
        num_cached = segment.cached_bytes(transfer.offset, transfer.num_bytes)
        if num_cached is None:
            return "cached"
        if num_cached >= transfer.num_bytes:
            self._note((transfer.segment_id, transfer.offset), was_cached=True)
            return "cached"
        if may_direct and not self._fills_cache(transfer):
            return "direct"
        return "filling"

    def _fills_cache(self, transfer: Transfer) -> bool:
        """Return whether what is not in the page cache is to be put there; note the use."""
        place = (transfer.segment_id, transfer.offset)
        was_cached = None if transfer.segment_id < self.first_new_id else False
        was_cached = self._young.get(place, self._old.get(place, was_cached))
        fills = was_cached is False
        self._note(place, was_cached=fills)
        return fills

    def _note(self, place: tuple[int, int], *, was_cached: bool) -> None:
        with self._lock:
            self._young[place] = was_cached
            if len(self._young) >= _MAX_PLACES:
                self._old, self._young = self._young, {}
