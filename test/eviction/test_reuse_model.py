import numpy as np
import pytest
from sglang_lsm.eviction import reuse_model
from sglang_lsm.eviction.reuse_index import age_bin
from sglang_lsm.eviction.reuse_model import ReuseModel

RETURNING, LOST = 1, 2
PAUSE = 1000


def digests(rng, num):
    return rng.integers(0, 2**64 - 1, num, np.uint64)


def lived(model, rounds=400, seed=0):
    """Pages of one class come back after `PAUSE`, those of the other never do."""
    rng, waiting, now = np.random.default_rng(seed), [], 0
    for _ in range(rounds):
        now += 100
        new, lost = digests(rng, 10), digests(rng, 10)
        model.observe(new, np.full(10, RETURNING), now)
        model.observe(lost, np.full(10, LOST), now)
        waiting.append(new)
        if len(waiting) > PAUSE // 100:
            model.observe(waiting.pop(0), np.full(10, LOST), now)
        model.refresh(capacity=500, now=now)
    return now


def rank(model, kind, age):
    return model.ranks[kind, age_bin(np.array([age]))[0]]


def test_what_comes_back_outranks_what_does_not_until_its_time_is_over():
    model = ReuseModel()
    lived(model)
    assert rank(model, RETURNING, 500) > rank(model, LOST, 10)
    assert rank(model, RETURNING, 500) > rank(model, RETURNING, 4 * PAUSE)


def test_same_requests_same_ranks():
    first, second = ReuseModel(), ReuseModel()
    lived(first)
    lived(second)
    assert (first.ranks == second.ranks).all()


def test_begins_with_equal_ranks():
    assert not ReuseModel().ranks.any()


@pytest.mark.parametrize("size", [64, 500])
def test_a_sample_that_overflows_learns_the_same(monkeypatch, size):
    monkeypatch.setattr(reuse_model, "SAMPLE_PAGES", size)
    model = ReuseModel()
    lived(model, rounds=800)
    assert len(model._slot_of) <= size
    assert len(model._slot_of) + len(model._free) == size
    assert rank(model, RETURNING, 500) > rank(model, LOST, 500)


def test_what_it_learned_fades():
    """When chats stop coming back, the model follows."""
    model = ReuseModel()
    now = lived(model)
    before = model._reused.sum()
    for _ in range(600):
        now += 100
        model.refresh(capacity=500, now=now)
    assert model._reused.sum() < before / 100


def test_a_new_class_counts_from_then_on():
    model, page = ReuseModel(), np.array([5], np.uint64)
    model.observe(page, np.array([LOST]), 10)
    model.relabel(page, np.array([RETURNING]))
    model.observe(page, np.array([LOST]), 20)
    assert model._reused[RETURNING].sum() == 1
    assert model._reused[LOST].sum() == 0


def test_time_can_be_shifted():
    model, shifted = ReuseModel(), ReuseModel()
    page = np.array([5], np.uint64)
    model.observe(page, np.array([LOST]), 1000)
    shifted.observe(page, np.array([LOST]), 1000)
    shifted.shift_time(900)
    model.observe(page, np.array([LOST]), 1300)
    shifted.observe(page, np.array([LOST]), 400)
    assert (model._reused == shifted._reused).all()
