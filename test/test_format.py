import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm import format, keycodec
from sglang_lsm.errors import CorruptionError, FormatVersionError
from sglang_lsm.format import BLOCK_BYTES, Batch, BatchEntry
from sglang_lsm.pages import Location, NamespaceId, PagePath
from support.page_maker import chain

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
tails = st.binary(min_size=8, max_size=8)
locations = st.builds(
    Location, U32, U32.map(lambda block: block * BLOCK_BYTES), U32, U64, tails, U16
)
path_keys = st.builds(
    lambda num, start: list(
        keycodec.encode(PagePath(NamespaceId(b"namespac"), chain(range(num)), min(start, num - 1)))
    ),
    st.integers(1, 140),
    st.integers(0, 130),
)
any_keys = st.lists(st.binary(min_size=1, max_size=530), max_size=6)


@st.composite
def batches(draw, keys=path_keys | any_keys):
    entries = tuple(
        BatchEntry(key, draw(st.integers(0, 1 << 20)), draw(U64), draw(tails), draw(U16))
        for key in draw(keys)
    )
    header_bytes = format.batch_header_bytes([entry.key for entry in entries])
    return Batch(draw(U32), draw(U32) * BLOCK_BYTES, draw(U64), header_bytes, entries)


@given(st.integers(0, 1 << 40))
def test_padded_is_the_next_whole_block(length):
    padded = format.padded(length)
    assert padded % BLOCK_BYTES == 0
    assert length <= padded < length + BLOCK_BYTES


@given(st.lists(locations, max_size=4))
def test_places_of_index_values(many):
    columns = format.index_value_places([format.encode_index_value(at) for at in many])
    expected = [(at.segment_id, at.offset // BLOCK_BYTES, at.length) for at in many]
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected


def test_one_index_value_of_a_wrong_size_is_told():
    with pytest.raises(CorruptionError):
        format.index_value_places([bytes(30), bytes(29), bytes(31)])


@given(locations)
def test_index_value_round_trip(location):
    value = format.encode_index_value(location)
    assert format.decode_index_value(value) == location
    assert format.index_value_owner(value) == (location.segment_id, location.hash_tail)


@given(st.binary(max_size=64).filter(lambda value: len(value) != format.INDEX_VALUE.size))
def test_index_value_of_another_size_is_corruption(value):
    with pytest.raises(CorruptionError):
        format.decode_index_value(value)


@given(U32)
def test_segment_header_round_trip(segment_id):
    block = format.encode_segment_header(segment_id)
    assert len(block) == BLOCK_BYTES
    assert format.decode_segment_header(block) == segment_id


@given(batches())
def test_batch_header_round_trip(batch):
    header = format.encode_batch_header(batch)
    assert len(header) == batch.header_bytes
    assert header.startswith(format.BATCH_MAGIC)
    assert format.decode_batch_header(header) == batch


@given(batches())
def test_a_batch_header_is_found_only_where_it_was_written(batch):
    first = format.encode_batch_header(batch)[:BLOCK_BYTES]
    place = {"segment_id": batch.segment_id, "offset": batch.offset}
    assert format.peek_batch_header_bytes(first, **place) == batch.header_bytes
    elsewhere = place | {"offset": batch.offset + BLOCK_BYTES}
    assert format.peek_batch_header_bytes(first, **elsewhere) is None
    other_segment = place | {"segment_id": batch.segment_id ^ 1}
    assert format.peek_batch_header_bytes(first, **other_segment) is None


@given(batches(path_keys))
def test_pages_of_a_batch_follow_its_header_without_gap_or_overlap(batch):
    expected = batch.offset + batch.header_bytes
    for entry, location in zip(batch.entries, batch.locations(), strict=True):
        assert location == Location(
            batch.segment_id, expected, entry.length, entry.checksum, entry.hash_tail, entry.flags
        )
        expected += format.padded(entry.length)
    assert batch.end == expected


@given(batches(), st.data())
def test_one_flipped_bit_in_a_batch_header_is_corruption(batch, data):
    """Never another batch, and never a version that would keep the whole store from opening."""
    header = bytearray(format.encode_batch_header(batch))
    _, used = _sealed_bytes(batch)
    fixed_part = st.integers(0, format.BATCH_HEADER.size - 1)
    at = data.draw(fixed_part | st.integers(0, used - 1))
    header[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptionError) as caught:
        format.decode_batch_header(bytes(header))
    assert not isinstance(caught.value, FormatVersionError)


@given(U32, st.integers(0, format.SEGMENT_HEADER.size + 7), st.integers(0, 7))
def test_one_flipped_bit_in_a_segment_header_is_corruption(segment_id, at, bit):
    block = bytearray(format.encode_segment_header(segment_id))
    block[at] ^= 1 << bit
    with pytest.raises(CorruptionError) as caught:
        format.decode_segment_header(bytes(block))
    assert not isinstance(caught.value, FormatVersionError)


@given(st.binary(max_size=200))
def test_garbage_is_corruption_everywhere(garbage):
    for decode in (
        format.decode_batch_header,
        format.decode_segment_header,
        format.decode_store_facts,
    ):
        with pytest.raises(CorruptionError):
            decode(garbage)
        with pytest.raises(CorruptionError):
            decode(format.BATCH_MAGIC + garbage)
        with pytest.raises(CorruptionError):
            decode(format.SEGMENT_MAGIC + garbage)
    assert format.peek_batch_header_bytes(garbage, segment_id=1, offset=0) is None


def test_a_newer_version_is_told_from_damage(monkeypatch):
    batch = Batch(1, BLOCK_BYTES, 0, BLOCK_BYTES, ())
    with monkeypatch.context() as newer:
        newer.setattr(format, "FORMAT_VERSION", format.FORMAT_VERSION + 1)
        segment = format.encode_segment_header(7)
        header = format.encode_batch_header(batch)
        facts = format.encode_store_facts({})
    for decode, content in (
        (format.decode_segment_header, segment),
        (format.decode_batch_header, header),
        (format.decode_store_facts, facts),
    ):
        with pytest.raises(FormatVersionError, match="newer"):
            decode(content)


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers()))
def test_store_facts_round_trip(facts):
    facts.pop("format_version", None)
    decoded = format.decode_store_facts(format.encode_store_facts(facts))
    assert decoded == {"format_version": format.FORMAT_VERSION, **facts}


pieces = st.lists(st.binary(max_size=300), min_size=1, max_size=5)


@given(st.binary(min_size=1, max_size=40), pieces)
def test_a_checksum_does_not_depend_on_how_a_page_is_cut(key, parts):
    cut = format.page_checksum(key, [memoryview(part) for part in parts])
    assert cut == format.page_checksum(key, [memoryview(b"".join(parts))])


@given(st.binary(min_size=1, max_size=40), st.binary(min_size=1, max_size=40), pieces)
def test_the_bytes_of_another_page_do_not_verify(key, other_key, parts):
    page = [memoryview(part) for part in parts]
    same = format.page_checksum(key, page) == format.page_checksum(other_key, page)
    assert same == (key == other_key)


@given(batches(path_keys))
def test_the_size_of_a_header_needs_only_its_keys(batch):
    header = format.encode_batch_header(dataclasses.replace(batch, header_bytes=0))
    assert format.padded(len(header)) == batch.header_bytes


def _sealed_bytes(batch):
    """Return where the seal starts and ends: an unpadded header is exactly that long."""
    unpadded = len(format.encode_batch_header(dataclasses.replace(batch, header_bytes=0)))
    return unpadded - format.CHECKSUM.size, unpadded


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(0, 20_000)), max_size=20),
    st.booleans(),
    st.integers(0, 100_000),
)
def test_as_many_pages_fit_as_their_header_and_blocks_take(pages, is_path, room):
    keys = [key for key, _ in pages]
    if is_path:
        keys = [b"".join(keys[: i + 1]) for i in range(len(keys))]
    lengths = [length for _, length in pages]
    num_fitting = format.num_fitting(keys, lengths, room)

    def num_bytes(num_pages):
        header = format.batch_header_bytes(keys[:num_pages])
        return header + sum(map(format.padded, lengths[:num_pages]))

    if num_fitting:
        assert num_bytes(num_fitting) <= room
    if num_fitting < len(keys) and is_path:
        assert num_bytes(num_fitting + 1) > room
