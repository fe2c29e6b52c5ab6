"""Time counts once, however blocks nest, and is told by request."""

from sglang_lsm_patch import eviction_figures
from sglang_lsm_patch.eviction_figures import MAX_LAPS, EvictionFigures, Meter


def clock_of(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(eviction_figures.time, "perf_counter", lambda: seconds[0])
    # Half of the time another thread has the core.
    monkeypatch.setattr(eviction_figures.time, "thread_time", lambda: seconds[0] / 2)

    def passes(amount):
        seconds[0] += amount

    return passes


def test_nested_blocks_count_once(monkeypatch):
    passes, meter = clock_of(monkeypatch), Meter()
    with meter:
        passes(1.0)
        with meter:
            passes(2.0)
        passes(4.0)
    passes(8.0)
    assert (meter.total_s, meter.cpu_s, meter.num_calls) == (7.0, 3.5, 1)


def test_a_lap_is_the_time_from_one_request_to_the_next(monkeypatch):
    passes, meter = clock_of(monkeypatch), Meter()
    for amount in (3.0, 1.0, 2.0):
        meter.lap()
        with meter:
            passes(amount)
        passes(5.0)
    assert meter.laps_s() == [1.0, 3.0]
    assert meter.cpu_laps_s() == [0.5, 1.5]
    for _ in range(2 * MAX_LAPS):
        meter.lap()
    assert len(meter.laps_s()) == MAX_LAPS


def test_figures_are_spelled_by_name():
    assert "pages_refused=3" in str(EvictionFigures(pages_refused=3)).split()
