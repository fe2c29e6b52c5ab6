"""A periodic action runs until it is stopped, whatever happens to it."""

import threading

import pytest
from sglang_lsm.errors import ClosedError, UnavailableError
from sglang_lsm.periodic import Periodic


@pytest.mark.parametrize(
    "error", [UnavailableError("the disk is full"), RuntimeError("no"), MemoryError()]
)
def test_repeats_and_survives_a_failing_action(error, caplog):
    """Anything but the store's own errors ended the thread unseen: nothing was synced any more."""
    done, calls = threading.Event(), []

    def action() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            done.set()
        raise error

    periodic = Periodic("test-thread", 0.001, action)
    assert done.wait(10)
    periodic.stop()
    num_calls = len(calls)
    assert set(calls) == {"test-thread"}
    assert not any(thread.name == "test-thread" for thread in threading.enumerate())
    assert len(calls) == num_calls
    # One line, not one a turn; of a mistake of ours it says where.
    (record,) = caplog.records
    assert bool(record.exc_info) is not isinstance(error, UnavailableError)


def test_ends_with_its_store(caplog):
    ended = threading.Event()

    def action() -> None:
        ended.set()
        raise ClosedError("closed")

    periodic = Periodic("test-thread", 0.001, action)
    assert ended.wait(10)
    periodic.stop()
    assert caplog.records == []
