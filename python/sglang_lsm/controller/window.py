"""What happened in a stretch of time: rates, from counters that the store keeps anyway. Pure."""

import math
from dataclasses import dataclass, field, fields

from sglang_lsm.controller.reuse import Reuse
from sglang_lsm.observability.counters import StoreStats

_SHIFT_LOG2 = 1.0
_SHIFT_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the counters do not tell."""

    cache_bytes: float = 0.0
    """Memory that the page cache can take."""
    reuse: Reuse = field(default_factory=Reuse)
    recompute_s_per_byte: float = 0.0
    """Time to compute a byte of KV again; 0 where it is not known."""
    encoded_hits: float = 0.0
    """Pages a second: hits that there would be if pages that wait were encoded; where they are, of
    those that there were, what would be missing without it."""
    encoded_reads: float = 0.0
    """Pages a second that were read after they had waited long enough to be encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Rates per second; names as in `StoreStats`."""

    seconds: float
    gets: float = 0.0
    pages_got: float = 0.0
    pages_decoded: float = 0.0
    bytes_got: float = 0.0
    extents_got: float = 0.0
    bytes_scattered: float = 0.0
    extents_scattered: float = 0.0
    probe_s: float = 0.0
    read_s: float = 0.0
    read_own_s: float = 0.0
    read_transfer_cpu_s: float = 0.0
    check_cpu_s: float = 0.0
    puts: float = 0.0
    bytes_put: float = 0.0
    pages_put: float = 0.0
    bytes_offered_again: float = 0.0
    bytes_refused: float = 0.0
    pages_refused: float = 0.0
    write_s: float = 0.0
    write_own_s: float = 0.0
    ask_s: float = 0.0
    write_transfer_cpu_s: float = 0.0
    pages_probed: float = 0.0
    pages_hit: float = 0.0
    pages_evicted: float = 0.0
    bytes_merged: float = 0.0
    bytes_to_encode: float = 0.0
    bytes_saved: float = 0.0
    encode_cpu_s: float = 0.0
    allocated_bytes: float = 0.0
    """At the end, not a rate; so is `num_pages`."""
    num_pages: float = 0.0
    around: Surroundings = field(default_factory=Surroundings)

    @property
    def wait_s(self) -> float:
        """Seconds that callers spent in probes, reads and writes."""
        return self.probe_s + self.read_s + self.write_s

    @property
    def read_io_s(self) -> float:
        """Of reads, what was not our own work: waiting for transfers."""
        return max(0.0, self.read_s - self.read_own_s)

    @property
    def write_io_s(self) -> float:
        """Of writes, what was not our own work."""
        return max(0.0, self.write_s - self.write_own_s)

    @property
    def num_bytes(self) -> float:
        """Bytes read, written and refused in all."""
        return (self.bytes_got + self.bytes_put + self.bytes_refused) * self.seconds


def window_between(
    before: StoreStats, after: StoreStats, seconds: float, around: Surroundings
) -> Window:
    """Return the rates between two snapshots `seconds` apart."""
    now = {"allocated_bytes": float(after.allocated_bytes), "num_pages": float(after.num_pages)}
    rates = {
        rate.name: (getattr(after, rate.name) - getattr(before, rate.name)) / seconds
        for rate in fields(Window)
        if rate.name not in ("seconds", "around", *now)
    }
    return Window(seconds=seconds, around=around, **rates, **now)


def is_shift(old: Window, new: Window) -> bool:
    """Return whether another workload has begun: twice or half of what there was per request.

    The number of requests a second is left out: all costs are proportional to it.
    """
    pairs = (
        (_per(old.bytes_got, old.gets), _per(new.bytes_got, new.gets)),
        (_per(old.bytes_put, old.puts), _per(new.bytes_put, new.puts)),
        (_per(old.extents_got, old.gets), _per(new.extents_got, new.gets)),
    )
    if any(a and b and abs(math.log2(a / b)) > _SHIFT_LOG2 for a, b in pairs):
        return True
    shares = (
        (_read_share(old), _read_share(new)),
        (old.around.reuse.cached, new.around.reuse.cached),
        (old.around.reuse.again, new.around.reuse.again),
    )
    return any(abs(a - b) > _SHIFT_SHARE for a, b in shares)


def _read_share(window: Window) -> float:
    return _per(window.bytes_got, window.bytes_got + window.bytes_put + window.bytes_refused)


def _per(amount: float, num: float) -> float:
    return amount / num if num > 0 else 0.0
