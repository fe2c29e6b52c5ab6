"""What tuning promised is held against its default, an oracle, the best setting, and itself."""

import pytest

from benchmark.publish.tuning_promises import tuning_promises


def phase(total_s: float) -> dict:
    return {
        "name": "phase", "total_s": total_s, "wait_s": total_s, "recompute_s": 0.0,
        "seconds": 1.0, "settings": "", "changes": [],
    }  # fmt: skip


def controller(tuned_s: float) -> dict:
    costs = {"auto": 2.0, "direct": 4.0, "tuned": tuned_s, "observe": 2.0}
    return {
        "results": [
            {
                "workload": "flip", "default": "auto", "static": ["auto", "direct"],
                "stores": {"auto": "first", "direct": "first"},
                "arms": {name: {"0": [phase(cost)]} for name, cost in costs.items()},
            }
        ]
    }  # fmt: skip


def verdicts(**reports: dict) -> dict[str, str]:
    return {one.key: one.verdict for one in tuning_promises(reports)}


def test_without_results_nothing_is_met() -> None:
    assert set(verdicts().values()) == {"not run"}
    assert len(verdicts()) == 9


@pytest.mark.parametrize(
    ("tuned_s", "met"), [(1.6, (1, 1, 1)), (2.03, (1, 1, 0)), (2.06, (0, 1, 0)), (2.2, (0, 0, 0))]
)
def test_costs(tuned_s: float, met: tuple[int, int, int]) -> None:
    found = verdicts(controller=controller(tuned_s))
    assert met == tuple(
        found[key] == "met"
        for key in (
            "default settings | cost tuned, flip", "oracle of tuning | cost tuned, flip",
            "best static settings | cost tuned, the best workload",
        )
    )  # fmt: skip


def test_the_model_and_the_overhead() -> None:
    pair = {"workload": "w", "phase": "p", "round_number": 0, "default_s": 1.0, "own_s": 1.3}
    rows = [
        pair | {"arm": "a", "measured_s": 1.0, "is_default": True},
        pair | {"arm": "b", "measured_s": 2.0, "own_s": 1.8, "default_s": 0.5},
    ]
    overhead = {
        "core_share": 0.004,
        "rows": [
            {"call": call, "share": 0.99, "off": 1.0, "off again": 1.2, "tuned": tuned}
            for call, tuned in (("put", 1.1), ("get", 1.2))
        ],
    }
    found = verdicts(model={"rows": rows}, overhead=overhead)
    assert found["measured cost | error of the model, median"] == "met"
    assert found["measured cost | error of the model, 90th percentile"] == "met"
    assert found["measured cost | settings ranked right where all rounds agree"] == "MISSED"
    assert found["untuned store | share of a core that tuning takes"] == "met"
    assert found["untuned store | what tuning adds to p99 of put"] == "met"
    assert found["untuned store | what tuning adds to p99 of get"] == "MISSED"
