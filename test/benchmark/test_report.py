"""The published tables: every rival a row, every ratio taken inside a round."""

from benchmark.report import Measured, by_round, point_tables, ratio_table

KIB = 1 << 10


def measured(rival: str, round_number: int, put: float) -> Measured:
    figures = {"put": put, "hot_get": float("nan")}
    return Measured(rival, 64 * KIB, 32, 0, round_number, figures)


CELLS = [
    measured("store_direct", 0, 4.0),
    measured("store_direct", 1, 1.0),
    measured("lmcache_buffered", 0, 1.0),
    measured("lmcache_buffered", 1, 0.5),
    measured("lmcache_direct", 0, 2.0),
    measured("lmcache_direct", 1, 0.25),
    measured("hicache_file", 0, 8.0),
    measured("hicache_file", 1, 2.0),
]


def cells_of(table: str, first: str, second: str = "") -> list[str]:
    for line in table.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if row[0] == first or (second and row[:2] == [first, second]):
            return row
    raise AssertionError(f"no row. first={first}")


def test_a_figure_that_was_not_measured_is_left_out() -> None:
    assert by_round(CELLS, "hicache_file", "put") == {0: 8.0, 1: 2.0}
    assert by_round(CELLS, "hicache_file", "hot_get") == {}
    assert by_round(CELLS, "hicache_file", "cold_get") == {}


def test_a_rival_without_figures_keeps_its_row_and_says_why() -> None:
    rivals = ["store_direct", "lmdb", "sst", "blobdb"]
    point = CELLS[0].point
    reasons = {("lmdb", None): "not installed", ("sst", point): "failed: killed"}
    text = point_tables(CELLS, rivals, reasons)
    assert cells_of(text, "store_direct")[1] == "2.50 [1.00..4.00]"
    assert cells_of(text, "lmdb")[1] == "not installed"
    assert cells_of(text, "sst")[1] == "failed: killed"
    assert cells_of(text, "blobdb")[1] == "not measured in the time given"


def test_ratios_are_taken_inside_a_round_against_the_better_mode() -> None:
    text = ratio_table(CELLS, "put")
    head = [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]
    row = cells_of(text, "64 KiB x 32")
    # Rounds: 4 / max(1, 2) and 1 / max(0.5, 0.25); medians of either mode would give another.
    assert row[head.index("LMCache file, better mode")] == "2.00 [2.00..2.00]"
    assert row[head.index("hicache_file")] == "0.500 [0.500..0.500]"
    assert row[head.index("LMDB")] == "-"
