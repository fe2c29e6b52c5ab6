"""The engine benchmark on the page: speeds, costs, ratios, and what is lost to whom."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmark.harness import Summary, best_of, round_ratios, short, summarize, table
from benchmark.publish.draw import canvas, curve, plain_log, sized_ticks
from benchmark.publish.reports import Loss, Report, Section
from benchmark.report import AGAINST, SPEED, Measured, Reasons, by_round, point_tables, ratio_table

OURS = "store_auto"
LINES = (("this engine, auto", (OURS,)), *AGAINST)


def cells_of(report: Report) -> list[Measured]:
    """Return the measured cells of an engine report."""
    return [Measured(**cell) for cell in report["cells"]]


def body(report: Report) -> str:
    """Return a table of ratios a speed, then every point's speeds and costs."""
    cells = cells_of(report)
    parts = []
    for figure, title in SPEED:
        parts.append(f"#### {title}: our modes over each rival, per round (above 1 is faster)\n")
        parts.append(ratio_table(cells, figure) + "\n")
    parts.append("<details><summary>Every point: speeds, latencies, CPU, memory, bytes</summary>\n")
    rivals = list(report["rivals"])
    parts.append(point_tables(cells, rivals, _reasons(report)).replace("\n###", "\n####"))
    parts.append("</details>\n")
    named = [f"* `{name}`: {about}" for name, about in report["rivals"].items()]
    return "\n".join([*parts, *named, *_not_measured(report)])


def losses(report: Report) -> list[Loss]:
    """Return, for each speed and rival, the points where it is faster than the mode `auto`."""
    cells = cells_of(report)
    points = sorted({cell.point for cell in cells})
    found = []
    for figure, title in SPEED:
        for rival, modes in AGAINST:
            lost = []
            for point in points:
                ratio = ratio_at([c for c in cells if c.point == point], figure, modes)
                if ratio is not None and ratio.median < 1:
                    limited = " (limit)" if point[0] else ""
                    where = f"{point[1] >> 10} KiB x {point[2]}{limited}"
                    lost.append(f"{where} {short(ratio.median)}x")
            if lost:
                found.append(Loss(title.removesuffix(" GB/s"), rival, ", ".join(lost)))
    return found


def ratio_at(
    cells: Sequence[Measured], figure: str, modes: Iterable[str], *, ours: str = OURS
) -> Summary | None:
    """Return ours over a rival's better mode, round by round, at one point."""
    base = best_of(*(by_round(cells, mode, figure) for mode in modes))
    return round_ratios(by_round(cells, ours, figure), base)


def plots(report: Report, stem: Path) -> list[Path]:
    """Draw put+durable, cold and hot by page size, one line a rival, at the most common batch."""
    cells = [cell for cell in cells_of(report) if not cell.memory_limit_bytes]
    batch_pages = main_batch(cells)
    at_batch = [cell for cell in cells if cell.batch_pages == batch_pages]
    sizes = sorted({cell.page_bytes for cell in at_batch})
    path = stem.with_name(f"{stem.name}.png")
    title = f"GB/s by page size, {batch_pages} pages a batch, median of rounds"
    with canvas(path, title, panels=3) as axes:
        shown = (("put_durable", "put+durable"), ("cold_get", "cold get"), ("hot_get", "hot get"))
        for one, (figure, name) in zip(axes, shown, strict=True):
            for number, (label, modes) in enumerate(LINES):
                points = _by_size(at_batch, figure, modes)
                if points:
                    curve(one, points, label, number, bold=number == 0)
            plain_log(one.yaxis)
            sized_ticks(one, sizes, [_size(size) for size in sizes])
            one.set_title(name)
            one.set_xlabel("page size")
        axes[0].set_ylabel("GB/s (log)")
    return [path]


def main_batch(cells: Iterable[Measured]) -> int:
    """Return the batch size of which the promises speak, 32, or the largest below it."""
    found = sorted({cell.batch_pages for cell in cells})
    return max((batch for batch in found if batch <= 32), default=found[0])


def _by_size(cells: Sequence[Measured], figure: str, modes: Iterable[str]) -> dict[float, float]:
    points: dict[float, float] = {}
    for size in {cell.page_bytes for cell in cells}:
        here = [cell for cell in cells if cell.page_bytes == size]
        found = summarize(best_of(*(by_round(here, mode, figure) for mode in modes)).values())
        if found is not None:
            points[size] = found.median
    return points


def _size(num_bytes: int) -> str:
    return f"{num_bytes >> 20} MiB" if num_bytes >= 1 << 20 else f"{num_bytes >> 10} KiB"


def _reasons(report: Report) -> Reasons:
    return {
        (row["rival"], None if row["point"] is None else tuple(row["point"])): row["reason"]
        for row in report["not_measured"]
    }


def _not_measured(report: Report) -> list[str]:
    rows: Sequence[Mapping[str, object]] = report["not_measured"]
    return [f"* not measured: `{row['rival']}`: {row['reason']}" for row in rows]


def _summary_rows(report: Report) -> list[list[str]]:
    cells = cells_of(report)
    rows = []
    for point in sorted({cell.point for cell in cells}):
        here = [cell for cell in cells if cell.point == point]
        speeds = [summarize(by_round(here, OURS, figure).values()) for figure, _ in SPEED]
        rows.append([f"{point[1] >> 10} KiB x {point[2]}", *(str(s or "-") for s in speeds)])
    return rows


def summary(report: Report) -> str:
    """Return the speeds of the mode `auto`, one line a point."""
    return table(["page x batch", *(title for _, title in SPEED)], _summary_rows(report))


SECTION = Section(
    file="engine",
    title="Engine: put and get against every rival",
    command="scripts/bench engine --json benchmark/results/engine.json",
    body=lambda report: f"{summary(report)}\n\n{body(report)}",
    losses=losses,
    plots=plots,
)
