"""Workloads that shift, and one run of a store under them: what each phase cost.

A request names a prompt; what is stored of it is read, and the rest is computed and put. Computing
is not done: its time is charged at a given speed, the same in every arm.
"""

import itertools
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from sglang_lsm.config import GIB, StoreConfig
from sglang_lsm.controller.calibration import calibrated
from sglang_lsm.controller.cost_model import predict
from sglang_lsm.controller.profile import DeviceProfile
from sglang_lsm.controller.reuse import ReuseCurve
from sglang_lsm.controller.senses import Senses
from sglang_lsm.controller.tuner import Tuner
from sglang_lsm.controller.window import Surroundings, Window, window_between
from sglang_lsm.fs import available_memory_bytes
from sglang_lsm.observability.access_trace import AccessTrace
from sglang_lsm.observability.counters import StoreStats
from sglang_lsm.pages import PagePath
from sglang_lsm.periodic import Periodic
from sglang_lsm.store import Store

from benchmark.measure import Phase, WrongPagesError
from benchmark.memory_limit import inside
from benchmark.pagedata import (
    PageSource,
    aligned_memory,
    back_memory,
    benchmark_fingerprint,
    chained_hashes,
    split_pages,
)

INTERVAL_S = 0.1
"""Between two looks of the controller: phases here last seconds, those of a server minutes."""
_MAX_PROMPT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt: which, how many pages of it, and how large they are."""

    prompt: int
    num_pages: int
    page_bytes: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Phases, each a name and its requests."""

    name: str
    phases: Sequence[tuple[str, Sequence[Request]]]


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """What one phase cost, in seconds."""

    name: str
    wait_s: float
    cpu_s: float
    sync_s: float
    """Of making durable what the phase wrote."""
    recompute_s: float
    num_bytes: int
    seconds: float
    hit_share: float
    settings: str = ""
    """At the end, as `settings_name` spells them."""
    own_s: float = 0.0
    """Predicted of this arm, with what was known of the device when the phase began."""
    predicted: dict[str, float] = field(default_factory=dict)
    """Seconds by arm, as the model saw them at the end of this phase of this arm."""
    changes: list[tuple[float, int, str]] = field(default_factory=list)
    """Changes of the controller: seconds and requests from the phase's start, and what it was."""

    @property
    def total_s(self) -> float:
        """What counts: waiting, making durable, CPU, and computing what was missed."""
        return self.wait_s + self.sync_s + self.cpu_s + self.recompute_s


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run the store: settings, and whether they are tuned."""

    name: str
    config: StoreConfig
    mode: str = "off"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all arms share."""

    profile: DeviceProfile
    recompute_bytes_per_s: float
    group: Path | None
    """Memory cgroup to run in."""
    seed: int
    memory_bytes: int = 0
    """Of that group; made cheap to touch before each arm."""
    interval_s: float = INTERVAL_S
    """Between two looks of the controller."""


def settings_name(config: StoreConfig) -> str:
    """Return I/O mode, admission, reader threads, and MiB merged a second."""
    log = config.log
    return f"{log.io_mode} {config.admission} {log.reader_threads} {log.merge_bytes_per_s >> 20}"


def run_arm(
    arm: Arm, arms: Sequence[Arm], workload: Workload, directory: Path, setting: Setting
) -> list[PhaseCost]:
    """Run a workload on a fresh store in `directory`, which is removed afterwards.

    Raises:
        WrongPagesError: a page came back changed.
    """
    # Else the first arm to fill the page cache pays for memory that the host has to give.
    back_memory(setting.memory_bytes)
    with inside(setting.group):
        run = _Run(arm, arms, directory, setting)
        try:
            return [run.phase(name, requests) for name, requests in workload.phases]
        finally:
            run.close()
            shutil.rmtree(directory, ignore_errors=True)


class _Run:
    def __init__(self, arm: Arm, arms: Sequence[Arm], directory: Path, setting: Setting) -> None:
        self._arm, self._arms, self._setting = arm, arms, setting
        self._store = Store.open(directory, arm.config)
        self._namespace = self._store.register(benchmark_fingerprint())
        self._memory = aligned_memory(_MAX_PROMPT_BYTES)
        self._decisions: list[tuple[float, str]] = []
        self._trace, self._reuse = AccessTrace(), ReuseCurve()
        self._profile = setting.profile
        self._looked = (time.perf_counter(), self._store.stats())
        self._thread: Periodic | None = None
        if arm.mode == "off":
            self._store.watch(self._trace)
        else:
            self._tuner = Tuner(self._store, setting.profile, self._senses(), mode=arm.mode)
            self._thread = Periodic("kv-storage-tune", setting.interval_s, self._tuner.step)

    def close(self) -> None:
        if self._thread is not None:
            self._thread.stop()
        self._store.close()

    def phase(self, name: str, requests: Sequence[Request]) -> PhaseCost:
        phase, missed, num_hits, num_pages = Phase(), 0, 0, 0
        before, started_s = self._store.stats(), time.perf_counter()
        profile, marks = self._profile, []
        for request in requests:
            num_found = self._serve(phase, request)
            marks.append(time.perf_counter())
            if marks[-1] - self._looked[0] > self._setting.interval_s:
                self._look()
            missed += (request.num_pages - num_found) * request.page_bytes
            num_hits, num_pages = num_hits + num_found, num_pages + request.num_pages
        seconds = time.perf_counter() - started_s
        after = self._store.stats()
        sync_started_s = time.perf_counter()
        self._store.sync()
        sync_s = time.perf_counter() - sync_started_s
        changes = [
            (at - started_s, sum(mark < at for mark in marks), text)
            for at, text in self._decisions
            if started_s <= at
        ]
        self._decisions.clear()
        return PhaseCost(
            name=name,
            wait_s=phase.seconds,
            cpu_s=phase.cpu_s(),
            sync_s=sync_s,
            recompute_s=missed / self._setting.recompute_bytes_per_s,
            num_bytes=phase.num_bytes,
            seconds=seconds,
            hit_share=num_hits / num_pages,
            settings=settings_name(self._store.config),
            **self._predicted(before, after, seconds, profile),
            changes=changes,
        )

    def _serve(self, phase: Phase, request: Request) -> int:
        hashes = chained_hashes(f"{request.page_bytes} {request.prompt}", request.num_pages)
        pages = split_pages(self._memory[: request.num_pages * request.page_bytes],
                            request.page_bytes)  # fmt: skip
        source = _page_source(request.page_bytes)
        path = PagePath(self._namespace, hashes)
        with phase.call(0):
            num_found = self._store.get_batch(path, pages) if self._store.probe(path) else 0
        first = request.prompt << 16
        if num_found and not source.matches(pages[num_found - 1], first + num_found - 1):
            raise WrongPagesError(f"a page came back changed. request={request}")
        if num_found < request.num_pages:
            for i in range(num_found, request.num_pages):
                source.fill(pages[i], first + i)
            with phase.call(0):
                self._store.put_batch(PagePath(self._namespace, hashes, num_found),
                                      pages[num_found:])  # fmt: skip
        phase.num_bytes += request.num_pages * request.page_bytes
        return num_found

    def _look(self) -> Window | None:
        """See what a controller would have seen since the last look; static arms only."""
        if self._arm.mode != "off":
            return None
        now_s, stats = time.perf_counter(), self._store.stats()
        self._reuse.enter(self._trace.drain())
        window = self._window(self._looked[1], stats, now_s - self._looked[0])
        self._looked = now_s, stats
        self._profile = calibrated(self._profile, self._arm.config, window)
        return window

    def _window(self, before: StoreStats, after: StoreStats, seconds: float) -> Window:
        cache_bytes = float(available_memory_bytes())
        around = Surroundings(
            cache_bytes=cache_bytes,
            reuse=self._reuse.summary(cache_bytes),
            recompute_s_per_byte=1.0 / self._setting.recompute_bytes_per_s,
        )
        return window_between(before, after, seconds, around)

    def _predicted(
        self, before: StoreStats, after: StoreStats, seconds: float, known: DeviceProfile
    ) -> dict[str, Any]:
        """Return the seconds of the phase under each arm, as the model sees it from this one."""
        if self._look() is None:
            return {}
        window = self._window(before, after, seconds)
        used = self._arm.config
        # Each phase ends with one sync, which is the benchmark's and not the workload's.
        sync_s = known.sync_s
        return {
            "own_s": predict(used, used, window, known).total_s * seconds + sync_s,
            "predicted": {
                arm.name: predict(arm.config, used, window, self._profile).total_s * seconds
                + sync_s
                for arm in self._arms
                if arm.mode == "off"
            },
        }

    def _senses(self) -> Senses:
        def note(entry) -> None:
            text = f"{entry['event']} {entry['setting']} {entry['old']} -> {entry['new']}"
            self._decisions.append((time.perf_counter(), text))

        return Senses(
            note=note,
            cache_bytes=lambda: float(available_memory_bytes()),
            recompute_s_per_byte=lambda: 1.0 / self._setting.recompute_bytes_per_s,
        )


@lru_cache(maxsize=4)
def _page_source(page_bytes: int) -> PageSource:
    return PageSource(page_bytes)


def workloads(*, scale: float, trace: Sequence[Sequence[int]] = ()) -> list[Workload]:
    """Return the shifting workloads; `scale` multiplies their lengths.

    Args:
        trace: requests of a real trace, as page numbers; cut into four phases.
    """
    make = _Maker(scale)
    found = [
        make.hit_rates(), make.flip(), make.scan_burst(), make.prompts(), make.page_sizes(),
    ]  # fmt: skip
    if trace:
        found.append(make.of_trace(trace))
    return found


class _Maker:
    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._random = random.Random(5)
        self._fresh = itertools.count(1 << 20)

    def hit_rates(self) -> Workload:
        """The paper's stages."""
        stages = (0.1, 0.3, 0.5, 0.7, 0.5, 0.3, 0.1)
        pool: list[int] = []
        phases = []
        for share in stages:
            requests = []
            for _ in range(self._count(500)):
                if pool and self._random.random() < share:
                    prompt = self._random.choice(pool[-400:])
                else:
                    prompt = next(self._fresh)
                    pool.append(prompt)
                requests.append(Request(prompt, 32, 64 << 10))
            phases.append((f"{share:.0%} again", requests))
        return Workload("hit rates", phases)

    def flip(self) -> Workload:
        """New prompts only, then a hot set only, in turn."""
        hot = [next(self._fresh) for _ in range(60)]
        read = self._among(hot, 1000)
        return Workload(
            "flip",
            [("write", self._new(600)), ("read", read), ("write", self._new(600)), ("read", read)],
        )

    def scan_burst(self) -> Workload:
        """A hot set that memory holds, then everything ever stored, which it does not hold."""
        hot = [next(self._fresh) for _ in range(60)]
        cold = [next(self._fresh) for _ in range(self._count(700))]
        scan = [Request(prompt, 32, 64 << 10) for prompt in cold]
        return Workload(
            "scan burst",
            [("fill", scan), ("hot", self._among(hot, 1000)), ("scan", scan),
             ("hot", self._among(hot, 1000)), ("scan", scan)],
        )  # fmt: skip

    def prompts(self) -> Workload:
        """Short prompts, then long ones."""
        short = [next(self._fresh) for _ in range(2000)]
        long = [next(self._fresh) for _ in range(60)]
        return Workload(
            "prompts",
            [("short", self._among(short, 4000, num_pages=4)),
             ("long", self._among(long, 300, num_pages=128))],
        )  # fmt: skip

    def page_sizes(self) -> Workload:
        """Small pages, then large ones."""
        small = [next(self._fresh) for _ in range(1000)]
        large = [next(self._fresh) for _ in range(100)]
        return Workload(
            "page sizes",
            [("16 KiB", self._among(small, 2000, page_bytes=16 << 10)),
             ("1 MiB", self._among(large, 300, num_pages=8, page_bytes=1 << 20))],
        )  # fmt: skip

    def of_trace(self, trace: Sequence[Sequence[int]]) -> Workload:
        """The first requests of a real trace; a block of it is a page, prompts are cut at 64.

        A prompt is named by its last page, so that prompts that differ share nothing: what repeats
        here are whole prompts and not prefixes, fewer hits than the trace has.
        """
        requests = [
            Request(row[min(len(row), 64) - 1], min(len(row), 64), 64 << 10)
            for row in trace[: self._count(2000)]
            if row
        ]
        size = -(-len(requests) // 4)
        parts = [requests[i : i + size] for i in range(0, len(requests), size)]
        return Workload("trace", [(f"part {i + 1}", part) for i, part in enumerate(parts)])

    def _new(self, num: int) -> list[Request]:
        return [Request(next(self._fresh), 32, 64 << 10) for _ in range(self._count(num))]

    def _among(
        self, prompts: Sequence[int], num: int, *, num_pages: int = 32, page_bytes: int = 64 << 10
    ) -> list[Request]:
        choice: Callable[[Sequence[int]], int] = self._random.choice
        return [Request(choice(prompts), num_pages, page_bytes) for _ in range(self._count(num))]

    def _count(self, num: int) -> int:
        return max(4, round(num * self._scale))


def quota_of(workload: Workload) -> int:
    """Return a quota that holds every page of a workload, so that eviction plays no part."""
    pages = {
        (request.prompt, request.page_bytes): request.num_pages * request.page_bytes
        for _, requests in workload.phases
        for request in requests
    }
    return max(2 * GIB, 2 * sum(pages.values()))


def as_rows(costs: Sequence[PhaseCost]) -> Iterator[dict[str, object]]:
    """Yield each phase as plain JSON data."""
    for cost in costs:
        yield {**asdict(cost), "total_s": cost.total_s}
