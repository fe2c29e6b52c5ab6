"""Is the cost model right: predicted against measured cost, over a grid of settings?

    python -m benchmark.bench_model --quick
    python -m benchmark.bench_model --json FILE             two rounds, under 8 minutes
    python -m benchmark.bench_model --from controller.json --json FILE

Each static arm of `bench controller` runs each workload, or its file is read. Two predictions stand
beside each measured cost: from what the arm itself saw, with what it knew of the device before; and
from what the default arm saw, which is all that a controller knows before it changes something.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from sglang_lsm.controller.profiler import measure_profile
from sglang_lsm.fs import LocalFileSystem

from benchmark.bench_controller import arms_for, default_name, limited, measure_arms
from benchmark.harness import machine_facts, print_facts, write_json
from benchmark.model_error import Pair, pairs_of
from benchmark.publish.model import body
from benchmark.shifting import Setting, as_rows, workloads

_QUICK_SCALE, _SCALE = 0.1, 0.35
"""Lengths of the phases: the second takes under 8 minutes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if a part failed."""
    options = _parser().parse_args(arguments)
    if options.source is not None:
        report = json.loads(options.source.read_text())
        facts, failed = report["machine"], False
        pairs = [
            pair
            for result in report["results"]
            for pair in pairs_of(result["workload"], result["arms"], result["default"])
        ]
    else:
        options.dir.mkdir(parents=True, exist_ok=True)
        facts = machine_facts(options.dir)
        print_facts(facts)
        pairs, failed = _measure(options, facts)
    print(body(_keep(options, facts, pairs)))
    return 1 if failed or not pairs else 0


def _keep(
    options: argparse.Namespace, facts: Mapping[str, object], pairs: Sequence[Pair]
) -> dict[str, object]:
    """Return the report so far, written where it was asked for."""
    document = {
        "benchmark": "model",
        "machine": facts,
        "settings": {"scale": _scale(options), "rounds": options.rounds},
        "rows": [asdict(pair) for pair in pairs],
    }
    if options.json:
        write_json(options.json, document)
    return document


def _measure(options: argparse.Namespace, facts: Mapping[str, object]) -> tuple[list[Pair], bool]:
    pairs: list[Pair] = []
    failed = False
    with tempfile.TemporaryDirectory(dir=options.dir) as name, limited(options.limit) as group:
        directory = Path(name)
        profile = measure_profile(LocalFileSystem(), directory)
        memory_bytes = options.limit << 20 if group else 0
        setting = Setting(profile, options.recompute * 1e9, group, options.seed, memory_bytes)
        for workload in workloads(scale=_scale(options)):
            if options.workloads and workload.name not in options.workloads:
                continue
            arms = arms_for(workload, "quick" if options.quick else "star")
            default = default_name(arms)
            arms = [arm for arm in arms if arm.mode == "off"]
            costs = measure_arms(arms, workload, directory, setting, options.rounds)
            failed |= any(len(rounds) < options.rounds for rounds in costs.values())
            rows = {
                arm: {number: list(as_rows(phases)) for number, phases in rounds.items()}
                for arm, rounds in costs.items()
            }
            pairs += pairs_of(workload.name, rows, default)
            _keep(options, facts, pairs)
    return pairs, failed


def _scale(options: argparse.Namespace) -> float:
    return options.scale or (_QUICK_SCALE if options.quick else _SCALE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short phases, a small grid")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="of controller")
    parser.add_argument("--json", type=Path, help="write every pair to this file")
    parser.add_argument("--rounds", type=int, default=2, help="two tell how noisy it is")
    parser.add_argument("--scale", type=float, help="length of the phases, 0.35; 0.1 if --quick")
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("--limit", type=int, default=768, metavar="MIB", help="of memory")
    parser.add_argument(
        "--recompute", type=float, default=1.3, metavar="GB/S", help="KV computed a second"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
