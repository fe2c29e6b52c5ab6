"""Which setting to change next, and whether a change did what it promised. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sglang_lsm.config import KIB, MIB, StoreConfig
from sglang_lsm.controller.cost_model import Cost, cached_share, predict
from sglang_lsm.controller.profile import DeviceProfile, Kind
from sglang_lsm.controller.window import Window

Value = str | int

CHOICES: Mapping[str, Sequence[Value]] = {
    "log.io_mode": ("auto", "buffered", "direct"),
    "log.reader_threads": (1, 2, 4, 8),
    "log.io_bytes": (256 * KIB, MIB, 4 * MIB, 16 * MIB),
    "log.merge_bytes_per_s": (0, 64 * MIB),
    "log.merge_policy": ("leveled", "tiered"),
    "admission": ("first", "second"),
    "index.size_ratio": (4, 10, 20),
    "index.level0_trigger": (2, 4, 8),
    "index.memtable_bytes": (4 * MIB, 16 * MIB, 64 * MIB),
}
"""Values of each setting that may change while serving. None loses a page that is acknowledged:
durability is not among them, it is the operator's promise."""

_FIRST_READS: tuple[Kind, ...] = ("read_cold", "read_direct")
_CACHED: Kind = "read_hot"
_SAFE_SHARE = 0.9
"""Computing has to cost so much less than reading back before a page may be refused."""

Verdict = Literal["kept", "rolled back", "unclear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """How eager the controller is."""

    min_gain_share: float = 0.2
    """Of the predicted cost, at least so much has to be saved: the model errs by as much, and a
    smaller gain may be none. Smaller: more changes, less each."""
    min_gain_s: float = 0.002
    """And at least so many seconds a second: a store that is hardly used is left alone."""
    max_horizon_s: float = 300.0
    """How long a workload is trusted to last at most, when a change has a price."""
    tolerance: float = 0.05
    """A change is taken back if it costs so much more than what was before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting, changed."""

    setting: str
    old: Value
    new: Value
    config: StoreConfig = field(repr=False)
    """The settings after it."""
    cost_now: Cost
    cost_then: Cost

    @property
    def gain_s(self) -> float:
        """Seconds saved a second."""
        return self.cost_now.total_s - self.cost_then.total_s


def value_of(config: StoreConfig, setting: str) -> Value:
    """Return a setting by its dotted name."""
    part, _, name = setting.rpartition(".")
    value: Value = getattr(getattr(config, part) if part else config, name)
    return value


def with_value(config: StoreConfig, setting: str, value: Value) -> StoreConfig:
    """Return `config` with one setting changed."""
    part, _, name = setting.rpartition(".")
    if not part:
        return replace(config, **{name: value})  # type: ignore[arg-type]
    inner = replace(getattr(config, part), **{name: value})
    return replace(config, **{part: inner})


def free_settings(config: StoreConfig, fixed: Collection[str]) -> dict[str, Sequence[Value]]:
    """Return the settings that may change, and their values.

    Args:
        config: as the store was opened.
        fixed: names that the operator has set; a name like `log` fixes all below it.
    """
    free: dict[str, Sequence[Value]] = {}
    for setting, values in CHOICES.items():
        if setting in fixed or setting.partition(".")[0] in fixed:
            continue
        # A store opened without merging has no thread for it.
        if setting.startswith("log.merge_") and config.log.merge_bytes_per_s == 0:
            continue
        own = value_of(config, setting)
        free[setting] = values if own in values else (*values, own)
    return free


def choose(
    config: StoreConfig,
    window: Window,
    profile: DeviceProfile,
    free: Mapping[str, Sequence[Value]],
    *,
    age_s: float,
    policy: PolicyConfig,
) -> Change | None:
    """Return the one change that saves most, or None where none is worth it.

    Args:
        age_s: how long the workload has been what it is. It is expected to last as long again, and
            a change has to earn its price in that time.
    """
    now = predict(config, config, window, profile)
    best: Change | None = None
    for setting, values in free.items():
        if setting == "admission" and window.around.recompute_s_per_byte <= 0:
            continue
        old = value_of(config, setting)
        for value in values:
            if value == old:
                continue
            other = with_value(config, setting, value)
            then = predict(other, config, window, profile)
            change = Change(
                setting=setting, old=old, new=value, config=other, cost_now=now, cost_then=then
            )
            if best is None or change.gain_s > best.gain_s:
                best = change
    if best is None or best.gain_s < max(policy.min_gain_share * now.total_s, policy.min_gain_s):
        return None
    horizon_s = min(max(age_s, window.seconds), policy.max_horizon_s)
    if best.gain_s * horizon_s <= switching_s(best, config, window, profile):
        return None
    return best


def refusing_is_safe(
    config: StoreConfig, window: Window, profile: DeviceProfile, *, is_refusing: bool
) -> bool:
    """Return whether a refused page cannot be missed: computing it takes less than reading it.

    A page refused is gone. Taking the change back does not bring it back, and whether it would have
    been asked for is seen hours later or never. So second-use is acted on only where even then
    nothing is lost; elsewhere it is advised. What is lost is the first read of a page, which the
    page cache serves only if the page was written through it.

    Args:
        is_refusing: whether it is on already; it goes off later than it came on.
    """
    compute_s = window.around.recompute_s_per_byte
    if compute_s <= 0:
        return False
    own_s = _own_of_reads_s(window)
    size = window.bytes_got / window.gets if window.gets > 0 else float(config.log.io_bytes)
    kinds = _FIRST_READS if config.log.io_mode != "buffered" else (*_FIRST_READS, _CACHED)
    reads = (profile.speed(kind, min(size, config.log.io_bytes), 1) for kind in kinds)
    # As the load gate compares: what a caller waits for, CPU not counted on top.
    read_s = own_s + min(speed.s_per_byte for speed in reads)
    return compute_s <= read_s * (1.0 if is_refusing else _SAFE_SHARE)


def _own_of_reads_s(window: Window) -> float:
    """Return what a byte read costs beside moving it; where none was read, as much as one put."""
    if window.bytes_got > 0:
        return window.read_own_s / window.bytes_got
    own_s = max(0.0, window.write_own_s - window.ask_s)
    return own_s / window.bytes_put if window.bytes_put > 0 else 0.0


def switching_s(
    change: Change, config: StoreConfig, window: Window, profile: DeviceProfile
) -> float:
    """Return the one-off price of a change: the page cache has to be filled once.

    The other settings hold for the next call, or the next table of the index, and cost nothing.
    """
    cold = profile.speed("read_cold", 1 << 20, 2).s_per_byte
    hot = profile.speed("read_hot", 1 << 20, 2).s_per_byte
    return bytes_to_fill(change, config, window) * max(0.0, cold - hot)


def bytes_to_fill(change: Change, config: StoreConfig, window: Window) -> float:
    """Return how much the page cache has to take in before a change shows what it brings."""
    if change.setting != "log.io_mode":
        return 0.0
    more = cached_share(change.config, window) - cached_share(config, window)
    return min(window.around.cache_bytes, window.allocated_bytes) * max(0.0, more)


def judge(
    change: Change,
    window: Window,
    predict_old: Callable[[Window], Cost],
    bias: float,
    policy: PolicyConfig,
) -> Verdict:
    """Compare what a change cost with what the settings before it would have cost meanwhile.

    Args:
        window: of the trial, after the change.
        predict_old: the model's cost of the old settings on a window served by the new ones.
        bias: measured over predicted waiting time before the change.
    """
    would_wait_s = predict_old(window).wait_s * bias
    if would_wait_s <= 0:
        return "unclear"
    # Settings that trade waiting for CPU or background work may make callers wait as promised.
    promised = max(1.0, change.cost_then.wait_s / max(change.cost_now.wait_s, 1e-9))
    limit_s = would_wait_s * promised * (1.0 + policy.tolerance)
    return "kept" if window.wait_s <= limit_s else "rolled back"
