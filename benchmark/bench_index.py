"""What does it cost to find pages: time a probe, memory and disk an entry, by index and by key?

    python -m benchmark.bench_index --quick         1e5 entries, 1 minute
    python -m benchmark.bench_index --json FILE     1e5 and 1e6, three rounds, 10 minutes; --full
                                                    adds 1e7, once, and takes 20 minutes

Pages form families of four paths of 64 pages that share their first 16 (208 entries). A probe asks
for 64 stored pages (hit), for 128 of which 64 are stored (half), or for 128 unknown ones (miss).
Every index runs in processes of its own, order shuffled a round. Its entries are put once; then it
is probed with a block cache larger than the index in the same process, and in one that has just
opened it with a smaller cache, so that the RAM of that row counts no memtable. At 1e7 entries the
two variants of ours and one of the hash keys are left out. The kernel's page cache holds the tables
either way. What is known is written to the file after each index.
"""

import argparse
import gc
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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

    @property
    def num_families(self) -> int:
        """Whole families, as many as there is room for."""
        return max(1, self.num_entries // FAMILY_PAGES)

    @property
    def num_stored(self) -> int:
        """Entries of whole families."""
        return self.num_families * FAMILY_PAGES


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
    directory.mkdir(parents=True)
    try:
        index, figures = _filled(cell, directory)
        if INDEXES[cell.index].survives:
            index.close()
            index, opened = _opened(cell, directory)
            figures |= opened
        figures |= _compacted(index, cell, part=0)
        index.close()
    finally:
        shutil.rmtree(directory)
    return figures


def measure_caches(cells: Sequence[IndexCell], directory: Path) -> list[Figures | Unmeasured]:
    """Measure one index with several caches, each in processes of its own; put the entries once."""
    if len(cells) == 1:
        return [run_alone(measure_index, cells[0], directory)]
    directory.mkdir(parents=True)
    try:
        found = [run_alone(fill_and_probe, cells[0], directory)]
        if isinstance(found[0], Unmeasured):
            return found * len(cells)
        found += [run_alone(open_and_probe, cell, directory) for cell in cells[1:]]
        compacted = [
            run_alone(compact_and_probe, cell, directory, part) for part, cell in enumerate(cells)
        ]
    finally:
        shutil.rmtree(directory)
    return [_joined(parts) for parts in zip(found, compacted, strict=True)]


def fill_and_probe(cell: IndexCell, directory: Path) -> Figures:
    """Put the entries, probe, and leave the index closed."""
    index, figures = _filled(cell, directory)
    index.close()
    index, opened = _opened(cell, directory)
    index.close()
    return figures | opened


def open_and_probe(cell: IndexCell, directory: Path) -> Figures:
    """Probe what another process has put."""
    start_bytes = _start_bytes()
    index, figures = _opened(cell, directory)
    figures |= _probes(index, cell, range(cell.num_families))
    figures["ram_bytes"] = (resident_bytes() - start_bytes) / cell.num_stored
    index.close()
    return figures


def compact_and_probe(cell: IndexCell, directory: Path, part: int) -> Figures:
    """Compact, probe, and purge some families: the `part`-th of those to be purged."""
    index, _ = _opened(cell, directory)
    figures = _compacted(index, cell, part)
    index.close()
    return figures


def _filled(cell: IndexCell, directory: Path) -> tuple[PathIndex, Figures]:
    start_bytes = _start_bytes()
    index = _open(cell, directory)
    figures: Figures = {"insert_us": _insert(index, cell.num_families) * 1e6 / cell.num_stored}
    figures |= _probes(index, cell, range(cell.num_families))
    figures["ram_bytes"] = (resident_bytes() - start_bytes) / cell.num_stored
    figures["disk_bytes"] = index.disk_bytes() / cell.num_stored
    return index, figures


def _opened(cell: IndexCell, directory: Path) -> tuple[PathIndex, Figures]:
    start = time.perf_counter()
    index = _open(cell, directory)
    return index, {"open_ms": (time.perf_counter() - start) * 1e3}


def _open(cell: IndexCell, directory: Path) -> PathIndex:
    config = IndexConfig(block_cache_bytes=CACHES.get(cell.cache, 0))
    return INDEXES[cell.index].open(directory, config)


def _compacted(index: PathIndex, cell: IndexCell, part: int) -> Figures:
    index.compact()
    figures = {"compacted_disk_bytes": index.disk_bytes() / cell.num_stored}
    num_purged = max(1, min(20, cell.num_families // 4))
    purged = range(part * num_purged, (part + 1) * num_purged)
    # Those before are purged already.
    probed = _probes(index, cell, range(purged.start, cell.num_families))
    return figures | {f"compacted_{k}": v for k, v in probed.items()} | _purge(index, purged)


def _start_bytes() -> int:
    gc.collect()
    return resident_bytes()


def _joined(parts: Sequence[Figures | Unmeasured]) -> Figures | Unmeasured:
    """Return the figures of all parts, or the first reason why there are none."""
    figures: Figures = {}
    for part in parts:
        if isinstance(part, Unmeasured):
            return part
        figures |= part
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


def _probes(index: PathIndex, cell: IndexCell, families: range) -> Figures:
    """Probe random paths, the kinds mixed, so that none finds the other's path in the CPU caches.

    Raises:
        AssertionError: an index answers wrongly.
    """
    chooser = random.Random(cell.seed)
    seconds: dict[str, list[float]] = {"hit": [], "half": [], "miss": []}
    kinds = [kind for kind in seconds for _ in range(cell.num_probes)]
    chooser.shuffle(kinds)
    for number, kind in enumerate(kinds):
        hashes = family_paths(chooser.choice(families))[chooser.randrange(BRANCHES)]
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


def _purge(index: PathIndex, families: range) -> Figures:
    """Forget whole families by their root; an index that cannot leaves the figure out."""
    namespace = benchmark_namespace()
    seconds = 0.0
    for family in families:
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
    return {"purge_us": seconds * 1e6 / (len(families) * FAMILY_PAGES)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print one table a number of entries."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    facts = machine_facts(options.dir)
    results: list[tuple[IndexCell, Figures | Unmeasured]] = []
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        for cells in _plan(options):
            print(
                f"bench index: {cells[0].index} {cells[0].num_entries:.0e}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            results += zip(cells, measure_caches(cells, Path(directory) / "index"), strict=True)
            if options.json:
                done = [{**asdict(cell), "figures": _plain(found)} for cell, found in results]
                write_json(options.json, {"benchmark": "index", "machine": facts, "cells": done})
    print_facts(facts)
    for num_entries in sorted({cell.num_entries for cell, _ in results}):
        print(f"\n### {num_entries:.0e} entries\n")
        print(_table([(c, f) for c, f in results if c.num_entries == num_entries]))
    return 1 if any(isinstance(f, Unmeasured) and f.failed for _, f in results) else 0


def _plan(options: argparse.Namespace) -> Iterator[list[IndexCell]]:
    """Yield what to measure: rounds outermost, indexes shuffled inside, 1e7 in one round only."""
    sizes = [10**5] if options.quick else [10**5, 10**6, *([10**7] if options.full else [])]
    num_rounds = options.rounds or (1 if options.quick else 3)
    probes = 300 if options.quick else 2000
    for number in range(num_rounds):
        for num_entries in sizes:
            if num_entries == 10**7 and number > 0:
                continue
            order = [name for name in INDEXES if num_entries < 10**7 or name in AT_MOST]
            random.Random(options.seed + number).shuffle(order)
            for name in order:
                caches = CACHES if INDEXES[name].has_cache else ("-",)
                yield [
                    IndexCell(name, num_entries, cache, probes, options.seed + number)
                    for cache in caches
                ]


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
