"""A batch on its way into the log: where it goes, and what is in it."""

from collections.abc import Sequence
from typing import NamedTuple

from sglang_lsm import format
from sglang_lsm.pages import Location, PageBuffer
from sglang_lsm.tensorlog.segment import Segment


class Seal(NamedTuple):
    """What is known of a page that is copied: it need not be found out, and may be encoded."""

    checksum: int
    flags: int


class Reservation(NamedTuple):
    """A place for a batch: nobody else writes there."""

    segment: Segment
    offset: int
    header_bytes: int
    num_pages: int


class NewBatch(NamedTuple):
    """Pages that are about to be written, in the caller's order."""

    keys: Sequence[bytes]
    pages: Sequence[PageBuffer]
    hash_tails: Sequence[bytes]
    lengths: Sequence[int]
    seals: Sequence[Seal] | None

    def unsealed(self, place: Reservation) -> list[Location]:
        """Return where each page is going to lie; checksums are not known yet."""
        offset, found = place.offset + place.header_bytes, list[Location]()
        for length, tail in zip(self.lengths, self.hash_tails, strict=True):
            found.append(Location(place.segment.segment_id, offset, length, 0, tail))
            offset += format.padded(length)
        return found

    def describe(self, place: Reservation, written_at_ms: int) -> format.Batch:
        """Return the header; computes the checksums that are not known."""
        seals = self.seals
        if seals is None:
            seals = [
                Seal(format.page_checksum(key, page), 0)
                for key, page in zip(self.keys, self.pages, strict=True)
            ]
        entries = tuple(
            format.BatchEntry(key, length, seal.checksum, tail, seal.flags)
            for key, length, seal, tail in zip(
                self.keys, self.lengths, seals, self.hash_tails, strict=True
            )
        )
        return format.Batch(
            place.segment.segment_id, place.offset, written_at_ms, place.header_bytes, entries
        )
