import subprocess
import sys
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


def test_jobs_run_here_when_the_pool_takes_no_more(workers):
    """As the interpreter ends, pools are shut before what is registered for its end is run."""
    workers._pool.shutdown()
    ran, here = [], threading.get_ident()
    workers.run_all([lambda: ran.append(threading.get_ident())] * 3)
    assert ran == [here] * 3

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        raise_first([workers.submit(fail)])


def test_a_job_runs_once_when_no_thread_could_be_started_for_it(workers, monkeypatch):
    """It lies in the queue all the same, and another thread may come to it."""
    held, ran = threading.Event(), []
    first = workers.submit(held.wait)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        second = workers.submit(ran.append, 2)
    assert ran == [2] and second.done()
    held.set()
    raise_first([first, second, workers.submit(ran.append, 3)])
    assert ran == [2, 3]


def no_thread(_thread):
    raise RuntimeError("can't start new thread")


AT_EXIT = """
import atexit, pathlib, sys
sys.path[:0] = sys.argv[2:]
from sglang_lsm.config import LogConfig
from sglang_lsm.fs import LocalFileSystem
from sglang_lsm.tensorlog.log import TensorLog
import mmap

def write():
    memory = memoryview(mmap.mmap(-1, 1 << 20))
    pages = [[memory[i << 18 : (i + 1) << 18]] for i in range(4)]
    keys = [b"%16d" % i for i in range(4)]
    places = log.append(keys, [bytes(8)] * 4, pages, still_valid=lambda: True)
    assert all(log.read(keys, places, pages).intact)
    log.close()
    print("written")

config = LogConfig(segment_bytes=4 << 20, io_bytes=1 << 18)
log = TensorLog(
    LocalFileSystem(), pathlib.Path(sys.argv[1]), config,
    admit=lambda segment_id, num_bytes: None, clock_ms=lambda: 1,
)
atexit.register(write)
"""


def test_what_waits_can_be_written_while_the_interpreter_ends(tmp_path):
    """A flush that an exit handler began failed: "cannot schedule new futures"."""
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(tmp_path / "log"), *sys.path],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "written\n", done.stderr
