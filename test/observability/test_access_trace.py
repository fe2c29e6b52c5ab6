import hashlib

from sglang_lsm.observability.access_trace import SHARE, AccessTrace


def hashes(numbers):
    return [hashlib.sha256(str(number).encode()).digest() for number in numbers]


def test_the_same_pages_are_sampled_each_time():
    trace, pages = AccessTrace(), hashes(range(4096))
    trace.note(pages, 8192, is_write=True)
    trace.note(pages, 8192, is_write=False)
    written, read = trace.drain()
    assert (written.is_write, read.is_write) == (True, False)
    assert written.sampled == read.sampled
    assert written.num_pages == 4096
    assert 0.8 < len(written.sampled) * SHARE / 4096 < 1.2


def test_what_was_drained_is_gone():
    trace = AccessTrace()
    trace.note(hashes([1]), 4096, is_write=False)
    assert len(trace.drain()) == 1
    assert trace.drain() == []


def test_the_newest_calls_are_kept():
    trace = AccessTrace(max_calls=3)
    for size in range(10):
        trace.note([], size, is_write=False)
    assert [call.page_bytes for call in trace.drain()] == [7, 8, 9]


def test_what_is_written_again_is_estimated_and_a_read_is_not_an_offer():
    trace = AccessTrace()
    hashes = [hashlib.sha256(b"%d" % i).digest() for i in range(4096)]
    assert trace.note(hashes, 10, is_write=False) == 0
    assert trace.note(hashes, 10, is_write=True) == 0
    assert abs(trace.note(hashes, 10, is_write=True) - 40_960) < 8_192
