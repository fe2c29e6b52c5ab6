"""RAG, shared system prompts and growing conversations: TTFT with 1, 4 and 8 clients at once.

    scripts/bench text agent.tar.xz --folder miniswe --quick        about 100 s
    scripts/bench text agent.tar.xz --folder miniswe --json FILE    about 22 minutes

SmolLM2 is asked on real servers, in a closed loop, for prompts made of the texts of a trace of
agents' conversations (`benchmark/text_workloads.py`):

RAG            instructions, the three passages that fit a question best, and the question
shared prefix  one of several system prompts, and a question
multi-turn     conversations in turns, each the one before and some more

The first requests of each, asked by one client, meet an empty store; then the workload goes on, a
stretch for each number of clients. All rows are asked the same and up side by side; they take turns
after each stretch, in an order that rotates. The device holds the longest prompt and an eighth, the
host 2.5 times that: copies of what the device holds, and two prompts that are read. Before each
stretch the row's files leave the page cache. So most of what is asked again lies on disk. Rows:
recompute, the host tier alone, SGLang's `file` with its evictor and metadata cache, `lsm` with its
default policy, and SGLang's `sim`, which loads no bytes and so answers wrongly: the bound. Where
there is no GPU, all have SGLang's CPU attention corrected, so that a hit saves its work, and keep
their memory (`docs/operations.md`). `disk MiB` counts what `lsm` has preallocated, up to 256.

What prompts share is told beside what was hit. A RAG prompt repeats passages, but a prefix cache
hits only up to the first difference: the order of passages decides, and pages cut the rest.
`--workloads "RAG, popular first"` asks the same questions with passages in the order of how often
all questions retrieve them.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark import models
from benchmark.clients import closed_loop
from benchmark.harness import collect, machine_facts, print_facts, write_json
from benchmark.publish.text import body
from benchmark.replay.traces import load_turns
from benchmark.rivals.disk import allocated_bytes, drop_cached_pages, sync_file_system
from benchmark.serving import ServerError
from benchmark.text_workloads import (
    MULTI_TURN,
    POPULAR_FIRST,
    RAG,
    SHARED_PREFIX,
    Request,
    Shape,
    Texts,
    TooLittleTextError,
    multi_turn,
    offered,
    rag,
    shared_prefix,
    total,
)
from benchmark.tiers import BACKENDS, LMCACHE_LEFT_OUT
from benchmark.ttft_servers import PAGE_SIZE, RunningRow, start_rows, tier_row

HOME = Path(__file__).parent.parent / ".cache" / "bench-text"
ROWS = ("recompute", "host", "file tuned", "lsm, evict", "sim")
QUICK_ROWS = ("recompute", "file tuned", "lsm, evict")
WORKLOADS = (RAG, POPULAR_FIRST, SHARED_PREFIX, MULTI_TURN)
ASKED = (RAG, SHARED_PREFIX, MULTI_TURN)
LEFT_OUT = {
    "file": "it differs from file tuned by its look-ups alone here; `bench load` has it",
    "lsm through and selective": "`bench agent` has every policy, and `--rows` takes them",
    "LMCache": LMCACHE_LEFT_OUT,
}
ANSWER_TOKENS = 4
HOST_RATIO = 2.5
"""Host pool over device pool. What is read from disk needs room beside the copies of what the
device holds: 1.5 times the device, two prompts of these, where SGLang's default of 2.0 leaves one.
"""
SEED = 20261126
DRAWS = 12
"""Of questions, over which shares are told; those of one draw differ much."""
_BUDGET_BYTES = 8 * 10**9
_MOST_CHARACTERS = 40_000
"""Of a conversation; the rest is not needed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked, and of what."""

    shape: Shape
    rag_first: int
    """Requests of RAG that meet an empty store; of the others each prefix is asked once."""
    stretches: tuple[tuple[int, int], ...]
    """Clients, and how many requests they ask."""

    def num_first(self, workload: str) -> int:
        """Return how many requests meet an empty store."""
        if workload == SHARED_PREFIX:
            return self.shape.num_groups
        return self.shape.num_conversations if workload == MULTI_TURN else self.rag_first

    def num_requests(self, workload: str) -> int:
        """Return how many requests there are."""
        return self.num_first(workload) + sum(num for _, num in self.stretches)


FULL = Plan(
    Shape(
        num_passages=16,
        passage_tokens=288,
        passages_per_prompt=3,
        num_groups=8,
        group_tokens=1024,
        num_conversations=8,
        opening_tokens=512,
        turn_tokens=160,
    ),
    8,
    ((1, 5), (4, 8), (8, 14)),
)
QUICK = Plan(
    Shape(
        num_passages=12,
        passage_tokens=96,
        passages_per_prompt=3,
        num_groups=4,
        group_tokens=384,
        num_conversations=4,
        opening_tokens=320,
        turn_tokens=96,
    ),
    4,
    ((4, 5),),
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Requests that are asked in one go."""

    workload: str
    number: int
    """0 for those that meet an empty store."""
    clients: int
    requests: tuple[Request, ...]
    """What one goes on from is counted from the first of these, or answered already."""
    offered_tokens: int
    """What a prefix cache without a bound hits."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables; return 1 where something is missing."""
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    names = options.rows or (QUICK_ROWS if options.quick else ROWS)
    facts = machine_facts(Path(__file__).parent)
    try:
        model = models.smollm2()
        texts = texts_of(options.trace, options.folder, model)
        stretches = [one for name in options.workloads for one in stretches_of(name, texts, plan)]
        shares = shares_of(texts, plan)
    except (models.ModelError, TooLittleTextError) as error:
        print(f"bench text: {error}", file=sys.stderr)
        return 1
    # What was found before an interrupt or a failure is told all the same.
    runs, ended_early = collect([lambda: measure(model, names, stretches)], (ServerError,))
    if ended_early:
        print(f"bench text: {ended_early}", file=sys.stderr)
    if not runs:
        return 1
    settings = {
        **asdict(plan.shape),
        "model": "smollm2",
        "page_size": PAGE_SIZE,
        "prefetch_policy": "wait_complete",
        "pool_tokens": pool_tokens(stretches),
        "host_ratio": HOST_RATIO,
        "new_tokens": ANSWER_TOKENS,
        "trace": options.trace.name,
        "folder": options.folder,
        "seed": SEED,
        "draws": DRAWS,
        "rows": ", ".join(f"`{name}`" for name in names),
    }
    report = {"benchmark": "text", "machine": facts, "settings": settings, "shares": shares}
    report |= {"runs": runs, "left_out": LEFT_OUT, "ended_early": ended_early}
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 1 if ended_early else 0


def texts_of(trace: Path, folder: str, model: Path) -> Texts:
    """Return the conversations of a trace, each as long as it became, as lines of tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    latest = {turn.session_id: turn.text for turn in load_turns(trace, folder=folder)}
    documents = []
    for text in latest.values():
        lines = text[:_MOST_CHARACTERS].splitlines(keepends=True)
        if lines:
            documents.append([tuple(line) for line in tokenizer(lines)["input_ids"]])
    return Texts(documents, lambda text: tuple(tokenizer(text)["input_ids"]))


def requests_of(
    workload: str, texts: Texts, plan: Plan, *, page_size: int = 0, seed: int = SEED
) -> list[Request]:
    """Return all requests of a workload; with `page_size` RAG's passages are cut to whole pages.

    Raises:
        TooLittleTextError: the texts are too few or too short.
    """
    num = plan.num_requests(workload)
    if workload == SHARED_PREFIX:
        return shared_prefix(texts, plan.shape, num, seed=seed)
    if workload == MULTI_TURN:
        return multi_turn(texts, plan.shape, num, seed=seed)
    order = workload == POPULAR_FIRST
    return rag(texts, plan.shape, num, popular_first=order, page_size=page_size, seed=seed)


def stretches_of(workload: str, texts: Texts, plan: Plan) -> Iterator[Stretch]:
    """Yield the requests of a workload as they are asked.

    Raises:
        TooLittleTextError: the texts are too few or too short.
    """
    requests = requests_of(workload, texts, plan)
    whole = [one.whole_pages for one in offered(requests, PAGE_SIZE)]
    start = 0
    sizes = ((1, plan.num_first(workload)), *plan.stretches)
    for number, (clients, num) in enumerate(sizes):
        own = tuple(_from(one, start) for one in requests[start : start + num])
        yield Stretch(workload, number, clients, own, sum(whole[start : start + num]))
        start += num


def shares_of(texts: Texts, plan: Plan) -> list[dict[str, object]]:
    """Return how much of its prompts each workload had asked before, first requests left out.

    RAG in both orders, and with passages of whole lines and of whole pages; each over DRAWS seeds.
    """
    found = []
    for workload in WORKLOADS:
        for passages in ("lines", "pages") if workload in (RAG, POPULAR_FIRST) else ("lines",):
            page_size = PAGE_SIZE if passages == "pages" else 0
            later = []
            for seed in range(SEED, SEED + DRAWS):
                requests = requests_of(workload, texts, plan, page_size=page_size, seed=seed)
                later += offered(requests, PAGE_SIZE)[plan.num_first(workload) :]
            found.append({"workload": workload, "whole": passages, **total(later)._asdict()})
    return found


def pool_tokens(stretches: Sequence[Stretch]) -> int:
    """Return the tokens of the device: the longest prompt and an eighth, and room for answers."""
    longest = max(len(one.prompt) for stretch in stretches for one in stretch.requests)
    return (longest * 9 // 8 // PAGE_SIZE + 2) * PAGE_SIZE


def measure(
    model: Path, names: Sequence[str], stretches: Sequence[Stretch]
) -> Iterator[dict[str, object]]:
    """Ask every row every stretch, in turn; yield one record of each.

    Raises:
        ServerError: a server failed.
    """
    flags = ("--hicache-ratio", str(HOST_RATIO))
    wanted = [tier_row(name, flags, budget_bytes=_BUDGET_BYTES) for name in names]
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            num_tokens = pool_tokens(stretches)
            rows = start_rows(
                model, HOME, rows=wanted, pool_tokens=num_tokens, stack=stack, progress=_say
            )
            for row in rows:
                # First uses of memory and code; random ids, so nothing of the texts is stored.
                row.server.generate(input_ids=list(range(100, 612)), max_new_tokens=1)
            begun_s = {row.row.name: row.server.cpu_s() for row in rows}
            for turn, stretch in enumerate(stretches):
                at = turn % len(rows)
                for row in (*rows[at:], *rows[:at]):
                    yield _asked(row, stretch, begun_s[row.row.name])
    finally:
        shutil.rmtree(HOME, ignore_errors=True)


def _asked(row: RunningRow, stretch: Stretch, begun_s: float) -> dict[str, object]:
    name, num = row.row.name, len(stretch.requests)
    _say(f"{stretch.workload}, {num} requests of {stretch.clients} clients, {name}")
    folder = HOME / name
    sync_file_system(folder)
    drop_cached_pages(folder)
    before_s = row.server.cpu_s()
    load = closed_loop(
        row.server,
        [one.prompt for one in stretch.requests],
        num_clients=stretch.clients,
        max_new_tokens=ANSWER_TOKENS,
        after=[one.after for one in stretch.requests],
    )
    after_s = row.server.cpu_s()
    return {
        "row": name,
        "workload": stretch.workload,
        "stretch": stretch.number,
        "clients": stretch.clients,
        "offered_tokens": stretch.offered_tokens,
        **load.figures(),
        "cpu_s": after_s - before_s,
        "cpu_so_far_s": after_s - begun_s,
        "disk_bytes": allocated_bytes(folder),
        "ttft_s": load.ttft_s,
        "output_ids": [reply.output_ids for reply in load.replies],
    }


def _from(request: Request, start: int) -> Request:
    after = request.after
    return Request(request.parts, None if after is None or after < start else after - start)


def _say(text: str) -> None:
    print(f"bench text: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path, help="a tar file of conversations")
    parser.add_argument("--folder", default="", help="the folder of it to read")
    parser.add_argument("--quick", action="store_true", help="short prompts, 4 clients, three rows")
    parser.add_argument("--rows", nargs="+", choices=BACKENDS, metavar="ROW", help="quoted")
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=ASKED, metavar="NAME", help="quoted"
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
