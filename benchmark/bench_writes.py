"""How much does each write policy write, and which tier serves then?

    scripts/bench writes conversation_trace.jsonl.gz
    scripts/bench writes agent.tar.xz --folder magagent --sessions 8 --quick
    scripts/bench writes agent.tar.xz --folder magagent --sessions 8 --server

A trace is replayed by page keys through device, host and disk (`benchmark.replay.tiers`): the
policy `evict` and the store are the shipped code. Device and host together hold a share of the
trace's distinct pages, the host twice the device; the disk is endless, or a multiple of both.

`needed` are the different pages read from disk: who knew the future could not write less. `kept at
kill -9` is what writing earlier buys: of the pages in memory that later requests ask for, those
that can be read from disk, at five points of the replay. With `--server` a part of an agent trace
is asked of a real server a policy, whose pages, hits and time on the scheduler thread are counted
(`benchmark.writes_servers`).
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from benchmark.harness import collect, machine_facts, print_facts, short, table, write_json
from benchmark.replay import traces
from benchmark.replay.tier_disks import PAGE_BYTES, EndlessDisk, StoreDisk
from benchmark.replay.tiers import Policy, Served, Tiers
from benchmark.replay.traces import Arrival
from benchmark.serving import ServerError
from benchmark.writes_servers import Asked, ask_servers
from sglang_lsm_patch.options import WriteConfig

SIZES = ((0.1, math.inf), (1 / 3, math.inf), (0.5, math.inf), (1 / 3, 1.0), (1 / 3, 0.5))
"""Pages of device and host over the distinct ones, and of the disk over those of both. A bounded
disk is replayed beside one size of memory only: it takes several times as long."""
QUICK_SIZES, QUICK_REQUESTS = ((1 / 3, math.inf), (1 / 3, 0.5)), 1000
REAL_PAGE_BYTES = 8 << 20
"""Of an 8B model; what the rate of writing behind is scaled by."""
STAGED_SHARE = 8
"""One page in so many of the host tier can be put aside."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A write policy as it is set."""

    name: str
    policy: Policy
    pages_per_hit: float = WriteConfig().pages_per_hit
    delay_s: float = WriteConfig().delay_s


VARIANTS = (
    Variant("through", "through"),
    Variant("selective", "selective"),
    Variant("evict", "evict"),
    Variant("evict, only what leaves", "evict", delay_s=1e9),
    Variant("evict, all kinds", "evict", pages_per_hit=math.inf),
    Variant("evict, all kinds, only what leaves", "evict", math.inf, 1e9),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One variant at one size."""

    variant: str
    memory_share: float
    """Pages of device and host over the trace's distinct pages."""
    disk_per_memory: float
    """Pages of the disk over those of device and host; infinity for an endless one."""
    served: Served


def replay(
    variant: Variant, arrivals: Sequence[Arrival], share: float, disk_per_memory: float
) -> Result:
    """Send all requests through three tiers."""
    distinct = traces.num_distinct([arrival.pages for arrival in arrivals])
    device = max(1, int(share * distinct / 3))
    config = WriteConfig(
        pages_per_hit=variant.pages_per_hit,
        delay_s=variant.delay_s,
        behind_bytes_per_s=WriteConfig().behind_bytes_per_s * PAGE_BYTES // REAL_PAGE_BYTES,
        staging_bytes=2 * device // STAGED_SHARE * PAGE_BYTES,
    )
    with ExitStack() as stack:
        if math.isinf(disk_per_memory):
            disk: EndlessDisk | StoreDisk = EndlessDisk()
        else:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "store"
            disk = StoreDisk(directory, max(1, int(disk_per_memory * 3 * device)))
            stack.callback(disk.close)
        tiers = Tiers(
            device_pages=device,
            host_pages=2 * device,
            disk=disk,
            policy=variant.policy,
            config=config,
        )
        served = tiers.replay(arrivals)
    return Result(
        variant=variant.name, memory_share=share, disk_per_memory=disk_per_memory, served=served
    )


def complaints(results: Sequence[Result]) -> Iterator[str]:
    """Yield what contradicts what must hold, whatever the trace."""
    for result in results:
        served = result.served
        if served.needed > served.written:
            yield f"{result.variant} read pages that were never written"
        if math.isinf(result.disk_per_memory) and "through" in result.variant:
            best = max(
                r.served.hit_rate
                for r in results
                if (r.memory_share, r.disk_per_memory)
                == (result.memory_share, result.disk_per_memory)
            )
            if best > served.hit_rate:
                yield "with an endless disk something hits more than what writes everything"


class Shown(TypedDict):
    """A table, as the page of results takes it."""

    title: str
    head: list[str]
    rows: list[list[str]]


def tables_of(results: Sequence[Result]) -> Iterator[Shown]:
    """Yield a table for each size."""
    head = ["policy", "hit rate %", "device/host/disk %", "written", "of through", "needed"]
    more = ["written per disk hit", "kept at kill -9"]
    for share, disk in dict.fromkeys((r.memory_share, r.disk_per_memory) for r in results):
        here = [r for r in results if (r.memory_share, r.disk_per_memory) == (share, disk)]
        base = next(r.served.written for r in here if r.variant == "through")
        size = "endless" if math.isinf(disk) else f"{disk:g} x device and host"
        yield Shown(
            title=f"device and host {share:.0%} of the distinct pages, disk {size}",
            head=[*head, *more],
            rows=[_row(result, base) for result in here],
        )


def _row(result: Result, base: int) -> list[str]:
    served = result.served
    tiers = (served.device, served.host, served.disk)
    return [
        result.variant,
        f"{100 * served.hit_rate:.2f}",
        "/".join(f"{100 * pages / served.asked:.2f}" for pages in tiers),
        str(served.written),
        f"{served.written / base:.0%}" if base else "-",
        str(served.needed),
        short(served.written / served.disk) if served.disk else "-",
        f"{served.kept / served.useful:.0%}" if served.useful else "-",
    ]


def server_table(found: Sequence[Asked]) -> Shown:
    """Return the table of the real servers."""
    head = [
        "policy",
        "requests",
        "prompt tokens",
        "device/host/disk tokens",
        "pages written",
        "MiB",
    ]
    rows = [
        [
            asked.policy,
            str(asked.requests),
            str(asked.prompt_tokens),
            f"{asked.device_tokens}/{asked.host_tokens}/{asked.disk_tokens}",
            str(asked.pages_written),
            f"{asked.bytes_written / 2**20:.1f}",
            f"{asked.scheduler_p50_ms:.3f} / {asked.scheduler_p99_ms:.3f}",
            f"{asked.scheduler_cpu_p50_ms:.3f} / {asked.scheduler_cpu_p99_ms:.3f}",
        ]
        for asked in found
    ]
    head += ["scheduler ms a request p50/p99", "of those CPU"]
    return Shown(title="real servers", head=head, rows=rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a check or a server failed."""
    options = _parser().parse_args(arguments)
    load: Callable[..., list[Arrival]] = traces.load_arrivals
    arrivals = load(options.trace, folder=options.folder, sessions=options.sessions)
    if options.quick:
        arrivals = arrivals[:QUICK_REQUESTS]
    sizes = QUICK_SIZES if options.quick else SIZES
    # The sizes that were done before an interrupt are told all the same.
    jobs = [lambda size=size: [replay(one, arrivals, *size) for one in VARIANTS] for size in sizes]
    results, ended_early = collect(jobs, ())
    wrong = list(complaints(results))
    shown = list(tables_of(results))
    asked: list[Asked] = []
    if options.server and not ended_early:
        try:
            asked = ask_servers(
                traces.load_turns(options.trace, folder=options.folder, sessions=options.sessions),
                quick=options.quick,
            )
        except ServerError as error:
            wrong.append(str(error))
        shown.append(server_table(asked))
    for one in shown:
        print(f"\n### {one['title']}\n\n{table(one['head'], one['rows'])}")
    facts = machine_facts(Path(__file__).parent)
    print_facts(facts)
    for line in wrong:
        print(f"check failed: {line}")
    if options.json:
        found = {
            "benchmark": "writes",
            "machine": facts,
            "trace": options.trace.name,
            "folder": options.folder,
            "sessions": options.sessions,
            "settings": {"requests": len(arrivals)},
            "results": [asdict(result) for result in results],
            "servers": [asdict(one) for one in asked],
            "tables": shown,
            "complaints": wrong,
            "ended_early": ended_early,
        }
        write_json(options.json, found)
    if ended_early:
        print(f"bench writes: {ended_early}", file=sys.stderr)
    return 1 if wrong or ended_early else 0


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path, help="see benchmark/replay/traces.py for the two forms")
    parser.add_argument("--folder", default="", help="of a tar file, the folder to read")
    parser.add_argument("--sessions", type=int, default=1, help="conversations at once, of a tar")
    parser.add_argument("--quick", action="store_true", help="one share, two disks, first requests")
    parser.add_argument("--server", action="store_true", help="also real servers; needs a tar")
    parser.add_argument("--json", type=Path, help="write figures to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
