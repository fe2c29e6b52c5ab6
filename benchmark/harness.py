"""What every benchmark shares: rounds, medians with their range, machine facts, JSON, tables."""

import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
INTERRUPTED = "interrupted"

PACKAGES = ("sglang", "torch", "rocksdict", "xxhash", "numpy", "lmdb")


@dataclass(frozen=True, slots=True)
class Summary:
    """Median and range of the rounds of one figure; as text, one round has no range."""

    median: float
    low: float
    high: float
    num_rounds: int

    def __str__(self) -> str:
        if self.num_rounds == 1:
            return short(self.median)
        return f"{short(self.median)} [{short(self.low)}..{short(self.high)}]"


def summarize(values: Iterable[float]) -> Summary | None:
    """Return median and range, or None of nothing. NaN (not measured) is left out."""
    kept = sorted(value for value in values if not math.isnan(value))
    if not kept:
        return None
    return Summary(statistics.median(kept), kept[0], kept[-1], len(kept))


def round_ratios(values: Mapping[int, float], base: Mapping[int, float]) -> Summary | None:
    """Summarize `values / base` round by round; only rounds that have both count.

    Comparing inside a round is what makes the ratio hold on a machine whose speed drifts.
    """
    return summarize(
        values[number] / base[number]
        for number in values.keys() & base.keys()
        if base[number] > 0 and not math.isnan(values[number])
    )


def best_of(*rivals: Mapping[int, float], lowest: bool = False) -> dict[int, float]:
    """Return each round's best value over several modes of one rival: its better mode."""
    pick = min if lowest else max
    rounds = set().union(*rivals)
    merged = {}
    for number in rounds:
        values = [r[number] for r in rivals if number in r and not math.isnan(r[number])]
        if values:
            merged[number] = pick(values)
    return merged


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value with `share` of all at or below it.

    NaN of nothing. With fewer than 1 / (1 - share) values this is the largest one.
    """
    if not values:
        return math.nan
    rank = max(1, math.ceil(share * len(values)))
    return sorted(values)[rank - 1]


def short(value: float) -> str:
    """Format a figure with about three significant digits."""
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 4)}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with its columns aligned."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def collect(
    jobs: Iterable[Callable[[], Iterable[T]]], errors: tuple[type[Exception], ...]
) -> tuple[list[T], str]:
    """Run jobs in turn and return what they gave, and why they ended early, if they did.

    Of a job that yields, what it had yielded by then counts as well.

    Args:
        jobs: what to run.
        errors: after which the jobs before still count. An interrupt (Ctrl-C, SIGINT) is one more.
    """
    found: list[T] = []
    try:
        for job in jobs:
            found += job()
    except KeyboardInterrupt:
        return found, INTERRUPTED
    except errors as error:
        return found, str(error)
    return found, ""


def machine_facts(directory: Path) -> dict[str, str | int | float]:
    """Return what a reader must know about the machine; `directory` is what was measured."""
    return {
        "cpu": _cpu_name(),
        "num_cpus": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "file_system": _mount(directory)[2],
        "disk": _disk(_mount(directory)[1]),
        "load_average_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "command": command_line(sys.argv),
    }


def command_line(arguments: Sequence[str]) -> str:
    """Return how `scripts/bench`, or `scripts/gpu_check`, is called to do what this process does.

    Of a path only its name is kept: where a file lies is the machine's business.
    """
    name = Path(arguments[0]).stem.removeprefix("bench_")
    kept = [Path(one).name if "/" in one else one for one in arguments[1:]]
    program = ["scripts/gpu_check"] if name == "gpu_check" else ["scripts/bench", name]
    return shlex.join([*program, *kept])


def write_json(path: Path, report: object) -> None:
    """Write `report` so that a later run can be compared with it line by line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, allow_nan=True) + "\n")


def print_facts(facts: Mapping[str, object]) -> None:
    """Print the facts as one paragraph."""
    print(" · ".join(f"{name}={value}" for name, value in facts.items()))


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _mount(directory: Path) -> tuple[str, str, str]:
    """Mount point, device and type of what holds `directory`: the longest mount point above it."""
    place, found = str(directory.resolve()), ("", "unknown", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, mount, kind, *_ = line.split()
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(found[0]):
            found = (mount, device, kind)
    return found


def _disk(device: str) -> str:
    """Name and size of a block device; a virtual one does not tell what it is made of."""
    name = Path(device).resolve().name
    try:
        blocks = int((Path("/sys/class/block") / name / "size").read_text())
    except (OSError, ValueError):
        return name
    return f"{name} of {blocks * 512 / 1e9:.0f} GB"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """Short commit of the working tree, with a plus where tracked files differ from it."""
    where = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(where), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return (head or "unknown") + ("+" if changed else "")
