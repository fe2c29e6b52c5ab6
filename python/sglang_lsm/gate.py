"""Lets calls in until something closes, and closes when the last one has left."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sglang_lsm.errors import ClosedError


class Gate:
    """Counts calls under way, so that closing can wait for them. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._num_inside = 0
        self._closed = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold the store open inside the block; raises ClosedError once it is closing."""
        with self._condition:
            if self._closed:
                raise ClosedError("the store is closed")
            self._num_inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._num_inside -= 1
                self._condition.notify_all()

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
