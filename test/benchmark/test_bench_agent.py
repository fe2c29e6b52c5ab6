"""Arrivals keep the proportions of the trace, and the page says who answered sooner."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.bench_agent import scaled
from benchmark.publish.agent import body, losses


@given(
    gaps=st.lists(st.integers(0, 10**9), min_size=1, max_size=20).filter(any),
    mean_gap_s=st.floats(0.1, 100),
)
def test_gaps_keep_their_proportions_and_get_the_mean(gaps, mean_gap_s) -> None:
    times = [sum(gaps[:end]) for end in range(len(gaps) + 1)]
    found = scaled([(time, [time]) for time in times], mean_gap_s)
    assert found[0].at_s == 0
    assert found[-1].at_s == pytest.approx(mean_gap_s * len(gaps))
    for arrival, time in zip(found, times, strict=True):
        assert arrival.at_s == pytest.approx(time / times[-1] * found[-1].at_s)


def test_turns_of_one_moment_come_at_once() -> None:
    assert [arrival.at_s for arrival in scaled([(5, [1]), (5, [2])], 3.0)] == [0.0, 0.0]
    assert scaled([], 3.0) == []


def run(row: str, ttft_s: float, answer: int = 1) -> dict:
    times = dict.fromkeys(("ttft_p50_s", "ttft_p90_s", "ttft_p99_s"), ttft_s)
    return {
        "row": row,
        "num_requests": 1,
        "asked_tokens": 1000,
        "device_tokens": 0,
        "host_tokens": 0,
        "disk_tokens": 640,
        "prompt_tokens_per_s": 100.0,
        "cpu_s": 2.0,
        "disk_bytes": 64 << 20,
        "output_ids": [[answer]],
        **times,
    }


def test_sooner_answers_are_losses_and_other_answers_are_counted() -> None:
    report = {"runs": [run("recompute", 2.0), run("file tuned", 0.5), run("lsm", 1.0, answer=2)]}
    assert {loss.against for loss in losses(report)} == {"file tuned"}
    told = body(report)
    assert "0 of 1" in told
    assert "0.0%/0.0%/64.0%" in told
