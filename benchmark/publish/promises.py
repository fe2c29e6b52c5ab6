"""What was promised, the engine's part first, beside what the results say."""

from collections.abc import Iterator, Mapping, Sequence

from benchmark.harness import Summary, short, summarize, table
from benchmark.publish import engine, lookups, space
from benchmark.publish.promise import Promise
from benchmark.publish.reports import Report
from benchmark.publish.serving_promises import serving_promises
from benchmark.publish.tuning_promises import tuning_promises
from benchmark.report import Measured, by_round

KIB, MIB = 1 << 10, 1 << 20
SIZES = (64 * KIB, 256 * KIB, MIB, 2 * MIB)
_LMCACHE = ("lmcache_buffered", "lmcache_direct")
_RAW = ("raw_direct", "raw_direct_4t")
_BLOBDB = ("blobdb", "blobdb_wal")
# Rival modes, the title, the figure, and the least ratio at each of SIZES; None is no promise.
_RATIOS: tuple[tuple[str, Sequence[str], str, str, tuple[float | None, ...]], ...] = (
    ("HiCacheFile", ("hicache_file",), "put_durable", "put+durable", (12, 4.5, 1.7, 1.5)),
    ("HiCacheFile", ("hicache_file",), "cold_get", "cold get", (3.5, 1.8, 1.4, 1.4)),
    ("HiCacheFile", ("hicache_file",), "hot_get", "hot get, auto, checksum on", (1, 1, 1, 1)),
    ("LMCache, its better mode", _LMCACHE, "put_durable", "put+durable", (12, 4, 1.05, None)),
    ("LMCache, its better mode", _LMCACHE, "cold_get", "cold get", (1.5, 1.2, 1.1, None)),
    ("LMCache, its better mode", _LMCACHE, "hot_get", "hot get, checksum on", (0.8,) * 4),
    ("raw O_DIRECT file, better", _RAW, "cold_get", "cold get", (0.95,) * 4),
    ("raw O_DIRECT file, better", _RAW, "put_durable", "put+durable", (None, 0.85, 0.85, 0.85)),
    ("BlobDB, its better mode", _BLOBDB, "put_durable", "put+durable", (3,) * 4),
    ("BlobDB, its better mode", _BLOBDB, "cold_get", "cold get", (3,) * 4),
)
_UNVERIFIED = "store_unverified"


def promises(reports: Mapping[str, Report]) -> list[Promise]:
    """Return every promise in order; those whose file is missing have no figure."""
    cells = engine.cells_of(reports["engine"]) if "engine" in reports else []
    return [
        *_ratios(cells),
        *_cpu(cells),
        *_index(reports.get("index")),
        *_open(reports.get("open")),
        *_reclaim(reports.get("reclaim")),
        *serving_promises(reports),
        *tuning_promises(reports),
    ]


def promise_table(found: Sequence[Promise], causes: Mapping[str, str]) -> str:
    """Return the table; a missed promise without a cause says that none is known."""
    rows = []
    for one in found:
        sign = ">=" if one.at_least else "<="
        cause = causes.get(one.key, "cause not written down") if one.verdict == "MISSED" else ""
        rows.append(
            [
                one.against,
                one.what,
                f"{sign} {short(one.target)}{one.unit}",
                "-" if one.seen is None else f"{one.seen}{one.unit}",
                one.verdict,
                cause,
            ]
        )
    head = ["against", "what", "promised", "seen: median [min..max]", "verdict", "cause of a miss"]
    return table(head, rows)


def _ratios(cells: Sequence[Measured]) -> Iterator[Promise]:
    for against, modes, figure, title, targets in _RATIOS:
        yield from _ratio_rows(cells, (against, modes, figure, title), targets)
    hot = ("LMCache, its better mode", _LMCACHE, "hot_get", "hot get, checksum off")
    yield from _ratio_rows(cells, hot, (1,) * 4, ours=_UNVERIFIED)


def _ratio_rows(
    cells: Sequence[Measured],
    row: tuple[str, Sequence[str], str, str],
    targets: Sequence[float | None],
    *,
    ours: str = engine.OURS,
) -> Iterator[Promise]:
    against, modes, figure, title = row
    for size, target in zip(SIZES, targets, strict=True):
        if target is not None:
            here = _at(cells, size)
            seen = engine.ratio_at(here, figure, modes, ours=ours)
            yield Promise(against, f"{title}, {_name(size)}", target, True, seen, "x")


def _cpu(cells: Sequence[Measured]) -> Iterator[Promise]:
    for figure, title, target in (
        ("put_durable_cpu", "CPU put+durable", 0.35),
        ("cold_cpu", "CPU cold get", 0.12),
    ):
        for size in SIZES:
            seen = summarize(by_round(_at(cells, size), engine.OURS, figure).values())
            yield Promise("itself", f"{title}, {_name(size)}", target, False, seen, " s/GB")


def _index(report: Report | None) -> Iterator[Promise]:
    wanted = (
        ("half_p50_us", "probe of 128 pages, 64 stored", 10**6, 30.0),
        ("half_p50_us", "probe of 128 pages, 64 stored", 10**7, 60.0),
        ("miss_p50_us", "probe of an unknown path", 10**6, 5.0),
    )
    for figure, title, num_entries, target in wanted:
        for prefix, state in (("", "as written"), ("compacted_", "compacted")):
            seen = None
            if report is not None:
                seen = lookups.figure_of(
                    report, lookups.OURS, "large", num_entries, prefix + figure
                )
            what = f"{title}, {num_entries:.0e} entries, {state}"
            yield Promise("itself", what, target, False, seen, " us")


def _open(report: Report | None) -> Iterator[Promise]:
    for figure, title, target, unit in (
        ("first_hit_s", "open and first hit", 0.1, " s"),
        ("table_s", "page table complete", 1.0, " s"),
    ):
        for start in ("clean", "killed"):
            seen = _of_starts(report, start, figure)
            what = f"{title}, 1e6 pages, after a {start} stop"
            yield Promise("itself", what, target, False, seen, unit)
    for figure, title, target in (
        ("ram_bytes", "RAM a page beyond fixed caches", 64.0),
        ("index_disk_bytes", "disk an index entry", 48.0),
    ):
        yield Promise("itself", title, target, False, _of_starts(report, "clean", figure), " B")


def _reclaim(report: Report | None) -> Iterator[Promise]:
    for figure, title, target in (
        ("written_per_freed", "evict half: bytes written per byte freed", 0.05),
        ("after_reclaim", "evict half: disk over live bytes, while open", 1.02),
        ("closed", "evict half: disk over live bytes, closed", 1.02),
    ):
        seen = None
        if report is not None:
            seen = space.reclaim_figure(report, space.OURS, figure)
        yield Promise("itself", title, target, False, seen)


def _of_starts(report: Report | None, start: str, figure: str) -> Summary | None:
    if report is None or report["settings"]["num_pages"] < 10**6:
        return None
    return summarize(
        row[figure] for row in report["starts"] if row["start"] == start and figure in row
    )


def _at(cells: Sequence[Measured], page_bytes: int) -> list[Measured]:
    plain = [cell for cell in cells if not cell.memory_limit_bytes]
    if not plain:
        return []
    batch = engine.main_batch(plain)
    return [c for c in plain if c.page_bytes == page_bytes and c.batch_pages == batch]


def _name(num_bytes: int) -> str:
    return f"{num_bytes >> 20} MiB" if num_bytes >= MIB else f"{num_bytes >> 10} KiB"
