"""The choice with literal windows."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.config import StoreConfig
from sglang_lsm.controller.cost_model import predict
from sglang_lsm.controller.policy import (
    CHOICES,
    Change,
    PolicyConfig,
    choose,
    free_settings,
    judge,
    refusing_is_safe,
    value_of,
    with_value,
)
from support.devices import GIB, MIB, device, reads, writes

BASE = StoreConfig(quota_bytes=1 << 40)
FREE = free_settings(BASE, ())
POLICY = PolicyConfig()


def chosen(window, *, config=BASE, profile=None, free=FREE, age_s=1e6):
    change = choose(config, window, profile or device(), free, age_s=age_s, policy=POLICY)
    return None if change is None else (change.setting, change.new)


def test_a_hot_set_that_memory_holds_is_read_through_the_page_cache():
    assert chosen(reads(cached=1.0)) == ("log.io_mode", "buffered")


def test_a_scan_of_what_memory_does_not_hold_goes_around_it():
    buffered = with_value(BASE, "log.io_mode", "buffered")
    setting, value = chosen(reads(cached=0.0), config=buffered)
    assert setting == "log.io_mode"
    assert value in ("direct", "auto")


def test_prompts_nobody_repeats_are_not_written_where_computing_is_fast():
    window = writes(recompute_s_per_byte=1 / 5e9)
    assert chosen(window) == ("admission", "second")


def test_without_knowing_what_a_miss_costs_admission_is_left_alone():
    assert chosen(writes()) != ("admission", "second")


@pytest.mark.parametrize("percent", range(0, 101, 5))
def test_what_saves_less_than_the_model_errs_is_left_alone(percent):
    free = {"log.io_mode": ("direct", "buffered")}
    direct = with_value(BASE, "log.io_mode", "direct")
    window = reads(cached=percent / 100)
    now, then = (
        predict(config, direct, window, device()).total_s
        for config in (direct, with_value(BASE, "log.io_mode", "buffered"))
    )
    found = chosen(window, config=direct, free=free)
    assert found == (("log.io_mode", "buffered") if then < 0.8 * now else None)


def safe(speed, *, config=BASE, is_refusing=False, **window):
    around = replace(reads().around, recompute_s_per_byte=1 / speed if speed else 0.0)
    window = reads(around=around, **window)
    return refusing_is_safe(config, window, device(), is_refusing=is_refusing)


def test_pages_may_be_refused_where_computing_costs_less_than_reading_back():
    # The device reads 2 MiB at a time at 1.5 GB/s at best.
    assert safe(2e9)
    assert not safe(1e9)
    # What calls cost beside moving bytes is part of reading back.
    assert safe(1e9, read_own_s=0.3)
    assert not safe(0.0)


def test_before_anything_was_read_a_byte_costs_as_much_beside_the_disk_as_one_put():
    around = replace(writes().around, recompute_s_per_byte=1 / 1.4e9)
    safe_with = {
        own_s: refusing_is_safe(
            BASE, writes(around=around, write_own_s=own_s), device(), is_refusing=False
        )
        for own_s in (0.0, 0.1)
    }
    assert safe_with == {0.0: False, 0.1: True}


def test_what_was_written_through_the_page_cache_is_read_from_there_at_first():
    buffered = with_value(BASE, "log.io_mode", "buffered")
    assert not safe(2e9, config=buffered)
    assert safe(20e9, config=buffered)


def test_refusing_ends_later_than_it_begins():
    speeds = [1e9 + step * 0.02e9 for step in range(50)]
    begins, ends = (min(s for s in speeds if safe(s, is_refusing=on)) for on in (False, True))
    assert ends < begins


def test_scattered_pages_that_are_read_again_get_merged():
    off = with_value(BASE, "log.merge_bytes_per_s", 0)
    free = {"log.merge_bytes_per_s": (0, 64 * MIB)}
    layout = {"bytes_scattered": 0.5 * GIB, "extents_scattered": 8192.0, "extents_got": 8192.0}
    slow = device(latency_s=5e-3)
    window = reads(again=0.95, **layout)
    assert chosen(window, config=off, profile=slow, free=free) == (
        "log.merge_bytes_per_s", 64 * MIB,
    )  # fmt: skip
    assert chosen(reads(again=0.0, **layout), config=off, profile=slow, free=free) is None


def test_a_store_that_is_hardly_used_is_left_alone():
    assert chosen(reads(cached=1.0, share=1e-4)) is None


def test_a_change_that_fills_the_cache_waits_until_the_workload_has_lasted():
    assert chosen(reads(cached=1.0), age_s=0.0, free={"log.io_mode": ("buffered",)}) is None


def test_what_the_operator_has_set_is_not_touched():
    assert "log.io_mode" not in free_settings(BASE, {"log.io_mode"})
    assert not [name for name in free_settings(BASE, {"log"}) if name.startswith("log")]
    fixed = free_settings(BASE, set(CHOICES))
    assert chosen(reads(cached=1.0), free=fixed) is None


def test_a_store_opened_without_merging_is_not_asked_to_merge():
    off = with_value(BASE, "log.merge_bytes_per_s", 0)
    assert "log.merge_bytes_per_s" not in free_settings(off, ())


def test_an_unusual_setting_is_among_its_own_choices():
    odd = with_value(BASE, "log.reader_threads", 7)
    assert 7 in free_settings(odd, ())["log.reader_threads"]


loads = st.builds(
    lambda window, cached, again: replace(
        window,
        around=replace(
            window.around,
            reuse=replace(window.around.reuse, cached=cached, again=again),
            recompute_s_per_byte=1e-9,
        ),
    ),
    st.sampled_from([reads(), writes(), reads(bytes_scattered=0.4 * GIB, extents_scattered=5e3)]),
    st.floats(0, 1),
    st.floats(0, 1),
)


@given(loads, st.floats(0, 1e4))
def test_each_choice_saves_what_it_must_and_changes_one_thing(window, age_s):
    change = choose(BASE, window, device(), FREE, age_s=age_s, policy=POLICY)
    if change is None:
        return
    assert change.gain_s >= POLICY.min_gain_share * change.cost_now.total_s
    assert change.gain_s >= POLICY.min_gain_s
    assert value_of(change.config, change.setting) == change.new
    assert with_value(change.config, change.setting, change.old) == BASE


@pytest.mark.parametrize(
    ("wait_s", "verdict"), [(0.2, "kept"), (0.3, "kept"), (0.33, "rolled back")]
)
def test_a_change_is_judged_by_what_it_replaced(wait_s, verdict):
    direct = with_value(BASE, "log.io_mode", "direct")
    old_s = predict(BASE, direct, reads(), device()).wait_s
    change = Change(
        setting="log.io_mode", old="auto", new="direct", config=direct,
        cost_now=predict(BASE, BASE, reads(), device()),
        cost_then=predict(direct, BASE, reads(), device()),
    )  # fmt: skip
    window = reads(read_s=wait_s)
    found = judge(
        change, window, lambda seen: predict(BASE, direct, seen, device()), 0.3 / old_s, POLICY
    )
    assert found == verdict


def test_nothing_to_wait_for_is_nothing_to_judge():
    direct = with_value(BASE, "log.io_mode", "direct")
    idle = reads(share=0.0, read_s=0.0)
    cost = predict(BASE, BASE, idle, device())
    change = Change(
        setting="log.io_mode", old="auto", new="direct", config=direct,
        cost_now=cost, cost_then=cost,
    )  # fmt: skip
    assert judge(change, idle, lambda seen: cost, 1.0, POLICY) == "unclear"
