"""A periodic action runs until it is stopped, whatever happens to it."""

import threading

from sglang_lsm.errors import UnavailableError
from sglang_lsm.periodic import Periodic


def test_repeats_and_survives_a_failing_action():
    done, calls = threading.Event(), []

    def action() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            done.set()
        raise UnavailableError("the disk is full")

    periodic = Periodic("test-thread", 0.001, action)
    assert done.wait(10)
    periodic.stop()
    num_calls = len(calls)
    assert set(calls) == {"test-thread"}
    assert not any(thread.name == "test-thread" for thread in threading.enumerate())
    assert len(calls) == num_calls
