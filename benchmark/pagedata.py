"""The bytes and the names of benchmark pages: made on the fly, all different, checkable."""

import hashlib
import mmap
from collections.abc import Iterator

import numpy as np
from sglang_lsm.pages import Fingerprint, NamespaceId, PageBuffer, PagePath

PREFIX_PAGES = 128
_NOISE_BYTES = 16 << 20
_STEP_BYTES = 4096 + 64  # odd multiple of a cache line: neighbours never hold equal blocks


def aligned_memory(num_bytes: int) -> memoryview:
    """Return writable memory aligned to 4096 bytes, every page of it touched."""
    view = memoryview(mmap.mmap(-1, num_bytes))
    np.frombuffer(view, dtype=np.uint8)[::4096] = 0
    return view


def back_memory(num_bytes: int) -> None:
    """Make the next `num_bytes` that the kernel hands out cheap to touch.

    A guest whose host takes free memory back pays for the first touch of each page, ten times a
    copy's cost, and at random. Touching memory and freeing it leaves backed pages on the kernel's
    free list for some two seconds.
    """
    if num_bytes:
        aligned_memory(num_bytes).release()


def split_pages(memory: memoryview, page_bytes: int) -> list[PageBuffer]:
    """Cut `memory` into pages of one piece each."""
    return [(memory[at : at + page_bytes],) for at in range(0, len(memory), page_bytes)]


class PageSource:
    """Pages of bf16 N(0, 1), as KV looks to a codec; page n is the same bytes in every run.

    A page is a window into shared noise with its number stamped in, so a page, or a block of a
    page, that comes back in another's place is noticed.
    """

    def __init__(self, page_bytes: int, *, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        noise = np.empty(_NOISE_BYTES // 2, dtype=np.uint16)
        # In parts, so that what is made on the way stays small under a memory limit.
        for part in np.split(noise, _NOISE_BYTES >> 20):
            normal = generator.standard_normal(len(part), dtype=np.float32)
            part[:] = normal.view(np.uint32) >> 16
        self._noise = noise.view(np.uint8)
        self._page_bytes = page_bytes
        self._seed = seed

    def fill(self, out: PageBuffer, number: int) -> None:
        """Write page `number` into `out`."""
        page = np.frombuffer(out[0], dtype=np.uint8)
        page[:] = self._window(number)
        page[:16] = self._stamp(number)

    def matches(self, page: PageBuffer, number: int) -> bool:
        """Return whether `page` holds exactly page `number`."""
        got = np.frombuffer(page[0], dtype=np.uint8)
        return bool(
            np.array_equal(got[:16], self._stamp(number))
            and np.array_equal(got[16:], self._window(number)[16:])
        )

    def _window(self, number: int) -> np.ndarray:
        at = number * _STEP_BYTES % (_NOISE_BYTES - self._page_bytes)
        return self._noise[at : at + self._page_bytes]

    def _stamp(self, number: int) -> np.ndarray:
        return np.array([self._seed, number], dtype=np.uint64).view(np.uint8)


class Batches:
    """The radix paths of a run: prefixes of equal length, cut into batches of equal size.

    A batch extends its prefix, as a request does: `path.hashes[:path.start]` are its ancestors.
    """

    def __init__(
        self, *, num_pages: int, batch_pages: int, prefix_pages: int = PREFIX_PAGES
    ) -> None:
        self._namespace = benchmark_namespace()
        self._num_pages = num_pages
        self._batch_pages = batch_pages
        self._prefix_pages = max(prefix_pages, batch_pages)
        self._prefix: tuple[int, list[bytes]] = (-1, [])

    def __len__(self) -> int:
        return -(-self._num_pages // self._batch_pages)

    def path(self, index: int) -> tuple[PagePath, range]:
        """Return the path of batch `index` and the numbers of its pages."""
        first = index * self._batch_pages
        numbers = range(first, min(first + self._batch_pages, self._num_pages))
        prefix, start = divmod(first, self._prefix_pages)
        hashes = self._hashes(prefix)[: start + len(numbers)]
        return PagePath(self._namespace, hashes, start), numbers

    def __iter__(self) -> Iterator[tuple[PagePath, range]]:
        return (self.path(index) for index in range(len(self)))

    def _hashes(self, prefix: int) -> list[bytes]:
        if self._prefix[0] != prefix:
            self._prefix = (prefix, chained_hashes(f"prefix {prefix}", self._prefix_pages))
        return self._prefix[1]


def chained_hashes(name: str, depth: int, *, above: bytes = b"") -> list[bytes]:
    """Return the page hashes of a path of `depth` pages below `above`, each covering all before."""
    hashes, last = [], above + name.encode()
    for _ in range(depth):
        last = hashlib.sha256(last).digest()
        hashes.append(last)
    return hashes


def benchmark_fingerprint() -> Fingerprint:
    """Return the fingerprint of the benchmark's pages."""
    return Fingerprint(
        model="benchmark",
        kv_dtype="bfloat16",
        layout="page_first",
        page_size=64,
        num_layers=32,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
    )


def benchmark_namespace() -> NamespaceId:
    """Return the namespace of the benchmark's pages."""
    return benchmark_fingerprint().namespace
