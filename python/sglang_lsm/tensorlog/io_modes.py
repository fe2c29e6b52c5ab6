"""Around the page cache or through it? Decided for each transfer.

A read that fills the page cache costs two to three times the CPU of one around it (O_DIRECT), on a
busy server two to three times the time; a read of what is there is faster than the disk, by less.
So under `auto`:

    in the page cache                        read from there
    not, and read often around it lately     read through it: it pays when it comes again
    not, otherwise                           read around it

Often (`READS_BEFORE_FILLING`) is what filling costs more than reading around, in what a read from
the page cache saves: as long as a page comes less often than that, filling was in vain, and who
waits until then pays at most twice what he had to (ski rental). What was in the page cache at its
last use and is not any more begins anew: others want that memory. A kernel that cannot tell what is
there (before 6.5) serves what was read so often. Nothing of this decides what is right or wrong, so
the memory of uses is bounded and coarse: by the place where a transfer begins.
"""

import threading

from sglang_lsm.config import IoMode
from sglang_lsm.tensorlog.segment import ReadWay, Segment
from sglang_lsm.tensorlog.transfer import Transfer

READS_BEFORE_FILLING = 8
"""Around the page cache. Measured with two processors (`bench load --long`): 1 where they are idle,
beside a server 4 for one hit at a time, and more than 8 for four at once."""
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
        self._mode = mode
        self._lock = threading.Lock()
        self._young: dict[tuple[int, int], int] = {}
        self._old: dict[tuple[int, int], int] = {}
        """By place: reads around the page cache, begun anew where it was in there."""

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
        place = (transfer.segment_id, transfer.offset)
        if num_cached is not None and num_cached >= transfer.num_bytes:
            self._note(place, 0)
            return "cached"
        num_reads = self._young.get(place, self._old.get(place, 0))
        if may_direct and num_reads < READS_BEFORE_FILLING:
            self._note(place, num_reads + 1)
            return "direct"
        if num_cached is None:
            return "cached"
        self._note(place, 0)
        return "filling"

    def _note(self, place: tuple[int, int], num_reads: int) -> None:
        with self._lock:
            self._young[place] = num_reads
            if len(self._young) >= _MAX_PLACES:
                self._old, self._young = self._young, {}
