import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sglang_lsm.eviction.reuse_index import (
    EDGES,
    NUM_BINS,
    WIDTHS,
    age_bin,
    hazards,
    ranks,
    worth,
)

SHAPE = (3, NUM_BINS)
COUNTS = arrays(np.float64, SHAPE, elements=st.integers(0, 5000).map(float))


def test_bins_are_half_octaves_and_cover_every_age():
    assert EDGES[0] == 0
    assert len(EDGES) == NUM_BINS == len(WIDTHS)
    assert (np.diff(EDGES) > 0).all()
    assert EDGES[10:] / EDGES[8:-2] == pytest.approx(2, rel=0.2)
    assert EDGES[-1] <= 2**32


@given(st.integers(0, 2**40))
def test_age_bin(age):
    i = age_bin(np.array([age]))[0]
    assert EDGES[i] <= age
    assert i == NUM_BINS - 1 or age < EDGES[i + 1]


@given(COUNTS, COUNTS)
def test_hazards_are_shares(reused, others):
    values = hazards(reused, reused + others)
    assert values.shape == SHAPE
    assert ((values > 0) & (values < 1)).all()


def test_hazards_approach_the_counts():
    reused, ended = np.zeros(SHAPE), np.zeros(SHAPE)
    reused[0, 10], ended[0, 10], ended[0, 40] = 3e6, 3e6, 7e6
    # Half of those that end in the bin count as being there: 3 of 8.5 million.
    assert hazards(reused, ended)[0, 10] == pytest.approx(3 / 8.5, rel=0.01)


def test_a_class_nothing_is_known_of_is_like_all():
    reused, ended = np.zeros(SHAPE), np.zeros(SHAPE)
    reused[0, 10], ended[0, 10], ended[0, 40] = 3000, 3000, 7000
    values = hazards(reused, ended)
    assert values[1] == pytest.approx(values[2])
    assert values[1, 10] > 0.2


@given(COUNTS, COUNTS)
def test_worth_is_the_best_of_all_horizons(reused, others):
    hazard = hazards(reused, reused + others)
    values = worth(hazard)
    for start in (0, 7, NUM_BINS - 1):
        alive, hits, time, best = 1.0, 0.0, 0.0, 0.0
        for i in range(start, NUM_BINS):
            hits += alive * hazard[1, i]
            time += alive * WIDTHS[i] * (1 - hazard[1, i] / 2)
            alive *= 1 - hazard[1, i]
            best = max(best, hits / time)
        assert values[1, start] == pytest.approx(best, rel=1e-6)


def test_worth_falls_with_age_where_nothing_is_known():
    """So the policy begins as LRU."""
    values = worth(hazards(np.zeros(SHAPE), np.zeros(SHAPE)))
    # The first bins are not half octaves, for ages are whole numbers.
    assert (np.diff(values[0, 8:]) < 0).all()
    assert values[0, :8].min() > values[0, 9]


@given(arrays(np.float64, (2, 5), elements=st.floats(0, 1)))
def test_ranks_keep_the_order(values):
    places = ranks(values)
    flat, its = values.reshape(-1), places.reshape(-1)
    assert ((flat[:, None] < flat) == (its[:, None] < its)).all()
    assert its.min() == 0
