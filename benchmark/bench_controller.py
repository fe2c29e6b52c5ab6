"""Does tuning pay, on workloads that shift: against the default, each static setting, an oracle?

    python -m benchmark.bench_controller --quick            half of the workloads, two minutes
    python -m benchmark.bench_controller --trace mooncake.jsonl.gz --json FILE
                                                            three rounds, under 25 minutes
    python -m benchmark.bench_controller --scale 2.1 --interval 0.3 --rounds 1 --json FILE
                                                            phases three times as long
    python -m benchmark.bench_controller --full             the whole grid, long phases

Each arm runs each workload on a fresh store; arms are shuffled in each round. The cost of a phase
is waiting in calls, making durable, CPU, and computing what was missed, in seconds. `oracle` is,
for each phase, the static arm that was cheapest in the other rounds: it knows the phase and changes
for nothing. A memory cgroup bounds the page cache, where one can be made; else sets fit into memory
and modes matter less.
"""

import argparse
import itertools
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.controller.profile import DeviceProfile
from sglang_lsm.controller.profiler import measure_profile
from sglang_lsm.fs import LocalFileSystem

from benchmark.harness import (
    machine_facts,
    print_facts,
    round_ratios,
    summarize,
    table,
    write_json,
)
from benchmark.memory_limit import MemoryLimit, MemoryLimitUnavailableError
from benchmark.publish.controller import (
    OBSERVED,
    TUNED,
    decisions_table,
    oracle_of,
    summary_table,
)
from benchmark.replay.traces import load
from benchmark.shifting import (
    INTERVAL_S,
    Arm,
    PhaseCost,
    Setting,
    Workload,
    as_rows,
    quota_of,
    run_arm,
    settings_name,
    workloads,
)
from benchmark.workers import Unmeasured, run_alone

Costs = dict[str, dict[int, list[PhaseCost]]]
"""By arm and round."""
ORACLE = "oracle"


Grid = Literal["quick", "modes", "star", "full"]
_SCALES: Mapping[Grid, float] = {"quick": 0.2, "modes": 0.7, "star": 0.7, "full": 1.0}
"""Lengths of the phases."""
_QUICK_WORKLOADS = ("hit rates", "flip", "prompts")
_ROUNDS: Mapping[Grid, int] = {"quick": 1, "modes": 3, "star": 1, "full": 1}
_MODES, _ADMISSIONS, _MERGE = ("auto", "buffered", "direct"), ("first", "second"), 64 * MIB


def arms_for(workload: Workload, grid: Grid) -> list[Arm]:
    """Return the arms: the static grid, the default among it, and the two with a controller.

    Every grid has each I/O mode with each admission, `quick` and `modes` nothing else; `star` also
    threads and merging, one at a time from the default; `full` all combinations.
    """
    base = StoreConfig(quota_bytes=quota_of(workload), log=LogConfig(segment_bytes=64 * MIB))
    threads, merges = ((1, 4, 8), (0, _MERGE)) if grid == "full" else ((4,), (_MERGE,))
    places = list(itertools.product(_MODES, _ADMISSIONS, threads, merges))
    if grid == "star":
        places += [("auto", "first", 1, _MERGE), ("auto", "first", 8, _MERGE)]
        places += [("auto", "first", 4, 0)]
    arms = []
    for mode, admission, num, merge in places:
        log = replace(base.log, io_mode=mode, reader_threads=num, merge_bytes_per_s=merge)
        config = replace(base, admission=admission, log=log)
        arms.append(Arm(settings_name(config), config))
    return [*arms, Arm(TUNED, base, "auto"), Arm(OBSERVED, base, "observe")]


def default_name(arms: Sequence[Arm]) -> str:
    """Return the static arm that is the default configuration."""
    base = next(arm.config for arm in arms if arm.mode == "auto")
    return next(arm.name for arm in arms if arm.mode == "off" and arm.config == base)


def measure_arms(
    arms: Sequence[Arm], workload: Workload, directory: Path, setting: Setting, rounds: int
) -> Costs:
    """Run each arm in each round, in an order of its own; an arm that failed is left out.

    A page that came back changed stops everything.
    """
    costs: Costs = {arm.name: {} for arm in arms}
    for number in range(rounds):
        order = list(arms)
        random.Random(setting.seed + number).shuffle(order)
        for arm in order:
            found = run_alone(run_arm, arm, arms, workload, directory / "store", setting)
            if isinstance(found, Unmeasured):
                print(f"{workload.name}, {arm.name}: {found.reason}", file=sys.stderr)
                continue
            costs[arm.name][number] = found
    return costs


def totals(costs: Costs, name: str, arms: Sequence[Arm]) -> dict[int, float]:
    """Return the whole cost of an arm, or of the oracle, by round."""
    if name == ORACLE:
        static = {
            arm.name: {n: list(as_rows(p)) for n, p in costs[arm.name].items()}
            for arm in arms
            if arm.mode == "off"
        }
        return oracle_of(static)
    return {n: sum(c.total_s for c in phases) for n, phases in costs[name].items()}


def report(workload: Workload, arms: Sequence[Arm], costs: Costs) -> str:
    """Return the table of one workload, and what the controller changed in its first round."""
    default = totals(costs, default_name(arms), arms)
    names = [*(arm.name for arm in arms), ORACLE]
    rows = []
    for name in names:
        mine = totals(costs, name, arms)
        found, ratio = summarize(mine.values()), round_ratios(mine, default)
        if found is None or ratio is None:
            continue
        phases = [] if name == ORACLE else next(iter(costs[name].values()))
        rows.append([name, str(found), str(ratio), *(f"{p.total_s:.2f}" for p in phases)])
    rows = [row + [""] * (3 + len(workload.phases) - len(row)) for row in rows]
    head = ["arm", "cost s", "/ default", *(name for name, _ in workload.phases)]
    lines = [f"\n### {workload.name}\n", table(head, rows)]
    for phase in next(iter(costs[TUNED].values()), []):
        for seconds, num_requests, text in phase.changes:
            lines.append(f"{phase.name}: after {seconds:.2f} s, {num_requests} requests: {text}")
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark; 1 if a part failed."""
    options = _parser().parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    facts = machine_facts(options.dir)
    trace = load(options.trace) if options.trace else ()
    grid = _grid(options)
    rounds = options.rounds or _ROUNDS[grid]
    chosen = workloads(scale=options.scale or _SCALES[grid], trace=trace)
    names = options.workloads or (_QUICK_WORKLOADS if options.quick else None)
    chosen = [w for w in chosen if names is None or w.name in names]
    results: list[dict[str, object]] = []
    failed = False
    with tempfile.TemporaryDirectory(dir=options.dir) as name, limited(options.limit) as group:
        directory = Path(name)
        profile = measure_profile(LocalFileSystem(), directory)
        memory_bytes = options.limit << 20 if group else 0
        setting = Setting(
            profile,
            options.recompute * 1e9,
            group,
            options.seed,
            memory_bytes,
            options.interval,
        )
        print_facts({**facts, "memory_limit_mib": options.limit if group else "none"})
        for workload in chosen:
            arms = arms_for(workload, grid)
            costs = measure_arms(arms, workload, directory, setting, rounds)
            failed |= any(len(found) < rounds for found in costs.values())
            result = _result(workload, arms, costs)
            text = f"{report(workload, arms, costs)}\n\n{decisions_table(result)}"
            print(text, flush=True)
            results.append(result | {"text": text})
            if options.json:
                # What is done is kept, whatever happens to the rest.
                write_json(options.json, _document(facts, profile, options, results))
    print(f"\n{summary_table(results)}")
    return 1 if failed else 0


def _grid(options: argparse.Namespace) -> Grid:
    if options.quick or options.full:
        return "quick" if options.quick else "full"
    return "star" if options.star else "modes"


def _result(workload: Workload, arms: Sequence[Arm], costs: Costs) -> dict[str, object]:
    return {
        "workload": workload.name,
        "default": default_name(arms),
        "static": [arm.name for arm in arms if arm.mode == "off"],
        "stores": {arm.name: arm.config.admission for arm in arms if arm.mode == "off"},
        "arms": {
            arm: {number: list(as_rows(phases)) for number, phases in rounds.items()}
            for arm, rounds in costs.items()
        },
    }


def _document(
    facts: object, profile: DeviceProfile, options: argparse.Namespace, results: list[object]
) -> dict[str, object]:
    # Where files lie is the machine's business.
    settings = {
        name: value.name if isinstance(value, Path) else str(value)
        for name, value in vars(options).items()
    } | {"interval_s": options.interval}
    points = [
        (p.kind, p.io_bytes, p.depth, p.bytes_per_s, p.cpu_s_per_byte) for p in profile.points
    ]
    return {
        "benchmark": "controller", "machine": facts, "settings": settings, "profile": points,
        "results": results,
    }  # fmt: skip


@contextmanager
def limited(mib: int) -> Iterator[Path | None]:
    """Yield a memory cgroup of so many MiB to run in; None where none can be made."""
    try:
        limit = MemoryLimit(mib << 20)
    except MemoryLimitUnavailableError as error:
        print(f"no memory limit: {error}", file=sys.stderr)
        yield None
        return
    try:
        yield limit.group
    finally:
        limit.remove()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short phases, a small grid")
    parser.add_argument("--star", action="store_true", help="threads and merging, too, one round")
    parser.add_argument("--full", action="store_true", help="long phases, the whole grid")
    parser.add_argument("--json", type=Path, help="write every result to this file")
    parser.add_argument("--rounds", type=int, help="3; 1 if --quick, --star or --full")
    parser.add_argument("--scale", type=float, help="length of the phases, 0.7; 0.2 if --quick")
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("--trace", type=Path, help="a real trace, see benchmark/replay/traces.py")
    parser.add_argument("--limit", type=int, default=768, metavar="MIB", help="of memory")
    parser.add_argument(
        "--recompute", type=float, default=1.3, metavar="GB/S",
        help="KV computed a second: 10,000 tokens of 128 KiB, as an 8B model on one GPU",
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=float, default=INTERVAL_S, metavar="S", help="between looks"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
