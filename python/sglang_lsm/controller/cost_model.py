"""What a configuration costs: seconds of I/O and of CPU a second of workload. Pure.

With rates R of bytes read, W of bytes written, and the device's t(kind, bytes a call, calls under
way), seconds a byte from `profile`, with the factors that live transfers gave it:

    a get of b bytes in e runs takes n = max(e, b / io_bytes) calls of b / n bytes, min(n, threads)
    of them under way
    read    R * (h * t(hot) + (1 - h) * t(cold)) buffered, R * t(direct) around the page cache;
            h = share of reads whose reuse distance fits the page cache (`reuse`). `auto` reads h
            from there and around it what was not read often; what was fills it once, and again
            at every READS_BEFORE_FILLING + 1st read of what is gone (`tensorlog.io_modes`)
    write   W * t(write); buffered, W * t(write direct) again in the background, when it is flushed,
            without the factor: what callers wait for beside the device does not hold up the kernel
    own     what calls cost beside moving bytes: keys, index, checksums, page table. Taken as the
            window measured it (`observability.spending`), per byte got and put, since no setting
            here changes it but the number of calls (`handover_s` each, from `profile`) and the
            index's runs. Callers wait for it, and it is CPU
    cpu     own, and R and W times the CPU a byte of each kind, from `profile`
    merge   scattered bytes S become S * (1 - a), a = share of reads that read a page again; each
            byte is read and written once more, at most `merge_bytes_per_s`. Reads are of two parts,
            whole and scattered as the window saw them; each is copied together or not by its mean
            number of runs against what `merge_policy` and `merge_max_runs` let be
    second  writes what is offered again, and loses the first hit of each page, computed anew and
            written then; of a page refused, the asking is left
    index   level 1 is rewritten each time level0_trigger memtables have come; below it are
            log_T(index / level 1) levels, in each an entry is rewritten T / 2 times (leveled;
            Dayan & Idreos, Dostoevsky, SIGMOD 2018); a lookup that finds nothing reads a block
            with probability runs * 0.6185**bits (Dayan et al., Monkey, SIGMOD 2017), a call one a
            run at most;
            runs = levels + level0_trigger / 2, one a level (as MooseLSM counts them)

The CPU constants of the index are this project's measurements on one core of 2.5 GHz. Only the
difference between two sets of index settings comes from them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sglang_lsm.config import IndexConfig, StoreConfig
from sglang_lsm.controller.profile import DeviceProfile, Kind
from sglang_lsm.controller.window import Window

_ENTRY_BYTES = 45
_RUN_CPU_S = 1.0e-7
"""To ask one more run for a page."""
_REWRITE_CPU_S_PER_BYTE = 1 / 50e6
_BLOCK_BYTES = 16 << 10
_LEVEL1_BYTES = 256 << 20
"""RocksDB's `max_bytes_for_level_base`."""
_LARGE = 4 << 20
_FEW_BYTES = 1024.0
"""A second: of fewer, the size of calls tells nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds a second of workload."""

    read_s: float
    write_s: float
    background_s: float
    """The device busy with merging, flushing and the index's compaction."""
    cpu_s: float
    recompute_s: float
    """Computing what would have been a hit under `admission = first`."""

    @property
    def wait_s(self) -> float:
        """What callers wait for; the part that can be measured by a clock."""
        return self.read_s + self.write_s

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.wait_s + self.background_s + self.cpu_s + self.recompute_s


class Flow(NamedTuple):
    """Waiting, background and CPU seconds a second; moving bytes alone."""

    wait_s: float
    background_s: float
    cpu_s: float


class _Own(NamedTuple):
    """CPU of calls beside moving bytes; `check_s` on other threads than the caller's."""

    read_s: float
    write_s: float
    check_s: float


class _Part(NamedTuple):
    """Bytes a second, in so many gets of so many system calls each."""

    num_bytes: float
    gets: float
    calls: float


class _Seen(NamedTuple):
    """Reads a second of a window, in so many runs each."""

    num_bytes: float
    gets: float
    runs: float


class _Traffic(NamedTuple):
    """Bytes a second under the admission asked for."""

    read: float
    written: float
    lost: float


def predict(config: StoreConfig, used: StoreConfig, window: Window, profile: DeviceProfile) -> Cost:
    """Return what `config` would cost on the workload of a window that `used` served."""
    traffic = _traffic(config, used, window)
    read = read_transfers(config, used, window, profile, traffic.read)
    write = write_transfers(config, window, profile, traffic.written)
    own = _own(config, used, window, profile, traffic)
    merge = _merging(config, used, window, profile)
    index = _index(config.index, window, profile, traffic)
    sync = profile.sync_s / config.log.sync_interval_s
    return Cost(
        read_s=window.probe_s + own.read_s + read.wait_s,
        write_s=own.write_s + write.wait_s,
        background_s=write.background_s
        + merge.background_s
        + index.background_s
        + (sync if config.log.durability == "interval" else 0.0),
        cpu_s=window.probe_s
        + own.read_s
        + own.write_s
        + own.check_s
        + read.cpu_s
        + write.cpu_s
        + merge.cpu_s
        + index.cpu_s,
        recompute_s=traffic.lost * window.around.recompute_s_per_byte,
    )


def reads_direct(config: StoreConfig, window: Window) -> bool:
    """Return whether reads go around the page cache; `auto` as the log decides it."""
    if config.log.io_mode == "auto":
        return window.allocated_bytes > 2 * window.around.cache_bytes
    return config.log.io_mode == "direct"


def cached_share(config: StoreConfig, window: Window) -> float:
    """Return the share of reads that the page cache serves."""
    if reads_direct(config, window):
        return 0.0
    reuse = window.around.reuse
    return reuse.cached if config.log.io_mode == "buffered" else reuse.cached_by_reads


def read_kinds(config: StoreConfig, window: Window) -> dict[Kind, float]:
    """Return the kinds of transfer that reads are made of, and their shares of the bytes."""
    if reads_direct(config, window):
        return {"read_direct": 1.0}
    cached = cached_share(config, window)
    if config.log.io_mode == "buffered":
        return {"read_hot": cached, "read_cold": 1.0 - cached}
    fills = window.around.reuse.fills
    return {"read_hot": cached, "read_cold": fills, "read_direct": 1.0 - cached - fills}


def _traffic(config: StoreConfig, used: StoreConfig, window: Window) -> _Traffic:
    read, written = window.bytes_got, window.bytes_put
    first_hits = read * (1.0 - window.around.reuse.again)
    if config.admission == used.admission:
        lost = written if config.admission == "second" else 0.0
        return _Traffic(read, written, lost)
    if config.admission == "second":
        return _Traffic(
            read - first_hits, min(written, window.bytes_offered_again) + first_hits, first_hits
        )
    # What was offered for the second time would have been stored at the first, and hit now.
    return _Traffic(read + written, window.bytes_refused, 0.0)


def _scattered(config: StoreConfig, used: StoreConfig, window: Window) -> float:
    """Return how many bytes a second are read scattered."""
    part, again = _seen(window)[1], _again(window)
    is_merged, was_merged = (_is_merged(c, window, part) for c in (config, used))
    if is_merged == was_merged:
        return part.num_bytes
    # What merging leaves are the first reads of each page.
    left = part.num_bytes * (1.0 - again)
    return left if is_merged else min(part.num_bytes / (1.0 - again), window.bytes_got)


def _whole_extents(config: StoreConfig, used: StoreConfig, window: Window) -> float:
    """Return in how many runs a second lies what is not scattered."""
    part, again = _seen(window)[0], _again(window)
    is_merged, was_merged = (_is_merged(c, window, part) for c in (config, used))
    runs = part.runs
    if is_merged and not was_merged:
        runs = runs * (1.0 - again) + again
    elif was_merged and not is_merged:
        runs = (runs - again) / (1.0 - again)
    return runs * part.gets


def _merged(config: StoreConfig, used: StoreConfig, window: Window) -> float:
    """Return how many bytes a second are copied together: the first reads of pages."""
    found, was_any, is_any = 0.0, False, False
    for part in _seen(window):
        is_merged, was_merged = (_is_merged(c, window, part) for c in (config, used))
        was_any, is_any = was_any or was_merged, is_any or is_merged
        if is_merged and not was_merged:
            found += part.num_bytes * (1.0 - _again(window))
    if not is_any:
        # With the same settings, what was copied is what is copied.
        return window.bytes_merged if config == used else 0.0
    return found + (window.bytes_merged if was_any else 0.0)


def _seen(window: Window) -> tuple[_Seen, _Seen]:
    """Return the reads of a window that lay in few runs, and those that lay in too many."""
    scattered = min(window.bytes_scattered, window.bytes_got)
    extents = (window.extents_got - window.extents_scattered, window.extents_scattered)
    whole, other = (
        _Seen(num_bytes, gets, max(1.0, _per(runs, gets)))
        for num_bytes, runs in zip((window.bytes_got - scattered, scattered), extents, strict=True)
        for gets in [window.gets * _per(num_bytes, window.bytes_got)]
    )
    return whole, other


def _is_merged(config: StoreConfig, window: Window, part: _Seen) -> bool:
    """Return whether such reads are copied together, as `merge.is_due` has it."""
    log = config.log
    if part.num_bytes <= 0 or log.merge_bytes_per_s == 0 or log.merge_policy == "off":
        return False
    calls = math.ceil(_per(window.bytes_got, window.gets) / log.io_bytes)
    if log.merge_policy == "leveled":
        return part.runs > calls + 1
    return part.runs > log.merge_max_runs * max(1.0, calls / 2)


def _again(window: Window) -> float:
    """Return the share of reads that read a page again, one that merging has reached."""
    return min(window.around.reuse.again, 0.95)


def read_transfers(
    config: StoreConfig, used: StoreConfig, window: Window, profile: DeviceProfile, rate: float
) -> Flow:
    """Return what moving `rate` bytes a second to the callers costs, our own work left out."""
    if rate <= 0:
        return Flow(0.0, 0.0, 0.0)
    if window.bytes_got < _FEW_BYTES:
        speed = profile.speed("read_cold", _LARGE, 1)
        return Flow(rate * speed.s_per_byte, 0.0, rate * speed.cpu_s_per_byte)
    more = rate / window.bytes_got
    wait_s, cpu_s = 0.0, 0.0
    for part in _read_parts(config, used, window):
        depth = min(part.calls, config.log.reader_threads)
        for kind, share in read_kinds(config, window).items():
            speed = profile.speed(kind, part.num_bytes / part.gets / part.calls, depth)
            wait_s += part.num_bytes * share * speed.s_per_byte
            cpu_s += part.num_bytes * share * speed.cpu_s_per_byte
    return Flow(wait_s * more, 0.0, cpu_s * more)


def _read_parts(config: StoreConfig, used: StoreConfig, window: Window) -> Iterator[_Part]:
    """Yield what is read whole and what is read scattered."""
    scattered = min(_scattered(config, used, window), window.bytes_got)
    whole = window.bytes_got - scattered
    # What merging has made whole lies in one run a get, as most of the rest does.
    whole_extents = max(_whole_extents(config, used, window), window.gets * (whole > 0))
    for num_bytes, extents in ((whole, whole_extents), (scattered, _extents(window, scattered))):
        if num_bytes > 0:
            gets = max(window.gets * num_bytes / window.bytes_got, 1e-9)
            calls = max(extents / gets, num_bytes / gets / config.log.io_bytes, 1.0)
            yield _Part(num_bytes, gets, calls)


def _extents(window: Window, scattered: float) -> float:
    if window.bytes_scattered > 0:
        return window.extents_scattered * scattered / window.bytes_scattered
    return window.extents_got * scattered / window.bytes_got


def write_transfers(
    config: StoreConfig, window: Window, profile: DeviceProfile, rate: float
) -> Flow:
    """Return what moving `rate` bytes a second to the disk costs, our own work left out."""
    if rate <= 0:
        return Flow(0.0, 0.0, 0.0)
    num_bytes = _bytes_a_put(window)
    flush = profile.idle_speed("write_direct", _LARGE, 1)
    if config.log.io_mode == "buffered":
        speed = profile.speed("write_buffered", num_bytes, 1)
        background_s = rate * flush.s_per_byte
    else:
        calls = _write_calls(config, window)
        speed = profile.speed(
            "write_direct", num_bytes / calls, min(calls, config.log.reader_threads)
        )
        background_s = 0.0
    return Flow(rate * speed.s_per_byte, background_s, rate * speed.cpu_s_per_byte)


def _write_calls(config: StoreConfig, window: Window) -> float:
    """Return how many calls a put takes."""
    if config.log.io_mode == "buffered":
        return 1.0
    return max(1.0, _bytes_a_put(window) / config.log.io_bytes)


def _bytes_a_put(window: Window) -> float:
    """Return the size of a call; of gets, where nothing was put."""
    return _per(window.bytes_put, window.puts) or _per(window.bytes_got, window.gets) or _LARGE


def _own(
    config: StoreConfig,
    used: StoreConfig,
    window: Window,
    profile: DeviceProfile,
    traffic: _Traffic,
) -> _Own:
    """Return what calls cost beside moving bytes, from what they cost in the window."""
    per_put = _per(max(0.0, window.write_own_s - window.ask_s), window.bytes_put)
    per_got = _per(window.read_own_s, window.bytes_got)
    # Where only one kind of call was seen, the other is expected to cost as much a byte.
    read_s = traffic.read * (per_got or per_put)
    write_s = traffic.written * (per_put or per_got) + window.ask_s
    more_s = 0.0
    # Most sets of settings that are compared share one of the two: they are the same object.
    if config.log is not used.log:
        more_calls = _handovers(config, config, window) - _handovers(used, used, window)
        more_s += more_calls * profile.handover_s
    if config.index is not used.index:
        more_runs = _runs(config.index, window) - _runs(used.index, window)
        more_s += (window.pages_probed + window.pages_put) * more_runs * _RUN_CPU_S
    return _Own(max(0.0, read_s + more_s), max(0.0, write_s), window.check_cpu_s)


def _handovers(config: StoreConfig, used: StoreConfig, window: Window) -> float:
    """Return how many calls a second are given to other threads: all of a get or put but one."""
    found = 0.0
    if window.bytes_got >= _FEW_BYTES:
        parts = _read_parts(config, used, window)
        found += sum((part.calls - 1.0) * part.gets for part in parts)
    calls = _write_calls(config, window)
    return found + (calls * window.puts if calls > 1.0 else 0.0)


def _merging(
    config: StoreConfig, used: StoreConfig, window: Window, profile: DeviceProfile
) -> Flow:
    rate = min(_merged(config, used, window), config.log.merge_bytes_per_s)
    if rate <= 0:
        return Flow(0.0, 0.0, 0.0)
    piece = window.bytes_scattered / max(window.extents_scattered, 1e-9)
    read = profile.speed("read_cold", piece or _LARGE, config.log.reader_threads)
    write = profile.speed("write_direct", _LARGE, config.log.reader_threads)
    own = _per(window.read_own_s, window.bytes_got) + _per(window.write_own_s, window.bytes_put)
    cpu = read.cpu_s_per_byte + write.cpu_s_per_byte + own
    return Flow(0.0, rate * (read.s_per_byte + write.s_per_byte), rate * cpu)


def _index(config: IndexConfig, window: Window, profile: DeviceProfile, traffic: _Traffic) -> Flow:
    page_bytes = window.bytes_put / window.pages_put if window.pages_put > 0 else _LARGE
    entries = traffic.written / page_bytes
    index_bytes = max(window.num_pages, 1.0) * _ENTRY_BYTES
    levels = _levels(config, window)
    flushed = entries * _ENTRY_BYTES
    gathered = config.level0_trigger * config.memtable_bytes
    rewritten = flushed * (
        1.0 + min(index_bytes, _LEVEL1_BYTES) / gathered + (levels - 1.0) * config.size_ratio / 2
    )
    runs = _runs(config, window)
    wasted = min(1.0, runs * 0.6185**config.bloom_bits_per_key)
    misses = max(0.0, window.pages_probed - window.pages_hit)
    # Keys of one path lie side by side, so a call finds them in one block a run.
    blocks = min(misses * wasted, runs * (window.gets + window.puts))
    block_s = profile.speed("read_cold", _BLOCK_BYTES, 1).s_per_byte * _BLOCK_BYTES
    disk_s = flushed + rewritten
    background_s = disk_s * profile.speed("write_direct", _LARGE, 1).s_per_byte
    # Blocks of an index that fits its cache are not read again.
    uncached = max(0.0, 1.0 - config.block_cache_bytes / index_bytes)
    background_s += blocks * block_s * uncached
    return Flow(0.0, background_s, rewritten * _REWRITE_CPU_S_PER_BYTE)


def _levels(config: IndexConfig, window: Window) -> float:
    below = max(max(window.num_pages, 1.0) * _ENTRY_BYTES / _LEVEL1_BYTES, 1.0)
    return 1.0 + math.log(below, config.size_ratio)


def _runs(config: IndexConfig, window: Window) -> float:
    """Return how many sorted runs a lookup may have to ask."""
    return _levels(config, window) + config.level0_trigger / 2


def _per(amount: float, num: float) -> float:
    return amount / num if num > 0 else 0.0
