"""Which share of the prompt pages does each eviction policy find on disk?

    python -m benchmark.bench_hitrate TRACE --quick
    python -m benchmark.bench_hitrate TRACE.tar.xz --folder miniswe --sessions 4 --json FILE
    python -m benchmark.bench_hitrate TRACE --codec          also with pages encoded

Traces are replayed by page keys, without page bytes; `benchmark.replay.traces` tells the two forms.
The conversation trace is FAST25-release/traces/conversation_trace.jsonl of github.com/kvcache-ai/
Mooncake, the agent trace comes from github.com/LMCache/lmcache-agent-trace.

A hit is a page that is stored, with all pages before it, when its request comes; the hit rate is
hits over pages asked for. No tier is in front. Sizes are shares of the trace's distinct pages.

With `--codec`, a row more holds encoded pages in the same bytes. What a page takes is measured on
real KV in bfloat16 (`benchmark.real_kv`) with the store's codec, in blocks of 4 KiB; the trace's
pages are taken to be of that size. Which pages are encoded is the store's choice, and there is idle
time enough for all of them. What is written a second time counts as written.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from sglang_lsm.eviction import traits

from benchmark import real_kv
from benchmark.bench_codec import measure_room
from benchmark.harness import machine_facts, print_facts, table, write_json
from benchmark.replay import traces
from benchmark.replay.caches import Cache, FileEvictor, LibCacheSim, LsmEvictor, PageLru, Room
from benchmark.replay.optimum import Optimum
from benchmark.replay.traces import Request

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
QUICK_SHARES = (0.05, 0.1, 0.2)

OPTIMUM, LIBCACHESIM = "offline optimum", "(libcachesim)"
ENCODED = "lsm reuse, encoded"
CODEC_KV, CODEC_PAGES = "bfloat16", 32
LIBCACHESIM_PAGES = 20
POLICIES: dict[str, Callable[[int], Cache]] = {
    "lsm reuse": partial(LsmEvictor, learn=True),
    "lsm leaf-first LRU": partial(LsmEvictor, learn=False),
    "SGLang file evictor": FileEvictor,
    "page LRU": PageLru,
    **{
        f"{policy} {LIBCACHESIM}": partial(LibCacheSim, policy)
        for policy in ("LRU", "ARC", "S3FIFO", "WTinyLFU")
    },
}

_SIZE_BITS, _TURN_BITS = 3 << traits.SIZE_SHIFT, traits.MAX_TURN
ABLATIONS: dict[str, Callable[[int], Cache]] = {
    f"lsm reuse, {what}": partial(LsmEvictor, learn=True, class_mask=mask)
    for what, mask in {
        "age only": 0,
        "without turn": traits.CLASS_MASK & ~_TURN_BITS,
        "without size": traits.CLASS_MASK & ~_SIZE_BITS,
        "without reused": traits.CLASS_MASK & ~traits.REUSED,
        "without tail": traits.CLASS_MASK & ~traits.TAIL,
    }.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One policy at one size; counts in pages."""

    policy: str
    share: float
    capacity: int
    asked: int
    hits: int
    found: int
    """Stored when their turn came, behind a gap or not: what page caches call hits."""
    written: float

    @property
    def hit_rate(self) -> float:
        """`hits / asked`."""
        return self.hits / self.asked

    @property
    def written_per_hit(self) -> float:
        """Bytes written for each byte hit; pages are of one size."""
        return self.written / self.hits if self.hits else float("inf")


def replay(policy: str, cache: Cache, requests: Sequence[Request], share: float) -> Result:
    """Send all requests through a cache and count."""
    outcomes = [cache.request(pages) for pages in requests]
    hits, found, written = map(sum, zip(*outcomes, strict=True))
    return Result(
        policy=policy,
        share=share,
        capacity=capacity_of(requests, share),
        asked=sum(map(len, requests)),
        hits=hits,
        found=found,
        written=written,
    )


def fits(policy: str, capacity: int) -> bool:
    """Return whether a policy runs at that size: small ones end the process in libcachesim."""
    return capacity >= LIBCACHESIM_PAGES or LIBCACHESIM not in policy


def capacity_of(requests: Sequence[Request], share: float) -> int:
    """Return a share of the working set in pages."""
    return max(1, round(share * traces.num_distinct(requests)))


def complaints(results: Sequence[Result], ideal: int) -> list[str]:
    """Return what contradicts what must hold, whatever the trace."""
    found = []
    hits = {(result.policy, result.share): result.hits for result in results}
    by_key = {(result.policy, result.share): result for result in results}
    for (policy, share), result in by_key.items():
        best = by_key.get((OPTIMUM, share))
        # The optimum holds plain pages.
        if best and result.hits > best.hits and policy != ENCODED:
            found.append(f"{policy} beats the optimum. {share=}")
        if share == 1.0 and policy != "SGLang file evictor" and result.hits != ideal:
            found.append(f"{policy} differs from the ideal. hits={result.hits} {ideal=}")
    for share in {share for _, share in hits}:
        ours = by_key.get(("page LRU", share))
        theirs = by_key.get((f"LRU {LIBCACHESIM}", share))
        if ours and theirs and abs(ours.found - theirs.found) > 0.001 * ours.asked:
            found.append(f"page LRU differs from libcachesim's. {share=}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a check failed."""
    options = _parser().parse_args(arguments)
    requests = traces.load(options.trace, folder=options.folder, sessions=options.sessions)
    shares = QUICK_SHARES if options.quick else SHARES
    policies = POLICIES | (ABLATIONS if options.ablate else {})
    room = measured_room() if options.codec else None
    if room:
        policies[ENCODED] = partial(LsmEvictor, learn=True, room=room)
    results = []
    for share in shares:
        capacity = capacity_of(requests, share)
        caches = {name: make(capacity) for name, make in policies.items() if fits(name, capacity)}
        caches[OPTIMUM] = Optimum(requests, capacity)
        results += [replay(name, cache, requests, share) for name, cache in caches.items()]
    ideal = traces.ideal_hits(requests)
    wrong = complaints(results, ideal)
    facts = machine_facts(Path.cwd())
    _report(requests, ideal, results, wrong)
    if room:
        print(f"{ENCODED}: {codec_line(room.plain, room.encoded)}")
    if options.json:
        report = {
            "benchmark": "hitrate",
            "machine": facts,
            "trace": options.trace.name,
            "folder": options.folder,
            "sessions": options.sessions,
            "ideal_hits": ideal,
            "codec_blocks": list(room) if room else None,
            "results": [asdict(result) for result in results],
            "complaints": wrong,
        }
        write_json(options.json, report)
    else:
        print_facts(facts)
    return 1 if wrong else 0


def measured_room() -> Room:
    """Return what a page of real KV takes, plain and encoded."""
    pages = real_kv.pages(CODEC_PAGES)[CODEC_KV]
    return Room(*measure_room(pages, CODEC_KV))


def codec_line(plain: int, encoded: int) -> str:
    """Return what was measured for the row with encoded pages."""
    return (
        f"a page of {real_kv.MODEL}'s {CODEC_KV} KV takes {encoded} blocks instead of {plain}, "
        f"{encoded / plain:.3f}; every size is the same number of bytes in all rows"
    )


def _report(
    requests: Sequence[Request], ideal: int, results: Sequence[Result], wrong: Sequence[str]
) -> None:
    asked = sum(map(len, requests))
    print(
        f"{len(requests)} requests for {asked} pages, {traces.num_distinct(requests)} distinct; "
        f"a cache without limit hits {ideal / asked:.2%}. Columns: share of the distinct pages."
    )
    shares = list(dict.fromkeys(result.share for result in results))
    policies = list(dict.fromkeys(result.policy for result in results))
    figures: dict[str, Callable[[Result], str]] = {
        "hit rate: leading pages that are stored, %": lambda result: f"{result.hit_rate:.2%}"[:-1],
        "pages found, behind a gap or not, %": lambda result: f"{result.found / result.asked:.2%}"[
            :-1
        ],
        "bytes written per byte hit": lambda result: f"{result.written_per_hit:.2f}",
    }
    for title, figure in figures.items():
        cells = {(result.policy, result.share): figure(result) for result in results}
        rows = [
            [policy, *(cells.get((policy, share), "-") for share in shares)] for policy in policies
        ]
        print(f"\n### {title}\n\n{table(['policy', *(f'{s:.0%}' for s in shares)], rows)}")
    print()
    for line in wrong:
        print(f"check failed: {line}")
    if not wrong:
        print(
            "checks: no row of plain pages beats the optimum, whose pages are plain; page LRU "
            "agrees with libcachesim's where both ran"
        )


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path, help="a trace in one of the two forms")
    parser.add_argument("--folder", default="", help="of a tar file, the folder to read")
    parser.add_argument("--sessions", type=int, default=1, help="conversations at once, of a tar")
    parser.add_argument("--quick", action="store_true", help="5, 10 and 20 %% only")
    parser.add_argument("--ablate", action="store_true", help="also without parts of the classes")
    parser.add_argument("--codec", action="store_true", help="also with pages encoded")
    parser.add_argument("--json", type=Path, help="write figures to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
