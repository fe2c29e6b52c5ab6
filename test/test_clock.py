from datetime import UTC, datetime

from sglang_lsm.clock import Clock


def test_both_clocks_go_forward_and_the_wall_clock_tells_the_date():
    clock = Clock()
    assert clock.monotonic_s() <= clock.monotonic_s()
    before = datetime.now(UTC).timestamp() * 1000
    assert before - 1 <= clock.wall_ms() <= datetime.now(UTC).timestamp() * 1000 + 1
