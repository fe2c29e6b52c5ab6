"""Readers, writers, a deleter and an encoder at once: no wrong byte, no deadlock.

For a fixed number of calls. The store is small, so that segments are evicted under the readers all
the time. On the fake disk a call through a closed descriptor fails the test; on the real one that
would hit another file.
"""

import random
import sys
import threading

import pytest
from sglang_lsm.errors import UnavailableError
from sglang_lsm.store import Store
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import (
    content_of,
    empty_pages,
    fingerprint,
    joined,
    pages_of,
    path_of,
    small_config,
)

PIECES, NUM_PATHS = (20_000, 20_000), 40
JOIN_S = 120


def open_store(kind, directory):
    config = small_config(4, io_bytes=65536)
    if kind == "real":
        return Store.open(directory, config)
    disk = FakeDisk()
    disk.make_dir(directory)
    return Store(directory, config, fs=disk, open_index=FakeIndexDisk().open)


class Crowd:
    """Threads that use one store; keeps what they found wrong."""

    def __init__(self, store, seed):
        self.store, self.seed = store, seed
        self.namespace = store.register(fingerprint())
        self.failures, self.num_read = [], 0
        self._writing = threading.Event()
        self._writing.set()

    def run(self, num_readers, num_writers, num_deleters, num_puts):
        roles = [self.write] * num_writers
        others = [self.read] * num_readers + [self.delete] * num_deleters
        others += [self.sync, self.encode]
        writers, rest = (
            [threading.Thread(target=self._guarded, args=[role, i + base, num_puts], daemon=True)
             for i, role in enumerate(group)]
            for group, base in ((roles, 0), (others, 100))
        )  # fmt: skip
        for thread in writers + rest:
            thread.start()
        for thread in writers:
            thread.join(JOIN_S)
        self._writing.clear()
        for thread in rest:
            thread.join(JOIN_S)
        assert not any(thread.is_alive() for thread in writers + rest), f"deadlock. {self.seed=}"

    def path(self, rng):
        number, length = rng.randrange(NUM_PATHS), rng.randint(1, 8)
        return path_of(self.namespace, [0, number % 3, *[number] * length])

    def write(self, rng, num_puts):
        for _ in range(num_puts):
            path = self.path(rng)
            self.store.put_batch(path, pages_of(path, PIECES))

    def read(self, rng, num_puts):
        while self._writing.is_set():
            path = self.path(rng)
            out = empty_pages(path.num_pages, PIECES)
            num_pages = self.store.get_batch(path, out)
            self.num_read += num_pages
            for page, page_hash in zip(out[:num_pages], path.hashes, strict=False):
                if joined(page) != content_of(self.namespace, page_hash, sum(PIECES)):
                    self.failures.append(f"a wrong page. {page_hash=}")

    def delete(self, rng, num_puts):
        while self._writing.is_set():
            path = self.path(rng)
            self.store.delete_subtree(path)
            self.store.probe(path)

    def sync(self, rng, num_puts):
        while self._writing.is_set():
            self.store.sync()
            stats = self.store.stats()
            if stats.allocated_bytes > stats.quota_bytes:
                self.failures.append("over the quota")

    def encode(self, rng, num_puts):
        while self._writing.is_set():
            self.store._background.encoder.encode(100_000)

    def _guarded(self, role, number, num_puts):
        try:
            role(random.Random(self.seed + number), num_puts)
        except UnavailableError as error:
            self.failures.append(f"unavailable on a sound disk: {error!r}")
        except AssertionError as error:
            self.failures.append(repr(error))


@pytest.mark.parametrize(("kind", "num_puts"), [("real", 250), ("fake", 150)])
def test_many_threads_see_no_wrong_page(tmp_path, kind, num_puts):
    crowd = Crowd(open_store(kind, tmp_path / "store"), random.SystemRandom().randrange(1 << 32))
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        crowd.run(num_readers=4, num_writers=2, num_deleters=1, num_puts=num_puts)
    finally:
        sys.setswitchinterval(interval_s)
    stats = crowd.store.stats()
    crowd.store.close()
    assert crowd.failures == [], f"seed={crowd.seed}"
    assert stats.pages_evicted > 0
    assert stats.pages_encoded > 0 and stats.pages_decoded > 0
    assert stats.pages_damaged == 0
    assert crowd.num_read > 0
    assert stats.puts_failed == 0
