"""Slices with and without a controller are told apart, and what it adds is what is printed."""

import json

import pytest

from benchmark.bench_overhead import CALLS, KINDS, Found, main, rows_of, text_of


def test_each_kind_of_slice_is_measured(tmp_path) -> None:
    out = tmp_path / "overhead.json"
    arguments = ["--rounds", "1", "--slice", "0.3", "--dir", str(tmp_path), "--json", str(out)]
    assert main(arguments) == 0
    report = json.loads(out.read_text())
    assert [row["call"] for row in report["rows"]] == ["put", "put", "get", "get"]
    assert all(row[kind] > 0 for row in report["rows"] for kind in KINDS)
    assert 0 <= report["core_share"] < 1


def test_what_tuning_adds_is_over_both_halves_without_it() -> None:
    found = Found(tuner_cpu_s=0.03, num_steps=10)
    for call in CALLS:
        found.call_s |= {("off", call): [1.0], ("off again", call): [3.0], ("tuned", call): [2.2]}
    assert found.core_share == pytest.approx(0.003)
    text = text_of(rows_of(found), found)
    assert "+10.0%" in text
    assert "+200.0%" in text
    assert "0.30% of a core, 3.0 ms a step" in text
