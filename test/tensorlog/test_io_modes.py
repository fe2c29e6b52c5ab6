import pytest
from sglang_lsm.tensorlog.io_modes import READS_BEFORE_FILLING, IoModes
from sglang_lsm.tensorlog.transfer import Transfer


class FakeSegment:
    """A segment of which a share is in the page cache."""

    def __init__(self):
        self.num_cached = 0

    def cached_bytes(self, offset, num_bytes):
        return self.num_cached


def transfer(offset=4096, segment_id=1):
    return Transfer(segment_id, offset, 8192, (0, 1))


def io_modes(mode="auto", can_direct=True):
    return IoModes(mode, can_direct=can_direct)


def way(modes, segment, fits_direct=True, **place):
    return modes.way_to_read(segment, transfer(**place), fits_direct=fits_direct)


def test_what_is_in_the_page_cache_is_read_from_there():
    modes, segment = io_modes(), FakeSegment()
    segment.num_cached = 8192
    assert way(modes, segment) == "cached"
    segment.num_cached = 4096
    assert way(modes, segment) == "direct"


def test_what_is_read_again_and_again_fills_the_page_cache_and_the_first_reads_do_not():
    modes, segment = io_modes(), FakeSegment()
    ways = [way(modes, segment) for _ in range(READS_BEFORE_FILLING + 1)]
    assert ways == ["direct"] * READS_BEFORE_FILLING + ["filling"]
    assert way(modes, segment, offset=1 << 20) == "direct"


def test_what_fell_out_of_the_page_cache_begins_anew():
    modes, segment = io_modes(), FakeSegment()
    ways = [way(modes, segment) for _ in range(2 * READS_BEFORE_FILLING + 2)]
    assert ways == (["direct"] * READS_BEFORE_FILLING + ["filling"]) * 2


def test_what_the_kernel_read_ahead_and_dropped_begins_anew():
    modes, segment = io_modes(), FakeSegment()
    ways = [way(modes, segment) for _ in range(READS_BEFORE_FILLING)]
    segment.num_cached = 8192
    ways.append(way(modes, segment))
    segment.num_cached = 0
    ways.append(way(modes, segment))
    assert ways == ["direct"] * READS_BEFORE_FILLING + ["cached", "direct"]


def test_a_system_that_cannot_tell_lets_the_page_cache_serve_what_comes_often():
    modes, segment = io_modes(), FakeSegment()
    segment.num_cached = None
    ways = [way(modes, segment) for _ in range(READS_BEFORE_FILLING + 3)]
    assert ways == ["direct"] * READS_BEFORE_FILLING + ["cached"] * 3
    assert way(io_modes("buffered"), segment) == "cached"


@pytest.mark.parametrize(
    ("mode", "can_direct", "fits_direct", "reads", "writes_direct"),
    [
        ("buffered", True, True, "filling", False),
        ("direct", True, True, "direct", True),
        ("direct", True, False, "filling", True),
        ("direct", False, True, "filling", False),
        ("auto", True, True, "direct", True),
        ("auto", True, False, "filling", True),
        ("auto", False, True, "filling", False),
    ],
)
def test_where_nothing_is_left_to_decide(mode, can_direct, fits_direct, reads, writes_direct):
    modes, segment = io_modes(can_direct=can_direct), FakeSegment()
    modes.tune(mode)
    modes.is_beyond_memory = True
    assert [way(modes, segment, fits_direct) for _ in range(3)] == [reads] * 3
    assert modes.writes_direct == writes_direct
    segment.num_cached = 8192
    assert way(modes, segment, fits_direct) == ("direct" if reads == "direct" else "cached")


def test_remembers_no_more_than_two_generations():
    modes, segment = io_modes(), FakeSegment()
    for i in range(3 << 15):
        way(modes, segment, offset=i * 4096)
    assert len(modes._young) + len(modes._old) <= 2 << 15
    assert modes._young.get((1, 0), modes._old.get((1, 0))) is None
    last = ((3 << 15) - 1) * 4096
    ways = [way(modes, segment, offset=last) for _ in range(READS_BEFORE_FILLING)]
    assert ways[-1] == "filling"
