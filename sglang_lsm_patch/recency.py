"""Hits in device and host memory, on their way to the store: what is hot above must not leave the
disk first.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from sglang_lsm.pages import NamespaceId, PageHash, PagePath

MAX_WAITING = 256
"""Paths that wait for a storage thread. Older ones are forgotten first."""
NUM_REMEMBERED_REQUESTS = 4096

PathOfHit: TypeAlias = Callable[[], Sequence[PageHash]]
"""Tells the names of a path, root first; called on the thread that enters it."""


class RequestsSeen:
    """Tells the first call for a request from the others: SGLang asks again at each step while it
    waits. Owned by one thread."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def is_first(self, request_id: str) -> bool:
        """Return whether this was not asked before, among the last few thousand requests."""
        if request_id in self._seen:
            return False
        if len(self._seen) >= NUM_REMEMBERED_REQUESTS:
            del self._seen[next(iter(self._seen))]
        self._seen[request_id] = None
        return True


class HitQueue:
    """Paths that requests used, until somebody who has the time enters them. Thread-safe.

    Bounded; recency only matters when pages are written, so a writer enters them first.
    """

    def __init__(self, touch: Callable[[PagePath], None]) -> None:
        """Paths go to `touch`, see `Store.touch`."""
        self._touch = touch
        self._waiting: deque[tuple[NamespaceId, PathOfHit]] = deque(maxlen=MAX_WAITING)
        self._entering = threading.Lock()
        self.num_dropped = 0
        """Hits that were forgotten because nobody entered them in time."""

    def add(self, namespace: NamespaceId, hashes: PathOfHit) -> None:
        """Queue a path. Cheap: nothing is looked at here."""
        self.num_dropped += len(self._waiting) == MAX_WAITING
        self._waiting.append((namespace, hashes))

    def enter(self) -> None:
        """Enter what waits, unless another thread is doing so. Cost: about 1 us a page.

        Raises:
            StoreError: as `touch`; the path is lost.
        """
        if not self._entering.acquire(blocking=False):
            return
        try:
            for _ in range(len(self._waiting)):
                namespace, hashes = self._waiting.popleft()
                self._touch(PagePath(namespace, hashes()))
        finally:
            self._entering.release()
