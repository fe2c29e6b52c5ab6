"""The page copies on a GPU: kernels against the card's own copy, victims, the whole path."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from benchmark.harness import Summary, round_ratios, short, summarize, table
from benchmark.publish.reports import Loss, Report, Section

Row: TypeAlias = Mapping[str, object]

_COPY = "device-to-device copy"
_LEGENDS = (
    "Pages gathered into one tensor and scattered back; GB/s counts every byte twice, read and"
    " written, as the card's copy of the same bytes does that `of copy` divides by, round by round."
    " `host us` is what the launching thread pays.",
    "A victim of the device copied aside before its slots are reused, as the server does it:"
    " `scheduler us` is what the scheduler thread pays, GB/s from its first call until all pages"
    " lie in pinned memory.",
    "Device pool to store and back, stage by stage, GB/s; the page cache is dropped in between.",
    "The kernels with tiles of other sizes, most pages, `of copy`.",
)


def body(report: Report) -> str:
    """Return one table a part of the check."""
    if not report["copies"]:
        return "Right, and not timed: the interpreter says nothing about speed.\n"
    tables = (_copies(report), _victims(report), _path(report), _tiles(report))
    return "\n".join(f"{legend}\n\n{one}\n" for legend, one in zip(_LEGENDS, tables, strict=True))


def losses(report: Report) -> list[Loss]:
    """Return where a kernel is slower than torch's indexing a layer at a time."""
    found = []
    for kernel, rival in (
        ("gather_pages", "index_select per layer, reordered"),
        ("scatter_pages", "index_copy per layer"),
    ):
        times = {(row["way"], row["geometry"], row["num_pages"]): row for row in report["copies"]}
        for (way, geometry, num_pages), row in times.items():
            if way != kernel:
                continue
            ratio = _ratio(times[rival, geometry, num_pages], row)
            if ratio is not None and ratio.median < 1:
                found.append(Loss(f"{kernel}, {geometry}, {num_pages} pages", rival, str(ratio)))
    return found


def _copies(report: Report) -> str:
    bases = {
        (row["geometry"], row["num_pages"]): row for row in report["copies"] if row["way"] == _COPY
    }
    rows = []
    for row in report["copies"]:
        speeds = _speeds(row["num_bytes"], row["device_ms"], factor=2)
        of_copy = _ratio(bases[row["geometry"], row["num_pages"]], row)
        named = (row["geometry"], str(row["num_pages"]), short(row["num_bytes"] / 1e6), row["way"])
        host_us = summarize(row["host_us"].values())
        rows.append([*named, *map(str, (speeds, of_copy, host_us))])
    return table(["geometry", "pages", "MB", "way", "GB/s", "of copy", "host us"], rows)


def _victims(report: Report) -> str:
    rows = []
    for row in report["victims"]:
        named = (row["geometry"], row["layout"], str(row["num_pages"]), str(row["num_batches"]))
        speeds = _speeds(row["num_bytes"], row["arrival_ms"], factor=1)
        rows.append([*named, str(summarize(row["scheduler_us"].values())), str(speeds)])
    return table(["geometry", "layout", "pages", "batches", "scheduler us", "GB/s"], rows)


def _path(report: Report) -> str:
    stages = list(report["paths"][0]["seconds"])
    rows = []
    for row in report["paths"]:
        speeds = [
            summarize(row["num_bytes"] / seconds / 1e9 for seconds in by_round.values())
            for by_round in row["seconds"].values()
        ]
        rows.append([row["geometry"], short(row["num_bytes"] / 1e6), *map(str, speeds)])
    return table(["geometry", "MB", *stages], rows)


def _tiles(report: Report) -> str:
    by_geometry: dict[str, dict[str, Row]] = {}
    for row in report["tiles"]:
        by_geometry.setdefault(row["geometry"], {})[row["way"]] = row
    ways = [way for way in next(iter(by_geometry.values())) if way != _COPY]
    rows = [
        [geometry, *(str(_ratio(found[_COPY], found[way])) for way in ways)]
        for geometry, found in by_geometry.items()
    ]
    return table(["geometry", *ways], rows)


def _speeds(num_bytes: int, times_ms: Mapping[str, float], *, factor: int) -> Summary | None:
    return summarize(factor * num_bytes / ms / 1e6 for ms in times_ms.values())


def _ratio(slow: Row, fast: Row) -> Summary | None:
    """Return how many times as fast the second is: the time of the first over its own."""
    by_round: Sequence[dict[int, float]] = [
        {int(number): ms for number, ms in row["device_ms"].items()} for row in (slow, fast)
    ]
    return round_ratios(*by_round)


SECTION = Section(
    file="gpu_check*",
    title="On a GPU: gather, scatter, and the way to the store",
    command="scripts/gpu_check",
    body=body,
    losses=losses,
)
