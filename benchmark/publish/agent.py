"""Agents' conversations in an open loop, on the page."""

from benchmark.harness import table
from benchmark.publish.reports import Loss, Report, Section
from benchmark.publish.runs import HEAD, cells, left_out, sooner

OURS = "lsm"


def body(report: Report) -> str:
    """Return one row a server: tails, tiers, CPU, disk, and whether its answers are the same."""
    runs = report["runs"]
    told = table(["row", *HEAD], [[run["row"], *cells(run, runs[0])] for run in runs])
    return "\n\n".join([f"{runs[0]['num_requests']} turns.", told, *left_out(report)]) + "\n"


def losses(report: Report) -> list[Loss]:
    """Return the rows that answer sooner than ours."""
    return sooner(report["runs"], OURS, "agents")


SECTION = Section(
    file="agent*",
    title="Agents' conversations by their times of arrival",
    command="scripts/bench agent TRACE --json benchmark/results/agent-NAME.json",
    body=body,
    losses=losses,
)
