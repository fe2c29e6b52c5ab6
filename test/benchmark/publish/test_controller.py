"""Ratios, the oracle and the time to adapt, by hand."""

import pytest

from benchmark.publish.controller import body, oracle_of, outcome_of


def phase(total_s: float, changes=()) -> dict:
    return {"total_s": total_s, "wait_s": total_s / 2, "recompute_s": 0.0, "changes": list(changes)}


RESULT = {
    "workload": "flip",
    "default": "auto",
    "static": ["auto", "direct"],
    "text": "every arm",
    "arms": {
        "auto": {"0": [phase(2.0), phase(4.0)]},
        "direct": {"0": [phase(3.0), phase(2.0)]},
        "tuned": {
            "0": [
                phase(2.0, [(0.5, 4, "advised admission first -> second")]),
                phase(2.5, [(0.2, 3, "changed log.io_mode auto -> direct"), (0.6, 9, "kept x")]),
            ]
        },
        "observe": {"0": [phase(2.0), phase(4.06)]},
    },
}


def test_the_oracle_takes_the_cheapest_of_each_phase() -> None:
    assert oracle_of([RESULT["arms"]["auto"], RESULT["arms"]["direct"]]) == {0: 4.0}


def test_tuning_is_held_against_everything() -> None:
    found = outcome_of(RESULT)
    assert found.against_default.median == pytest.approx(4.5 / 6)
    assert found.against_oracle.median == pytest.approx(4.5 / 4)
    assert (found.best, found.against_best.median) == ("direct", pytest.approx(4.5 / 5))
    assert found.observe.median == pytest.approx(1.01)
    # Advice and what is kept move nothing.
    assert (found.adapt_s, found.adapt_requests) == (0.2, 3)


def test_the_page_shows_the_summary_and_each_arm() -> None:
    text = body({"results": [RESULT], "settings": {"interval_s": 0.1}})
    assert "0.750" in text
    assert "every arm" in text
    assert "0.200 s, 3 requests" in text
    assert body({"results": [], "settings": {}}) == "Nothing was measured.\n"
