"""An index that is opened anew after a failed write.

RocksDB answers a failed write (a full disk, say) by refusing every later one until it is opened
again; without this, a disk that was full for a moment would be read-only until the next restart.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from sglang_lsm.config import IndexConfig
from sglang_lsm.errors import CorruptionError, StoreError, UnavailableError
from sglang_lsm.index.page_index import PageIndex, Scan
from sglang_lsm.pages import PagePath

RETRY_INTERVAL_S = 5.0
MAX_WAIT_S = 1.0
"""For calls under way to end before the index is replaced; no other can begin meanwhile."""


class HealingIndex:
    """A `PageIndex` over one that can be replaced. Thread-safe; `close` must come last.

    Reads go on while the index refuses writes. A write that comes at least `RETRY_INTERVAL_S` after
    the first failed one, or after the last attempt, first closes and opens the index, waiting for
    calls under way; calls that come in between raise UnavailableError. So does the write itself if
    a call takes longer than `MAX_WAIT_S` to end: it may be a scan of the very caller.
    """

    def __init__(
        self,
        open_index: Callable[[], PageIndex],
        *,
        clock: Callable[[], float],
        on_damage: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the index; raises what `open_index` raises.

        Args:
            clock: monotonic, in seconds.
            on_damage: called the first time a call meets damage; opening anew does not mend that.
        """
        self._open_index, self._clock = open_index, clock
        self._on_damage = on_damage
        self._is_damaged = False
        self._condition = threading.Condition()
        self._is_replacing = False
        self._failed_at_s: float | None = None
        self._tuned: IndexConfig | None = None
        self._index: PageIndex | None = open_index()
        self._users = _Users(self)

    def walk(self, keys: Iterable[bytes]) -> list[bytes]:
        """See PageIndex."""
        with self._users as index:
            return index.walk(keys)

    def walk_path(self, path: PagePath) -> list[bytes]:
        """See PageIndex."""
        with self._users as index:
            return index.walk_path(path)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See PageIndex."""
        with self._users as index:
            return index.get(keys)

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """See PageIndex."""
        with self._writing() as index:
            index.put(entries)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See PageIndex."""
        with self._writing() as index:
            index.delete(keys)

    def scan(self, start: bytes, end: bytes | None) -> Scan:
        """See PageIndex. The index is not replaced before it is exhausted, closed or dropped."""
        with self._users as index:
            yield from index.scan(start, end)

    def approximate_len(self) -> int:
        """See PageIndex."""
        with self._users as index:
            return index.approximate_len()

    def get_meta(self, key: bytes) -> bytes | None:
        """See PageIndex."""
        with self._users as index:
            return index.get_meta(key)

    def put_meta(self, key: bytes, value: bytes) -> None:
        """See PageIndex."""
        with self._writing() as index:
            index.put_meta(key, value)

    def scan_meta(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See PageIndex."""
        with self._users as index:
            yield from index.scan_meta(prefix)

    def tune(self, config: IndexConfig) -> None:
        """See PageIndex. The settings outlive a replacement of the index."""
        with self._users as index:
            index.tune(config)
        self._tuned = config

    def sync(self) -> None:
        """See PageIndex."""
        with self._writing() as index:
            index.sync()

    def close(self) -> None:
        """See PageIndex."""
        if self._index is not None:
            self._index.close()

    @contextmanager
    def _writing(self) -> Iterator[PageIndex]:
        self._heal()
        with self._users as index:
            try:
                yield index
            except StoreError:
                with self._condition:
                    # Of writes that are refused one after the other, the first one counts.
                    if self._failed_at_s is None:
                        self._failed_at_s = self._clock()
                raise

    def _heal(self) -> None:
        with self._condition:
            failed_at_s = self._failed_at_s
            if failed_at_s is None or self._clock() - failed_at_s < RETRY_INTERVAL_S:
                return
            if self._is_replacing:
                return
            self._is_replacing = True
            try:
                if not self._condition.wait_for(lambda: self._users.num == 0, MAX_WAIT_S):
                    # The next attempt comes an interval later: this one kept everybody waiting.
                    self._failed_at_s = self._clock()
                    raise UnavailableError("the index is in use, and is not opened anew yet")
                self._replace()
            finally:
                self._is_replacing = False

    def _replace(self) -> None:
        self._failed_at_s = self._clock()
        old, self._index = self._index, None
        if old is not None:
            _close_quietly(old)
        self._index = self._open_index()
        if self._tuned is not None:
            self._index.tune(self._tuned)
        self._failed_at_s = None


class _Users:
    """Counts the calls inside the index, so that it is not replaced under them.

    A class, because a generator takes longer than a look-up that finds nothing.
    """

    def __init__(self, owner: HealingIndex) -> None:
        self._owner = owner
        self.num = 0

    def __enter__(self) -> PageIndex:
        owner = self._owner
        with owner._condition:
            index = owner._index
            # Not waited for: a caller that already is in a scan would wait for itself.
            if index is None or owner._is_replacing:
                raise UnavailableError("the index is being opened anew")
            self.num += 1
        return index

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        owner = self._owner
        if isinstance(error, CorruptionError) and not owner._is_damaged:
            owner._is_damaged = True
            owner._on_damage()
        with owner._condition:
            self.num -= 1
            if owner._is_replacing:
                owner._condition.notify_all()


def _close_quietly(index: PageIndex) -> None:
    """Close an index whose last write failed: that closing fails too is expected."""
    try:
        index.close()
    except StoreError:
        return
