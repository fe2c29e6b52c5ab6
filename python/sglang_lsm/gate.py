"""Lets calls in until something closes, and closes when the last one has left."""

import threading

from sglang_lsm.errors import ClosedError


class Gate:
    """Counts calls under way, so that closing can wait for them. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._num_inside = 0
        self._closed = False

    def entered(self) -> "Gate":
        """Hold the store open inside a `with` block; raises ClosedError once it is closing."""
        return self

    # Written out instead of a generator: every call of the store passes here, and a probe that
    # finds nothing takes no more than a few us in all.
    def __enter__(self) -> None:
        with self._condition:
            if self._closed:
                raise ClosedError("the store is closed")
            self._num_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._num_inside -= 1
            if self._closed:
                self._condition.notify_all()

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way."""
        return self._num_inside == 0

    @property
    def is_closing(self) -> bool:
        """Whether a call under way should come to its end."""
        return self._closed

    def close(self) -> bool:
        """Refuse new calls and wait for those inside; False if it was closed before."""
        with self._condition:
            if self._closed:
                return False
            self._closed = True
            self._condition.wait_for(lambda: self._num_inside == 0)
        return True
