"""The threads that move pages: a pool that can be resized while it works."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
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
        """Run a call soon."""
        # Under the lock, so that the pool is not one that `resize` has just closed.
        with self._lock:
            return self._pool.submit(self._spending.job, call, *args, **named)

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
