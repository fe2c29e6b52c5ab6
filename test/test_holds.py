"""Holds on files and in a store; their laws under faults stand in `test/model`."""

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from sglang_lsm import holds as holds_module
from sglang_lsm.clock import Clock
from sglang_lsm.errors import CorruptionError, FormatVersionError, UnavailableError
from sglang_lsm.holds import HOLDS_NAME, Hold, decode_holds, encode_holds
from sglang_lsm.pages import NamespaceId
from sglang_lsm.store import Store
from support.fake_fs import FakeDisk
from support.fake_index import FakeIndexDisk
from support.page_maker import empty_pages, fingerprint, pages_of, path_of, small_config

DIRECTORY, PIECES = Path("/store"), (65536,)
NAMESPACE = fingerprint().namespace
hold_lists = st.lists(
    st.builds(
        Hold,
        namespace=st.binary(min_size=8, max_size=8).map(NamespaceId),
        digests=st.integers(1, 70).map(lambda n: bytes(range(8)) * n),
        pinned=st.booleans(),
        priority=st.integers(0, 3),
        expires_at_ms=st.none() | st.integers(0, 1 << 48),
    ),
    max_size=4,
)


class Bench:
    """A store on a fake disk, opened again and again, with a clock that is turned by hand."""

    def __init__(self):
        self.disk, self.index_disk, self.now_ms = FakeDisk(), FakeIndexDisk(), 0
        self.disk.make_dir(DIRECTORY)
        self.open()

    def open(self):
        self.store = Store(
            DIRECTORY, replace(small_config(4), eviction="lru"), fs=self.disk,
            open_index=self.index_disk.open,
            clock=Clock(lambda: self.now_ms / 1000, lambda: self.now_ms), loads_behind=False,
        )  # fmt: skip
        self.store.register(fingerprint())

    def put(self, tokens):
        path = path_of(NAMESPACE, tokens)
        self.store.put_batch(path, pages_of(path, PIECES))
        return path

    def pour(self, num_pages):
        """Put pages that are used once, until others have to go."""
        for i in range(num_pages):
            self.put([f"poured {self.store.stats().pages_put} {i}"])


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.store.close()


@given(hold_lists)
def test_holds_come_back_as_they_were(holds):
    assert decode_holds(encode_holds(holds)) == holds


@given(hold_lists, st.data())
def test_a_damaged_file_is_told(holds, data):
    content = bytearray(encode_holds(holds))
    at = data.draw(st.integers(0, len(content) - 2))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptionError):
        decode_holds(bytes(content))


def test_holds_of_a_newer_version_are_refused(monkeypatch):
    monkeypatch.setattr(holds_module, "HOLDS_VERSION", 2)
    content = encode_holds([])
    monkeypatch.undo()
    with pytest.raises(FormatVersionError):
        decode_holds(content)


@pytest.mark.parametrize("wrong", [{"priority": 4}, {"priority": -1}, {"digests": b""}])
def test_what_cannot_be_asked_for(wrong):
    with pytest.raises(ValueError, match=r"must be|one page"):
        Hold(**{"namespace": NAMESPACE, "digests": bytes(8), **wrong})


@pytest.mark.parametrize("ending", ["close", "kill", "lose the index"])
@pytest.mark.parametrize("held_first", [False, True], ids=["held later", "held first"])
def test_a_pinned_prefix_stays_whatever_is_poured_over_it(bench, held_first, ending):
    path = path_of(NAMESPACE, range(8))
    if held_first:
        bench.store.hold(path, pinned=True)
    bench.put(range(8))
    if not held_first:
        bench.store.hold(path, pinned=True)
    if ending == "kill":
        bench.disk.kill()
    else:
        bench.store.close()
    if ending == "lose the index":
        bench.index_disk.wipe()
    bench.open()
    bench.pour(150)
    assert bench.store.stats().pages_evicted > 80
    assert bench.store.get_batch(path, empty_pages(8, PIECES)) == 8
    assert bench.store.stats().pinned_evicted == 0
    bench.store.hold(path)
    assert bench.store.holds() == []
    bench.pour(150)
    assert bench.store.probe(path) == 0


def test_high_priority_leaves_last(bench):
    kept, other = bench.put(["kept", *range(9)]), bench.put(["other", *range(9)])
    bench.store.hold(kept, priority=1)
    bench.pour(150)
    assert (bench.store.probe(kept), bench.store.probe(other)) == (10, 0)


def test_more_than_the_share_is_not_pinned(bench):
    """Half of a quota of 4 MiB: 32 pages of 64 KiB."""
    first = bench.put(["first", *range(19)])
    bench.store.hold(first, pinned=True)
    second = bench.put(["second", *range(12)])
    with pytest.raises(UnavailableError, match="no room to pin"):
        bench.store.hold(second, pinned=True)
    assert [hold.num_pages for hold in bench.store.holds()] == [20]
    unborn = path_of(NAMESPACE, ["third", *range(19)])
    bench.store.hold(unborn, pinned=True)
    bench.put(["third", *range(19)])
    bench.pour(150)
    assert bench.store.probe(first) == 20
    assert bench.store.probe(unborn) == 12, "pinned as far as there is room"
    assert bench.store.stats().pinned_evicted == 0


def test_an_expired_prefix_is_a_miss_at_once_and_reclaimed_at_the_next_upkeep(bench):
    long, other = bench.put(range(12)), bench.put([0, 1, "other"])
    prefix = path_of(NAMESPACE, range(5))
    bench.store.hold(prefix, ttl_s=2.5)
    bench.now_ms = 2499
    assert bench.store.probe(long) == 12
    bench.now_ms = 2500
    assert bench.store.probe(long) == 4
    assert bench.store.get_batch(long, empty_pages(12, PIECES)) == 4
    assert bench.store.probe(path_of(NAMESPACE, range(12), start=8)) == 0
    assert bench.store.probe(other) == 3
    assert bench.store.stats().num_pages == 13
    bench.store._upkeep()
    assert (bench.store.stats().num_pages, bench.store.stats().pages_expired) == (5, 8)
    assert bench.store.holds() == []


def test_what_is_put_after_the_end_of_its_prefix_stays(bench):
    path = bench.put(range(6))
    bench.store.hold(path_of(NAMESPACE, range(3)), ttl_s=1)
    bench.now_ms = 1000
    bench.put(range(6))
    bench.store._upkeep()
    assert bench.store.get_batch(path, empty_pages(6, PIECES)) == 6


def test_holds_that_cannot_be_written_change_nothing(bench):
    path = bench.put(range(3))
    bench.store.hold(path, priority=1)
    bench.disk.failing = {"replace"}
    with pytest.raises(UnavailableError):
        bench.store.hold(path, pinned=True)
    bench.disk.failing = set()
    assert [(hold.pinned, hold.priority) for hold in bench.store.holds()] == [(False, 1)]


def test_a_damaged_file_costs_the_holds_and_nothing_else(bench):
    path = bench.put(range(3))
    bench.store.hold(path, pinned=True)
    bench.store.close()
    bench.disk.replace(DIRECTORY / HOLDS_NAME, b"half a li")
    bench.open()
    assert bench.store.holds() == []
    assert bench.store.probe(path) == 3


def test_what_is_held_is_bounded(bench, monkeypatch):
    monkeypatch.setattr(holds_module, "MAX_HELD_PAGES", 10)
    bench.store.hold(path_of(NAMESPACE, range(6)), priority=1)
    with pytest.raises(UnavailableError, match="too many"):
        bench.store.hold(path_of(NAMESPACE, ["other", *range(4)]), priority=1)
    bench.store.hold(path_of(NAMESPACE, range(6)), priority=2)
