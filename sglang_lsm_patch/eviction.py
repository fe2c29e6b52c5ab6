"""The way of a page from the host tier to disk, under the write policy `evict`.

A page is written when its place is given up, or shortly before: the coldest are written ahead
straight from the pool, so that giving them up costs nothing, and what has aged is written while the
disk is idle. A page whose place is needed sooner is copied aside; where there is no room for that
it is forgotten, and counted.

Writing straight from the pool takes no lock: the store asks, after it has taken the bytes and
before they can be found, whether a page was given up meanwhile (`HostLedger.is_current`).
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sglang_lsm.errors import StoreError
from sglang_lsm.pages import NamespaceId, PageBuffer, PageHash, PagePath
from sglang_lsm.services.write_behind import Outcome, PageSink, WriteBehind, WriteJob

from sglang_lsm_patch import write_policy
from sglang_lsm_patch.admission import Admission
from sglang_lsm_patch.ahead_queue import AheadQueue
from sglang_lsm_patch.arguments import page_hashes
from sglang_lsm_patch.device_pages import CopiedPages, DevicePages
from sglang_lsm_patch.eviction_figures import EvictionFigures, Meter
from sglang_lsm_patch.host_ledger import FREE, WRITING, Generations, HostLedger, Pages, PathPart
from sglang_lsm_patch.host_pages import HostPages
from sglang_lsm_patch.options import WriteConfig
from sglang_lsm_patch.staging import StagingRing
from sglang_lsm_patch.write_policy import Run

logger = logging.getLogger(__name__)

MIN_STAGED_PAGES = 32
JOB_BYTES = 16 << 20
"""Most bytes of one job. Larger: fewer calls; one page given up withdraws more of them."""
IN_FLIGHT_BYTES = 64 << 20
"""Bytes on their way to disk straight from the pool."""
RETRY_S = 5.0
"""Pause after the store refused a write, so that a full disk costs no effort."""
CHOOSE_INTERVAL_S = 0.02
"""Pages are chosen no more often than that."""
BEHIND_INTERVAL_S = 0.25
"""And those that nothing needs the place of no more often than that: it looks at the whole pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionTarget:
    """Where pages go, and the pool they come from."""

    store: PageSink
    namespace: NamespaceId
    pages: HostPages
    page_size: int
    num_pages: int
    """Of the host pool."""
    config: WriteConfig
    device: DevicePages | None = None
    """For pages that leave the device and are nowhere else; None where they cannot be copied."""


class EvictionPath:
    """Follows the pages of one host pool and sees to it that they reach the disk.

    Owned by the scheduler thread: its calls tell what the tree did. Never raises, never waits for
    the disk but in `flush` and `close`.
    """

    def __init__(
        self, target: EvictionTarget, *, clock: Callable[[], float], meter: Meter | None = None
    ) -> None:
        """Start the writer. `clock` counts seconds, monotonic; time spent here goes to `meter`."""
        self._target, self._config, self._clock = target, target.config, clock
        page_bytes = target.pages.page_bytes
        num_staged = max(MIN_STAGED_PAGES, target.config.staging_bytes // page_bytes)
        self._max_run = max(1, JOB_BYTES // page_bytes)
        self._max_in_flight = max(1, IN_FLIGHT_BYTES // page_bytes)
        self._ledger = HostLedger(target.num_pages)
        num_ready = int(target.config.ahead_share * target.num_pages)
        self._admission = Admission(
            num_pages=target.num_pages, pages_per_hit=target.config.pages_per_hit
        )
        self._ahead = AheadQueue(self._ledger, least_ready=num_ready, worthwhile=self._worthwhile)
        self._ring = _staging_ring(page_bytes, num_staged)
        self._device = target.device
        num_staged += self._device.num_pages if self._device is not None else 0
        self._writer = WriteBehind(target.store, max_pages=self._max_in_flight + num_staged)
        self._ended: deque[tuple[Pages, Generations, Outcome]] = deque()
        self._meter, self._figures = meter or Meter(), EvictionFigures()
        self._next_choice_s = self._behind_since_s = clock()
        self._behind_pages = 0.0
        self._none_aged_until_s = 0.0
        self._num_told = 0

    # What the tree did.

    def computed(self, slots: torch.Tensor, keys: Sequence[str], prefix: Sequence[str]) -> None:
        """Take in pages that were copied from the device.

        Args:
            slots: `[len(keys) * page_size]` int64 host token slots.
            keys: page hashes, hexadecimal.
            prefix: those of all pages before them.
        """
        with self._meter:
            self._figures.pages_computed += self._add(slots, keys, prefix, is_dirty=True)

    def loaded(self, slots: torch.Tensor, keys: Sequence[str], prefix: Sequence[str]) -> None:
        """Take in pages that were read from disk; they are never written again."""
        with self._meter:
            self._figures.pages_loaded += self._add(slots, keys, prefix, is_dirty=False)

    def hit(self, last_key: str) -> Sequence[PageHash]:
        """Note that a request found the page of this name and all before it; return their names.

        Empty if the page is not here.
        """
        with self._meter:
            path = self._ledger.touch(bytes.fromhex(last_key), self._clock())
            self._ahead.note_changed(len(path))
            return path

    def giving_up(self, values: Iterable[torch.Tensor]) -> None:
        """Note that host slots are about to be freed; the last moment their bytes are there.

        Args:
            values: token slots of whole pages.
        """
        with self._meter:
            self._settle()
            for slots in values:
                pages = self._page_numbers(slots)
                unwritten = self._ledger.unwritten(pages)
                known = pages[self._ledger.state[pages] != FREE]
                self._figures.pages_given_up += len(pages)
                self._ahead.note_given_up(len(pages))
                self._figures.pages_given_up_clean += len(known) - len(unwritten)
                worthwhile = self._worthwhile(unwritten)
                self._figures.pages_refused += len(unwritten) - len(worthwhile)
                self._put_aside(worthwhile)
                kinds = self._ledger.kind[known].tolist()
                self._admission.left(self._ledger.names_of(known), kinds)
                self._ledger.free(pages)

    def leaving_device(
        self, slots: torch.Tensor, keys: Sequence[str], prefix: Sequence[str]
    ) -> None:
        """Note that device slots without a host copy are about to be freed; copy and queue them.

        Args:
            slots: `[len(keys) * page_size]` int64 device token slots.
            keys: page hashes, hexadecimal.
            prefix: those of all pages before them.
        """
        if self._device is None:
            return
        with self._meter:
            part, size = self._named(keys, prefix), self._target.page_size
            if part is None or len(slots) != len(keys) * size:
                return
            self._figures.device_pages += len(keys)
            start = 0
            try:
                while start < len(keys):
                    copied = self._device.take(slots[start * size :])
                    if copied is None:
                        break
                    end = start + len(copied.pages)
                    hashes = part.path_to(part.depth + end)
                    path = PagePath(self._target.namespace, hashes, part.depth + start)
                    start = end
                    self._queue_copied(path, copied)
            except Exception as error:
                # Of torch, of a compiler, of the GPU: none of it is a reason to end the scheduler.
                logger.exception("device pages are not copied any more. reason=%s", error)
                self._device = None
            self._figures.device_pages_dropped += len(keys) - start

    def step(self, num_free_slots: int) -> int:
        """Write what is due; called once a scheduler step.

        Args:
            num_free_slots: free token slots of the host pool.

        Returns:
            Pages stored since the last call.
        """
        with self._meter:
            self._settle()
            now_s, room = self._clock(), self._max_in_flight - self._writer.num_pending
            if room > 0 and now_s >= self._next_choice_s:
                self._next_choice_s = now_s + CHOOSE_INTERVAL_S
                self._write_due(num_free_slots // self._target.page_size, room, now_s)
            num_stored = self._writer.num_stored
        num_new, self._num_told = num_stored - self._num_told, num_stored
        return num_new

    # The end of the tier's content, or of the process.

    def empty(self) -> None:
        """Note that the host pool is about to be emptied; flush first if the operator asked."""
        self._settle()
        if self._config.flush_writes:
            self.flush()
        self._figures.pages_forgotten += len(self._unwritten())
        self._ledger.free_all()

    def disk_emptied(self) -> None:
        """Note that the store was cleared."""
        self._settle()
        self._ledger.distrust_disk()
        self._ahead.note_changed(self._ledger.num_pages)
        self._none_aged_until_s = 0.0

    def flush(self) -> None:
        """Write every page that is not on disk, parents first, within the configured time."""
        self._flush_until(self._clock() + self._config.flush_timeout_s)

    def _flush_until(self, deadline_s: float) -> None:
        is_done = self._drain_until(deadline_s)
        self._settle()
        pages = write_policy.parents_first(self._ledger, self._unwritten())
        # One at a time, and never on this thread: a call of the disk may take for ever.
        for run in write_policy.runs(self._ledger, pages, max_pages=self._max_run):
            if not is_done or self._clock() >= deadline_s:
                break
            job = self._pool_job(run)
            if not self._writer.submit(job):
                job.done(Outcome.DROPPED)
                break
            self._figures.pages_flushed += len(run.pages)
            is_done = self._drain_until(deadline_s)
        self._settle()

    def _drain_until(self, deadline_s: float) -> bool:
        return self._writer.drain(max(0.0, deadline_s - self._clock()))

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is on its way to disk; return False when that took longer."""
        return self._writer.drain(timeout_s)

    def close(self, *, flush: bool = True) -> None:
        """End the writer, after a flush or at once, and log what was done.

        Idempotent; no other call may follow.
        """
        deadline_s = self._clock()
        if flush:
            deadline_s += self._config.flush_timeout_s
            self._flush_until(deadline_s)
        self._writer.close(max(0.0, deadline_s - self._clock()))
        self._settle()
        num_lost = len(self._unwritten())
        # A write that the disk still holds up reads from the pool, whose pages nobody follows now.
        self._ledger.free_all()
        logger.info("kv storage write path closed. %s pages_lost=%d", self.figures(), num_lost)

    def figures(self) -> EvictionFigures:
        """Return what was done since the start."""
        outcomes = self._writer.pages_by_outcome()
        self._figures.pages_stored = outcomes.get(Outcome.STORED, 0)
        self._figures.pages_withdrawn = outcomes.get(Outcome.WITHDRAWN, 0)
        self._figures.pages_failed = outcomes.get(Outcome.FAILED, 0)
        self._figures.scheduler_s = self._meter.total_s
        self._figures.scheduler_cpu_s = self._meter.cpu_s
        self._figures.scheduler_calls = self._meter.num_calls
        return self._figures

    # Choosing and writing.

    def _write_due(self, num_free: int, room: int, now_s: float) -> None:
        ahead = self._ahead.take(num_free=num_free, max_pages=room)
        self._figures.pages_written_ahead += self._write_from_pool(ahead)
        is_idle = not len(ahead) and not self._writer.num_pending
        if is_idle and now_s >= self._behind_since_s + BEHIND_INTERVAL_S:
            self._write_behind(now_s)

    def _write_behind(self, now_s: float) -> None:
        behind_bytes = self._config.behind_bytes_per_s * (now_s - self._behind_since_s)
        self._behind_since_s = now_s
        self._behind_pages = min(
            self._max_run, self._behind_pages + behind_bytes / self._target.pages.page_bytes
        )
        if self._behind_pages < 1 or now_s < self._none_aged_until_s:
            return
        aged = write_policy.aged(self._ledger, now_s=now_s, delay_s=self._config.delay_s)
        if not len(aged):
            oldest_s = write_policy.oldest_dirty_s(self._ledger, now_s=now_s)
            self._none_aged_until_s = oldest_s + self._config.delay_s
            return
        due = write_policy.parents_first(self._ledger, self._worthwhile(aged))
        behind = due[: int(self._behind_pages)]
        self._behind_pages -= len(behind)
        self._figures.pages_written_behind += self._write_from_pool(behind)

    def _worthwhile(self, pages: Pages) -> Pages:
        """Return those of dirty `pages` to write: of a kind that comes back, or before such."""
        ledger = self._ledger
        if len(pages):
            ledger.want(pages[self._admission.admits(ledger.kind[pages])])
            pages = pages[ledger.is_wanted[pages] | (ledger.state[pages] == WRITING)]
        return pages

    def _write_from_pool(self, pages: Pages) -> int:
        num_pages = 0
        if not len(pages):
            return num_pages
        for run in write_policy.runs(self._ledger, pages, max_pages=self._max_run):
            job = self._pool_job(run)
            if not self._writer.submit(job):
                job.done(Outcome.DROPPED)
                break
            num_pages += len(run.pages)
        return num_pages

    def _pool_job(self, run: Run) -> WriteJob:
        generations = self._ledger.begin_write(run.pages)
        return WriteJob(
            path=self._path(run, len(run.pages)),
            pages=partial(self._buffers, run.pages),
            done=lambda outcome: self._ended.append((run.pages, generations, outcome)),
            still_valid=partial(self._ledger.is_current, run.pages, generations),
        )

    def _put_aside(self, pages: Pages) -> None:
        """Copy pages and queue the copies; the first of a path first, as far as there is room."""
        for run in write_policy.runs(self._ledger, pages, max_pages=self._max_run):
            places, copies = [], []
            for page in self._buffers(run.pages):
                taken = self._ring.take(page)
                if taken is None:
                    break
                places.append(taken[0])
                copies.append((taken[1],))
            self._figures.pages_dropped += len(run.pages) - len(copies)
            self._figures.pages_staged += len(copies)
            if copies:
                self._queue_copies(self._path(run, len(copies)), copies, places)

    def _queue_copies(
        self, path: PagePath, copies: Sequence[PageBuffer], places: Sequence[int]
    ) -> None:
        def give_back(_outcome: Outcome) -> None:
            for place in places:
                self._ring.give_back(place)

        if not self._writer.submit(WriteJob(path=path, pages=lambda: copies, done=give_back)):
            give_back(Outcome.DROPPED)
            self._figures.pages_dropped += len(copies)
            self._figures.pages_staged -= len(copies)

    def _queue_copied(self, path: PagePath, copied: CopiedPages) -> None:
        def pages() -> Sequence[PageBuffer]:
            copied.wait()
            return copied.pages

        job = WriteJob(path=path, pages=pages, done=lambda _outcome: copied.give_back())
        if not self._writer.submit(job):
            self._figures.device_pages_dropped += path.num_pages
            # The copy may be under way, and the place must not be filled twice at once.
            copied.wait()
            copied.give_back()

    def _settle(self) -> None:
        """Enter into the ledger which writes have ended."""
        while self._ended:
            pages, generations, outcome = self._ended.popleft()
            self._ledger.end_write(pages, generations, is_stored=outcome is Outcome.STORED)
            if outcome is not Outcome.STORED:
                # They are dirty again, and as old as they were.
                self._ahead.note_changed(len(pages))
                self._none_aged_until_s = 0.0
            if outcome is Outcome.FAILED:
                self._next_choice_s = self._clock() + RETRY_S

    # Between SGLang's names and ours.

    def _add(
        self, slots: torch.Tensor, keys: Sequence[str], prefix: Sequence[str], *, is_dirty: bool
    ) -> int:
        part = self._named(keys, prefix)
        if part is None:
            return 0
        new = self._ledger.add(
            self._page_numbers(slots), part, is_dirty=is_dirty, now_s=self._clock()
        )
        for i in self._admission.entered(self._ledger.names_of(new)):
            self._ledger.returned(int(new[i]))
        self._ahead.note_changed(len(new))
        return len(new)

    def _named(self, keys: Sequence[str], prefix: Sequence[str]) -> PathPart | None:
        try:
            return self._part(keys, prefix)
        except StoreError as error:
            logger.warning("pages cannot be named and are not kept. reason=%s", error)
            return None

    def _part(self, keys: Sequence[str], prefix: Sequence[str]) -> PathPart:
        hashes, depth = page_hashes(keys), len(prefix)
        if depth == 0:
            return PathPart(None, 0, hashes)
        parent = self._ledger.part_ending_at(page_hashes(prefix[-1:])[0], depth)
        if parent is None:
            parent = PathPart(None, 0, page_hashes(prefix))
        return PathPart(parent, depth, hashes)

    def _path(self, run: Run, num_pages: int) -> PagePath:
        hashes = run.part.path_to(run.start + num_pages)
        return PagePath(self._target.namespace, hashes, run.start)

    def _page_numbers(self, slots: torch.Tensor) -> Pages:
        size = self._target.page_size
        return np.array([slot // size for slot in slots[::size].tolist()], np.int64)

    def _buffers(self, pages: Pages) -> list[PageBuffer]:
        return self._target.pages.at(pages.tolist())

    def _unwritten(self) -> Pages:
        return self._ledger.unwritten(np.arange(self._ledger.num_pages))


def _staging_ring(page_bytes: int, num_pages: int) -> StagingRing:
    """Return a ring of that size, or one without places where memory is short."""
    try:
        return StagingRing(page_bytes=page_bytes, num_pages=num_pages)
    except StoreError as error:
        logger.warning("pages that leave memory before they are on disk are lost. reason=%s", error)
        return StagingRing(page_bytes=page_bytes, num_pages=0)
