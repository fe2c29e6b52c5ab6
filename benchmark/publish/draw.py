"""Plots in one style, small enough to live in the repository."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

MARKERS = "osDv^<>Px*hd"
_DPI = 90
_PLAIN_COLOURS = 10
_FEW_DECADES = 30


@contextmanager
def canvas(path: Path, title: str, *, panels: int = 1) -> Iterator[list[Axes]]:
    """Yield axes side by side; draw them into `path` with one legend below."""
    figure, found = pyplot.subplots(1, panels, figsize=(max(7.0, 4.4 * panels), 4.2), squeeze=False)
    axes = list(found[0])
    yield axes
    figure.suptitle(title)
    named = {
        name: handle
        for one in axes
        for handle, name in zip(*one.get_legend_handles_labels(), strict=True)
    }
    if named:
        figure.legend(
            named.values(), named.keys(), ncols=4, loc="upper center", bbox_to_anchor=(0.5, 0.02),
            fontsize="small",
        )  # fmt: skip
    for one in axes:
        one.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")
    pyplot.close(figure)


def curve(axes: Axes, points: dict[float, float], label: str, number: int, *, bold: bool) -> None:
    """Draw one line; the same number has the same look in every panel."""
    places = sorted(points)
    axes.plot(
        places,
        [points[place] for place in places],
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        linewidth=2.6 if bold else 1.2,
        # Ten colours that are told apart easily; only a plot of more lines needs the pale ones.
        color=pyplot.colormaps["tab10"](number)
        if number < _PLAIN_COLOURS
        else pyplot.colormaps["tab20b"]((number - _PLAIN_COLOURS) % 20),
        label=label,
    )


def plain_log(*several: Axis) -> None:
    """Make axes with lines logarithmic, ticks written out, more in a decade where there are few."""
    for one in several:
        low, high = one.get_data_interval()
        few = high < _FEW_DECADES * low
        one.axes.set(**{f"{one.axis_name}scale": "log"})
        one.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if few else (1, 3)))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.set_minor_formatter(NullFormatter())


def sized_ticks(axes: Axes, sizes: Sequence[float], names: Sequence[str]) -> None:
    """Put named ticks at `sizes` on a logarithmic x axis, and no others."""
    axes.set_xscale("log")
    axes.set_xticks(sizes, names)
    axes.minorticks_off()
