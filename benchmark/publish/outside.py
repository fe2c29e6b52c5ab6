"""What an outside tool saw of the server, beside what the server says, on the page."""

from benchmark.harness import short, table
from benchmark.publish.reports import Report, Section


def body(report: Report) -> str:
    """Return one row a run: their figures, then the server's own."""
    rows = []
    for run in report["runs"]:
        theirs, ours = run["theirs"], run["ours"]
        asked = theirs["total_input_tokens"]
        server_ttft_ms = ours["ttft_sum_s"] / ours["ttft_count"] * 1e3 if ours["ttft_count"] else 0
        rows.append(
            [
                f"{run['row']}, {run['phase']}",
                str(theirs["completed"]),
                short(theirs["mean_ttft_ms"]),
                short(theirs["p99_ttft_ms"]),
                short(theirs["input_throughput"]),
                _tiers(theirs["cache_report"]),
                short(server_ttft_ms),
                f"{ours['cached_tokens']:.0f} of {ours['prompt_tokens']:.0f}",
                "yes" if ours["prompt_tokens"] == asked else f"{asked} asked",
            ]
        )
    head = ["row", "requests", "TTFT ms mean", "p99", "prompt tokens/s", "cached device/host/disk"]
    ours_head = ["server: TTFT ms mean", "server: cached tokens", "same prompt tokens"]
    return "\n".join([table([*head, *ours_head], rows), "", *_tools(report)]).rstrip() + "\n"


def _tools(report: Report) -> list[str]:
    """Return what other tools printed, one row a tool and server, and why one was not run."""
    rows = []
    for run in report.get("tools", ()):
        ours = run["ours"]
        printed = " ".join(f"{key}={_figure(one)}" for key, one in run.get("theirs", {}).items())
        # A table has one line a row.
        failed = " ".join(run.get("failed", "").split()).replace("|", "/")
        cached = f"{ours['cached_tokens']:.0f} of {ours['prompt_tokens']:.0f}"
        rows.append([run["tool"], run["row"], printed or f"FAILED: {failed}", cached])
    if not rows:
        return []
    head = ["tool", "row", "what it printed", "server: cached tokens"]
    left = [f"{tool}: {why}." for tool, why in report.get("not_run", {}).items()]
    return [table(head, rows), "", *left]


def _figure(value: object) -> str:
    return short(value) if isinstance(value, float) else str(value)


def _tiers(cached: Report) -> str:
    """Return tokens by tier; the tool leaves a tier out that it saw nothing of."""
    tiers = ("device", "host", "storage")
    return "/".join(str(cached[f"{tier}_cached_tokens"] or 0) for tier in tiers)


SECTION = Section(
    file="outside",
    title="From outside: other people's load tools",
    command="scripts/bench outside --json benchmark/results/outside.json",
    body=body,
)
