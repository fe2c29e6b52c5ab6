"""When encoding begins and ends, with literal windows."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_lsm.config import StoreConfig
from sglang_lsm.controller.codec_choice import CODEC, CodecChoice
from sglang_lsm.controller.codec_cost import CodecFigures, Room, price_s
from sglang_lsm.controller.hit_curve import NUM_BINS, distance_bin
from sglang_lsm.controller.policy import PolicyConfig, with_value
from support.devices import GIB, MIB, device
from support.devices import RETURNING_PAGE as PAGE
from support.devices import returning as window

BASE = StoreConfig(quota_bytes=GIB)
FIGURES = CodecFigures(room_share=0.7, encode_cpu_s=2e-9, decode_cpu_s=6e-10)
PROFILE = device()
FULL = Room(num_bytes=float(GIB), allocated_bytes=0.98 * GIB, page_bytes=PAGE)
PRICE_S = price_s(FULL, FIGURES, PROFILE)
NEAR, BETWEEN, FAR, FARTHER = 8000, 14_500, 20_000, 60_000
"""Pages used in between, of a room of 16,384. The first two have not left; the third fits once
pages are encoded, the fourth not even then."""


def back(hit=(), missed=()):
    """Counts of pages that came back: pairs of distance and number."""
    counts = np.zeros((2, NUM_BINS))
    for kind, pairs in enumerate((hit, missed)):
        for distance, number in pairs:
            counts[kind, distance_bin(distance)] += number
    return counts


COMES_BACK = back(hit=[(NEAR, 512), (BETWEEN, 256)], missed=[(FAR, 256)])
ALL_HIT = back(hit=[(NEAR, 512), (BETWEEN, 256), (FAR, 256)])
ENCODING = {"bytes_to_encode": 32.0 * MIB, "bytes_saved": 9.6 * MIB, "encode_cpu_s": 0.07}


class Weighing:
    """A choice, and the setting that it has led to; each window is of one second."""

    def __init__(self, *, figures=FIGURES, idle_cpus=2.0, room=FULL):
        self.choice, self.config = CodecChoice(PolicyConfig()), BASE
        self.choice.figures, self.idle_cpus, self.room = figures, idle_cpus, room
        self.events, self.changes = [], []
        self.num_windows = 0

    def take(self, returned=COMES_BACK, num_windows=1, **rates):
        """Take windows in which these pages came back."""
        for _ in range(num_windows):
            self.num_windows += 1
            seen = self.choice.see(self.config, window(**rates), returned, self.idle_cpus)
            found = self.choice.weigh(self.config, seen, PROFILE, self.room)
            if found is None:
                continue
            event, change = found
            self.events.append(event)
            self.changes.append(change)
            if event != "kept":
                self.config = change.config
                (self.choice.begun if event == "begin" else self.choice.ended)()
        return self

    @property
    def is_encoding(self):
        return self.config.log.codec == "idle"


def begun(**options):
    weighing = Weighing(**options).take(num_windows=100)
    assert weighing.events == ["begin"]
    return weighing


def test_a_full_store_to_which_pages_come_back_just_beyond_its_room_is_encoded():
    assert Weighing().take(num_windows=100).is_encoding


def test_it_begins_once_it_would_have_earned_its_price():
    weighing = Weighing()
    while not weighing.is_encoding:
        weighing.take(speed=10e6)
    # 16 MiB a second are computed at 10 MB/s; of that comes off what encoding takes, and the fifth
    # that any change must save.
    lost_s = 256 * PAGE / 10e6
    assert PRICE_S / lost_s < weighing.num_windows < 3 * PRICE_S / lost_s


@pytest.mark.parametrize(
    ("why", "options", "returned", "rates"),
    [
        ("there is room", {"room": replace(FULL, allocated_bytes=0.7 * GIB)}, COMES_BACK, {}),
        ("nothing comes back", {}, back(), {}),
        ("it comes back from nearer", {}, back(hit=[(NEAR, 1024)]), {}),
        (
            "it comes back from farther",
            {},
            back(hit=[(NEAR, 512), (BETWEEN, 256)], missed=[(FARTHER, 256)]),
            {},
        ),
        ("it would have left anyway", {}, back(missed=[(10, 256)]), {}),
        ("pages do not shrink", {"figures": replace(FIGURES, room_share=0.99)}, COMES_BACK, {}),
        ("nobody knows how", {"figures": None}, COMES_BACK, {}),
        ("no CPU is idle", {"idle_cpus": 0.0}, COMES_BACK, {}),
        ("computing is cheap", {}, COMES_BACK, {"speed": 20e9}),
        ("few come back", {}, back(hit=[(NEAR, 512), (BETWEEN, 256)], missed=[(FAR, 2)]), {}),
    ],
)
def test_it_is_not_chosen_where(why, options, returned, rates):
    weighing = Weighing(**options).take(returned, 1000, **rates)
    assert weighing.events == [], why


def test_it_is_not_chosen_where_decoding_costs_more_than_it_brings():
    """A store at the pace of its disk: all that is read had waited, and little comes back."""
    slow = replace(FIGURES, decode_cpu_s=2e-7)
    returned = back(hit=[(NEAR, 512), (BETWEEN, 512)], missed=[(FAR, 40)])
    assert Weighing().take(returned, 1000, speed=5e6).is_encoding
    assert not Weighing(figures=slow).take(returned, 1000, speed=5e6).is_encoding


def test_it_is_kept_where_pages_that_came_back_are_hits_now():
    weighing = begun().take(ALL_HIT, 1000, **ENCODING)
    assert weighing.events == ["begin", "kept"]


def test_it_is_given_up_when_it_costs_its_price_and_brings_nothing():
    weighing = begun()
    num_before = weighing.num_windows
    while weighing.is_encoding:
        weighing.take(**ENCODING)
    # Twice as long as it takes to encode all that the room holds.
    assert weighing.num_windows - num_before == pytest.approx(2 * GIB / (32 * MIB), abs=3)


def test_it_is_given_up_at_once_when_pages_do_not_shrink():
    assert not begun().take(**ENCODING | {"bytes_saved": 1.0 * MIB}).is_encoding


def test_hits_that_there_were_before_are_not_its_own():
    """Of pages that came back from afar half were hit: something else kept them."""
    half = back(hit=[(NEAR, 512), (BETWEEN, 256), (FAR, 256)], missed=[(FAR, 256)])
    weighing = Weighing().take(half, 200, speed=10e6)
    assert weighing.is_encoding
    while weighing.is_encoding:
        weighing.take(half, speed=10e6, **ENCODING)
    assert weighing.events == ["begin", "end"]


def test_what_was_given_up_has_to_be_worth_twice_as_much():
    weighing = Weighing()

    def windows_to_begin():
        before = weighing.num_windows
        while not weighing.is_encoding:
            weighing.take()
        found = weighing.num_windows - before
        while weighing.is_encoding:
            weighing.take(**ENCODING)
        return found

    first, second, third = windows_to_begin(), windows_to_begin(), windows_to_begin()
    assert second == pytest.approx(2 * first, rel=0.15)
    assert third == pytest.approx(2 * second, rel=0.15)


def test_it_is_given_up_when_pages_come_back_no_more_and_reads_decode():
    weighing = begun().take(ALL_HIT, 1000)
    weighing.take(back(hit=[(NEAR, 1024)]), 1000, pages_decoded=1024.0)
    assert weighing.events == ["begin", "kept", "end"]


def test_the_change_says_what_it_costs_either_way():
    (change,) = begun().changes
    assert (change.setting, change.old, change.new) == (CODEC, "off", "idle")
    assert change.config == with_value(BASE, CODEC, "idle")
    assert change.cost_now.recompute_s == pytest.approx(256 * PAGE / 50e6, rel=0.1)
    assert change.gain_s > 0.2 * change.cost_now.total_s


amounts = st.lists(st.floats(0.0, 512.0), min_size=3, max_size=20)


@settings(max_examples=15, deadline=None)
@given(amounts, st.floats(0.0, 1.0), st.sampled_from([5e6, 50e6, 1.3e9, 20e9]))
def test_it_changes_only_as_often_as_a_price_was_spent(missed, brings, speed):
    """Whatever comes back, and whatever encoding makes of it: no oscillation, bounded regret."""
    weighing, spent_s = Weighing(), 0.0
    for number in range(300):
        amount, share = missed[number % len(missed)], brings if weighing.is_encoding else 0.0
        near = [(NEAR, 512), (BETWEEN, 256)]
        returned = back([*near, (FAR, share * amount)], [(FAR, (1.0 - share) * amount)])
        if weighing.is_encoding:
            spent_s += 0.07 + 32 * MIB * 1.5e-9
        weighing.take(returned, speed=speed, **ENCODING if weighing.is_encoding else {})
    num_ended = weighing.events.count("end")
    assert num_ended * 2 * PRICE_S * 0.9 <= spent_s
    assert weighing.events.count("begin") - num_ended in (0, 1)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.6, 1.5), st.integers(0, 200))
def test_noise_does_not_make_it_swing(noise, num_windows):
    weighing = begun()
    for number in range(num_windows):
        factor = noise if number % 2 else 1 / noise
        returned = back(hit=[(NEAR, 512 / factor), (BETWEEN, 256), (FAR, 256 * factor)])
        weighing.take(returned, pages_decoded=256.0, encode_cpu_s=0.01)
    assert weighing.events in (["begin"], ["begin", "kept"])


def test_of_a_long_put_that_nobody_asks_for_little_is_encoded_in_time():
    """At 64 MiB a second half of it can be: room grows by a sixth, and what is farther is out."""
    beyond_half = back(hit=[(NEAR, 512), (16_000, 256)], missed=[(22_500, 256)])
    assert Weighing().take(beyond_half, 200, speed=10e6).is_encoding
    fast = {"bytes_put": 64.0 * MIB, "pages_put": 1024.0, "speed": 10e6}
    assert not Weighing().take(beyond_half, 200, **fast).is_encoding
