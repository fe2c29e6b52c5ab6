"""Conversations of agents, as real text by their times of arrival: TTFT, hits, CPU and disk.

    scripts/bench agent agent.tar.xz --folder magagent --quick        about 2 minutes, two rows
    scripts/bench agent agent.tar.xz --folder magagent --json FILE    about 13 minutes

SmolLM2 on a real server is asked each turn at its recorded time, scaled so that turns come some
seconds apart on average (open loop: the next comes whether or not the last was answered). Turns
longer than the plan takes are left out. The device holds about one long prompt and the host two, so
that most of what a conversation comes back to lies on disk. Rows: recompute, the host tier alone,
SGLang's `file` with its evictor and metadata cache, `lsm` under each write policy, and SGLang's
`sim`, which loads no bytes and so answers wrongly: the bound. Each has the machine to itself and
replays the same turns.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark import models
from benchmark.clients import Arrival, open_loop
from benchmark.harness import collect, machine_facts, print_facts, write_json
from benchmark.publish.agent import body
from benchmark.replay.traces import Turn, load_turns
from benchmark.rivals.disk import allocated_bytes
from benchmark.serving import Server, ServerError
from benchmark.tiers import (
    BACKENDS,
    HOST_RATIO,
    LMCACHE_LEFT_OUT,
    POLICIES,
    disk_environment,
    disk_flags,
    pool_flags,
)

HOME = Path(__file__).parent.parent / ".cache" / "bench-agent"
ROWS = ("recompute", "host", "file tuned", *POLICIES, "sim")
QUICK_ROWS = ("file tuned", "lsm")
LEFT_OUT = {
    "file": "it differs from file tuned by its look-ups alone here; `bench load` has it",
    "LMCache": LMCACHE_LEFT_OUT,
}
PAGE_SIZE, ANSWER_TOKENS = 64, 4
_BUDGET_BYTES = 8 * 10**9


@dataclass(frozen=True, slots=True)
class Plan:
    """Which turns are asked, and how fast."""

    num_turns: int
    most_tokens: int
    """Longer turns are left out."""
    mean_gap_s: float
    """Between arrivals."""


FULL = Plan(16, 3072, 4.0)
QUICK = Plan(6, 2048, 2.5)
SESSIONS, QUICK_SESSIONS = 8, 3
"""Conversations at once: more than device and host hold, so that disks have something to bring; of
few turns, few enough that some come back."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table; return 1 where a server failed."""
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    sessions = options.sessions or (QUICK_SESSIONS if options.quick else SESSIONS)
    facts = machine_facts(Path(__file__).parent)
    try:
        model = models.smollm2()
        turns = load_turns(options.trace, folder=options.folder, sessions=sessions)
        arrivals = arrivals_of(turns, model, plan)
        if not arrivals:
            raise models.ModelError(f"no turn has at most {plan.most_tokens} tokens")
    except models.ModelError as error:
        print(f"bench agent: {error}", file=sys.stderr)
        return 1
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    ratio = options.host_ratio
    runs, ended_early = collect(
        [lambda name=name: [measure(name, model, arrivals, plan, ratio)] for name in rows],
        (ServerError,),
    )
    if ended_early:
        print(f"bench agent: {ended_early}", file=sys.stderr)
    if not runs:
        return 1
    settings = {
        **asdict(plan),
        "model": "smollm2",
        "page_size": PAGE_SIZE,
        "prefetch_policy": "wait_complete",
        "trace": options.trace.name,
        "folder": options.folder,
        "sessions": sessions,
        "turns_asked": len(arrivals),
        "host_ratio": ratio,
    }
    report = {"benchmark": "agent", "machine": facts, "settings": settings, "runs": runs}
    report["left_out"] = LEFT_OUT
    report["ended_early"] = ended_early
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 1 if ended_early else 0


def arrivals_of(turns: Sequence[Turn], model: Path, plan: Plan) -> list[Arrival]:
    """Return the first turns that fit, as tokens, their times scaled to the plan's mean gap."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    fitting: list[tuple[int, list[int]]] = []
    for turn in turns:
        if len(fitting) == plan.num_turns:
            break
        ids = tokenizer(turn.text)["input_ids"]
        if PAGE_SIZE < len(ids) <= plan.most_tokens:
            fitting.append((turn.timestamp, ids))
    return scaled(fitting, plan.mean_gap_s)


def scaled(turns: Sequence[tuple[int, Sequence[int]]], mean_gap_s: float) -> list[Arrival]:
    """Return arrivals whose gaps keep their proportions and have that mean; the first is at 0."""
    if not turns:
        return []
    first, last = turns[0][0], turns[-1][0]
    span_s = mean_gap_s * (len(turns) - 1)
    scale = span_s / (last - first) if last > first else 0.0
    return [Arrival((timestamp - first) * scale, ids) for timestamp, ids in turns]


def measure(
    name: str, model: Path, arrivals: Sequence[Arrival], plan: Plan, host_ratio: float
) -> dict[str, object]:
    """Start one row, let all arrivals come, and return its figures.

    Raises:
        ServerError: the server failed.
    """
    print(f"bench agent: {name}, {len(arrivals)} turns", file=sys.stderr, flush=True)
    shutil.rmtree(HOME, ignore_errors=True)
    data = HOME / "data"
    data.mkdir(parents=True)
    flags = [
        *pool_flags(PAGE_SIZE, pool_tokens=plan.most_tokens + 8 * PAGE_SIZE, host_ratio=host_ratio),
        *disk_flags(name, data, budget_bytes=_BUDGET_BYTES, wait_complete=True),
    ]
    try:
        log = HOME / "server.log"
        with Server.start(model, flags, log=log, env=disk_environment(data)) as server:
            # First uses of memory and code; random ids, so nothing of the turns is in the cache.
            server.generate(input_ids=list(range(100, 100 + 4 * PAGE_SIZE)), max_new_tokens=1)
            before_s = server.cpu_s()
            load = open_loop(server, arrivals, max_new_tokens=ANSWER_TOKENS)
            used_s = server.cpu_s() - before_s
            disk_bytes = allocated_bytes(data)
    finally:
        shutil.rmtree(HOME, ignore_errors=True)
    return {
        "row": name,
        **load.figures(),
        "cpu_s": used_s,
        "disk_bytes": disk_bytes,
        "ttft_s": load.ttft_s,
        "output_ids": [reply.output_ids for reply in load.replies],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path, help="a tar file of conversations")
    parser.add_argument("--folder", default="", help="the folder of it to read")
    parser.add_argument("--sessions", type=int, help="conversations at once")
    parser.add_argument("--quick", action="store_true", help="few and short turns")
    parser.add_argument("--rows", nargs="+", choices=BACKENDS, metavar="ROW", help="quoted")
    parser.add_argument("--host-ratio", type=float, default=HOST_RATIO, help="host over device")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
