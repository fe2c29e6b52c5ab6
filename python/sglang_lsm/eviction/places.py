"""A page's place on disk in 64 bits: segment (28), offset (22), length (14), in blocks of 4 KiB."""

import numpy as np
from numpy.typing import NDArray

from sglang_lsm.format import BLOCK_BYTES

Places = NDArray[np.uint64]

_LENGTH_BITS, _OFFSET_BITS, _SEGMENT_BITS = 14, 22, 28
_OFFSET_MASK = np.uint64((1 << _OFFSET_BITS) - 1)
_OFFSET_SHIFT, _SEGMENT_SHIFT = np.uint64(_LENGTH_BITS), np.uint64(_LENGTH_BITS + _OFFSET_BITS)

LENGTH_MASK = (1 << _LENGTH_BITS) - 1
"""Of a place, the bits of its length."""

MAX_LENGTH_BYTES = BLOCK_BYTES * LENGTH_MASK
"""64 MiB less one block: the longest page."""


def pack_place(segment_id: int, offset: int, length: int) -> int:
    """Return a place as one number; `offset` and `length` in bytes, the length rounded up.

    Raises:
        ValueError: it does not fit: a page of 64 MiB, a segment of 16 GiB, 2^28 segments.
    """
    block, num_blocks = offset // BLOCK_BYTES, -(-length // BLOCK_BYTES)
    # A negative number stays one, however far it is shifted.
    if segment_id >> _SEGMENT_BITS or block >> _OFFSET_BITS or num_blocks >> _LENGTH_BITS:
        raise ValueError(f"a place out of range. {segment_id=} {offset=} {length=}")
    return segment_id << _LENGTH_BITS + _OFFSET_BITS | block << _LENGTH_BITS | num_blocks


def pack_places(
    segments: NDArray[np.uint32], blocks: NDArray[np.uint32], lengths: NDArray[np.uint32]
) -> Places:
    """Return what `pack_place` does of many places; offsets in blocks, lengths in bytes.

    Raises:
        ValueError: one does not fit.
    """
    num_blocks = (lengths.astype(np.uint64) + np.uint64(BLOCK_BYTES - 1)) // np.uint64(BLOCK_BYTES)
    columns = (segments, _SEGMENT_BITS), (blocks, _OFFSET_BITS), (num_blocks, _LENGTH_BITS)
    if any(values.size and int(values.max()) >> bits for values, bits in columns):
        raise ValueError("a place out of range")
    places: Places = (
        segments.astype(np.uint64) << _SEGMENT_SHIFT
        | blocks.astype(np.uint64) << _OFFSET_SHIFT
        | num_blocks
    )
    return places


def length_units(places: Places) -> NDArray[np.int64]:
    """Return the length of each page in blocks of 4 KiB."""
    return (places & np.uint64(LENGTH_MASK)).astype(np.int64)


def offset_units(places: Places) -> NDArray[np.int64]:
    """Return the offset of each page in its segment, in blocks of 4 KiB."""
    return (places >> _OFFSET_SHIFT & _OFFSET_MASK).astype(np.int64)


def segment_ids(places: Places) -> NDArray[np.int64]:
    """Return the segment of each page."""
    return (places >> _SEGMENT_SHIFT).astype(np.int64)
