import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.eviction import evictor as evictor_module
from sglang_lsm.eviction import traits
from sglang_lsm.eviction.evictor import Evictor
from sglang_lsm.eviction.page_table import PageTable
from sglang_lsm.eviction.places import pack_place
from sglang_lsm.eviction.reuse_model import ReuseModel
from trees import NAMESPACES, PATHS, hashes, row_of


class Bounded:
    """A cache of `capacity` pages driven as the store drives it; knows what it holds."""

    def __init__(self, capacity, *, learn=False):
        self.capacity, self.table = capacity, PageTable(1)
        self.evictor = Evictor(self.table, ReuseModel() if learn else None)
        self.evicted = []

    def request(self, namespace, text):
        root, chain = self.table.root(namespace), hashes(text[: self.capacity])
        rows = self.evictor.touch(root, chain)
        short = len(self.table) + len(chain) - len(rows) - self.capacity
        if short > 0:
            victims = self.evictor.victims(short, frozenset(rows[-1:].tolist()))
            self.evicted.append(victims.tolist())
            self.evictor.remove(victims)
        places = np.full(len(chain) - len(rows), pack_place(0, 0, 1), np.uint64)
        new = self.evictor.insert(root, chain, len(rows), places)
        return len(rows), len(new)


@given(PATHS, st.integers(1, 20), st.booleans())
def test_stays_within_its_capacity_and_keeps_the_newest_path(paths, capacity, learn):
    cache = Bounded(capacity, learn=learn)
    for namespace, text in paths:
        num_hits, num_new = cache.request(namespace, text)
        assert num_hits + num_new == min(len(text), capacity)
        assert row_of(cache.table, namespace, text[:capacity]) is not None
        assert len(cache.table) <= capacity


@given(PATHS, st.integers(1, 20))
def test_without_a_model_it_is_leaf_first_lru(paths, capacity):
    cache, held = Bounded(capacity), {}
    for now, (namespace, text) in enumerate(paths):
        text = text[:capacity]
        path = [(namespace, text[: i + 1]) for i in range(len(text))]
        hits = 0
        while hits < len(path) and path[hits] in held:
            held[path[hits]] = now
            hits += 1
        while len(held) + len(path) - hits > capacity:
            inner = {(name, text[:-1]) for name, text in held}
            leaves = [page for page in held if page not in inner and held[page] < now]
            del held[min(leaves, key=lambda page: (held[page], -len(page[1])))]
        held.update(dict.fromkeys(path[hits:], now))
        assert cache.request(namespace, text)[0] == hits
    assert len(cache.table) == len(held)


@given(PATHS, st.integers(1, 20))
def test_same_requests_same_victims(paths, capacity):
    first, second = Bounded(capacity, learn=True), Bounded(capacity, learn=True)
    for path in paths:
        first.request(*path)
        second.request(*path)
    assert first.evicted == second.evicted


def test_a_page_used_while_it_waits_in_the_queue_stays():
    cache = Bounded(256)
    for i in range(256):
        cache.request(NAMESPACES[0], chr(1000 + i))
    assert cache.evictor.victims(1).tolist() == [0]
    cache.evictor.touch(cache.table.root(NAMESPACES[0]), hashes(chr(1002)))
    assert cache.evictor.victims(2).tolist() == [1, 3]


def test_a_page_pinned_while_it_waits_in_the_queue_stays():
    cache = Bounded(256)
    for i in range(256):
        cache.request(NAMESPACES[0], chr(1000 + i))
    cache.evictor.victims(1)
    row = np.array([1], np.int32)
    traits.set_hold(cache.table.traits, row, np.array([traits.PINNED], np.uint16))
    assert cache.evictor.victims(1).tolist() == [2]


def test_a_page_extended_while_it_waits_in_the_queue_stays():
    cache = Bounded(300)
    for i in range(256):
        cache.request(NAMESPACES[0], chr(1000 + i))
    cache.evictor.victims(1)
    root, chain = cache.table.root(NAMESPACES[0]), hashes(chr(1001) + "b")
    cache.evictor.insert(root, chain, 1, np.array([pack_place(0, 0, 1)], np.uint64))
    assert cache.evictor.victims(1).tolist() == [2]


@pytest.mark.parametrize("learn", [False, True])
def test_time_starts_over_before_it_overflows(monkeypatch, learn):
    """The last access is 32 bits; order survives the day it would run over."""
    monkeypatch.setattr(evictor_module, "_LATEST", 1000)
    monkeypatch.setattr(evictor_module, "_SHIFT", 500)
    cache, steady = Bounded(8, learn=learn), chr(900)
    for i in range(2000):
        hits, _ = cache.request(NAMESPACES[0], steady)
        assert hits == (i > 0)
        cache.request(NAMESPACES[0], chr(1000 + i))
        assert cache.evictor.now < 1000
    assert cache.table.last.max() <= cache.evictor.now


def test_a_path_whose_beginning_is_not_stored_gets_no_rows():
    cache = Bounded(10)
    root = cache.table.root(NAMESPACES[0])
    places = np.array([pack_place(0, 0, 1)], np.uint64)
    assert not cache.evictor.insert(root, hashes("abc"), 2, places).size
    assert len(cache.table) == 0


def test_asked_for_more_than_there_is():
    cache = Bounded(10)
    cache.request(NAMESPACES[0], "abc")
    assert cache.evictor.victims(99).tolist() == [2, 1, 0]
    assert Bounded(1).evictor.victims(1).size == 0


def test_a_page_deleted_while_it_waits_in_the_queue_gave_its_row_to_two_others():
    """A freed row keeps its key and time, so it passed for the victim, and was freed once more."""
    cache = Bounded(256)
    for i in range(256):
        cache.request(NAMESPACES[0], chr(1000 + i))
    cache.evictor.victims(1)
    cache.evictor.remove(np.array([1], np.int32))
    assert cache.evictor.victims(1).tolist() == [2]
