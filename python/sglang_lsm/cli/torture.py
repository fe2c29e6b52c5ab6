"""Torture of a store: readers, writers and all that moves pages at once, every page checked.

What a page holds follows from its name alone, so a reader needs no memory of what was written. The
quota is far smaller than what is written: segments are reclaimed under the readers all the time.
"""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sglang_lsm.config import KIB, MIB, LogConfig, StoreConfig
from sglang_lsm.directory import FACTS_NAME
from sglang_lsm.errors import ConfigError, StoreError
from sglang_lsm.fs import resident_bytes
from sglang_lsm.pages import Fingerprint, NamespaceId, PageBuffer, PageHash, PagePath
from sglang_lsm.store import Store

PAGE_BYTES = 16 * KIB
NUM_READERS, NUM_WRITERS = 4, 2
STALL_S = 60.0
"""A thread that has not finished a step for so long is taken to be stuck."""
_NUM_PATHS, _MAX_PAGES = 300, 80
_GROWTH, _GROWTH_BYTES = 1.1, 32 * MIB
_MAX_PROBLEMS = 10
_POLL_S = 0.2


@dataclass(slots=True)
class TortureReport:
    """What came out."""

    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    """Pages checked, wrong pages, and steps by role."""
    problems: list[str] = field(default_factory=list)
    """The first of what should not have happened."""
    stuck: list[str] = field(default_factory=list)
    """Threads that made no progress: the store was not closed, and holds its memory."""
    early_bytes: int = 0
    """Resident memory after a quarter of the time."""
    final_bytes: int = 0
    num_threads: int = 0
    store: dict[str, float] = field(default_factory=dict)
    """The store's own counters."""

    @property
    def is_growing(self) -> bool:
        """Whether memory grew after the first quarter by more than chance explains."""
        return self.final_bytes > _GROWTH * self.early_bytes + _GROWTH_BYTES

    @property
    def is_sound(self) -> bool:
        """Whether the store did what it owes."""
        return not (self.counts["wrong"] or self.problems or self.stuck or self.is_growing)


def fingerprint() -> Fingerprint:
    """Return the fingerprint of the pages that torture writes."""
    return Fingerprint(
        model="torture", kv_dtype="uint8", layout="page_first", page_size=1, num_layers=1,
        num_kv_heads=1, head_dim=PAGE_BYTES, v_head_dim=0,
    )  # fmt: skip


def chain(names: Sequence[object]) -> list[PageHash]:
    """Return the chained hashes of a path that has one page for each name."""
    hashes, last = [], bytes(32)
    for name in names:
        last = hashlib.sha256(last + repr(name).encode()).digest()
        hashes.append(last)
    return hashes


def content_of(page_hash: PageHash) -> bytes:
    """Return what the page of that name holds."""
    return hashlib.shake_128(page_hash).digest(PAGE_BYTES)


def pages_of(path: PagePath) -> list[PageBuffer]:
    """Return the pages of a call."""
    return [[memoryview(content_of(page_hash))] for page_hash in path.hashes[path.start :]]


def num_wrong(store: Store, path: PagePath) -> tuple[int, int]:
    """Read the pages of a call; return how many were found, and how many of them are wrong."""
    out: list[PageBuffer] = [[memoryview(bytearray(PAGE_BYTES))] for _ in range(path.num_pages)]
    num_found = store.get_batch(path, out)
    found = zip(out[:num_found], path.hashes[path.start :], strict=False)
    return num_found, sum(bytes(page[0]) != content_of(h) for page, h in found)


def require_no_store(directory: Path) -> None:
    """Raise ConfigError if there is a store already: torture would evict and delete its pages."""
    if (directory / FACTS_NAME).exists():
        raise ConfigError(f"torture needs a directory without a store. path={directory}")


class Torture:
    """The threads that use one store, until told to stop."""

    def __init__(self, store: Store, seed: int) -> None:
        """Prepare; `run` starts the threads."""
        self._store = store
        self._namespace: NamespaceId = store.register(fingerprint())
        self._report = TortureReport(seed)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._steps: dict[str, float] = {}

    def run(self, seconds: float) -> TortureReport:
        """Torture the store for `seconds`, or until a thread is stuck; return what came out."""
        roles = [("read", self._read)] * NUM_READERS + [("write", self._write)] * NUM_WRITERS
        roles += [("delete", self._delete), ("tend", self._tend)]
        threads = [
            threading.Thread(
                target=self._repeat, args=[f"{name}-{i}", step], name=f"{name}-{i}", daemon=True
            )
            for i, (name, step) in enumerate(roles)
        ]
        started_s = time.monotonic()
        self._steps = {thread.name: started_s for thread in threads}
        for thread in threads:
            thread.start()
        report = self._report
        while not report.stuck and (passed_s := time.monotonic() - started_s) < seconds:
            self._stop.wait(min(_POLL_S, seconds / 16))
            report.num_threads = max(report.num_threads, threading.active_count())
            report.stuck = self._stalled()
            if not report.early_bytes and passed_s >= seconds / 4:
                report.early_bytes = resident_bytes()
        report.final_bytes = resident_bytes()
        self._stop.set()
        for thread in threads:
            thread.join(STALL_S)
        report.stuck = report.stuck or [thread.name for thread in threads if thread.is_alive()]
        return report

    def _stalled(self) -> list[str]:
        now_s = time.monotonic()
        return [name for name, last_s in list(self._steps.items()) if now_s - last_s > STALL_S]

    def _repeat(self, name: str, step: Callable[[random.Random], None]) -> None:
        rng = random.Random(f"{self._report.seed} {name}")
        while not self._stop.is_set():
            try:
                step(rng)
            except (StoreError, AssertionError) as error:
                self._note(f"{name}: {error!r}")
            self._count(name.partition("-")[0])
            self._steps[name] = time.monotonic()

    def _path(self, rng: random.Random) -> PagePath:
        number, length = rng.randrange(_NUM_PATHS), rng.randint(1, _MAX_PAGES)
        # Three families share their first pages; what follows is each path's own.
        names = ["root", number % 3, *(f"{number} {i}" for i in range(length))]
        start = rng.randrange(len(names)) if rng.random() < 0.2 else 0
        return PagePath(self._namespace, chain(names), start)

    def _read(self, rng: random.Random) -> None:
        path = self._path(rng)
        num_hits = self._store.probe(path)
        if not 0 <= num_hits <= path.num_pages:
            self._note(f"a probe found {num_hits} of {path.num_pages} pages")
        num_found, wrong = num_wrong(self._store, path)
        self._count("checked", num_found)
        self._count("wrong", wrong)

    def _write(self, rng: random.Random) -> None:
        path = self._path(rng)
        # Page by page, in turns with the other writer, a path lies scattered: work for merging.
        size = 1 if rng.random() < 0.3 else path.num_pages
        for start in range(path.start, len(path.hashes), size):
            part = PagePath(path.namespace, path.hashes[: start + size], start)
            self._store.put_batch(part, pages_of(part))
            # Eighty puts of a page on a slow disk are slow, not stuck.
            self._steps[threading.current_thread().name] = time.monotonic()

    def _delete(self, rng: random.Random) -> None:
        path = self._path(rng)
        self._store.touch(path)
        self._store.delete_subtree(path)
        self._store.list_subtree(path, max_pages=100)
        self._stop.wait(0.01)

    def _tend(self, rng: random.Random) -> None:
        """Sync, hold prefixes and let them expire, change live settings, look at the quota."""
        config = self._store.config
        log = replace(
            config.log,
            merge_policy=rng.choice(["leveled", "tiered", "off"]),
            io_mode=rng.choice(["auto", "buffered"]),
            reader_threads=rng.randint(1, 4),
        )
        self._store.tune(replace(config, log=log))
        path = self._path(rng)
        priority, ttl_s = rng.choice([(0, None), (3, None), (0, 0.1)])
        self._store.hold(path, priority=priority, ttl_s=ttl_s)
        self._store.sync()
        stats = self._store.stats()
        if stats.allocated_bytes > stats.quota_bytes:
            self._note(f"over the quota. {stats.allocated_bytes=} {stats.quota_bytes=}")
        self._stop.wait(0.05)

    def _count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._report.counts[name] += amount

    def _note(self, problem: str) -> None:
        with self._lock:
            if len(self._report.problems) < _MAX_PROBLEMS:
                self._report.problems.append(problem)


def torture(directory: Path, *, seconds: float, seed: int) -> TortureReport:
    """Make a store in `directory`, torture it, and close it unless a thread is stuck.

    Raises:
        ConfigError: there is a store already, or the directory holds something else.
        StoreError: the store cannot be opened or closed.
    """
    require_no_store(directory)
    log = LogConfig(segment_bytes=MIB, io_bytes=256 * KIB)
    store = Store.open(directory, StoreConfig(quota_bytes=8 * MIB, log=log))
    report = Torture(store, seed).run(seconds)
    if not report.stuck:
        stats = store.stats()
        report.store = {name: getattr(stats, name) for name in stats.__dataclass_fields__}
        if stats.pages_damaged:
            report.problems.append(f"pages did not match their checksum: {stats.pages_damaged}")
        store.close()
    return report
