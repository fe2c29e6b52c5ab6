"""Every on-disk layout of the store, with its magic and version. Pure.

A segment is one file of the tensor log, a sequence of 4096-byte blocks, little-endian throughout:

    segment header      1 block    SEGMENT_HEADER, zero padding
    batch, repeated     header     BATCH_HEADER, one entry a page, zero padding to a block
                        pages      each starts on a block; zero padding to a block

Entry of a page in a batch header: ENTRY, then the bytes of the key that differ from the key before
(`shared_bytes` are equal). A batch header names its own segment and offset, so that a header left
over in a recycled block is not taken for a live one. The index can be rebuilt from the log alone.
The segment header keeps its layout in every version, so that a newer segment is told from damage.

A page may lie encoded (flag ENCODED), see `codec`: ENCODED_HEADER, u32 the stored bytes of each
plane, part by part, a checksum of all this, then the planes, then the bytes that are no whole
element. Its length is what it takes; its checksum is that of the page, decoded.

Index value: INDEX_VALUE. The store's own facts stand in the file `STORE`, one JSON object.
"""

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from sglang_lsm.errors import CorruptionError, FormatVersionError
from sglang_lsm.pages import Location

FORMAT_VERSION = 1
BLOCK_BYTES = 4096

SEGMENT_MAGIC = b"KVSEGMNT"
SEGMENT_HEADER = struct.Struct("<8sHHI")  # magic, version, reserved, segment_id; then a checksum
BATCH_MAGIC = b"KVBATCH\x00"
BATCH_HEADER = struct.Struct("<8sHHIIIQQ")
"""magic, version, reserved, segment_id, num_pages, header_bytes, offset, written_at_ms."""
ENTRY = struct.Struct("<HHIHQ8s")
"""shared_bytes, suffix_bytes, length, flags, checksum, hash_tail."""
INDEX_VALUE = struct.Struct("<IIIHQ8s")
"""segment_id, offset in blocks, length, flags, checksum, hash_tail."""
CHECKSUM = struct.Struct("<Q")
ENCODED_HEADER = struct.Struct("<BBHI")
"""version, width, reserved, page_bytes."""

ENCODED = 1
"""Of a page's flags: its bytes are encoded. No other flag is known; a page with one is a miss."""
ENCODING_VERSION = 1
PLANE_BYTES = 1 << 16
"""Of an encoded page, the elements of a part, so the bytes of a plane, at most."""
MAX_PAGE_BYTES = 1 << 26
"""No page is longer: the page table could not tell its place."""

_HASH_TAIL_BYTES = 8
_BATCH_BASE = BATCH_HEADER.size + CHECKSUM.size
_PLACE_COLUMNS = np.dtype(
    {
        "names": ["segment_id", "block", "length"],
        "formats": ["<u4"] * 3,
        "offsets": [0, 4, 8],
        "itemsize": INDEX_VALUE.size,
    }
)
"""INDEX_VALUE, as far as it tells where a page lies."""
_segment_bytes: Callable[[bytes], bytes] = itemgetter(slice(4))
_tail_bytes: Callable[[bytes], bytes] = itemgetter(slice(-_HASH_TAIL_BYTES, None))

assert SEGMENT_HEADER.size == 16
assert BATCH_HEADER.size == 40
assert ENTRY.size == 26
assert INDEX_VALUE.size == 30
assert ENCODED_HEADER.size == 8


class BatchEntry(NamedTuple):
    """One page as its batch header describes it."""

    key: bytes
    length: int
    checksum: int
    hash_tail: bytes
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """A decoded batch header."""

    segment_id: int
    offset: int
    written_at_ms: int
    header_bytes: int
    entries: tuple[BatchEntry, ...]

    @property
    def end(self) -> int:
        """Offset of the first byte after the batch."""
        return self.offset + self.header_bytes + sum(padded(e.length) for e in self.entries)

    def locations(self) -> list[Location]:
        """Return where each page of the batch lies."""
        offset, found = self.offset + self.header_bytes, []
        for entry in self.entries:
            found.append(
                Location(
                    self.segment_id,
                    offset,
                    entry.length,
                    entry.checksum,
                    entry.hash_tail,
                    entry.flags,
                )
            )
            offset += padded(entry.length)
        return found


class EncodedHeader(NamedTuple):
    """What an encoded page says of itself."""

    width: int
    page_bytes: int
    header_bytes: int
    plane_bytes: list[int]
    """What each plane takes, part by part; as many bytes as it has elements: kept as it is."""


def padded(length: int) -> int:
    """Return `length` rounded up to whole blocks."""
    return (length + BLOCK_BYTES - 1) & -BLOCK_BYTES


def page_checksum_seed(key: bytes) -> int:
    """Return the seed that ties a page's checksum to its key.

    Bytes of another page, however intact, then fail verification.
    """
    return xxhash.xxh3_64_intdigest(key)


def page_checksum(key: bytes, pieces: Iterable[memoryview]) -> int:
    """Return xxh3_64 over the pieces in order, seeded with the key; takes one after the other."""
    seed = page_checksum_seed(key)
    if isinstance(pieces, list) and len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0], seed)
    left = iter(pieces)
    state = xxhash.xxh3_64(next(left, b""), seed=seed)
    for piece in left:
        state.update(piece)
    return state.intdigest()


def encode_index_value(location: Location) -> bytes:
    """Return the 30 bytes kept in the index for one page."""
    return INDEX_VALUE.pack(
        location.segment_id,
        location.offset // BLOCK_BYTES,
        location.length,
        location.flags,
        location.checksum,
        location.hash_tail,
    )


def decode_index_value(value: bytes) -> Location:
    """Inverse of `encode_index_value`.

    Raises:
        CorruptionError: not 30 bytes.
    """
    if len(value) != INDEX_VALUE.size:
        raise CorruptionError(f"index value of a wrong size. bytes={len(value)}")
    segment_id, block, length, flags, checksum, hash_tail = INDEX_VALUE.unpack(value)
    return Location(segment_id, block * BLOCK_BYTES, length, checksum, hash_tail, flags)


def index_value_owner(value: bytes) -> tuple[int, bytes]:
    """Return the segment id and hash tail of an index value: what tells whether it still holds."""
    return int.from_bytes(value[:4], "little"), value[-_HASH_TAIL_BYTES:]


def index_value_owners(values: Sequence[bytes]) -> tuple[set[int], list[bytes]]:
    """Return the segments that index values name, each once, and the hash tail of each value."""
    return value_segments(values), value_tails(values)


def value_tails(values: Sequence[bytes]) -> list[bytes]:
    """Return the hash tail of each index value."""
    return list(map(_tail_bytes, values))


def value_segments(values: Sequence[bytes]) -> set[int]:
    """Return the segments that index values name, each once."""
    return {int.from_bytes(i, "little") for i in set(map(_segment_bytes, values))}


def index_value_places(
    values: Sequence[bytes],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
    """Return of each index value the segment, the offset in blocks, and the length in bytes.

    Raises:
        CorruptionError: one is not 30 bytes.
    """
    if any(map(INDEX_VALUE.size.__ne__, map(len, values))):
        raise CorruptionError("index value of a wrong size")
    columns = np.frombuffer(b"".join(values), _PLACE_COLUMNS)
    return columns["segment_id"], columns["block"], columns["length"]


def encode_segment_header(segment_id: int) -> bytes:
    """Return the first block of a segment."""
    head = SEGMENT_HEADER.pack(SEGMENT_MAGIC, FORMAT_VERSION, 0, segment_id)
    return _sealed(head).ljust(BLOCK_BYTES, b"\0")


def decode_segment_header(block: bytes) -> int:
    """Return the segment id.

    Raises:
        CorruptionError: not a segment of ours, or damaged.
        FormatVersionError: written by a newer format.
    """
    head = block[: SEGMENT_HEADER.size]
    if len(head) < SEGMENT_HEADER.size or not head.startswith(SEGMENT_MAGIC):
        raise CorruptionError("not a segment of this store")
    _, version, _, segment_id = SEGMENT_HEADER.unpack(head)
    # The seal first: a flipped bit in the version must not pass for a newer format.
    _check_seal(block, SEGMENT_HEADER.size)
    _check_version(version)
    return int(segment_id)


def batch_header_bytes(keys: Sequence[bytes]) -> int:
    """Return the padded size of the header of a batch with these keys."""
    suffixes = sum(len(key) - shared for key, shared in zip(keys, _shared(keys), strict=True))
    return padded(BATCH_HEADER.size + len(keys) * ENTRY.size + suffixes + CHECKSUM.size)


def num_fitting(keys: Sequence[bytes], lengths: Sequence[int], room: int) -> int:
    """Return how many leading pages fit into `room` as one batch, header included: as few as 0."""
    num_body = sum(map(padded, lengths))
    longest_header = _BATCH_BASE + len(keys) * ENTRY.size + sum(map(len, keys))
    if padded(longest_header) + num_body <= room:
        return len(keys)
    num_header, num_body, before = _BATCH_BASE, 0, b""
    for i, (key, length) in enumerate(zip(keys, lengths, strict=True)):
        num_header += ENTRY.size + len(key)
        if before and key.startswith(before):
            num_header -= len(before)
        before = key
        num_body += padded(length)
        if padded(num_header) + num_body > room:
            return i
    return len(keys)


def encode_batch_header(batch: Batch) -> bytes:
    """Return the header block or blocks of a batch."""
    keys = [entry.key for entry in batch.entries]
    parts = [
        BATCH_HEADER.pack(
            BATCH_MAGIC,
            FORMAT_VERSION,
            0,
            batch.segment_id,
            len(keys),
            batch.header_bytes,
            batch.offset,
            batch.written_at_ms,
        )
    ]
    for entry, shared in zip(batch.entries, _shared(keys), strict=True):
        suffix = entry.key[shared:]
        parts.append(
            ENTRY.pack(
                shared,
                len(suffix),
                entry.length,
                entry.flags,
                entry.checksum,
                entry.hash_tail,
            )
        )
        parts.append(suffix)
    return _sealed(b"".join(parts)).ljust(batch.header_bytes, b"\0")


def peek_batch_header_bytes(block: bytes, *, segment_id: int, offset: int) -> int | None:
    """Return the size of the batch header that starts with `block`, or None if none starts there.

    Only a header of this very segment and offset counts; it is still to be verified as a whole.
    """
    if not block.startswith(BATCH_MAGIC) or len(block) < BATCH_HEADER.size:
        return None
    _, _, _, its_segment, num_pages, header_bytes, its_offset, _ = BATCH_HEADER.unpack_from(block)
    smallest = BATCH_HEADER.size + num_pages * ENTRY.size
    if (its_segment, its_offset) != (segment_id, offset) or header_bytes < smallest:
        return None
    return int(header_bytes)


def decode_batch_header(header: bytes) -> Batch:
    """Inverse of `encode_batch_header`.

    Raises:
        CorruptionError: damaged.
        FormatVersionError: written by a newer format.
    """
    if len(header) < BATCH_HEADER.size or not header.startswith(BATCH_MAGIC):
        raise CorruptionError("not a batch header")
    _, version, _, segment_id, num_pages, header_bytes, offset, written_at_ms = (
        BATCH_HEADER.unpack_from(header)
    )
    entries, key, at = [], b"", BATCH_HEADER.size
    for _ in range(num_pages):
        if at + ENTRY.size > len(header):
            raise CorruptionError("batch header ends early")
        shared, num_suffix, length, flags, checksum, hash_tail = ENTRY.unpack_from(header, at)
        at += ENTRY.size
        key = key[:shared] + header[at : at + num_suffix]
        at += num_suffix
        entries.append(BatchEntry(key, length, checksum, hash_tail, flags))
    # The seal first: a flipped bit in the version must not pass for a newer format.
    _check_seal(header, at)
    _check_version(version)
    return Batch(segment_id, offset, written_at_ms, header_bytes, tuple(entries))


def encode_page_header(width: int, page_bytes: int, plane_bytes: Sequence[int]) -> bytes:
    """Return the beginning of an encoded page, up to its planes."""
    head = ENCODED_HEADER.pack(ENCODING_VERSION, width, 0, page_bytes)
    return _sealed(head + struct.pack(f"<{len(plane_bytes)}I", *plane_bytes))


def decode_page_header(encoded: memoryview) -> EncodedHeader:
    """Inverse of `encode_page_header`; more may follow.

    Raises:
        CorruptionError: damaged, or of a layout that is not known.
    """
    if len(encoded) < ENCODED_HEADER.size:
        raise CorruptionError("an encoded page ends early")
    version, width, _, page_bytes = ENCODED_HEADER.unpack_from(encoded)
    if version != ENCODING_VERSION or width not in (1, 2, 4) or page_bytes > MAX_PAGE_BYTES:
        raise CorruptionError(f"an encoding that is not known. {version=} {width=} {page_bytes=}")
    num_parts = -(-(page_bytes // width) // PLANE_BYTES)
    end = ENCODED_HEADER.size + 4 * num_parts * width
    head = bytes(encoded[: end + CHECKSUM.size])
    _check_seal(head, end)
    sizes = struct.unpack_from(f"<{num_parts * width}I", head, ENCODED_HEADER.size)
    return EncodedHeader(width, page_bytes, end + CHECKSUM.size, list(sizes))


def encode_store_facts(facts: dict[str, str | int]) -> bytes:
    """Return the content of the file `STORE`."""
    return json.dumps({"format_version": FORMAT_VERSION, **facts}, indent=2).encode() + b"\n"


def decode_store_facts(content: bytes) -> dict[str, str | int]:
    """Inverse of `encode_store_facts`.

    Raises:
        CorruptionError: not such a file.
        FormatVersionError: written by a newer format.
    """
    try:
        facts = json.loads(content)
        version = int(facts["format_version"])
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptionError(f"the file STORE is unreadable: {error}") from error
    _check_version(version)
    return dict(facts)


def _shared(keys: Sequence[bytes]) -> list[int]:
    """How many leading bytes each key has in common with the one before."""
    shared, before = [], b""
    for key in keys:
        # The common case is a path: the key extends the one before.
        num = len(before) if key.startswith(before) else _common_prefix(before, key)
        shared.append(num)
        before = key
    return shared


def _common_prefix(a: bytes, b: bytes) -> int:
    limit = min(len(a), len(b))
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def _sealed(content: bytes) -> bytes:
    return content + CHECKSUM.pack(xxhash.xxh3_64_intdigest(content))


def _check_seal(sealed: bytes, content_bytes: int) -> None:
    end = content_bytes + CHECKSUM.size
    if len(sealed) < end or sealed[content_bytes:end] != CHECKSUM.pack(
        xxhash.xxh3_64_intdigest(sealed[:content_bytes])
    ):
        raise CorruptionError("a header's checksum does not match")


def _check_version(version: int) -> None:
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            "the store was written by a newer version of sglang-lsm; upgrade, or use another "
            f"directory. format_version={version} supported={FORMAT_VERSION}"
        )
