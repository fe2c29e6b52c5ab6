"""The eviction path on a real host pool and a real store: what is found is right, what is lost is
counted, and what is on disk is not written again."""

import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.errors import UnavailableError
from sglang_lsm.pages import NamespaceId, PagePath
from sglang_lsm.store import Store
from sglang_pools import PAGE_SIZE, chain, host_pool_of, mha_device_pool, slots
from support.page_maker import content_of, empty_pages, joined

from sglang_lsm_patch.admission import kind_of
from sglang_lsm_patch.device_pages import MIN_PAGES, DevicePages, plain_pool
from sglang_lsm_patch.eviction import RETRY_S, EvictionPath, EvictionTarget
from sglang_lsm_patch.host_pages import host_pages
from sglang_lsm_patch.options import WriteConfig

NAMESPACE = NamespaceId(b"eviction")
KEYS = chain(200)
OTHER_KEYS = chain(200, seed=1)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


class CountingSink:
    """A store that notes what it is asked to write, and can be told to fail or to wait."""

    def __init__(self, store):
        self._store = store
        self.names = []
        self.error = None
        self.gate = threading.Event()
        self.gate.set()

    def put_batch(self, path, pages, *, still_valid=None):
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.names += path.hashes[path.start :]
        return self._store.put_batch(path, pages, still_valid=still_valid)


class Tiers:
    """A host pool whose pages hold what their names say, and the path to a store."""

    def __init__(self, directory, **config):
        self.device = mha_device_pool()
        self.pool = host_pool_of(self.device)
        self.buffers = host_pages(self.pool)
        self.num_pages = self.pool.size // PAGE_SIZE
        self.store = Store.open(
            directory, StoreConfig(quota_bytes=64 * MIB, log=LogConfig(segment_bytes=MIB))
        )
        self.sink, self.clock = CountingSink(self.store), Clock()
        self.path = EvictionPath(
            EvictionTarget(
                store=self.sink,
                namespace=NAMESPACE,
                pages=self.buffers,
                page_size=PAGE_SIZE,
                num_pages=self.num_pages,
                config=WriteConfig(**config),
                device=DevicePages(
                    plain_pool(self.device, self.pool), layout=self.pool.layout, staging_bytes=0
                ),
            ),
            clock=self.clock,
        )
        self.closed = False

    def compute(self, pages, keys, start=0):
        """The device tier copies `keys[start:]` to these host pages."""
        for page, key in zip(pages, keys[start:], strict=True):
            self.fill(page, bytes.fromhex(key))
        self.path.computed(slots(pages), keys[start:], keys[:start])

    def give_up(self, *pages_by_node):
        """The tree frees host pages, and somebody overwrites them at once."""
        self.path.giving_up([slots(pages) for pages in pages_by_node])
        for page in np.concatenate([*pages_by_node, []]).astype(int).tolist():
            self.fill(page, b"somebody else's")

    def leave_device(self, pages, keys, start=0):
        """The tree frees device pages without a host copy, and somebody overwrites them at once."""
        for page, key in zip(pages, keys[start:], strict=True):
            self.fill_device(page, bytes.fromhex(key))
        self.path.leaving_device(slots(pages), keys[start:], keys[:start])
        for page in pages:
            self.fill_device(page, b"somebody else's")

    def fill_device(self, page, name):
        content = content_of(NAMESPACE, name, self.buffers.page_bytes)
        at = 0
        for layer in (*self.device.k_buffer, *self.device.v_buffer):
            run = layer[slots([page])].view(torch.uint8).numel()
            raw = torch.frombuffer(bytearray(content[at : at + run]), dtype=torch.uint8)
            layer[slots([page])] = raw.view(layer.dtype).view(-1, *layer.shape[1:])
            at += run

    def step(self, *, seconds=1.0, num_free=0):
        self.clock.now_s += seconds
        return self.path.step(num_free * PAGE_SIZE)

    def settled_step(self, **options):
        """A step, and its writes done and entered."""
        self.step(**options)
        assert self.path._writer.drain(30.0)
        return self.path.step(self.num_pages * PAGE_SIZE)

    def fill(self, page, name):
        content = memoryview(content_of(NAMESPACE, name, self.buffers.page_bytes))
        at = 0
        for piece in self.buffers.buffers(slots([page]), 1)[0]:
            piece[:] = content[at : at + piece.nbytes]
            at += piece.nbytes

    def num_found(self, keys):
        """How many leading pages of `keys` are stored; each has to be right."""
        path = PagePath(NAMESPACE, [bytes.fromhex(key) for key in keys])
        out = empty_pages(len(keys), [self.buffers.page_bytes])
        num = self.store.get_batch(path, out)
        for name, page in zip(path.hashes[:num], out, strict=False):
            assert joined(page) == content_of(NAMESPACE, name, self.buffers.page_bytes)
        return num

    def close(self):
        self.sink.gate.set()
        if not self.closed:
            self.closed = True
            self.path.close()
        self.store.close()


@pytest.fixture
def make_tiers(tmp_path):
    made = []

    def make(**config):
        made.append(Tiers(tmp_path / "tier", **config))
        return made[-1]

    yield make
    for tiers in made:
        tiers.close()


class EvictionModel(RuleBasedStateMachine):
    """Pages come, are hit, written and given up in any order; the store never holds a wrong one."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.tiers = Tiers(self.directory / "tier", delay_s=3.0, ahead_share=0.5)
        self.used = {}
        self.num_given_up = 0

    @rule(
        keys=st.sampled_from((KEYS, OTHER_KEYS)), depth=st.integers(0, 80), count=st.integers(1, 4)
    )
    def compute(self, keys, depth, count):
        free = [page for page in range(self.tiers.num_pages) if page not in self.used]
        names = set(self.used.values())
        if len(free) < count or names.intersection(keys[depth : depth + count]):
            return
        self.tiers.compute(free[-count:], keys[: depth + count], start=depth)
        self.used.update(zip(free[-count:], keys[depth:], strict=False))

    @rule(data=st.data())
    def give_up(self, data):
        pages = data.draw(st.lists(st.sampled_from(sorted(self.used)), unique=True, max_size=4)
                          if self.used else st.just([]))  # fmt: skip
        self.tiers.give_up(pages)
        self.num_given_up += len(pages)
        for page in pages:
            del self.used[page]

    @rule(seconds=st.floats(0, 5), num_free=st.integers(0, 6))
    def step(self, seconds, num_free):
        self.tiers.step(seconds=seconds, num_free=num_free)

    @rule(depth=st.integers(0, 80))
    def hit(self, depth):
        path = self.tiers.path.hit(KEYS[depth])
        assert path == (
            [bytes.fromhex(key) for key in KEYS[: depth + 1]]
            if KEYS[depth] in self.used.values()
            else []
        )

    @rule()
    def flush(self):
        self.tiers.path.flush()
        assert not len(self.tiers.path._unwritten())

    @rule()
    def empty(self):
        self.tiers.path.empty()
        for page in self.used:
            self.tiers.fill(page, b"somebody else's")
        self.used.clear()

    @invariant()
    def what_is_found_is_right(self):
        for keys in (KEYS, OTHER_KEYS):
            path = [bytes.fromhex(key) for key in keys[:84]]
            for start in range(0, 84, 7):
                out = empty_pages(84 - start, [self.tiers.buffers.page_bytes])
                num = self.tiers.store.get_batch(PagePath(NAMESPACE, path, start), out)
                for name, page in zip(path[start : start + num], out, strict=False):
                    expected = content_of(NAMESPACE, name, self.tiers.buffers.page_bytes)
                    assert joined(page) == expected

    def teardown(self):
        figures = self.tiers.path.figures()
        self.tiers.close()
        assert figures.pages_given_up == self.num_given_up
        assert figures.pages_failed == 0
        accounted = figures.pages_given_up_clean + figures.pages_staged + figures.pages_dropped
        assert accounted == figures.pages_given_up
        shutil.rmtree(self.directory)


TestEvictionModel = EvictionModel.TestCase
TestEvictionModel.settings = hypothesis_settings(max_examples=25, stateful_step_count=20)


def test_what_leaves_the_host_tier_is_on_disk(make_tiers):
    tiers = make_tiers()
    tiers.compute([3, 1, 5], KEYS[:3])
    assert tiers.num_found(KEYS[:3]) == 0
    tiers.give_up([5])
    tiers.give_up([3, 1])
    assert tiers.path._writer.drain(30.0)
    assert tiers.num_found(KEYS[:3]) == 3
    assert tiers.path.figures().pages_staged == 3


def test_a_page_that_was_written_ahead_leaves_without_a_copy(make_tiers):
    tiers = make_tiers(ahead_share=0.5)
    tiers.compute(range(10), KEYS[:10])
    # 12 or 13 pages in the pool: the deepest are made ready to go, the trunk is left alone.
    num_ready = tiers.num_pages // 2
    assert tiers.settled_step(num_free=num_ready) == 0
    assert tiers.settled_step(num_free=num_ready - 1) == num_ready
    assert tiers.num_found(KEYS[:10]) == 0
    assert sorted(tiers.sink.names) == sorted(bytes.fromhex(k) for k in KEYS[10 - num_ready : 10])
    tiers.give_up([6, 7, 8, 9])
    assert tiers.path.figures().pages_given_up_clean == 4
    assert tiers.path.figures().pages_staged == 0


def test_a_page_given_up_while_it_waits_to_be_written_is_copied_not_garbled(make_tiers):
    """The writer reads straight from the pool, whose page holds somebody else's bytes by then."""
    tiers = make_tiers(delay_s=0.0, ahead_share=0.0)
    tiers.compute([0, 1], KEYS[:2])
    tiers.sink.gate.clear()
    tiers.step()
    tiers.give_up([1])
    tiers.sink.gate.set()
    assert tiers.path._writer.drain(30.0)
    figures = tiers.path.figures()
    assert (figures.pages_withdrawn, figures.pages_staged) == (2, 1)
    assert tiers.num_found(KEYS[:2]) == 0
    # The other page of the withdrawn write is written again, and completes the path.
    assert tiers.settled_step() == 1
    assert tiers.num_found(KEYS[:2]) == 2


def test_what_came_from_disk_is_never_written_again(make_tiers):
    tiers = make_tiers(delay_s=0.0, ahead_share=1.0)
    tiers.path.loaded(slots([0, 1]), KEYS[:2], [])
    tiers.compute([2], KEYS[:3], start=2)
    assert tiers.settled_step() == 1
    tiers.give_up([2], [0, 1])
    tiers.path.flush()
    assert tiers.sink.names == [bytes.fromhex(KEYS[2])]


def test_a_page_is_written_behind_once_it_has_aged_hit_or_not(make_tiers):
    """Of a growing conversation all pages are hit again; that alone is no reason to write them."""
    tiers = make_tiers(delay_s=30.0, ahead_share=0.0)
    tiers.compute([0, 1, 2], KEYS[:3])
    tiers.path.hit(KEYS[1])
    assert tiers.settled_step(seconds=20.0) == 0
    assert tiers.settled_step(seconds=20.0) == 3
    assert tiers.num_found(KEYS[:3]) == 3


def test_pages_that_never_come_back_are_refused_and_their_prefix_is_kept_with_what_does(make_tiers):
    tiers = make_tiers(delay_s=1e9, ahead_share=0.0, pages_per_hit=8.0)
    host, returning = range(tiers.num_pages), KEYS[:4]
    for number in range(60):
        keys = chain(len(host) - 4, seed=100 + number)
        tiers.compute(host[:4], returning)
        tiers.compute(host[4:], keys)
        # Hit more often, so of another kind than what passes by.
        tiers.path.hit(returning[-1])
        tiers.give_up(host)
        tiers.settled_step()
    assert tiers.path.figures().pages_refused > 0
    assert tiers.num_found(keys) == 0
    assert tiers.num_found(returning) == 4
    written = len(tiers.sink.names)
    # Age alone is no reason either, so a kill loses such pages.
    tiers.compute(host[:2], chain(2, seed=999))
    assert tiers.settled_step(seconds=2e9) == 0
    # The first page is of a kind that is refused, the one behind it is not.
    path = [keys[0], *returning]
    tiers.compute(host[:1], path[:1])
    tiers.compute(host[1:2], path[:2], start=1)
    tiers.path._ledger.kind[1] = kind_of(1, False)
    tiers.give_up(host[:2])
    tiers.settled_step()
    assert len(tiers.sink.names) == written + 2


def test_writing_behind_keeps_to_its_rate(make_tiers):
    tiers = make_tiers(delay_s=0.0, ahead_share=0.0, behind_bytes_per_s=0)
    tiers.compute(range(8), KEYS[:8])
    assert tiers.settled_step(seconds=100.0) == 0
    page_bytes = tiers.buffers.page_bytes
    slow = EvictionPath(
        EvictionTarget(
            store=tiers.sink,
            namespace=NAMESPACE,
            pages=tiers.buffers,
            page_size=PAGE_SIZE,
            num_pages=tiers.num_pages,
            config=WriteConfig(delay_s=0.0, ahead_share=0.0, behind_bytes_per_s=2 * page_bytes),
        ),
        clock=tiers.clock,
    )
    slow.computed(slots(range(8)), KEYS[:8], [])
    for seconds, expected in ((1.0, 2), (0.6, 3), (0.6, 4), (10.0, 8)):
        tiers.clock.now_s += seconds
        slow.step(0)
        assert slow._writer.drain(30.0)
        assert slow._writer.num_stored == expected
    slow.close()


def test_without_room_to_put_it_aside_a_page_is_forgotten_and_counted(make_tiers):
    tiers = make_tiers(staging_bytes=0, pages_per_hit=float("inf"))
    tiers.sink.gate.clear()
    num_rounds = 8
    for i in range(num_rounds):
        keys = chain(8, seed=i)
        tiers.compute(range(8), keys)
        tiers.give_up(range(8))
    figures = tiers.path.figures()
    assert figures.pages_staged == 32
    assert figures.pages_dropped == 8 * num_rounds - 32
    tiers.sink.gate.set()
    assert tiers.path._writer.drain(30.0)
    assert [tiers.num_found(chain(8, seed=i)) for i in range(num_rounds)] == [8] * 4 + [0] * 4
    # The room is there again.
    tiers.compute(range(8), KEYS[:8])
    tiers.give_up(range(8))
    assert tiers.path.figures().pages_staged == 40


def test_a_store_that_fails_costs_pages_and_is_left_in_peace_for_a_while(make_tiers):
    tiers = make_tiers(delay_s=0.0, ahead_share=0.0)
    tiers.sink.error = UnavailableError("the disk is full")
    tiers.compute([0, 1], KEYS[:2])
    assert tiers.settled_step() == 0
    assert tiers.path.figures().pages_failed == 2
    tiers.sink.error = None
    assert tiers.settled_step(seconds=RETRY_S / 2) == 0
    assert tiers.settled_step(seconds=RETRY_S) == 2
    assert tiers.num_found(KEYS[:2]) == 2


def test_what_is_dirty_again_is_as_old_as_it_was(make_tiers):
    tiers = make_tiers(delay_s=10.0, ahead_share=0.0)
    tiers.compute([0, 1], KEYS[:2])
    assert tiers.settled_step(seconds=11.0) == 2
    # A look that finds nothing need not be repeated before something can have aged.
    assert tiers.settled_step(seconds=1.0) == 0
    tiers.store.clear(NAMESPACE)
    tiers.path.disk_emptied()
    assert tiers.settled_step(seconds=1.0) == 2
    assert tiers.num_found(KEYS[:2]) == 2


def test_pages_without_a_right_name_are_not_kept(make_tiers):
    tiers = make_tiers()
    tiers.path.computed(slots([0, 1]), ["zz", KEYS[1]], [])
    tiers.path.computed(slots([2]), KEYS[:2], [])
    tiers.give_up([0, 1], [2])
    tiers.path.flush()
    assert tiers.sink.names == []
    # They are not on disk either; so is all that the host tier held before the path's start.
    figures = tiers.path.figures()
    assert (figures.pages_given_up, figures.pages_given_up_clean) == (3, 0)


@pytest.mark.parametrize("flush_writes", [False, True])
def test_emptying_the_host_tier_writes_it_first_if_asked(make_tiers, flush_writes):
    tiers = make_tiers(flush_writes=flush_writes)
    tiers.compute([0, 1], KEYS[:2])
    tiers.path.empty()
    assert tiers.num_found(KEYS[:2]) == (2 if flush_writes else 0)
    assert tiers.path.figures().pages_forgotten == (0 if flush_writes else 2)
    tiers.give_up([0, 1])
    assert tiers.path.figures().pages_staged == 0


def test_the_end_of_the_process_writes_parents_first_and_keeps_to_its_time(make_tiers):
    tiers = make_tiers(flush_timeout_s=10.0)
    tiers.compute([0, 1], KEYS[:2])
    tiers.clock.now_s += 1
    tiers.compute([2, 3], KEYS[:4], start=2)
    put = tiers.sink.put_batch

    def slow_put(path, pages, **options):
        tiers.clock.now_s += 10.0
        return put(path, pages, **options)

    tiers.sink.put_batch = slow_put
    tiers.closed = True
    tiers.path.close()
    assert tiers.num_found(KEYS[:4]) == 2


@pytest.mark.parametrize("is_queued", [False, True])
def test_a_disk_that_hangs_holds_up_neither_flush_nor_end(make_tiers, is_queued):
    """The scheduler hung in a write of the flush, or waited for the writer's; now it goes on, and
    what the disk takes later is not what lies in the pool by then."""
    tiers = make_tiers(flush_timeout_s=0.01, delay_s=0.0, ahead_share=0.0)
    tiers.compute([0, 1], KEYS[:2])
    tiers.sink.gate.clear()
    if is_queued:
        tiers.step()
    tiers.path.flush()
    tiers.path.close()
    tiers.closed = True
    for page in (0, 1):
        tiers.fill(page, b"somebody else's")
    tiers.sink.gate.set()
    assert tiers.path._writer.drain(30.0)
    assert tiers.sink.names == [bytes.fromhex(key) for key in KEYS[:2]]
    assert tiers.num_found(KEYS[:2]) == 0


def test_a_cleared_disk_gets_the_host_tier_again(make_tiers):
    tiers = make_tiers()
    tiers.compute([0, 1], KEYS[:2])
    tiers.path.flush()
    tiers.store.clear(NAMESPACE)
    tiers.path.disk_emptied()
    tiers.give_up([0, 1])
    assert tiers.path._writer.drain(30.0)
    assert tiers.num_found(KEYS[:2]) == 2


def test_what_leaves_the_device_and_is_nowhere_else_is_on_disk(make_tiers):
    tiers = make_tiers()
    tiers.compute([0, 1], KEYS[:2])
    tiers.give_up([0, 1])
    tiers.leave_device([5, 2], KEYS[:4], start=2)
    assert tiers.path._writer.drain(30.0)
    assert tiers.num_found(KEYS[:5]) == 4
    figures = tiers.path.figures()
    assert (figures.device_pages, figures.device_pages_dropped) == (2, 0)


def test_without_room_a_device_page_is_forgotten_and_counted(make_tiers):
    tiers = make_tiers()
    tiers.sink.gate.clear()
    leaving = [chain(2, seed=i) for i in range(MIN_PAGES // 2 + 3)]
    for keys in leaving:
        tiers.leave_device([0, 1], keys)
    assert tiers.path.figures().device_pages == 2 * len(leaving)
    assert tiers.path.figures().device_pages_dropped == 2 * 3
    tiers.sink.gate.set()
    assert tiers.path._writer.drain(30.0)
    assert [tiers.num_found(keys) for keys in leaving] == [2] * (MIN_PAGES // 2) + [0] * 3
    tiers.leave_device([0, 1], leaving[-1])
    assert tiers.path._writer.drain(30.0)
    assert tiers.num_found(leaving[-1]) == 2


def test_a_copy_from_the_device_that_fails_costs_the_pages_and_not_the_scheduler(
    make_tiers, monkeypatch, caplog
):
    """A GPU that is nearly full, or a kernel that does not compile, ended the server."""
    tiers = make_tiers()

    def fail(*_):
        raise torch.OutOfMemoryError("no memory on the device")

    monkeypatch.setattr("sglang_lsm_patch.device_pages.gather_pages_reference", fail)
    for _ in range(3):
        tiers.leave_device([5, 2], KEYS[:2])
    figures = tiers.path.figures()
    assert (figures.device_pages, figures.device_pages_dropped) == (2, 2)
    assert sum("no memory on the device" in record.message for record in caplog.records) == 1
    # The host tier's pages are written as before.
    tiers.compute([0, 1], KEYS[:2])
    tiers.give_up([0, 1])
    assert tiers.path._writer.drain(30.0)
    assert tiers.num_found(KEYS[:2]) == 2


def test_without_memory_to_put_pages_aside_the_others_are_written(make_tiers):
    tiers = make_tiers(staging_bytes=1 << 60, delay_s=0.0, ahead_share=0.0)
    tiers.compute([0, 1], KEYS[:2])
    assert tiers.settled_step() == 2
    tiers.compute([2, 3], KEYS[:4], start=2)
    tiers.give_up([2, 3])
    assert tiers.path.figures().pages_dropped == 2
    assert tiers.num_found(KEYS[:4]) == 2


def test_device_pages_without_a_right_name_are_not_kept(make_tiers):
    tiers = make_tiers()
    tiers.path.leaving_device(slots([0, 1]), ["zz", KEYS[1]], [])
    tiers.path.leaving_device(slots([2]), KEYS[:2], [])
    assert tiers.path._writer.drain(30.0)
    assert tiers.sink.names == [] and tiers.path.figures().device_pages == 0
