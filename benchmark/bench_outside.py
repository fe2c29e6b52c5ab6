"""What other people's tools print about a server with each disk tier, unmodified.

    scripts/bench outside --quick           about 3 minutes, and once 1.3 GB of tools
    scripts/bench outside --json FILE       about 7 minutes, on SmolLM2

`python -m sglang.benchmark.serving --dataset-name generated-shared-prefix --cache-report` asks the
same prompts twice: with nothing cached, and after device and host were emptied, so that what is
cached comes from disk. Beside its figures stand the ones that the server reports itself. It needs
the package `datasets`, which is fetched once into `.cache/outside`, apart from everything else.

`cache-pressure` and `aiperf` drive a server of SmolLM2 with and without the disk tier (the quick
form: with it), see `benchmark.outside_tools`. A tool that cannot be had is a row that says why.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark import models, outside_tools
from benchmark.harness import INTERRUPTED, collect, machine_facts, print_facts, write_json
from benchmark.publish.outside import body
from benchmark.rivals.disk import drop_cached_pages, sync_file_system
from benchmark.serving import Server, ServerError, server_environment
from benchmark.tiers import disk_environment, disk_flags, pool_flags

CACHE = Path(__file__).parent.parent / ".cache"
HOME, PACKAGES = CACHE / "bench-outside", CACHE / "outside"
NEEDED = (
    "datasets==5.2.0",
    "pyarrow==26.0.1",
    "pandas==3.1.1",
    "dill==0.4.1",
    "multiprocess==0.70.19",
    "python-dateutil==4.0.0",
    "six==1.17.0",
)
ROWS = ("file tuned", "lsm")
TOOL_ROWS, QUICK_TOOL_ROWS = ("host", "lsm"), ("lsm",)
PAGE_SIZE, CLIENTS = 64, 4
_BUDGET_BYTES = 8 * 10**9
# Its prompts are words that become more tokens than were asked for.
_TOKENS_PER_WORD = 2
_SETTLED_S, _POLL_S = 3.0, 0.25


class OutsideError(Exception):
    """The tool could not be fetched or failed; the message says what it printed last."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the generator is asked to make."""

    model: str
    groups: int
    prompts_per_group: int
    system_tokens: int
    question_tokens: int

    @property
    def num_prompts(self) -> int:
        """Prompts of all groups."""
        return self.groups * self.prompts_per_group


FULL = Plan("smollm2", 6, 4, 1024, 64)
QUICK = Plan("tiny", 4, 3, 384, 64)
# From ten requests on, aiperf makes prompts in processes that are told to be offline, and such take
# no folder for a tokenizer.
FULL_ASKED = outside_tools.Asked(24, 1024, 9, 3.0)
QUICK_ASKED = outside_tools.Asked(4, 768, 4, 2.0)
# The device holds a quarter of what `cache-pressure` asks for, the host half, the disk all.
_POOL_SHARE = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool against each row; return 1 where something failed."""
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    facts = machine_facts(Path(__file__).parent)
    asked = QUICK_ASKED if options.quick else FULL_ASKED
    tool_rows = QUICK_TOOL_ROWS if options.quick else TOOL_ROWS
    errors = (OutsideError, ServerError, models.ModelError)
    runs, wrong = collect([lambda name=name: measure(plan, name) for name in options.rows], errors)
    tools: list[dict[str, object]] = []
    if wrong != INTERRUPTED:
        jobs = [lambda name=name: measure_tools(asked, name) for name in tool_rows]
        tools, also_wrong = collect(jobs, errors)
        wrong = "; ".join(text for text in (wrong, also_wrong) if text)
    if wrong:
        print(f"bench outside: {wrong}", file=sys.stderr)
    settings = {**asdict(plan), "clients": CLIENTS, "page_size": PAGE_SIZE}
    report = {
        "benchmark": "outside",
        "machine": facts,
        "settings": {**settings, "prefetch_policy": "wait_complete"},
        "asked": asdict(asked),
        "runs": runs,
        "tools": tools,
        "not_run": {"guidellm": outside_tools.GUIDELLM},
        "ended_early": wrong,
    }
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 1 if wrong or any("failed" in run for run in tools) else 0


def measure_tools(asked: outside_tools.Asked, name: str) -> Iterator[dict[str, object]]:
    """Start one row of SmolLM2, let each tool drive it, and yield their figures and the server's.

    Raises:
        ServerError: the server failed.
    """
    shutil.rmtree(HOME, ignore_errors=True)
    data = HOME / "data"
    data.mkdir(parents=True)
    model = models.smollm2()
    pool_tokens = asked.contexts * asked.context_tokens // _POOL_SHARE
    flags = [
        # The host pool needs room beside the device's copies: a prefetch takes what is free there.
        *pool_flags(PAGE_SIZE, pool_tokens=pool_tokens + 4 * PAGE_SIZE, host_ratio=2.0),
        *disk_flags(name, data, budget_bytes=_BUDGET_BYTES, wait_complete=True),
    ]
    try:
        log = HOME / "server.log"
        with Server.start(model, flags, log=log, env=disk_environment(data)) as server:
            for tool in outside_tools.TOOLS:
                print(f"bench outside: {name}, {tool.name}", file=sys.stderr, flush=True)
                before = _counts(server)
                run: dict[str, object] = {"tool": tool.pin, "row": name}
                try:
                    run["theirs"] = outside_tools.run(
                        tool, asked, server, model, home=PACKAGES.parent / "outside-tools",
                        pool_tokens=pool_tokens,
                    )  # fmt: skip
                except outside_tools.ToolError as error:
                    run["failed"] = str(error)
                after = _counts(server)
                run["ours"] = {key: after[key] - before[key] for key in after}
                yield run
                server.flush_cache()
    finally:
        shutil.rmtree(HOME, ignore_errors=True)


def fetch() -> None:
    """Install what the tool needs beside SGLang into a folder of its own, once.

    Raises:
        OutsideError: it could not be fetched.
    """
    if PACKAGES.is_dir():
        return
    PACKAGES.parent.mkdir(parents=True, exist_ok=True)
    scratch = PACKAGES.with_name(".outside-new")
    shutil.rmtree(scratch, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    command = [*pip, "--no-deps", "--target", str(scratch), *NEEDED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OutsideError(f"pip failed. {done.stderr[-500:]}")
    scratch.rename(PACKAGES)


def measure(plan: Plan, name: str) -> Iterator[dict[str, object]]:
    """Start one row, let the tool ask twice, and yield both runs.

    Raises:
        OutsideError, ServerError.
    """
    fetch()
    shutil.rmtree(HOME, ignore_errors=True)
    data = HOME / "data"
    data.mkdir(parents=True)
    tiny = plan.model == "tiny"
    model = models.random_llama(models.TINY) if tiny else models.smollm2()
    # Every prompt of the run fits the device: only the flush between the runs empties it.
    asked = plan.num_prompts * (plan.system_tokens + plan.question_tokens + PAGE_SIZE)
    flags = [
        *pool_flags(PAGE_SIZE, pool_tokens=_TOKENS_PER_WORD * asked),
        *disk_flags(name, data, budget_bytes=_BUDGET_BYTES, wait_complete=True),
    ]
    try:
        log = HOME / "server.log"
        with Server.start(model, flags, log=log, env=disk_environment(data)) as server:
            for phase in ("nothing cached", "after a flush"):
                print(f"bench outside: {name}, {phase}", file=sys.stderr, flush=True)
                before = _counts(server)
                theirs = run_tool(plan, server, model)
                after = _counts(server)
                ours = {key: after[key] - before[key] for key in after}
                yield {"row": name, "phase": phase, "theirs": theirs, "ours": ours}
                _empty(server, data)
    finally:
        shutil.rmtree(HOME, ignore_errors=True)


def run_tool(plan: Plan, server: Server, model: Path) -> dict[str, object]:
    """Run the load generator and return the record that it wrote.

    Raises:
        OutsideError: it ended with an error.
    """
    out = HOME / "record.jsonl"
    out.unlink(missing_ok=True)
    command = tool_command(plan, server.url, model, out)
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(PACKAGES)])
    # It keeps the prompts it made in the home folder; both runs of a row share them.
    env = {**server_environment(), "PYTHONPATH": path, "HOME": str(HOME)}
    done = subprocess.run(command, env=env, cwd=HOME, capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        raise OutsideError(f"the tool failed. exit_code={done.returncode} {done.stderr[-800:]}")
    return kept(json.loads(out.read_text().splitlines()[-1]))


def tool_command(plan: Plan, url: str, model: Path, out: Path) -> list[str]:
    """Return the tool's command line."""
    return [
        *(sys.executable, "-m", "sglang.benchmark.serving"),
        *("--backend", "sglang", "--base-url", url),
        *("--model", str(model), "--tokenizer", str(model)),
        *("--dataset-name", "generated-shared-prefix"),
        *("--gsp-num-groups", str(plan.groups)),
        *("--gsp-prompts-per-group", str(plan.prompts_per_group)),
        *("--gsp-system-prompt-len", str(plan.system_tokens)),
        *("--gsp-question-len", str(plan.question_tokens), "--gsp-output-len", "4"),
        *("--max-concurrency", str(CLIENTS), "--warmup-requests", "0"),
        *("--cache-report", "--disable-tqdm", "--seed", "1", "--output-file", str(out)),
    ]


def kept(record: Mapping[str, object]) -> dict[str, object]:
    """Return the figures of a record without what it says of the machine and of each request."""
    names = ("completed", "total_input_tokens", "input_throughput", "cache_report")
    times = [f"{what}_ttft_ms" for what in ("mean", "median", "p99")]
    return {name: record[name] for name in (*names, *times)}


def _counts(server: Server) -> dict[str, float]:
    names = {
        "prompt_tokens": "sglang:prompt_tokens_total",
        "cached_tokens": "sglang:cached_tokens_total",
        "ttft_sum_s": "sglang:time_to_first_token_seconds_sum",
        "ttft_count": "sglang:time_to_first_token_seconds_count",
    }
    return {key: server.metric(name) for key, name in names.items()}


def _empty(server: Server, data: Path) -> None:
    """Wait until the disk tier takes no more, then empty device, host and page cache.

    How many tokens it will take is not known: requests of one group that are computed side by side
    make the same pages, of which one copy is kept.
    """
    taken, still_s = -1.0, 0.0
    while still_s < _SETTLED_S:
        time.sleep(_POLL_S)
        now = server.metric("sglang:backuped_tokens_total")
        still_s = still_s + _POLL_S if now == taken else 0.0
        taken = now
    server.flush_cache()
    sync_file_system(data)
    drop_cached_pages(data)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, short prompts")
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help="quoted"
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
