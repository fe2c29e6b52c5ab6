"""The terms of encoding against sums done by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.config import StoreConfig
from sglang_lsm.controller.codec_cost import (
    CodecFigures,
    Room,
    encoded_share,
    if_encoded,
    if_plain,
    price_s,
    times_room,
)
from sglang_lsm.controller.cost_model import predict, read_transfers, write_transfers
from support.devices import GIB, MIB, device
from support.devices import RETURNING_PAGE as PAGE
from support.devices import returning as window

BASE, PROFILE = StoreConfig(quota_bytes=GIB), device()
FIGURES = CodecFigures(room_share=0.7, encode_cpu_s=2e-9, decode_cpu_s=6e-10)


def encoded(seen, share=1.0, figures=FIGURES):
    return if_encoded(BASE, seen, PROFILE, figures, PAGE, share)


def plain(seen):
    return if_plain(BASE, seen, PROFILE, FIGURES, PAGE)


def copy_s(num_bytes):
    read, write = PROFILE.speed("read_cold", 4 * MIB, 1), PROFILE.speed("write_direct", 4 * MIB, 1)
    return num_bytes * (read.s_per_byte + 0.7 * write.s_per_byte)


def test_what_nobody_asks_for_again_costs_what_it_takes_to_encode_it():
    seen = window()
    choice, base = encoded(seen), predict(BASE, BASE, window(), PROFILE)
    assert choice.plain == base
    put_bytes = seen.bytes_put
    assert choice.encoded.cpu_s - base.cpu_s == pytest.approx(put_bytes * FIGURES.encode_cpu_s)
    assert choice.encoded.background_s - base.background_s == pytest.approx(copy_s(put_bytes))
    assert choice.encoded.wait_s == pytest.approx(base.wait_s)


def test_a_page_that_more_room_would_have_had_is_read_instead_of_computed_and_written():
    seen = window(hits=100)
    choice, base, num_bytes = encoded(seen, share=0.0), encoded(window()).plain, 100 * PAGE
    assert choice.plain.recompute_s == pytest.approx(num_bytes / 50e6)
    assert choice.encoded.recompute_s == 0.0
    get = read_transfers(BASE, BASE, seen, PROFILE, 0.7 * num_bytes)
    put = write_transfers(BASE, seen, PROFILE, num_bytes)
    decode_s = num_bytes * FIGURES.decode_cpu_s
    get_own_s, put_own_s = num_bytes * 0.02 / (64 * MIB), num_bytes * 0.02 / (32 * MIB)
    assert choice.encoded.read_s - base.read_s == pytest.approx(get.wait_s + get_own_s + decode_s)
    assert base.write_s - choice.encoded.write_s == pytest.approx(put.wait_s + put_own_s)
    more_cpu_s = get.cpu_s + get_own_s + decode_s - put.cpu_s - put_own_s
    assert choice.encoded.cpu_s - base.cpu_s == pytest.approx(more_cpu_s)


def test_pages_that_wait_are_decoded_when_they_are_read():
    choice = encoded(window(waited=512), share=0.0)
    decode_s = 512 * PAGE * FIGURES.decode_cpu_s
    assert choice.encoded.read_s - choice.plain.read_s == pytest.approx(decode_s)
    assert choice.encoded.cpu_s - choice.plain.cpu_s == pytest.approx(decode_s)


def test_no_more_is_missed_than_is_written_nor_decoded_than_is_read():
    # A sample of one page in 16 may tell of more than there were.
    assert encoded(window(hits=1e6)) == encoded(window(hits=512))
    assert encoded(window(waited=1e6)) == encoded(window(waited=1024))
    assert plain(window(hits=1e6)) == plain(window(hits=1024))


def test_once_encoded_what_it_costs_is_what_was_counted():
    seen = window(bytes_to_encode=10.0 * MIB, encode_cpu_s=0.05)
    choice, base = plain(seen), predict(BASE, BASE, seen, PROFILE)
    assert choice.plain == base
    assert choice.encoded.cpu_s - base.cpu_s == pytest.approx(0.05)
    assert choice.encoded.background_s - base.background_s == pytest.approx(copy_s(10 * MIB))


def test_the_hits_that_it_brought_would_be_computed_and_written_without_it():
    seen = window(hits=80)
    choice, num_bytes = plain(seen), 80 * PAGE
    assert choice.plain.recompute_s == pytest.approx(num_bytes / 50e6)
    assert choice.plain.write_s > choice.encoded.write_s
    assert choice.plain.read_s < choice.encoded.read_s
    # Noise may make them seem less than there were before; then it brings nothing.
    assert plain(window(hits=-80)) == plain(window())


def test_without_it_nothing_would_be_decoded():
    choice = plain(window(pages_decoded=256.0))
    decode_s = 256 * PAGE * FIGURES.decode_cpu_s
    assert choice.encoded.read_s - choice.plain.read_s == pytest.approx(decode_s)


shares = st.floats(0.05, 1.0)


@given(shares, shares, st.floats(0, 1), st.floats(0, 1))
def test_more_fits_the_smaller_pages_get_and_the_more_of_them_are_encoded(a, b, c, d):
    small, large = (replace(FIGURES, room_share=share) for share in sorted((a, b)))
    few, many = sorted((c, d))
    assert times_room(small, few) >= times_room(large, few) >= 1.0
    assert times_room(small, many) >= times_room(small, few)
    assert times_room(small, 0.0) == 1.0
    assert times_room(replace(FIGURES, room_share=0.5), 1.0) == pytest.approx(2.0)


def test_the_encoder_is_held_back_by_its_rate_and_by_the_cpu_that_is_idle():
    assert encoded_share(1e6, 8.0, FIGURES, rate=32 * MIB) == 1.0
    assert encoded_share(64 * MIB, 8.0, FIGURES, rate=32 * MIB) == 0.5
    # 100 MB a second take 0.2 s of CPU.
    assert encoded_share(1e8, 0.1, FIGURES, rate=GIB) == pytest.approx(0.5)
    assert encoded_share(1e8, 0.0, FIGURES, rate=GIB) == 0.0
    assert encoded_share(0.0, 1.0, FIGURES, rate=GIB) == 1.0
    assert encoded_share(0.0, 0.0, FIGURES, rate=GIB) == 0.0


def test_its_price_is_that_of_all_that_the_room_holds():
    room = Room(num_bytes=float(GIB), allocated_bytes=0.0, page_bytes=PAGE)
    assert price_s(room, FIGURES, PROFILE) == pytest.approx(GIB * 2e-9 + copy_s(GIB))


def test_room_is_scarce_where_less_than_a_quarter_of_the_quota_is_left():
    room = Room(num_bytes=float(GIB), allocated_bytes=0.8 * GIB, page_bytes=PAGE)
    assert room.is_scarce(BASE)
    assert not replace(room, allocated_bytes=0.7 * GIB).is_scarce(BASE)
    # Others have filled the disk, and the free-space floor leaves less than the quota.
    assert replace(room, num_bytes=0.9 * GIB, allocated_bytes=0.7 * GIB).is_scarce(BASE)
