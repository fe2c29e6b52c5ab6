"""The threads that move pages: a pool that can be resized while it works."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec

from sglang_lsm.observability.spending import Spending

P = ParamSpec("P")


class Workers:
    """Runs jobs on `num_threads` threads. Thread-safe; `close` must come last."""

    def __init__(self, num_threads: int, spending: Spending) -> None:
        self._spending = spending
        self._lock = threading.Lock()
        self._num_threads, self._pool = num_threads, _new_pool(num_threads)

    def resize(self, num_threads: int) -> None:
        """Go on with another number of threads; what was submitted is still run."""
        with self._lock:
            if num_threads != self._num_threads:
                old, self._pool = self._pool, _new_pool(num_threads)
                self._num_threads = num_threads
                old.shutdown(wait=False)

    def submit(self, call: Callable[P, None], *args: P.args, **named: P.kwargs) -> Future[None]:
        """Run a call soon; here and now where no thread takes it, as while the process ends."""
        job = _Job(partial(self._spending.job, call, *args, **named))
        try:
            # Under the lock, so that the pool is not one that `resize` has just closed.
            with self._lock:
                self._pool.submit(job.run)
        except RuntimeError:
            # The interpreter shuts pools before it runs what was registered for its end, such as
            # writing what waits. Or no thread could be started: then a thread that is there may
            # still take the job out of the queue, so it is claimed by whoever comes first.
            job.run()
        return job.ended

    def run_all(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Run jobs, the last one here; none is under way any more on return, also if one raises."""
        with all_ended() as others:
            for job in jobs[:-1]:
                others.append(self.submit(job))
            if jobs:
                jobs[-1]()

    def close(self) -> None:
        """Run what was submitted, and end the threads."""
        self._pool.shutdown(wait=True)


class _Job:
    """A call that is run once, by the first thread that tries."""

    __slots__ = ("_call", "_claim", "ended")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call, self._claim = call, threading.Lock()
        self.ended: Future[None] = Future()

    def run(self) -> None:
        """Run the call unless that has begun; what it raises goes into the future."""
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - it is raised where the future is waited for
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)


@contextmanager
def all_ended() -> Iterator[list[Future[None]]]:
    """Lend a list; what the block puts there has ended when the block is left, however it is left.

    Raises what the block raised, else what one of them did.
    """
    futures: list[Future[None]] = []
    try:
        yield futures
    finally:
        # They move bytes in or out of memory that is the caller's again afterwards.
        wait(futures)
    raise_first(futures)


def raise_first(futures: Sequence[Future[None]]) -> None:
    """Wait for all, since the memory is the caller's again afterwards; then raise what failed."""
    wait(futures)
    for future in futures:
        future.result()


def _new_pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="kv-storage-io")
