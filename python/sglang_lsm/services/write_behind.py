"""Writes pages behind the back of whoever gives them up: a bounded queue and one thread."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from sglang_lsm.errors import surprise
from sglang_lsm.pages import PageBuffer, PagePath

logger = logging.getLogger(__name__)


class Outcome(Enum):
    """What became of a job."""

    STORED = "stored"
    WITHDRAWN = "withdrawn"
    """Its memory was reused meanwhile, as `still_valid` told."""
    FAILED = "failed"
    """The store refused, or its bytes could not be had; the reason was logged."""
    DROPPED = "dropped"
    """The writer was closed before its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteJob:
    """Pages of one radix path, and what to do when they are written or not."""

    path: PagePath
    pages: Callable[[], Sequence[PageBuffer]]
    """Called on the thread that writes, so that looking for 64 pages costs nobody else; returns
    when their bytes are there. They are borrowed until `done` is called."""
    done: Callable[[Outcome], None]
    """Called once, on the thread that wrote or dropped the job; must not raise."""
    still_valid: Callable[[], bool] | None = None
    """See `Store.put_batch`."""


class PageSink(Protocol):
    """The part of a store that is needed here."""

    def put_batch(
        self,
        path: PagePath,
        pages: Sequence[PageBuffer],
        *,
        still_valid: Callable[[], bool] | None = None,
    ) -> bool:
        """See `Store.put_batch`."""


class WriteBehind:
    """A queue of write jobs and the thread that works it off, oldest first. Thread-safe.

    Bounded in pages, so in memory and in the time that closing takes. Whatever fails costs the job,
    never the thread.
    """

    def __init__(self, sink: PageSink, *, max_pages: int) -> None:
        """Start the thread. `max_pages` bounds the pages that wait or are being written."""
        self._sink, self._max_pages = sink, max_pages
        self._changed = threading.Condition()
        self._queue: deque[WriteJob] = deque()
        self._num_pending = 0
        self._is_closing = False
        self._is_failing = False
        self._pages_by_outcome: Counter[Outcome] = Counter()
        self._num_stored = 0
        self._thread = threading.Thread(target=self._run, name="kv-storage-write", daemon=True)
        self._thread.start()

    @property
    def num_pending(self) -> int:
        """Pages that wait or are being written."""
        return self._num_pending

    @property
    def num_stored(self) -> int:
        """Pages stored since the start, those that were on disk already included."""
        return self._num_stored

    def submit(self, job: WriteJob) -> bool:
        """Queue a job; return False, and never call `done`, when there is no room or it is closed.

        A job larger than the bound is taken when nothing else waits. Never blocks on the disk.
        """
        num_pages = job.path.num_pages
        with self._changed:
            is_full = self._num_pending + num_pages > self._max_pages and self._num_pending > 0
            if self._is_closing or is_full:
                return False
            self._queue.append(job)
            self._num_pending += num_pages
            self._changed.notify_all()
        return True

    def write(self, job: WriteJob) -> Outcome:
        """Write a job at once, on this thread; `done` is called before it returns. Never raises."""
        try:
            is_stored = self._sink.put_batch(job.path, job.pages(), still_valid=job.still_valid)
            outcome = Outcome.STORED if is_stored else Outcome.WITHDRAWN
            self._note_health(None)
        except Exception as error:  # noqa: BLE001 - a job's pages may be a dead GPU's; others wait
            outcome = Outcome.FAILED
            self._note_health(error)
        self._finish(job, outcome)
        return outcome

    def _note_health(self, error: Exception | None) -> None:
        """Log when writing starts to fail and when it works again, not each page in between."""
        was_failing, self._is_failing = self._is_failing, error is not None
        if error is not None and not was_failing:
            logger.warning(
                "pages cannot be written and are lost. reason=%s", error, exc_info=surprise(error)
            )
        elif error is None and was_failing:
            logger.info("pages can be written again.")

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is pending; return False when that took longer than `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._num_pending == 0, timeout_s)

    def pages_by_outcome(self) -> dict[Outcome, int]:
        """Return how many pages had which outcome since the start."""
        with self._changed:
            return dict(self._pages_by_outcome)

    def close(self, timeout_s: float) -> None:
        """Take no more jobs, work off the queue for at most `timeout_s`, drop the rest. Idempotent.

        A write that is under way then goes on alone: the disk may hang, its caller does not.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            is_done = self._changed.wait_for(lambda: self._num_pending == 0, timeout_s)
            dropped, self._queue = list(self._queue), deque()
        for job in dropped:
            self._drop(job)
        if is_done and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                self.write(job)
                self._forget(job)
        finally:
            # Whatever ended the thread, nobody may queue for it any more.
            with self._changed:
                self._is_closing = True

    def _next(self) -> WriteJob | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._queue) or self._is_closing)
            return self._queue.popleft() if self._queue else None

    def _drop(self, job: WriteJob) -> None:
        self._finish(job, Outcome.DROPPED)
        self._forget(job)

    def _finish(self, job: WriteJob, outcome: Outcome) -> None:
        with self._changed:
            self._pages_by_outcome[outcome] += job.path.num_pages
            self._num_stored = self._pages_by_outcome[Outcome.STORED]
        try:
            job.done(outcome)
        except Exception:
            # Against its contract; its memory may be lost, the other jobs' must not be.
            logger.exception("a job could not be told its end. outcome=%s", outcome.value)

    def _forget(self, job: WriteJob) -> None:
        with self._changed:
            self._num_pending -= job.path.num_pages
            self._changed.notify_all()
