"""What does a prefix lose when its pages lie scattered, because several writers took turns?

    python -m benchmark.bench_scatter --quick
    python -m benchmark.bench_scatter --json FILE

The same prefixes are put twice, in the same small batches: one prefix after the other, and all in
turn. Then each whole prefix is read with one call, cold, in random order. An engine that can merge
does so then, and is read once more. Ratios compare inside a round; one file a page loses nothing
and is the control.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sglang_lsm.pages import PageBuffer, PagePath

from benchmark.harness import (
    machine_facts,
    print_facts,
    round_ratios,
    summarize,
    table,
    write_json,
)
from benchmark.measure import Figures, Phase, check_pages
from benchmark.pagedata import (
    PageSource,
    aligned_memory,
    back_memory,
    benchmark_namespace,
    chained_hashes,
    split_pages,
)
from benchmark.rivals import RIVALS, Rival, Space, open_rival
from benchmark.rivals.disk import sync_file_system
from benchmark.rivals.interface import MergingRival
from benchmark.workers import Unmeasured, run_alone

LAYOUTS = ("alone", "in turn")
MERGED = "merged"
"""What was put in turn, after the engine has brought each prefix together again."""


@dataclass(frozen=True, slots=True)
class ScatterCell:
    """`num_writers` prefixes of `prefix_pages` pages, each put in steps of `step_pages`."""

    page_bytes: int
    num_writers: int
    prefix_pages: int
    step_pages: int

    @property
    def num_pages(self) -> int:
        """Pages of all prefixes."""
        return self.num_writers * self.prefix_pages

    def steps(self, layout: str) -> Iterator[tuple[int, int]]:
        """Yield writer and first page of each put, in the order of the layout."""
        starts = range(0, self.prefix_pages, self.step_pages)
        if layout == "alone":
            return ((writer, start) for writer in range(self.num_writers) for start in starts)
        return ((writer, start) for start in starts for writer in range(self.num_writers))


class Scatter:
    """One measurement of one rival and layout."""

    def __init__(self, cell: ScatterCell, seed: int) -> None:
        self._cell, self._seed = cell, seed
        self._source = PageSource(cell.page_bytes)
        memory = aligned_memory(cell.page_bytes * cell.prefix_pages)
        self._pages: list[PageBuffer] = split_pages(memory, cell.page_bytes)
        self._hashes = [
            chained_hashes(f"writer {writer}", cell.prefix_pages)
            for writer in range(cell.num_writers)
        ]

    def put(self, rival: Rival, layout: str) -> None:
        """Put all prefixes in the order of the layout, durable."""
        for writer, start in self._cell.steps(layout):
            end = start + self._cell.step_pages
            path = PagePath(benchmark_namespace(), self._hashes[writer][:end], start)
            pages = self._pages[: path.num_pages]
            for page, number in zip(pages, self._numbers(writer)[start:end], strict=True):
                self._source.fill(page, number)
            rival.put(path, pages)
        rival.sync()

    def read(self, rival: Rival) -> Figures:
        """Read every prefix, cold, each with one call.

        A hot pass goes before, unmeasured: threads are started and buffers made by the first call.
        """
        order = list(range(self._cell.num_writers))
        random.Random(self._seed).shuffle(order)
        self._read(rival, order)
        rival.drop_page_cache()
        back_memory(self._cell.num_pages * self._cell.page_bytes)
        phase = self._read(rival, order)
        return {
            "cold_get": phase.gb_per_s,
            "cold_p50_ms": phase.milliseconds(0.5),
            "cold_p99_ms": phase.milliseconds(0.99),
        }

    def merge(self, rival: MergingRival) -> None:
        """Let the rival bring each prefix together."""
        for hashes in self._hashes:
            rival.merge(PagePath(benchmark_namespace(), hashes))

    def _read(self, rival: Rival, order: Sequence[int]) -> Phase:
        phase = Phase()
        for writer in order:
            path = PagePath(benchmark_namespace(), self._hashes[writer])
            with phase.call(path.num_pages * self._cell.page_bytes):
                num_found = rival.get(path, self._pages)
            check_pages(self._source, self._pages, self._numbers(writer), num_found)
        return phase

    def _numbers(self, writer: int) -> range:
        first = writer * self._cell.prefix_pages
        return range(first, first + self._cell.prefix_pages)


def measure_scatter(
    name: str, cell: ScatterCell, directory: Path, *, seed: int
) -> dict[str, Figures]:
    """Measure both layouts of one rival, each in a fresh directory.

    Raises:
        RivalUnavailableError: it cannot run here.
        WrongPagesError: a page was lost or changed.
    """
    scatter = Scatter(cell, seed)
    order = list(LAYOUTS)
    # Not the same order for every rival: what a process does first is slower.
    random.Random(f"{name} {seed}").shuffle(order)
    figures: dict[str, Figures] = {}
    for layout in order:
        directory.mkdir(parents=True)
        sync_file_system(directory)
        try:
            rival = open_rival(name, Space(directory, cell.page_bytes, cell.num_pages))
            try:
                scatter.put(rival, layout)
                figures[layout] = scatter.read(rival)
                if layout == "in turn" and isinstance(rival, MergingRival):
                    scatter.merge(rival)
                    rival.sync()
                    figures[MERGED] = scatter.read(rival)
            finally:
                rival.close()
        finally:
            shutil.rmtree(directory)
    return figures


@dataclass(frozen=True, slots=True)
class Result:
    """One round of one rival and page size."""

    rival: str
    page_bytes: int
    round_number: int
    figures: dict[str, Figures] | Unmeasured


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a rival failed."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    facts = machine_facts(options.dir)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        for number in range(options.rounds or (1 if options.quick else 3)):
            for page_bytes in (64 << 10,) if options.quick else (64 << 10, 256 << 10, 1 << 20):
                cell = _cell(page_bytes)
                order = list(options.rivals)
                random.Random(options.seed + number).shuffle(order)
                for name in order:
                    place, seed = Path(directory) / name, options.seed + number
                    found = run_alone(measure_scatter, name, cell, place, seed=seed)
                    results.append(Result(name, page_bytes, number, found))
    print_facts(facts)
    for page_bytes in sorted({result.page_bytes for result in results}):
        cell = _cell(page_bytes)
        print(
            f"\n### {cell.num_writers} prefixes of {cell.prefix_pages} pages of "
            f"{page_bytes >> 10} KiB, put {cell.step_pages} pages at a time, read whole and cold\n"
        )
        print(_table([r for r in results if r.page_bytes == page_bytes], options.rivals))
    if options.json:
        report = {"benchmark": "scatter", "machine": facts, "results": [asdict(r) for r in results]}
        write_json(options.json, report)
    failed = [r for r in results if isinstance(r.figures, Unmeasured) and r.figures.failed]
    return 1 if failed else 0


def _cell(page_bytes: int) -> ScatterCell:
    return ScatterCell(page_bytes, num_writers=8, prefix_pages=64, step_pages=4)


def _table(results: Sequence[Result], rivals: Sequence[str]) -> str:
    rows = []
    for name in rivals:
        mine = [result for result in results if result.rival == name]
        speed = {
            layout: {
                r.round_number: r.figures[layout]["cold_get"]
                for r in mine
                if not isinstance(r.figures, Unmeasured) and layout in r.figures
            }
            for layout in (*LAYOUTS, MERGED)
        }
        reasons = [r.figures.reason for r in mine if isinstance(r.figures, Unmeasured)]
        if not speed["alone"]:
            rows.append([name, reasons[0], *[""] * 4])
            continue
        alone, in_turn = (summarize(speed[layout].values()) for layout in LAYOUTS)
        merged = summarize(speed[MERGED].values())
        ratios = [round_ratios(speed[layout], speed["alone"]) for layout in ("in turn", MERGED)]
        cells = [alone, in_turn, ratios[0], merged, ratios[1]]
        rows.append([name, *("-" if cell is None else str(cell) for cell in cells)])
    head = ["engine", "written alone, GB/s", "in turn, GB/s", "in turn / alone"]
    return table([*head, "merged, GB/s", "merged / alone"], rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="64 KiB pages, one round")
    parser.add_argument("--json", type=Path, help="write every result to this file")
    parser.add_argument("--rounds", type=int, help="rounds instead of three")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    parser.add_argument(
        "--rivals", nargs="+", choices=list(RIVALS), default=list(RIVALS), metavar="NAME"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
