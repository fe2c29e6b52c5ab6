"""How soon does a store of many pages answer after a start, and what does it hold in memory?

    scripts/bench open --quick            1e5 pages
    scripts/bench open --json FILE        1e6 pages, three rounds, about 4 minutes

A store of small pages is filled once. Then, in turn, a fresh process opens it after a clean close
and after a SIGKILL, the page cache emptied of its files; it reads the pages of one path as soon as
it can and waits for the page table. "killed" replays the write-ahead log and scans the index.

RAM a page is what an open store with a complete page table and a block cache of 4 MiB has resident
beyond an open empty store, so that caches of fixed size do not count.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from sglang_lsm.config import MIB, IndexConfig, LogConfig, StoreConfig
from sglang_lsm.store import Store

from benchmark.harness import machine_facts, print_facts, write_json
from benchmark.measure import Figures, check_pages, resident_bytes
from benchmark.pagedata import (
    Batches,
    PageSource,
    aligned_memory,
    benchmark_fingerprint,
    split_pages,
)
from benchmark.publish.starts import body
from benchmark.rivals.disk import allocated_bytes, drop_cached_pages, sync_file_system

STARTS = ("clean", "killed")
PAGE_BYTES, BATCH_PAGES = 4096, 128
_CONTEXT = multiprocessing.get_context("spawn")
_DEADLINE_S = 120.0
_POLL_S = 0.0005


@dataclass(frozen=True, slots=True)
class Settings:
    """The store that is opened."""

    num_pages: int
    page_bytes: int = PAGE_BYTES
    path_pages: int = BATCH_PAGES
    index_cache_mib: int = 4

    @property
    def num_stored(self) -> int:
        """Pages in whole paths."""
        return len(self.batches()) * self.path_pages

    def batches(self) -> Batches:
        """Return the paths."""
        num_pages = self.num_pages // self.path_pages * self.path_pages
        return Batches(
            num_pages=num_pages, batch_pages=self.path_pages, prefix_pages=self.path_pages
        )

    def open(self, directory: Path) -> Store:
        """Open the store; its quota has room for all."""
        log = LogConfig(merge_bytes_per_s=0)
        index = IndexConfig(block_cache_bytes=self.index_cache_mib * MIB)
        # Each batch has a header of one block.
        num_bytes = 2 * self.num_pages * self.page_bytes + 4 * log.segment_bytes
        return Store.open(directory, StoreConfig(quota_bytes=num_bytes, log=log, index=index))


class ChildDiedError(Exception):
    """A measuring process ended early; its traceback is on standard error."""


def fill(settings: Settings, directory: Path) -> float:
    """Put every page and close; return the seconds."""
    start = time.perf_counter()
    store = settings.open(directory)
    store.register(benchmark_fingerprint())
    source = PageSource(settings.page_bytes)
    pages = split_pages(aligned_memory(settings.page_bytes * settings.path_pages), PAGE_BYTES)
    for path, numbers in settings.batches():
        for page, number in zip(pages, numbers, strict=True):
            source.fill(page, number)
        store.put_batch(path, pages)
    store.close()
    return time.perf_counter() - start


def run_child(work: Callable[..., None], *arguments: object) -> Figures:
    """Call `work` with the arguments and a pipe in a fresh process; return what it sends.

    Raises:
        ChildDiedError: it ended before it had measured.
    """
    here, there = _CONTEXT.Pipe()
    child = _CONTEXT.Process(target=work, args=(*arguments, there))
    child.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise ChildDiedError(f"the process ended. work={work.__name__}") from None
    finally:
        child.join()


def open_empty(settings: Settings, directory: Path, parent: Connection) -> None:
    """Send what an open store without a page has resident."""
    before = resident_bytes()
    store = settings.open(directory)
    store.register(benchmark_fingerprint())
    parent.send({"held_bytes": resident_bytes() - before})
    store.close()


def open_full(
    settings: Settings, directory: Path, stop: str, path_index: int, parent: Connection
) -> None:
    """Open, read one path, wait for the page table, send the figures, and end by `stop`."""
    source = PageSource(settings.page_bytes)
    pages = split_pages(aligned_memory(settings.page_bytes * settings.path_pages), PAGE_BYTES)
    path, numbers = settings.batches().path(path_index)
    before, start = resident_bytes(), time.perf_counter()
    store = settings.open(directory)
    open_s = time.perf_counter() - start
    store.register(benchmark_fingerprint())
    num_found = store.get_batch(path, pages)
    first_hit_s = time.perf_counter() - start
    check_pages(source, pages, numbers, num_found)
    _wait_table(store, settings.num_stored)
    table_s = time.perf_counter() - start
    held_bytes = resident_bytes() - before
    parent.send(
        {
            "open_s": open_s,
            "first_hit_s": first_hit_s,
            "table_s": table_s,
            "held_bytes": held_bytes,
        }
    )
    if stop == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    store.close()


def _wait_table(store: Store, num_pages: int) -> None:
    """Wait until the page table knows every page.

    Raises:
        TimeoutError: it never does.
    """
    deadline_s = time.perf_counter() + _DEADLINE_S
    while (found := store.stats().num_pages) != num_pages:
        if time.perf_counter() > deadline_s:
            raise TimeoutError(f"the page table is not complete. {found=} wanted={num_pages}")
        time.sleep(_POLL_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    settings = Settings(options.pages or (10**5 if options.quick else 10**6))
    facts = machine_facts(options.dir)
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        directory = Path(scratch) / "store"
        print(f"bench open: putting {settings.num_stored} pages", file=sys.stderr, flush=True)
        filled_s = fill(settings, directory)
        starts = measure_starts(settings, directory, options.rounds or (1 if options.quick else 3))
    report = {
        "benchmark": "open",
        "machine": facts,
        "settings": {**asdict(settings), "filled_s": filled_s},
        "starts": starts,
    }
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 0


def measure_starts(settings: Settings, directory: Path, rounds: int) -> list[Figures]:
    """Open the store after each kind of stop, round by round; it is closed when this begins.

    The process that is measured after one kind of stop ends by the other.
    """
    starts: list[Figures] = []
    empty = run_child(open_empty, settings, directory.parent / "empty")["held_bytes"]
    for number in range(rounds):
        for start, stop in (("clean", "killed"), ("killed", "clean")):
            sync_file_system(directory)
            drop_cached_pages(directory)
            index_bytes = allocated_bytes(directory / "index")
            path_index = (number * len(STARTS) + STARTS.index(start)) % len(settings.batches())
            figures = run_child(open_full, settings, directory, stop, path_index)
            figures |= {
                "ram_bytes": (figures["held_bytes"] - empty) / settings.num_stored,
                "index_disk_bytes": index_bytes / settings.num_stored,
            }
            starts.append({"start": start, "round_number": number, **figures})
    return starts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1e5 pages, one round")
    parser.add_argument("--pages", type=int, help="pages instead of the plan's")
    parser.add_argument("--rounds", type=int, help="rounds instead of three")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
