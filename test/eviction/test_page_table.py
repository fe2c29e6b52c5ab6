import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sglang_lsm.eviction import page_table
from sglang_lsm.eviction.page_table import MANY, PageTable
from sglang_lsm.eviction.places import pack_place
from trees import NAMESPACES, PATHS, hashes, prefixes, row_of, store, table_of


class TableModel(RuleBasedStateMachine):
    """The table holds exactly the pages stored and not removed, each under the page before it."""

    def __init__(self):
        super().__init__()
        self.table, self.pages, self.now = PageTable(1), {}, 0

    @rule(namespace=st.sampled_from(NAMESPACES), text=st.text("ab", min_size=1, max_size=40))
    def store(self, namespace, text):
        self.now += 1
        rows, num_new = store(self.table, namespace, text, self.now)
        old = len(text) - num_new
        assert {(namespace, text[: i + 1]) in self.pages for i in range(old)} <= {True}
        for i in range(len(text)):
            assert ((namespace, text[: i + 1]) in self.pages) == (i < old)
            self.pages[namespace, text[: i + 1]] = self.now
        assert len(rows) == len(text)

    @rule(data=st.data())
    def remove_a_subtree(self, data):
        if not self.pages:
            return
        namespace, top = data.draw(st.sampled_from(sorted(self.pages)))
        gone = [p for p in self.pages if p[0] == namespace and p[1].startswith(top)]
        rows = np.array([row_of(self.table, *page) for page in gone], np.int32)
        self.table.remove(rows)
        for page in gone:
            del self.pages[page]

    @invariant()
    def holds_the_same(self):
        table, rows = self.table, {}
        assert len(table) == len(self.pages) == len(table.live_rows())
        for page, now in self.pages.items():
            rows[page] = row_of(table, *page)
            assert table.last[rows[page]] == now
        assert sorted(rows.values()) == table.live_rows().tolist()
        for (namespace, text), row in rows.items():
            assert table.parent[row] == rows.get((namespace, text[:-1]), table.root(namespace))
            longer = sum((namespace, text + letter) in self.pages for letter in "ab")
            assert table.num_children(np.array([row], np.int32))[0] == longer
        leaves = {row for page, row in rows.items() if not self.has_longer(page)}
        assert set(table.view().leaves().tolist()) == leaves

    def has_longer(self, page):
        return any((page[0], page[1] + letter) in self.pages for letter in "ab")


TestTableModel = TableModel.TestCase
TestTableModel.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@given(PATHS, st.text("ab", min_size=1, max_size=10))
def test_lookup_is_the_leading_run(paths, asked):
    table = table_of(paths)
    for namespace in NAMESPACES:
        stored = [i for i in range(len(asked)) if (namespace, asked[: i + 1]) in prefixes(paths)]
        root = table.root(namespace)
        assert len(table.lookup(root, table.keys(root, hashes(asked)))) == len(stored)


@given(PATHS.filter(bool), st.data())
def test_no_page_leaves_before_its_extensions(paths, data):
    table = table_of(paths)
    pages = sorted(prefixes(paths))
    gone = data.draw(st.sets(st.sampled_from(pages)))
    rows = np.array([row_of(table, *page) for page in sorted(gone)], np.int32)
    longer = {(name, text[:-1]) for name, text in set(pages) - gone}
    if gone & longer:
        with pytest.raises(ValueError, match="after its extensions"):
            table.remove(rows)
        assert len(table) == len(pages)
    else:
        table.remove(rows)
        assert len(table) == len(pages) - len(gone)


def test_long_paths_are_found_by_their_neighbours_and_past_them():
    """Runs are guessed from their first row; rows used again in between must not lead astray."""
    table = PageTable(1000)
    first, second = "ab" * 100, "ab" * 50 + "b" * 100
    store(table, NAMESPACES[0], first)
    rows, _ = store(table, NAMESPACES[0], second)
    table.remove(rows[:99:-1])
    store(table, NAMESPACES[1], "b" * 30)
    for text, known in ((first, 200), (second, 100), (second + "a", 100)):
        root = table.root(NAMESPACES[0])
        assert len(table.lookup(root, table.keys(root, hashes(text)))) == known


def test_more_children_than_a_byte_counts():
    table = PageTable(8)
    root = table.root(NAMESPACES[0])
    place = np.array([pack_place(0, 0, 1)], np.uint64)
    top = table.insert(root, np.array([7], np.uint64), place, 0)
    rows = [table.insert(int(top[0]), np.array([i], np.uint64), place, 0) for i in range(100, 400)]
    for left in range(300, -1, -1):
        assert table.num_children(top)[0] == left
        assert table.children[top[0]] == min(left, MANY)
        if left:
            table.remove(rows[left - 1])
    assert not table._many_children


@pytest.mark.parametrize("first_rows", [1 << 16, 1000])
def test_bytes_of_a_page_when_full(first_rows):
    num_pages = 1 << 16
    table = PageTable(first_rows)
    table.expected_rows = num_pages
    root = table.root(NAMESPACES[0])
    keys = np.random.default_rng(0).integers(0, 2**63, num_pages).astype(np.uint64)
    places = np.full(128, pack_place(0, 0, 1), np.uint64)
    for start in range(0, num_pages, 128):
        table.insert(root, keys[start : start + 128], places, 0)
    assert table.nbytes / len(table) <= 32


def test_enters_its_pages_anew_about_once_while_it_grows_to_what_is_expected():
    num_entered = []
    for expected in (0, 1 << 14):
        table, entered = PageTable(1 << 8), 0
        table.expected_rows = expected
        for first in range(0, 1 << 14, 1 << 6):
            capacity = len(table.parent)
            keys = np.arange(first, first + (1 << 6), dtype=np.uint64)
            place = np.full(len(keys), pack_place(0, 0, 1), np.uint64)
            table.insert(table.root(NAMESPACES[0]), keys, place, 0)
            entered += first if len(table.parent) > capacity else 0
        num_entered.append(entered / (1 << 14))
    assert num_entered[0] > 7
    assert num_entered[1] < 1


def test_relocate():
    table = table_of([(NAMESPACES[0], "ab")])
    row = np.array([row_of(table, NAMESPACES[0], "ab")], np.int32)
    place = np.array([pack_place(9, 8192, 4096)], np.uint64)
    table.relocate(row, place)
    assert table.place[row] == place


def test_storing_nothing():
    table = PageTable(1)
    empty = np.empty(0, np.uint64)
    assert not table.insert(table.root(NAMESPACES[0]), empty, empty, 0).size
    table.remove(np.empty(0, np.int32))
    assert page_table.is_live(table.parent).sum() == 0
