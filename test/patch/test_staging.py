"""The staging ring: a copy is the page, places are never shared, and O_DIRECT takes them."""

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.errors import UnavailableError
from support.page_maker import content_of, cut

from sglang_lsm_patch.staging import StagingRing


@given(
    pieces=st.lists(st.integers(1, 5000), min_size=1, max_size=3),
    num_pages=st.integers(1, 4),
    moves=st.lists(st.booleans(), max_size=20),
)
def test_what_was_put_aside_stays_until_it_is_given_back(pieces, num_pages, moves):
    ring = StagingRing(page_bytes=sum(pieces), num_pages=num_pages)
    held = {}
    for step, takes in enumerate(moves):
        if takes:
            content = content_of(b"ring", step.to_bytes(32, "big"), sum(pieces))
            taken = ring.take(cut(memoryview(content), pieces))
            assert (taken is None) == (len(held) == num_pages)
            if taken is not None:
                assert taken[0] not in held
                held[taken[0]] = (taken[1], content)
        elif held:
            index = next(iter(held))
            ring.give_back(index)
            del held[index]
        assert all(bytes(place) == content for place, content in held.values())


def test_places_are_aligned_for_direct_io():
    ring = StagingRing(page_bytes=5000, num_pages=3)
    for _ in range(3):
        _, place = ring.take([memoryview(bytes(5000))])
        assert ctypes.addressof(ctypes.c_ubyte.from_buffer(place)) % 4096 == 0


def test_memory_that_cannot_be_had_is_a_failure_of_the_store():
    with pytest.raises(UnavailableError, match="num_pages"):
        StagingRing(page_bytes=1 << 40, num_pages=1 << 20)


def test_a_ring_without_places_takes_nothing():
    assert StagingRing(page_bytes=100, num_pages=0).take([memoryview(bytes(100))]) is None
