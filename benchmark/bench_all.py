"""Run every benchmark, one after the other, and make the page of what they found.

    scripts/bench all --quick --trace conversation_trace.jsonl.gz --trace agent.tar.xz:miniswe
    scripts/bench all --quick --only engine index

Results, logs and the page go to one folder:
`.cache/bench-all` for the quick form, `benchmark/results` for the full one, which takes hours and
wants a quiet machine. A benchmark that fails does not stop the others. Benchmarks that replay a
trace are left out without one.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import bench_results
from benchmark.harness import table

HERE = Path(__file__).resolve().parent
QUICK_FOLDER = HERE.parent / ".cache" / "bench-all"


@dataclass(frozen=True, slots=True)
class Step:
    """One benchmark of the row."""

    name: str
    needs_trace: bool = False
    """Runs once a trace of either form."""
    needs_text: bool = False
    """Runs once a trace of conversations."""
    full: tuple[str, ...] = ()
    """Arguments of the full form."""


STEPS = (
    Step("engine"),
    Step("ablation"),
    Step("index", full=("--full",)),
    Step("open"),
    Step("reclaim"),
    Step("scatter"),
    Step("scaling"),
    Step("hitrate", needs_trace=True),
    Step("writes", needs_trace=True),
    Step("controller"),
    Step("model"),
    Step("knobs"),
    Step("paper"),
    Step("ttft"),
    Step("load"),
    Step("agent", needs_text=True),
    Step("outside"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One process to run."""

    stem: str
    """Of its JSON file and its log."""
    module: str
    arguments: tuple[str, ...]


def jobs(
    steps: Sequence[Step], traces: Sequence[str], folder: Path, *, quick: bool
) -> Iterator[Job]:
    """Yield what to run; a step that needs a trace is run once a trace, `FILE` or `FILE:FOLDER`."""
    for step in steps:
        form = ("--quick",) if quick else step.full
        runs: Sequence[tuple[str, tuple[str, ...]]] = [("", ())]
        if step.needs_trace or step.needs_text:
            chosen = [text for text in traces if step.needs_trace or ".tar" in text]
            runs = [_of_trace(text) for text in chosen]
        for suffix, arguments in runs:
            stem = step.name + suffix
            out = ("--json", str(folder / f"{stem}.json"))
            yield Job(stem, f"benchmark.bench_{step.name}", (*arguments, *form, *out))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return 1 where one failed."""
    options = _parser().parse_args(arguments)
    folder = options.folder or (QUICK_FOLDER if options.quick else bench_results.RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [s for s in STEPS if s.name in options.only and s.name not in options.skip]
    rows, failed = [], False
    start = time.perf_counter()
    for job in jobs(chosen, options.trace, folder, quick=options.quick):
        print(f"bench all: {job.stem}", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        status = run(job, folder)
        failed = failed or status != 0
        ended = "ended well" if status == 0 else f"exit status {status}, see {job.stem}.log"
        rows.append([job.stem, f"{time.perf_counter() - begun:.0f}", ended])
    rows.append(["in all", f"{time.perf_counter() - start:.0f}", ""])
    print(table(["benchmark", "seconds", "result"], rows))
    out = folder / "RESULTS.md" if options.quick else bench_results.PAGE
    made = bench_results.main(["--from", str(folder), "--out", str(out)])
    return 1 if failed or made else 0


def run(job: Job, folder: Path) -> int:
    """Run one benchmark in a process of its own, its output into a log; return its status."""
    with (folder / f"{job.stem}.log").open("wb") as log:
        command = [sys.executable, "-m", job.module, *job.arguments]
        return subprocess.run(command, stdout=log, stderr=log, check=False).returncode


def _of_trace(text: str) -> tuple[str, tuple[str, ...]]:
    file, _, inside = text.partition(":")
    name = inside or Path(file).name.split(".")[0]
    return f"-{name}", (file, *(("--folder", inside) if inside else ()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [step.name for step in STEPS]
    parser.add_argument("--quick", action="store_true", help="the quick form of each")
    parser.add_argument("--trace", action="append", default=[], metavar="FILE[:FOLDER]")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], metavar="NAME")
    parser.add_argument("--folder", type=Path, help="for results, logs and the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
