"""Agents' conversations in an open loop, on the page."""

from benchmark.harness import short, table
from benchmark.publish.reports import Loss, Report, Section

OURS, BOUND = "lsm", "sim"
_SPEEDS = (
    ("ttft_p50_s", "TTFT p50 s"),
    ("ttft_p90_s", "p90 s"),
    ("ttft_p99_s", "p99 s"),
)


def body(report: Report) -> str:
    """Return one row a server: tails, tiers, CPU, disk, and whether its answers are the same."""
    rows = []
    for run in report["runs"]:
        asked = run["asked_tokens"]
        tiers = "/".join(f"{run[f'{t}_tokens'] / asked:.1%}" for t in ("device", "host", "disk"))
        rows.append(
            [
                run["row"],
                *(short(run[name]) for name, _ in _SPEEDS),
                short(run["prompt_tokens_per_s"]),
                tiers,
                short(run["cpu_s"]),
                f"{run['disk_bytes'] >> 20}",
                _same(run, report["runs"][0]),
            ]
        )
    head = ["row", *(title for _, title in _SPEEDS), "prompt tokens/s", "hits device/host/disk"]
    num_requests = report["runs"][0]["num_requests"]
    told = table([*head, "CPU s", "disk MiB", "answers as the first row's"], rows)
    left = [f"\n\nLeft out: {what}: {why}." for what, why in report.get("left_out", {}).items()]
    return f"{num_requests} turns.\n\n{told}{''.join(left)}\n"


def losses(report: Report) -> list[Loss]:
    """Return the rows that answer sooner than ours."""
    ours = next((run for run in report["runs"] if run["row"] == OURS), None)
    return [
        Loss(f"agents, {title}", run["row"], f"{short(ours[name])}, theirs {short(run[name])}")
        for run in report["runs"]
        if ours is not None and run["row"] not in (OURS, BOUND)
        for name, title in _SPEEDS
        if run[name] < ours[name]
    ]


def _same(run: Report, first: Report) -> str:
    if run["row"] == BOUND:
        return "loads no bytes"
    same = sum(a == b for a, b in zip(run["output_ids"], first["output_ids"], strict=True))
    return f"{same} of {len(run['output_ids'])}"


SECTION = Section(
    file="agent*",
    title="Agents' conversations by their times of arrival",
    command="scripts/bench agent TRACE --json benchmark/results/agent-NAME.json",
    body=body,
    losses=losses,
)
