import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.eviction.places import (
    MAX_LENGTH_BYTES,
    length_units,
    offset_units,
    pack_place,
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
