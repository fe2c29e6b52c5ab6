"""What a row of servers did with the same requests: tails, tiers, CPU, disk, answers."""

from collections.abc import Sequence

from benchmark.harness import short
from benchmark.publish.reports import Loss, Report

BOUND = "sim"
SPEEDS = (
    ("ttft_p50_s", "TTFT p50 s"),
    ("ttft_p90_s", "p90 s"),
    ("ttft_p99_s", "p99 s"),
)
HEAD = (
    *(title for _, title in SPEEDS),
    "prompt tokens/s",
    "hits device/host/disk",
    "CPU s",
    "disk MiB",
    "answers as the first row's",
)


def cells(run: Report, first: Report) -> list[str]:
    """Return the figures of a run below HEAD; `first` is what its answers are compared with."""
    asked = run["asked_tokens"]
    return [
        *(short(run[name]) for name, _ in SPEEDS),
        short(run["prompt_tokens_per_s"]),
        "/".join(f"{run[f'{t}_tokens'] / asked:.1%}" for t in ("device", "host", "disk")),
        short(run["cpu_s"]),
        f"{run['disk_bytes'] >> 20}",
        _same(run, first),
    ]


def sooner(runs: Sequence[Report], ours: str, where: str) -> list[Loss]:
    """Return the rows that answer sooner than ours, by percentile."""
    own = next((run for run in runs if run["row"] == ours), None)
    return [
        Loss(f"{where}, {title}", run["row"], f"{short(own[name])}, theirs {short(run[name])}")
        for run in runs
        if own is not None and run["row"] not in (ours, BOUND)
        for name, title in SPEEDS
        if run[name] < own[name]
    ]


def left_out(report: Report) -> list[str]:
    """Return a sentence for each thing that was not measured."""
    return [f"Left out: {what}: {why}." for what, why in report.get("left_out", {}).items()]


def _same(run: Report, first: Report) -> str:
    if run["row"] == BOUND:
        return "loads no bytes"
    same = sum(a == b for a, b in zip(run["output_ids"], first["output_ids"], strict=True))
    return f"{same} of {len(run['output_ids'])}"
