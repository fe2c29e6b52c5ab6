"""How much of a hit is worth loading: never more than what is faster than computing it again.

A load of n pages, queued behind q others, is predicted to take

    load_s(n)    = (q + n) * r          r: seconds a page of reading, measured
    compute_s(n) = w + n * c            c: seconds that one more page of prefill takes, measured
                                        w: until what was declined before it is computed

and is worth it while load_s(n) <= compute_s(n) + o. Both are lines through the pages of the prefix,
and SGLang computes nothing of a request while it loads, so the best n is all or nothing. Computing
has a queue as well: of many hits at once, those behind a declined one are loaded while that is
computed. w is a prediction and runs out by itself: a request that was called off holds up nothing.

o is what the loads before it would wait for its computing, in sum: what is loaded has to be
computed on from there, behind whatever the device is busy with. Without o, the eighth of eight hits
that come at once is computed as soon as that is the shorter wait for itself, and the seven others
wait for it.

What cuts a load in the middle is time: the wait that SGLang grants it, and a disk that turns out
slower than predicted, which each part of a read shows anew. The first part is small, the next ones
double.

Nothing measured yet means that everything is loaded: after a restart the disk is the only tier that
holds anything. Where loading was found not worth it, one hit is loaded now and then all the same,
so that a disk that has recovered is noticed; such attempts take at most 1 % of the time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields

from sglang_lsm.pages import PageHash, PagePath
from sglang_lsm.speed import MarginalRate, Rate

FIRST_PART_BYTES = 4 << 20
LARGEST_PART_BYTES = 64 << 20
"""Parts of a read. Smaller: a slow disk is noticed sooner; the readers run dry more often."""
READ_WINDOW_BYTES = 128 << 20
PREFILL_WINDOW_TOKENS = 65536
PREFILL_ENOUGH_TOKENS = 1024
ATTEMPT_INTERVAL_S = 10.0
ATTEMPT_TIME_RATIO = 100.0
"""An attempt that took 1 s is followed by 100 s without one."""
FORGET_LOAD_S = 5.0
"""A load that was granted and has not begun after so long without any reading was called off."""

MAX_WAITING = 1024
"""Answers that are remembered, in case SGLang asks again for a request that waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What a page costs, in seconds; None where nothing was measured yet."""

    read_s: float | None = None
    compute_s: float | None = None


def pages_worth_loading(
    num_hits: int,
    speeds: Speeds,
    *,
    num_queued: int = 0,
    compute_wait_s: float = 0.0,
    others_wait_s: float = 0.0,
    limit_s: float = float("inf"),
) -> int:
    """Return how many leading pages of a hit to load; the rest is computed. Pure.

    Never more than `num_hits`; not fewer on a faster disk, behind a shorter queue, or with a slower
    or busier prefill; and what is loaded is not predicted to take longer than computing it would
    and make others wait, nor longer than `limit_s`.

    Args:
        num_queued: pages that are read before the first of these.
        compute_wait_s: until computing could begin.
        others_wait_s: what others would wait for the computing of all hits, in sum; of fewer, in
            proportion.
        limit_s: how long SGLang waits for the load.
    """
    read_s, compute_s = speeds.read_s, speeds.compute_s
    if read_s is None or read_s <= 0.0:
        return num_hits
    in_time = limit_s / read_s - num_queued
    num_pages = num_hits if in_time >= num_hits else max(0, int(in_time))
    if compute_s is None or not num_pages:
        return num_pages
    others_s = others_wait_s * num_pages / num_hits
    instead_s = compute_wait_s + num_pages * compute_s + others_s
    return num_pages if (num_queued + num_pages) * read_s <= instead_s else 0


@dataclass(slots=True)
class GateFigures:
    """Totals since the start, in pages. Who asks again counts when the answer is another."""

    pages_found: int = 0
    """Leading pages that were stored when a request asked."""
    pages_declined: int = 0
    """Of those: not worth loading."""
    pages_cut: int = 0
    """Granted, and left out when the read turned out too slow."""
    attempts: int = 0
    """Loads granted only to see whether the disk has recovered."""

    def __str__(self) -> str:
        """Spell it for a log line."""
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))


@dataclass(slots=True, eq=False)
class _Load:
    start: int
    first: PageHash
    """Name of its first page. Not the whole path, as many are remembered."""
    num_left: int
    left_s: float
    """Of the wait that SGLang grants."""
    granted_s: float
    is_attempt: bool = False
    num_parts: int = 0


@dataclass(slots=True)
class _Answer:
    """What a request was told that may ask again."""

    load: _Load | None
    """What of it is loaded, if anything."""
    until_s: float
    """When the others will have been computed."""
    compute_s: float
    """How long that takes."""


class LoadGate:
    """Decides with what it has measured. Thread-safe.

    One load is read after the other, in the order in which they were granted, as SGLang's storage
    thread does. Its decisions differ from rank to rank; SGLang takes the least.
    """

    def __init__(
        self,
        *,
        page_tokens: int,
        page_bytes: int,
        wait_limit_s: Callable[[int], float] = lambda _num_tokens: float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start knowing nothing.

        Args:
            wait_limit_s: how long SGLang waits for a load of so many tokens.
            clock: seconds, monotonic.
        """
        self._page_tokens, self._page_bytes = page_tokens, page_bytes
        self._wait_limit_s, self._clock = wait_limit_s, clock
        self._read = Rate(window=max(8.0, READ_WINDOW_BYTES / page_bytes))
        self._prefill = MarginalRate(window=PREFILL_WINDOW_TOKENS, enough=PREFILL_ENOUGH_TOKENS)
        self._loads: deque[_Load] = deque()
        self._read_until_s = clock()
        """When the disk was last seen reading, or will be done with the part it reads now."""
        self._computing_until_s = clock()
        """When what was declined will have been computed."""
        self._answers: dict[tuple[bytes, ...], _Answer] = {}
        """By path, the latest last."""
        self._next_attempt_s = clock()
        self._figures = GateFigures()
        self._lock = threading.Lock()

    def observe_prefill(self, *, num_tokens: int, seconds: float) -> None:
        """Note that a prefill of `num_tokens` new tokens took `seconds`."""
        with self._lock:
            self._prefill.observe(num_tokens, seconds)

    def speeds(self) -> Speeds:
        """Return what a page costs, as measured so far."""
        with self._lock:
            return self._speeds()

    def figures(self) -> GateFigures:
        """Return what was decided since the start."""
        with self._lock:
            return GateFigures(*(getattr(self._figures, f.name) for f in fields(GateFigures)))

    def grant(self, path: PagePath, num_hits: int) -> int:
        """Return how many of the `num_hits` leading pages of a call to load; expect that load.

        SGLang asks again for a request that waits: then what was expected of it before, a load and
        the computing of the rest, is neither before it nor expected twice.
        """
        with self._lock:
            self._forget_ended()
            before = self._take_back(path)
            num_queued = sum(load.num_left for load in self._loads)
            limit_s = self._wait_limit_s(num_hits * self._page_tokens)
            num_pages = pages_worth_loading(
                num_hits,
                self._speeds(),
                num_queued=num_queued,
                compute_wait_s=self._compute_wait_s(),
                others_wait_s=self._others_wait_s(num_hits),
                limit_s=limit_s,
            )
            is_attempt = bool(num_hits and not num_pages and not num_queued)
            is_attempt = is_attempt and self._clock() >= self._next_attempt_s
            if is_attempt:
                num_pages = num_hits
            load = None
            if num_pages:
                first = path.hashes[path.start]
                load = _Load(path.start, first, num_pages, limit_s, self._clock(), is_attempt)
                self._loads.append(load)
            if before is not None and (before.load is None) == (load is None):
                before.load = load
                self._computing_until_s += before.compute_s
                self._remember(path, before)
                return num_pages
            self._figures.attempts += is_attempt
            self._figures.pages_found += num_hits
            self._figures.pages_declined += num_hits - num_pages
            compute_s = self._computes(num_hits - num_pages)
            if num_hits:
                self._remember(path, _Answer(load, self._computing_until_s, compute_s))
            return num_pages

    def begin(self, path: PagePath) -> "Reading":
        """Return the pace of a read, which is a granted load or the next batch of one.

        Loads that were granted before it and have not ended were called off.
        """
        with self._lock:
            self._forget_ended()
            self._read_until_s = max(self._read_until_s, self._clock())
            if not any(_belongs(path, load) for load in self._loads):
                return Reading(self, _Load(path.start, b"", 0, float("inf"), self._clock()))
            while not _belongs(path, self._loads[0]):
                self._loads.popleft()
            return Reading(self, self._loads[0])

    def _compute_wait_s(self) -> float:
        return max(0.0, self._computing_until_s - self._clock())

    def _others_wait_s(self, num_pages: int) -> float:
        """Return what the loads that were granted would wait for the computing of so many pages."""
        speeds = self._speeds()
        if speeds.read_s is None or speeds.compute_s is None:
            return 0.0
        compute_s = num_pages * speeds.compute_s
        end_s = self._compute_wait_s() + compute_s
        waited_s = loaded_s = 0.0
        for load in self._loads:
            loaded_s += load.num_left * speeds.read_s
            waited_s += min(compute_s, max(0.0, end_s - loaded_s))
        return waited_s

    def _computes(self, num_pages: int) -> float:
        """Note pages that are not loaded, so that they are computed; return how long that takes."""
        compute_s = num_pages * (self._speeds().compute_s or 0.0)
        self._computing_until_s = self._clock() + self._compute_wait_s() + compute_s
        return compute_s

    def _speeds(self) -> Speeds:
        token_s = self._prefill.seconds_per_unit
        return Speeds(
            read_s=self._read.seconds_per_unit,
            compute_s=None if token_s is None else token_s * self._page_tokens,
        )

    def _forget_ended(self) -> None:
        oldest_s = self._clock() - FORGET_LOAD_S
        # While something is read, what comes after it waits for its turn.
        is_reading = self._read_until_s >= oldest_s
        self._loads = deque(
            load
            for load in self._loads
            if load.num_left and (is_reading or load.granted_s >= oldest_s)
        )

    def _take_back(self, path: PagePath) -> _Answer | None:
        """Return what a request of this path was told and still waits for; expect none of it."""
        answer, now_s = self._answers.pop(_name(path), None), self._clock()
        if answer is None:
            return None
        if answer.load is None:
            if answer.until_s <= now_s:
                return None
        elif answer.load.num_parts or answer.load not in self._loads:
            return None
        else:
            self._loads.remove(answer.load)
        answer.compute_s = min(answer.compute_s, max(0.0, answer.until_s - now_s))
        self._computing_until_s -= answer.compute_s
        return answer

    def _remember(self, path: PagePath, answer: _Answer) -> None:
        self._answers[_name(path)] = answer
        if len(self._answers) > MAX_WAITING:
            del self._answers[next(iter(self._answers))]

    def _next_part(self, load: _Load, num_left: int, num_bytes: int) -> int:
        with self._lock:
            num_worth = num_left
            if load.num_parts:
                num_worth = pages_worth_loading(
                    num_left,
                    self._speeds(),
                    compute_wait_s=self._compute_wait_s(),
                    limit_s=load.left_s,
                )
            if not num_worth:
                self._figures.pages_cut += num_left
                self._computes(num_left)
                load.num_left = 0
                return 0
            part_bytes = min(FIRST_PART_BYTES << min(load.num_parts, 10), LARGEST_PART_BYTES)
            load.num_parts += 1
            num_pages = max(1, min(num_worth, num_left * part_bytes // max(1, num_bytes)))
            self._read_until_s = self._clock() + num_pages * (self._speeds().read_s or 0.0)
            return num_pages

    def _was_read(self, load: _Load, num_pages: int, seconds: float) -> None:
        with self._lock:
            self._read_until_s = self._clock()
            load.num_left = max(0, load.num_left - num_pages)
            load.left_s -= seconds
            if load.is_attempt and load.num_parts == 1:
                # What was seen before is what the attempt is to check.
                self._read.forget()
            self._read.observe(num_pages, seconds)
            self._next_attempt_s = self._read_until_s + max(
                ATTEMPT_INTERVAL_S, ATTEMPT_TIME_RATIO * seconds
            )


def _name(path: PagePath) -> tuple[bytes, ...]:
    # The last hash covers all pages before it. What memory holds of them may change in between.
    return (path.namespace, *path.hashes[-1:])


def _belongs(path: PagePath, load: _Load) -> bool:
    is_behind = load.start <= path.start < len(path.hashes)
    return is_behind and path.hashes[load.start] == load.first


class Reading:
    """The pace of one read, see `tensorlog.paced.Pace`. Owned by the thread that reads."""

    def __init__(self, gate: LoadGate, load: _Load) -> None:
        self._gate, self._load = gate, load

    def next_pages(self, num_left: int, num_bytes: int) -> int:
        """Return how many of `num_left` pages to read now; 0 when the rest is faster computed."""
        return self._gate._next_part(self._load, num_left, num_bytes)

    def was_read(self, num_pages: int, seconds: float) -> None:
        """Note how long a part took."""
        self._gate._was_read(self._load, num_pages, seconds)
