"""Ratios, the oracle and the time to adapt, by hand."""

import math

import pytest

from benchmark.publish.controller import (
    body,
    choices,
    decisions_table,
    oracle_of,
    outcome_of,
    reachable_of,
)


def phase(total_s: float, changes=()) -> dict:
    return {
        "name": "phase", "total_s": total_s, "wait_s": total_s / 2, "recompute_s": 0.0,
        "seconds": 1.0, "settings": "auto first", "changes": list(changes),
    }  # fmt: skip


RESULT = {
    "workload": "flip",
    "default": "auto",
    "static": ["auto", "direct"],
    "stores": {"auto": "first", "direct": "first"},
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
    static = {name: RESULT["arms"][name] for name in RESULT["static"]}
    assert oracle_of(static) == {0: 4.0}


def test_the_oracle_is_charged_in_another_round_than_it_chose_by() -> None:
    """Two arms that cost 2 on average: the least of each round would be 1."""
    arms = {
        "auto": {"0": [phase(1.0)], "1": [phase(3.0)]},
        "direct": {"0": [phase(3.0)], "1": [phase(1.0)]},
    }
    assert choices(arms, elsewhere=False) == {0: ["auto"], 1: ["direct"]}
    assert choices(arms) == {0: ["direct"], 1: ["auto"]}
    assert oracle_of(arms) == {0: 3.0, 1: 3.0}


def test_an_oracle_within_reach_hits_no_page_that_it_refused() -> None:
    """Refusing is cheap in the fill, reading what was stored in the scan; nobody has both."""
    arms = {
        "stores": {"0": [phase(4.0), phase(1.0)]},
        "stores too": {"0": [phase(5.0), phase(0.5)]},
        "refuses": {"0": [phase(1.0), phase(3.8)]},
    }
    stores = {"stores": "first", "stores too": "first", "refuses": "second"}
    assert oracle_of(arms) == {0: 1.5}
    assert reachable_of(arms, stores) == {0: 4.5}


def test_tuning_is_held_against_everything() -> None:
    found = outcome_of(RESULT)
    assert found.against_default.median == pytest.approx(4.5 / 6)
    assert found.against_oracle.median == pytest.approx(4.5 / 4)
    assert (found.best, found.against_best.median) == ("direct", pytest.approx(4.5 / 5))
    assert found.observe.median == pytest.approx(1.01)
    # Advice and what is kept move nothing.
    assert (found.adapt_s, found.adapt_requests, found.adapt_share) == (0.2, 3, 0.1)
    # The best static setting leaves a fifth to gain; one round tells no noise.
    assert found.best_against_reachable.median == pytest.approx(5 / 4)
    assert math.isnan(found.noise)


def test_decisions_stand_beside_those_of_the_oracle() -> None:
    rows = decisions_table(RESULT).splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells == [
        ["1 phase", "auto first", "2.00", "auto", "2.00"],
        ["2 phase", "auto first", "2.50", "direct", "2.00"],
    ]


def test_the_page_shows_the_summary_and_each_arm() -> None:
    text = body({"results": [RESULT], "settings": {"interval_s": 0.1}})
    assert "0.750" in text
    assert "every arm" in text
    assert "0.200 s, 3 requests, 10%" in text
    assert body({"results": [], "settings": {}}) == "Nothing was measured.\n"
