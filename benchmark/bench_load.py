"""Time to first token with several clients at once, by the tier that the prompts come back from.

    scripts/bench load --quick              about 2 minutes
    scripts/bench load --json FILE          about 11 minutes, prompts of 1k tokens
    scripts/bench load --long --json FILE   about 14 minutes, prompts of 4k tokens
    scripts/bench load --16k --json FILE    about 8 minutes, one prompt of 16k tokens

For each number of clients, in each round, each row is asked the same new prompts: cold, again from
the device, and rows with a disk again after device and host were emptied, with a cold page cache
and then with a hot one. The host row is asked again after others have pushed its prompts off the
device. The clients share the prompts in a closed loop. The rows of one group run side by side and
take turns, in an order that rotates; the groups, which do not fit into memory together, one after
the other: what is compared with ours is in its group. `sim` loads no bytes and so answers wrongly:
it is the bound.

The long forms compute their prompts once, in the first round, asked by one client, and ask for them
as often as there are numbers of clients. Each round of a row is a server of its own, which has the
machine to itself; in the later ones the prompts first come back after the restart, with a cold page
cache. So a process that had slow memory or a slow minute is one of several.

Load time is the TTFT of a disk hit minus that of the device hit of the same prompt in the same
round. With many clients both contain waiting for the others' computing.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmark import models
from benchmark.clients import closed_loop
from benchmark.harness import collect, machine_facts, print_facts, write_json
from benchmark.prompts import Prompts
from benchmark.publish.load import RESTART, body
from benchmark.rivals.disk import allocated_bytes, drop_cached_pages
from benchmark.serving import Server, ServerError, scheduler_ms, start_all
from benchmark.tiers import (
    BACKENDS,
    LMCACHE_LEFT_OUT,
    POLICIES,
    disk_environment,
    pool_flags,
)
from benchmark.ttft_report import COLD, DEVICE, DISK_COLD, DISK_HOT, HOST_HIT
from benchmark.ttft_servers import PAGE_SIZE, Row, RunningRow, tier_row

AnyRow = TypeVar("AnyRow", Row, RunningRow)
HOME = Path(__file__).parent.parent / ".cache" / "bench-load"
_BUDGET_BYTES = 24 * 10**9
ROWS = tuple(name for name in BACKENDS if name == "lsm" or name not in POLICIES)
LEFT_OUT = {
    "lsm, selective and evict": "what is asked here is reading; `bench agent` has every policy",
    "prompts of 32k tokens": "two cores compute one in about 8 minutes, each row anew",
    "LMCache": LMCACHE_LEFT_OUT,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked."""

    prompt_tokens: int
    """Whole pages and one token."""
    num_prompts: int
    clients: tuple[int, ...]
    rounds: int
    groups: tuple[tuple[str, ...], ...]
    """Rows that run side by side."""
    host_ratio: float
    """Pool of the host over that of the device, which holds all prompts of a round. Where there is
    a host row, the host holds what pushes them off the device, too."""
    computes_once: bool = False
    """Ask for what was computed with every number of clients, instead of computing for each; a row
    and round is a server, one at a time."""


_SIDE_BY_SIDE = ("recompute", "file", "file tuned", "lsm")
FULL = Plan(1025, 8, (1, 4, 8), 2, (_SIDE_BY_SIDE, ("host", "sim")), 2.25)
LONG = Plan(4097, 8, (1, 4, 8), 2, (("file", "file tuned", "lsm"),), 2.0, computes_once=True)
LONGEST = replace(LONG, prompt_tokens=16385, num_prompts=1, clients=(1,), groups=(("file", "lsm"),))
WARM_UP_TOKENS = 1025
"""At most; what is first used are shapes and memory, not lengths."""
QUICK = Plan(513, 4, (1, 4), 1, (_SIDE_BY_SIDE,), 2.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSample:
    """One request."""

    row: str
    phase: str
    clients: int
    round_number: int
    prompt: int
    """Number of the prompt in its round, the same for every row."""
    ttft_s: float
    disk_tokens: int
    device_tokens: int
    host_tokens: int
    output_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """All requests of one row and phase together."""

    row: str
    phase: str
    clients: int
    round_number: int
    prompt_tokens_per_s: float
    cpu_s: float
    """Of the server, what it wrote meanwhile included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """One server at its end."""

    row: str
    round_number: int
    """The last one it took part in."""
    disk_bytes: int
    scheduler_ms: Mapping[str, float]
    """Time of our code on the scheduler thread, of a request; empty for other rows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables; return 1 where something is missing."""
    options = _parser().parse_args(arguments)
    plan = options.plan
    if options.rows:
        plan = replace(plan, groups=(tuple(options.rows),))
    facts = machine_facts(Path(__file__).parent)
    samples: list[LoadSample] = []
    rates: list[Rate] = []
    # What was found before an interrupt or a failure is told all the same.
    jobs = [lambda group=group: measure(plan, group, samples, rates) for group in plan.groups]
    totals, ended_early = collect(jobs, (ServerError, models.ModelError))
    if ended_early:
        print(f"bench load: {ended_early}", file=sys.stderr)
    if not samples:
        return 1
    settings = {**asdict(plan), "rows": " | ".join(", ".join(group) for group in plan.groups)}
    settings |= {"model": models.KV_HEAVY.name, "page_size": PAGE_SIZE}
    report = {
        "benchmark": "load",
        "machine": facts,
        "settings": {**settings, "prefetch_policy": "wait_complete", "new_tokens": 1},
        "left_out": LEFT_OUT,
        "samples": [asdict(sample) for sample in samples],
        "rates": [asdict(rate) for rate in rates],
        "totals": [asdict(total) for total in totals],
        "ended_early": ended_early,
    }
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 1 if ended_early else 0


def measure(
    plan: Plan, names: Sequence[str], samples: list[LoadSample], rates: list[Rate]
) -> list[Total]:
    """Start the rows of one group, ask everything, stop them; add to what was found.

    Raises:
        ServerError: a server failed.
    """
    model = models.random_llama(models.KV_HEAVY)
    prompts = Prompts(model, real_text=False)
    rows = [_row(name, plan) for name in names]
    shutil.rmtree(HOME, ignore_errors=True)
    try:
        if plan.computes_once:
            return _one_at_a_time(plan, rows, model, prompts, samples, rates)
        return _side_by_side(plan, rows, model, prompts, samples, rates)
    finally:
        shutil.rmtree(HOME, ignore_errors=True)


def _side_by_side(
    plan: Plan,
    wanted: Sequence[Row],
    model: Path,
    prompts: Prompts,
    samples: list[LoadSample],
    rates: list[Rate],
) -> list[Total]:
    with ExitStack() as stack:
        servers = start_all([partial(_start, row, model) for row in wanted], stack)
        rows = [
            RunningRow(row, server, _folder(row.name))
            for row, server in zip(wanted, servers, strict=True)
        ]
        for number in range(plan.rounds + 1):
            for clients in plan.clients if number else plan.clients[-1:]:
                asked, others = _prompts(plan, prompts, number)
                for row in _in_turn(rows, number):
                    _say(f"round {number} of {plan.rounds}, clients {clients}, {row.row.name}")
                    for some, rate in _phases(row, asked, others, (clients,), number):
                        samples += some if number else ()
                        rates += [rate] if number else ()
        sizes = [allocated_bytes(_folder(row.name)) for row in wanted]
    return [_total(row.name, plan.rounds, size) for row, size in zip(wanted, sizes, strict=True)]


def _one_at_a_time(
    plan: Plan,
    rows: Sequence[Row],
    model: Path,
    prompts: Prompts,
    samples: list[LoadSample],
    rates: list[Rate],
) -> list[Total]:
    asked, others = _prompts(plan, prompts, 1)
    totals = []
    for number in range(1, plan.rounds + 1):
        warm_up, _ = _prompts(plan, prompts, 0)
        for row in _in_turn(rows, number):
            suffix = f"-{number}"
            with ExitStack() as stack:
                (server,) = start_all([partial(_start, row, model, suffix=suffix)], stack)
                running = RunningRow(row, server, _folder(row.name))
                _say(f"round {number} of {plan.rounds}, {row.name}")
                for _ in _phases(running, warm_up, (), plan.clients[-1:], 0):
                    pass
                drop_cached_pages(_folder(row.name))
                first = RESTART if number > 1 else COLD
                for some, rate in _phases(running, asked, others, plan.clients, number, first):
                    samples += some
                    rates += [rate]
                size = allocated_bytes(_folder(row.name))
            totals.append(_total(row.name, number, size, suffix=suffix))
    return totals


def _in_turn(rows: Sequence[AnyRow], number: int) -> list[AnyRow]:
    at = number % len(rows)
    return [*rows[at:], *rows[:at]]


def _total(name: str, number: int, disk_bytes: int, *, suffix: str = "") -> Total:
    # A server tells its time on the scheduler thread at its end.
    told = scheduler_ms(_log(name + suffix))
    return Total(row=name, round_number=number, disk_bytes=disk_bytes, scheduler_ms=told)


def _prompts(plan: Plan, prompts: Prompts, number: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return new prompts for a round, and others to push them off the device.

    Round 0 meets first uses of shapes and memory and is thrown away: a few short ones do.
    """
    if not number:
        tokens = min(WARM_UP_TOKENS, plan.prompt_tokens)
        few = max(1, plan.num_prompts // 2)
        return [prompts.next(tokens) for _ in range(few)], [prompts.next(tokens)]
    return tuple(
        [prompts.next(plan.prompt_tokens) for _ in range(plan.num_prompts + more)]
        for more in (0, 1)
    )


def _phases(
    row: RunningRow,
    prompts: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
    batch: Sequence[int],
    number: int,
    first: str = COLD,
) -> Iterator[tuple[list[LoadSample], Rate]]:
    """Ask for the prompts in every way the row has, with each number of clients.

    Args:
        first: how they come at first; after a restart they are on disk already.
    """
    full_tokens = sum((len(one) - 1) // PAGE_SIZE * PAGE_SIZE for one in prompts)
    if first == RESTART:
        full_tokens = 0

    def ask(phase: str, clients: int) -> tuple[list[LoadSample], Rate]:
        place = {
            "row": row.row.name,
            "phase": phase,
            "clients": clients,
            "round_number": number,
        }
        return _asked(row.server, prompts, clients, place)

    yield ask(first, batch[0])
    if row.row.name == "recompute":
        return
    for clients in batch:
        yield ask(DEVICE, clients)
    if not row.row.has_disk:
        for clients in batch:
            closed_loop(row.server, others, num_clients=clients)
            yield ask(HOST_HIT, clients)
        row.flush(num_tokens=0, drop_page_cache=False)
        return
    for clients in batch:
        row.flush(num_tokens=full_tokens, drop_page_cache=True)
        full_tokens = 0
        yield ask(DISK_COLD, clients)
        row.flush(num_tokens=0, drop_page_cache=False)
        yield ask(DISK_HOT, clients)
    row.flush(num_tokens=0, drop_page_cache=False)


def _asked(
    server: Server, prompts: Sequence[Sequence[int]], clients: int, place: Mapping[str, object]
) -> tuple[list[LoadSample], Rate]:
    before_s = server.cpu_s()
    load = closed_loop(server, prompts, num_clients=clients)
    used_s = server.cpu_s() - before_s
    samples = [
        LoadSample(
            **place,
            prompt=prompt,
            ttft_s=reply.ttft_s,
            disk_tokens=reply.cached.disk,
            device_tokens=reply.cached.device,
            host_tokens=reply.cached.host,
            output_ids=reply.output_ids,
        )
        for prompt, reply in enumerate(load.replies)
    ]
    tokens_per_s = load.prompt_tokens / load.wall_s
    return samples, Rate(**place, prompt_tokens_per_s=tokens_per_s, cpu_s=used_s)


def _row(name: str, plan: Plan) -> Row:
    # All prompts of a round fit the device, so that a device hit is one.
    pool_tokens = plan.num_prompts * (plan.prompt_tokens + 2 * PAGE_SIZE)
    pools = pool_flags(PAGE_SIZE, pool_tokens=pool_tokens, host_ratio=plan.host_ratio)
    return tier_row(name, pools, budget_bytes=_BUDGET_BYTES)


def _start(row: Row, model: Path, *, suffix: str = "") -> Server:
    data = _folder(row.name)
    data.mkdir(parents=True, exist_ok=True)
    _say(f"starting {row.name}{suffix}")
    log = _log(row.name + suffix)
    return Server.start(model, row.flags(data), log=log, env=disk_environment(data))


def _folder(name: str) -> Path:
    return HOME / name.replace(", ", "-").replace(" ", "-")


def _log(name: str) -> Path:
    return HOME / f"{_folder(name).name}.log"


def _say(text: str) -> None:
    print(f"bench load: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, plan, told in (
        ("--quick", QUICK, "short prompts, 1 and 4 clients"),
        ("--long", LONG, "prompts of 4k tokens"),
        ("--16k", LONGEST, "one prompt of 16k tokens"),
    ):
        parser.add_argument(
            name, dest="plan", action="store_const", const=plan, default=FULL, help=told
        )
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help="quoted")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
