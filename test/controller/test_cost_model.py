"""Laws of the model, and its terms against sums done by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.config import StoreConfig
from sglang_lsm.controller.cost_model import predict, read_kinds
from sglang_lsm.controller.policy import CHOICES, with_value
from sglang_lsm.controller.window import Window
from support.devices import GIB, MIB, device, reads, writes

BASE = StoreConfig(quota_bytes=1 << 40)
PROFILE = device()


def cost(window, used=BASE, profile=PROFILE, **settings):
    config = used
    for name, value in settings.items():
        config = with_value(config, name.replace("__", "."), value)
    return predict(config, used, window, profile)


configs = st.fixed_dictionaries({name: st.sampled_from(CHOICES[name]) for name in CHOICES})
loads = st.builds(
    lambda read, write, cached, again: replace(
        reads(share=read, cached=cached, again=again),
        puts=write * 512, bytes_put=write * GIB, pages_put=write * 16384, write_s=0.1,
        read_own_s=read * 0.1, write_own_s=write * 0.2,
    ),
    st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip


@given(configs, configs, loads)
def test_costs_are_finite_and_never_negative(chosen, used, window):
    config = base = BASE
    for name in CHOICES:
        config = with_value(config, name, chosen[name])
        base = with_value(base, name, used[name])
    found = predict(config, base, window, PROFILE)
    parts = (found.read_s, found.write_s, found.background_s, found.cpu_s, found.recompute_s)
    assert all(0 <= part < 1e6 for part in parts)
    assert found.total_s == pytest.approx(sum(parts))


@given(loads, st.floats(1.1, 4.0))
def test_twice_the_work_costs_twice_as_much(window, more):
    rates = {
        name: getattr(window, name) * more
        for name in (
            "gets", "bytes_got", "extents_got", "read_own_s", "puts", "bytes_put", "pages_put",
            "write_own_s",
        )
    }  # fmt: skip
    assert cost(replace(window, **rates)).total_s == pytest.approx(
        cost(window).total_s * more, rel=1e-6
    )


def test_an_idle_store_costs_nothing():
    assert cost(Window(seconds=1.0)).total_s == 0.0


def test_reads_by_hand():
    window = reads(share=1.0)
    direct = cost(window, log__io_mode="direct")
    assert direct.read_s == pytest.approx(GIB * PROFILE.speed("read_direct", 2 * MIB, 1).s_per_byte)
    hot = cost(reads(share=1.0, cached=1.0), log__io_mode="buffered")
    assert hot.read_s == pytest.approx(GIB / 6e9)


def test_what_memory_holds_is_read_through_it_and_the_rest_around_it():
    hot, cold = reads(cached=1.0), reads(cached=0.0)
    assert cost(hot, log__io_mode="buffered").total_s < cost(hot, log__io_mode="direct").total_s
    assert cost(cold, log__io_mode="direct").total_s < cost(cold, log__io_mode="buffered").total_s


def test_auto_reads_around_the_page_cache_what_does_not_fill_it():
    window = reads(cached=0.3, again=0.7, fills=0.1)
    kinds = read_kinds(BASE, replace(window, allocated_bytes=1.0 * GIB))
    assert kinds == pytest.approx({"read_hot": 0.3, "read_cold": 0.1, "read_direct": 0.6})
    # A log of twice the memory is read around it.
    assert read_kinds(BASE, window) == {"read_direct": 1.0}


def test_merging_pays_where_scattered_pages_are_read_again():
    layout = {"bytes_scattered": 0.5 * GIB, "extents_scattered": 8192.0, "extents_got": 8192.0}
    off = with_value(BASE, "log.merge_bytes_per_s", 0)
    often, once = reads(again=0.9, **layout), reads(again=0.0, **layout)
    slow = device(latency_s=1e-3)

    def gain(window):
        merged = cost(window, off, slow, log__merge_bytes_per_s=64 * MIB)
        return cost(window, off, slow).total_s - merged.total_s

    assert gain(often) > 0 > gain(once)


def test_leveled_merging_copies_what_tiered_lets_be():
    """Reads of 2 MiB in three runs, one after the other: few for tiered, too many for leveled."""
    window, far = reads(again=0.9, extents_got=3 * 256.0), device(latency_s=5e-3)
    one = with_value(BASE, "log.reader_threads", 1)
    tiered, leveled, off = (
        cost(window, one, far, log__merge_policy=policy) for policy in ("tiered", "leveled", "off")
    )
    assert leveled.read_s < tiered.read_s
    assert leveled.background_s > tiered.background_s == 0.0
    assert off == tiered
    # A limit of two runs says the same; and going back brings back the runs.
    assert cost(window, one, far, log__merge_max_runs=2) == leveled
    merged = reads(again=0.9, extents_got=(3 * 0.1 + 0.9) * 256.0, bytes_merged=1e7)
    tight = with_value(one, "log.merge_max_runs", 1)
    assert cost(merged, tight, far).background_s > 0.0
    assert cost(merged, tight, far, log__merge_max_runs=4).read_s == pytest.approx(tiered.read_s)


def test_a_looser_limit_leaves_scattered_reads_alone():
    layout = {"bytes_scattered": 0.5 * GIB, "extents_scattered": 8 * 256.0, "bytes_merged": 1e7}
    window, far = reads(again=0.5, extents_got=8 * 256.0, **layout), device(latency_s=5e-3)
    loose = cost(window, BASE, far, log__merge_max_runs=8)
    assert loose.background_s == 0.0 < cost(window, BASE, far).background_s
    assert loose.read_s >= cost(window, BASE, far).read_s


def test_a_second_offer_pays_where_nobody_asks_again():
    once = writes(recompute_s_per_byte=1 / 1.3e9)
    assert cost(once, admission="second").total_s < cost(once).total_s
    wanted = reads(again=0.0)
    wanted = replace(wanted, around=replace(wanted.around, recompute_s_per_byte=1 / 0.5e9))
    assert cost(wanted, admission="second").total_s > cost(wanted).total_s


def test_the_index_comes_out_small_beside_pages_of_64_kib():
    window = writes()
    most = cost(window).total_s
    for name in ("index__size_ratio", "index__level0_trigger", "index__memtable_bytes"):
        for value in CHOICES[name.replace("__", ".")]:
            assert abs(cost(window, **{name: value}).total_s - most) < 0.02 * most


def test_syncing_now_and_then_costs_a_sync_now_and_then():
    config = replace(BASE, log=replace(BASE.log, durability="interval", sync_interval_s=4.0))
    window = writes()
    more = predict(config, config, window, PROFILE).background_s - cost(window).background_s
    assert more == pytest.approx(PROFILE.sync_s / 4.0)


def test_a_call_reads_one_block_a_run_of_the_index_at_most():
    window = writes(pages_probed=8192.0, num_pages=1e8)
    bare = replace(BASE, index=replace(BASE.index, bloom_bits_per_key=0))
    read_s = predict(bare, bare, window, PROFILE).background_s - cost(window).background_s
    block_s = PROFILE.speed("read_cold", 16 << 10, 1).s_per_byte * (16 << 10)
    assert 0 < read_s < window.puts * 8 * block_s


def test_offers_that_are_refused_still_cost_their_calls():
    refused = Window(seconds=1.0, bytes_refused=1.0 * GIB, ask_s=0.02, write_own_s=0.02)
    second = replace(BASE, admission="second")
    assert predict(second, second, refused, PROFILE).cpu_s == pytest.approx(0.02)


def test_our_own_work_is_taken_as_it_was_measured_under_any_io_setting():
    idle, busy = writes(), writes(write_own_s=0.2, pages_probed=8192.0, probe_s=0.05)
    for mode in ("direct", "buffered"):
        more = cost(busy, log__io_mode=mode)
        base = cost(idle, log__io_mode=mode)
        assert more.wait_s - base.wait_s == pytest.approx(0.25)
        assert more.cpu_s - base.cpu_s == pytest.approx(0.25)


def test_each_call_more_is_given_to_another_thread():
    profile = replace(PROFILE, handover_s=1e-4)
    window = reads(share=1.0, read_own_s=0.1)
    few, many = (
        cost(window, profile=profile, log__io_bytes=size).cpu_s for size in (2 * MIB, MIB // 4)
    )
    assert many - few == pytest.approx(window.gets * 7 * 1e-4)


def test_of_pages_that_would_be_refused_the_asking_is_left():
    second = cost(writes(write_own_s=0.2, ask_s=0.03), admission="second")
    assert second.cpu_s == pytest.approx(0.03)


def test_a_first_hit_that_second_use_loses_is_written_then():
    window = reads(again=0.0)
    second = cost(window, admission="second")
    assert second.read_s == 0.0
    size = window.bytes_got / window.gets
    assert second.write_s == pytest.approx(
        window.bytes_got * PROFILE.speed("write_direct", size, 1).s_per_byte
    )
