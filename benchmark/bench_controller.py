"""Does tuning pay, on workloads that shift: against the default, each static setting, an oracle?

    python -m benchmark.bench_controller --quick
    python -m benchmark.bench_controller --trace mooncake.jsonl.gz --json FILE

Each arm runs each workload on a fresh store; arms are shuffled in each round. The cost of a phase
is waiting in calls, making durable, CPU, and computing what was missed, in seconds. `oracle` is,
for each phase, the cheapest static arm: it knows the phase and changes for nothing. A memory cgroup
bounds the page cache, where one can be made; else sets fit into memory and modes matter less.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

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
from benchmark.replay.traces import load
from benchmark.shifting import (
    Arm,
    PhaseCost,
    Setting,
    Workload,
    as_rows,
    quota_of,
    run_arm,
    workloads,
)
from benchmark.workers import Unmeasured, run_alone

Costs = dict[str, dict[int, list[PhaseCost]]]
"""By arm and round."""
TUNED, OBSERVED, ORACLE = "tuned", "observe", "oracle"


def arms_for(workload: Workload, *, quick: bool) -> list[Arm]:
    """Return the arms: the static grid, the default among it, and the two with a controller."""
    base = StoreConfig(quota_bytes=quota_of(workload), log=LogConfig(segment_bytes=64 * MIB))
    grid = [
        Arm(
            f"{mode} {admission} {threads} {merge >> 20}",
            replace(
                base,
                admission=admission,
                log=replace(
                    base.log, io_mode=mode, reader_threads=threads, merge_bytes_per_s=merge
                ),
            ),
        )
        for mode in ("auto", "buffered", "direct")
        for admission in ("first", "second")
        for threads in ((4,) if quick else (1, 4, 8))
        for merge in ((64 * MIB,) if quick else (0, 64 * MIB))
    ]
    return [*grid, Arm(TUNED, base, "auto"), Arm(OBSERVED, base, "observe")]


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
    if name != ORACLE:
        return {n: sum(c.total_s for c in phases) for n, phases in costs[name].items()}
    static = [arm.name for arm in arms if arm.mode == "off"]
    rounds = set.intersection(*(set(costs[arm]) for arm in static))
    found = {}
    for number in rounds:
        per_phase = zip(*(costs[arm][number] for arm in static), strict=True)
        found[number] = sum(min(c.total_s for c in phase) for phase in per_phase)
    return found


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
    chosen = workloads(scale=options.scale or (0.15 if options.quick else 1.0), trace=trace)
    chosen = [w for w in chosen if not options.workloads or w.name in options.workloads]
    if options.quick and not options.workloads:
        chosen = [w for w in chosen if w.name in ("hit rates", "scan burst")]
    results, failed = [], False
    with tempfile.TemporaryDirectory(dir=options.dir) as name, limited(options.limit) as group:
        directory = Path(name)
        profile = measure_profile(LocalFileSystem(), directory)
        setting = Setting(profile, options.recompute * 1e9, group, options.seed)
        print_facts({**facts, "memory_limit_mib": options.limit if group else "none"})
        for workload in chosen:
            arms = arms_for(workload, quick=options.quick)
            costs = measure_arms(arms, workload, directory, setting, options.rounds)
            failed |= any(len(rounds) < options.rounds for rounds in costs.values())
            text = report(workload, arms, costs)
            print(text, flush=True)
            results.append(_result(workload, costs) | {"text": text})
    if options.json:
        write_json(options.json, _document(facts, profile, options, results))
    return 1 if failed else 0


def _result(workload: Workload, costs: Costs) -> dict[str, object]:
    return {
        "workload": workload.name,
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
    }
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
    parser.add_argument("--quick", action="store_true", help="two workloads, a small grid")
    parser.add_argument("--json", type=Path, help="write every result to this file")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scale", type=float, help="length of the phases; 1 unless quick")
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("--trace", type=Path, help="a real trace, see benchmark/replay/traces.py")
    parser.add_argument("--limit", type=int, default=768, metavar="MIB", help="of memory")
    parser.add_argument(
        "--recompute", type=float, default=1.3, metavar="GB/S",
        help="KV computed a second: 10,000 tokens of 128 KiB, as an 8B model on one GPU",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
