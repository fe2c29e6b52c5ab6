"""A page made smaller without loss, and back. Pure.

The bytes of an element do not mix: of bfloat16 the sign and the high bits of the exponent shrink to
0.37, the other byte is noise. So a page is cut into parts of 64 Ki elements, each into planes (the
n-th byte of every element), and each plane is kept as a zstd frame, or as it is where that is no
larger. What is left over at the end, less than an element, is kept as it is. Layout: see `format`.

Decoding trusts no number that it reads: it writes to the caller's memory only, as much as the
caller expects, and takes memory for one part. It says nothing about whether the bytes are the right
ones; a checksum over what comes out does.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from sglang_lsm import format
from sglang_lsm.errors import CorruptionError
from sglang_lsm.pages import PageBuffer

Bytes = NDArray[np.uint8]

LEAST_SAVING = 16
"""Of a page's blocks, one in so many must be saved; less is not worth decoding for."""
# KV repeats nothing, so looking for matches is wasted: seven bytes that match and a table of 256
# places make level 1 three times as fast to write and half as fast again to read, and a little
# smaller, on real KV.
_FASTEST = zstandard.ZstdCompressionParameters(
    window_log=16, hash_log=8, chain_log=6, search_log=1, min_match=7, target_length=0,
    strategy=zstandard.STRATEGY_FAST,
)  # fmt: skip
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
_NUMBERS: dict[int, np.dtype[np.unsignedinteger[Any]]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


def element_bytes(kv_dtype: str) -> int:
    """Return the bytes of an element of that type, as far as planes are worth it.

    A wrong answer costs room, nothing else.
    """
    return _WIDTHS.get(kv_dtype, 1)


def encode(page: memoryview, width: int) -> bytes | None:
    """Return a page in less room, or None if that saves too little.

    Args:
        width: bytes of an element: 1, 2 or 4.
    """
    raw = np.frombuffer(page, np.uint8)
    compressor = zstandard.ZstdCompressor(compression_params=_FASTEST)
    planes: list[bytes | memoryview] = []
    for start, end in _parts(len(raw), width):
        for plane in _split(raw[start:end], width):
            frame = compressor.compress(plane.data)
            planes.append(frame if len(frame) < len(plane) else plane.data)
    header = format.encode_page_header(width, len(raw), [len(plane) for plane in planes])
    rest = raw[len(raw) // width * width :]
    num_blocks = format.padded(len(raw)) // format.BLOCK_BYTES
    num_bytes = len(header) + sum(map(len, planes)) + len(rest)
    saved_blocks = num_blocks - format.padded(num_bytes) // format.BLOCK_BYTES
    if saved_blocks < 1 or saved_blocks * LEAST_SAVING < num_blocks:
        return None
    return b"".join([header, *planes, rest.data])


def decode(encoded: memoryview, out: PageBuffer) -> bool:
    """Write the page that `encode` was given into `out`; False if it is of another size.

    Raises:
        CorruptionError: not an encoded page; what `out` holds then is undefined.
    """
    header = format.decode_page_header(encoded)
    if header.page_bytes != sum(map(len, out)):
        return False
    source = np.frombuffer(encoded, np.uint8)
    decompressor = zstandard.ZstdDecompressor(max_window_size=format.PLANE_BYTES)
    target, width, at = _Target(out), header.width, header.header_bytes
    sizes = iter(header.plane_bytes)
    for start, end in _parts(header.page_bytes, width):
        num_elements, planes = (end - start) // width, []
        for size in [next(sizes) for _ in range(width)]:
            planes.append(_plane(source[at : at + size], size, num_elements, decompressor))
            at += size
        target.write(planes)
    rest = source[at : at + header.page_bytes % width]
    if len(rest) < header.page_bytes % width:
        raise CorruptionError("an encoded page ends early")
    target.write([rest])
    return True


def page_bytes(encoded: memoryview) -> int:
    """Return how large an encoded page is when it is decoded. Raises as `decode`."""
    return format.decode_page_header(encoded).page_bytes


def _parts(num_bytes: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part of a page, in whole elements."""
    end, step = num_bytes // width * width, format.PLANE_BYTES * width
    for start in range(0, end, step):
        yield start, min(start + step, end)


def _split(part: Bytes, width: int) -> Iterator[Bytes]:
    """Yield the planes of a part, lowest byte first."""
    if width == 1:
        yield part
        return
    # Shifts of whole numbers run four times as fast as copies of every n-th byte.
    numbers = part.view(_NUMBERS[width])
    shifted = numbers
    for i in range(width):
        yield shifted.astype(np.uint8)
        shifted = numbers >> 8 if i == 0 else np.right_shift(shifted, 8, out=shifted)


def _plane(
    stored: Bytes, size: int, num_elements: int, decompressor: zstandard.ZstdDecompressor
) -> Bytes:
    if len(stored) < size:
        raise CorruptionError("an encoded page ends early")
    if size == num_elements:
        return stored
    try:
        # Asked first: a damaged frame may claim any size, and would be given the memory.
        if zstandard.frame_content_size(stored.data) != num_elements:
            raise CorruptionError("a plane of another size")
        plane = np.frombuffer(decompressor.decompress(stored.data), np.uint8)
    except zstandard.ZstdError as error:
        raise CorruptionError(f"a plane cannot be decompressed. reason={error}") from error
    if len(plane) != num_elements:
        raise CorruptionError("a plane of another size")
    return plane


def _join(planes: Sequence[Bytes], out: Bytes) -> None:
    """Inverse of `_split`, into the caller's memory."""
    width = len(planes)
    if width == 1:
        out[:] = planes[0]
        return
    numbers = out.view(_NUMBERS[width])
    # From the top: each step makes room for a byte below those that are there.
    numbers[:] = planes[-1]
    for plane in planes[-2::-1]:
        np.left_shift(numbers, 8, out=numbers)
        np.bitwise_or(numbers, plane, out=numbers)


class _Target:
    """The caller's memory, filled from its start; parts need not end where pieces do."""

    def __init__(self, page: PageBuffer) -> None:
        self._pieces = [np.frombuffer(piece, np.uint8) for piece in page if len(piece)]

    def write(self, planes: Sequence[Bytes]) -> None:
        """Write a part, given as its planes, behind the parts before."""
        num_bytes = sum(map(len, planes))
        if not num_bytes:
            return
        first = self._pieces[0]
        if len(first) >= num_bytes:
            _join(planes, first[:num_bytes])
            self._skip(num_bytes)
            return
        part = np.empty(num_bytes, np.uint8)
        _join(planes, part)
        while part.size:
            num_fitting = min(len(self._pieces[0]), len(part))
            self._pieces[0][:num_fitting] = part[:num_fitting]
            self._skip(num_fitting)
            part = part[num_fitting:]

    def _skip(self, num_bytes: int) -> None:
        left = self._pieces[0][num_bytes:]
        self._pieces[:1] = [left] if left.size else []
