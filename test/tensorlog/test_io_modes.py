import pytest
from sglang_lsm.tensorlog.io_modes import IoModes
from sglang_lsm.tensorlog.transfer import Transfer


class FakeSegment:
    """A segment of which a share is in the page cache."""

    def __init__(self):
        self.num_cached = 0

    def cached_bytes(self, offset, num_bytes):
        return self.num_cached


def transfer(offset=4096, segment_id=1):
    return Transfer(segment_id, offset, 8192, (0, 1))


def after_a_restart(mode="auto", can_direct=True):
    modes = IoModes(mode, can_direct=can_direct)
    modes.first_new_id = 2
    return modes


def test_what_is_in_the_page_cache_is_read_from_there():
    modes, segment = after_a_restart(), FakeSegment()
    segment.num_cached = 8192
    assert not modes.reads_direct(segment, transfer())
    segment.num_cached = 4096
    assert modes.reads_direct(segment, transfer())


def test_the_second_read_of_an_old_page_fills_the_page_cache_and_the_first_does_not():
    modes, segment = after_a_restart(), FakeSegment()
    assert [modes.reads_direct(segment, transfer()) for _ in range(2)] == [True, False]
    assert modes.reads_direct(segment, transfer(offset=1 << 20))


def test_a_page_written_by_this_process_was_used_already():
    modes, segment = after_a_restart(), FakeSegment()
    assert not modes.reads_direct(segment, transfer(segment_id=2))


def test_what_fell_out_of_the_page_cache_is_read_around_it():
    modes, segment = after_a_restart(), FakeSegment()
    read = [modes.reads_direct(segment, transfer(segment_id=2)) for _ in range(4)]
    assert read == [False, True, False, True]


def test_a_system_that_cannot_tell_lets_the_page_cache_serve():
    modes, segment = after_a_restart(), FakeSegment()
    segment.num_cached = None
    assert not modes.reads_direct(segment, transfer())


@pytest.mark.parametrize(
    ("mode", "can_direct", "beyond", "reads", "writes"),
    [
        ("buffered", True, True, False, False),
        ("direct", True, False, True, True),
        ("direct", False, False, False, False),
        ("auto", True, True, True, True),
        ("auto", False, True, False, False),
    ],
)
def test_where_nothing_is_left_to_decide(mode, can_direct, beyond, reads, writes):
    modes, segment = after_a_restart(can_direct=can_direct), FakeSegment()
    modes.tune(mode)
    modes.is_beyond_memory = beyond
    segment.num_cached = 8192
    assert modes.reads_direct(segment, transfer()) == reads
    assert modes.writes_direct == writes


def test_remembers_no_more_than_two_generations():
    modes, segment = after_a_restart(), FakeSegment()
    for i in range(3 << 15):
        modes.reads_direct(segment, transfer(offset=i * 4096))
    assert len(modes._young) + len(modes._old) <= 2 << 15
    assert modes.reads_direct(segment, transfer(offset=0))
    assert not modes.reads_direct(segment, transfer(offset=((3 << 15) - 1) * 4096))
