"""What does each part of the engine bring? Each is changed alone, the rest stays as it comes.

    scripts/bench ablation --quick            under 2 minutes
    scripts/bench ablation --json FILE        at most 6 minutes

Every variant runs in a process of its own, order shuffled a round. Engine variants put, sync, read
hot and read cold the same pages as in `bench engine`, 32 a batch; keys are compared as in `bench
index`, merging as in `bench scatter`. Ratios are variant over engine as it comes, inside a round.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.bench_index import IndexCell, measure_index
from benchmark.bench_scatter import ScatterCell, measure_scatter
from benchmark.harness import machine_facts, print_facts, write_json
from benchmark.measure import Cell, Figures, measure
from benchmark.publish.parts import body
from benchmark.workers import Unmeasured, run_alone

KIB, MIB = 1 << 10, 1 << 20
ENGINE = (
    "store_auto",
    "store_page_calls",
    "store_unverified",
    "store_buffered",
    "store_direct",
    "store_1_reader",
    "store_2_readers",
    "sst",
    "blobdb",
)
KEYS = ("radix_path", "group_ordered", "flat_hash")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    page_sizes: tuple[int, ...]
    set_bytes: int
    num_entries: int


FULL = Plan(3, (64 * KIB, MIB), 256 * MIB, 10**6)
QUICK = Plan(1, (64 * KIB, MIB), 64 * MIB, 10**5)


@dataclass(frozen=True, slots=True)
class Row:
    """One variant in one round."""

    kind: str
    """`engine`, `keys` or `merging`."""
    variant: str
    page_bytes: int
    round_number: int
    figures: Figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print a table a part."""
    options = _parser().parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    plan = QUICK if options.quick else FULL
    facts = machine_facts(options.dir)
    rows: list[Row] = []
    reasons: dict[str, str] = {}
    failed = False
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        for number in range(plan.rounds):
            for kind, variant, page_bytes in _order(plan, options.seed + number):
                place = Path(directory) / "run"
                found = _measure(plan, (kind, variant, page_bytes), place, options.seed + number)
                if isinstance(found, Unmeasured):
                    reasons[variant] = found.reason
                    failed = failed or found.failed
                    continue
                rows += [Row(kind, name, page_bytes, number, f) for name, f in found.items()]
    report = {
        "benchmark": "ablation",
        "machine": facts,
        "settings": asdict(plan),
        "not_measured": reasons,
        "rows": [asdict(row) for row in rows],
    }
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 1 if failed else 0


def _order(plan: Plan, seed: int) -> Iterator[tuple[str, str, int]]:
    jobs = [("engine", name, size) for size in plan.page_sizes for name in ENGINE]
    jobs += [("keys", name, 0) for name in KEYS]
    jobs += [("merging", "store_auto", size) for size in plan.page_sizes]
    random.Random(seed).shuffle(jobs)
    return iter(jobs)


def _measure(
    plan: Plan, job: tuple[str, str, int], directory: Path, seed: int
) -> Mapping[str, Figures] | Unmeasured:
    """Return figures by variant: one job measures both layouts of merging."""
    kind, variant, page_bytes = job
    found: Figures | Mapping[str, Figures] | Unmeasured
    if kind == "merging":
        scattered = ScatterCell(page_bytes, num_writers=8, prefix_pages=64, step_pages=4)
        return run_alone(measure_scatter, variant, scattered, directory, seed=seed)
    if kind == "keys":
        index = IndexCell(variant, plan.num_entries, "large", 1000, seed)
        found = run_alone(measure_index, index, directory)
    else:
        cell = Cell(page_bytes, batch_pages=32, set_bytes=plan.set_bytes, phase_s=0.8)
        found = run_alone(measure, variant, cell, directory, seed=seed)
    return found if isinstance(found, Unmeasured) else {variant: found}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round, small sets")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
