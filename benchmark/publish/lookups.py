"""The index benchmark on the page: probes, inserts, memory and disk, by index, size and cache."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.bench_index import COLUMNS
from benchmark.harness import Summary, short, summarize, table
from benchmark.publish.draw import canvas, curve, plain_log
from benchmark.publish.reports import Loss, Report, Section

OURS = "radix_path"
_PROBES = (
    ("half_p50_us", "probe of 128 pages, 64 stored"),
    ("hit_p50_us", "probe of 64 stored pages"),
    ("miss_p50_us", "probe of an unknown path"),
    ("insert_us", "insert"),
)


def figure_of(
    report: Report, index: str, cache: str, num_entries: int, figure: str
) -> Summary | None:
    """Return one figure over the rounds, or None where it was not measured."""
    return summarize(
        cell["figures"][figure]
        for cell in report["cells"]
        if (cell["index"], cell["cache"], cell["num_entries"]) == (index, cache, num_entries)
        and figure in cell["figures"]
    )


def sizes_of(report: Report) -> list[int]:
    """Return the numbers of entries that were measured."""
    return sorted({cell["num_entries"] for cell in report["cells"]})


def body(report: Report) -> str:
    """Return a table a number of entries."""
    parts = []
    for num_entries in sizes_of(report):
        rows = []
        for index, cache in _rows_of(report):
            found = [figure_of(report, index, cache, num_entries, name) for name, _ in COLUMNS]
            if any(found):
                rows.append([index, cache, *(str(one or "-") for one in found)])
        head = ["index", "cache", *(title for _, title in COLUMNS)]
        parts.append(f"#### {num_entries:.0e} entries\n\n{table(head, rows)}\n")
    return "\n".join(parts)


def losses(report: Report) -> list[Loss]:
    """Return where another index answers or inserts faster than radix-path keys do."""
    found = []
    for figure, title in _PROBES:
        for index, cache in _rows_of(report):
            if index == OURS:
                continue
            lost = []
            for num_entries in sizes_of(report):
                theirs = figure_of(report, index, cache, num_entries, figure)
                same_cache = "large" if cache == "-" else cache
                ours = figure_of(report, OURS, same_cache, num_entries, figure)
                if ours and theirs and theirs.median < ours.median:
                    lost.append(
                        f"{num_entries:.0e}: {short(ours.median)} us, theirs {short(theirs.median)}"
                    )
            if lost:
                cached = "" if cache == "-" else f", {cache} cache"
                found.append(Loss(f"index: {title}", f"{index}{cached}", "; ".join(lost)))
    return found


def plots(report: Report, stem: Path) -> list[Path]:
    """Draw the probe of a half-stored path and of an unknown one by the number of entries."""
    path = stem.with_name(f"{stem.name}.png")
    with canvas(path, "Probe, median in us, by entries of the index", panels=2) as axes:
        shown = (("half_p50_us", "128 pages, 64 stored"), ("miss_p50_us", "an unknown path"))
        for one, (figure, name) in zip(axes, shown, strict=True):
            for number, (index, cache) in enumerate(_rows_of(report)):
                points = {
                    float(n): found.median
                    for n in sizes_of(report)
                    if (found := figure_of(report, index, cache, n, figure))
                }
                label = index if cache == "-" else f"{index}, {cache} cache"
                if points:
                    curve(one, points, label, number, bold=index == OURS)
            one.set_xscale("log")
            plain_log(one.yaxis)
            one.set_title(name)
            one.set_xlabel("entries (log)")
        axes[0].set_ylabel("us (log)")
    return [path]


def _rows_of(report: Report) -> Sequence[tuple[str, str]]:
    """Return the measured indexes and caches, ours first."""
    found = {(cell["index"], cell["cache"]) for cell in report["cells"]}
    return sorted(found, key=lambda row: (row[0] != OURS, row))


SECTION = Section(
    file="index",
    title="Index: what a lookup costs",
    command="scripts/bench index --full --json benchmark/results/index.json",
    body=body,
    losses=losses,
    plots=plots,
)
