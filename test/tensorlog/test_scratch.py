import threading

import numpy as np
from sglang_lsm.tensorlog.scratch import Scratch


def address(memory):
    return np.frombuffer(memory, np.uint8).__array_interface__["data"][0]


def test_a_thread_gets_the_same_aligned_memory_again():
    scratch = Scratch(keep_bytes=8192)
    first = scratch.take(8192)
    assert len(first) == 8192 and address(first) % 4096 == 0 and not first.readonly
    assert address(scratch.take(100)) == address(first)
    assert len(scratch.take(0)) == 0


def test_more_than_is_kept_is_made_each_time():
    scratch = Scratch(keep_bytes=8192)
    kept = address(scratch.take(4096))
    large = scratch.take(8193)
    assert len(large) == 8193
    assert address(scratch.take(8193)) != address(large)
    assert address(scratch.take(4096)) == kept


def test_threads_do_not_share():
    scratch = Scratch(keep_bytes=8192)
    memory = scratch.take(64)
    memory[:] = bytes(64)
    other = []

    def use():
        other.append(scratch.take(64))
        other[0][:] = b"\xff" * 64

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert bytes(memory) == bytes(64) and bytes(other[0]) == b"\xff" * 64
