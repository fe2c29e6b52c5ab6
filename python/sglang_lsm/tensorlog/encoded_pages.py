"""Pages that lie encoded: read into memory of our own, and decoded into the caller's.

A checksum is that of the page as it is handed out, so it is compared after decoding: it covers the
disk and the codec alike, and stays what it was when a page is encoded.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from sglang_lsm import codec, format
from sglang_lsm.errors import CorruptionError
from sglang_lsm.pages import Location, PageBuffer
from sglang_lsm.tensorlog.transfer import Transfer

logger = logging.getLogger(__name__)

ReadTransfer = Callable[
    [Transfer, Mapping[int, Location], Mapping[int, PageBuffer]], int | None
]  # fmt: skip
Verdict = Literal["intact", "damaged", "misfit"]
"""`misfit`: of another size than the caller's buffer, so a miss for this caller alone."""


class ReadRequest(NamedTuple):
    """Pages to read, in the caller's order."""

    keys: Sequence[bytes]
    locations: Sequence[Location]
    out: Sequence[PageBuffer]
    verifies: bool


def read_mixed(
    read: ReadTransfer, transfer: Transfer, pages: ReadRequest, scratch: memoryview
) -> Iterator[tuple[int, Verdict]]:
    """Read a transfer of which pages are encoded; yield what became of each. None, if none came.

    Args:
        read: fills the buffers of a transfer and returns the bytes read.
        scratch: as large as the transfer.
    """
    places, buffers = dict[int, Location](), dict[int, PageBuffer]()
    for i in transfer.indices:
        at = places[i] = pages.locations[i]
        buffers[i] = pages.out[i]
        if at.flags:
            start, size = at.offset - transfer.offset, format.padded(at.length)
            # In whole blocks, as O_DIRECT wants it.
            places[i], buffers[i] = at._replace(length=size), [scratch[start : start + size]]
    num_read = read(transfer, places, buffers)
    if num_read is None:
        return
    for i in transfer.indices:
        at, out = pages.locations[i], pages.out[i]
        if at.offset - transfer.offset + format.padded(at.length) > num_read:
            yield i, "damaged"
            continue
        if at.flags:
            verdict = _decode(at, buffers[i][0][: at.length], out)
            if verdict != "intact":
                yield i, verdict
                continue
        matches = not pages.verifies or format.page_checksum(pages.keys[i], out) == at.checksum
        yield i, "intact" if matches else "damaged"


def is_intact(key: bytes, location: Location, stored: memoryview) -> bool:
    """Return whether bytes as they lie on the disk are the page they should be."""
    page = stored
    if location.flags:
        try:
            page = memoryview(bytearray(codec.page_bytes(stored)))
        except CorruptionError:
            return False
        if _decode(location, stored, [page]) != "intact":
            return False
    return format.page_checksum(key, [page]) == location.checksum


def _decode(location: Location, stored: memoryview, out: PageBuffer) -> Verdict:
    """Decode a page; whether it is the right one is still to be seen."""
    if location.flags != format.ENCODED:
        logger.warning("a page in a form that is not known. flags=%d", location.flags)
        return "damaged"
    try:
        return "intact" if codec.decode(stored, out) else "misfit"
    except CorruptionError as error:
        logger.warning("a page cannot be decoded. reason=%s", error)
        return "damaged"
