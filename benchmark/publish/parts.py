"""The ablation on the page: each part of the engine on and off."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.harness import round_ratios, summarize, table
from benchmark.publish.reports import Loss, Report, Section

_ENGINE = (
    ("put_durable", "put+durable GB/s"),
    ("hot_get", "hot get GB/s"),
    ("cold_get", "cold get GB/s"),
    ("put_durable_cpu", "CPU s/GB put+durable"),
    ("cold_cpu", "CPU s/GB cold"),
    ("written", "bytes written per byte put"),
)
_KEYS = (
    ("half_p50_us", "probe of 128, 64 stored, us"),
    ("miss_p50_us", "probe unknown, us"),
    ("insert_us", "insert us"),
    ("purge_us", "subtree purge us/page"),
    ("disk_bytes", "disk B/entry"),
    ("compacted_disk_bytes", "compacted"),
)
_MERGING = (("cold_get", "cold get GB/s"), ("cold_p50_ms", "p50 ms"), ("cold_p99_ms", "p99 ms"))


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the engine, and what runs with it and without it."""

    name: str
    kind: str
    variants: tuple[tuple[str, str], ...]
    """Variant and what it means; the first is the engine as it comes."""
    only_reads: bool = False
    """Whether a put goes the same way in every variant, so that its figures compare nothing."""

    @property
    def figures(self) -> Sequence[tuple[str, str]]:
        """Return the names and titles of what the variants are compared by."""
        all_of_kind = _FIGURES[self.kind]
        return [one for one in all_of_kind if not self.only_reads or one[0] in _OF_READS]


PARTS = (
    Part(
        "Key-value separation",
        "engine",
        (
            ("store_auto", "pages in the log (as it comes)"),
            ("blobdb", "pages in RocksDB's blob files"),
            ("sst", "pages in RocksDB's tables"),
        ),
    ),
    Part(
        "Coalescing",
        "engine",
        (("store_auto", "calls of 4 MiB (as it comes)"), ("store_page_calls", "a call a page")),
    ),
    Part(
        "Checksums",
        "engine",
        (("store_auto", "verified (as it comes)"), ("store_unverified", "not verified")),
        only_reads=True,
    ),
    Part(
        "O_DIRECT",
        "engine",
        (
            ("store_auto", "auto: around the page cache but for what is in it (as it comes)"),
            ("store_direct", "always"),
            ("store_buffered", "never"),
        ),
    ),
    Part(
        "Reader threads",
        "engine",
        (("store_auto", "4 (as it comes)"), ("store_2_readers", "2"), ("store_1_reader", "1")),
        only_reads=True,
    ),
    Part(
        "Key encoding",
        "keys",
        (
            ("radix_path", "radix path (as it comes)"),
            ("group_ordered", "anchor, position, digest"),
            ("flat_hash", "flat hash"),
        ),
    ),
    Part(
        "Merging",
        "merging",
        (("merged", "on: merged, then read"), ("in turn", "off: read where it was written")),
    ),
)
_FIGURES = {"engine": _ENGINE, "keys": _KEYS, "merging": _MERGING}
_OF_READS = ("hot_get", "cold_get", "cold_cpu")
_LOW_IS_GOOD = ("_cpu", "_us", "_ms", "_bytes", "written")


def body(report: Report) -> str:
    """Return a table a part; beside each figure stands its ratio to the engine as it comes."""
    parts = []
    for part in PARTS:
        rows = []
        for size in _sizes(report, part):
            for variant, meaning in part.variants:
                cells = [_cell(report, part, variant, size, name) for name, _ in part.figures]
                if any(cell != "-" for cell in cells):
                    rows.append([f"{size >> 10} KiB" if size else "-", meaning, *cells])
        head = ["pages", "variant", *(title for _, title in part.figures)]
        parts.append(f"#### {part.name}\n\n{table(head, rows)}\n")
    for variant, reason in report["not_measured"].items():
        parts.append(f"* not measured: `{variant}`: {reason}\n")
    return "\n".join(parts)


def losses(report: Report) -> list[Loss]:
    """Return where the engine as it comes is worse than with a part changed."""
    found = []
    for part in PARTS:
        for figure, title in part.figures:
            for variant, meaning in part.variants[1:]:
                lost = []
                for size in _sizes(report, part):
                    ratio = _ratio(report, part, variant, size, figure)
                    low_is_good = figure.endswith(_LOW_IS_GOOD)
                    if ratio and (ratio.median < 1 if low_is_good else ratio.median > 1):
                        where = f"{size >> 10} KiB " if size else ""
                        lost.append(f"{where}{ratio}x of ours")
                if lost:
                    what = f"ablation, {part.name}: {title}"
                    found.append(Loss(what, meaning, ", ".join(lost)))
    return found


def _cell(report: Report, part: Part, variant: str, size: int, figure: str) -> str:
    found = summarize(_by_round(report, part, variant, size, figure).values())
    if found is None:
        return "-"
    ratio = _ratio(report, part, variant, size, figure)
    return str(found) if variant == part.variants[0][0] or not ratio else f"{found} ({ratio}x)"


def _ratio(report: Report, part: Part, variant: str, size: int, figure: str):
    base = _by_round(report, part, part.variants[0][0], size, figure)
    return round_ratios(_by_round(report, part, variant, size, figure), base)


def _by_round(report: Report, part: Part, variant: str, size: int, figure: str) -> dict[int, float]:
    return {
        row["round_number"]: row["figures"][figure]
        for row in report["rows"]
        if (row["kind"], row["variant"], row["page_bytes"]) == (part.kind, variant, size)
        and figure in row["figures"]
    }


def _sizes(report: Report, part: Part) -> Sequence[int]:
    return sorted({row["page_bytes"] for row in report["rows"] if row["kind"] == part.kind})


SECTION = Section(
    file="ablation",
    title="Ablation: each part on and off",
    command="scripts/bench ablation --json benchmark/results/ablation.json",
    body=body,
    losses=losses,
)
