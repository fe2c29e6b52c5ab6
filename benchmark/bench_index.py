"""What does it cost to find pages: time a probe, memory and disk an entry, by index and by key?

    python -m benchmark.bench_index --quick         1e5 entries
    python -m benchmark.bench_index --json FILE     1e5 and 1e6, three rounds; --full adds 1e7,
                                                    once, and takes 15 minutes

Pages form families of four paths of 64 pages that share their first 16 (208 entries). A probe asks
for 64 stored pages (hit), for 128 of which 64 are stored (half), or for 128 unknown ones (miss).
Every index runs in a process of its own, order shuffled a round; the block cache is larger and
smaller than the index in turn. At 1e7 entries the two variants of ours and one of the hash keys are
left out. The kernel's page cache holds the tables either way.
"""

import argparse
import gc
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sglang_lsm.config import IndexConfig
from sglang_lsm.keycodec import hash_tail
from sglang_lsm.pages import Location, PageHash, PagePath

from benchmark.harness import (
    machine_facts,
    percentile,
    print_facts,
    summarize,
    table,
    write_json,
)
from benchmark.index_rivals import INDEXES, PathIndex
from benchmark.measure import resident_bytes
from benchmark.pagedata import benchmark_namespace, chained_hashes
from benchmark.rivals.interface import RivalUnavailableError
from benchmark.workers import Unmeasured, run_alone

BRANCHES, SHARED_PAGES, PATH_PAGES, ASKED_PAGES = 4, 16, 64, 128
FAMILY_PAGES = SHARED_PAGES + BRANCHES * (PATH_PAGES - SHARED_PAGES)
CACHES = {"large": 1 << 30, "small": 2 << 20}
"""More than the index of 1e7 entries takes, and far less than that of 1e5."""
AT_MOST = ("radix_path", "flat_hash", "lmdb", "dict")
"""What is measured at 1e7 entries, where each takes more than a minute."""
COLUMNS = (
    ("insert_us", "insert us/entry"),
    ("hit_p50_us", "hit p50 us"),
    ("hit_p99_us", "p99"),
    ("half_p50_us", "half p50 us"),
    ("half_p99_us", "p99"),
    ("miss_p50_us", "miss p50 us"),
    ("miss_p99_us", "p99"),
    ("compacted_hit_p50_us", "compacted: hit p50"),
    ("compacted_half_p50_us", "half p50"),
    ("compacted_miss_p50_us", "miss p50"),
    ("purge_us", "purge us/entry"),
    ("open_ms", "open ms"),
    ("ram_bytes", "RAM B/entry"),
    ("disk_bytes", "disk B/entry"),
    ("compacted_disk_bytes", "compacted"),
)
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class IndexCell:
    """One index to be measured."""

    index: str
    num_entries: int
    cache: str
    """`large`, `small`, or `-` where there is none."""
    num_probes: int
    seed: int


def family_paths(family: int) -> list[list[PageHash]]:
    """Return the four paths of a family, each from the root."""
    shared = chained_hashes(f"family {family}", SHARED_PAGES)
    deeper = PATH_PAGES - SHARED_PAGES
    return [
        shared + chained_hashes(f"branch {branch}", deeper, above=shared[-1])
        for branch in range(BRANCHES)
    ]


def insertions(family: int) -> Iterator[PagePath]:
    """Yield the paths that store a family, each page once, parents first."""
    namespace = benchmark_namespace()
    for branch, hashes in enumerate(family_paths(family)):
        yield PagePath(namespace, hashes, SHARED_PAGES if branch else 0)


def measure_index(cell: IndexCell, directory: Path) -> Figures:
    """Measure one index in a fresh directory, which is deleted afterwards.

    Raises:
        RivalUnavailableError: it cannot run here.
    """
    spec = INDEXES[cell.index]
    config = IndexConfig(block_cache_bytes=CACHES.get(cell.cache, 0))
    directory.mkdir(parents=True)
    try:
        return _measure(cell, lambda: spec.open(directory, config), spec.survives)
    finally:
        shutil.rmtree(directory)


def _measure(cell: IndexCell, open_index: Callable[[], PathIndex], survives: bool) -> Figures:
    num_families = max(1, cell.num_entries // FAMILY_PAGES)
    num_entries = num_families * FAMILY_PAGES
    gc.collect()
    start_bytes = resident_bytes()
    index = open_index()
    figures: Figures = {"insert_us": _insert(index, num_families) * 1e6 / num_entries}
    figures |= _probes(index, cell, num_families)
    figures["ram_bytes"] = (resident_bytes() - start_bytes) / num_entries
    figures["disk_bytes"] = index.disk_bytes() / num_entries
    if survives:
        index.close()
        start = time.perf_counter()
        index = open_index()
        figures["open_ms"] = (time.perf_counter() - start) * 1e3
    index.compact()
    figures["compacted_disk_bytes"] = index.disk_bytes() / num_entries
    figures |= {f"compacted_{k}": v for k, v in _probes(index, cell, num_families).items()}
    figures |= _purge(index, min(num_families, 20))
    index.close()
    return figures


def _insert(index: PathIndex, num_families: int) -> float:
    """Return the seconds inside the calls."""
    seconds = 0.0
    for family in range(num_families):
        for number, path in enumerate(insertions(family)):
            locations = [
                Location(family >> 4, (number * PATH_PAGES + i) << 20, 1 << 20, i, hash_tail(page))
                for i, page in enumerate(path.hashes[path.start :])
            ]
            start = time.perf_counter()
            index.insert(path, locations)
            seconds += time.perf_counter() - start
    return seconds


def _probes(index: PathIndex, cell: IndexCell, num_families: int) -> Figures:
    """Probe random paths, the kinds mixed, so that none finds the other's path in the CPU caches.

    Raises:
        AssertionError: an index answers wrongly.
    """
    chooser = random.Random(cell.seed)
    seconds: dict[str, list[float]] = {"hit": [], "half": [], "miss": []}
    kinds = [kind for kind in seconds for _ in range(cell.num_probes)]
    chooser.shuffle(kinds)
    for number, kind in enumerate(kinds):
        hashes = family_paths(chooser.randrange(num_families))[chooser.randrange(BRANCHES)]
        if kind == "half":
            hashes += chained_hashes("more", ASKED_PAGES - PATH_PAGES, above=hashes[-1])
        elif kind == "miss":
            hashes = chained_hashes(f"unknown {cell.seed} {number}", ASKED_PAGES)
        path = PagePath(benchmark_namespace(), hashes)
        start = time.perf_counter()
        found = index.probe(path)
        seconds[kind].append(time.perf_counter() - start)
        if found != (0 if kind == "miss" else PATH_PAGES):
            raise AssertionError(f"a wrong probe. kind={kind} found={found}")
    return {
        f"{kind}_p{share}_us": percentile(values, share / 100) * 1e6
        for kind, values in seconds.items()
        for share in (50, 99)
    }


def _purge(index: PathIndex, num_families: int) -> Figures:
    """Forget whole families by their root; an index that cannot leaves the figure out."""
    namespace = benchmark_namespace()
    seconds = 0.0
    for family in range(num_families):
        paths = family_paths(family)
        below = [page for path in insertions(family) for page in path.hashes[path.start :]]
        root = PagePath(namespace, paths[0][:1])
        start = time.perf_counter()
        try:
            index.purge(root, below)
        except RivalUnavailableError:
            return {}
        seconds += time.perf_counter() - start
        if index.probe(PagePath(namespace, paths[-1])) != 0:
            raise AssertionError("a purged path is still there")
    return {"purge_us": seconds * 1e6 / (num_families * FAMILY_PAGES)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print one table a number of entries."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    facts = machine_facts(options.dir)
    results: list[tuple[IndexCell, Figures | Unmeasured]] = []
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        for cell in _cells(options):
            results.append((cell, run_alone(measure_index, cell, Path(directory) / "index")))
    print_facts(facts)
    for num_entries in sorted({cell.num_entries for cell, _ in results}):
        print(f"\n### {num_entries:.0e} entries\n")
        print(_table([(c, f) for c, f in results if c.num_entries == num_entries]))
    if options.json:
        cells = [{**asdict(cell), "figures": _plain(figures)} for cell, figures in results]
        write_json(options.json, {"benchmark": "index", "machine": facts, "cells": cells})
    return 1 if any(isinstance(f, Unmeasured) and f.failed for _, f in results) else 0


def _cells(options: argparse.Namespace) -> Iterator[IndexCell]:
    """Yield what to measure: rounds outermost, indexes shuffled inside, 1e7 in one round only."""
    sizes = [10**5] if options.quick else [10**5, 10**6, *([10**7] if options.full else [])]
    num_rounds = options.rounds or (1 if options.quick else 3)
    for number in range(num_rounds):
        for num_entries in sizes:
            if num_entries == 10**7 and number > 0:
                continue
            order = [
                (name, cache)
                for name, spec in INDEXES.items()
                if num_entries < 10**7 or name in AT_MOST
                for cache in (CACHES if spec.has_cache else ("-",))
            ]
            random.Random(options.seed + number).shuffle(order)
            for name, cache in order:
                probes = 300 if options.quick else 2000
                yield IndexCell(name, num_entries, cache, probes, options.seed + number)


def _plain(figures: Figures | Unmeasured) -> Figures | dict[str, str]:
    return {"not_measured": figures.reason} if isinstance(figures, Unmeasured) else figures


def _table(results: Sequence[tuple[IndexCell, Figures | Unmeasured]]) -> str:
    rows = []
    for name in INDEXES:
        for cache in (*CACHES, "-"):
            mine = [f for cell, f in results if (cell.index, cell.cache) == (name, cache)]
            if not mine:
                continue
            measured = [figures for figures in mine if not isinstance(figures, Unmeasured)]
            if not measured:
                rows.append([name, cache, mine[0].reason, *[""] * (len(COLUMNS) - 1)])
                continue
            row = [name, cache]
            for figure, _ in COLUMNS:
                found = summarize(f[figure] for f in measured if figure in f)
                row.append("-" if found is None else str(found))
            rows.append(row)
    return table(["index", "cache", *(title for _, title in COLUMNS)], rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1e5 entries, one round")
    parser.add_argument("--full", action="store_true", help="also 1e7 entries, one round")
    parser.add_argument("--json", type=Path, help="write every measured cell to this file")
    parser.add_argument("--rounds", type=int, help="rounds instead of three")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
