"""How fast does each way of keeping pages put and get them, and what does it cost?

    python -m benchmark.bench_engine --quick             under 3 minutes, a sketch
    python -m benchmark.bench_engine --json FILE         the full grid, at most 25 minutes

Every rival runs in a process of its own. A round measures every grid point once, the rivals of a
point one after the other in shuffled order, so that a ratio compares runs seconds apart; figures
are medians over rounds with their range. Reads end in the caller's memory and are compared byte for
byte. "hot" is read nine times before, so it may sit in the page cache or in a cache of the rival's
own; "cold" is right after both were emptied. CPU seconds cover all threads of the process, not the
kernel's writeback.
"""

import argparse
import dataclasses
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmark.harness import machine_facts, print_facts, write_json
from benchmark.measure import Cell
from benchmark.memory_limit import MemoryLimit, MemoryLimitUnavailableError
from benchmark.report import (
    SPEED,
    Measured,
    Reasons,
    plot_speeds,
    point_tables,
    point_title,
    ratio_table,
)
from benchmark.rivals import RIVALS
from benchmark.workers import Task, Worker, WorkerDiedError, worker_pool

KIB, MIB = 1 << 10, 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The grid and how long it may take."""

    cells: tuple[Cell, ...]
    num_rounds: int
    limit_minutes: float


def quick_plan() -> Plan:
    """A sketch: two page sizes, one batch size, small sets."""
    sizes = (64 * KIB, MIB)
    cells = [
        Cell(page_bytes=size, batch_pages=32, set_bytes=64 * MIB, phase_s=0.3) for size in sizes
    ]
    return Plan(tuple(cells), num_rounds=2, limit_minutes=2.5)


def full_plan(memory_limit_bytes: int) -> Plan:
    """All page and batch sizes, and two points whose set the page cache cannot hold."""
    sizes = (64 * KIB, 256 * KIB, MIB, 2 * MIB)
    cells = [
        Cell(page_bytes=size, batch_pages=batch, set_bytes=set_bytes, phase_s=0.8)
        # The batch that the promises are about comes first, should time run out.
        for batch, set_bytes in ((32, 256 * MIB), (1, 64 * MIB), (128, 128 * MIB))
        for size in sizes
    ]
    if memory_limit_bytes:
        cells += [
            Cell(
                page_bytes=size,
                batch_pages=32,
                set_bytes=2 * memory_limit_bytes,
                phase_s=3.0,
                memory_limit_bytes=memory_limit_bytes,
            )
            for size in (256 * KIB, MIB)
        ]
    return Plan(tuple(cells), num_rounds=3, limit_minutes=25.0)


class Driver:
    """Runs a plan over the workers and keeps what they report.

    A rival that dies in a cell is started anew for the others; that cell is not tried again.
    """

    def __init__(
        self, workers: dict[str, Worker], reasons: dict[str, str], plan: Plan, *, end_s: float
    ) -> None:
        self.cells: list[Measured] = []
        self.reasons: Reasons = {(name, None): reason for name, reason in reasons.items()}
        self._workers = dict(workers)
        self._plan = plan
        self._end_s = end_s

    def run(self, group: Path | None, seed: int) -> bool:
        """Measure round by round; return False where time ran out before the last."""
        for round_number in range(self._plan.num_rounds):
            shuffler = random.Random(seed + round_number)
            for cell in self._plan.cells:
                # Such a set is large and slow on purpose: once a run is what time allows.
                if cell.memory_limit_bytes and round_number > 0:
                    continue
                order = list(self._workers)
                shuffler.shuffle(order)
                for name in order:
                    if time.monotonic() > self._end_s:
                        return False
                    if name not in self._workers or (name, cell.point) in self.reasons:
                        continue
                    place = group if cell.memory_limit_bytes else None
                    self._measure(name, Task(cell, seed + round_number, place), round_number)
        return True

    def _measure(self, name: str, task: Task, round_number: int) -> None:
        cell, worker = task.cell, self._workers[name]
        try:
            figures = worker.run(task)
        except WorkerDiedError as error:
            self.reasons[name, cell.point] = f"failed: {error}"
            self._restart(worker)
            return
        self.cells.append(
            Measured(
                name,
                cell.page_bytes,
                cell.batch_pages,
                cell.memory_limit_bytes,
                round_number,
                figures,
            )
        )

    def _restart(self, worker: Worker) -> None:
        try:
            reason = worker.restart()
        except WorkerDiedError as error:
            reason = f"failed: {error}"
        if reason is not None:
            self.reasons[worker.rival_name, None] = reason
            del self._workers[worker.rival_name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a rival failed. One that cannot run here is only a row."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    limit, why_no_limit = (None, "quick run")
    if not options.quick:
        limit, why_no_limit = _memory_limit(options.memory_limit_mib * MIB)
    plan = _plan(options, with_limit=limit is not None)
    facts = machine_facts(options.dir)
    # The start of the processes counts: importing SGLang alone takes seconds.
    end_s = time.monotonic() + plan.limit_minutes * 60
    try:
        with (
            tempfile.TemporaryDirectory(dir=options.dir) as directory,
            worker_pool(options.rivals, Path(directory)) as (workers, reasons),
        ):
            driver = Driver(workers, reasons, plan, end_s=end_s)
            finished = driver.run(limit.group if limit else None, options.seed)
    finally:
        if limit is not None:
            limit.remove()
    print_facts(facts)
    if limit is None:
        print(f"no set larger than the page cache: {why_no_limit}")
    if not finished:
        print(f"time ran out after {plan.limit_minutes} minutes; later rounds are missing")
    _report(driver, options, plan, facts)
    return 1 if any(reason.startswith("failed") for reason in driver.reasons.values()) else 0


def _report(driver: Driver, options: argparse.Namespace, plan: Plan, facts: dict) -> None:
    print(point_tables(driver.cells, options.rivals, driver.reasons))
    for figure, title in SPEED:
        print(f"\n### {title}: our modes over each rival, per round (above 1 is faster)\n")
        print(ratio_table(driver.cells, figure))
    print()
    for (name, point), reason in driver.reasons.items():
        where = f", {point_title(point)}" if point else ""
        print(f"{name} ({RIVALS[name].about}){where}: {reason}")
    if options.json:
        report = {
            "benchmark": "engine",
            "machine": facts,
            "plan": dataclasses.asdict(plan),
            "seed": options.seed,
            "rivals": {name: RIVALS[name].about for name in options.rivals},
            "not_measured": [
                {"rival": name, "point": point, "reason": reason}
                for (name, point), reason in driver.reasons.items()
            ],
            "cells": [dataclasses.asdict(cell) for cell in driver.cells],
        }
        write_json(options.json, report)
    if options.plots:
        for path in plot_speeds(driver.cells, options.rivals, options.plots):
            print(path)


def _memory_limit(limit_bytes: int) -> tuple[MemoryLimit | None, str]:
    try:
        return MemoryLimit(limit_bytes), ""
    except MemoryLimitUnavailableError as error:
        return None, str(error)


def _plan(options: argparse.Namespace, *, with_limit: bool) -> Plan:
    if options.quick:
        plan = quick_plan()
    else:
        plan = full_plan(options.memory_limit_mib * MIB if with_limit else 0)
    if options.batches:
        kept = tuple(cell for cell in plan.cells if cell.batch_pages in options.batches)
        plan = dataclasses.replace(plan, cells=kept)
    if options.rounds:
        plan = dataclasses.replace(plan, num_rounds=options.rounds)
    if options.minutes:
        plan = dataclasses.replace(plan, limit_minutes=options.minutes)
    return plan


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a sketch in under 3 minutes")
    parser.add_argument("--json", type=Path, help="write every measured cell to this file")
    parser.add_argument("--plots", type=Path, help="write PNGs into this directory")
    parser.add_argument("--rounds", type=int, help="rounds instead of the plan's")
    parser.add_argument("--minutes", type=float, help="stop after this many instead of the plan's")
    parser.add_argument(
        "--batches", type=int, nargs="+", metavar="PAGES", help="only these batch sizes of the plan"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory-limit-mib", type=int, default=512)
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(__file__).parents[1] / ".cache" / "bench",
        help="on the disk to be measured; a tmpfs measures nothing",
    )
    parser.add_argument(
        "--rivals", nargs="+", choices=list(RIVALS), default=list(RIVALS), metavar="NAME"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
