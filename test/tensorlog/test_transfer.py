import mmap
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from sglang_lsm.format import BLOCK_BYTES, padded
from sglang_lsm.pages import Location
from sglang_lsm.tensorlog.transfer import (
    fits_direct_io,
    gather_write,
    page_bytes,
    plan_transfers,
)

lengths = st.integers(1, 5 * BLOCK_BYTES)
io_sizes = st.integers(BLOCK_BYTES, 40 * BLOCK_BYTES)


@st.composite
def placements(draw):
    """Pages that do not overlap, in any order, with and without gaps, in a few segments."""
    locations, ends = [], {}
    for length in draw(st.lists(lengths, max_size=30)):
        segment_id = draw(st.integers(1, 3))
        gap = draw(st.sampled_from([0, 0, 0, 1, 5])) * BLOCK_BYTES
        offset = ends.get(segment_id, BLOCK_BYTES) + gap
        ends[segment_id] = offset + padded(length)
        locations.append(Location(segment_id, offset, length, 0, bytes(8)))
    return draw(st.permutations(locations))


@given(placements(), io_sizes)
def test_every_page_is_moved_once(locations, io_bytes):
    transfers = plan_transfers(locations, io_bytes=io_bytes)
    assert sorted(i for t in transfers for i in t.indices) == list(range(len(locations)))


@given(placements(), io_sizes)
def test_a_transfer_is_one_run_of_neighbours(locations, io_bytes):
    for transfer in plan_transfers(locations, io_bytes=io_bytes):
        at = transfer.offset
        for i in transfer.indices:
            assert (locations[i].segment_id, locations[i].offset) == (transfer.segment_id, at)
            at += padded(locations[i].length)
        assert at == transfer.offset + transfer.num_bytes


@given(placements(), io_sizes)
def test_a_transfer_is_bounded_unless_one_page_is_larger(locations, io_bytes):
    for transfer in plan_transfers(locations, io_bytes=io_bytes):
        assert transfer.num_bytes <= io_bytes or len(transfer.indices) == 1


@given(placements(), io_sizes)
def test_neighbours_are_coalesced_as_far_as_the_bound_allows(locations, io_bytes):
    transfers = plan_transfers(locations, io_bytes=io_bytes)
    for one, following in pairwise(transfers):
        adjacent = (one.segment_id, one.offset + one.num_bytes) == (
            following.segment_id, following.offset)  # fmt: skip
        next_page = padded(locations[following.indices[0]].length)
        assert not adjacent or one.num_bytes + next_page > io_bytes


@given(placements(), io_sizes)
def test_transfers_go_in_the_order_of_the_disk(locations, io_bytes):
    places = [(t.segment_id, t.offset) for t in plan_transfers(locations, io_bytes=io_bytes)]
    assert places == sorted(places)


pages = st.lists(st.lists(st.binary(min_size=1, max_size=9000), min_size=1, max_size=3), max_size=5)


def views(contents):
    return [[memoryview(bytearray(piece)) for piece in page] for page in contents]


def with_lengths(pages):
    return [(page, page_bytes(page)) for page in pages]


@given(pages)
@example([[b"x" * BLOCK_BYTES]])
def test_what_is_written_starts_every_page_on_a_block(contents):
    written = b"".join(gather_write(with_lengths(views(contents))))
    at = 0
    for page in contents:
        content = b"".join(page)
        assert written[at : at + len(content)] == content
        assert not any(written[at + len(content) : at + padded(len(content))])
        at += padded(len(content))
    assert len(written) == at


@given(pages)
def test_a_page_is_as_long_as_its_pieces(contents):
    assert [page_bytes(page) for page in contents] == [sum(map(len, page)) for page in contents]


def test_direct_io_needs_aligned_memory_and_whole_blocks():
    memory = memoryview(mmap.mmap(-1, 4 * BLOCK_BYTES))
    aligned = memory[:BLOCK_BYTES]
    assert fits_direct_io([[aligned], [memory[BLOCK_BYTES : 3 * BLOCK_BYTES], aligned]])
    assert not fits_direct_io([[aligned], [memory[512 : 512 + BLOCK_BYTES]]])
    assert not fits_direct_io([[aligned, memory[BLOCK_BYTES : BLOCK_BYTES + 512]]])
