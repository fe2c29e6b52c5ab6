"""The end of a scheduler process, and SIGTERM before it: neither may wait for a disk that hangs.

SGLang tells its schedulers to end by a message, and `release_host_resources` and `atexit` follow. A
process manager that signals the whole group reaches a scheduler first, whose default is to die at
once; this gives it the time to write what is due.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)


def end_within(timeout_s: float, action: Callable[[], object]) -> None:
    """Run `action` and wait for it; after `timeout_s` it goes on alone."""
    worker = threading.Thread(target=action, name="kv-storage-end", daemon=True)
    try:
        worker.start()
    except RuntimeError:
        # At the end of the interpreter there are no new threads, since Python 3.12.
        action()
        return
    worker.join(timeout_s)
    if worker.is_alive():
        logger.warning("kv storage does not end, and is left alone. timeout_s=%g", timeout_s)


class BeforeSigterm:
    """Runs an action when SIGTERM comes, for a bounded time, before what would happen anyway.

    Further signals meanwhile change nothing. Owned by the main thread.
    """

    def __init__(self, action: Callable[[], None], *, timeout_s: float) -> None:
        """Nothing happens before `install`."""
        self._action, self._timeout_s = action, timeout_s
        self._previous: Any = None
        self._num_postponing = 0
        self._is_postponed, self._is_handled = False, False

    def install(self) -> None:
        """Handle SIGTERM from now on.

        Does nothing outside of the main thread, where Python allows no handlers: a scheduler that
        runs inside of another program leaves signals to that program.
        """
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, self._handle)

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Let a signal that comes inside this block wait for its end, as that does the same work.

        On another thread it changes nothing: the action itself may pass here.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._num_postponing += 1
        try:
            yield
        finally:
            self._num_postponing -= 1
            if self._is_postponed and not self._num_postponing:
                self._is_postponed = False
                os.kill(os.getpid(), signal.SIGTERM)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._is_handled:
            return
        if self._num_postponing:
            self._is_postponed = True
            return
        self._is_handled = True
        # On a thread of its own: the one that was interrupted may hold a lock that is needed.
        end_within(self._timeout_s, self._action)
        previous = self._previous
        signal.signal(signum, signal.SIG_DFL if previous is None else previous)
        if callable(previous):
            previous(signum, frame)
        elif previous != signal.SIG_IGN:
            os.kill(os.getpid(), signum)
