"""Reclaim and scatter on the page: what giving space back costs, and what scattered pages cost."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.bench_reclaim import COLUMNS
from benchmark.bench_scatter import LAYOUTS, MERGED
from benchmark.harness import Summary, round_ratios, short, summarize, table
from benchmark.publish.draw import canvas
from benchmark.publish.reports import Loss, Report, Section

OURS = "store_auto"
_LOW_IS_GOOD = (
    ("delete_s", "seconds to delete"),
    ("reclaim_s", "seconds to reclaim"),
    ("written_per_freed", "bytes written per byte freed"),
    ("after_reclaim", "disk over live bytes"),
    ("closed", "disk over live bytes, closed"),
)
# Below it two engines cannot be told apart by these figures.
_NOISE = 1.05


def reclaim_figure(report: Report, rival: str, figure: str) -> Summary | None:
    """Return one figure of the reclaim benchmark over its rounds."""
    return summarize(
        row[figure] for row in report["results"] if row["rival"] == rival and figure in row
    )


def reclaim_body(report: Report) -> str:
    """Return one row a rival."""
    rows = []
    for rival in _rivals(report):
        found = [reclaim_figure(report, rival, figure) for figure, _ in COLUMNS]
        rows.append([rival, *(str(one or "-") for one in found)])
    cell = report["cell"]
    return (
        f"{cell['num_prefixes']} prefixes of {cell['prefix_pages']} pages of "
        f"{cell['page_bytes'] >> 10} KiB, half of them evicted at random.\n\n"
        + table(["engine", *(title for _, title in COLUMNS)], rows)
    )


def reclaim_losses(report: Report) -> list[Loss]:
    """Return where a rival gives space back cheaper."""
    found = []
    for figure, title in _LOW_IS_GOOD:
        ours = reclaim_figure(report, OURS, figure)
        for rival in _rivals(report):
            theirs = reclaim_figure(report, rival, figure)
            if not ours or not theirs or rival.startswith("store_"):
                continue
            if ours.median > max(theirs.median, 0) * _NOISE:
                text = f"{short(ours.median)}, theirs {short(theirs.median)}"
                found.append(Loss(f"reclaim: {title}", rival, text))
    return found


def reclaim_plots(report: Report, stem: Path) -> list[Path]:
    """Draw bytes written per byte freed, and disk over live bytes, a bar a rival."""
    path = stem.with_name(f"{stem.name}.png")
    with canvas(path, "Half of the prefixes evicted at random", panels=2) as axes:
        # Closed, since an open log preallocates its newest segment, which says nothing of reclaim.
        shown = (("written_per_freed", "bytes written per byte freed"), _LOW_IS_GOOD[4])
        for one, (figure, name) in zip(axes, shown, strict=True):
            rivals = [r for r in _rivals(report) if reclaim_figure(report, r, figure)]
            values = [reclaim_figure(report, rival, figure).median for rival in rivals]
            colours = ["tab:orange" if r.startswith("store_") else "tab:blue" for r in rivals]
            one.barh(rivals, values, color=colours)
            one.invert_yaxis()
            one.set_xlabel(name)
    return [path]


def scatter_speed(report: Report, rival: str, page_bytes: int, layout: str) -> dict[int, float]:
    """Return cold GB/s by round."""
    return {
        row["round_number"]: row["figures"][layout]["cold_get"]
        for row in report["results"]
        if (row["rival"], row["page_bytes"]) == (rival, page_bytes) and layout in row["figures"]
    }


def scatter_body(report: Report) -> str:
    """Return a table a page size: speeds alone, in turn, merged, and their ratios."""
    parts = []
    for page_bytes in _page_sizes(report):
        rows = []
        for rival in _rivals(report):
            speeds = [
                scatter_speed(report, rival, page_bytes, layout) for layout in (*LAYOUTS, MERGED)
            ]
            alone, in_turn, merged = speeds
            cells = [
                *(summarize(speed.values()) for speed in speeds),
                round_ratios(in_turn, alone),
                round_ratios(merged, alone),
            ]
            rows.append([rival, *(str(cell or "-") for cell in cells)])
        head = ["engine", "alone GB/s", "in turn GB/s", "merged GB/s", "in turn / alone", "merged"]
        parts.append(f"#### {page_bytes >> 10} KiB pages\n\n{table(head, rows)}\n")
    return "\n".join(parts)


def scatter_losses(report: Report) -> list[Loss]:
    """Return where scattered pages are read slower than by a rival, before merging."""
    found = []
    for rival in _rivals(report):
        if rival.startswith("store_"):
            continue
        lost = []
        for page_bytes in _page_sizes(report):
            ours = scatter_speed(report, OURS, page_bytes, "in turn")
            ratio = round_ratios(ours, scatter_speed(report, rival, page_bytes, "in turn"))
            if ratio and ratio.median < 1:
                lost.append(f"{page_bytes >> 10} KiB {short(ratio.median)}x")
        if lost:
            found.append(Loss("scattered prefix, cold get", rival, ", ".join(lost)))
    return found


def scatter_plots(report: Report, stem: Path) -> list[Path]:
    """Draw, a panel a page size, cold GB/s by layout for each rival."""
    path = stem.with_name(f"{stem.name}.png")
    sizes = _page_sizes(report)
    title = "A whole prefix read cold, by how it was written"
    with canvas(path, title, panels=len(sizes)) as axes:
        for one, page_bytes in zip(axes, sizes, strict=True):
            rivals = _rivals(report)
            for number, layout in enumerate((*LAYOUTS, MERGED)):
                found = [
                    summarize(scatter_speed(report, r, page_bytes, layout).values()) for r in rivals
                ]
                places = [i + (number - 1) * 0.27 for i, f in enumerate(found) if f]
                one.barh(places, [f.median for f in found if f], 0.27, label=layout)
            one.set_yticks(range(len(rivals)), rivals, fontsize="x-small")
            one.invert_yaxis()
            one.set_title(f"{page_bytes >> 10} KiB pages")
            one.set_xlabel("GB/s")
    return [path]


def _rivals(report: Report) -> Sequence[str]:
    """Return the measured rivals, ours first."""
    measured = {
        row["rival"]
        for row in report["results"]
        if "not_measured" not in row and "reason" not in row.get("figures", {})
    }
    return sorted(measured, key=lambda rival: (not rival.startswith("store_"), rival))


def _page_sizes(report: Report) -> list[int]:
    return sorted({row["page_bytes"] for row in report["results"]})


RECLAIM = Section(
    file="reclaim",
    title="Reclaim: giving half of the space back",
    command="scripts/bench reclaim --json benchmark/results/reclaim.json",
    body=reclaim_body,
    losses=reclaim_losses,
    plots=reclaim_plots,
)
SCATTER = Section(
    file="scatter",
    title="Scatter: prefixes written in turns",
    command="scripts/bench scatter --json benchmark/results/scatter.json",
    body=scatter_body,
    losses=scatter_losses,
    plots=scatter_plots,
)
