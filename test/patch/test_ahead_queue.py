"""Whatever happens in the host tier, a write leaves ready all but a share of what shall be."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from support.page_maker import chain

from sglang_lsm_patch import write_policy
from sglang_lsm_patch.ahead_queue import TOLERANCE, AheadQueue
from sglang_lsm_patch.host_ledger import CLEAN, DIRTY, FREE, HostLedger, PathPart

NUM_PAGES = 24
NAMES = chain(range(4000))


def everything(pages):
    return pages


class AheadModel(RuleBasedStateMachine):
    """Pages come, are hit and are given up; whatever is taken from the queue is written at once."""

    @initialize(num_ready=st.integers(0, NUM_PAGES))
    def begin(self, num_ready):
        self.ledger = HostLedger(NUM_PAGES)
        self.queue = AheadQueue(self.ledger, least_ready=num_ready, worthwhile=everything)
        self.now_s, self.num_named = 0.0, 0

    @rule(count=st.integers(1, 16), is_dirty=st.booleans())
    def come(self, count, is_dirty):
        pages = np.flatnonzero(self.ledger.state == FREE)[:count]
        if len(pages):
            names = NAMES[self.num_named : self.num_named + len(pages)]
            self.num_named += len(names)
            part = PathPart(None, 0, names)
            new = self.ledger.add(pages, part, is_dirty=is_dirty, now_s=self.next_s())
            self.queue.note_changed(len(new))

    @rule(which=st.integers(0, NUM_PAGES))
    def hit(self, which):
        used = np.flatnonzero(self.ledger.state != FREE)
        if len(used):
            name = self.ledger.name_of(int(used[which % len(used)]))
            self.queue.note_changed(len(self.ledger.touch(name, self.next_s())))

    @rule(which=st.integers(0, NUM_PAGES), count=st.integers(1, 8))
    def give_up(self, which, count):
        used = np.flatnonzero(self.ledger.state != FREE)
        self.queue.note_given_up(len(used[:count]))
        self.ledger.free(np.roll(used, which)[:count])

    @rule(count=st.integers(1, 8))
    def write_something_else(self, count):
        """Pages that have aged are written, too."""
        self.ledger.state[np.flatnonzero(self.ledger.state == DIRTY)[:count]] = CLEAN

    @rule()
    def lose_the_disk(self):
        self.ledger.distrust_disk()
        self.queue.note_changed(NUM_PAGES)

    @rule(max_pages=st.integers(0, 8), is_failing=st.booleans())
    def write(self, max_pages, is_failing):
        pages = self.take(max_pages)
        generations = self.ledger.begin_write(pages)
        self.ledger.end_write(pages, generations, is_stored=not is_failing)
        if is_failing:
            self.queue.note_changed(len(pages))

    @rule()
    def write_all(self):
        while len(pages := self.take(7)):
            self.ledger.state[pages] = CLEAN
        num_ready = self.queue.num_ready
        if self.num_free() >= num_ready:
            return
        left = write_policy.write_ahead(self.ledger, num_ready=num_ready, max_pages=NUM_PAGES)
        # Any of the cold pages, the coldest included, whose write failed.
        assert len(left) < max(1, self.queue.num_ready // TOLERANCE)

    def take(self, max_pages):
        pages = self.queue.take(num_free=self.num_free(), max_pages=max_pages)
        assert len(pages) <= max_pages
        assert (self.ledger.state[pages] == DIRTY).all()
        assert len(set(pages.tolist())) == len(pages)
        return pages

    def num_free(self):
        return int(np.sum(self.ledger.state == FREE))

    def next_s(self):
        self.now_s += 1.0
        return self.now_s


TestAheadModel = AheadModel.TestCase
TestAheadModel.settings = settings(max_examples=120, stateful_step_count=30)


def test_the_pool_is_ranked_once_for_many_steps(monkeypatch):
    ranked = []
    rank = write_policy.write_ahead
    monkeypatch.setattr(
        write_policy, "write_ahead", lambda *args, **more: ranked.append(1) or rank(*args, **more)
    )
    ledger = HostLedger(64)
    queue = AheadQueue(ledger, least_ready=32, worthwhile=everything)
    added = ledger.add(np.arange(48), PathPart(None, 0, NAMES[:48]), is_dirty=True, now_s=1.0)
    queue.note_changed(len(added))
    taken = [queue.take(num_free=16, max_pages=3).tolist() for _ in range(12)]
    assert sorted(page for pages in taken for page in pages) == list(range(16, 48))
    assert len(ranked) == 1
    # A hit on a few pages is within what may be missing.
    queue.note_changed(3)
    queue.take(num_free=16, max_pages=3)
    assert len(ranked) == 1
    queue.note_changed(1)
    queue.take(num_free=16, max_pages=3)
    assert len(ranked) == 2


def test_a_page_hit_while_it_waits_is_not_written():
    ledger = HostLedger(64)
    names = NAMES[:64]
    queue = AheadQueue(ledger, least_ready=32, worthwhile=everything)
    for page in range(64):
        part = PathPart(None, 0, [names[page]])
        ledger.add(np.asarray([page]), part, is_dirty=True, now_s=float(page))
    queue.note_changed(64)
    assert queue.take(num_free=0, max_pages=2).tolist() == [0, 1]
    queue.note_changed(len(ledger.touch(names[3], 100.0)))
    assert queue.take(num_free=0, max_pages=3).tolist() == [2, 4, 5]


def test_as_many_as_were_given_up_at_once_are_ready_the_next_time():
    ledger = HostLedger(64)
    queue = AheadQueue(ledger, least_ready=4, worthwhile=everything)

    def fill():
        free = np.flatnonzero(ledger.state == FREE)
        names = chain(range(len(free)), parent=bytes([fill.times]))
        fill.times += 1
        ledger.add(free, PathPart(None, 0, names), is_dirty=True, now_s=float(fill.times))
        queue.note_changed(len(free))

    def write():
        while len(pages := queue.take(num_free=0, max_pages=64)):
            ledger.state[pages] = CLEAN

    def give_up(count):
        coldest = np.argsort(ledger.warmth, kind="stable")[:count]
        num_clean = int(np.sum(ledger.state[coldest] == CLEAN))
        queue.note_given_up(count)
        ledger.free(coldest)
        fill()
        write()
        return num_clean

    fill.times = 0
    fill()
    write()
    assert give_up(20) == 4
    assert give_up(20) == 20
    # Half of the pool at most, and no longer once that is long ago.
    assert give_up(60) == 20
    assert queue.num_ready == 32
    for _ in range(100):
        give_up(1)
    assert queue.num_ready < 20


def test_nothing_is_written_ahead_where_that_is_switched_off():
    ledger = HostLedger(64)
    queue = AheadQueue(ledger, least_ready=0, worthwhile=everything)
    ledger.add(np.arange(64), PathPart(None, 0, NAMES[:64]), is_dirty=True, now_s=1.0)
    queue.note_changed(64)
    queue.note_given_up(30)
    assert not len(queue.take(num_free=0, max_pages=64))
