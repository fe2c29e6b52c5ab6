"""Hit rates by replay on the page."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.bench_hitrate import ENCODED, OPTIMUM, codec_line
from benchmark.harness import table
from benchmark.publish.draw import canvas, curve, sized_ticks
from benchmark.publish.reports import Loss, Report, Section

OURS = "lsm reuse"
# A tenth of a point is what two honest implementations of one policy may differ by.
_NOISE = 0.001


def rates(report: Report, policy: str) -> dict[float, float]:
    """Return the hit rate by share of the working set."""
    return {
        row["share"]: row["hits"] / row["asked"]
        for row in report["results"]
        if row["policy"] == policy
    }


def body(report: Report) -> str:
    """Return hit rates and bytes written per byte hit, a row a policy."""
    shares = sorted({row["share"] for row in report["results"]})
    written = {
        (row["policy"], row["share"]): row["written"] / row["hits"]
        for row in report["results"]
        if row["hits"]
    }
    hit_rows, written_rows = [], []
    for policy in _policies(report):
        found = rates(report, policy)
        hit_rows.append([policy, *(f"{found[s]:.2%}"[:-1] if s in found else "-" for s in shares)])
        written_rows.append(
            [
                policy,
                *(
                    f"{written[policy, s]:.2f}" if (policy, s) in written else "-"
                    for s in shares
                ),
            ]
        )  # fmt: skip
    head = ["policy", *(f"{share:.0%}" for share in shares)]
    asked = report["results"][0]["asked"]
    return (
        f"Trace `{report['trace']}` {report['folder']}; a cache without limit hits "
        f"{report['ideal_hits'] / asked:.2%} of {asked} pages. Columns: share of the distinct "
        f"pages.\n\n#### Hit rate: leading pages that are stored, %\n\n{table(head, hit_rows)}\n\n"
        f"#### Bytes written per byte hit\n\n{table(head, written_rows)}\n\n"
        f"{_codec(report)}Checks failed: {', '.join(report['complaints']) or 'none'}."
    )


def _codec(report: Report) -> str:
    blocks = report.get("codec_blocks")
    return f"`{ENCODED}`: {codec_line(*blocks)}.\n\n" if blocks else ""


def losses(report: Report) -> list[Loss]:
    """Return the policies that find more than ours at some size, the optimum aside."""
    ours = rates(report, OURS)
    found = []
    for policy in _policies(report):
        if policy in (OURS, ENCODED, OPTIMUM):
            continue
        lost = [
            f"{share:.0%}: {ours[share]:.2%}, theirs {rate:.2%}"
            for share, rate in sorted(rates(report, policy).items())
            if share in ours and rate > ours[share] + _NOISE
        ]
        if lost:
            name = f"hit rate, {report['trace']} {report['folder']}".rstrip()
            found.append(Loss(name, policy, "; ".join(lost)))
    return found


def published(report: Report) -> list[str]:
    """Return the policies that others published: neither ours, nor the optimum, nor SGLang's."""
    mine = (OURS, OPTIMUM, "SGLang file evictor")
    return [name for name in _policies(report) if name not in mine and not name.startswith("lsm ")]


def plots(report: Report, stem: Path) -> list[Path]:
    """Draw one curve a policy."""
    path = stem.with_name(f"{stem.name}.png")
    title = f"Hit rate by size, {report['trace']} {report['folder']}"
    with canvas(path, title) as (axes,):
        for number, policy in enumerate(_policies(report)):
            points = {share * 100: rate * 100 for share, rate in rates(report, policy).items()}
            curve(axes, points, policy, number, bold=policy in (OURS, OPTIMUM))
        shares = sorted({row["share"] * 100 for row in report["results"]})
        sized_ticks(axes, shares, [f"{share:g}" for share in shares])
        axes.set_xlabel("size, % of the distinct pages (log)")
        axes.set_ylabel("leading pages found, %")
    return [path]


def _policies(report: Report) -> Sequence[str]:
    return list(dict.fromkeys(row["policy"] for row in report["results"]))


SECTION = Section(
    file="hitrate*",
    title="Hit rate by replay",
    command="scripts/bench hitrate TRACE --json benchmark/results/hitrate-NAME.json",
    body=body,
    losses=losses,
    plots=plots,
)
