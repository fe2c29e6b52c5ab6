"""RAG, shared system prompts and growing conversations in a closed loop, on the page."""

from collections.abc import Sequence

from benchmark.harness import short, table
from benchmark.publish.reports import Loss, Report, Section
from benchmark.publish.runs import HEAD, cells, left_out, sooner

OURS = "lsm, evict"


def body(report: Report) -> str:
    """Return what prompts share, a table a workload, and what each row took in all."""
    parts = [_shares(report)]
    for workload in dict.fromkeys(run["workload"] for run in report["runs"]):
        rows = []
        for runs in _stretches(report, workload):
            most = f"{runs[0]['offered_tokens'] / runs[0]['asked_tokens']:.1%}"
            rows += [[_where(run), most, run["row"], *cells(run, runs[0])] for run in runs]
        told = table(["asked by", "hits at most", "row", *HEAD], rows)
        parts.append(f"#### {workload}\n\n{told}")
    parts.append(_totals(report))
    return "\n\n".join([*parts, *left_out(report)]) + "\n"


def losses(report: Report) -> list[Loss]:
    """Return the rows that answer sooner than ours, stretch by stretch."""
    return [
        loss
        for workload in dict.fromkeys(run["workload"] for run in report["runs"])
        for runs in _stretches(report, workload)
        for loss in sooner(runs, OURS, f"{workload}, {_where(runs[0])}")
    ]


def _stretches(report: Report, workload: str) -> list[Sequence[Report]]:
    """Return the runs of a workload by stretch, each in the order of the rows."""
    order = list(dict.fromkeys(run["row"] for run in report["runs"]))
    here = [run for run in report["runs"] if run["workload"] == workload]
    return [
        sorted((r for r in here if r["stretch"] == number), key=lambda r: order.index(r["row"]))
        for number in sorted({run["stretch"] for run in here})
    ]


def _where(run: Report) -> str:
    clients = f"{run['clients']} client{'s' if run['clients'] > 1 else ''}"
    return f"{clients}, {run['num_requests']} requests{'' if run['stretch'] else ', empty store'}"


def _shares(report: Report) -> str:
    rows = []
    for one in report["shares"]:
        shares = [f"{one[name] / one['asked']:.1%}" for name in ("seen", "shared", "whole_pages")]
        rows.append([one["workload"], f"whole {one['whole']}", str(one["asked"]), *shares])
    head = ["workload", "passages of", "tokens asked", "seen before, anywhere"]
    head += ["in a beginning seen before", "of that in whole pages"]
    return (
        "What prompts share with those before, the ones that meet an empty store left out, over "
        f"{report['settings']['draws']} draws of questions; the last column is what a prefix "
        "cache without a bound hits. Below it is one draw, and of fewer than 100 requests p99 is "
        "the slowest.\n\n"
        f"{table(head, rows)}"
    )


def _totals(report: Report) -> str:
    rows = []
    for name in dict.fromkeys(run["row"] for run in report["runs"]):
        own = [run for run in report["runs"] if run["row"] == name]
        while_asked_s = sum(run["cpu_s"] for run in own)
        figures = (while_asked_s, own[-1]["cpu_so_far_s"])
        rows.append([name, *map(short, figures), f"{own[-1]['disk_bytes'] >> 20}"])
    head = [
        "row",
        "CPU s while asked",
        "CPU s, what it did between included",
        "disk MiB at its end",
    ]
    return f"#### In all\n\n{table(head, rows)}"


SECTION = Section(
    file="text*",
    title="RAG, shared system prompts and growing conversations",
    command="scripts/bench text AGENTS --folder NAME --json benchmark/results/text-NAME.json",
    body=body,
    losses=losses,
)
