"""A `PageIndex` in memory, with the failures of one on disk.

Like RocksDB with its write-ahead log: what was written survives the death of the process; a power
loss leaves a prefix, in order, of the writes since the last sync; a damaged index says so when it
is opened.
"""

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from sglang_lsm.config import IndexConfig
from sglang_lsm.errors import CorruptionError, UnavailableError
from sglang_lsm.index.page_index import Scan
from sglang_lsm.keycodec import encode, hash_tail, range_end
from sglang_lsm.pages import PagePath

Table = dict[bytes, bytes]


@dataclass
class Tables:
    """The two families of an index."""

    pages: Table = field(default_factory=dict)
    meta: Table = field(default_factory=dict)

    def copy(self) -> "Tables":
        return Tables(dict(self.pages), dict(self.meta))


class FakeIndexDisk:
    """Where fake indexes live. `failing` makes every call of an open index raise.

    `before_write` is called with a name before each write: the place to end the process.
    """

    def __init__(self, before_write: Callable[[str], None] = lambda name: None) -> None:
        self.before_write = before_write
        self.failing = False
        self.damaged = False
        self.tuned: IndexConfig | None = None
        self.num_deleted = 0
        """Keys deleted so far, in all writes."""
        self.current, self.synced = Tables(), Tables()
        self.journal: list[tuple[str, Table, list[bytes]]] = []
        """Writes since the last sync: family, entries put, keys deleted."""
        self.mutex = threading.RLock()

    def open(self, path: Path) -> "FakeIndex":
        """Open the index. A damaged one raises once; its owner is taken to delete it then."""
        if self.failing:
            raise UnavailableError(f"the index failed. path={path}")
        if self.damaged:
            self.wipe()
            raise CorruptionError(f"the index is damaged. path={path}")
        return FakeIndex(self)

    def wipe(self) -> None:
        """Lose the whole index."""
        self.damaged = False
        self.current, self.synced, self.journal = Tables(), Tables(), []

    def lose_power(self, seed: int) -> None:
        """Keep what was synced and some leading writes after it."""
        self.failing = False
        num_kept = random.Random(seed).randint(0, len(self.journal))
        for family, entries, keys in self.journal[:num_kept]:
            _apply(getattr(self.synced, family), entries, keys)
        self.current, self.journal = self.synced.copy(), []

    def sync(self) -> None:
        self.synced, self.journal = self.current.copy(), []


class FakeIndex:
    """An open index of a `FakeIndexDisk`. Thread-safe."""

    def __init__(self, disk: FakeIndexDisk) -> None:
        self._disk, self._is_open = disk, True

    def walk(self, keys: Iterable[bytes]) -> list[bytes]:
        values = []
        with self._disk.mutex:
            for key in keys:
                value = self._tables().pages.get(key)
                if value is None:
                    break
                values.append(value)
        return values

    def walk_path(self, path: PagePath) -> list[bytes]:
        values = self.walk(encode(path))
        hashes = path.hashes[path.start :]
        return [
            value
            for value, _ in takewhile(
                lambda pair: pair[0][-8:] == hash_tail(pair[1]), zip(values, hashes, strict=False)
            )
        ]

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._disk.mutex:
            return [self._tables().pages.get(key) for key in keys]

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        self._write("pages", dict(entries), [])

    def delete(self, keys: Sequence[bytes]) -> None:
        self._write("pages", {}, list(keys))

    def scan(self, start: bytes, end: bytes | None) -> Scan:
        with self._disk.mutex:
            found = _between(self._tables().pages, start, end)
        yield from found

    def approximate_len(self) -> int:
        with self._disk.mutex:
            return len(self._tables().pages) // 2

    def get_meta(self, key: bytes) -> bytes | None:
        with self._disk.mutex:
            return self._tables().meta.get(key)

    def put_meta(self, key: bytes, value: bytes) -> None:
        self._write("meta", {key: value}, [])

    def scan_meta(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._disk.mutex:
            found = _between(self._tables().meta, prefix, range_end(prefix))
        yield from found

    def tune(self, config: IndexConfig) -> None:
        with self._disk.mutex:
            self._tables()
            self._disk.tuned = config

    def sync(self) -> None:
        with self._disk.mutex:
            self._tables()
            self._disk.sync()

    def close(self) -> None:
        assert self._is_open, "closed twice"
        self._is_open = False

    def _tables(self) -> Tables:
        assert self._is_open, "a call on a closed index"
        if self._disk.failing:
            raise UnavailableError("the index failed")
        return self._disk.current

    def _write(self, family: str, entries: Table, deleted: list[bytes]) -> None:
        self._disk.before_write(f"index {family}")
        with self._disk.mutex:
            _apply(getattr(self._tables(), family), entries, deleted)
            self._disk.num_deleted += len(deleted)
            self._disk.journal.append((family, entries, deleted))


def _apply(table: Table, entries: Table, deleted: Iterable[bytes]) -> None:
    table.update(entries)
    for key in deleted:
        table.pop(key, None)


def _between(table: Table, start: bytes, end: bytes | None) -> list[tuple[bytes, bytes]]:
    return sorted((k, v) for k, v in table.items() if k >= start and (end is None or k < end))
