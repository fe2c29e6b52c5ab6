"""The ledger against a plain dict: names, states and generations of host pages."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.page_maker import chain

from sglang_lsm_patch.admission import kind_of
from sglang_lsm_patch.host_ledger import (
    CLEAN,
    DIRTY,
    FREE,
    SECONDS_A_PAGE,
    WRITING,
    HostLedger,
    PathPart,
)

NUM_PAGES = 12
TREE = chain(range(40))


def pages(*numbers):
    return np.asarray(numbers, np.int64)


class LedgerModel(RuleBasedStateMachine):
    """Pages come with a name, are written, are given up and come back under another name."""

    def __init__(self):
        super().__init__()
        self.ledger = HostLedger(NUM_PAGES)
        self.state = {}
        self.writes = []
        self.now_s = 0.0

    @rule(
        numbers=st.lists(st.integers(0, NUM_PAGES - 1), min_size=1, max_size=4, unique=True),
        depth=st.integers(0, 20),
        is_dirty=st.booleans(),
    )
    def add(self, numbers, depth, is_dirty):
        names = TREE[depth : depth + len(numbers)]
        elsewhere = {name for page, (name, _) in self.state.items() if page not in numbers}
        if elsewhere.intersection(names):
            return
        parent = PathPart(None, 0, TREE[:depth]) if depth else None
        part = PathPart(parent, depth, names)
        new = [(p, n) for p, n in zip(numbers, names, strict=True) if self.name(p) != n]
        if {self.name(p) for p, _ in new}.intersection(n for p, n in new):
            return
        self.now_s += 1
        added = self.ledger.add(pages(*numbers), part, is_dirty=is_dirty, now_s=self.now_s)
        assert added.tolist() == [page for page, _ in new]
        for page, name in new:
            self.state[page] = (name, DIRTY if is_dirty else CLEAN)
            self.forget_writes(page)

    @rule(numbers=st.sets(st.integers(0, NUM_PAGES - 1), max_size=4))
    def free(self, numbers):
        self.ledger.free(pages(*numbers))
        for page in numbers:
            self.state.pop(page, None)
            self.forget_writes(page)

    @rule()
    def free_all(self):
        self.ledger.free_all()
        self.state.clear()
        self.writes = [(p, g, False) for p, g, _ in self.writes]

    @rule()
    def begin_write(self):
        dirty = pages(*(p for p, (_, state) in self.state.items() if state == DIRTY))
        self.writes.append((dirty, self.ledger.begin_write(dirty), True))
        for page in dirty.tolist():
            self.state[page] = (self.name(page), WRITING)

    @rule(is_stored=st.booleans())
    def end_write(self, is_stored):
        if not self.writes:
            return
        written, generations, is_untouched = self.writes.pop(0)
        assert self.ledger.is_current(written, generations) == (is_untouched or not len(written))
        before = {p: self.ledger.state[p] for p in range(NUM_PAGES)}
        self.ledger.end_write(written, generations, is_stored=is_stored)
        for page in range(NUM_PAGES):
            if self.ledger.state[page] != before[page]:
                assert page in written and before[page] == WRITING
                self.state[page] = (self.name(page), CLEAN if is_stored else DIRTY)
        if is_untouched:
            assert not np.any(self.ledger.state[written] == WRITING)

    @rule(depth=st.integers(1, 23))
    def touch(self, depth):
        self.now_s += 1
        here = {name for name, _ in self.state.values()}
        path = self.ledger.touch(TREE[depth - 1], self.now_s)
        assert path == (TREE[:depth] if TREE[depth - 1] in here else [])

    @invariant()
    def agrees(self):
        for page in range(NUM_PAGES):
            name, state = self.state.get(page, (None, FREE))
            assert self.ledger.state[page] == state
            assert self.name(page) == name
            assert (self.ledger.warmth[page] == np.inf) == (name is None)
            if name is not None:
                part, position = self.ledger.part[page], int(self.ledger.position[page])
                assert part.path_to(position + 1) == TREE[: position + 1]

    def name(self, page):
        return self.ledger.name_of(page)

    def forget_writes(self, page):
        self.writes = [(p, g, ok and page not in p) for p, g, ok in self.writes]


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(stateful_step_count=30)


@given(cuts=st.lists(st.integers(1, 8), max_size=4), from_end=st.integers(0, 40))
def test_a_path_reads_the_same_however_it_was_cut(cuts, from_end):
    part, depth = None, 0
    for length in [*cuts, len(TREE) - sum(cuts)]:
        part = PathPart(part, depth, TREE[depth : depth + length])
        depth += length
    end = max(part.depth, len(TREE) - from_end)
    assert part.path_to(end) == TREE[:end]


def test_a_very_deep_path_needs_no_recursion():
    part, names = None, chain(range(5000))
    for depth, name in enumerate(names):
        part = PathPart(part, depth, [name])
    assert part.path_to(len(names)) == names


def test_a_hit_warms_the_page_and_all_before_it_only():
    ledger = HostLedger(6)
    trunk = PathPart(None, 0, TREE[:3])
    ledger.add(pages(4, 1, 0), trunk, is_dirty=True, now_s=1.0)
    ledger.add(pages(2, 3), PathPart(trunk, 3, TREE[3:5]), is_dirty=True, now_s=2.0)
    assert ledger.touch(TREE[1], 9.0) == TREE[:2]
    depths = np.array([2, 1, 3, 4, 0, 0])
    used_s = np.array([1.0, 9.0, 2.0, 2.0, 9.0, np.inf])
    assert np.allclose(ledger.warmth, used_s - SECONDS_A_PAGE * depths, rtol=0, atol=1e-9)
    assert ledger.kind.tolist() == [0, kind_of(1, False), 0, 0, kind_of(1, False), 0]
    ledger.returned(4)
    assert ledger.kind[4] == kind_of(1, True)
    assert ledger.touch(chain("elsewhere")[0], 10.0) == []


def test_a_page_that_is_taken_in_twice_stays_as_it_is():
    """SGLang publishes a node again after it was split, or when another pool covers it."""
    ledger, part = HostLedger(4), PathPart(None, 0, TREE[:2])
    ledger.add(pages(0, 1), part, is_dirty=False, now_s=1.0)
    assert not len(ledger.add(pages(0, 1), part, is_dirty=True, now_s=2.0))
    assert ledger.state.tolist() == [CLEAN, CLEAN, FREE, FREE]
    ledger.distrust_disk()
    assert ledger.unwritten(pages(0, 1, 2)).tolist() == [0, 1]


def test_what_is_wanted_is_wanted_with_all_before_it():
    """A page whose prefix is not on disk is no hit, so writing it alone would be for nothing."""
    ledger = HostLedger(8)
    trunk, other = PathPart(None, 0, TREE[:3]), PathPart(None, 0, chain(range(90, 93)))
    ledger.add(pages(4, 1, 0), trunk, is_dirty=True, now_s=1.0)
    ledger.add(pages(2, 3), PathPart(trunk, 3, TREE[3:5]), is_dirty=True, now_s=2.0)
    ledger.add(pages(5, 6, 7), other, is_dirty=True, now_s=2.0)
    ledger.want(pages(2))
    assert np.flatnonzero(ledger.is_wanted).tolist() == [0, 1, 2, 4]
    ledger.free(pages(3, 2))
    ledger.add(pages(2), PathPart(trunk, 3, TREE[3:4]), is_dirty=True, now_s=3.0)
    assert not ledger.is_wanted[2]
    ledger.want(pages(2, 6))
    assert np.flatnonzero(ledger.is_wanted).tolist() == [0, 1, 2, 4, 5, 6]
