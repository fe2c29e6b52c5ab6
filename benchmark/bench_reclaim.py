"""What does it cost to give back the space of half the prefixes, evicted at random?

    python -m benchmark.bench_reclaim --quick
    python -m benchmark.bench_reclaim --json FILE

Half of the prefixes are deleted, then the rival is asked to give their space back. Written bytes
are counted from the first delete until a final sync; survivors are compared byte for byte. "closed"
is the disk after the rival was closed, when nothing is preallocated any more. Bytes that were
preallocated and are given back too count as freed, but not where bytes written are set against it.
"""

import argparse
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sglang_lsm.pages import PageBuffer

from benchmark.harness import machine_facts, print_facts, summarize, table, write_json
from benchmark.measure import Figures, check_pages, written_bytes
from benchmark.pagedata import Batches, PageSource, aligned_memory, split_pages
from benchmark.rivals import RIVALS, EvictingRival, Space, open_rival
from benchmark.rivals.disk import allocated_bytes, sync_file_system
from benchmark.workers import Unmeasured, run_alone

MIB = 1 << 20
COLUMNS = (
    ("delete_s", "delete s"),
    ("after_delete", "disk/live after delete"),
    ("reclaim_s", "reclaim s"),
    ("cpu_s", "CPU s"),
    ("freed", "freed/deleted"),
    ("written_per_freed", "written/freed"),
    ("after_reclaim", "disk/live"),
    ("closed", "disk/live closed"),
)


@dataclass(frozen=True, slots=True)
class ReclaimCell:
    """What is put before half of it is evicted."""

    page_bytes: int
    prefix_pages: int
    num_prefixes: int

    @property
    def num_pages(self) -> int:
        """Pages put."""
        return self.prefix_pages * self.num_prefixes


class Eviction:
    """One measurement: put all, evict half, reclaim, compare the rest."""

    def __init__(self, cell: ReclaimCell, seed: int) -> None:
        self._cell = cell
        self._source = PageSource(cell.page_bytes)
        # A batch is a whole prefix: none lies below another.
        self._batches = Batches(
            num_pages=cell.num_pages,
            batch_pages=cell.prefix_pages,
            prefix_pages=cell.prefix_pages,
        )
        self._pages: list[PageBuffer] = split_pages(
            aligned_memory(cell.page_bytes * cell.prefix_pages), cell.page_bytes
        )
        order = list(range(cell.num_prefixes))
        random.Random(seed).shuffle(order)
        half = cell.num_prefixes // 2
        self._victims, self._survivors = order[:half], order[half:]

    def run(self, rival: EvictingRival) -> Figures:
        """Return the figures; the rival stays open."""
        for path, numbers in self._batches:
            for page, number in zip(self._pages, numbers, strict=True):
                self._source.fill(page, number)
            rival.put(path, self._pages)
        rival.sync()
        before, written, cpu = rival.disk_bytes(), written_bytes(), time.process_time()
        start = time.perf_counter()
        for victim in self._victims:
            rival.delete(self._batches.path(victim)[0])
        deleted_s = time.perf_counter()
        after_delete = rival.disk_bytes()
        reclaim_s = time.perf_counter()
        rival.reclaim()
        rival.sync()
        end = time.perf_counter()
        after = rival.disk_bytes()
        deleted_bytes = self._cell.page_bytes * self._num_victim_pages
        # What was preallocated and is given back along was no page, and cost no writing.
        freed_bytes = min(before - after, deleted_bytes)
        figures = {
            "delete_s": deleted_s - start,
            "reclaim_s": end - reclaim_s,
            "cpu_s": time.process_time() - cpu,
            "after_delete": after_delete / self.live_bytes,
            "after_reclaim": after / self.live_bytes,
            "freed": (before - after) / deleted_bytes,
            "written_per_freed": (written_bytes() - written) / freed_bytes
            if freed_bytes > 0
            else math.nan,
        }
        self._compare_survivors(rival)
        return figures

    @property
    def live_bytes(self) -> int:
        """Payload of the survivors."""
        return self._cell.page_bytes * self._cell.prefix_pages * len(self._survivors)

    @property
    def _num_victim_pages(self) -> int:
        return self._cell.prefix_pages * len(self._victims)

    def _compare_survivors(self, rival: EvictingRival) -> None:
        for survivor in self._survivors:
            path, numbers = self._batches.path(survivor)
            check_pages(self._source, self._pages, numbers, rival.get(path, self._pages))


def measure_reclaim(name: str, cell: ReclaimCell, directory: Path, *, seed: int) -> Figures:
    """Measure one rival in a fresh directory, which is deleted afterwards.

    Raises:
        RivalUnavailableError: it cannot run here.
        WrongPagesError: a survivor was lost or changed.
    """
    directory.mkdir(parents=True)
    sync_file_system(directory)
    eviction = Eviction(cell, seed)
    try:
        rival = open_rival(name, Space(directory, cell.page_bytes, cell.num_pages))
        try:
            figures = eviction.run(rival)
        finally:
            rival.close()
        figures["closed"] = allocated_bytes(directory) / eviction.live_bytes
        return figures
    finally:
        shutil.rmtree(directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a rival failed."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    facts = machine_facts(options.dir)
    cell = ReclaimCell(256 << 10, 16, 16 if options.quick else 128)
    results: list[tuple[str, Figures | Unmeasured]] = []
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        for seed, name in _order(options):
            place = Path(directory) / name
            results.append((name, run_alone(measure_reclaim, name, cell, place, seed=seed)))
    print_facts(facts)
    print(
        f"\n### {cell.num_prefixes} prefixes of {cell.prefix_pages} pages of "
        f"{cell.page_bytes >> 10} KiB, half evicted at random\n"
    )
    print(_table(results, options.rivals))
    if options.json:
        report = {
            "benchmark": "reclaim",
            "machine": facts,
            "cell": asdict(cell),
            "results": [
                {"rival": name, **({"not_measured": f.reason} if isinstance(f, Unmeasured) else f)}
                for name, f in results
            ],
        }
        write_json(options.json, report)
    return 1 if any(isinstance(f, Unmeasured) and f.failed for _, f in results) else 0


def _order(options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    for number in range(options.rounds or (1 if options.quick else 3)):
        order = list(options.rivals)
        random.Random(options.seed + number).shuffle(order)
        for name in order:
            yield options.seed + number, name


def _table(results: Sequence[tuple[str, Figures | Unmeasured]], rivals: Sequence[str]) -> str:
    rows = []
    for name in rivals:
        mine = [figures for rival, figures in results if rival == name]
        measured = [figures for figures in mine if not isinstance(figures, Unmeasured)]
        if not measured:
            rows.append([name, mine[0].reason, *[""] * (len(COLUMNS) - 1)])
            continue
        summaries = [summarize(f[figure] for f in measured) for figure, _ in COLUMNS]
        rows.append([name, *("-" if found is None else str(found) for found in summaries)])
    return table(["engine", *(title for _, title in COLUMNS)], rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    evicting = [name for name, spec in RIVALS.items() if spec.evicts]
    parser.add_argument("--quick", action="store_true", help="64 MiB, one round")
    parser.add_argument("--json", type=Path, help="write every result to this file")
    parser.add_argument("--rounds", type=int, help="rounds instead of three")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    parser.add_argument("--rivals", nargs="+", choices=evicting, default=evicting, metavar="NAME")
    return parser


if __name__ == "__main__":
    sys.exit(main())
