"""The tier's own figures among SGLang's metrics, named `sglang:kv_storage_*`.

SGLang counts hits and transfers of any storage backend; what it cannot know is what the load gate
measures and decides, what becomes of writes, and how full the disk is. Built with SGLang's labels
where its storage metrics are on. `docs/operations.md` lists what is here.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sglang_lsm_patch.eviction_figures import EvictionFigures
from sglang_lsm_patch.storage import TierFigures

INTERVAL_S = 5.0
"""Figures are told no more often than that: it costs the scheduler thread 0.3 to 1.6 ms."""
PREFIX = "sglang:kv_storage_"
GAUGES = {
    "read_bytes_per_second": "Speed of loading from disk as the load gate measured it.",
    "prefill_tokens_per_second": "Speed of computing as the load gate measured it.",
    "bytes": "Bytes allocated on disk.",
    "quota_bytes": "Bytes that the disk tier may take.",
}
COUNTERS = {
    "gate_pages": (
        ("decision",),
        "Stored pages that requests asked for: granted, or declined because computing them is "
        "faster; and cut, of the granted, because the read turned out too slow.",
    ),
    "gate_attempts": ((), "Loads granted only to see whether a slow disk has recovered."),
    "write_pages": (
        ("outcome",),
        "Pages of the write policy evict: stored; withdrawn, given up while they were written; "
        "failed; dropped for want of room aside, device_dropped where they had no copy in host "
        "memory; refused, as pages of their kind seldom come back.",
    ),
    "failures": (("reason",), "Calls of the disk tier that failed and became misses."),
}


class TierMetrics:
    """One rank's samples. Owned by the scheduler thread."""

    def __init__(
        self, labels: Mapping[str, object], clock: Callable[[], float], registry: Any = None
    ) -> None:
        """Register the metrics, once a process.

        Args:
            labels: SGLang's, on each sample.
            clock: seconds, monotonic.
            registry: for tests; SGLang's is the default one.
        """
        # Not before SGLang has told the library where processes meet.
        from prometheus_client import REGISTRY, Counter, Gauge

        registry = registry or REGISTRY
        names = list(labels)
        self._labels, self._clock, self._next_s = dict(labels), clock, clock()
        self._gauges = {
            name: Gauge(
                PREFIX + name, text, names, registry=registry, multiprocess_mode="mostrecent"
            )
            for name, text in GAUGES.items()
        }
        self._levels: dict[str, tuple[Any, float]] = {}
        """Series of the gauges, and the value that was told last."""
        self._counters = {
            name: Counter(f"{PREFIX}{name}_total", text, [*names, *more], registry=registry)
            for name, (more, text) in COUNTERS.items()
        }
        self._series: dict[tuple[str, str], tuple[Any, int]] = {}
        """Name and label of a counter to its series, and the total that was told last."""

    def is_due(self) -> bool:
        """Return whether it is time to tell; at most once an interval."""
        if (now_s := self._clock()) < self._next_s:
            return False
        self._next_s = now_s + INTERVAL_S
        return True

    def tell(self, tier: TierFigures, written: EvictionFigures | None) -> None:
        """Take in the figures of now; what has not changed is not told again."""
        for name in GAUGES:
            value = getattr(tier, name)
            if value is not None:
                self._set(name, value)
        if tier.gate is not None:
            gate = tier.gate
            self._count("gate_pages", gate.pages_found - gate.pages_declined, decision="granted")
            self._count("gate_pages", gate.pages_declined, decision="declined")
            self._count("gate_pages", gate.pages_cut, decision="cut")
            self._count("gate_attempts", gate.attempts)
        if written is not None:
            for outcome in ("stored", "withdrawn", "failed", "dropped", "refused"):
                self._count("write_pages", getattr(written, f"pages_{outcome}"), outcome=outcome)
            self._count("write_pages", written.device_pages_dropped, outcome="device_dropped")
        for reason, num_calls in tier.failures.items():
            self._count("failures", num_calls, reason=reason)

    def restart(self, *names: str) -> None:
        """Note that totals of these counters, the last of which were told, begin at 0 again."""
        for key, (series, _) in self._series.items():
            if key[0] in names:
                self._series[key] = series, 0

    def _set(self, name: str, value: float) -> None:
        series, before = self._levels.get(name, (None, None))
        if value != before:
            series = series or self._gauges[name].labels(**self._labels)
            series.set(value)
            self._levels[name] = series, value

    def _count(self, name: str, total: int, **more: str) -> None:
        key = name, "".join(more.values())
        if key not in self._series:
            self._series[key] = self._counters[name].labels(**self._labels, **more), 0
        series, before = self._series[key]
        if total != before:
            self._series[key] = series, total
            series.inc(max(0, total - before))
