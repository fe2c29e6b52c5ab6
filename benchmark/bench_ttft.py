"""Time to first token of a prompt that was seen before, by the tier it comes back from.

For each model and prompt length, in each round, each row is asked the same new prompt: cold, then
again from the device; rows with a disk are then flushed and asked again with a cold page cache, and
once more with a hot one; the host row is asked again after another prompt has pushed the first one
off the device. Rows run side by side and are asked in turn, so that a change of the machine's speed
meets all of them. Answers must be equal everywhere.

The row `sim` is SGLang's simulator of a storage that takes no time and holds no bytes: what no
store could beat. A cold prompt shares no page with any other, so the row with a tier against the
one with the host tier alone is what a miss costs.

With `--misses` only misses are asked for, more of them and one right after another, under both
write policies (`benchmark.misses`).

Load time is the TTFT of a disk hit minus that of the device hit of the same prompt in the same
round: what a store can change.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark import models
from benchmark.harness import collect, machine_facts, print_facts, write_json
from benchmark.misses import MISS_ROWS, PROMPTS_A_ROUND, ask_misses, misses_table
from benchmark.prompts import Prompts
from benchmark.serving import Reply, ServerError, has_gpu
from benchmark.ttft_report import COLD, DEVICE, DISK_COLD, DISK_HOT, HOST_HIT, Sample, print_report
from benchmark.ttft_servers import HOST, PAGE_SIZE, RECOMPUTE, ROWS, RunningRow, start_rows

HOME = Path(__file__).parent.parent / ".cache" / "bench-ttft"
ANSWER_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    lengths: dict[str, tuple[int, ...]]
    """Prompt tokens by model: whole pages and one token, which is always computed."""


FULL = Plan(5, {"smollm2": (1025, 2049, 4097), "kv-heavy": (1025, 2049, 4097)})
QUICK = Plan(2, {"smollm2": (1025,), "kv-heavy": (2049,)})
QUICK_MODELS = ("kv-heavy",)
"""Unless one is named; the quick form of `bench text` asks the other one."""


class WrongAnswerError(Exception):
    """A row answered differently from the cold row; its figures mean nothing."""


def main() -> None:
    """Run the benchmark; exit with 1 when a server fails or an answer differs."""
    parser = argparse.ArgumentParser(prog="scripts/bench ttft", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one model, one length, two rounds")
    parser.add_argument(
        "--json", type=Path, help="write every sample to this file; plots beside it"
    )
    parser.add_argument("--rounds", type=int, help="rounds after the throw-away one")
    parser.add_argument("--model", choices=list(FULL.lengths), help="only this model")
    parser.add_argument("--misses", action="store_true", help="only what new prompts cost")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    plan = Plan(options.rounds or plan.rounds, plan.lengths)
    facts = machine_facts(Path(__file__).parent)
    models_of_form = QUICK_MODELS if options.quick else tuple(plan.lengths)
    names = [options.model] if options.model else list(models_of_form)
    if options.misses:
        sys.exit(print_misses(names, plan, options.json))
    try:
        samples, ended_early = collect(
            [lambda name=name: measure_model(name, plan) for name in names],
            (ServerError, models.ModelError),
        )
    except WrongAnswerError as error:
        sys.exit(f"bench ttft: {error}")
    if not samples:
        sys.exit(f"bench ttft: {ended_early}")
    settings = {
        "page_size": PAGE_SIZE,
        "rounds": plan.rounds,
        "answer_tokens": ANSWER_TOKENS,
        "dtype": "server's" if has_gpu() else "float32",
        "prefetch_policy": "wait_complete",
        "attention": "stock" if has_gpu() else "torch_native with the corrected extend, all rows",
    }
    print_facts({**facts, **settings})
    plots = options.json.parent if options.json else None
    print_report(samples, plots)
    if options.json:
        report = {"machine": facts, "settings": settings, "samples": [asdict(s) for s in samples]}
        write_json(options.json, {**report, "ended_early": ended_early})
    if ended_early:
        sys.exit(f"bench ttft: {ended_early}")


def measure_model(model: str, plan: Plan) -> Iterator[Sample]:
    """Start all rows on one model, yield what each round finds, stop them."""
    directory = model_directory(model)
    lengths = plan.lengths[model]
    prompts = Prompts(directory, real_text=model == "smollm2")
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    with ExitStack() as stack:
        # The longest prompt and its answer fit the device; two of them do not.
        pool_tokens = max(lengths) + 8 * PAGE_SIZE
        rows = start_rows(directory, HOME, pool_tokens=pool_tokens, stack=stack, progress=say)
        # The first round meets first uses of shapes and memory; it is thrown away.
        for number in range(plan.rounds + 1):
            for length in lengths:
                say(f"{model}: round {number} of {plan.rounds}, {length} tokens")
                prompt, other = prompts.next(length), prompts.next(length)
                # What one row leaves behind (dirty pages, say) must not always meet the same next.
                order = rows[number % len(rows) :] + rows[: number % len(rows)]
                found = [s for row in order for s in ask_row(row, prompt, other)]
                check_answers(found)
                yield from (s.in_round(model, number) for s in found if number)
    shutil.rmtree(HOME)


def model_directory(name: str) -> Path:
    """Return where a model of the plan lies. Raises ModelError."""
    return models.smollm2() if name == "smollm2" else models.random_llama(models.KV_HEAVY)


def print_misses(names: Sequence[str], plan: Plan, file: Path | None) -> str | None:
    """Measure and tell what misses cost; return why it ended early, if it did."""
    facts = machine_facts(Path(__file__).parent)
    kept, ended_early = [], None
    for name in names:
        shutil.rmtree(HOME, ignore_errors=True)
        HOME.mkdir(parents=True)
        lengths = plan.lengths[name]
        try:
            directory = model_directory(name)
            with ExitStack() as stack:
                misses = ask_misses(
                    start_rows(
                        directory,
                        HOME,
                        rows=MISS_ROWS,
                        pool_tokens=max(lengths) + 8 * PAGE_SIZE,
                        stack=stack,
                        progress=say,
                    ),
                    Prompts(directory, real_text=name == "smollm2"),
                    lengths=lengths,
                    rounds=plan.rounds,
                    progress=say,
                )
        except (ServerError, models.ModelError) as error:
            ended_early = f"bench ttft: {error}"
            break
        print(f"\n### {name}: misses\n\n{misses_table(misses)}")
        kept += [{"model": name, **asdict(miss)} for miss in misses]
    print_facts(facts)
    if file:
        settings = {"rounds": plan.rounds, "prompts_a_round": PROMPTS_A_ROUND}
        report = {"machine": facts, "settings": settings, "misses": kept}
        write_json(file, {"benchmark": "ttft", **report, "ended_early": ended_early})
    shutil.rmtree(HOME, ignore_errors=True)
    return ended_early


def ask_row(row: RunningRow, prompt: Sequence[int], other: Sequence[int]) -> list[Sample]:
    """Ask one row for one prompt in every way it has."""
    name, server, full_tokens = row.row.name, row.server, (len(prompt) - 1) // PAGE_SIZE * PAGE_SIZE

    def ask(phase: str, ids: Sequence[int] = prompt) -> Sample:
        reply = server.generate(input_ids=ids, max_new_tokens=ANSWER_TOKENS)
        return sample(name, phase, reply)

    samples = [ask(COLD)]
    if name == RECOMPUTE:
        return samples
    samples.append(ask(DEVICE))
    if name == HOST:
        server.generate(input_ids=other, max_new_tokens=ANSWER_TOKENS)
        samples.append(ask(HOST_HIT))
        row.flush(num_tokens=0, drop_page_cache=False)
        return samples
    row.flush(num_tokens=full_tokens, drop_page_cache=True)
    samples.append(ask(DISK_COLD))
    row.flush(num_tokens=0, drop_page_cache=False)
    samples.append(ask(DISK_HOT))
    row.flush(num_tokens=0, drop_page_cache=False)
    return samples


def sample(row: str, phase: str, reply: Reply) -> Sample:
    """Return the figures of one reply."""
    cached = reply.cached
    return Sample(
        row=row,
        phase=phase,
        prompt_tokens=reply.prompt_tokens,
        ttft_s=reply.ttft_s,
        device_tokens=cached.device,
        host_tokens=cached.host,
        disk_tokens=cached.disk,
        output_ids=reply.output_ids,
    )


def check_answers(samples: Sequence[Sample]) -> None:
    """Raise WrongAnswerError unless all rows and phases gave the same tokens.

    The disk hits of a row that loads no bytes are left out.
    """
    bounds = {row.name for row in ROWS if not row.is_right}
    for found in samples:
        if found.row in bounds and found.phase in (DISK_COLD, DISK_HOT):
            continue
        if found.output_ids != samples[0].output_ids:
            raise WrongAnswerError(
                f"{found.row}, {found.phase}: {found.output_ids} instead of {samples[0].output_ids}"
            )


def say(text: str) -> None:
    """Tell how far the benchmark is."""
    print(f"bench ttft: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
