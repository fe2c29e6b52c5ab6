"""The paper's table rebuilt: hit rate and TTFT over stages of changing reuse, `file` against `lsm`.

    scripts/bench paper --quick                        a tiny model, at most 4 minutes
    scripts/bench paper --json FILE                    SmolLM2 at 1k tokens, about 9 minutes
    scripts/bench paper --length 2048 --json FILE      at 2k tokens, about 11 minutes

Each stage is a set of prompts whose leading part, .1 .3 .5 .7 .5 .3 .1 of it on average, an earlier
prompt began with. Four clients ask a real server in a closed loop for one new token. Rows: no disk
tier; SGLang's `file` backend, its evictor and metadata cache on, with pages of one token, as in the
paper, and of 64; `lsm` with pages of 64. All have the same device and host pools, the same byte
budget on disk (a share of what all prompts make), the same values bit for bit, and write what was
computed at once; prefetch begins at 64 missing tokens and is cut off by SGLang's default rule.
Stages go to the rows in turn. Prompts of 4k to 16k tokens on a GPU, as in the paper, are scaled
down to what two cores can compute. The host pool has twice the device's tokens, SGLang's default;
what seems to be the paper's driver had 1.01 of it (`--host-ratio 1.01`), where no disk tier finds
room in the host to read into.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from benchmark import models
from benchmark.clients import Load, closed_loop
from benchmark.harness import collect, machine_facts, print_facts, write_json
from benchmark.publish.paper import body
from benchmark.rivals.disk import allocated_bytes, files_under
from benchmark.serving import Server, ServerError, has_gpu, start_all
from benchmark.stages import TARGETS, Stage, Stages, distinct_tokens
from benchmark.tiers import HOST_RATIO, disk_environment, disk_flags, pool_flags

HOME = Path(__file__).parent.parent / ".cache" / "bench-paper"
ROWS: Mapping[str, tuple[str, int]] = {
    "no disk": ("host", 64),
    "file, page 1": ("file tuned", 1),
    "file, page 64": ("file tuned", 64),
    "lsm, page 64": ("lsm", 64),
}
"""Backend and page size by name."""
PIECE_TOKENS = 64
NUM_CLIENTS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked."""

    model: str
    length: int
    """Tokens of a prompt."""
    requests_per_stage: int
    budget: float
    """Bytes of disk over the bytes of all distinct prompt tokens."""

    host_ratio: float = HOST_RATIO


FULL = Plan("smollm2", 1024, 12, 0.5)
QUICK = Plan("tiny", 1024, 4, 0.5)
REQUESTS_BY_LENGTH = {2048: 6}
"""A stage, of the full form; longer prompts are fewer, so that it ends in time."""
MODELS: Mapping[str, tuple[Callable[[], Path], int, int]] = {
    "tiny": (lambda: models.random_llama(models.TINY), 400, 4096),
    "smollm2": (models.smollm2, 49000, 46080),
    "kv-heavy": (lambda: models.random_llama(models.KV_HEAVY), 400, 131072),
}
"""Directory, usable vocabulary, and bytes of KV a token in float32."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables; return 1 where a server failed."""
    options = _parser().parse_args(arguments)
    plan = plan_of(options)
    facts = machine_facts(Path(__file__).parent)
    # The stages before an interrupt or a failure are told all the same.
    job = partial(measure, plan, options.rows, seed=options.seed)
    records, ended_early = collect([job], (ServerError, models.ModelError))
    if ended_early:
        print(f"bench paper: {ended_early}", file=sys.stderr)
    if not records:
        return 1
    settings = {**asdict(plan), "clients": NUM_CLIENTS, "new_tokens": 1, "rows": options.rows}
    settings |= {"seed": options.seed, "piece_tokens": PIECE_TOKENS}
    report = {"benchmark": "paper", "machine": facts, "settings": settings, "rows": records}
    report["ended_early"] = ended_early
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 1 if ended_early else 0


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan of the form that was chosen, with what the options replace."""
    plan = QUICK if options.quick else FULL
    length = options.length or plan.length
    requests = plan.requests_per_stage
    if not options.quick:
        requests = REQUESTS_BY_LENGTH.get(length, requests)
    return replace(
        plan,
        model=options.model or plan.model,
        length=length,
        requests_per_stage=options.requests or requests,
        budget=options.budget or plan.budget,
        host_ratio=options.host_ratio,
    )


def measure(plan: Plan, names: Sequence[str], *, seed: int) -> Iterator[dict[str, object]]:
    """Ask every stage of every row; yield one record a row and stage.

    Raises:
        ServerError: a server failed.
    """
    make, vocabulary, token_bytes = MODELS[plan.model]
    length = plan.length
    maker = Stages(
        prompt_tokens=length,
        piece_tokens=PIECE_TOKENS,
        vocabulary=vocabulary,
        in_flight=2 * NUM_CLIENTS,
        seed=seed,
    )
    # Unmeasured: uses shapes and memory for the first time, and makes what later stages reuse.
    first = maker.stage(0.0, 3 * NUM_CLIENTS)
    stages = [maker.stage(target, plan.requests_per_stage) for target in TARGETS]
    if has_gpu():
        token_bytes //= 2
    budget_bytes = int(plan.budget * distinct_tokens([first, *stages]) * token_bytes)
    shutil.rmtree(HOME, ignore_errors=True)
    try:
        with ExitStack() as stack:
            model = make()
            starts = [partial(_start, name, model, plan, budget_bytes) for name in names]
            servers = dict(zip(names, start_all(starts, stack), strict=True))
            for server in servers.values():
                closed_loop(server, first.prompts, num_clients=NUM_CLIENTS)
            for number, stage in enumerate(stages):
                for name in _rotated(list(servers), number):
                    _say(f"{length} tokens, stage {number + 1} of {len(stages)}, {name}")
                    server, folder = servers[name], HOME / _folder(name)
                    before_s = server.cpu_s()
                    load = closed_loop(server, stage.prompts, num_clients=NUM_CLIENTS)
                    place = {"row": name, "prompt_tokens": length, "stage": number}
                    place["cpu_s"] = server.cpu_s() - before_s
                    yield place | _record(stage, load, folder, budget_bytes)
    finally:
        shutil.rmtree(HOME, ignore_errors=True)


def _record(stage: Stage, load: Load, folder: Path, budget_bytes: int) -> dict[str, object]:
    return {
        "target": stage.target,
        "offered": stage.offered,
        "disk_bytes": allocated_bytes(folder),
        "disk_files": sum(1 for _ in files_under(folder)),
        "budget_bytes": budget_bytes,
        "first_tokens": [reply.output_ids[0] for reply in load.replies],
        **load.figures(),
        "ttft_s": load.ttft_s,
    }


def _start(name: str, model: Path, plan: Plan, budget_bytes: int) -> Server:
    backend, page_size = ROWS[name]
    folder = HOME / _folder(name)
    folder.mkdir(parents=True)
    _say(f"starting {name}")
    pool_tokens = (NUM_CLIENTS + 1) * (plan.length + 2 * PIECE_TOKENS)
    flags = [
        *pool_flags(page_size, pool_tokens=pool_tokens, host_ratio=plan.host_ratio),
        *disk_flags(backend, folder, budget_bytes=budget_bytes),
    ]
    log = HOME / f"{folder.name}.log"
    return Server.start(model, flags, log=log, env=disk_environment(folder))


def _folder(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _rotated(names: list[str], number: int) -> list[str]:
    at = number % len(names)
    return names[at:] + names[:at]


def _say(text: str) -> None:
    print(f"bench paper: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, few requests")
    parser.add_argument("--model", choices=list(MODELS), help="another model than the plan's")
    parser.add_argument("--length", type=int, help="tokens a prompt instead of the plan's")
    parser.add_argument("--host-ratio", type=float, default=HOST_RATIO, help="host over device")
    parser.add_argument("--requests", type=int, help="requests a stage instead of the plan's")
    parser.add_argument("--budget", type=float, help="disk over what all prompts make")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help="quoted"
    )
    parser.add_argument("--seed", type=int, default=47)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
