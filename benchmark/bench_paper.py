"""The paper's table rebuilt: hit rate and TTFT over stages of changing reuse, `file` against `lsm`.

    scripts/bench paper --quick           a tiny model, at most 4 minutes
    scripts/bench paper --json FILE       SmolLM2 at 1k and 2k tokens, about 40 minutes

Each stage is a set of prompts whose leading part, .1 .3 .5 .7 .5 .3 .1 of it on average, an earlier
prompt began with. Four clients ask a real server in a closed loop for one new token. Rows: no disk
tier; SGLang's `file` backend, its evictor and metadata cache on, with pages of one token, as in the
paper, and of 64; `lsm` with pages of 64. All have the same device and host pools, the same byte
budget on disk (a share of what all prompts make), the same values bit for bit, and write what was
computed at once; prefetch begins at 64 missing tokens and is cut off by SGLang's default rule.
Stages go to the rows in turn. Prompts of 4k to 16k tokens on a GPU, as in the paper, are scaled
down to what two cores can compute.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark import models
from benchmark.clients import Load, closed_loop
from benchmark.harness import machine_facts, print_facts, write_json
from benchmark.publish.paper import body
from benchmark.rivals.disk import allocated_bytes
from benchmark.serving import Server, ServerError, has_gpu
from benchmark.stages import TARGETS, Stage, Stages, distinct_tokens
from benchmark.tiers import disk_environment, disk_flags, pool_flags

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
    lengths: tuple[int, ...]
    requests_per_stage: int
    budget: float
    """Bytes of disk over the bytes of all distinct prompt tokens."""


FULL = Plan("smollm2", (1024, 2048), 12, 0.5)
QUICK = Plan("tiny", (1024,), 4, 0.5)
MODELS: Mapping[str, tuple[Callable[[], Path], int, int]] = {
    "tiny": (lambda: models.random_llama(models.TINY), 400, 4096),
    "smollm2": (models.smollm2, 49000, 46080),
    "kv-heavy": (lambda: models.random_llama(models.KV_HEAVY), 400, 131072),
}
"""Directory, usable vocabulary, and bytes of KV a token in float32."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables; return 1 where a server failed."""
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else FULL
    plan = Plan(
        options.model or plan.model,
        plan.lengths,
        options.requests or plan.requests_per_stage,
        options.budget or plan.budget,
    )
    facts = machine_facts(Path(__file__).parent)
    rows: list[dict[str, object]] = []
    try:
        for length in plan.lengths:
            rows += measure(plan, length, options.rows, seed=options.seed)
    except (ServerError, models.ModelError) as error:
        print(f"bench paper: {error}", file=sys.stderr)
        return 1
    settings = {**asdict(plan), "clients": NUM_CLIENTS, "new_tokens": 1, "rows": options.rows}
    settings |= {"seed": options.seed, "piece_tokens": PIECE_TOKENS}
    report = {"benchmark": "paper", "machine": facts, "settings": settings, "rows": rows}
    print_facts(facts)
    print(body(report))
    if options.json:
        write_json(options.json, report)
    return 0


def measure(plan: Plan, length: int, names: Sequence[str], *, seed: int) -> list[dict[str, object]]:
    """Ask every stage of every row; return one record a row and stage.

    Raises:
        ServerError: a server failed.
    """
    make, vocabulary, token_bytes = MODELS[plan.model]
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
    records: list[dict[str, object]] = []
    try:
        with ExitStack() as stack:
            servers = {
                name: stack.enter_context(_start(name, make(), length, budget_bytes))
                for name in names
            }
            for server in servers.values():
                closed_loop(server, first.prompts, num_clients=NUM_CLIENTS)
            for number, stage in enumerate(stages):
                for name in _rotated(list(servers), number):
                    _say(f"{length} tokens, stage {number + 1} of {len(stages)}, {name}")
                    load = closed_loop(servers[name], stage.prompts, num_clients=NUM_CLIENTS)
                    place = {"row": name, "prompt_tokens": length, "stage": number}
                    records.append(place | _record(stage, load, HOME / _folder(name), budget_bytes))
    finally:
        shutil.rmtree(HOME, ignore_errors=True)
    return records


def _record(stage: Stage, load: Load, folder: Path, budget_bytes: int) -> dict[str, object]:
    return {
        "target": stage.target,
        "offered": stage.offered,
        "disk_bytes": allocated_bytes(folder),
        "budget_bytes": budget_bytes,
        "first_tokens": [reply.output_ids[0] for reply in load.replies],
        **load.figures(),
        "ttft_s": load.ttft_s,
    }


def _start(name: str, model: Path, length: int, budget_bytes: int) -> Server:
    backend, page_size = ROWS[name]
    folder = HOME / _folder(name)
    folder.mkdir(parents=True)
    _say(f"starting {name}")
    flags = [
        *pool_flags(page_size, pool_tokens=(NUM_CLIENTS + 1) * (length + 2 * PIECE_TOKENS)),
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
