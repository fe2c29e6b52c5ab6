"""What a window teaches: the kind that was used, by how much it differed, and nothing else."""

from dataclasses import replace

import pytest
from sglang_lsm.config import LogConfig, StoreConfig
from sglang_lsm.controller.calibration import calibrated
from sglang_lsm.controller.cost_model import predict
from support.devices import GIB, device, reads, writes

BASE = StoreConfig(quota_bytes=1 << 40)
DIRECT = replace(BASE, log=LogConfig(io_mode="direct"))
BUFFERED = replace(BASE, log=LogConfig(io_mode="buffered"))


def learned(config, window, profile=None):
    profile = profile or device()
    for _ in range(40):
        profile = calibrated(profile, config, window)
    return profile


def test_after_a_while_the_model_says_what_calls_took():
    window = reads(read_s=0.9, read_own_s=0.2, read_transfer_cpu_s=0.15)
    profile = learned(DIRECT, window)
    found = predict(DIRECT, DIRECT, window, profile)
    assert found.read_s == pytest.approx(0.9, rel=0.01)
    assert found.cpu_s == pytest.approx(0.2 + 0.15, rel=0.01)


def test_our_own_work_is_not_taken_for_a_slow_device():
    quick = device()
    window = writes()
    io_s = predict(DIRECT, DIRECT, window, quick).write_s
    profile = learned(DIRECT, replace(window, write_s=io_s + 0.3, write_own_s=0.3))
    assert profile.factors["write_direct"] == pytest.approx(1.0, abs=0.01)


def test_only_the_kind_that_was_used_is_learned():
    profile = learned(BUFFERED, writes(write_s=5.0))
    assert profile.factors["write_buffered"] > 2
    assert profile.factors["write_direct"] == profile.factors["read_hot"] == 1.0


@pytest.mark.parametrize(("cached", "kind"), [(1.0, "read_hot"), (0.0, "read_cold")])
def test_reads_that_the_page_cache_served_are_told_apart(cached, kind):
    profile = learned(BUFFERED, reads(cached=cached, read_s=5.0))
    assert [k for k, factor in profile.factors.items() if factor != 1.0] == [kind]


def test_a_mixture_of_both_teaches_nothing():
    # Half the time each: whose fault it was is not known.
    cold_share = 1 / (1 + 6 / 1.1)
    profile = learned(BUFFERED, reads(cached=1 - cold_share, read_s=5.0))
    assert set(profile.factors.values()) == {1.0}


def test_an_idle_window_teaches_nothing():
    window = replace(reads(share=0.0), read_s=0.0, bytes_got=0.0, gets=0.0)
    assert learned(BASE, window).speed("read_cold", GIB, 1) == device().speed("read_cold", GIB, 1)
