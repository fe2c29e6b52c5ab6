"""A thread that repeats one action until it is stopped."""

import logging
import threading
from collections.abc import Callable

from sglang_lsm.errors import ClosedError, StoreError

logger = logging.getLogger(__name__)


class Periodic:
    """Runs `action` every `interval_s`. Owned by whoever made it, who must call `stop`."""

    def __init__(self, name: str, interval_s: float, action: Callable[[], None]) -> None:
        self._interval_s, self._action = interval_s, action
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; an action under way is finished first."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._action()
            except ClosedError:
                return
            except StoreError as error:
                logger.warning("a background action failed. thread=%s reason=%s",
                               self._thread.name, error)  # fmt: skip
