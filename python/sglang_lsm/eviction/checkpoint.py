"""The page table as bytes, for a start without a scan. Pure.

    header   magic, version, pages, namespaces, logical time, payload checksum; then its own
    payload  namespaces, then the columns key, parent, place, last, traits of all pages

Little-endian; rows are renumbered without gaps, and counts of children are counted anew. Read only
after a clean close: it says what was stored then.
"""

import struct

import numpy as np
import xxhash

from sglang_lsm.errors import CorruptionError, FormatVersionError
from sglang_lsm.eviction.page_table import ROOT, PageTable
from sglang_lsm.pages import NAMESPACE_BYTES, NamespaceId

MAGIC = b"SLSMPTAB"
VERSION = 1
HEADER = struct.Struct("<8sHHIQQQ")
"""magic, version, reserved, num_namespaces, num_pages, now, checksum of the payload."""
CHECKSUM = struct.Struct("<Q")

_COLUMNS = (("key", "<u8"), ("parent", "<i4"), ("place", "<u8"), ("last", "<u4"), ("traits", "<u2"))
_PART_ROWS = 1 << 14
_SPARE_SHARE = 8
"""One more row for so many: the first puts after a start shall not find a full table."""
_PAGE_BYTES = sum(np.dtype(kind).itemsize for _, kind in _COLUMNS)


def to_bytes(table: PageTable, now: int) -> bytes:
    """Return the table and the logical time; 26 bytes a page."""
    rows = table.live_rows()
    renumbered = np.zeros(len(table.parent), np.int32)
    renumbered[rows] = np.arange(len(rows), dtype=np.int32)
    parent = table.parent[rows]
    inner = parent >= 0
    parent[inner] = renumbered[parent[inner]]
    parts = [bytes(namespace) for namespace in table.namespaces]
    for name, kind in _COLUMNS:
        column = parent if name == "parent" else getattr(table, name)[rows]
        parts.append(column.astype(kind).tobytes())
    payload = b"".join(parts)
    checksum = xxhash.xxh3_64_intdigest(payload)
    head = HEADER.pack(MAGIC, VERSION, 0, len(table.namespaces), len(rows), now, checksum)
    return head + CHECKSUM.pack(xxhash.xxh3_64_intdigest(head)) + payload


def from_bytes(data: bytes | memoryview, capacity: int) -> tuple[PageTable, int]:
    """Return the table, with room for `capacity` pages at least, and the logical time.

    Raises:
        CorruptionError: these are not the bytes of a table, or not all of them.
        FormatVersionError: of a newer version.
    """
    # No copy: this may be the largest thing in memory at a start.
    head, payload = bytes(data[: HEADER.size]), memoryview(data)[HEADER.size + CHECKSUM.size :]
    if len(data) < HEADER.size + CHECKSUM.size or not head.startswith(MAGIC):
        raise CorruptionError("not a checkpoint of the page table")
    if CHECKSUM.unpack_from(data, HEADER.size)[0] != xxhash.xxh3_64_intdigest(head):
        raise CorruptionError("header of the page table's checkpoint is damaged")
    _, version, _, num_namespaces, num_pages, now, checksum = HEADER.unpack(head)
    if version > VERSION:
        raise FormatVersionError(f"page table of a newer format. version={version}")
    length = num_namespaces * NAMESPACE_BYTES + num_pages * _PAGE_BYTES
    if len(payload) != length or checksum != xxhash.xxh3_64_intdigest(payload):
        raise CorruptionError("checkpoint of the page table is damaged")
    return _table(payload, num_namespaces, num_pages, capacity), now


def _table(payload: memoryview, num_namespaces: int, num_pages: int, capacity: int) -> PageTable:
    table = PageTable(max(capacity, num_pages + num_pages // _SPARE_SHARE))
    at = num_namespaces * NAMESPACE_BYTES
    for start in range(0, at, NAMESPACE_BYTES):
        table.root(NamespaceId(bytes(payload[start : start + NAMESPACE_BYTES])))
    columns = {}
    for name, kind in _COLUMNS:
        columns[name] = np.frombuffer(payload, kind, num_pages, at)
        at += columns[name].nbytes
    parent = columns["parent"]
    if num_pages and not ROOT - num_namespaces < parent.min() <= parent.max() < num_pages:
        raise CorruptionError("a page of the checkpoint has no parent")
    # In parts, so that what is made on the way stays small. Rows of an empty table are handed out
    # in order, so the n-th page has row n.
    starts = range(0, num_pages, _PART_ROWS)
    for part in [slice(start, start + _PART_ROWS) for start in starts]:
        table.load(columns["key"][part].astype(np.uint64), columns["place"][part].astype(np.uint64))
    for start in starts:
        parents = parent[start : start + _PART_ROWS].astype(np.int32)
        table.link(np.arange(start, start + len(parents), dtype=np.int32), parents)
    table.last[:num_pages], table.traits[:num_pages] = columns["last"], columns["traits"]
    return table
