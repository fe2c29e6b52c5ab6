"""Make `benchmark/RESULTS.md` and its plots out of the results that were kept.

    scripts/bench results                     benchmark/results/*.json -> benchmark/RESULTS.md
    scripts/bench results --from DIR --out FILE

Nothing is measured. A benchmark whose file is missing is named with the command that makes it.
What people add (the cause of a missed promise, a remark on a section) stands in `notes.toml`
beside the JSON files.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.harness import table
from benchmark.publish import (
    agent,
    controller,
    engine,
    gpu,
    hits,
    knobs,
    lookups,
    misses,
    model,
    other,
    outside,
    paper,
    parts,
    scaling,
    space,
    starts,
    text,
    ttft,
)
from benchmark.publish import (
    load as clients_at_once,
)
from benchmark.publish.promises import promise_table, promises
from benchmark.publish.reports import (
    Loss,
    Notes,
    Report,
    Section,
    load,
    load_notes,
    origin,
    stems_of,
)

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE / "RESULTS.md"
SECTIONS: tuple[Section, ...] = (
    engine.SECTION,
    parts.SECTION,
    lookups.SECTION,
    starts.SECTION,
    space.RECLAIM,
    space.SCATTER,
    scaling.SECTION,
    hits.SECTION,
    other.WRITES,
    ttft.SECTION,
    ttft.QUICK,
    misses.SECTION,
    clients_at_once.SECTION,
    agent.SECTION,
    text.SECTION,
    paper.SECTION,
    outside.SECTION,
    gpu.SECTION,
    controller.SECTION,
    model.SECTION,
    knobs.SECTION,
)

_HEAD = """# Results

Made by `scripts/bench results` from the JSON files in `benchmark/results/`; do not edit. Figures
are medians over rounds, with [min..max] where there is more than one; ratios are taken inside a
round. Rivals run on the same machine, in the same rounds, on the same bytes. "Hit" is prompt tokens
served from a tier over prompt tokens.
"""


def page(reports: Mapping[str, Report], notes: Notes, plots: Mapping[str, Sequence[str]]) -> str:
    """Return the whole page.

    Args:
        reports: content by file stem.
        notes: what people wrote.
        plots: links to pictures, from the page's folder, by file stem.
    """
    parts = [_HEAD]
    parts += ["## Promised and seen\n", _promises(reports, notes)]
    parts += ["\n## Where it loses\n", _losses(reports)]
    for section in _all_sections(reports):
        parts.append(f"\n## {section.title}\n")
        stems = stems_of(section, reports)
        if not stems:
            parts.append(f"Not run. `{section.command}` makes it.\n")
        for stem in stems:
            parts.append(_section(section, stem, reports[stem], notes))
            parts += [f"![{section.title}]({link})\n" for link in plots.get(stem, ())]
    return "\n".join(parts).rstrip() + "\n"


def draw(reports: Mapping[str, Report], folder: Path) -> dict[str, list[Path]]:
    """Draw every section's plots into `folder`; return them by file stem."""
    return {
        stem: list(section.plots(reports[stem], folder / stem))
        for section in SECTIONS
        for stem in stems_of(section, reports)
    }


def links(folder: Path, out: Path, stems: Sequence[str]) -> dict[str, list[str]]:
    """Return the links to the pictures that lie in `folder`, by the stem they begin with."""
    found: dict[str, list[str]] = {stem: [] for stem in stems}
    for path in sorted(folder.glob("*.png")):
        owners = [s for s in stems if path.stem == s or path.stem.startswith(f"{s}-")]
        if owners:
            link = os.path.relpath(path, out.parent)
            found[max(owners, key=len)].append(Path(link).as_posix())
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; return 1 where no result was found."""
    options = _parser().parse_args(arguments)
    reports = load(options.source)
    if not reports:
        print(f"bench results: no result in {options.source}", file=sys.stderr)
        return 1
    if not options.no_plots:
        draw(reports, options.source)
    found = links(options.source, options.out, list(reports))
    options.out.write_text(page(reports, load_notes(options.source), found))
    missed = [one for one in promises(reports) if one.verdict == "MISSED"]
    print(f"{options.out}: {len(reports)} results, {len(missed)} promises missed")
    return 0


def _all_sections(reports: Mapping[str, Report]) -> list[Section]:
    taken = {stem for section in SECTIONS for stem in stems_of(section, reports)}
    return [*SECTIONS, *(other.section_of(stem) for stem in reports if stem not in taken)]


def _promises(reports: Mapping[str, Report], notes: Notes) -> str:
    found = promises(reports)
    count = {word: sum(p.verdict == word for p in found) for word in ("met", "MISSED", "not run")}
    told = ", ".join(f"{number} {word}" for word, number in count.items() if number)
    return f"{told}.\n\n{promise_table(found, notes.causes)}\n"


def _losses(reports: Mapping[str, Report]) -> str:
    found: list[Loss] = []
    for section in SECTIONS:
        for stem in stems_of(section, reports):
            found += section.losses(reports[stem])
    if not found:
        return "No comparison in these results is lost.\n"
    return (
        "Computed: every comparison below in which a rival's median is better. `1 MiB x 32 0.9x` "
        "reads: pages of 1 MiB, 32 a batch, ours at 0.9 of theirs.\n\n"
        + table(["figure", "against", "where, and by how much"], found)
        + "\n"
    )


def _section(section: Section, stem: str, report: Report, notes: Notes) -> str:
    title = f"### {stem}\n\n" if section.file.endswith("*") else ""
    note = f"\n\n{notes.sections[stem]}" if stem in notes.sections else ""
    return f"{title}{origin(report, section.command)}{note}\n\n{section.body(report)}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--no-plots", action="store_true", help="link the pictures that are there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
