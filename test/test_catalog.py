"""The catalog against a plain dict, over a real log and page table."""

from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sglang_lsm import catalog
from sglang_lsm.errors import ClosedError, UnavailableError
from sglang_lsm.index.healing import RETRY_INTERVAL_S, HealingIndex
from sglang_lsm.keycodec import encode
from sglang_lsm.pages import NamespaceId, PagePath
from support.catalog_bench import (
    NAMESPACES,
    CatalogBench,
    cuts_before,
    key_of,
    pages_on,
    path_of,
)
from support.fake_index import FakeIndex

branches = st.lists(st.integers(0, 3), min_size=1, max_size=5)
"""Tokens 2 and 3 name siblings with equal digests."""


class Call(NamedTuple):
    """A path, printed shortly: a failure shows what differs, not the trunk."""

    namespace: NamespaceId
    trunk: int
    branch: tuple[int, ...]
    start: int

    @property
    def path(self):
        return path_of(self.namespace, (0,) * self.trunk + self.branch, self.start)


@st.composite
def calls(draw):
    """A path whose trunk often ends about a group cut."""
    trunk = draw(st.sampled_from([0, 0, 0, 61, 63, 64, 126]))
    branch = draw(branches)
    start = draw(st.integers(max(0, trunk - 3), trunk + len(branch) - 1))
    return Call(draw(st.sampled_from(NAMESPACES)), trunk, tuple(branch), start)


class CatalogMachine(RuleBasedStateMachine):
    """Index, page table and log say the same; what is stored is intact, what went is gone."""

    @initialize()
    def start(self):
        self.bench, self.is_loading = CatalogBench(), False

    @rule(call=calls(), data=st.data())
    def put(self, call, data):
        """Any pages of a path, in any order of calls: children first, holes, once more."""
        every = range(call.path.num_pages)
        self.bench.put(
            call.path, data.draw(st.sets(st.sampled_from(every), min_size=1).map(sorted))
        )

    @rule(call=calls())
    def touch(self, call):
        self.bench.catalog.touch(call.path)

    @precondition(lambda self: self.bench.stored)
    @rule(data=st.data())
    def forget(self, data):
        pages = data.draw(st.sets(st.sampled_from(sorted(self.bench.stored)), min_size=1))
        assert self.bench.forget(pages) == len(pages)

    @rule(call=calls())
    def forget_subtree(self, call):
        self.bench.forget_subtree(pages_on(call.path)[-1])

    @rule(namespace=st.sampled_from(NAMESPACES))
    def forget_namespace(self, namespace):
        gone = [page for page in self.bench.stored if page[0] == namespace]
        assert self.bench.catalog.forget_ranges([namespace]) == len(gone)
        self.bench.lose(gone)

    @precondition(lambda self: not self.is_loading)
    @rule(num_pages=st.integers(1, 12))
    def evict(self, num_pages):
        self.bench.evict(num_pages * 8192)

    @precondition(lambda self: self.bench.stored)
    @rule(data=st.data())
    def relocate(self, data):
        some = st.sets(st.sampled_from(sorted(self.bench.stored)))
        self.bench.relocate(sorted(data.draw(some)), lost_meanwhile=data.draw(some))

    @precondition(lambda self: self.bench.log.sealed_ids())
    @rule(data=st.data())
    def forget_segment(self, data):
        self.bench.forget_segment(data.draw(st.sampled_from(self.bench.log.sealed_ids())))

    @rule()
    def seal(self):
        """Fill the newest segment up, so that the next page opens another."""
        self.bench.seal()

    @precondition(lambda self: not self.is_loading)
    @rule()
    def restore(self):
        content = self.bench.catalog.checkpoint()
        self.bench.start_anew()
        assert not self.bench.load(content)

    @precondition(lambda self: not self.is_loading)
    @rule(keeps_table=st.booleans())
    def begin_loading(self, keeps_table):
        """The scan, or the kept table, sees this moment; every rule until `load` goes on beside."""
        self.kept = self.bench.catalog.checkpoint() if keeps_table else None
        self.bench.start_anew()
        self.is_loading, self.seen = True, set(self.bench.stored)

    @precondition(lambda self: self.is_loading)
    @rule()
    def load(self):
        self.is_loading = False
        for page in self.bench.load(self.kept):
            assert any(cut not in self.seen for cut in cuts_before(page)), "dropped without cause"

    @invariant()
    def agrees(self):
        self.bench.check_stored()
        if not self.is_loading:
            self.bench.check_table()
            self.bench.check_dead()

    def teardown(self):
        if hasattr(self, "bench"):
            self.bench.close()


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(
    max_examples=max(40, settings().max_examples // 2), stateful_step_count=40
)


@pytest.fixture
def bench():
    bench = CatalogBench()
    yield bench
    bench.close()


@pytest.fixture
def loading(bench):
    """A catalog that is being loaded: pages 0 and 1 in a full segment, page 2 in a newer one."""
    bench.put(path_of(NAMESPACES[0], (0,)))
    bench.put(path_of(NAMESPACES[0], (1,)))
    bench.seal()
    bench.put(path_of(NAMESPACES[0], (2,)))
    bench.start_anew()
    return bench


def check(bench):
    bench.check_stored()
    bench.check_table()
    bench.check_dead()


FIRST = pages_on(path_of(NAMESPACES[0], (0,)))


def test_a_page_stored_twice_while_the_table_was_being_scanned_lost_its_bytes(loading):
    """Two puts at once: the scan met the later place, then the earlier one was entered over it."""
    path = path_of(NAMESPACES[0], (5,))
    loading.put(path)
    loading.put(path)
    loading.see_now()
    loading.load()
    check(loading)


def test_a_page_deleted_while_the_table_was_being_scanned_took_its_segment_along(loading):
    """No page was known to live in the segment yet, so it passed for dead and was unlinked."""
    loading.forget(FIRST)
    loading.check_stored()
    loading.load()
    check(loading)


def test_a_page_merged_while_the_table_was_being_scanned_could_not_be_evicted(loading):
    loading.relocate(FIRST)
    loading.load()
    check(loading)


def test_a_page_stored_again_after_its_segment_was_evicted_was_lost_at_the_end_of_the_scan(loading):
    """The scan knew the old place, found its segment gone, and deleted the new entry with it."""
    loading.forget_segment(1)
    loading.put(path_of(NAMESPACES[0], (0,)))
    loading.load()
    check(loading)


def test_pages_behind_a_missing_page_that_came_back_during_the_scan_stayed_without_a_row(bench):
    trunk = (0,) * 64
    bench.put(path_of(NAMESPACES[0], (*trunk, 1), 64))
    bench.start_anew()
    bench.put(path_of(NAMESPACES[0], trunk))
    assert len(bench.load()) == 1
    check(bench)


def test_a_segment_that_goes_during_a_put_takes_its_pages_while_loading_too(loading):
    path = path_of(NAMESPACES[0], (5, 6))
    with loading.catalog.storing():
        locations = loading.append(path, [0])
        loading.seal()
        locations += loading.append(path, [1])
        loading.forget_segment(locations[0].segment_id)
        loading.lose(pages_on(path_of(NAMESPACES[0], (2,))))
        assert loading.catalog.record(path, [*encode(path)], [0, 1], locations) == 1
    loading.stored[pages_on(path)[1]] = locations[1]
    loading.load()
    check(loading)


def test_a_scan_that_fails_leaves_segments_to_be_evicted_and_nothing_that_grows(loading):
    loading.put(path_of(NAMESPACES[0], (5,)))
    loading.index_disk.failing = True
    loading.index.snapshot = None
    with pytest.raises(UnavailableError):
        loading.catalog.load(should_stop=lambda: False)
    loading.index_disk.failing = False
    num_bytes = loading.catalog.nbytes()
    for token in range(10, 2000):
        loading.put(path_of(NAMESPACES[0], (token,)))
    loading.forget(FIRST)
    loading.check_stored()
    assert loading.catalog.nbytes() == num_bytes
    assert not loading.catalog._waiting
    assert not loading.catalog.is_complete
    assert loading.catalog.checkpoint() is None
    loading.forget_segment(2)
    loading.check_stored()


@pytest.mark.parametrize("error", [UnavailableError("the index failed"), ValueError("a bug")])
@pytest.mark.parametrize("call", ["get", "delete"])
def test_a_load_that_failed_after_its_scan_let_every_later_put_wait_in_memory(
    loading, monkeypatch, caplog, call, error
):
    loading.put(path_of(NAMESPACES[0], (5,)))
    if call == "delete":
        loading.forget_segment(1)

    def fail(keys):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(loading.index, call, fail)
        loading.catalog.load(should_stop=lambda: False)
    assert str(error) in caplog.text
    assert not loading.catalog._waiting
    loading.put(path_of(NAMESPACES[0], (6,)))
    assert not loading.catalog._waiting
    assert not loading.catalog.is_complete
    assert loading.catalog.live_pages() == {}
    loading.check_stored()


def test_a_page_that_no_row_was_found_for_and_that_could_not_be_dropped_was_never_evicted(
    bench, monkeypatch
):
    """The table passed for complete, and was kept for the next start like this."""
    trunk = (0,) * 64
    bench.put(path_of(NAMESPACES[0], (*trunk, 1), 64))
    bench.start_anew()

    def fail(keys):
        raise UnavailableError("the index failed")

    with monkeypatch.context() as patch, pytest.raises(UnavailableError):
        patch.setattr(bench.index, "delete", fail)
        bench.catalog.load(should_stop=lambda: False)
    assert bench.catalog.checkpoint() is None


def test_closing_ends_a_scan(loading):
    with pytest.raises(ClosedError):
        loading.catalog.load(should_stop=lambda: True)
    assert loading.catalog.checkpoint() is None


def test_a_page_twice_in_one_segment_is_counted_once_when_it_goes(bench):
    for _ in range(3):
        bench.put(path_of(NAMESPACES[0], (0,)))
    bench.seal()
    bench.put(path_of(NAMESPACES[0], (1,)))
    bench.forget_segment(1)
    check(bench)


def test_a_checkpoint_of_a_store_that_lost_a_segment(bench):
    """The rest is found; what was in the segment is neither found nor in the table."""
    bench.put(path_of(NAMESPACES[0], (0,)))
    bench.seal()
    bench.put(path_of(NAMESPACES[0], (0, 1), 1))
    content = bench.catalog.checkpoint()
    bench.log.drop(1)
    bench.start_anew()
    bench.catalog.load(should_stop=lambda: False, take_kept=lambda: content)
    bench.lose(FIRST)
    check(bench)


@pytest.mark.parametrize("action", ["put", "forget", "forget_ranges", "evict", "relocate"])
def test_a_call_that_the_index_fails_changes_nothing(bench, action):
    path = path_of(NAMESPACES[0], (0, 1))
    places = bench.put(path)
    keys = [key_of(page) for page in pages_on(path)]
    other = path_of(NAMESPACES[0], (0, 2), 1)
    written = bench.append(other, [0])
    calls = {
        "put": lambda: bench.catalog.record(other, [*encode(other)], [0], written),
        "forget": lambda: bench.catalog.forget(keys, places),
        "forget_ranges": lambda: bench.catalog.forget_ranges([NAMESPACES[0]]),
        "evict": lambda: bench.catalog.evict(1),
        "relocate": lambda: bench.catalog.relocate(keys, places, places),
    }
    bench.index_disk.failing = True
    with pytest.raises(UnavailableError):
        calls[action]()
    bench.index_disk.failing = False
    check(bench)


def test_an_eviction_that_the_index_fails_half_way_is_finished_by_a_later_one(bench, monkeypatch):
    monkeypatch.setattr(catalog, "_CHUNK_KEYS", 1)
    path = path_of(NAMESPACES[0], (0, 1, 2))
    bench.put(path)
    delete, answers = bench.index.delete, iter([True])

    def fail(keys):
        if not next(answers, False):
            raise UnavailableError("the index failed")
        delete(keys)

    with monkeypatch.context() as patch, pytest.raises(UnavailableError):
        patch.setattr(bench.index, "delete", fail)
        bench.catalog.evict(2 * 8192)
    assert bench.index.get([*encode(path)])[2] is None
    assert bench.catalog.evict(2 * 8192) == (2, 2 * 8192)
    bench.lose(pages_on(path)[1:])
    check(bench)


def test_bytes_are_given_back_only_when_the_index_is_durable(bench):
    """Else a power cut could bring entries back whose pages are holes."""
    path = path_of(NAMESPACES[0], (0, 1))
    bench.put(path)
    bench.index.sync()
    order = []
    bench.disk.count_change = lambda name: order.append((name, len(bench.index_disk.synced.pages)))
    bench.evict(1)
    assert ("punch", 1) in order and ("punch", 2) not in order


def test_forgetting_a_subtree_through_an_index_that_failed_waited_for_itself(bench, monkeypatch):
    """The first write opened the index anew, inside the scan that told what to delete."""
    monkeypatch.setattr(catalog, "_CHUNK_KEYS", 4)
    now_s = 0.0
    index = HealingIndex(lambda: FakeIndex(bench.index_disk), clock=lambda: now_s)
    bench.catalog._index = index
    long = path_of(NAMESPACES[0], (0,) * 130)
    bench.put(long)
    bench.put(path_of(NAMESPACES[0], (1,)))
    bench.index_disk.failing = True
    with pytest.raises(UnavailableError):
        index.put([])
    bench.index_disk.failing = False
    now_s += RETRY_INTERVAL_S
    assert bench.catalog.forget_ranges([key_of(FIRST[0])]) == 130
    bench.lose(pages_on(long))
    check(bench)


def test_what_puts_under_way_extend_goes_when_nothing_else_is_left(bench):
    """Whole segments would go next, and with them the beginning of the path."""
    stored, other = path_of(NAMESPACES[0], (0, 1)), path_of(NAMESPACES[0], (1,))
    bench.put(stored)
    bench.put(other)
    catalog = bench.catalog
    with (
        catalog.storing(),
        catalog.storing(path_of(NAMESPACES[0], (0, 1, 2), 2)),
        catalog.storing(path_of(NAMESPACES[1], (0, 1, 2), 2)),
    ):
        assert catalog.evict(1 << 20) == (1, 8192)
        assert not any(bench.index.get([key_of(pages_on(other)[0])]))
        assert catalog.evict(1) == (1, 8192)
        bench.lose([*pages_on(other), pages_on(stored)[-1]])
        check(bench)


@pytest.mark.parametrize("indices", [[0, 1, 2], [0, 2], [1], [2]])
@pytest.mark.parametrize("shared", [b"other page", b"path"])
def test_a_page_with_the_digest_of_another_one_elsewhere_is_not_stored(bench, indices, shared):
    """A row is found by digest: a second page of that digest could never be evicted."""
    start, middle, end, other = (bytes([i]) * 32 for i in range(1, 5))
    bench.put(PagePath(NAMESPACES[0], [other]))
    middle = (other if shared == b"other page" else start)[:8] + middle[8:]
    path = PagePath(NAMESPACES[0], [start, middle, end])
    with bench.catalog.storing():
        locations = bench.append(path, indices)
        num_stored = bench.catalog.record(path, [*encode(path)], indices, locations)
    assert num_stored == sum(i == 0 for i in indices)
    pages = [pages_on(path)[i] for i in indices]
    bench.stored.update(list(zip(pages, locations, strict=True))[:num_stored])
    bench.dead.update(locations[num_stored:])
    check(bench)


def test_touches_that_nobody_asks_for_are_told_before_they_take_much_memory():
    bench = CatalogBench()
    told = []
    bench.catalog._rows.evictor.touch = lambda root, hashes: told.append(len(hashes))
    path = path_of(NAMESPACES[0], (0,) * 100)
    for _ in range(7):
        bench.catalog.touch(path)
    assert sum(told) == 600
    bench.catalog.note_touches()
    assert sum(told) == 700
