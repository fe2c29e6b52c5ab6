"""How good the cost model is, on the page: errors, ranking, and a plot of all predictions."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.harness import table
from benchmark.model_error import Errors, Pair, Ranking, errors, noise, ranking
from benchmark.publish.draw import MARKERS, canvas
from benchmark.publish.reports import Report, Section

_VIEWS = (("own_s", "from what it saw itself"), ("default_s", "from what the default saw"))


def body(report: Report) -> str:
    """Return errors by workload and in all, and how often two settings were ranked right."""
    pairs = _pairs(report)
    if not pairs:
        return "Nothing was measured.\n"
    names = list(dict.fromkeys(pair.workload for pair in pairs))
    rows = []
    for name in [*names, "all"]:
        mine = [pair for pair in pairs if name in ("all", pair.workload)]
        shares = [_share(ranking(mine, steady=steady)) for steady in (False, True)]
        cells = [_cell(errors(mine)), _cell(errors(mine, from_default=True)), _cell(noise(mine))]
        rows.append([name, str(len(mine)), *cells, *shares])
    head = ["workload", "phases", *(f"error {title}" for _, title in _VIEWS), "noise",
            "ranked right", "the same in every round"]  # fmt: skip
    return (
        "Error: median, 90th percentile of |predicted / measured - 1|. Noise: the same of one "
        "round over another, which no model can undercut. Ranked: of two settings in one phase "
        "whose measured costs differ by more than 10 %, and of those where the same one was "
        "cheaper in every round.\n\n" + table(head, rows) + "\n"
    )


def plots(report: Report, stem: Path) -> list[Path]:
    """Draw predicted over measured seconds, a point a phase and setting."""
    pairs = _pairs(report)
    path = stem.with_name(f"{stem.name}-scatter.png")
    names = list(dict.fromkeys(pair.workload for pair in pairs))
    with canvas(path, "Predicted and measured cost of a phase", panels=2) as axes:
        for one, (view, title) in zip(axes, _VIEWS, strict=True):
            for number, name in enumerate(names):
                mine = [pair for pair in pairs if pair.workload == name]
                one.scatter(
                    [pair.measured_s for pair in mine], [getattr(pair, view) for pair in mine],
                    s=14, marker=MARKERS[number % len(MARKERS)], label=name,
                )  # fmt: skip
            ends = [min(p.measured_s for p in pairs), max(p.measured_s for p in pairs)]
            one.plot(ends, ends, color="black", linewidth=0.8, label="as measured")
            one.set_xscale("log")
            one.set_yscale("log")
            one.set_xlabel("measured s (log)")
            one.set_ylabel(f"predicted s, {title} (log)")
    return [path]


def _pairs(report: Report) -> Sequence[Pair]:
    return [Pair(**row) for row in report["rows"]]


def _share(found: Ranking) -> str:
    return f"{found.num_right / found.num:.0%} of {found.num}" if found.num else "-"


def _cell(found: Errors | None) -> str:
    return "-" if found is None else f"{found.median:.0%}, {found.p90:.0%}"


SECTION = Section(
    file="model",
    title="Cost model: predicted and measured",
    command="scripts/bench model --json benchmark/results/model.json",
    body=body,
    plots=plots,
)
