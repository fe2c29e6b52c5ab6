"""Results of benchmarks that have no section of their own: the tables they bring along."""

from benchmark.harness import table
from benchmark.publish.reports import Report, Section


def body(report: Report) -> str:
    """Return the report's own `tables`, each with `title`, `head` and `rows`, or its `results`.

    A result's `text` is what the benchmark printed of it, as Markdown.
    """
    parts = [
        f"#### {one['title']}\n\n{table(one['head'], one['rows'])}\n"
        for one in report.get("tables", ())
    ]
    parts += [
        one["text"].strip().replace("### ", "#### ", 1) + "\n"
        for one in report.get("results", ())
        if "text" in one
    ]
    return "\n".join(parts) or "Its figures stand in the file; it brings no tables.\n"


WRITES = Section(
    file="writes*",
    title="Write policies: what each writes, and which tier serves then",
    command="scripts/bench writes TRACE --json benchmark/results/writes-NAME.json",
    body=body,
)


def section_of(stem: str) -> Section:
    """Return the section of a file that no other section takes."""
    return Section(file=stem, title=stem, command=f"scripts/bench {stem}", body=body)
