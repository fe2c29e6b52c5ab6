"""Opening a large store on the page."""

from benchmark.harness import summarize, table
from benchmark.publish.reports import Report, Section

_COLUMNS = (
    ("open_s", "open s"),
    ("first_hit_s", "first hit s"),
    ("table_s", "page table complete s"),
    ("ram_bytes", "RAM B/page"),
    ("index_disk_bytes", "index on disk B/page"),
)


def body(report: Report) -> str:
    """Return one row a kind of stop."""
    rows = []
    for start in ("clean", "killed"):
        here = [row for row in report["starts"] if row["start"] == start]
        found = [summarize(row[name] for row in here) for name, _ in _COLUMNS]
        rows.append([start, *(str(one or "-") for one in found)])
    num_pages = report["settings"]["num_pages"]
    return f"{num_pages:.0e} pages, files not in the page cache.\n\n" + table(
        ["after a stop", *(title for _, title in _COLUMNS)], rows
    )


SECTION = Section(
    file="open",
    title="Open: the first hit after a start",
    command="scripts/bench open --json benchmark/results/open.json",
    body=body,
)
