import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.eviction import traits
from sglang_lsm.eviction.encodable import WAITING_SHARE, choose_encodable
from sglang_lsm.eviction.page_table import PageTable
from sglang_lsm.eviction.places import length_units
from trees import NAMESPACES, PATHS, store, table_of


@given(PATHS, st.integers(0, 40), st.data())
def test_the_youngest_that_have_waited_are_chosen_as_many_as_asked_for(paths, units, data):
    table = table_of(paths)
    rows, now = table.live_rows(), len(paths)
    settled = np.array([data.draw(st.booleans()) for _ in rows], np.bool_)
    traits.settle(table.traits, rows[settled])
    ghosts = np.array([data.draw(st.integers(0, 3)) == 0 for _ in rows], np.bool_)
    table.relocate(rows[ghosts], np.zeros(np.count_nonzero(ghosts), np.uint64))
    chosen = choose_encodable(table.view(), now=now, units=units)
    num_stored = len(rows) - np.count_nonzero(ghosts)
    waited = now - table.last[rows].astype(np.int64) >= num_stored // WAITING_SHARE
    allowed = set(rows[~settled & ~ghosts & waited].tolist())
    assert set(chosen.tolist()) <= allowed and len(set(chosen.tolist())) == len(chosen)
    freed = length_units(table.place[chosen])
    assert freed.sum() >= min(units, len(allowed))
    assert freed[:-1].sum() < max(units, 1)
    left = sorted(allowed - set(chosen.tolist()))
    if len(chosen) and left:
        assert table.last[chosen].min() >= table.last[left].max()


def test_a_page_waits_for_a_sixteenth_of_a_turnover():
    table = PageTable(2)
    for i in range(10 * WAITING_SHARE):
        # No two share a letter, so each is a page of its own.
        store(table, NAMESPACES[0], chr(0x100 + i), now=i)
    now = 10 * WAITING_SHARE
    chosen = choose_encodable(table.view(), now=now, units=10_000)
    assert sorted(table.last[chosen].tolist()) == list(range(now - 10 + 1))
    assert not len(choose_encodable(table.view(), now=now, units=0))
    assert not len(choose_encodable(PageTable(2).view(), now=now, units=5))
