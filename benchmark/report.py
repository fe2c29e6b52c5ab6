"""Turn measured cells into the tables and plots of the engine benchmark."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmark.harness import Summary, best_of, round_ratios, short, summarize, table

Point: TypeAlias = tuple[int, int, int]
"""Memory limit in bytes, page bytes, pages a batch."""
Reasons: TypeAlias = dict[tuple[str, Point | None], str]
"""Why a rival has no figures at a point, or at any (None)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one rival in one round of one grid point."""

    rival: str
    page_bytes: int
    batch_pages: int
    memory_limit_bytes: int
    round_number: int
    figures: dict[str, float]

    @property
    def point(self) -> Point:
        """The grid point: what is compared with each other."""
        return (self.memory_limit_bytes, self.page_bytes, self.batch_pages)


SPEED = (
    ("put", "put GB/s"),
    ("put_durable", "put+durable GB/s"),
    ("hot_get", "hot get GB/s"),
    ("cold_get", "cold get GB/s"),
)
COST = (
    ("put_p50_ms", "put p50 ms"),
    ("put_p99_ms", "put p99 ms"),
    ("hot_p50_ms", "hot p50 ms"),
    ("hot_p99_ms", "hot p99 ms"),
    ("cold_p50_ms", "cold p50 ms"),
    ("cold_p99_ms", "cold p99 ms"),
    ("put_durable_cpu", "CPU s/GB put+durable"),
    ("hot_cpu", "CPU s/GB hot"),
    ("cold_cpu", "CPU s/GB cold"),
    ("peak_mib", "peak MiB"),
    ("written", "written/put"),
    ("disk", "disk/put"),
)
OURS = ("store_auto", "store_buffered", "store_direct")
AGAINST: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("hicache_file", ("hicache_file",)),
    ("hicache_file_lru", ("hicache_file_lru",)),
    ("LMCache file, better mode", ("lmcache_buffered", "lmcache_direct")),
    ("LMCache raw block", ("lmcache_raw_block",)),
    ("hash+log, better mode", ("hash_log_buffered", "hash_log_direct")),
    ("BlobDB, better mode", ("blobdb", "blobdb_wal")),
    ("SST", ("sst",)),
    ("LMDB", ("lmdb",)),
    ("raw buffered", ("raw_buffered",)),
    ("raw O_DIRECT, better", ("raw_direct", "raw_direct_4t")),
)
"""Column title and the modes of a rival; where there are several, each round's best counts."""


def by_round(cells: Iterable[Measured], rival: str, figure: str) -> dict[int, float]:
    """Return one rival's figure, round by round; rounds that did not measure it are left out."""
    return {
        cell.round_number: cell.figures[figure]
        for cell in cells
        if cell.rival == rival and not math.isnan(cell.figures.get(figure, math.nan))
    }


def point_title(point: Point) -> str:
    """Name a grid point in words."""
    limit, page_bytes, batch_pages = point
    title = f"{page_bytes >> 10} KiB pages, {batch_pages} a batch"
    if limit:
        title += f"; memory limit {limit >> 20} MiB, the set does not fit: `cold` is random order"
    return title


def point_tables(cells: Sequence[Measured], rivals: Sequence[str], reasons: Reasons) -> str:
    """Return, for each grid point, a table of speeds and one of costs, every rival a row."""
    parts = []
    for point in sorted({cell.point for cell in cells}):
        here = [cell for cell in cells if cell.point == point]

        def why_not(rival: str, point: Point = point) -> str:
            reason = reasons.get((rival, point)) or reasons.get((rival, None))
            return reason or "not measured in the time given"

        parts.append(f"\n### {point_title(point)}\n")
        for columns, style in ((SPEED, str), (COST, _median)):
            rows = [
                _row(here, rival, columns, style)
                or [rival, why_not(rival), *[""] * len(columns[1:])]
                for rival in rivals
            ]
            parts.append(table(["engine", *(title for _, title in columns)], rows) + "\n")
    return "\n".join(parts)


def ratio_table(cells: Sequence[Measured], figure: str) -> str:
    """Return how our modes compare with each rival in one speed: above 1 is faster than it."""
    rows = []
    for point in sorted({cell.point for cell in cells}):
        here = [cell for cell in cells if cell.point == point]
        for ours in OURS:
            mine = by_round(here, ours, figure)
            if not mine:
                continue
            row = [f"{point[1] >> 10} KiB x {point[2]}{' (limit)' if point[0] else ''}", ours]
            for _, modes in AGAINST:
                base = best_of(*(by_round(here, mode, figure) for mode in modes))
                ratio = round_ratios(mine, base)
                row.append("-" if ratio is None else str(ratio))
            rows.append(row)
    return table(["page x batch", "mode", *(title for title, _ in AGAINST)], rows)


def plot_speeds(cells: Sequence[Measured], rivals: Sequence[str], directory: Path) -> list[Path]:
    """Draw one PNG a speed and batch size: bars grouped by page size, whiskers from min to max."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    directory.mkdir(parents=True, exist_ok=True)
    files = []
    plain = [cell for cell in cells if not cell.memory_limit_bytes]
    for batch_pages in sorted({cell.batch_pages for cell in plain}):
        here = [cell for cell in plain if cell.batch_pages == batch_pages]
        for figure, title in SPEED:
            canvas, axes = pyplot.subplots(figsize=(12, 5))
            _bars(axes, here, rivals, figure)
            axes.set_title(f"{title}, {batch_pages} pages a batch, median of rounds")
            axes.set_ylabel("GB/s")
            axes.legend(fontsize="x-small", ncols=3)
            files.append(directory / f"engine-{figure}-batch{batch_pages}.png")
            canvas.savefig(files[-1], dpi=110, bbox_inches="tight")
            pyplot.close(canvas)
    return files


def _bars(axes, cells: Sequence[Measured], rivals: Sequence[str], figure: str) -> None:
    from matplotlib import colormaps

    colours = colormaps["tab20"]
    sizes = sorted({cell.page_bytes for cell in cells})
    width = 0.8 / max(1, len(rivals))
    for i, rival in enumerate(rivals):
        for group, size in enumerate(sizes):
            at_size = [cell for cell in cells if cell.page_bytes == size]
            found = summarize(by_round(at_size, rival, figure).values())
            if found is None:
                continue
            spread = [[found.median - found.low], [found.high - found.median]]
            # A colour a rival; only the first bar of it makes a legend entry.
            label = rival if group == 0 else None
            place = group + (i - len(rivals) / 2) * width
            axes.bar(
                place, found.median, width, yerr=spread, color=colours(i), label=label, capsize=1
            )
    axes.set_xticks(range(len(sizes)), [f"{size >> 10} KiB" for size in sizes])


def _row(cells, rival, columns, style) -> list[str] | None:
    if not any(cell.rival == rival for cell in cells):
        return None
    summaries = [summarize(by_round(cells, rival, figure).values()) for figure, _ in columns]
    return [rival, *("-" if found is None else style(found) for found in summaries)]


def _median(found: Summary) -> str:
    return short(found.median)
