"""Run every benchmark, one after the other, and make the page of what they found.

    scripts/bench all --quick --trace conversation_trace.jsonl.gz --trace agent.tar.xz:miniswe
    scripts/bench all --quick --only engine index

Results, logs and the page go to one folder: `.cache/bench-all` for the quick form,
`benchmark/results` for the full one, which takes hours and wants a quiet machine. The quick form is
made for two cores and half an hour; each benchmark of it is stopped at a limit of its own, and all
at the end of the half hour. One that fails or is stopped does not stop the others: what it had
measured by then, where it can tell, is on the page, and the exit status is 1. Benchmarks that
replay a trace are left out without one, and the table says so.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil

from benchmark import bench_results
from benchmark.harness import table

HERE = Path(__file__).resolve().parent
QUICK_FOLDER = HERE.parent / ".cache" / "bench-all"
ENDED_WELL = "ended well"
GRACE_S = 60.0
QUICK_S = 29 * 60.0
"""For all benchmarks of the quick form; ending the last one and making the page come after it."""
LEAST_S = 20.0
"""A benchmark that has less left is not begun."""


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
    quick_limit_s: float = 120.0
    """After which the quick form is stopped."""
    module: str = ""
    """Of the benchmark, where the step is not named like it: a second run of it."""
    full_only: bool = False
    """Has no quick form."""
    sessions: int | None = 4
    """Conversations at once, of a trace of them; None where they are not replayed."""


STEPS = (
    Step("engine"),
    Step("ablation"),
    Step("index", full=("--full",)),
    Step("open"),
    Step("reclaim"),
    Step("scatter"),
    Step("scaling"),
    Step("knobs"),
    Step("hitrate", needs_trace=True, quick_limit_s=240, full=("--codec",)),
    Step("codec"),
    Step("writes", needs_trace=True, quick_limit_s=180),
    Step("paper", quick_limit_s=300),
    Step("paper-2048", module="paper", full=("--length", "2048"), full_only=True),
    Step("ttft", quick_limit_s=480),
    Step("load", quick_limit_s=300),
    Step("load-long", module="load", full=("--long",), full_only=True),
    Step("load-16k", module="load", full=("--16k",), full_only=True),
    Step("agent", needs_text=True, quick_limit_s=300, sessions=None),
    Step("text", needs_text=True, quick_limit_s=240, sessions=None),
    Step("outside", quick_limit_s=360),
    Step("controller", quick_limit_s=240),
    Step("overhead"),
    Step("model", quick_limit_s=300),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One process to run."""

    stem: str
    """Of its JSON file and its log."""
    module: str
    arguments: tuple[str, ...]
    limit_s: float | None = None
    """After which it is stopped; None for never."""


def jobs(
    steps: Sequence[Step], traces: Sequence[str], folder: Path, *, quick: bool
) -> Iterator[Job]:
    """Yield what to run; a step that needs a trace is run once a trace, `FILE` or `FILE:FOLDER`."""
    for step in steps:
        if quick and step.full_only:
            continue
        form = ("--quick",) if quick else step.full
        runs: Sequence[tuple[str, tuple[str, ...]]] = [("", ())]
        if step.needs_trace or step.needs_text:
            chosen = [text for text in traces if step.needs_trace or ".tar" in text]
            runs = [_of_trace(text, step.sessions) for text in chosen]
        for suffix, arguments in runs:
            stem = step.name + suffix
            out = ("--json", str(folder / f"{stem}.json"))
            limit_s = step.quick_limit_s if quick else None
            module = f"benchmark.bench_{step.module or step.name}"
            yield Job(stem, module, (*arguments, *form, *out), limit_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return 1 where one failed."""
    options = _parser().parse_args(arguments)
    folder = options.folder or (QUICK_FOLDER if options.quick else bench_results.RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [s for s in STEPS if s.name in options.only and s.name not in options.skip]
    rows, failed = [], False
    start = time.perf_counter()
    todo = list(jobs(chosen, options.trace, folder, quick=options.quick))
    for job in todo:
        if options.quick:
            left_s = start + QUICK_S - time.perf_counter()
            if left_s < LEAST_S:
                rows.append([job.stem, "-", "LEFT OUT: the half hour was up"])
                failed = True
                continue
            job = replace(job, limit_s=min(left_s, job.limit_s or left_s))
        print(f"bench all: {job.stem}", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        verdict = run(job, folder)
        failed = failed or verdict != ENDED_WELL
        rows.append([job.stem, f"{time.perf_counter() - begun:.0f}", verdict])
    rows += [[name, "-", "left out: no --trace of its form"] for name in left_out(chosen, todo)]
    rows.append(["in all", f"{time.perf_counter() - start:.0f}", "FAILED" if failed else ""])
    out = folder / "RESULTS.md" if options.quick else bench_results.PAGE
    made = bench_results.main(["--from", str(folder), "--out", str(out)])
    print(table(["stage", "seconds", "verdict"], rows))
    return 1 if failed or made else 0


def left_out(steps: Sequence[Step], found: Sequence[Job]) -> list[str]:
    """Return the benchmarks that have nothing to run on."""
    run_modules = {job.module for job in found}
    return [
        step.name
        for step in steps
        if not step.full_only and f"benchmark.bench_{step.name}" not in run_modules
    ]


def run(job: Job, folder: Path) -> str:
    """Run one benchmark in a process of its own, its output into a log; return the verdict.

    At its limit it is interrupted, so that it stops its servers and removes its files, and killed
    with all its children where it has not ended GRACE_S later.
    """
    # A result of an earlier run would stand on the page as this one's.
    (folder / f"{job.stem}.json").unlink(missing_ok=True)
    with (folder / f"{job.stem}.log").open("wb") as log:
        command = [sys.executable, "-m", job.module, *job.arguments]
        # Started in the background, this process may ignore interrupts; its children shall not.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=heed)
        try:
            status = process.wait(job.limit_s)
        except subprocess.TimeoutExpired:
            stop(process)
            kept = (folder / f"{job.stem}.json").exists()
            had = "what it had is on the page" if kept else "nothing is on the page"
            return f"STOPPED at its limit of {job.limit_s:.0f} s, {had}, see {job.stem}.log"
        except KeyboardInterrupt:
            stop(process)
            raise
    return ENDED_WELL if status == 0 else f"FAILED: exit status {status}, see {job.stem}.log"


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a process and wait for its end; kill it and its children if none comes."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Servers have a process group of their own; they outlive a parent that was killed.
    for child in (child for child in family if child.is_running()):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(family, timeout=GRACE_S)


def _of_trace(text: str, sessions: int | None) -> tuple[str, tuple[str, ...]]:
    file, _, inside = text.partition(":")
    name = inside or Path(file).name.split(".")[0]
    folder = ("--folder", inside) if inside else ()
    at_once = ("--sessions", str(sessions)) if sessions and ".tar" in file else ()
    return f"-{name}", (file, *folder, *at_once)


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
