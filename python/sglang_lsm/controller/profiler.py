"""Measures a device, in a scratch file beside the store: bounded in bytes and in seconds."""

import itertools
import logging
import mmap
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sglang_lsm.controller.profile import (
    DeviceProfile,
    Kind,
    Point,
    decode_profile,
    encode_profile,
)
from sglang_lsm.errors import CorruptionError, UnavailableError
from sglang_lsm.fs import File, FileSystem
from sglang_lsm.tensorlog.segment import at_own_pace

logger = logging.getLogger(__name__)

PROFILE_NAME = "PROFILE"
SCRATCH_NAME = "profile-scratch"
SIZES = (64 << 10, 512 << 10, 4 << 20)
DEPTHS = (1, 2, 4, 8)
_NUM_HANDOVERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilerConfig:
    """How much a measurement may cost. Each point moves one pass of the scratch file at most."""

    scratch_bytes: int = 64 << 20
    seconds_a_point: float = 0.05
    """With 45 points in all, two to three seconds."""
    sizes: Sequence[int] = SIZES
    depths: Sequence[int] = DEPTHS


def load_profile(fs: FileSystem, directory: Path) -> DeviceProfile | None:
    """Return the profile kept in a store's directory; None if there is none that can be read."""
    try:
        content = fs.read(directory / PROFILE_NAME)
        return None if content is None else decode_profile(content)
    except (CorruptionError, UnavailableError) as error:
        logger.warning("the device profile is measured again. reason=%s", error)
        return None


def keep_profile(fs: FileSystem, directory: Path, profile: DeviceProfile) -> None:
    """Keep a profile with the store. Raises UnavailableError."""
    fs.replace(directory / PROFILE_NAME, encode_profile(profile))


def measure_profile(
    fs: FileSystem,
    directory: Path,
    config: ProfilerConfig = ProfilerConfig(),  # noqa: B008 - frozen
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> DeviceProfile:
    """Measure the device under `directory`. Needs `scratch_bytes` of disk for the time it takes.

    Raises:
        UnavailableError: no room, an I/O error, or it was told to stop.
    """
    path = directory / SCRATCH_NAME
    fs.unlink(path)
    buffered = fs.open(path, create=True)
    direct: File | None = None
    try:
        buffered.allocate(0, config.scratch_bytes)
        try:
            direct = fs.open(path, direct=True)
        except UnavailableError:
            # The log goes on buffered as well.
            direct = None
        bench = _Bench(config, buffered, direct or buffered, should_stop)
        return bench.profile()
    finally:
        for file in (buffered, direct):
            if file is not None:
                file.close()
        fs.unlink(path)


@dataclass(slots=True)
class _Bench:
    config: ProfilerConfig
    buffered: File
    direct: File
    should_stop: Callable[[], bool]
    _memory: memoryview = field(init=False)

    def profile(self) -> DeviceProfile:
        depths, sizes = self.config.depths, self.config.sizes
        self._memory = memoryview(mmap.mmap(-1, max(sizes) * max(depths)))
        # Touched first: a guest whose host takes free memory back pays for it at first use.
        for at in range(0, len(self._memory), mmap.PAGESIZE):
            self._memory[at] = at >> 12 & 255
        points = []
        for size, depth in itertools.product(sizes, depths):
            # The log writes space that was allocated and never written: half as fast as again.
            self.buffered.punch(0, self.config.scratch_bytes)
            self.buffered.allocate(0, self.config.scratch_bytes)
            points.append(self._run("write_direct", size, depth))
        self._run("write_direct", max(sizes), 2, whole=True)
        for size, depth in itertools.product(sizes, depths):
            points.append(self._run("read_direct", size, depth))
            self.buffered.sync()
            self.buffered.drop_cache()
            points.append(self._run("read_cold", size, depth))
        for size, depth in itertools.product(sizes, depths[:2]):
            self._run("read_hot", max(sizes), 1, whole=True)
            points.append(self._run("read_hot", size, depth))
        points += [self._run("write_buffered", size, 1) for size in sizes]
        self.buffered.sync()
        start = time.perf_counter()
        self.buffered.pwritev([self._memory[: mmap.PAGESIZE]], 0)
        self.buffered.sync()
        sync_s = time.perf_counter() - start
        return DeviceProfile(tuple(points), sync_s=sync_s, handover_s=_handover_s())

    def _run(self, kind: Kind, size: int, depth: int, *, whole: bool = False) -> Point:
        """Move the scratch file in random order until time is up, all of it if `whole`.

        Of two halves the faster counts: whoever else is about can only slow one down.
        """
        offsets = list(range(0, self.config.scratch_bytes - size + 1, size))
        if whole:
            return self._move(kind, size, depth, offsets, 60.0)
        random.Random(size * depth).shuffle(offsets)
        halves = [
            self._move(kind, size, depth, offsets[i::2], self.config.seconds_a_point / 2)
            for i in range(2)
        ]
        return max(halves, key=lambda point: point.bytes_per_s)

    def _move(
        self, kind: Kind, size: int, depth: int, offsets: Sequence[int], seconds: float
    ) -> Point:
        if self.should_stop():
            raise UnavailableError("told to stop while the device was measured")
        file = self.direct if kind.endswith("direct") else self.buffered
        deadline_s = time.perf_counter() + seconds

        def lane(index: int) -> tuple[int, float]:
            page = self._memory[index * size : (index + 1) * size]
            started_s, num_bytes = time.thread_time(), 0
            for offset in offsets[index::depth]:
                if kind == "read_cold":
                    read_filling(file, page, offset)
                elif kind.startswith("read"):
                    file.preadv([page], offset)
                else:
                    file.pwritev([page], offset)
                num_bytes += size
                if time.perf_counter() > deadline_s or self.should_stop():
                    break
            return num_bytes, time.thread_time() - started_s

        with _lanes(depth) as pool:
            start = time.perf_counter()
            results = list(pool.map(lane, range(depth)))
            seconds = time.perf_counter() - start
        num_bytes = sum(moved for moved, _ in results)
        return Point(kind, size, depth, num_bytes / seconds, sum(c for _, c in results) / num_bytes)


def _handover_s() -> float:
    """Return the CPU of giving a job to another thread, ours and its."""
    with _lanes(1) as pool:
        theirs_s, mine_s = pool.submit(time.thread_time).result(), time.thread_time()
        for _ in range(_NUM_HANDOVERS):
            theirs_now_s = pool.submit(time.thread_time).result()
        return (theirs_now_s - theirs_s + time.thread_time() - mine_s) / _NUM_HANDOVERS


@contextmanager
def _lanes(depth: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(depth, thread_name_prefix="kv-storage-profile") as pool:
        # Threads that run already: their start is not the device's time.
        list(pool.map(lambda _: None, range(depth)))
        yield pool


def read_filling(file: File, out: memoryview, offset: int) -> None:
    """Read what is not in the page cache through it, as the log does."""
    with at_own_pace(file) as own:
        own.preadv([out], offset)
