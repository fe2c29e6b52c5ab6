import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sglang_lsm.controller.profile import KINDS, decode_profile, encode_profile
from sglang_lsm.errors import CorruptionError
from support.devices import KIB, MIB, device

sizes, depths = st.floats(1.0, 1e9), st.floats(0.5, 64.0)


def test_a_profile_survives_its_file():
    profile = device().refreshed({"read_cold": 2.0})
    assert decode_profile(encode_profile(profile)) == profile


@example(b"")
@example(b"null")
@example(b"[" * 100_000)
@example(encode_profile(device()).replace(b'"version": 5', b'"version": 3'))
@example(encode_profile(device()).replace(b"read_hot", b"read_hit"))
@example(encode_profile(device()).replace(b'"depth": 1', b'"depth": 0'))
@example(encode_profile(device()).replace(b'"sync_s": 0.002', b'"sync_s": NaN'))
@example(encode_profile(device())[:500])
@given(st.binary(max_size=200))
def test_garbage_is_not_a_profile(content):
    with pytest.raises(CorruptionError):
        decode_profile(content)


def test_a_profile_without_points_is_refused():
    content = json.loads(encode_profile(device()))
    content["points"] = []
    with pytest.raises(CorruptionError):
        decode_profile(json.dumps(content).encode())


def test_points_are_met_exactly_and_between_them_it_is_between():
    profile = device(direct=1e9, latency_s=1e-3)
    for point in profile.points:
        speed = profile.speed(point.kind, point.io_bytes, point.depth)
        assert speed.s_per_byte == pytest.approx(1 / point.bytes_per_s)
        assert speed.cpu_s_per_byte == pytest.approx(point.cpu_s_per_byte)
    small, between, large = (
        profile.speed("read_direct", size, 1).s_per_byte for size in (64 * KIB, MIB, 4 * MIB)
    )
    assert small > between > large


@given(st.sampled_from(KINDS), sizes, depths, sizes)
def test_larger_calls_are_never_slower_on_a_device_with_latency(kind, size, depth, other):
    profile = device()
    small, large = sorted((size, other))
    slow, fast = profile.speed(kind, small, depth), profile.speed(kind, large, depth)
    assert fast.s_per_byte <= slow.s_per_byte * 1.0001


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0, 1e12)), max_size=30))
def test_what_live_transfers_teach_stays_bounded(lessons):
    profile = device()
    for kind, ratio in lessons:
        profile = profile.refreshed({kind: ratio}, {kind: ratio})
    factors = [*profile.factors.values(), *profile.cpu_factors.values()]
    assert all(1 / 17 < factor < 17 for factor in factors)
    assert decode_profile(encode_profile(profile)) == profile


def test_what_was_learned_is_left_out_of_the_idle_speed():
    profile = device()
    for _ in range(40):
        profile = profile.refreshed({"write_direct": 3.0}, {"write_direct": 3.0})
    assert (
        profile.speed("write_direct", MIB, 2).s_per_byte
        > device().speed("write_direct", MIB, 2).s_per_byte
    )
    assert profile.idle_speed("write_direct", MIB, 2) == device().speed("write_direct", MIB, 2)


def test_a_device_that_slows_down_is_learned_and_an_old_lesson_fades():
    profile, slow = device(), device(direct=0.4e9)
    for _ in range(40):
        ratio = (
            slow.speed("read_direct", MIB, 2).s_per_byte
            / profile.speed("read_direct", MIB, 2).s_per_byte
        )
        profile = profile.refreshed({"read_direct": ratio})
    learned = profile.speed("read_direct", MIB, 2).s_per_byte
    assert learned == pytest.approx(slow.speed("read_direct", MIB, 2).s_per_byte, rel=0.05)
    for _ in range(500):
        profile = profile.refreshed({})
    assert profile.factors["read_direct"] == pytest.approx(1.0, abs=0.05)
