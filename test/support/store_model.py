"""What a store owes its caller, kept in plain sets, on a disk that fails on demand.

The rules that drive it are in `test_store_model` and in `test_every_crash_point`. Two laws:

* No wrong byte: a page that is read holds what was put under exactly that name.
* Nothing is lost without a cause: a page that was put is found, unless it was deleted, damaged,
  replaced by a page with the same digest, lost with power before a sync, or counted as evicted.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sglang_lsm import format
from sglang_lsm.clock import Clock
from sglang_lsm.errors import StoreError
from sglang_lsm.keycodec import DIGEST_BYTES, encode
from sglang_lsm.pages import NamespaceId, PageHash, PagePath
from sglang_lsm.store import Store

from support.fake_fs import Crash, FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import (
    chain,
    empty_pages,
    fingerprint,
    joined,
    pages_of,
    small_config,
)

SEGMENTS = "/store/log/*.seg"

TWIN, COLLIDING = 2, 3
"""Siblings named by these tokens have hashes that differ only behind their first 8 bytes."""

Tokens = tuple[int, ...]
Page = tuple[NamespaceId, Tokens]
"""The namespace of a page, and the tokens from the root to its end."""

SMALL_PAGES, LARGE_PAGES = fingerprint("small").namespace, fingerprint("large").namespace
PIECES = {SMALL_PAGES: (3000, 3000), LARGE_PAGES: (65536,)}
"""What a page of each namespace consists of: two pieces and padding, or whole blocks."""


def hashes_of(tokens: Tokens) -> list[PageHash]:
    """Return the chained hashes of a path, with the collisions that its tokens ask for."""
    hashes: list[PageHash] = []
    for token in tokens:
        parent = hashes[-1] if hashes else bytes(32)
        (page_hash,) = chain([token], parent)
        if token == COLLIDING:
            page_hash = chain([TWIN], parent)[0][:DIGEST_BYTES] + page_hash[DIGEST_BYTES:]
        hashes.append(page_hash)
    return hashes


def twin_of(page: Page) -> Page | None:
    """Return the page that has the same key, if its last token says that there is one."""
    namespace, tokens = page
    other = {TWIN: COLLIDING, COLLIDING: TWIN}.get(tokens[-1])
    return None if other is None else (namespace, (*tokens[:-1], other))


class StoreModel:
    """A store, its disk, and the pages that it must still have."""

    directory = Path("/store")

    def __init__(
        self, *, num_segments: int = 4, can_punch: bool = True, opened: bool = True
    ) -> None:
        self.disk = FakeDisk(can_punch=can_punch)
        self.index_disk = FakeIndexDisk(self.disk.count_change)
        self.config = small_config(num_segments, codec="idle")
        self.present: set[Page] = set()
        """Pages that must be found."""
        self.durable: set[Page] = set()
        """Those of them that must be found after a power loss too."""
        self.attempted: set[Page] = set()
        """Pages that were ever put, with or without success."""
        self.damaged: set[Page] = set()
        """Pages that were damaged on the disk: a copy of them may lie in the log for ever."""
        self.doubtful: set[Page] = set()
        """Pages that may pass for stored until they are read, because their bytes were lost."""
        self.num_evicted = 0
        self.num_on_purpose = 0
        """Keys that went from the index because the caller said so."""
        self.now_s = 0.0
        self.clock = Clock(lambda: self.now_s, lambda: int(1000 * self.now_s))
        self.holds: dict[bytes, tuple[bool, float | None]] = {}
        """Whether each held prefix is pinned, and when it expires; by the digests of its path."""
        self.num_pinned_evicted = 0
        self.is_pin_sure = True
        """Whether all pinned pages are within their share of the quota."""
        if opened:
            self.open()

    def open(self) -> None:
        """Open the store, as a process does that was just started."""
        self.disk.make_dir(self.directory)
        self.store = Store(
            self.directory, self.config, fs=self.disk, open_index=self.index_disk.open,
            clock=self.clock, loads_behind=False,
        )  # fmt: skip
        for model in ("small", "large"):
            self.store.register(fingerprint(model))
        self.num_evicted = self.num_pinned_evicted = 0

    def put(
        self, namespace: NamespaceId, tokens: Tokens, start: int, *, faulty: bool = False
    ) -> None:
        """Put a path; where that fails, some of its pages may be there and others not."""
        path = PagePath(namespace, hashes_of(tokens), start)
        pages = [(namespace, tokens[: i + 1]) for i in range(start, len(tokens))]
        self._forget(twin for page in pages if page not in self.present and (twin := twin_of(page)))
        if not faulty:
            # Reading settles a doubt: what is damaged is a miss from then on, and put anew.
            for page in self.doubtful.intersection(pages):
                self.get(*page, len(page[1]) - 1, faulty=False)
            self.doubtful.difference_update(pages)
        self.attempted.update(pages)
        self.store.put_batch(path, pages_of(path, PIECES[namespace]))
        self.present.update(page for page in pages if page not in self.doubtful)

    def get(self, namespace: NamespaceId, tokens: Tokens, start: int, *, faulty: bool) -> None:
        """Read a path and compare; on a faulty disk it may be shorter, never wrong."""
        path = PagePath(namespace, hashes_of(tokens), start)
        out = empty_pages(path.num_pages, PIECES[namespace])
        num_pages = self.store.get_batch(path, out)
        expected = pages_of(path, PIECES[namespace])
        for i in range(num_pages):
            assert joined(out[i]) == joined(expected[i]), f"a wrong page. tokens={tokens} i={i}"
        if not faulty:
            assert num_pages >= self._num_present(namespace, tokens, start)

    def probe(self, namespace: NamespaceId, tokens: Tokens, start: int) -> None:
        """Ask how much of a path is stored: never less than what must be there."""
        num_hits = self.store.probe(PagePath(namespace, hashes_of(tokens), start))
        assert self._num_present(namespace, tokens, start) <= num_hits <= len(tokens) - start

    def merge(self, namespace: NamespaceId, tokens: Tokens, start: int) -> None:
        """Copy a path together: nothing of it is lost, and no byte changed."""
        self.store.merge(PagePath(namespace, hashes_of(tokens), start))

    def encode(self, num_bytes: int) -> None:
        """Make pages smaller: nothing is lost, and no byte changed."""
        self.store._background.encoder.encode(num_bytes)

    def delete_subtree(self, namespace: NamespaceId, tokens: Tokens) -> None:
        """Delete a page and all below; none of them is found afterwards."""
        below = {p for p in self.present if p[0] == namespace and p[1][: len(tokens)] == tokens}
        self._forget(below)
        twin = twin_of((namespace, tokens))
        if twin is not None:
            # One key stands for both, and so does one subtree.
            self._forget(p for p in set(self.present)
                         if p[0] == namespace and p[1][: len(tokens)] == twin[1])  # fmt: skip
        path = PagePath(namespace, hashes_of(tokens))
        listed = self.store.list_subtree(path, max_pages=1 << 20)
        assert {_key(page) for page in below} <= {page.key for page in listed}
        with self._on_purpose():
            num_deleted = self.store.delete_subtree(path)
        assert num_deleted == len(listed)
        assert not any(self._is_found(page) for page in below)

    def hold(
        self, namespace: NamespaceId, tokens: Tokens, *, pinned: bool, priority: int,
        ttl_s: float | None,
    ) -> None:  # fmt: skip
        """Ask for something of a prefix, or release it."""
        path = PagePath(namespace, hashes_of(tokens))
        self.store.hold(path, pinned=pinned, priority=priority, ttl_s=ttl_s)
        self.holds[_digests((namespace, tokens))] = (
            pinned, None if ttl_s is None else self.now_s + ttl_s
        )  # fmt: skip
        self.is_pin_sure = self._pins_fit()

    def advance(self, num_seconds: float) -> None:
        """Let time go by; what expires is not found any more."""
        self.now_s += num_seconds
        for prefix, (_, expires_s) in list(self.holds.items()):
            if expires_s is not None and expires_s <= self.now_s:
                del self.holds[prefix]
                gone = {page for page in self.present if _digests(page).startswith(prefix)}
                self._forget(gone)
                assert not any(self._is_found(page) for page in gone)

    def clear(self, namespace: NamespaceId) -> None:
        """Forget a namespace; nothing of it is found afterwards."""
        gone = {page for page in self.present if page[0] == namespace}
        self._forget(gone)
        with self._on_purpose():
            self.store.clear(namespace)
        assert not any(self._is_found(page) for page in gone)

    def sync(self) -> None:
        """Make what is there durable."""
        self.store.sync()
        self.durable = set(self.present)

    def until_crash(self, num_changes: int, action: Callable[[], None]) -> int:
        """Run `action` in a process that dies at a change of the disk; return the pages evicted."""
        num_evicted = self._num_unasked()
        self.disk.crash_after = num_changes
        with contextlib.suppress(Crash):
            action()
        return self._num_unasked() - num_evicted

    def kill(self) -> None:
        """End the process and start another."""
        self.disk.kill()
        self.open()

    def lose_power(self, seed: int) -> None:
        """Lose power and start again."""
        self.disk.lose_power(seed)
        self.index_disk.lose_power(seed)
        self.present &= self.durable
        self.doubtful |= self.attempted - self.durable
        self.open()

    def lose_index(self, *, damaged: bool) -> None:
        """Start anew without the index: the log alone must bring everything back."""
        self.store.close()
        if damaged:
            self.index_disk.damaged = True
        else:
            self.index_disk.wipe()
        self._forget(self.damaged)
        self.doubtful |= self.damaged
        self.open()

    def damage(self, page: Page) -> None:
        """Flip a bit in every copy of a page that lies in the log."""
        key = _key(page)
        for path, inode in self.disk.files(SEGMENTS).items():
            for image in (inode.current, inode.synced):
                for offset in _offsets_of(key, bytes(image.data), int(path.stem, 16)):
                    image.data[offset + 100] ^= 0x10
        twin = twin_of(page)
        hit = {page} if twin is None else {page, twin}
        self._forget(hit)
        self.damaged |= hit
        self.doubtful |= hit

    def check(self, *, num_uncounted: int = 0) -> None:
        """Hold the store to its second law and to its quota.

        Args:
            num_uncounted: evictions that a process could not count any more because it ended.
        """
        lost = {page for page in self.present if not self._is_found(page)}
        stats = self.store.stats()
        num_evicted = stats.pages_evicted - self.num_evicted + num_uncounted
        assert len(lost) <= num_evicted, f"lost without a cause: {lost}"
        self.is_pin_sure &= self._pins_fit()
        num_pinned = stats.pinned_evicted - self.num_pinned_evicted + num_uncounted
        if self.is_pin_sure:
            pinned = {page for page in lost if self._is_pinned(page)}
            assert len(pinned) <= num_pinned, f"pinned and evicted: {pinned}"
        self.num_evicted, self.num_pinned_evicted = stats.pages_evicted, stats.pinned_evicted
        self._forget(lost)
        self.check_quota()

    def check_quota(self) -> None:
        """Hold the store to its quota, by its own count and by the disk's."""
        quota_bytes = self.config.quota_bytes
        assert self.store.stats().allocated_bytes <= quota_bytes
        assert self.disk.used_bytes(SEGMENTS) <= quota_bytes

    def read_all(self) -> None:
        """Read every page that must be there."""
        for namespace, tokens in sorted(self.present):
            self.get(namespace, tokens, len(tokens) - 1, faulty=False)

    def refused(self, call: Callable[[], None]) -> bool:
        """Return whether a call fails in a way that a caller expects of a bad disk."""
        try:
            call()
        except StoreError:
            return True
        return False

    def wait(self) -> None:
        """Let enough time go by for whatever is retried from time to time."""
        self.advance(3600)

    def _is_pinned(self, page: Page) -> bool:
        digests = _digests(page)
        return any(
            pinned and prefix.startswith(digests) for prefix, (pinned, _) in self.holds.items()
        )

    def _pins_fit(self) -> bool:
        """Return whether pages that were ever put and are pinned would fit their share."""
        num_bytes = sum(
            format.padded(sum(PIECES[page[0]])) for page in self.attempted if self._is_pinned(page)
        )
        return num_bytes <= self.config.pinned_share * self.config.quota_bytes

    def _num_unasked(self) -> int:
        """Return how many keys the store has deleted from the index by itself: evictions."""
        return self.index_disk.num_deleted - self.num_on_purpose

    @contextlib.contextmanager
    def _on_purpose(self) -> Iterator[None]:
        num_deleted = self.index_disk.num_deleted
        try:
            yield
        finally:
            self.num_on_purpose += self.index_disk.num_deleted - num_deleted

    def _is_found(self, page: Page) -> bool:
        namespace, tokens = page
        return self.store.probe(PagePath(namespace, hashes_of(tokens), len(tokens) - 1)) == 1

    def _num_present(self, namespace: NamespaceId, tokens: Tokens, start: int) -> int:
        num_pages = 0
        while start + num_pages < len(tokens):
            if (namespace, tokens[: start + num_pages + 1]) not in self.present:
                break
            num_pages += 1
        return num_pages

    def _forget(self, pages: Iterable[Page]) -> None:
        gone = set(pages)
        self.present -= gone
        self.durable -= gone


def _digests(page: Page) -> bytes:
    namespace, tokens = page
    return namespace + b"".join(h[:DIGEST_BYTES] for h in hashes_of(tokens))


def _key(page: Page) -> bytes:
    namespace, tokens = page
    return next(encode(PagePath(namespace, hashes_of(tokens), len(tokens) - 1)))


def _offsets_of(key: bytes, content: bytes, segment_id: int) -> Iterable[int]:
    """Return where the copies of a page lie in a segment."""
    for at in range(format.BLOCK_BYTES, len(content), format.BLOCK_BYTES):
        block = content[at : at + format.BLOCK_BYTES]
        size = format.peek_batch_header_bytes(block, segment_id=segment_id, offset=at)
        if size is None:
            continue
        batch = format.decode_batch_header(content[at : at + size])
        for entry, location in zip(batch.entries, batch.locations(), strict=True):
            if entry.key == key:
                yield location.offset
