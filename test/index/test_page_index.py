"""One contract, two indexes: the real one on RocksDB, and the fake that the model tests rely on.

What holds for both is tested here; what only a disk can do to one of them, in `test_rocks`.
"""

import itertools
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.config import IndexConfig
from sglang_lsm.index.rocks import RocksIndex
from sglang_lsm.keycodec import range_end
from support.fake_index import FakeIndexDisk

# Few different bytes and lengths, so that keys are prefixes of each other and ranges hit.
keys = st.binary(min_size=0, max_size=3).map(lambda key: bytes(b % 4 * 85 for b in key) + b"\x7f")
values = st.binary(min_size=1, max_size=40)
writes = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(keys, values), max_size=6)),
    st.tuples(st.just("delete"), st.lists(keys, max_size=4)),
    st.tuples(st.just("reopen"), st.none()),
)
_numbers = itertools.count()


class Opener:
    """Opens one index again and again, as a store does over its life."""

    def __init__(self, kind, path):
        self._kind, self._path = kind, path
        self._fake_disk = FakeIndexDisk()
        self.index = self._open()

    def reopen(self):
        self.index.close()
        self.index = self._open()

    def _open(self):
        if self._kind == "fake":
            return self._fake_disk.open(self._path)
        return RocksIndex(self._path, IndexConfig(memtable_bytes=64 << 10))


@pytest.fixture(params=["fake", "rocks"])
def opener(request, tmp_path):
    opener = Opener(request.param, tmp_path / "index")
    yield opener
    opener.index.close()


def _prefix():
    """A range of its own for each example: opening a database for each would take too long."""
    return b"example" + next(_numbers).to_bytes(8, "big")


def _apply(index, table, prefix, action, argument):
    if action == "put":
        index.put([(prefix + key, value) for key, value in argument])
        table.update(argument)
    else:
        index.delete([prefix + key for key in argument])
        for key in argument:
            table.pop(key, None)


@given(st.lists(writes, max_size=12), st.lists(keys, max_size=8), st.tuples(keys, keys))
def test_an_index_is_an_ordered_map(opener, actions, asked, bounds):
    prefix, table = _prefix(), {}
    for action, argument in actions:
        if action == "reopen":
            opener.reopen()
        else:
            _apply(opener.index, table, prefix, action, argument)
    index = opener.index
    assert index.get([prefix + key for key in asked]) == [table.get(key) for key in asked]
    stored = list(itertools.takewhile(lambda key: key in table, asked))
    assert index.walk(prefix + key for key in asked) == [table[key] for key in stored]
    start, end = sorted(bounds)
    inside = sorted((k, v) for k, v in table.items() if start <= k < end)
    found = list(index.scan(prefix + start, prefix + end))
    assert [(key[len(prefix) :], value) for key, value in found] == inside
    everything = list(index.scan(prefix, range_end(prefix)))
    assert len(everything) == len(table)


def test_walk_takes_no_key_beyond_the_first_that_is_missing(opener):
    opener.index.put([(b"a", b"1"), (b"ab", b"2")])
    rest = iter([b"a", b"ab", b"abc", b"abcd", b"abcde"])
    assert opener.index.walk(rest) == [b"1", b"2"]
    assert next(rest) == b"abcd"


def test_walk_steps_over_the_subtree_of_a_sibling(opener):
    opener.index.put([(key, key) for key in (b"a", b"aa", b"aaa", b"aab", b"ab", b"abc", b"b")])
    assert opener.index.walk([b"a", b"ab", b"abc"]) == [b"a", b"ab", b"abc"]


def test_walk_to_the_last_key_of_the_index(opener):
    opener.index.put([(b"z", b"1"), (b"zz", b"2")])
    assert opener.index.walk([b"z", b"zz", b"zzz"]) == [b"1", b"2"]
    assert opener.index.walk([b"zz"]) == [b"2"]
    assert opener.index.walk([b"zzzz"]) == []


def test_nothing_asked_is_nothing_found(opener):
    assert opener.index.walk([]) == []
    assert opener.index.get([]) == []
    opener.index.put([])
    opener.index.delete([])
    assert list(opener.index.scan(b"", None)) == []


def test_a_scan_shows_one_moment(opener):
    opener.index.put([(bytes([i]), b"before") for i in range(100)])
    found = opener.index.scan(b"", None)
    first = next(found)
    opener.index.delete([bytes([i]) for i in range(50, 100)])
    opener.index.put([(bytes([i]), b"after") for i in range(50)])
    assert [first, *found] == [(bytes([i]), b"before") for i in range(100)]


def test_facts_are_kept_apart_from_pages(opener):
    opener.index.put_meta(b"fact/one", b"1")
    opener.index.put_meta(b"fact/two", b"2")
    opener.index.put_meta(b"other", b"3")
    opener.index.put([(b"fact/page", b"a page")])
    opener.index.delete([b"fact/page"])
    opener.reopen()
    assert opener.index.get_meta(b"fact/one") == b"1"
    assert opener.index.get_meta(b"fact/page") is None
    assert list(opener.index.scan_meta(b"fact/")) == [(b"fact/one", b"1"), (b"fact/two", b"2")]
    assert list(opener.index.scan(b"", None)) == []


def test_synced_writes_are_there_after_reopening(opener):
    opener.index.put([(b"a", b"1")])
    opener.index.sync()
    opener.reopen()
    assert opener.index.walk([b"a"]) == [b"1"]


def test_the_first_page_of_a_walk_deleted_meanwhile(opener):
    """A walk once looked its first key up, then stepped from where its cursor stood.

    Where that key had been deleted in between and was the last one, the step went past the end of
    the index and ended the process. Now the walk comes back short.
    """
    path = [b"key", b"key and more"]
    stop = threading.Event()

    def delete_and_put():
        while not stop.is_set():
            opener.index.put([(key, b"value") for key in path])
            opener.index.delete(path)

    writer = threading.Thread(target=delete_and_put)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    writer.start()
    try:
        lengths = {len(opener.index.walk(path)) for _ in range(20_000)}
    finally:
        sys.setswitchinterval(interval_s)
        stop.set()
        writer.join()
    assert lengths <= {0, 1, 2}


def test_many_threads_on_one_index(opener):
    """Batches are seen whole or not at all, whatever the others do."""
    failures = []

    def write_and_read(owner):
        mine = [bytes([owner, i]) for i in range(20)]
        for round_id in range(50):
            opener.index.put([(key, bytes([round_id])) for key in mine])
            if opener.index.get(mine) != [bytes([round_id])] * len(mine):
                failures.append((owner, round_id))
            if len(list(opener.index.scan(bytes([owner]), bytes([owner + 1])))) != len(mine):
                failures.append((owner, round_id))

    threads = [threading.Thread(target=write_and_read, args=[owner]) for owner in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
