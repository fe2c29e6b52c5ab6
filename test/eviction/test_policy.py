import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.eviction import traits
from sglang_lsm.eviction.page_table import MANY, PageTable
from sglang_lsm.eviction.places import length_units
from sglang_lsm.eviction.policy import LRU, Need, choose_victims, order
from trees import NAMESPACES, PATHS, row_of, store, table_of

RANKS = np.random.default_rng(0).integers(0, 9, LRU.shape)
NOW = 20


def marked(paths, data):
    """A table with priorities, classes and pins."""
    table = table_of(paths)
    rows = table.live_rows()
    bits = st.lists(st.integers(0, 2**15 - 1), min_size=len(rows), max_size=len(rows))
    table.traits[rows] = data.draw(bits)
    unpinned = np.array([data.draw(st.integers(0, 3)) > 0 for _ in rows], np.bool_)
    table.traits[rows[unpinned]] &= np.uint16(traits.PINNED - 1)
    return table


def one_by_one(table, need, ranks):
    """The plainest way: look at every leaf, take the lowest, begin again."""
    view, gone, freed = table.view(), [], 0
    rows = table.live_rows().tolist()
    orders = dict(zip(rows, order(view, np.array(rows, int), NOW, ranks), strict=True))
    while freed < need.units:
        inner = {int(view.parent[row]) for row in rows if row not in gone}
        held = {*need.keep, *(row for row in rows if view.traits[row] & traits.PINNED)}
        leaves = [row for row in rows if row not in inner and row not in held and row not in gone]
        if not leaves:
            break
        gone.append(min(leaves, key=lambda row: (orders[row], -row)))
        freed += int(length_units(view.place[gone[-1:]])[0])
    return gone


@given(PATHS, st.integers(0, 60), st.frozensets(st.integers(0, 30), max_size=3), st.data())
def test_victims_are_the_lowest_leaves_one_by_one(paths, units, keep, data):
    table = marked(paths, data)
    need = Need(units=units, now=NOW, keep=keep)
    for ranks in (LRU, RANKS):
        victims = choose_victims(table.view(), need, ranks).tolist()
        assert victims == one_by_one(table, need, ranks)


@given(PATHS, st.integers(0, 60), st.data())
def test_no_victim_before_its_extensions_and_none_pinned(paths, units, data):
    table = marked(paths, data)
    view = table.view()
    victims = choose_victims(view, Need(units=units, now=NOW), RANKS)
    assert not (view.traits[victims] & traits.PINNED).any()
    for i in range(len(victims)):
        table.remove(victims[i : i + 1])


@given(PATHS, st.integers(1, 60), st.integers(1, 3))
def test_frees_enough_and_not_a_page_more(paths, units, blocks):
    table = PageTable(1)
    for path in paths:
        store(table, *path, length=4096 * blocks)
    victims = choose_victims(table.view(), Need(units=units, now=NOW), LRU)
    assert len(victims) == min(len(table), -(-units // blocks))


def held_table():
    table = PageTable(1)
    for now, letter in enumerate("abcdef"):
        store(table, NAMESPACES[0], letter, now)
    return table


def hold(table, letter, **what):
    rows = np.array([row_of(table, NAMESPACES[0], letter)], np.int32)
    bits = what.get("priority", 0) << traits.PRIORITY_SHIFT | what.get("pinned", 0) * traits.PINNED
    traits.set_hold(table.traits, rows, np.array([bits], np.uint16))


def leaving(table, now=6):
    victims = choose_victims(table.view(), Need(units=99, now=now), LRU).tolist()
    return "".join("abcdef"[row] for row in victims)


def test_high_priority_leaves_last():
    table = held_table()
    hold(table, "a", priority=2)
    hold(table, "c", priority=1)
    assert leaving(table) == "bdefca"


def test_pinned_pages_stay():
    table = held_table()
    hold(table, "b", pinned=True)
    assert leaving(table) == "acdef"


def test_a_page_with_more_children_than_can_be_told_waits():
    table = held_table()
    store(table, NAMESPACES[0], "ab")
    row = row_of(table, NAMESPACES[0], "a")
    table.children[row] = MANY
    victims = choose_victims(table.view(), Need(units=99, now=6), LRU).tolist()
    assert sorted(victims) == sorted(set(table.live_rows().tolist()) - {row})
