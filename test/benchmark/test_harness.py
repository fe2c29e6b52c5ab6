"""The statistics that every published figure goes through."""

import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.harness import (
    INTERRUPTED,
    best_of,
    collect,
    machine_facts,
    percentile,
    round_ratios,
    short,
    summarize,
    table,
    write_json,
)

finite = st.floats(min_value=1e-6, max_value=1e9)
values = st.lists(finite, min_size=1, max_size=30)


@given(values)
def test_summary_is_median_and_range(rounds: list[float]) -> None:
    found = summarize(rounds)
    assert found is not None
    assert (found.low, found.high) == (min(rounds), max(rounds))
    assert found.median == statistics.median(rounds)
    assert found.num_rounds == len(rounds)


@given(values)
def test_what_was_not_measured_does_not_count(rounds: list[float]) -> None:
    assert summarize([*rounds, math.nan]) == summarize(rounds)
    assert summarize([math.nan]) is None


@given(values, st.floats(min_value=0.01, max_value=1.0))
def test_percentile_is_the_smallest_value_with_its_share_below(rounds, share) -> None:
    found = percentile(rounds, share)
    assert found in rounds
    assert sum(v <= found for v in rounds) >= share * len(rounds) - 1e-9
    assert sum(v < found for v in rounds) < share * len(rounds) + 1e-9


def test_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(percentile([], 0.5))


def test_ratio_compares_inside_a_round() -> None:
    # The machine slows down tenfold between rounds; the ratio stays, where medians would not show.
    ours, theirs = {0: 4.0, 1: 0.4, 2: 8.0}, {0: 2.0, 1: 0.2, 3: 1.0}
    found = round_ratios(ours, theirs)
    assert found is not None
    assert (found.median, found.low, found.high, found.num_rounds) == (2.0, 2.0, 2.0, 2)


def test_ratio_of_nothing_in_common_is_nothing() -> None:
    assert round_ratios({0: 1.0}, {1: 1.0}) is None
    assert round_ratios({0: 1.0}, {0: 0.0}) is None


@given(st.dictionaries(st.integers(0, 5), finite), st.dictionaries(st.integers(0, 5), finite))
def test_better_mode_is_chosen_round_by_round(one, other) -> None:
    best = best_of(one, other)
    assert best.keys() == one.keys() | other.keys()
    for number, value in best.items():
        assert value == max(r[number] for r in (one, other) if number in r)


def test_short_keeps_three_digits() -> None:
    assert [short(v) for v in (0, 1234.5, 12.345, 0.012345)] == ["0", "1234", "12.3", "0.0123"]


def test_table_has_a_line_a_row_and_equal_widths() -> None:
    lines = table(["engine", "put"], [["a", "1"], ["longer name", "22"]]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1


def test_report_survives_json(tmp_path: Path) -> None:
    facts = machine_facts(tmp_path)
    write_json(tmp_path / "sub" / "report.json", {"machine": facts})
    read = json.loads((tmp_path / "sub" / "report.json").read_text())
    assert read["machine"] == facts
    assert facts["file_system"] != "unknown"


def test_what_ended_before_an_interrupt_or_an_error_counts() -> None:
    def stop(error: BaseException) -> list[int]:
        raise error

    def job(number: int) -> Callable[[], list[int]]:
        return lambda: [number]

    assert collect([job(1), job(2)], ()) == ([1, 2], "")
    cut = [job(1), lambda: stop(KeyboardInterrupt()), job(2)]
    assert collect(cut, ()) == ([1], INTERRUPTED)
    failed = [job(1), lambda: stop(ValueError("why")), job(2)]
    assert collect(failed, (ValueError,)) == ([1], "why")
    with pytest.raises(ValueError, match="why"):
        collect(failed, (KeyError,))


def test_what_a_job_had_yielded_before_its_end_is_kept() -> None:
    def yielding() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyboardInterrupt

    assert collect([yielding, lambda: [3]], ()) == ([1, 2], INTERRUPTED)
