"""How the pages of one call become few large system calls. Pure.

Neighbours on disk are moved by one vectored call straight from or into the caller's memory; a call
carries about `io_bytes`, so that a long run can be split over threads.
"""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sglang_lsm.format import BLOCK_BYTES, padded
from sglang_lsm.pages import Location, PageBuffer

_PADDING = bytes(BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One system call: the pages at `indices` of the call, neighbours on disk from `offset` on."""

    segment_id: int
    offset: int
    num_bytes: int
    indices: tuple[int, ...]


def plan_transfers(locations: Sequence[Location], *, io_bytes: int) -> list[Transfer]:
    """Group pages into transfers of about `io_bytes`, in order of their place on disk.

    A page larger than `io_bytes` is a transfer of its own.
    """
    order = sorted(
        range(len(locations)), key=lambda i: (locations[i].segment_id, locations[i].offset)
    )
    transfers: list[Transfer] = []
    run: list[int] = []
    start = end = 0
    for i in order:
        location = locations[i]
        num_bytes = padded(location.length)
        fits = (
            run
            and location.segment_id == locations[run[0]].segment_id
            and location.offset == end
            and end - start + num_bytes <= io_bytes
        )
        if run and not fits:
            transfers.append(_transfer(locations, run, start, end))
            run = []
        if not run:
            start = location.offset
        run.append(i)
        end = location.offset + num_bytes
    if run:
        transfers.append(_transfer(locations, run, start, end))
    return transfers


def gather_write(pages: Iterable[tuple[PageBuffer, int]]) -> list[memoryview | bytes]:
    """Return the pieces to write neighbouring pages from, padding included.

    Args:
        pages: each with its length in bytes.
    """
    buffers: list[memoryview | bytes] = []
    for page, length in pages:
        buffers.extend(page)
        num_padding = -length % BLOCK_BYTES
        if num_padding:
            buffers.append(_PADDING[:num_padding])
    return buffers


def page_bytes(page: PageBuffer) -> int:
    """Return the payload bytes of a page."""
    return sum(map(len, page))


def fits_direct_io(pages: Iterable[PageBuffer]) -> bool:
    """Return whether every piece lies on 4096-byte boundaries, as O_DIRECT requires."""
    return all(
        len(piece) % BLOCK_BYTES == 0 and _address(piece) % BLOCK_BYTES == 0
        for page in pages
        for piece in page
    )


def _address(piece: memoryview) -> int:
    if not piece.readonly:
        # A seventh of what asking numpy costs, and a read asks it of every piece.
        return ctypes.addressof(ctypes.c_char.from_buffer(piece))
    address: int = np.frombuffer(piece, dtype=np.uint8).__array_interface__["data"][0]
    return address


def _transfer(locations: Sequence[Location], run: list[int], start: int, end: int) -> Transfer:
    return Transfer(locations[run[0]].segment_id, start, end - start, tuple(run))
