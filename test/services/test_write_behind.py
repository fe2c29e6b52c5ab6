"""The writer behind its callers: bounded, in order, each job ended once, and never dead."""

import dataclasses
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.config import MIB, LogConfig, StoreConfig
from sglang_lsm.errors import ClosedError, UnavailableError
from sglang_lsm.pages import NamespaceId
from sglang_lsm.services.write_behind import Outcome, WriteBehind, WriteJob
from sglang_lsm.store import Store
from support.page_maker import empty_pages, joined, pages_of, path_of

PIECES = (600, 424)
NAMESPACE = NamespaceId(b"behind..")
WAIT_S = 30.0
"""For what comes at once unless the code is wrong."""


class GatedSink:
    """Takes pages once the gate is open; fails, or withdraws, as the job's first page says."""

    def __init__(self):
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.calls = []

    def put_batch(self, path, pages, *, still_valid=None):
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        self.calls.append(path)
        if bytes(pages[0][0][:4]) == b"fail":
            raise UnavailableError("the disk is full")
        return still_valid is None or still_valid()


@pytest.fixture
def sink():
    sink = GatedSink()
    yield sink
    sink.gate.set()


def job(tokens, ended, *, start=0, still_valid=None, content=None):
    path = path_of(NAMESPACE, tokens, start)
    pages = pages_of(path, PIECES)
    if content is not None:
        pages[0] = [memoryview(bytearray(content))]
    return WriteJob(
        path=path,
        pages=lambda: pages,
        done=lambda outcome: ended.append((path, outcome)),
        still_valid=still_valid,
    )


@given(sizes=st.lists(st.integers(1, 6), max_size=12), bound=st.integers(1, 8))
def test_each_job_is_refused_or_ended_once_and_the_bound_holds(sizes, bound):
    sink, ended, taken = GatedSink(), [], []
    writer = WriteBehind(sink, max_pages=bound)
    for i, size in enumerate(sizes):
        before = writer.num_pending
        one = job([(i, page) for page in range(size)], ended)
        if writer.submit(one):
            taken.append(one.path)
            assert before == 0 or before + size <= bound
        else:
            assert before + size > bound
    sink.gate.set()
    writer.close(WAIT_S)
    assert sink.calls == taken
    assert ended == [(path, Outcome.STORED) for path in taken]
    assert writer.num_pending == 0
    assert writer.num_stored == sum(len(path.hashes) for path in taken)


def test_what_was_written_behind_can_be_read(tmp_path):
    config = StoreConfig(quota_bytes=8 * MIB, log=LogConfig(segment_bytes=MIB))
    store = Store.open(tmp_path / "store", config)
    writer, ended = WriteBehind(store, max_pages=100), []
    # A child may come before its parents: nothing is found until they are there too.
    assert writer.submit(job("abcd", ended, start=2))
    assert writer.drain(WAIT_S)
    assert store.probe(path_of(NAMESPACE, "abcd")) == 0
    assert writer.submit(job("ab", ended))
    assert writer.drain(WAIT_S)
    path = path_of(NAMESPACE, "abcd")
    out = empty_pages(4, PIECES)
    assert store.get_batch(path, out) == 4
    assert [joined(page) for page in out] == [joined(page) for page in pages_of(path, PIECES)]
    writer.close(WAIT_S)
    store.close()


def test_pages_given_up_while_they_are_written_are_never_found(tmp_path):
    config = StoreConfig(quota_bytes=8 * MIB, log=LogConfig(segment_bytes=MIB))
    store = Store.open(tmp_path / "store", config)
    writer, ended = WriteBehind(store, max_pages=100), []
    assert writer.submit(job("ab", ended, still_valid=lambda: False))
    writer.close(WAIT_S)
    assert [outcome for _, outcome in ended] == [Outcome.WITHDRAWN]
    assert store.probe(path_of(NAMESPACE, "ab")) == 0
    store.close()


def test_a_failing_store_costs_the_job_and_not_the_thread(sink, caplog):
    writer, ended = WriteBehind(sink, max_pages=100), []
    sink.gate.set()
    for content in (b"fail", b"fail", b"good", b"fail"):
        assert writer.submit(job([content, len(ended)], ended, content=content))
        assert writer.drain(WAIT_S)
    outcomes = [outcome for _, outcome in ended]
    assert outcomes == [Outcome.FAILED, Outcome.FAILED, Outcome.STORED, Outcome.FAILED]
    assert writer.pages_by_outcome() == {Outcome.FAILED: 6, Outcome.STORED: 2}
    # Logged when it starts, not once a job.
    assert sum("cannot be written" in record.message for record in caplog.records) == 2
    writer.close(WAIT_S)


def broken(one, call):
    """Return a job that fails in one of its own calls, in a way that no store does."""

    def pages():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def done(outcome):
        one.done(outcome)
        raise MemoryError

    return dataclasses.replace(one, **{call: {"pages": pages, "done": done}[call]})


@pytest.mark.parametrize("call", ["pages", "done"])
def test_a_job_that_fails_by_itself_ends_once_and_the_next_one_is_written(sink, caplog, call):
    """The thread ended unseen: no page was stored any more, and staged memory never came back."""
    writer, ended = WriteBehind(sink, max_pages=100), []
    sink.gate.set()
    bad, good = job("ab", ended), job("cd", ended)
    assert writer.submit(broken(bad, call))
    assert writer.submit(good)
    assert writer.drain(WAIT_S)
    first = Outcome.FAILED if call == "pages" else Outcome.STORED
    assert ended == [(bad.path, first), (good.path, Outcome.STORED)]
    (record,) = (record for record in caplog.records if record.exc_info)
    assert record.levelname in ("WARNING", "ERROR")
    assert writer.submit(job("e", ended))
    writer.close(WAIT_S)
    assert len(ended) == 3


def test_a_closed_store_is_a_failed_job(tmp_path):
    config = StoreConfig(quota_bytes=8 * MIB, log=LogConfig(segment_bytes=MIB))
    store = Store.open(tmp_path / "store", config)
    store.close()
    with pytest.raises(ClosedError):
        store.probe(path_of(NAMESPACE, "a"))
    writer, ended = WriteBehind(store, max_pages=10), []
    assert writer.write(job("a", ended)) is Outcome.FAILED
    assert [outcome for _, outcome in ended] == [Outcome.FAILED]
    writer.close(WAIT_S)


def test_closing_drops_what_does_not_fit_the_time(sink):
    """A disk that hangs must not hold up the end of the process for longer than was agreed."""
    writer, ended = WriteBehind(sink, max_pages=100), []
    assert writer.submit(job("a", ended))
    assert writer.submit(job("bc", ended))
    assert sink.entered.wait(WAIT_S)
    assert not writer.drain(0.0)
    writer.close(0.0)
    assert [outcome for _, outcome in ended] == [Outcome.DROPPED]
    assert not writer.submit(job("d", ended))
    sink.gate.set()
    # The write under way is finished, with nobody waiting.
    assert writer.drain(WAIT_S)
    assert [outcome for _, outcome in ended] == [Outcome.DROPPED, Outcome.STORED]
    assert writer.num_pending == 0
    writer.close(0.0)


def test_a_job_larger_than_the_bound_is_taken_alone(sink):
    writer, ended = WriteBehind(sink, max_pages=2), []
    assert writer.submit(job("abcde", ended))
    assert not writer.submit(job("f", ended))
    sink.gate.set()
    assert writer.drain(WAIT_S)
    assert writer.submit(job("f", ended))
    writer.close(WAIT_S)
    assert [len(path.hashes) for path, _ in ended] == [5, 1]


def test_pages_are_read_once_they_are_there(sink):
    """A copy may be under way; the one who queued it does not wait, the writer does."""
    ended, copied = [], threading.Event()
    waiting = threading.Event()

    one = job([1], ended)

    def pages():
        waiting.set()
        assert copied.wait(WAIT_S)
        return one.pages()

    sink.gate.set()
    writer = WriteBehind(sink, max_pages=8)
    assert writer.submit(dataclasses.replace(one, pages=pages))
    assert waiting.wait(WAIT_S)
    assert sink.calls == [] and ended == []
    copied.set()
    assert writer.drain(WAIT_S)
    assert [outcome for _, outcome in ended] == [Outcome.STORED]
    writer.close(WAIT_S)
