"""Time to first token with several clients at once, by the tier that the prompts come back from.

    scripts/bench load --quick           at most 4 minutes
    scripts/bench load --json FILE       about 20 minutes

For each number of clients, in each round, each row is asked the same new prompts: cold, again from
the device, and rows with a disk again after device and host were emptied, with a cold page cache
and then with a hot one. The clients share the prompts in a closed loop. Rows run side by side and
take turns, in an order that rotates.

Load time is the TTFT of a disk hit minus that of the device hit of the same prompt in the same
round. With many clients both contain waiting for the others' computing.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark import models
from benchmark.clients import closed_loop
from benchmark.harness import machine_facts, print_facts, write_json
from benchmark.prompts import Prompts
from benchmark.publish.load import body
from benchmark.serving import Server, ServerError
from benchmark.tiers import disk_environment, disk_flags, pool_flags
from benchmark.ttft_report import COLD, DEVICE, DISK_COLD, DISK_HOT
from benchmark.ttft_servers import PAGE_SIZE, Row, RunningRow

HOME = Path(__file__).parent.parent / ".cache" / "bench-load"
ROWS = ("recompute", "file", "file tuned", "lsm")
_BUDGET_BYTES = 24 * 10**9


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked."""

    prompt_tokens: int
    """Whole pages and one token."""
    num_prompts: int
    clients: tuple[int, ...]
    rounds: int


FULL = Plan(1025, 8, (1, 4, 8), 3)
QUICK = Plan(513, 4, (1, 4), 1)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables; return 1 where a server failed."""
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    facts = machine_facts(Path(__file__).parent)
    try:
        samples, rates = measure(plan, options.rows)
    except (ServerError, models.ModelError) as error:
        print(f"bench load: {error}", file=sys.stderr)
        return 1
    settings = {**asdict(plan), "model": models.KV_HEAVY.name, "page_size": PAGE_SIZE}
    report = {
        "benchmark": "load",
        "machine": facts,
        "settings": {**settings, "prefetch_policy": "wait_complete", "new_tokens": 1},
        "samples": [asdict(sample) for sample in samples],
        "rates": [asdict(rate) for rate in rates],
    }
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 0


def measure(plan: Plan, names: Sequence[str]) -> tuple[list[LoadSample], list[Rate]]:
    """Start all rows, ask everything, stop them.

    Raises:
        ServerError: a server failed.
    """
    directory = models.random_llama(models.KV_HEAVY)
    prompts = Prompts(directory, real_text=False)
    samples: list[LoadSample] = []
    rates: list[Rate] = []
    shutil.rmtree(HOME, ignore_errors=True)
    try:
        with ExitStack() as stack:
            rows = [_start(name, directory, plan, stack) for name in names]
            # The round before the first meets first uses of shapes and memory; it is thrown away.
            for number in range(plan.rounds + 1):
                for clients in plan.clients if number else plan.clients[-1:]:
                    asked = [prompts.next(plan.prompt_tokens) for _ in range(plan.num_prompts)]
                    at = number % len(rows)
                    for row in (*rows[at:], *rows[:at]):
                        _say(f"round {number} of {plan.rounds}, {clients} clients, {row.row.name}")
                        found = list(_phases(row, asked, clients, number))
                        if number:
                            samples += [sample for some, _ in found for sample in some]
                            rates += [rate for _, rate in found]
    finally:
        shutil.rmtree(HOME, ignore_errors=True)
    return samples, rates


def _phases(
    row: RunningRow, prompts: Sequence[Sequence[int]], clients: int, number: int
) -> Iterator[tuple[list[LoadSample], Rate]]:
    full_tokens = sum((len(one) - 1) // PAGE_SIZE * PAGE_SIZE for one in prompts)

    def ask(phase: str) -> tuple[list[LoadSample], Rate]:
        place = {
            "row": row.row.name,
            "phase": phase,
            "clients": clients,
            "round_number": number,
        }
        return _asked(row.server, prompts, clients, place)

    yield ask(COLD)
    if row.row.name == "recompute":
        return
    yield ask(DEVICE)
    if not row.row.has_disk:
        row.flush(num_tokens=0, drop_page_cache=False)
        return
    row.flush(num_tokens=full_tokens, drop_page_cache=True)
    yield ask(DISK_COLD)
    row.flush(num_tokens=0, drop_page_cache=False)
    yield ask(DISK_HOT)
    row.flush(num_tokens=0, drop_page_cache=False)


def _asked(
    server: Server, prompts: Sequence[Sequence[int]], clients: int, place: Mapping[str, object]
) -> tuple[list[LoadSample], Rate]:
    load = closed_loop(server, prompts, num_clients=clients)
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
    return samples, Rate(**place, prompt_tokens_per_s=load.prompt_tokens / load.wall_s)


def _start(name: str, model: Path, plan: Plan, stack: ExitStack) -> RunningRow:
    data = HOME / name.replace(" ", "-")
    data.mkdir(parents=True)
    _say(f"starting {name}")
    # All prompts of a round fit the device, so that a device hit is one.
    pool_tokens = (plan.num_prompts + 1) * (plan.prompt_tokens + 2 * PAGE_SIZE)

    def flags(directory: Path) -> Sequence[str]:
        tier = disk_flags(name, directory, budget_bytes=_BUDGET_BYTES, wait_complete=True)
        return (*pool_flags(PAGE_SIZE, pool_tokens=pool_tokens), *tier)

    row = Row(name, flags, has_disk=name not in ("recompute", "host"))
    log = HOME / f"{data.name}.log"
    server = Server.start(model, row.flags(data), log=log, env=disk_environment(data))
    return RunningRow(row, stack.enter_context(server), data)


def _say(text: str) -> None:
    print(f"bench load: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short prompts, 1 and 4 clients")
    parser.add_argument(
        "--rows", nargs="+", choices=(*ROWS, "host"), default=ROWS, metavar="ROW", help="quoted"
    )
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
