"""The bytes on disk, pinned. A change here is a change of format: raise the version, never the hex.

Each literal was written down once and is compared both ways: what is encoded today must be these
bytes, and these bytes must be read today as what they meant.
"""

from pathlib import Path

from sglang_lsm import codec, format, keycodec
from sglang_lsm.format import BLOCK_BYTES, Batch, BatchEntry
from sglang_lsm.holds import Hold, decode_holds, encode_holds
from sglang_lsm.pages import Location, NamespaceId, PagePath
from sglang_lsm.store import Store
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import cut, empty_pages, joined, small_config

NAMESPACE = NamespaceId(bytes.fromhex("a0a1a2a3a4a5a6a7"))
PATH = PagePath(NAMESPACE, [bytes([i]) * 8 + bytes([0xE0 + i]) * 8 + bytes(16) for i in (1, 2)])
PIECES = (14, 16)
PAGE = b"keys of a pagevalues of a page"

KEYS = ["a0a1a2a3a4a5a6a7" "0000000000000000" "0101010101010101",
        "a0a1a2a3a4a5a6a7" "0000000000000000" "0101010101010101" "0202020202020202"]  # fmt: skip
CHECKSUMS = [0xC5D229873C4195CF, 0x424FDFD3BE12A5CF]

LOCATION = Location(0x01020304, 0x0A0B0C0D << 12, 0x11223344, 0x5566778899AABBCC, b"\xe1" * 8, 0x77)
INDEX_VALUE = (
    "04030201"  # segment_id
    "0d0c0b0a"  # offset in blocks
    "44332211"  # length
    "7700"  # flags
    "ccbbaa9988776655"  # checksum
    "e1e1e1e1e1e1e1e1"  # hash_tail
)
SEGMENT_HEADER = (
    "4b565345474d4e54"  # magic
    "0100" "0000"  # version, reserved
    "04030201"  # segment_id
    "4c287808d9da8a31"  # checksum
)  # fmt: skip
BATCH_HEADER = (
    "4b56424154434800"  # magic
    "0100" "0000"  # version, reserved
    "04030201"  # segment_id
    "02000000"  # num_pages
    "00100000"  # header_bytes
    "0010000000000000"  # offset
    "8967452301000000"  # written_at_ms
    # shared_bytes, suffix_bytes, length, flags, checksum, hash_tail, suffix of the key
    "0000" "1800" "1e000000" "0000" "cf95413c8729d2c5" "e1e1e1e1e1e1e1e1"
    "a0a1a2a3a4a5a6a7" "0000000000000000" "0101010101010101"
    "1800" "0800" "1e000000" "0000" "cfa512bed3df4f42" "e2e2e2e2e2e2e2e2"
    "0202020202020202"
    "47e7e28be70ed376"  # checksum
)  # fmt: skip
ENCODED_HEADER = (
    "01" "02" "0000"  # version, width, reserved
    "09000000"  # page_bytes
    "04000000" "04000000"  # bytes of each plane
    "0a8c604b52ca07e2"  # checksum
)  # fmt: skip
PLANES = b"KVKV<<==."
ENCODED_ZEROS = (
    "01" "02" "0000" "01200000" "13000000" "13000000" "350300dd344d0ebb"
    "28b52ffd60000f4d00001000000100fbf70116"  # a zstd frame of 4096 zeros
    "28b52ffd60000f4d00001000000100fbf70116"
    "21"  # no whole element
)  # fmt: skip
STORE_FACTS = b'{\n  "format_version": 1,\n  "kind": "sglang-lsm"\n}\n'


def block(content: bytes) -> bytes:
    return content.ljust(BLOCK_BYTES, b"\0")


def golden_batch() -> Batch:
    entries = tuple(
        BatchEntry(bytes.fromhex(key), len(PAGE), checksum, keycodec.hash_tail(page_hash))
        for key, checksum, page_hash in zip(KEYS, CHECKSUMS, PATH.hashes, strict=True)
    )
    return Batch(0x01020304, BLOCK_BYTES, 0x0123456789, BLOCK_BYTES, entries)


def test_keys():
    assert [key.hex() for key in keycodec.encode(PATH)] == KEYS


def test_page_checksums():
    page = cut(memoryview(PAGE), PIECES)
    assert [format.page_checksum(bytes.fromhex(key), page) for key in KEYS] == CHECKSUMS


def test_index_value():
    assert format.encode_index_value(LOCATION).hex() == INDEX_VALUE
    assert format.decode_index_value(bytes.fromhex(INDEX_VALUE)) == LOCATION


def test_segment_header():
    header = block(bytes.fromhex(SEGMENT_HEADER))
    assert format.encode_segment_header(0x01020304) == header
    assert format.decode_segment_header(header) == 0x01020304


def test_batch_header():
    header = block(bytes.fromhex(BATCH_HEADER))
    assert format.encode_batch_header(golden_batch()).hex() == header.hex()
    assert format.decode_batch_header(header) == golden_batch()


def test_encoded_page():
    """Planes lie lowest byte first; one as long as it has elements is kept as it is."""
    header = bytes.fromhex(ENCODED_HEADER)
    assert format.encode_page_header(2, 9, [4, 4]) == header
    page = bytearray(9)
    assert codec.decode(memoryview(header + PLANES), [memoryview(page)])
    assert page == b"K<V<K=V=."


def test_encoded_page_with_frames():
    page = bytes(8192) + b"!"
    assert codec.encode(memoryview(page), 2).hex() == ENCODED_ZEROS
    out = bytearray(len(page))
    assert codec.decode(memoryview(bytes.fromhex(ENCODED_ZEROS)), [memoryview(out)])
    assert out == page


def test_store_facts():
    assert format.encode_store_facts({"kind": "sglang-lsm"}) == STORE_FACTS
    assert format.decode_store_facts(STORE_FACTS) == {"format_version": 1, "kind": "sglang-lsm"}


def test_a_store_of_these_bytes_is_read():
    """A directory written by version 1, whose index was lost, gives its pages back."""
    directory, disk = Path("/store"), FakeDisk()
    disk.make_dir(directory / "log")
    disk.replace(directory / "STORE", STORE_FACTS)
    content = [block(bytes.fromhex(SEGMENT_HEADER)), block(bytes.fromhex(BATCH_HEADER))]
    content += [block(PAGE), block(PAGE)]
    disk.open(directory / "log" / "01020304.seg", create=True).pwritev(content, 0)
    store = Store(directory, small_config(), fs=disk, open_index=FakeIndexDisk().open)
    out = empty_pages(2, PIECES)
    assert store.get_batch(PATH, out) == 2
    assert [joined(page) for page in out] == [PAGE, PAGE]
    store.close()


def test_holds():
    holds = [
        Hold(namespace=NamespaceId(bytes(range(8))), digests=b"\xab" * 16, pinned=True, priority=2),
        Hold(namespace=NamespaceId(bytes(8)), digests=b"\x01" * 8, expires_at_ms=1_700_000_000_000),
    ]
    content = (
        b'{"format_version": 1, "holds": [{"digests": "abababababababababababababababab", '
        b'"expires_at_ms": null, "namespace": "0001020304050607", "pinned": true, "priority": 2}, '
        b'{"digests": "0101010101010101", "expires_at_ms": 1700000000000, '
        b'"namespace": "0000000000000000", "pinned": false, "priority": 0}]}\n'
        b"e71e0aa62687cbf1\n"
    )
    assert encode_holds(holds) == content
    assert decode_holds(content) == holds
