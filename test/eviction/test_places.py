import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.eviction.places import (
    MAX_LENGTH_BYTES,
    length_units,
    offset_units,
    pack_place,
    pack_places,
    segment_ids,
)

LIMITS = (1 << 28, 1 << 22, 1 << 14)


@given(*(st.integers(0, limit - 1) for limit in LIMITS))
def test_round_trip(segment_id, offset, length):
    place = np.array([pack_place(segment_id, 4096 * offset, 4096 * length)], np.uint64)
    assert segment_ids(place).tolist() == [segment_id]
    assert offset_units(place).tolist() == [offset]
    assert length_units(place).tolist() == [length]


def test_a_part_of_a_block_counts_whole():
    assert length_units(np.array([pack_place(0, 0, 4097)], np.uint64)).tolist() == [2]


@pytest.mark.parametrize(
    "place", [(1 << 28, 0, 1), (0, 16 << 30, 1), (0, 0, MAX_LENGTH_BYTES + 1), (-1, 0, 1)]
)
def test_what_does_not_fit_is_refused(place):
    with pytest.raises(ValueError, match="out of range"):
        pack_place(*place)


@given(
    st.lists(st.tuples(*(st.integers(0, limit - 1) for limit in LIMITS)), max_size=5),
    st.integers(1, 4096),
)
def test_many_at_once_are_what_each_is_alone(places, rest):
    segments, blocks, num_blocks = np.array(places, np.uint32).reshape(-1, 3).T
    lengths = np.maximum(num_blocks, 1) * np.uint32(4096) - np.uint32(4096 - rest)
    expected = [
        pack_place(segment, 4096 * block, length)
        for segment, block, length in zip(
            segments.tolist(), blocks.tolist(), lengths.tolist(), strict=True
        )
    ]
    assert pack_places(segments, blocks, lengths).tolist() == expected


@pytest.mark.parametrize("place", [(1 << 28, 0, 1), (0, 1 << 22, 1), (0, 0, MAX_LENGTH_BYTES + 1)])
def test_one_of_many_that_does_not_fit_is_refused(place):
    columns = np.array([(1, 1, 1), place], np.uint32).T
    with pytest.raises(ValueError, match="out of range"):
        pack_places(*columns)
