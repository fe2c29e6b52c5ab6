"""Where do the lines bend: cost by pages stored, by prompt length, and by clients at once?

    scripts/bench scaling --quick           about a minute
    scripts/bench scaling --json FILE       about 6 minutes, 9 GB of disk

`pages`: one store of 4 KiB pages grows, and so does an index without a store, which goes on to 1e7
entries; at each size new paths of 128 pages are put, random stored ones got, and paths of 128
pages probed of which 64, or none, are stored. `prompts`: one path of 1k to 128k tokens (64 a page,
4 KiB each: what is left is the cost of keys, index and calls). `clients`: threads that put, then
get, paths of 32 pages of 64 KiB each.

The bytes of a page do not matter to the first two; what moving bytes costs is `bench engine`.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from sglang_lsm.config import IndexConfig, LogConfig, StoreConfig
from sglang_lsm.pages import Location, PagePath
from sglang_lsm.store import Store

from benchmark.harness import collect, machine_facts, percentile, print_facts, write_json
from benchmark.index_rivals import RadixIndex
from benchmark.measure import check_pages
from benchmark.pagedata import (
    PageSource,
    aligned_memory,
    benchmark_fingerprint,
    benchmark_namespace,
    chained_hashes,
    split_pages,
)
from benchmark.publish.scaling import body
from benchmark.rivals.disk import allocated_bytes

PATH_PAGES, KNOWN_PAGES, TOKENS_PER_PAGE = 128, 64, 64
SMALL_PAGE, CLIENT_PAGE, CLIENT_PAGES = 4096, 64 << 10, 32
_CACHE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How far each line goes."""

    store_pages: tuple[int, ...]
    index_pages: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    clients: tuple[int, ...]
    repeats: int
    """Calls timed at each point; their median is the figure."""
    rounds: int


_PROMPTS = tuple(1024 << i for i in range(8))
FULL = Plan(
    (10**4, 10**5, 10**6), (10**4, 10**5, 10**6, 10**7), _PROMPTS, (1, 2, 4, 8, 16, 32), 200, 3
)
QUICK = Plan((10**4, 10**5), (10**4, 10**5), _PROMPTS[::2], (1, 4, 16), 50, 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One point of one line."""

    study: str
    line: str
    x: int
    value: float
    unit: str
    round_number: int = 0


def path_of(name: str, num_pages: int, *, known: int = 0) -> PagePath:
    """Return a path whose first `known` pages belong to the stored path `name`, the rest to none.

    With `known` 0 it is the stored path itself.
    """
    hashes = chained_hashes(name, known or num_pages)
    if known:
        hashes += chained_hashes("beyond", num_pages - known, above=hashes[-1])
    return PagePath(benchmark_namespace(), hashes)


def timed(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Return the seconds of each call."""
    seconds = []
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def median_us(seconds: Sequence[float], *, per: int = 1) -> float:
    """Return the median in microseconds, per page if told how many there are."""
    return percentile(seconds, 0.5) * 1e6 / per


def open_store(directory: Path, payload_bytes: int) -> Store:
    """Open a store that holds twice the payload, so that nothing is evicted."""
    log = LogConfig(merge_bytes_per_s=0)
    quota_bytes = 2 * payload_bytes + 4 * log.segment_bytes
    store = Store.open(directory, StoreConfig(quota_bytes=quota_bytes, log=log))
    store.register(benchmark_fingerprint())
    return store


def by_pages_of_a_store(plan: Plan, directory: Path) -> Iterator[Row]:
    """Grow one store and measure it at each size."""
    chooser = random.Random(1)
    source = PageSource(SMALL_PAGE)
    pages = split_pages(aligned_memory(SMALL_PAGE * PATH_PAGES), SMALL_PAGE)
    for number, page in enumerate(pages):
        source.fill(page, number)
    out = split_pages(aligned_memory(SMALL_PAGE * PATH_PAGES), SMALL_PAGE)
    most = plan.store_pages[-1] + plan.repeats * len(plan.store_pages) * PATH_PAGES
    store = open_store(directory, most * 2 * SMALL_PAGE)
    num_paths = 0
    for size in plan.store_pages:
        while num_paths < size // PATH_PAGES:
            store.put_batch(path_of(f"path {num_paths}", PATH_PAGES), pages)
            num_paths += 1
        fresh = [path_of(f"path {num_paths + i}", PATH_PAGES) for i in range(plan.repeats)]
        puts = timed([lambda path=path: store.put_batch(path, pages) for path in fresh])
        num_paths += len(fresh)
        names = [f"path {chooser.randrange(num_paths)}" for _ in range(plan.repeats)]
        stored = [path_of(name, PATH_PAGES) for name in names]
        for path in stored:
            found = store.get_batch(path, out)
            check_pages(source, out, range(PATH_PAGES), found)
        gets = timed([lambda path=path: store.get_batch(path, out) for path in stored])
        yield Row("pages", "store: put", size, median_us(puts, per=PATH_PAGES), "us/page")
        yield Row("pages", "store: get", size, median_us(gets, per=PATH_PAGES), "us/page")
        yield from _probes("store", store.probe, size, names, plan.repeats)
    store.close()


def by_entries_of_an_index(plan: Plan, directory: Path) -> Iterator[Row]:
    """Grow an index alone, with the default cache, and measure it at each size."""
    chooser = random.Random(1)
    index = RadixIndex(directory, IndexConfig(block_cache_bytes=_CACHE_BYTES))
    num_paths = 0
    for size in plan.index_pages:
        seconds: list[float] = []
        while num_paths < size // PATH_PAGES:
            path = path_of(f"path {num_paths}", PATH_PAGES)
            locations = [
                Location(num_paths >> 4, i << 20, 1 << 20, i, page[8:16])
                for i, page in enumerate(path.hashes)
            ]
            seconds += timed([lambda: index.insert(path, locations)])  # noqa: B023 called here
            num_paths += 1
        yield Row("pages", "index: insert", size, median_us(seconds, per=PATH_PAGES), "us/page")
        names = [f"path {chooser.randrange(num_paths)}" for _ in range(plan.repeats)]
        yield from _probes("index", index.probe, size, names, plan.repeats)
        # What is not flushed yet lies in the write-ahead log, entry by entry.
        per_entry = allocated_bytes(directory) / size
        yield Row("pages", "index: disk, log included", size, per_entry, "B/page")
    index.close()


def _probes(
    who: str, probe: Callable[[PagePath], int], size: int, names: Sequence[str], repeats: int
) -> Iterator[Row]:
    half = [path_of(name, PATH_PAGES, known=KNOWN_PAGES) for name in names]
    unknown = [path_of(f"unknown {i}", PATH_PAGES) for i in range(repeats)]
    for paths, wanted, what in ((half, KNOWN_PAGES, "64 of 128"), (unknown, 0, "unknown path")):
        found = {probe(path) for path in paths}
        if found != {wanted}:
            raise AssertionError(f"a wrong probe. who={who} found={found} wanted={wanted}")
        seconds = timed([lambda path=path: probe(path) for path in paths])
        yield Row("pages", f"{who}: probe, {what}", size, median_us(seconds), "us")


def by_prompt_tokens(plan: Plan, directory: Path, round_number: int) -> Iterator[Row]:
    """Put, get and probe one path of each length."""
    store = open_store(directory, 4 * sum(plan.prompt_tokens) // TOKENS_PER_PAGE * SMALL_PAGE)
    source = PageSource(SMALL_PAGE)
    warm = split_pages(aligned_memory(SMALL_PAGE * PATH_PAGES), SMALL_PAGE)
    # The first put of a store makes a segment, which is not what a longer prompt costs more.
    store.put_batch(path_of("warm", PATH_PAGES), warm)
    for tokens in plan.prompt_tokens:
        num_pages = tokens // TOKENS_PER_PAGE
        path = path_of(f"prompt {tokens}", num_pages)
        pages = split_pages(aligned_memory(SMALL_PAGE * num_pages), SMALL_PAGE)
        for number, page in enumerate(pages):
            source.fill(page, number)
        put = timed([lambda: store.put_batch(path, pages)])  # noqa: B023 called here
        repeats = max(3, plan.repeats // 10)
        get = timed([lambda: store.get_batch(path, pages)] * repeats)  # noqa: B023
        check_pages(source, pages, range(num_pages), store.get_batch(path, pages))
        probe = timed([lambda: store.probe(path)] * repeats)  # noqa: B023
        for line, seconds in (("put", put), ("get", get), ("probe, all stored", probe)):
            yield Row("prompts", line, tokens, median_us(seconds), "us", round_number)
    store.close()


def by_clients(plan: Plan, directory: Path, round_number: int) -> Iterator[Row]:
    """Put and get from several threads at once."""
    most = max(plan.clients)
    calls = max(2, plan.repeats // 8)
    batch_bytes = CLIENT_PAGE * CLIENT_PAGES
    payload_bytes = batch_bytes * calls * sum(plan.clients)
    source = PageSource(CLIENT_PAGE)
    memory = [split_pages(aligned_memory(batch_bytes), CLIENT_PAGE) for _ in range(most)]
    for pages in memory:
        for number, page in enumerate(pages):
            source.fill(page, number)
    store = open_store(directory, payload_bytes)
    store.put_batch(path_of("warm", CLIENT_PAGES), memory[0])
    for num_clients in plan.clients:
        paths = [
            [path_of(f"{num_clients} {who} {i}", CLIENT_PAGES) for i in range(calls)]
            for who in range(num_clients)
        ]
        for line, do in (("put", store.put_batch), ("get", store.get_batch)):
            seconds, wall_s = _at_once(do, paths, memory)
            gb_per_s = num_clients * calls * batch_bytes / 1e9 / wall_s
            yield Row("clients", line, num_clients, gb_per_s, "GB/s", round_number)
            for share in (50, 99):
                value = percentile(seconds, share / 100) * 1e3
                yield Row("clients", f"{line}, p{share}", num_clients, value, "ms", round_number)
        for who, pages in enumerate(memory[:num_clients]):
            found = store.get_batch(paths[who][0], pages)
            check_pages(source, pages, range(CLIENT_PAGES), found)
    store.close()


def _at_once(
    do: Callable[..., object], paths: Sequence[Sequence[PagePath]], memory: Sequence[object]
) -> tuple[list[float], float]:
    """Let each thread make its calls, all beginning together; return their seconds, and in all."""
    together = threading.Barrier(len(paths) + 1)

    def client(who: int) -> list[float]:
        together.wait()
        return timed([lambda path=path: do(path, memory[who]) for path in paths[who]])

    with ThreadPoolExecutor(len(paths)) as threads:
        jobs = [threads.submit(client, who) for who in range(len(paths))]
        together.wait()
        start = time.perf_counter()
        seconds = [one for job in jobs for one in job.result()]
        return seconds, time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the three studies and print their tables."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    plan = QUICK if options.quick else FULL
    facts = machine_facts(options.dir)
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        # Every point that was measured before an interrupt is told all the same.
        rows, ended_early = collect([lambda: studies(plan, Path(scratch))], ())
    if ended_early:
        print(f"bench scaling: {ended_early}", file=sys.stderr)
    settings = {**asdict(plan), "index_cache_mib": _CACHE_BYTES >> 20}
    report = {
        "benchmark": "scaling",
        "machine": facts,
        "settings": settings,
        "rows": [asdict(row) for row in rows],
        "ended_early": ended_early,
    }
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 1 if ended_early else 0


def studies(plan: Plan, place: Path) -> Iterator[Row]:
    """Yield all points, the short studies first; `place` takes the files."""
    for number in range(plan.rounds):
        yield from by_prompt_tokens(plan, place / f"prompts-{number}", number)
        yield from by_clients(plan, place / f"clients-{number}", number)
    yield from by_pages_of_a_store(plan, place / "store")
    yield from by_entries_of_an_index(plan, place / "index")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="up to 1e5 pages, one round")
    parser.add_argument("--json", type=Path, help="write every point to this file")
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
