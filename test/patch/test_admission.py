"""What seldom comes back is not written; what is not known yet is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.page_maker import chain

from sglang_lsm_patch.admission import NUM_KINDS, WATCHED_PAGES, Admission, kind_of

NAMES = chain(range(6000))


def go_by(admission, names, *, kind=0):
    """Pages enter the host tier and leave it."""
    back = admission.entered(names)
    admission.left(names, [kind] * len(names))
    return back


def is_admitted(admission, kind=0):
    return bool(admission.admits(np.array([kind], np.uint8))[0])


@given(hits=st.integers(0, 1 << 20), returned=st.booleans())
def test_each_page_has_one_kind(hits, returned):
    kind = kind_of(hits, returned)
    assert kind == min(hits.bit_length(), 7) + 8 * returned < NUM_KINDS


@given(steps=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20), st.integers(0, 15))))
def test_shares_are_shares_whatever_comes_and_goes(steps):
    admission, here = Admission(num_pages=20, pages_per_hit=16.0), set()
    for start, count, kind in steps:
        names = [name for name in NAMES[start : start + count] if name not in here]
        admission.entered(names)
        assert all(0.0 < share <= 1.0 for share in admission.shares())
        assert not admission.entered(names[:0])
        if kind % 2:
            admission.left(names, [kind] * len(names))
        else:
            here.update(names)


def test_nothing_is_refused_before_it_is_known():
    admission = Admission(num_pages=1000, pages_per_hit=2.0)
    for start in range(0, 500, 50):
        go_by(admission, NAMES[start : start + 50])
        assert all(is_admitted(admission, kind) for kind in range(NUM_KINDS))


def test_a_kind_that_never_comes_back_is_refused_and_one_that_does_is_not():
    admission = Admission(num_pages=200, pages_per_hit=16.0)
    lasting, at = NAMES[:40], 40
    for _ in range(40):
        go_by(admission, NAMES[at : at + 100], kind=0)
        at += 100
        assert not set(go_by(admission, lasting, kind=3)) - set(range(40))
    assert not is_admitted(admission, kind=0)
    assert is_admitted(admission, kind=3)


def test_what_came_back_is_told():
    admission = Admission(num_pages=100, pages_per_hit=16.0)
    assert go_by(admission, NAMES[:10]) == []
    assert admission.entered(NAMES[5:12]) == [0, 1, 2, 3, 4]
    assert admission.entered(NAMES[5:12]) == []


def test_a_refused_kind_is_admitted_again_when_it_begins_to_come_back():
    """Pages that are not written are watched too; else a wrong refusal would last for ever."""
    admission = Admission(num_pages=200, pages_per_hit=16.0)
    for start in range(0, 3000, 100):
        go_by(admission, NAMES[start : start + 100])
    assert not is_admitted(admission)
    for _ in range(20):
        go_by(admission, NAMES[3000:3100])
    assert is_admitted(admission)


def test_infinity_admits_all():
    admission = Admission(num_pages=100, pages_per_hit=float("inf"))
    for start in range(0, 5000, 100):
        go_by(admission, NAMES[start : start + 100])
    assert all(is_admitted(admission, kind) for kind in range(NUM_KINDS))


@pytest.mark.parametrize("num_pages", [1, 100, 20_000])
def test_what_is_watched_is_bounded(num_pages):
    """By four turnovers, and of a large host tier by a sample; what just left comes on top."""
    admission = Admission(num_pages=num_pages, pages_per_hit=16.0)
    most = min(4 * num_pages, 1.05 * WATCHED_PAGES) + 1000
    for number in range(100):
        go_by(admission, chain(range(1000), parent=bytes([number])))
        assert len(admission._watched) <= most
        held = [*admission._young, *admission._old]
        assert sum(len(names) for _, names in held) <= most
