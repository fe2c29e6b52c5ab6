from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm import format
from sglang_lsm.errors import CorruptionError, FormatVersionError, UnavailableError
from sglang_lsm.format import BLOCK_BYTES, Batch, BatchEntry
from sglang_lsm.tensorlog.segment import Segment, parse_segment_name, segment_name
from support.fake_fs import FakeDisk, FakeFile

PATH = Path("/log/00000007.seg")
SEGMENT_BYTES = 64 * BLOCK_BYTES


@pytest.fixture
def disk():
    disk = FakeDisk()
    disk.make_dir(PATH.parent)
    return disk


def batch_at(offset, num_pages):
    entries = tuple(
        BatchEntry(b"key %d" % i, BLOCK_BYTES, i, b"hashtail") for i in range(num_pages)
    )
    size = format.batch_header_bytes([entry.key for entry in entries])
    return Batch(7, offset, 1, size, entries)


def written(segment, layout):
    """Write batches with gaps between them, as writes that were never finished leave them."""
    batches, offset = [], BLOCK_BYTES
    for gap, num_pages in layout:
        batch = batch_at(offset + gap * BLOCK_BYTES, num_pages)
        segment.write([format.encode_batch_header(batch)], batch.offset, direct=False)
        segment.end = offset = batch.end
        batches.append(batch)
    return batches


@given(st.integers(0, 2**32 - 1))
def test_a_name_says_which_segment(segment_id):
    assert parse_segment_name(segment_name(segment_id)) == segment_id


@pytest.mark.parametrize("name", ["STORE", "1.seg", "0000000g.seg", "00000001.seg.new", ".seg"])
def test_other_names_are_no_segments(name):
    assert parse_segment_name(name) is None


layouts = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=6)


@given(layouts)
def test_every_batch_is_found_whatever_lies_between(layout):
    disk = FakeDisk()
    disk.make_dir(PATH.parent)
    segment = Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    batches = written(segment, layout)
    assert list(segment.batches()) == batches
    segment.seal()
    segment.retire(unlink=False)
    again = Segment.open(disk, PATH, 7)
    assert list(again.batches()) == batches
    assert again.end == (batches[-1].end if batches else BLOCK_BYTES)


@given(layouts.filter(lambda layout: len(layout) > 1), st.data())
def test_a_damaged_header_hides_its_own_batch_alone(layout, data):
    disk = FakeDisk()
    disk.make_dir(PATH.parent)
    segment = Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    batches = written(segment, layout)
    hit = data.draw(st.integers(0, len(batches) - 1))
    at = batches[hit].offset + data.draw(st.integers(0, format.BATCH_HEADER.size + 20))
    disk.names[PATH].current.data[at] ^= 1 << data.draw(st.integers(0, 7))
    assert list(segment.batches()) == batches[:hit] + batches[hit + 1 :]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_an_unreadable_header_hides_its_own_batch_alone(sizes, data):
    """One block that the disk did not give kept a store from opening, at every start."""
    disk = FakeDisk()
    disk.make_dir(PATH.parent)
    segment = Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    batches = written(segment, [(0, size) for size in sizes])
    hit = data.draw(st.integers(0, len(batches) - 1))
    disk.unreadable = {(PATH, batches[hit].offset // BLOCK_BYTES)}
    assert list(segment.batches()) == batches[:hit] + batches[hit + 1 :]
    with pytest.raises(UnavailableError):
        list(segment.batches(skips_unreadable=False))


def test_where_nothing_can_be_read_few_tries_are_made(disk, monkeypatch):
    segment = Segment.create(disk, PATH, 7, 64 << 20)
    disk.failing, num_tries = {"preadv"}, []
    read = FakeFile.preadv
    monkeypatch.setattr(FakeFile, "preadv", lambda *args: num_tries.append(1) or read(*args))
    assert list(segment.batches()) == []
    assert len(num_tries) < 80


def test_a_segment_whose_own_header_is_unreadable_is_opened_for_its_pages(disk):
    segment = Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    batches = written(segment, [(0, 3), (0, 2)])
    segment.seal()
    disk.unreadable = {(PATH, 0)}
    again = Segment.open(disk, PATH, 7)
    assert list(again.batches()) == batches
    assert again.end == batches[-1].end


def test_a_new_segment_is_preallocated_and_sealed_to_what_is_used(disk):
    segment = Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    assert segment.allocated_bytes() == SEGMENT_BYTES
    written(segment, [(0, 3)])
    segment.seal()
    assert disk.names[PATH].current.data[segment.end :] == b""
    assert segment.allocated_bytes() == segment.end


@pytest.mark.parametrize("fault", ["allocate", "pwritev"])
def test_a_segment_that_cannot_be_made_leaves_nothing_behind(disk, fault):
    disk.failing = {fault}
    with pytest.raises(UnavailableError):
        Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    assert disk.used_bytes() == 0
    assert disk.list_dir(PATH.parent) == []


def test_a_full_disk_leaves_nothing_behind(disk):
    disk.capacity_bytes = SEGMENT_BYTES - 1
    with pytest.raises(UnavailableError):
        Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    assert disk.list_dir(PATH.parent) == []


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (b"", CorruptionError),
        (bytes(BLOCK_BYTES), CorruptionError),
        (format.encode_segment_header(8), CorruptionError),
        (format.encode_segment_header(7)[:20] + b"\xff" * 4, CorruptionError),
    ],
)
def test_a_header_that_is_not_ours_is_corruption(disk, header, error):
    disk.open(PATH, create=True).pwritev([header], 0)
    with pytest.raises(error):
        Segment.open(disk, PATH, 7)


def test_a_newer_segment_is_told_from_damage(disk, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(format, "FORMAT_VERSION", format.FORMAT_VERSION + 1)
        header = format.encode_segment_header(7)
    disk.open(PATH, create=True).pwritev([header], 0)
    with pytest.raises(FormatVersionError):
        Segment.open(disk, PATH, 7)


def test_a_reader_keeps_a_segment_open_that_is_deleted_under_it(disk):
    """On the fake disk a read through a closed descriptor would fail the test."""
    segment = Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    segment.write([b"x" * BLOCK_BYTES], BLOCK_BYTES, direct=False)
    out = memoryview(bytearray(BLOCK_BYTES))
    with segment.in_use() as alive:
        assert alive
        segment.retire(unlink=True)
        assert disk.list_dir(PATH.parent) == []
        assert segment.read([out], BLOCK_BYTES, direct=False) == BLOCK_BYTES
        with segment.in_use() as still_alive:
            assert not still_alive
    assert bytes(out) == b"x" * BLOCK_BYTES
    with pytest.raises(AssertionError, match="closed file"):
        segment.read([out], BLOCK_BYTES, direct=False)


def test_what_fills_the_page_cache_has_a_descriptor_of_its_own_for_as_long_as_it_reads(disk):
    segment = Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    segment.write([b"x" * BLOCK_BYTES], BLOCK_BYTES, direct=False)
    with segment.reading("filling") as first, segment.reading("filling") as second:
        assert first is not second
        assert first.preadv([memoryview(bytearray(BLOCK_BYTES))], BLOCK_BYTES) == BLOCK_BYTES
    with pytest.raises(AssertionError, match="closed file"):
        first.preadv([memoryview(bytearray(BLOCK_BYTES))], BLOCK_BYTES)
    with segment.reading("cached") as one, segment.reading("cached") as same:
        assert one is same


def test_without_another_descriptor_what_fills_the_page_cache_is_read_at_once(disk, monkeypatch):
    segment = Segment.create(disk, PATH, 7, SEGMENT_BYTES)
    segment.write([b"x" * BLOCK_BYTES], BLOCK_BYTES, direct=False)

    def no_descriptor(_file):
        raise UnavailableError("too many open files")

    monkeypatch.setattr(FakeFile, "again", no_descriptor)
    out = memoryview(bytearray(BLOCK_BYTES))
    with segment.reading("filling") as file:
        assert file.preadv([out], BLOCK_BYTES) == BLOCK_BYTES
    assert bytes(out) == b"x" * BLOCK_BYTES
