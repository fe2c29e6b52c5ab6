"""Errors and ranks by hand; the benchmark itself at its smallest; its section on the page."""

import json
from pathlib import Path

import pytest

from benchmark.bench_model import main
from benchmark.model_error import Errors, Ranking, errors, noise, pairs_of, ranking
from benchmark.publish import model
from benchmark.publish.model import body


def phase(
    total_s: float, predicted: dict[str, float], own_s: float = 1.0, recompute_s: float = 0.0
) -> dict:
    return {
        "name": "read", "total_s": total_s, "recompute_s": recompute_s, "own_s": own_s,
        "predicted": predicted,
    }  # fmt: skip


ARMS = {
    "default": {"0": [phase(3.0, {"default": 2.0, "other": 1.0}, 2.5, recompute_s=1.0)]},
    "other": {"0": [phase(2.0, {"default": 1.5, "other": 0.7}, 0.5)]},
    "tuned": {"0": [phase(1.0, {})]},
}


def test_what_any_setting_would_compute_is_no_part_of_what_is_compared() -> None:
    one, other = pairs_of("flip", ARMS, "default")
    assert (one.measured_s, one.own_s, one.default_s) == (2.0, 2.5, 2.0)
    assert (other.measured_s, other.own_s, other.default_s) == (1.0, 0.5, 1.0)


def test_errors_are_relative_and_ranks_come_from_what_the_default_saw() -> None:
    pairs = list(pairs_of("flip", ARMS, "default"))
    found = errors(pairs)
    assert found is not None
    assert found.p90 == pytest.approx(0.5, abs=0.05)
    # The default arm has seen what it costs itself.
    assert errors(pairs, from_default=True) == Errors(0.0, 0.0, 1)
    assert errors([]) is None
    assert ranking(pairs) == Ranking(1, 1)


def test_an_order_that_another_round_turns_around_is_none() -> None:
    def order(*costs: float) -> dict:
        return {
            str(i): [phase(cost, {"default": 1.0, "other": 2.0})] for i, cost in enumerate(costs)
        }

    turned = list(pairs_of("w", {"default": order(1.0, 2.0), "other": order(2.0, 1.0)}, "default"))
    assert (ranking(turned), ranking(turned, steady=True)) == (Ranking(1, 2), Ranking(0, 0))
    kept = list(pairs_of("w", {"default": order(1.0, 1.0), "other": order(2.0, 3.0)}, "default"))
    assert ranking(kept) == ranking(kept, steady=True) == Ranking(2, 2)
    close = list(pairs_of("w", {"default": order(1.0, 1.0), "other": order(2.0, 1.0)}, "default"))
    assert (ranking(close), ranking(close, steady=True)) == (Ranking(1, 1), Ranking(0, 0))


def test_noise_is_what_the_same_arm_costs_in_another_round() -> None:
    rounds = {"0": [phase(2.0, {"default": 2.0})], "1": [phase(1.0, {"default": 2.0})]}
    assert noise(pairs_of("w", {"default": rounds}, "default")) == Errors(0.5, 1.0, 2)
    assert noise(pairs_of("flip", ARMS, "default")) is None


def test_a_tie_is_no_rank_and_costs_close_by_have_none() -> None:
    tied = {"0": [phase(2.0, {"default": 1.0, "other": 1.0})]}
    far, near = ({"0": [phase(cost, {"default": 1.0, "other": 1.0})]} for cost in (3.0, 2.1))
    assert ranking(pairs_of("w", {"default": tied, "other": far}, "default")) == Ranking(0, 1)
    assert ranking(pairs_of("w", {"default": tied, "other": near}, "default")) == Ranking(0, 0)


def test_the_grid_is_run_and_told(tmp_path: Path) -> None:
    out = tmp_path / "model.json"
    arguments = ["--quick", "--workloads", "flip", "--scale", "0.01"]
    assert main([*arguments, "--dir", str(tmp_path / "run"), "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    arms = {row["arm"] for row in report["rows"]}
    assert len(arms) == 6
    text = body(report)
    assert "| flip" in text
    assert "%" in text
    (picture,) = model.plots(report, tmp_path / "model")
    assert picture.stat().st_size > 0
