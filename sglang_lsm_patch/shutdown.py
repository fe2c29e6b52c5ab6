"""The end of a scheduler process, and SIGTERM before it: neither may wait for a disk that hangs.

SGLang tells its schedulers to end by a message, and `release_host_resources` and `atexit` follow. A
process manager that signals the whole group reaches a scheduler first, whose default is to die at
once; this gives it the time to write what is due.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

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


def before_sigterm(action: Callable[[], None], *, timeout_s: float) -> None:
    """Run `action` when SIGTERM comes, for at most `timeout_s`, before what would happen anyway.

    Does nothing outside of the main thread, where Python allows no handlers: a scheduler that runs
    inside of another program leaves signals to that program.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    previous = signal.getsignal(signal.SIGTERM)

    def handle(signum: int, frame: FrameType | None) -> None:
        # On a thread of its own: the one that was interrupted may hold a lock that is needed.
        worker = threading.Thread(target=action, name="kv-storage-sigterm", daemon=True)
        worker.start()
        worker.join(timeout_s)
        signal.signal(signum, signal.SIG_DFL if previous is None else previous)
        if callable(previous):
            previous(signum, frame)
        elif previous != signal.SIG_IGN:
            os.kill(os.getpid(), signum)

    signal.signal(signal.SIGTERM, handle)
