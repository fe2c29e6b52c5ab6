"""How costs grow, on the page: a table and a plot a study, and by what the cost grows."""

import math
from pathlib import Path

from benchmark.harness import Summary, short, summarize, table
from benchmark.publish.draw import canvas, curve, plain_log, sized_ticks
from benchmark.publish.reports import Report, Section

STUDIES = {
    "pages": "Cost by pages stored (4 KiB pages)",
    "prompts": "Cost of one path by prompt tokens (4 KiB pages of 64 tokens)",
    "clients": "Clients at once (32 pages of 64 KiB a call)",
}


_ACROSS = {
    "pages": "pages stored (log)",
    "prompts": "prompt tokens (log)",
    "clients": "threads that call at once (log)",
}
BEYOND = 10**8
"""Pages of a store that no benchmark here can fill."""


def body(report: Report) -> str:
    """Return a table a study; the last column is last value over first, beside that of x."""
    parts = []
    for study, title in STUDIES.items():
        places = _places(report, study)
        if not places:
            continue
        rows = []
        for line, unit in _lines(report, study):
            points = {x: _point(report, study, line, x) for x in places}
            known = {x: point for x, point in points.items() if point}
            first, last = min(known), max(known)
            growth = known[last].median / known[first].median
            cells = [str(points[x] or "-") for x in places]
            rows.append([f"{line}, {unit}", *cells, f"{short(growth)} of {short(last / first)}"])
        head = ["line", *(f"{x:.0e}" if study == "pages" else str(x) for x in places), "grew"]
        parts.append(f"#### {title}\n\n{table(head, rows)}\n")
    return "\n".join([*parts, _beyond(report)])


def _beyond(report: Report) -> str:
    """Return what each line of the first study comes to at BEYOND pages: arithmetic, not measured.

    A level of an LSM-tree holds `size_ratio` times the one above, so what a look-up costs grows by
    the levels: with the logarithm of the entries. The step of a decade is taken as the mean over
    the decades that were measured, and as none where the cost fell.
    """
    rows = []
    for line, unit in _lines(report, "pages"):
        found = [(x, _point(report, "pages", line, x)) for x in _places(report, "pages")]
        known = [(x, point.median) for x, point in found if point]
        if len(known) > 1:
            (first, low), (last, high) = known[0], known[-1]
            step = max(0.0, (high - low) / math.log10(last / first))
            reached = high + step * math.log10(BEYOND / last)
            rows.append(
                [f"{line}, {unit}", f"{last:.0e}: {short(high)}", short(step), short(reached)]
            )
    head = ["line", "measured last", "a decade", f"at {BEYOND:.0e}"]
    return f"#### At {BEYOND:.0e} pages, by arithmetic\n\n{table(head, rows)}\n"


def plots(report: Report, stem: Path) -> list[Path]:
    """Draw one picture a study, a panel a unit."""
    files = []
    for study, title in STUDIES.items():
        if not _lines(report, study):
            continue
        units = list(dict.fromkeys(unit for _, unit in _lines(report, study)))
        path = stem.with_name(f"{stem.name}-{study}.png")
        with canvas(path, title, panels=len(units)) as axes:
            for number, (line, unit) in enumerate(_lines(report, study)):
                points = {
                    float(x): point.median
                    for x in _places(report, study)
                    if (point := _point(report, study, line, x))
                }
                curve(axes[units.index(unit)], points, line, number, bold=False)
            for one, unit in zip(axes, units, strict=True):
                places = _places(report, study)
                if study == "pages":
                    one.set_xscale("log")
                    plain_log(one.yaxis)
                else:
                    plain_log(one.xaxis, one.yaxis)
                    sized_ticks(one, places, [_short_count(x) for x in places])
                one.set_xlabel(_ACROSS[study])
                one.set_ylabel(f"{unit} (log)")
        files.append(path)
    return files


def _short_count(number: int) -> str:
    return f"{number >> 10}k" if number >= 1024 else str(number)


def _point(report: Report, study: str, line: str, x: int) -> Summary | None:
    return summarize(
        row["value"]
        for row in report["rows"]
        if (row["study"], row["line"], row["x"]) == (study, line, x)
    )


def _lines(report: Report, study: str) -> list[tuple[str, str]]:
    found = {row["line"]: row["unit"] for row in report["rows"] if row["study"] == study}
    return list(found.items())


def _places(report: Report, study: str) -> list[int]:
    return sorted({row["x"] for row in report["rows"] if row["study"] == study})


SECTION = Section(
    file="scaling",
    title="Scaling: where the lines bend",
    command="scripts/bench scaling --json benchmark/results/scaling.json",
    body=body,
    plots=plots,
)
