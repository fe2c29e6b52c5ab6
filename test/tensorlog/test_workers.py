import threading

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


def test_what_was_submitted_is_run_by_the_pool_that_went(workers):
    held, ran = threading.Event(), []
    futures = [workers.submit(held.wait) for _ in range(2)]
    futures += [workers.submit(ran.append, i) for i in range(4)]
    workers.resize(1)
    workers.run_all([lambda: ran.append(9), held.set])
    raise_first(futures)
    assert sorted(ran) == [0, 1, 2, 3, 9]
