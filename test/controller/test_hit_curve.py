import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.controller.hit_curve import NUM_BINS, HitCurve, distance_bin

ROOM = 10_000


def counts(hit=(), missed=()):
    """Pairs of distance and number."""
    found = np.zeros((2, NUM_BINS))
    for kind, pairs in enumerate((hit, missed)):
        for distance, number in pairs:
            found[kind, distance_bin(distance)] += number
    return found


def lru(distances, room=ROOM):
    """What comes back to a store that lets go by recency alone: 1000 pages at each distance."""
    return counts(
        [(d, 1000) for d in distances if d <= room], [(d, 1000) for d in distances if d > room]
    )


def test_with_more_room_by_recency_those_are_hit_that_fit_it():
    distances = [1000, 5000, 9000, 12_000, 14_000, 30_000]
    curve, seen = HitCurve(), lru(distances)
    for _ in range(20):
        curve.enter(seen, kept_share=1.0)
    assert curve.most_hits(seen) == pytest.approx(3000, rel=0.02)
    assert curve.least_gain(seen, times_room=1.0) == 0.0
    assert curve.least_gain(seen, times_room=1.6) == pytest.approx(2000, rel=0.02)
    assert curve.least_gain(seen, times_room=4.0) == pytest.approx(3000, rel=0.02)


def test_where_pages_leave_at_any_distance_more_room_brings_none():
    """They were deleted, or expired; what is near is lost as often as what is far."""
    distances = [10, 100, 1000, 10_000]
    curve = HitCurve()
    seen = counts([(d, 500) for d in distances], [(d, 500) for d in distances])
    for _ in range(20):
        curve.enter(seen, kept_share=1.0)
    assert curve.least_gain(seen, times_room=1.5) <= 0.02 * seen.sum()


def test_what_was_seen_long_ago_weighs_less():
    curve = HitCurve()
    near, far = counts([(100, 1000)]), counts(missed=[(100, 1000)])
    curve.enter(near, kept_share=1.0)
    assert curve.most_hits(near) > 980
    for _ in range(100):
        curve.enter(far, kept_share=0.5)
    assert curve.most_hits(near) < 50


def test_what_was_never_seen_speaks_for_nothing():
    curve, far = HitCurve(), counts(missed=[(20_000, 256)])
    assert curve.most_hits(far) == 256.0
    assert curve.least_gain(far, times_room=4.0) == 0.0
    # Hits of the nearest pages do not tell of those in between.
    curve.enter(counts([(10, 10_000)], [(20_000, 10_000)]), kept_share=1.0)
    assert curve.least_gain(far, times_room=1.5) < 1.0
    curve.enter(counts([(14_000, 10_000)]), kept_share=1.0)
    assert curve.least_gain(far, times_room=1.5) > 250.0


pairs = st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 1000)), max_size=20)


@given(pairs, pairs, st.floats(1.0, 4.0))
def test_hits_are_never_more_than_there_are_pages(hit, missed, times_room):
    curve, seen = HitCurve(), counts(hit, missed)
    curve.enter(seen, kept_share=1.0)
    gained, num_pages = curve.least_gain(seen, times_room=times_room), seen.sum() * (1 + 1e-9)
    assert 0.0 <= curve.most_hits(seen) <= num_pages
    assert 0.0 <= gained <= num_pages - curve.most_hits(seen)


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.floats(1.0, 2.0), st.floats(1, 2)
)
def test_by_recency_more_room_never_brings_less(distances, one, more):
    curve, seen = HitCurve(), lru(distances)
    curve.enter(seen, kept_share=1.0)
    gains = [curve.least_gain(seen, times_room=times) for times in (one, one * more)]
    assert gains[0] <= gains[1] + 1e-6


def test_a_bin_is_an_eighth_of_a_doubling():
    assert distance_bin(0.5) == distance_bin(1.0) == 0
    assert distance_bin(2.0) == 8
    assert distance_bin(2.0**1.5) == 12
    assert distance_bin(2.0**60) < NUM_BINS
