"""Quota and floor hold; single pages go where the file system takes them, else whole segments."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.errors import UnavailableError
from sglang_lsm.observability.counters import Counters
from sglang_lsm.room import Room
from support.catalog_bench import NAMESPACES, PAGE_BYTES, CatalogBench, key_of, path_of

NUM_PAGES = 80
"""Of a segment that `fill` seals: with their headers they take up most of it."""
PAGE_BLOCKS_BYTES = 8192


class RoomBench(CatalogBench):
    """A catalog with few segments allowed, and what goes when room is made."""

    def __init__(self, *, min_free_bytes=0, **facts):
        super().__init__(**facts)
        self.config = StoreConfig(
            quota_bytes=4 * MIB,
            min_free_bytes=min_free_bytes,
            log=LogConfig(segment_bytes=MIB),
        )
        self.disk.make_dir(Path("/log"))
        self.room = self.open_room()
        self.counters = Counters()
        self.num_paths = 0

    def open_room(self):
        return Room(self.catalog, self.log, self.disk, Path("/log"), self.config)

    def fill(self, num_segments, *, pages=NUM_PAGES):
        """Put single pages that are the first of their paths, and seal a segment of them each."""
        for _ in range(num_segments):
            for _ in range(pages):
                self.num_paths += 1
                self.put(path_of(NAMESPACES[0], (1000 + self.num_paths,)))
            self.seal()

    def lost(self):
        """Take the pages that the index has no more out of what is stored; return them."""
        left = self.index_disk.current.pages
        gone = {page for page in self.stored if key_of(page) not in left}
        self.lose(gone)
        return gone

    def make(self, num_bytes):
        """Make room; hold it to its promise, and return the segments of the pages that went."""
        before = dict(self.stored)
        self.room.make(num_bytes, self.counters)
        gone = self.lost()
        assert self.log.allocated_bytes() + num_bytes <= 4 * MIB
        self.check_stored()
        self.check_dead()
        return [before[page].segment_id for page in gone]


@pytest.fixture(params=[True, False], ids=["punches", "cannot punch"])
def can_punch(request):
    return request.param


def test_nothing_goes_while_there_is_room(can_punch):
    bench = RoomBench(can_punch=can_punch)
    bench.fill(2)
    assert bench.make(2 * MIB) == []
    assert bench.counters.snapshot().pages_evicted == 0


def test_as_few_pages_as_are_needed_go_where_single_pages_can():
    bench = RoomBench()
    bench.fill(4)
    excess = bench.log.allocated_bytes() + MIB - 4 * MIB
    gone = bench.make(MIB)
    assert len(gone) == -(-excess // PAGE_BLOCKS_BYTES)
    assert bench.counters.snapshot().pages_evicted == len(gone)
    bench.check_table()


def test_whole_segments_go_oldest_first_where_single_pages_cannot():
    bench = RoomBench(can_punch=False)
    bench.fill(4)
    oldest = bench.log.segment_ids()
    while bench.log.segment_ids():
        before = bench.log.segment_ids()
        bench.make(4 * MIB - bench.log.allocated_bytes() + 1)
        assert bench.log.segment_ids() == before[1:]
    assert oldest == [1, 2, 3, 4]
    assert bench.counters.snapshot().pages_evicted == 4 * NUM_PAGES


def test_whole_segments_go_until_the_table_is_complete():
    bench = RoomBench()
    bench.fill(4)
    bench.start_anew()
    bench.room = bench.open_room()
    assert set(bench.make(MIB)) == {1}
    assert bench.counters.snapshot().pages_evicted == NUM_PAGES


@settings(max_examples=25)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 80), st.integers(0, 4 * MIB)), min_size=1, max_size=6),
)
def test_the_quota_holds_whatever_is_asked_for(can_punch, steps):
    bench = RoomBench(can_punch=can_punch)
    for num_pages, num_bytes in steps:
        bench.make(MIB)
        bench.fill(1, pages=num_pages)
        bench.make(num_bytes)
    assert bench.disk.used_bytes("/log/*.seg") == bench.log.allocated_bytes() <= 4 * MIB


def test_the_floor_holds_when_others_fill_the_disk(can_punch):
    bench = RoomBench(can_punch=can_punch, min_free_bytes=MIB)
    bench.fill(3)
    bench.disk.capacity_bytes = bench.disk.used_bytes() + 2 * MIB
    assert bench.make(MIB) == []
    bench.disk.foreign_bytes = MIB // 2
    assert bench.make(MIB)
    assert bench.disk.free_bytes(Path("/log")) >= 2 * MIB


def test_a_disk_that_others_filled_leaves_nothing_to_go(can_punch):
    bench = RoomBench(can_punch=can_punch, min_free_bytes=MIB)
    bench.fill(1)
    bench.disk.capacity_bytes = bench.disk.foreign_bytes = 8 * MIB
    with pytest.raises(UnavailableError, match="free-space floor"):
        bench.make(MIB)
    bench.lost()
    assert not bench.stored
    assert bench.log.sealed_ids() == []


def test_segments_of_withdrawn_calls_go_when_no_page_is_left():
    """Their bytes belong to no page, so no eviction of pages gives them back."""
    bench = RoomBench()
    for number in range(4):
        path = path_of(NAMESPACES[0], (number,))
        for _ in range(NUM_PAGES):
            bench.append(path, [0])
        bench.seal()
    bench.put(path_of(NAMESPACES[0], (9,)))
    # What is preallocated would go first.
    bench.seal()
    assert len(bench.make(4 * MIB - bench.log.allocated_bytes() + 20 * PAGE_BYTES)) == 1
    assert bench.log.segment_ids() == [2, 3, 4, 5]


def test_a_disk_that_no_longer_punches_emptied_the_whole_cache():
    """Pages went one lot after the other, and none of them made room; segments can still go."""
    bench = RoomBench()
    bench.fill(4)
    bench.disk.failing = {"punch"}
    num_bytes = 4 * MIB - bench.log.allocated_bytes() + PAGE_BLOCKS_BYTES
    bench.room.make(num_bytes, bench.counters)
    assert bench.log.allocated_bytes() + num_bytes <= 4 * MIB
    assert len(bench.lost()) <= NUM_PAGES + 1
    bench.check_stored()


def test_a_smaller_quota_holds_from_the_start(can_punch):
    bench = RoomBench(can_punch=can_punch)
    bench.fill(6)
    bench.room.shrink(bench.counters)
    assert len(bench.lost()) == bench.counters.snapshot().pages_evicted
    assert bench.log.allocated_bytes() <= 4 * MIB
    bench.check_stored()
    assert bench.stored


def test_an_index_that_fails_is_told(can_punch):
    bench = RoomBench(can_punch=can_punch)
    bench.fill(4)
    bench.index_disk.failing = True
    with pytest.raises(UnavailableError, match="index"):
        bench.room.make(MIB, bench.counters)
    bench.index_disk.failing = False
    bench.check_stored()
