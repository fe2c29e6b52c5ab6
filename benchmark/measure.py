"""One measurement of one rival: put, put+durable, hot get, cold get, and what each costs."""

import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sglang_lsm.pages import PageBuffer
from sglang_lsm.tensorlog.io_modes import READS_BEFORE_FILLING

from benchmark.harness import percentile
from benchmark.pagedata import Batches, PageSource, aligned_memory, back_memory, split_pages
from benchmark.rivals import Rival, Space, open_rival
from benchmark.rivals.disk import sync_file_system

GB = 1e9
Figures = dict[str, float]


class WrongPagesError(Exception):
    """A rival lost or changed a page; its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured: one page size, one batch size, one set of pages."""

    page_bytes: int
    batch_pages: int
    set_bytes: int
    """Payload; at least one batch is put."""
    phase_s: float
    """A phase ends after the batch that takes it beyond this many seconds inside calls."""
    memory_limit_bytes: int = 0
    """With a limit below `set_bytes` the page cache cannot hold the set: reads are neither hot nor
    dropped, they come in random order under pressure. 0 is no limit."""

    @property
    def point(self) -> tuple[int, int, int]:
        """What makes cells comparable: memory limit, page size, batch size."""
        return (self.memory_limit_bytes, self.page_bytes, self.batch_pages)

    @property
    def num_pages(self) -> int:
        """Pages of the set, whole batches."""
        num_batches = max(1, self.set_bytes // (self.page_bytes * self.batch_pages))
        return num_batches * self.batch_pages


class Phase:
    """Counts the calls of one phase: wall time inside them, and CPU time of all our threads.

    CPU counts background threads between calls too; what the harness itself spends there, making
    and checking pages on the main thread, is taken off. The kernel's own writeback is not seen.
    """

    def __init__(self) -> None:
        self.call_s: list[float] = []
        self.num_bytes = 0
        self._process_start_s = time.process_time()
        self._harness_s = 0.0
        self._outside_since_s = time.thread_time()

    @contextmanager
    def call(self, num_bytes: int) -> Iterator[None]:
        """Time one call that moves `num_bytes`."""
        self._harness_s += time.thread_time() - self._outside_since_s
        start = time.perf_counter()
        yield
        self.call_s.append(time.perf_counter() - start)
        self.num_bytes += num_bytes
        self._outside_since_s = time.thread_time()

    @property
    def seconds(self) -> float:
        """Wall time inside calls."""
        return sum(self.call_s)

    @property
    def gb_per_s(self) -> float:
        """Payload over wall time."""
        return self.num_bytes / GB / self.seconds if self.call_s else math.nan

    def cpu_s(self) -> float:
        """CPU seconds since the phase began, the harness's own left out."""
        harness_s = self._harness_s + time.thread_time() - self._outside_since_s
        return max(0.0, time.process_time() - self._process_start_s - harness_s)

    def milliseconds(self, share: float) -> float:
        """Return a percentile over the calls."""
        return percentile(self.call_s, share) * 1e3


def measure(rival_name: str, cell: Cell, directory: Path, *, seed: int) -> Figures:
    """Run all phases of `cell` against a fresh rival in `directory`, which is emptied afterwards.

    Every page that comes back is compared, byte for byte, outside the timed calls.

    Raises:
        WrongPagesError: a page is missing or differs.
    """
    directory.mkdir(parents=True)
    # Dirty pages of others would be flushed, and paid for, inside our own sync.
    sync_file_system(directory)
    run = _Run(cell, seed)
    memory = MemoryMeter()
    rival = open_rival(rival_name, Space(directory, cell.page_bytes, cell.num_pages))
    try:
        figures = run.figures(rival, memory)
    finally:
        rival.close()
        shutil.rmtree(directory)
    figures["peak_mib"] = memory.peak_growth_bytes() / 2**20
    return figures


class MemoryMeter:
    """Peak resident memory beyond what was there at the start; mapped files count."""

    def __init__(self) -> None:
        self._peak_bytes = 0
        self._start_bytes = resident_bytes()
        self._restart()

    def back_memory(self, num_bytes: int) -> None:
        """Back memory as `pagedata.back_memory` does, without counting it."""
        self._peak_bytes = max(self._peak_bytes, _status_bytes("VmHWM"))
        back_memory(num_bytes)
        self._restart()

    def peak_growth_bytes(self) -> int:
        """Return the growth so far."""
        return max(self._peak_bytes, _status_bytes("VmHWM")) - self._start_bytes

    def _restart(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")


class _Run:
    """The phases of one cell, and the memory they use over and over."""

    def __init__(self, cell: Cell, seed: int) -> None:
        self._cell = cell
        self._random = random.Random(seed)
        self._source = _page_source(cell.page_bytes)
        self._batches = Batches(num_pages=cell.num_pages, batch_pages=cell.batch_pages)
        self._memory = aligned_memory(cell.page_bytes * cell.batch_pages)
        self._pages = split_pages(self._memory, cell.page_bytes)
        self._ballast_bytes = cell.num_pages * cell.page_bytes
        if cell.memory_limit_bytes:
            self._ballast_bytes = min(self._ballast_bytes, cell.memory_limit_bytes // 4)

    def figures(self, rival: Rival, memory: MemoryMeter) -> Figures:
        """Run the phases in order."""
        memory.back_memory(self._ballast_bytes)
        put, figures = self._put(rival)
        num_put = len(put.call_s)
        if not self._cell.memory_limit_bytes:
            # Untimed: it fills the rival's own caches, those too that take only what comes often,
            # and tells how far the time reaches.
            num_warm = num_put
            for _ in range(READS_BEFORE_FILLING + 1):
                num_warm = len(self._get(rival, range(num_warm)).call_s)
            figures |= _get_figures("hot", self._get(rival, range(num_warm)))
            rival.drop_page_cache()
        order = list(range(num_put))
        self._random.shuffle(order)
        memory.back_memory(self._ballast_bytes)
        figures |= _get_figures("cold", self._get(rival, order))
        return figures

    def _put(self, rival: Rival) -> tuple[Phase, Figures]:
        written = written_bytes()
        phase = Phase()
        for path, numbers in self._batches:
            pages = self._filled(numbers)
            with phase.call(len(numbers) * self._cell.page_bytes):
                rival.put(path, pages)
            if phase.seconds > self._cell.phase_s:
                break
        start = time.perf_counter()
        rival.sync()
        sync_s = time.perf_counter() - start
        payload = phase.num_bytes
        return phase, {
            "put": phase.gb_per_s,
            "put_durable": payload / GB / (phase.seconds + sync_s),
            "put_p50_ms": phase.milliseconds(0.50),
            "put_p99_ms": phase.milliseconds(0.99),
            "put_durable_cpu": phase.cpu_s() / (payload / GB),
            "written": (written_bytes() - written) / payload,
            "disk": rival.disk_bytes() / payload,
            "num_put_calls": len(phase.call_s),
        }

    def _get(self, rival: Rival, order: Sequence[int]) -> Phase:
        phase = Phase()
        for index in order:
            path, numbers = self._batches.path(index)
            pages = self._pages[: len(numbers)]
            with phase.call(len(numbers) * self._cell.page_bytes):
                num_found = rival.get(path, pages)
            check_pages(self._source, pages, numbers, num_found)
            if phase.seconds > self._cell.phase_s:
                break
        return phase

    def _filled(self, numbers: range) -> list[PageBuffer]:
        pages = self._pages[: len(numbers)]
        for page, number in zip(pages, numbers, strict=True):
            self._source.fill(page, number)
        return pages


def check_pages(
    source: PageSource, pages: Sequence[PageBuffer], numbers: Sequence[int], num_found: int
) -> None:
    """Compare what a get filled with the pages `numbers`, byte for byte.

    Raises:
        WrongPagesError: a page is missing or differs.
    """
    if num_found != len(numbers):
        raise WrongPagesError(f"pages are missing. wanted={len(numbers)} got={num_found}")
    for page, number in zip(pages, numbers, strict=True):
        if not source.matches(page, number):
            raise WrongPagesError(f"a page came back changed. page={number}")


def _get_figures(name: str, phase: Phase) -> Figures:
    return {
        f"{name}_get": phase.gb_per_s,
        f"{name}_p50_ms": phase.milliseconds(0.50),
        f"{name}_p99_ms": phase.milliseconds(0.99),
        f"{name}_cpu": phase.cpu_s() / (phase.num_bytes / GB),
    }


@lru_cache(maxsize=1)
def _page_source(page_bytes: int) -> PageSource:
    return PageSource(page_bytes)


def written_bytes() -> int:
    """Return the bytes this process caused to be written to storage, page cache included."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])


def resident_bytes() -> int:
    """Return the resident memory of this process now."""
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise OSError(f"the kernel does not report {field}")
