import threading
import time

import pytest
from sglang_lsm.observability.spending import Spending
from sglang_lsm.tensorlog.workers import Workers, raise_first


@pytest.fixture
def workers():
    made = Workers(2, Spending())
    yield made
    made.close()


def test_all_jobs_run_the_last_one_here(workers):
    ran = []
    workers.run_all([lambda i=i: ran.append((i, threading.get_ident())) for i in range(9)])
    assert sorted(i for i, _ in ran) == list(range(9))
    assert dict(ran)[8] == threading.get_ident()
    workers.run_all([])


def test_a_failure_is_raised_when_all_have_ended(workers):
    ran = threading.Event()

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        raise_first([workers.submit(fail), workers.submit(ran.set)])
    assert ran.is_set()


def test_no_job_is_under_way_when_the_last_one_has_failed(workers):
    """The others went on writing into memory that was the caller's again."""
    failed, ended = threading.Event(), []

    def slow():
        assert failed.wait(10)
        time.sleep(0.05)
        ended.append(1)

    def fail():
        failed.set()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        workers.run_all([slow, slow, fail])
    assert len(ended) == 2


def test_no_job_is_under_way_when_another_could_not_be_submitted(workers, monkeypatch):
    submit, refused, ended = workers.submit, threading.Event(), []

    def slow():
        assert refused.wait(10)
        time.sleep(0.05)
        ended.append(1)

    def submit_once(job):
        if job is not slow:
            refused.set()
            raise MemoryError
        return submit(job)

    monkeypatch.setattr(workers, "submit", submit_once)
    with pytest.raises(MemoryError):
        workers.run_all([slow, lambda: None, lambda: None])
    assert ended == [1]


def test_what_was_submitted_is_run_by_the_pool_that_went(workers):
    held, ran = threading.Event(), []
    futures = [workers.submit(held.wait) for _ in range(2)]
    futures += [workers.submit(ran.append, i) for i in range(4)]
    workers.resize(1)
    workers.run_all([lambda: ran.append(9), held.set])
    raise_first(futures)
    assert sorted(ran) == [0, 1, 2, 3, 9]
