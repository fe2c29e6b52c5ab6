"""Both layouts hold the same pages; only the order of the puts differs."""

from pathlib import Path

import pytest

from benchmark.bench_scatter import LAYOUTS, MERGED, ScatterCell, measure_scatter

CELL = ScatterCell(page_bytes=8192, num_writers=3, prefix_pages=8, step_pages=2)


def test_layouts_differ_in_order_only() -> None:
    alone, in_turn = (list(CELL.steps(layout)) for layout in LAYOUTS)
    assert alone != in_turn
    assert sorted(alone) == sorted(in_turn)
    assert [writer for writer, _ in in_turn[:3]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("rival", "expected"),
    [("raw_direct", set(LAYOUTS)), ("store_direct", {*LAYOUTS, MERGED})],
)
def test_each_layout_is_measured_and_compared(
    tmp_path: Path, rival: str, expected: set[str]
) -> None:
    figures = measure_scatter(rival, CELL, tmp_path / "run", seed=1)
    assert set(figures) == expected
    assert all(layout["cold_get"] > 0 for layout in figures.values())
    assert not (tmp_path / "run").exists()
