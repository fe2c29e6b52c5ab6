"""Failures counted by reason and logged at a bounded rate; and the figures of transfers."""

import logging
import threading
from collections import Counter
from collections.abc import Callable

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0
MAX_WAITING = 4096
"""Figures kept while nobody collects them."""


class MissLog:
    """Counts failed calls by reason; one log line per reason and interval. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Use `clock` (seconds, monotonic) to space the log lines."""
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logged: dict[str, tuple[float, int]] = {}

    def note(self, call: str, error: Exception) -> None:
        """Count the failure of `call`, and log it unless its reason was logged a moment ago."""
        reason = type(error).__name__
        with self._lock:
            self._counts[reason] += 1
            now, total = self._clock(), self._counts[reason]
            last_s, last_total = self._logged.get(reason, (now - LOG_INTERVAL_S, 0))
            if now - last_s < LOG_INTERVAL_S:
                return
            self._logged[reason] = (now, total)
        logger.warning(
            "kv storage failed, taken as a miss. call=%s reason=%s failures=%d error=%s",
            call, reason, total - last_total, error,
        )  # fmt: skip

    def counts(self) -> dict[str, int]:
        """Return failed calls by reason since the start."""
        with self._lock:
            return dict(self._counts)


class TransferFigures:
    """Pages and GB/s of each transfer since they were last taken. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: list[int] = []
        self._gb_per_s: list[float] = []

    def add(self, *, num_pages: int, num_bytes: int, seconds: float) -> None:
        """Note one transfer; the oldest figures go when nobody takes them."""
        if num_pages == 0 or seconds <= 0:
            return
        with self._lock:
            if len(self._pages) >= MAX_WAITING:
                self._pages, self._gb_per_s = [], []
            self._pages.append(num_pages)
            self._gb_per_s.append(num_bytes / seconds / 1e9)

    def take(self) -> tuple[list[int], list[float]]:
        """Return pages and GB/s, and start afresh. O(1)."""
        with self._lock:
            taken = self._pages, self._gb_per_s
            self._pages, self._gb_per_s = [], []
        return taken
