"""Tables and plots of the TTFT benchmark.

python -m benchmark.ttft_report FILE [--readme]     prints the tables of a result kept as JSON
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.harness import Summary, percentile, round_ratios, short, summarize, table

COLD, DEVICE, HOST_HIT = "cold", "device hit", "host hit"
DISK_COLD, DISK_HOT = "disk hit, cold page cache", "disk hit, hot page cache"

SUMMED = (
    ("recompute", COLD),
    ("host", HOST_HIT),
    ("file", DISK_COLD),
    ("lsm", DISK_COLD),
    ("file", DISK_HOT),
    ("lsm", DISK_HOT),
    ("lsm", DEVICE),
)
"""Columns of the summary and bars of the plots: what comes back from where."""
SHOWN = (*SUMMED, ("host", COLD), ("lsm", COLD), ("sim", DISK_HOT))
"""Rows of the tables: those, what misses cost, and the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request."""

    row: str
    phase: str
    prompt_tokens: int
    ttft_s: float
    device_tokens: int
    host_tokens: int
    disk_tokens: int
    output_ids: tuple[int, ...]
    model: str = ""
    round_number: int = 0

    def in_round(self, model: str, number: int) -> "Sample":
        """Return the sample with its model and round."""
        return replace(self, model=model, round_number=number)


def print_report(samples: Sequence[Sample], plots: Path | None) -> None:
    """Print a table a model and prompt length, and one of load times; draw into `plots`."""
    for model, length in sorted({(s.model, s.prompt_tokens) for s in samples}):
        here = [s for s in samples if (s.model, s.prompt_tokens) == (model, length)]
        print(f"\n### {model}, {length} prompt tokens\n\n{ttft_table(here)}")
    print(f"\n### Load time: disk hit minus device hit\n\n{load_table(samples)}")
    print(f"\n### Against bounds\n\n{bounds_table(samples)}")
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for model in sorted({s.model for s in samples}):
            plot_model([s for s in samples if s.model == model], plots / f"ttft-{model}.png")


def by_round(samples: Iterable[Sample], row: str, phase: str) -> dict[int, float]:
    """Return the TTFT in seconds of one row and phase, by round."""
    return {s.round_number: s.ttft_s for s in samples if (s.row, s.phase) == (row, phase)}


def load_by_round(samples: Sequence[Sample], row: str, phase: str) -> dict[int, float]:
    """Return disk hit minus device hit of the same row, in seconds, by round."""
    device = by_round(samples, row, DEVICE)
    return {n: ttft - device[n] for n, ttft in by_round(samples, row, phase).items()}


def load_table(samples: Sequence[Sample]) -> str:
    """Return load times of the two disk tiers and their ratio, below 1 where ours is faster."""
    rows = []
    for model, length in sorted({(s.model, s.prompt_tokens) for s in samples}):
        here = [s for s in samples if (s.model, s.prompt_tokens) == (model, length)]
        for phase in (DISK_COLD, DISK_HOT):
            file, lsm = (load_by_round(here, row, phase) for row in ("file", "lsm"))
            rows.append(
                [
                    f"{model}, {length}, {phase}",
                    _milliseconds(summarize(file.values())),
                    _milliseconds(summarize(lsm.values())),
                    str(round_ratios(lsm, file) or "-"),
                ]
            )
    return table(["what", "file ms", "lsm ms", "lsm / file"], rows)


def bounds_table(samples: Sequence[Sample]) -> str:
    """Return what a miss costs, and how far a disk hit is from a host hit and from no I/O."""
    pairs = (
        ("miss, over the same without the disk tier", COLD, "host", COLD),
        ("disk hit, over a host hit", DISK_HOT, "host", HOST_HIT),
        ("disk hit, over SGLang's `sim` (no I/O)", DISK_HOT, "sim", DISK_HOT),
    )
    rows = []
    for model, length in sorted({(s.model, s.prompt_tokens) for s in samples}):
        here = [s for s in samples if (s.model, s.prompt_tokens) == (model, length)]
        for title, phase, bound, bound_phase in pairs:
            ours, theirs = by_round(here, "lsm", phase), by_round(here, bound, bound_phase)
            p99 = [short(1e3 * percentile(list(v.values()), 0.99)) for v in (ours, theirs)]
            ratio = str(round_ratios(ours, theirs) or "-")
            rows.append([f"{model}, {length}, {title}", ratio, " / ".join(p99)])
    return table(["lsm: what", "ratio [min..max]", "p99 ms lsm / bound"], rows)


def ttft_table(samples: Sequence[Sample]) -> str:
    """Return the rows of one model and prompt length: TTFT, tail, against recompute, hit tokens."""
    recompute = by_round(samples, "recompute", COLD)
    rows = []
    for row, phase in SHOWN:
        found = [s for s in samples if (s.row, s.phase) == (row, phase)]
        if not found:
            continue
        ttft = by_round(found, row, phase)
        hits = {(s.device_tokens, s.host_tokens, s.disk_tokens) for s in found}
        rows.append(
            [
                f"{row}: {phase}",
                _milliseconds(summarize(ttft.values())),
                short(percentile(list(ttft.values()), 0.99) * 1e3),
                str(round_ratios(recompute, ttft) or "-"),
                " or ".join("/".join(map(str, hit)) for hit in sorted(hits)),
            ]
        )
    head = ["row", "TTFT p50 ms [min..max]", "p99 ms", "x faster than recompute"]
    return table([*head, "hit tokens device/host/disk"], rows)


def _milliseconds(found: Summary | None) -> str:
    if found is None:
        return "-"
    return str(Summary(found.median * 1e3, found.low * 1e3, found.high * 1e3, found.num_rounds))


def plot_model(samples: Sequence[Sample], path: Path) -> None:
    """Draw one group of bars a prompt length, whiskers from min to max, seconds on a log axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator

    lengths = sorted({s.prompt_tokens for s in samples})
    canvas, axes = pyplot.subplots(figsize=(10, 4.5))
    width = 0.8 / len(SUMMED)
    for i, (row, phase) in enumerate(SUMMED):
        found = [
            summarize(by_round([s for s in samples if s.prompt_tokens == n], row, phase).values())
            for n in lengths
        ]
        places = [g + (i - len(SUMMED) / 2 + 0.5) * width for g, f in enumerate(found) if f]
        kept = [f for f in found if f is not None]
        spread = [[f.median - f.low for f in kept], [f.high - f.median for f in kept]]
        axes.bar(
            places,
            [f.median for f in kept],
            width,
            yerr=spread,
            capsize=2,
            label=f"{row}: {phase}",
        )
    axes.set_yscale("log")
    axes.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    axes.set_ylabel("time to first token, s (log)")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("prompt tokens")
    axes.set_title(f"{samples[0].model}: median TTFT of a prompt seen before, min to max")
    axes.legend(fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    canvas.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(canvas)


def summary_table(samples: Sequence[Sample]) -> str:
    """Return one line a model and prompt length: median TTFT in seconds by where it came from."""
    rows = []
    for model, length in sorted({(s.model, s.prompt_tokens) for s in samples}):
        here = [s for s in samples if (s.model, s.prompt_tokens) == (model, length)]
        cells = [_seconds(summarize(by_round(here, row, phase).values())) for row, phase in SUMMED]
        ratios = [
            _ratio(round_ratios(load_by_round(here, "lsm", p), load_by_round(here, "file", p)))
            for p in (DISK_COLD, DISK_HOT)
        ]
        rows.append([f"{model}, {length}", *cells, *ratios])
    head = ["model, prompt tokens", "recompute", "host", "file cold", "lsm cold", "file hot"]
    return table([*head, "lsm hot", "device", "load lsm/file cold", "hot"], rows)


def _seconds(found: Summary | None) -> str:
    return "-" if found is None else f"{found.median:.2f}"


def _ratio(found: Summary | None) -> str:
    return "-" if found is None else f"{found.median:.2f}"


def main() -> None:
    """Print the tables of a kept result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--readme", action="store_true", help="only the README's table")
    parser.add_argument("--plots", type=Path, help="draw the plots into this folder")
    options = parser.parse_args()
    kept = json.loads(options.file.read_text())
    samples = [Sample(**{**s, "output_ids": tuple(s["output_ids"])}) for s in kept["samples"]]
    if options.readme:
        print(summary_table(samples))
    else:
        print_report(samples, options.plots)


if __name__ == "__main__":
    main()
