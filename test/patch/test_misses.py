"""Failures are all counted and not all logged; figures are taken once."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.errors import ClosedError, ConfigError, UnavailableError

from sglang_lsm_patch.misses import LOG_INTERVAL_S, MAX_WAITING, MissLog, TransferFigures

ERRORS = (ClosedError("a"), ConfigError("b"), UnavailableError("c"))
failures = st.lists(st.tuples(st.sampled_from(ERRORS), st.floats(0, 2 * LOG_INTERVAL_S)))


@given(failures)
def test_every_failure_is_counted_and_logs_are_spaced(notes):
    now_s = 0.0
    log = MissLog(lambda: now_s)
    lines = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "sglang_lsm_patch.misses.logger.warning",
            lambda text, call, reason, failed, error: lines.append((now_s, reason, failed)),
        )
        for error, pause_s in notes:
            now_s += pause_s
            log.note("call", error)

    counts = log.counts()
    assert sum(counts.values()) == len(notes)
    for reason, count in counts.items():
        times = [at_s for at_s, of, _ in lines if of == reason]
        assert times, "the first failure of a kind is logged at once"
        assert all(b - a >= LOG_INTERVAL_S for a, b in pairwise(times))
        assert sum(failed for _, of, failed in lines if of == reason) <= count


def test_a_line_names_call_reason_and_how_many(caplog):
    now_s = 0.0
    log = MissLog(lambda: now_s)
    for _ in range(3):
        log.note("batch_get_v1", UnavailableError("the disk is full"))
    now_s = LOG_INTERVAL_S
    log.note("batch_get_v1", UnavailableError("the disk is full"))
    first, second = (r.getMessage() for r in caplog.records)
    assert "call=batch_get_v1 reason=UnavailableError failures=1" in first
    assert "failures=3" in second and "the disk is full" in second


def test_figures_are_taken_once():
    figures = TransferFigures()
    figures.add(num_pages=4, num_bytes=2 * 10**9, seconds=0.5)
    figures.add(num_pages=0, num_bytes=0, seconds=0.5)
    assert figures.take() == ([4], [4.0])
    assert figures.take() == ([], [])


def test_figures_stay_bounded_when_nobody_takes_them():
    figures = TransferFigures()
    for _ in range(3 * MAX_WAITING):
        figures.add(num_pages=1, num_bytes=1, seconds=1.0)
    assert len(figures.take()[0]) <= MAX_WAITING
