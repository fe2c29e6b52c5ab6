"""A thread that repeats one action until it is stopped."""

import logging
import threading
import time
from collections.abc import Callable

from sglang_lsm.errors import ClosedError, surprise

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0
"""Between two lines about one kind of failure."""


class Periodic:
    """Runs `action` every `interval_s`. Owned by whoever made it, who must call `stop`.

    An action that fails is logged and has its next turn; only ClosedError ends the thread.
    """

    def __init__(self, name: str, interval_s: float, action: Callable[[], None]) -> None:
        self._interval_s, self._action = interval_s, action
        self._logged_s: dict[type[Exception], float] = {}
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
            except Exception as error:  # noqa: BLE001 - nobody would see the thread end
                self._log(error)

    def _log(self, error: Exception) -> None:
        now_s, kind = time.monotonic(), type(error)
        if now_s - self._logged_s.get(kind, float("-inf")) < LOG_INTERVAL_S:
            return
        self._logged_s[kind] = now_s
        logger.warning(
            "a background action failed. thread=%s reason=%s",
            self._thread.name, error, exc_info=surprise(error),
        )  # fmt: skip
