"""Pages that lie encoded: read into memory of our own, and decoded into the caller's.

A checksum is that of the page as it is handed out, so it is compared after decoding: it covers the
disk and the codec alike, and stays what it was when a page is encoded.
"""

import logging
from typing import Literal

from sglang_lsm import codec, format
from sglang_lsm.errors import CorruptionError
from sglang_lsm.pages import Location, PageBuffer

logger = logging.getLogger(__name__)

Verdict = Literal["intact", "damaged", "misfit"]
"""`misfit`: of another size than the caller's buffer, so a miss for this caller alone."""


def is_intact(key: bytes, location: Location, stored: memoryview) -> bool:
    """Return whether bytes as they lie on the disk are the page they should be."""
    page = stored
    if location.flags:
        try:
            page = memoryview(bytearray(codec.page_bytes(stored)))
        except CorruptionError:
            return False
        if decode_page(location, stored, [page]) != "intact":
            return False
    return format.page_checksum(key, [page]) == location.checksum


def decode_page(location: Location, stored: memoryview, out: PageBuffer) -> Verdict:
    """Decode a page; whether it is the right one is still to be seen."""
    if location.flags != format.ENCODED:
        logger.warning("a page in a form that is not known. flags=%d", location.flags)
        return "damaged"
    try:
        return "intact" if codec.decode(stored, out) else "misfit"
    except CorruptionError as error:
        logger.warning("a page cannot be decoded. reason=%s", error)
        return "damaged"
