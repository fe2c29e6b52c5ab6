"""Which pages are written next: never more than asked for, coldest or oldest first, in runs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.page_maker import chain

from sglang_lsm_patch import write_policy
from sglang_lsm_patch.host_ledger import (
    CLEAN,
    DIRTY,
    FREE,
    SECONDS_A_PAGE,
    WRITING,
    HostLedger,
    PathPart,
)

NAMES = chain(range(64))

page_facts = st.tuples(
    st.sampled_from((FREE, CLEAN, DIRTY, WRITING)),
    st.integers(0, 5),  # touched
    st.integers(0, 5),  # added
    st.integers(0, 20),  # position
)


def ledger_of(facts):
    ledger = HostLedger(len(facts))
    parts = [PathPart(None, 0, NAMES), PathPart(None, 0, NAMES)]
    for page, (state, touched, added, position) in enumerate(facts):
        ledger.state[page], ledger.added_s[page] = state, added
        if state != FREE:
            ledger.part[page], ledger.position[page] = parts[page % 2], position
            ledger.warmth[page] = touched - SECONDS_A_PAGE * position
    return ledger


@given(
    facts=st.lists(page_facts, min_size=1, max_size=30),
    num_ready=st.integers(0, 30),
    max_pages=st.integers(0, 10),
)
def test_write_ahead_takes_the_dirty_among_the_coldest(facts, num_ready, max_pages):
    ledger = ledger_of(facts)
    chosen = write_policy.write_ahead(ledger, num_ready=num_ready, max_pages=max_pages).tolist()

    assert len(chosen) == len(set(chosen)) <= max_pages
    assert all(ledger.state[page] == DIRTY for page in chosen)
    warmth = ledger.warmth
    used = [page for page in range(len(facts)) if ledger.state[page] != FREE]
    for page in chosen:
        # Fewer than the wanted number of pages go before it, so it is within the cold part.
        assert sum(warmth[other] < warmth[page] for other in used) < num_ready
    if len(chosen) < max_pages:
        # Nothing was left out: with these written, the cold part holds no dirty page.
        cold = sorted(used, key=lambda p: warmth[p])[:num_ready]
        edge = warmth[cold[-1]] if cold else 0.0
        dirty = {p for p in cold if ledger.state[p] == DIRTY and warmth[p] < edge}
        assert dirty <= set(chosen)


@given(
    facts=st.lists(page_facts, min_size=1, max_size=30),
    now=st.integers(0, 10),
    delay=st.integers(0, 10),
)
def test_what_has_aged_is_dirty_and_has_waited(facts, now, delay):
    ledger = ledger_of(facts)
    due = {
        page
        for page, (state, _, added, _) in enumerate(facts)
        if state == DIRTY and added <= now - delay
    }
    chosen = write_policy.aged(ledger, now_s=now, delay_s=delay)
    assert sorted(chosen.tolist()) == sorted(due)
    oldest_s = write_policy.oldest_dirty_s(ledger, now_s=now)
    assert (oldest_s <= now - delay) == bool(due) or delay == 0
    chosen = write_policy.parents_first(ledger, chosen).tolist()
    age_and_depth = [(ledger.added_s[page], ledger.position[page]) for page in chosen]
    assert age_and_depth == sorted(age_and_depth)


@given(
    positions=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), unique=True, max_size=20),
    max_pages=st.integers(1, 5),
)
def test_runs_are_neighbours_on_one_path_and_cover_all(positions, max_pages):
    parts = [PathPart(None, 0, NAMES), PathPart(None, 0, NAMES)]
    ledger = HostLedger(max(1, len(positions)))
    for page, (which, position) in enumerate(positions):
        ledger.part[page], ledger.position[page] = parts[which], position
    pages = np.arange(len(positions))
    found = list(write_policy.runs(ledger, pages, max_pages=max_pages))
    assert sorted(page for run in found for page in run.pages.tolist()) == pages.tolist()
    for run in found:
        assert 1 <= len(run.pages) <= max_pages
        assert ledger.position[run.pages].tolist() == list(
            range(run.start, run.start + len(run.pages))
        )
        assert all(ledger.part[page] is run.part for page in run.pages)


def test_the_trunk_is_warmer_than_the_leaf():
    """The tree gives up leaves first, so that is where writing ahead has to start."""
    ledger = HostLedger(4)
    ledger.add(np.arange(4), PathPart(None, 0, NAMES[:4]), is_dirty=True, now_s=5.0)
    chosen = write_policy.write_ahead(ledger, num_ready=2, max_pages=9)
    assert chosen.tolist() == [3, 2]
    behind = write_policy.aged(ledger, now_s=50.0, delay_s=1.0)
    assert write_policy.parents_first(ledger, behind).tolist() == [0, 1, 2, 3]
